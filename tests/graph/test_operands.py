"""Operands drawn for a node make it run, and give it the result it is declared to have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.graph.evaluate import evaluate_somehow
from surgery.graph.operands import RULES, Call, draw_operands
from surgery.rules.engine.site import python_value

CASES = [
    "(float[5, 6] x, int64[2] s, int64[2] e) => (float[2, 6] y) { y = Slice (x, s, e) }",
    "(float[5, 6, 7] x, int64[2] s, int64[2] e, int64[2] a) => (float[5, 2, 3] y) { y = Slice (x, s, e, a) }",
    "(float[5, 6] x, int64[2] s, int64[2] e, int64[2] a, int64[2] t) => (float[2, 3] y)"
    " { y = Slice (x, s, e, a, t) }",
    "(float[5, 6] x, int64[1] s, int64[1] e, int64[1] a) => (float[5, 0] y) { y = Slice (x, s, e, a) }",
    "(float[3, 4] x, int64[4] p) => (float[5, 4] y) { y = Pad (x, p) }",
    "(float[3, 4] x, int64[2] p, float v, int64[1] a) => (float[3, 9] y) { y = Pad (x, p, v, a) }",
    "(float[3, 1, 2, 1] x, int64[1] a) => (float[3, 1, 2] y) { y = Squeeze (x, a) }",
    "(float[3, 2] x, int64[2] a) => (float[1, 3, 1, 2] y) { y = Unsqueeze (x, a) }",
    "(float[3, 4, 5] x, int64[2] a) => (float[4] y) { y = ReduceSum <keepdims = 0> (x, a) }",
    "(float[3, 4, 5] x, int64[1] a) => (float[3, 1, 5] y) { y = ReduceMax (x, a) }",
    "(float[1, 2, 4, 5] x, int64[4] s) => (float[1, 2, 8, 3] y) { y = Resize (x, , , s) }",
    "(float[1, 2, 4, 5] x, float[4] s) => (float[1, 2, 7, 3] y) { y = Resize (x, , s) }",
    "(int64 s, int64 l, int64 d) => (int64[5] y) { y = Range (s, l, d) }",
    "(float s, float l, float d) => (float[4] y) { y = Range (s, l, d) }",
    "(float[9, 4] x, int64[2] s) => (float[6, 7] y) { y = CenterCropPad (x, s) }",
    "(float[6, 2] x, int64[3] s) => (float[1, 2] a, float[3, 2] c, float[2, 2] d) { a, c, d = Split (x, s) }",
    "(float[3, 4] x, int64 a) => (float[3, 4] y) { y = CumSum (x, a) }",
    "(float[2, 3] x, int64[2] r) => (float[4, 9] y) { y = Tile (x, r) }",
    "(float[4, 6] x, int64[3] s) => (float[2, 3, 4] y) { y = Reshape (x, s) }",
    "(float[3, 1] x, int64[3] s) => (float[2, 3, 4] y) { y = Expand (x, s) }",
    "(int64[2] s) => (float[2, 5] y) { y = ConstantOfShape (s) }",
    "(float[3, 9] x, int64[1] k) => (float[3, 4] v, int64[3, 4] i) { v, i = TopK (x, k) }",
    "(int64[3] i, int64 d, float[2] v) => (float[5, 3] y) { y = OneHot <axis = 0> (i, d, v) }",
    "(float[3, 4] x, int64 k) => (float[3, 4] y) { y = Trilu (x, k) }",
    "(float[4, 3, 2] x, int64[3] s) => (float[4, 3, 2] y) { y = ReverseSequence (x, s) }",
    "(float[1, 8, 9] x, int64[2] i) => (float[1, 2, 4, 4] y) <int64[2] k = {2, 2}> { y = Col2Im (x, i, k) }",
    "(float[4, 3] x, int64[5, 2] i, float[5] u) => (float[4, 3] y) { y = ScatterND (x, i, u) }",
    "(float[4, 3] x, int64[2, 3] i, float[2, 3] u) => (float[4, 3] y) { y = ScatterElements (x, i, u) }",
    "(int64 n, int64 l, int64 r, float a, float c) => (float[9, 6] y) { y = MelWeightMatrix (n, l, r, a, c) }",
    "(float[1, 2, 2, 2] x, int64[1, 2, 2, 2] i, int64[4] s) => (float[1, 2, 4, 5] y)"
    " { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, s) }",
    "(float[5, 2, 3] x, float[1, 4, 3] w, float[1, 4, 4] r, int32[2] n) => (float[5, 1, 2, 4] y)"
    " { y = RNN <hidden_size = 4> (x, w, r, , n) }",
    "(int64 n) => (float[6] y) { y = HannWindow (n) }",
    "(float[4, 4] x, float r, bool t) => (float[4, 4] y) { y = Dropout (x, r, t) }",
]  # fmt: skip


def call_of(model: onnx.ModelProto) -> Call:
    (node,) = model.graph.node
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*model.graph.input, *model.graph.output)
    }
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return Call(
        node.op_type,
        {a.name: python_value(a) for a in node.attribute},
        [shapes.get(n, constants[n].shape if n in constants else None) for n in node.input],
        [constants.get(n) for n in node.input],
        [shapes.get(n) for n in node.output],
    )


@pytest.mark.parametrize("text", CASES, ids=lambda t: t.split(" = ")[-1][:12].strip() + f"-{CASES.index(t)}")
def test_drawn_operands_give_the_declared_result(text: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')
    call, (node,) = call_of(model), model.graph.node
    kinds = {
        v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.input
    }
    constants = {t.name for t in model.graph.initializer}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        drawn = draw_operands(call, rng)
        assert drawn
        feeds = {}
        for i, name in enumerate(node.input):
            if name and name not in constants:
                shape = call.shapes[i]
                value = drawn[i] if i in drawn else rng.integers(0, 2, shape)
                feeds[name] = np.asarray(value).astype(kinds[name]).reshape(shape)
        results = evaluate_somehow(model, feeds)
        assert [results[n].shape for n in node.output] == call.results


def test_every_operator_here_is_tried() -> None:
    tried = {t.split("{ ")[-1].split(" = ")[1].split(" ")[0] for t in CASES}
    elsewhere = {"Attention"}  # of opset 23, see the rule for it
    alike = {
        "Scatter": "ScatterElements",
        "CumProd": "CumSum",
        "GRU": "RNN",
        "LSTM": "RNN",
        "HammingWindow": "HannWindow",
    }
    alike |= {"BlackmanWindow": "HannWindow", "Upsample": "Resize", "AffineGrid": "Resize"}
    assert {alike.get(op, op) for op in RULES} <= tried | elsewhere


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_a_slice_of_any_size(data: st.DataObject, seed: int) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    out = tuple(data.draw(st.integers(0, n)) for n in shape)
    rank = len(shape)
    call = Call("Slice", {}, [shape, *[(rank,)] * 4], [None] * 5, [out])
    drawn = draw_operands(call, np.random.default_rng(seed))
    index: list[Any] = [slice(None)] * rank
    for start, end, axis, step in zip(*(drawn[i] for i in (1, 2, 3, 4)), strict=True):
        # ONNX clamps what lies before the first element; Python counts it from the end again.
        index[axis] = slice(start, None if step < 0 and end < -shape[axis] else end, step)
    assert np.zeros(shape)[tuple(index)].shape == out


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16), keep=st.booleans())
def test_axes_of_a_reduction_are_distinct_and_fit(data: st.DataObject, seed: int, keep: bool) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    out = np.zeros(shape).sum(axis=tuple(axes), keepdims=keep).shape
    call = Call("ReduceSum", {"keepdims": int(keep)}, [shape, (len(axes),)], [None, None], [out])
    drawn = draw_operands(call, np.random.default_rng(seed))
    if drawn:  # it is a search, which may give up
        assert len({a % len(shape) for a in drawn[1]}) == len(axes)
        assert np.zeros(shape).sum(axis=tuple(drawn[1]), keepdims=keep).shape == out


def test_targets_of_a_scatter_are_distinct() -> None:
    rng = np.random.default_rng(0)
    places = draw_operands(Call("ScatterND", {}, [(4, 3), (12, 2), (12,)], [None] * 3, [(4, 3)]), rng)[1]
    assert len({tuple(p) for p in places.tolist()}) == 12
    lines = np.asarray(
        draw_operands(
            Call("ScatterElements", {"axis": 1}, [(2, 5), (2, 4), (2, 4)], [None] * 3, [(2, 5)]), rng
        )[1]
    )
    assert [len(set(line)) for line in lines.tolist()] == [4, 4]
    added = Call("ScatterND", {"reduction": "add"}, [(4,), (3, 1), (3,)], [None] * 3, [(4,)])
    assert draw_operands(added, rng) == {}, "a sum has no order: any target will do"


def test_positions_of_an_unpooling_are_distinct_in_each_plane() -> None:
    call = Call("MaxUnpool", {}, [(2, 3, 2, 2), (2, 3, 2, 2)], [None, None], [(2, 3, 4, 4)])
    places = draw_operands(call, np.random.default_rng(0))[1]
    assert len(set(places.reshape(-1).tolist())) == places.size
    assert [set(p.reshape(-1) // 16) for p in places.reshape(6, -1)] == [{n} for n in range(6)]


# -- what is not drawn --------------------------------------------------------------------------------------


def test_nothing_is_drawn_for_other_operators() -> None:
    assert draw_operands(Call("Add", {}, [(2,), (2,)], [None, None], [(2,)]), np.random.default_rng(0)) == {}


def test_constants_and_operands_that_are_left_out_are_not_drawn() -> None:
    rng = np.random.default_rng(0)
    call = Call("Slice", {}, [(5,), (1,), (1,)], [None, np.array([1]), None], [(3,)])
    assert draw_operands(call, rng) == {2: [4]}
    pads = Call("Pad", {}, [(3,), (2,), None], [None, None, None], [(5,)])
    assert set(draw_operands(pads, rng)) == {1}


@pytest.mark.parametrize(
    "call",
    [
        Call("Reshape", {}, [(4,), (2,)], [None, None], [None]),
        Call("Slice", {}, [None, (1,), (1,)], [None] * 3, [(3,)]),
        Call("Squeeze", {}, [(2, 3), (1,)], [None, None], [(2,)]),
        Call("ReduceSum", {"keepdims": 0}, [(2, 3), (1,)], [None, None], [(4,)]),
        Call("Tile", {}, [(2, 3), (2,)], [None, None], [(4, 3, 1)]),
        Call("TopK", {"axis": 3}, [(4,), (1,)], [None, None], [(2,)]),
    ],
    ids=lambda c: c.op,
)
def test_shapes_that_are_unknown_or_do_not_fit_draw_nothing(call: Call) -> None:
    assert draw_operands(call, np.random.default_rng(0)) == {}
