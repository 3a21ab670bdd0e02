"""Pad and Concat by amounts that depend on data: the numbers of ONNX Runtime at every count, zero too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.pads import added, completed
from surgery.graph.bounded.work import Bounds
from surgery.graph.convert import constant
from surgery.graph.evaluate import Evaluator
from surgery.verify.inverse import apply_inverses, apply_to_inputs

PREPARE = "tensorrt-rtx-1.6"


def check(text: str, opset: int = 18) -> list[onnx.NodeProto]:
    """Compare with the original where all, some and none are chosen; the nodes of the result."""
    original = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    report = surgery.run("generic", original, target=PREPARE)
    assert report.failure is None, report.failure
    assert report.model is not None
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    rng = np.random.default_rng(0)
    result, want = Evaluator(report.model, threads=1), Evaluator(original, threads=1)
    for count in (7, 3, 1, 0):
        feeds: dict[str, Any] = {"x": rng.integers(1, 50, (7, 2)).astype(np.float32), "c": np.zeros(7, bool)}
        feeds["c"][rng.permutation(7)[:count]] = True
        back = apply_inverses(result.run(apply_to_inputs(feeds, inverses)), inverses)
        for name, value in want.run(feeds).items():
            np.testing.assert_array_equal(back[name], value)
    return list(report.model.graph.node)


HEAD = "(float[7, 2] x, bool[7] c) => (float[p, q] y)"
START = "some = Compress <axis = 0> (x, c) shape = Shape (some) n = Gather (shape, zero)"
NUMBERS = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] ten = {10}"


@pytest.mark.parametrize(
    "pads",
    [
        "left = Sub (ten, n) pads = Concat <axis = 0> (zero, zero, left, zero)",
        "left = Sub (ten, n) pads = Concat <axis = 0> (left, zero, zero, zero)",
        "left = Sub (ten, n) pads = Concat <axis = 0> (zero, one, left, one)",
        "pads = Concat <axis = 0> (one, zero, n, one)",
        "pads = Concat <axis = 0> (one, n, one, zero)",
        "pads = Concat <axis = 0> (ten, zero, one, zero)",
    ],
)
@pytest.mark.parametrize("fill", ["", ", fill"])
def test_pad(pads: str, fill: str) -> None:
    check(
        f"{HEAD} <{NUMBERS}, float fill = {{-3.5}}> {{ {START} {pads} y = Pad (some, pads{fill}) }}",
    )


def test_pad_with_edges() -> None:
    text = f"{HEAD} <{NUMBERS}> {{ {START} p = Concat <axis = 0> (one, n, zero, one) "
    check(text + 'y = Pad <mode = "edge"> (x, p) }')


def test_rows_that_fill_up_to_a_number_are_no_longer_padded() -> None:
    text = f"""{HEAD} <{NUMBERS}, int64[1] two = {{2}}> {{ {START} left = Sub (ten, n)
        dims = Concat <axis = 0> (left, two) zeros = ConstantOfShape (dims) y = Concat <axis = 0> (some, zeros) }}"""
    nodes = check(text)
    assert not any("count" in o for n in nodes for o in n.output), "the output is told to be of a free size"


def test_a_whole_is_what_is_there_and_what_is_missing() -> None:
    bounds = Bounds({})
    n = bounds.atom("n", constant("n", np.asarray(3)), 0, Dim(7))
    left = bounds.atom("sub(10,n)", constant("left", np.asarray(7)), 0, Dim(10))
    six = Dim(6)
    assert completed(bounds, n, left) == Dim(10)
    assert completed(bounds, left * six, n * six) == Dim(60)
    assert completed(bounds, n, left * six) is None
    assert completed(bounds, n, n) is None
    assert completed(bounds, Dim(2), Dim(3)) == Dim(5)
    assert added(bounds, n, Dim(0)) == n
    assert bounds.room(added(bounds, n, n)) == Dim(14)
