"""The cases: which of them count, and what came out of one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx

from surgery.graph.evaluate import EvaluationError, Evaluator


@dataclass(frozen=True)
class Case:
    """A case of the suite: model, values in, values expected, tolerances of the suite."""

    name: str
    model: onnx.ModelProto
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float

    def feeds(self, number: int) -> dict[str, Any]:
        """Values of the graph's inputs; the suite leaves out optional inputs' values in order."""
        return {
            v.name: np.asarray(x) for v, x in zip(self.model.graph.input, self.data[number][0], strict=False)
        }

    def expected(self, number: int) -> dict[str, Any]:
        """Values of the graph's outputs."""
        return {
            v.name: np.asarray(x) for v, x in zip(self.model.graph.output, self.data[number][1], strict=True)
        }


@cache
def suite() -> dict[str, Case]:
    """All cases by name; values are the suite's own."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        np.random.seed(0)
        found = collect_testcases(None)
        np.random.set_state(state)
    return {
        c.name: Case(c.name, c.model, tuple((list(i), list(o)) for i, o in c.data_sets), c.rtol, c.atol)
        for c in found
    }


def numeric(case: Case) -> bool:
    """Whether all inputs and outputs are tensors of numbers or booleans."""
    values = [*case.model.graph.input, *case.model.graph.output]
    return all(
        v.type.WhichOneof("value") == "tensor_type"
        and v.type.tensor_type.elem_type != onnx.TensorProto.STRING
        for v in values
    )


def same(case: Case, expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """None if outputs agree at the suite's tolerances, with dtypes and shapes; else what differs."""
    for name, want in expected.items():
        if name not in found:
            return f"{name} is missing"
        got = np.asarray(found[name])
        if got.dtype != want.dtype or got.shape != want.shape:
            return f"{name} is {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
        try:
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol, equal_nan=True)
        except AssertionError as error:
            return f"{name}: " + " ".join(str(error).split())[:160]
    return None


def onnxruntime_runs(case: Case) -> bool:
    """Whether ONNX Runtime's CPU provider gives what the suite expects."""
    try:
        session = Evaluator(case.model, optimize=True, threads=1)
        return all(
            same(case, case.expected(k), session.run(case.feeds(k))) is None for k in range(len(case.data))
        )
    except (EvaluationError, ValueError, TypeError):
        return False


@cache
def counted() -> dict[str, Case]:
    """Cases with numeric tensors at the boundary that ONNX Runtime runs correctly."""
    return {n: c for n, c in suite().items() if numeric(c) and onnxruntime_runs(c)}
