"""Assignments to what a mask chooses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.graph.by_mask import assign_by_mask
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.tidy import drop_dead

CHOSEN = "p = NonZero(m) i = Transpose<perm = [1, 0]>(p)"
COUNT = "c = Cast<to = 7>(m) all = Constant<value_ints = [-1]>() f = Reshape(c, all) k = ReduceSum(f)"


def assign(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    graph, header = import_graph(model)
    fold_constants(graph)
    count = len(assign_by_mask(graph, {}))
    fold_constants(graph)
    drop_dead(graph)
    return model, export_graph(graph, header), count


def check(text: str) -> list[str]:
    """Replace one assignment, compare at three sizes; the operators that are left."""
    model, after, count = assign(text)
    assert count == 1
    onnx.checker.check_model(after)
    ops = [n.op_type for n in after.graph.node]
    assert not {"NonZero", "ScatterND"} & set(ops)
    for seed, size in enumerate((1, 2, 5)):
        rng = np.random.default_rng(seed)
        feeds = {}
        for value in model.graph.input:
            shape = [d.dim_value or size for d in value.type.tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype) if dtype.kind in "biu" else (
                rng.normal(size=shape).astype(dtype)
            )  # fmt: skip
        expected, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
        assert got["y"].dtype == expected["y"].dtype
        np.testing.assert_array_equal(got["y"], expected["y"])
    return ops


@pytest.mark.parametrize("kind", ["float", "double", "int64", "bool"])
def test_one_value_for_all_that_a_mask_chooses(kind: str) -> None:
    ops = check(
        f"({kind}[n, 3] x, bool[n, 3] m, {kind} v) => ({kind}[n, 3] y)"
        f" {{ {CHOSEN} {COUNT} u = Expand(v, k) y = ScatterND(x, i, u) }}"
    )
    assert ops == (["And", "Not", "And", "Or"] if kind == "bool" else ["Where"])


def test_a_constant_value_and_a_mask_of_numbers() -> None:
    check(
        "(float[n, 3] x, int64[n, 3] m) => (float[n, 3] y)"
        f" {{ {CHOSEN} {COUNT} u = ConstantOfShape<value = float[1] {{2.5}}>(k) y = ScatterND(x, i, u) }}"
    )


def test_a_mask_of_whole_rows() -> None:
    check(
        "(float[n, 3, 4] x, bool[n] m, float[1, 1] v) => (float[n, 3, 4] y) {"
        f" {CHOSEN} {COUNT} rest = Constant<value_ints = [3, 4]>() s = Concat<axis = 0>(k, rest)"
        " u = Expand(v, s) y = ScatterND(x, i, u) }"
    )


def test_a_mask_expanded_to_the_shape_of_the_data() -> None:
    check(
        "(float[n, k, 4] x, bool[n, 1, 1] q) => (float[n, k, 4] y) {"
        f" s = Shape(x) m = Expand(q, s) {CHOSEN} one = Constant<value_float = 1.0>() {COUNT}"
        " u = Expand(one, k) y = ScatterND(x, i, u) }"
    )


def test_entries_from_the_same_places_with_arithmetic_on_each() -> None:
    ops = check(
        "(float[n, 3] x, float[n, 3] z, bool[n, 3] m, float v) => (float[n, 3] y) {"
        f" {CHOSEN} g = GatherND(z, i) h = GatherND(x, i) a = Mul(g, v) b = Add(a, h) e = Tanh(b)"
        " y = ScatterND(x, i, e) }"
    )
    assert ops == ["Mul", "Add", "Tanh", "Where"]


@pytest.mark.parametrize(
    "text",
    [
        # another mask
        "(float[n, 3] x, bool[n, 3] m, bool[n, 3] o) => (float[n, 3] y) {"
        f" {CHOSEN} q = NonZero(o) j = Transpose<perm = [1, 0]>(q) g = GatherND(x, j) y = ScatterND(x, i, g) }}",
        # one value after another
        f"(float[n, 3] x, bool[n, 3] m, float[k] u) => (float[n, 3] y) {{ {CHOSEN} y = ScatterND(x, i, u) }}",
        # a mask of other sizes
        f"(float[n, 3] x, bool[k, 3] m, float v) => (float[n, 3] y)"
        f" {{ {CHOSEN} {COUNT.replace('k =', 'w =')} u = Expand(v, w) y = ScatterND(x, i, u) }}",
        # what is added to, not replaced
        "(float[n, 3] x, bool[n, 3] m, float v) => (float[n, 3] y)"
        f" {{ {CHOSEN} {COUNT} u = Expand(v, k) y = ScatterND<reduction = \"add\">(x, i, u) }}",
        # arithmetic between entries
        "(float[n, 3] x, bool[n, 3] m) => (float[n, 3] y)"
        f" {{ {CHOSEN} z = Constant<value_int = 0>() g = GatherND(x, i) e = CumSum(g, z) y = ScatterND(x, i, e) }}",
    ],
)  # fmt: skip
def test_what_is_something_else_stays(text: str) -> None:
    _, after, count = assign(text)
    assert count == 0
    assert "ScatterND" in [n.op_type for n in after.graph.node]
