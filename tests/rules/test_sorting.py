"""Sorts of more entries than TensorRT sorts at once give what ONNX Runtime gives, equal entries in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.graph.bounded.limits import at_most, sorts_more
from surgery.graph.bounded.work import Bounds
from surgery.graph.convert import import_graph
from surgery.graph.evaluate import Evaluator
from surgery.rules import shipped_rules
from surgery.rules.engine.run import Engine
from surgery.rules.sorting import TOPK_LIMIT

Arrays = dict[str, np.ndarray[Any, Any]]


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after the rules, for a target that refuses nothing but TopK."""
    from surgery.graph.convert import export_graph

    graph, header = import_graph(model)
    engine = Engine(shipped_rules(), lambda site, node: site.op != "TopK", target="tensorrt-rtx-1.7")
    provenance: dict[str, dict[str, str]] = {}
    outcome = engine.run(graph, provenance)
    assert [e.rule for e in outcome.edits if e.rule == "topk-beyond-the-limit"], outcome.misses
    made = export_graph(graph, header, provenance=provenance)
    for node in made.graph.node:
        assert node.op_type != "TopK" or node.input[1] not in {i.name for i in model.graph.input}
    return made


def compare(before: onnx.ModelProto, after: onnx.ModelProto, x: np.ndarray[Any, Any]) -> None:
    want, got = (Evaluator(m, threads=1).run({"x": x}) for m in (before, after))
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("size", [3841, 7680, 8400, 11523])
def test_equal_entries_stay_in_order(size: int, largest: int) -> None:
    model = parse(f"""(float[2, {size}] x) => (float[2, {size}] v, int64[2, {size}] i)
        {{ k = Shape <start = 1> (x) v, i = TopK <largest = {largest}> (x, k) }}""")
    rng = np.random.default_rng(size)
    after = rewritten(
        onnx.shape_inference.infer_shapes(
            parse(f"""
        (float[2, {size}] x) => (float[2, {size}] v, int64[2, {size}] i)
        {{ k = Constant <value_ints = [{size}]> () v, i = TopK <largest = {largest}> (x, k) }}""")
        )
    )
    for values in (
        rng.integers(0, 50, (2, size)),
        np.zeros((2, size)),
        rng.permutation(2 * size).reshape(2, size),
    ):
        x = values.astype(np.float32)
        x[0, ::7] = -np.inf
        x[1, 5::11] = np.inf
        compare(model, after, x)


@pytest.mark.parametrize("largest", [0, 1])
def test_any_number_of_entries(largest: int) -> None:
    model = parse(f"""(float[n, b] x) => (float[k, b] v, int64[k, b] i) <int64[1] most = {{5000}}>
        {{ k = Shape <end = 1> (x) m = Min (k, most) v, i = TopK <axis = 0, largest = {largest}> (x, m) }}""")
    after = rewritten(model)
    rng = np.random.default_rng(0)
    for count in (1, 2, 3839, 3840, 3841, 9000):
        x = rng.integers(0, 30, (count, 2)).astype(np.float32)
        x[:, 0] -= np.inf if count % 2 else 0.0
        compare(model, after, x)


def test_a_number_that_is_small_whatever_the_sizes_are() -> None:
    graph, _ = import_graph(
        parse("""(float[n] x, float[9] y) => (a1, b1, c1, d1, e1, f1) <int64[1] few = {1000},
        int64[1] many = {5000}, int64 first = {0}> {
        k = Shape (x) a = Min (k, few) a1, a2 = TopK (x, a)
        b = Min (k, many) b1, b2 = TopK (x, b)
        two = Concat <axis = 0> (k, few) c0 = ReduceMin <axes = [0], keepdims = 1> (two) c1, c2 = TopK (x, c0)
        less = Less (k, few) d = Where (less, k, few) d1, d2 = TopK (x, d)
        e1, e2 = TopK (x, k)
        n = Shape (y) f1, f2 = TopK (y, n) }""")
    )
    assert [n.outputs[0].name for n in sorts_more(graph, TOPK_LIMIT)] == ["b1", "e1"]
    tensors = graph.tensors()
    found = {name: at_most(Bounds({}), tensors[name]) for name in ("a", "b", "c0", "d", "k", "few")}
    assert found == {"a": 1000, "b": 5000, "c0": 1000, "d": 1000, "k": None, "few": 1000}


@pytest.mark.slow
def test_a_free_number_is_built_for_more_than_the_limit() -> None:
    model = parse("(float[n] x) => (float[n] v, int64[n] i) { k = Shape (x) v, i = TopK (x, k) }")
    report = surgery.run("generic", model, shapes={"x": ((1,), (5000,), (9000,))})
    if not report.target["installed"]:
        pytest.skip("no TensorRT is installed")
    assert report.exit_code == 0, report.failure
    assert "topk-beyond-the-limit" in {e.rule for e in report.edits}
