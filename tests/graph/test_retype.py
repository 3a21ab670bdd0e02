"""Dtypes carried in others keep their values; what cannot be carried is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import evaluate_somehow
from surgery.graph.infer import infer_types
from surgery.graph.retype import BITS, CARRIERS, CannotRetype, Retyped, retype, written_out_first

Arrays = dict[str, np.ndarray[Any, Any]]
WHOLE = ["int8", "uint8", "int16", "uint16", "uint32"]


def everything(node: Any) -> bool:
    return True


def model_of(text: str, opset: int = 18) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')


def carried(
    model: onnx.ModelProto, refused: Callable[[Any], bool] = everything
) -> tuple[onnx.ModelProto, Retyped]:
    graph, header = import_graph(model)
    infer_types(graph)
    done = retype(graph, refused)
    return export_graph(graph, header), done


def dtypes_in(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info]
    kinds = {v.type.tensor_type.elem_type for v in values} | {t.data_type for t in inferred.graph.initializer}
    return {np.dtype(onnx.helper.tensor_dtype_to_np_dtype(k)).name for k in kinds}


def check(text: str, feeds: Arrays, opset: int = 18) -> tuple[onnx.ModelProto, Retyped]:
    """Carry everything; no such dtype is left, and the outputs cast back are the ones there were."""
    before = model_of(text, opset)
    after, done = carried(before)
    assert done.nodes
    assert not dtypes_in(after) & set(CARRIERS)
    changed = {n: feeds[n].astype(new) for n, (_, new) in done.inputs.items()}
    want, got = evaluate_somehow(before, feeds), evaluate_somehow(after, feeds | changed)
    for name, value in want.items():
        if name in done.outputs:
            old, new = done.outputs[name]
            assert (value.dtype.name, got[name].dtype.name) == (old, new)
            back = got[name].astype(old)
            assert value.dtype.kind == "f" or np.array_equal(back.astype(new), got[name]), "left the range"
        else:
            back = got[name]
        if value.dtype.kind == "f":
            np.testing.assert_allclose(back, value, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(back, value)
    return after, done


# -- values are kept ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data(), kind=st.sampled_from(WHOLE), op=st.sampled_from(["Add", "Sub", "Mul"]))
def test_arithmetic_stays_in_the_range_of_the_dtype(data: st.DataObject, kind: str, op: str) -> None:
    info = np.iinfo(kind)
    # ONNX's reference computes it; 32 bits times 32 bits would leave int64's range on the way.
    most = min(int(info.max), 2**31 - 1)
    values = arrays(kind, 4, elements=st.integers(int(info.min), most))
    check(
        f"({kind}[4] a, {kind}[4] c) => ({kind}[4] y) {{ s = {op} (a, c) y = Identity (s) }}",
        {"a": data.draw(values), "c": data.draw(values)},
    )


@settings(max_examples=15, deadline=None)
@given(data=st.data(), kind=st.sampled_from(WHOLE))
def test_moving_and_comparing_changes_nothing(data: st.DataObject, kind: str) -> None:
    info = np.iinfo(kind)
    values = arrays(kind, (2, 3), elements=st.integers(int(info.min), int(info.max)))
    after, done = check(
        f"({kind}[2, 3] a, {kind}[2, 3] c) => ({kind}[3, 2] y, bool[2, 3] e, int64[2, 3] w)"
        " { y = Transpose <perm = [1, 0]> (a) e = Equal (a, c) w = Cast <to = 7> (a) }",
        {"a": data.draw(values), "c": data.draw(values)},
    )
    assert done.inputs == dict.fromkeys("ac", (kind, CARRIERS[kind]))
    assert done.outputs == {"y": (kind, CARRIERS[kind])}
    assert {n.op_type for n in after.graph.node} <= {"Transpose", "Equal", "Cast", "Mod", "Add", "Sub"}


@settings(max_examples=15, deadline=None)
@given(x=arrays("int32", 5, elements=st.integers(-(2**31), 2**31 - 1)), kind=st.sampled_from(WHOLE[:4]))
def test_a_cast_to_fewer_bits_keeps_the_low_ones(x: Any, kind: str) -> None:
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    after, done = carried(
        model_of(f"(int32[5] x) => (int32[5] y) {{ n = Cast <to = {number}> (x) y = Cast <to = 6> (n) }}")
    )
    assert (done.inputs, done.outputs) == ({}, {})
    got = evaluate_somehow(after, {"x": x})["y"]
    np.testing.assert_array_equal(got, x.astype(kind).astype(np.int32))


def test_unsigned_64_bits_below_half_the_range() -> None:
    check(
        "(uint64[3] x) => (uint64[3] y) { y = Identity (x) }", {"x": np.array([0, 7, 2**63 - 1], np.uint64)}
    )


def test_double_becomes_float() -> None:
    feeds = {"x": np.linspace(-3, 3, 6).reshape(2, 3)}
    after, done = check(
        "(double[2, 3] x) => (double[2, 3] y) <double[3] w = {0.5, 1.0, -2.0}> { m = Mul (x, w) y = Tanh (m) }",
        feeds,
    )
    assert done.inputs == {"x": ("float64", "float32")}
    assert [t.data_type for t in after.graph.initializer] == [onnx.TensorProto.FLOAT]


def test_a_mask_of_the_least_double_stays_finite() -> None:
    """Where all of a row is masked, its softmax is the same everywhere, not NaN."""
    least = float(np.finfo(np.float64).min)
    check(
        f"(double[2, 3] x, bool[2, 3] m) => (double[2, 3] y) <double least = {{{least!r}}}>"
        " { s = Where (m, x, least) y = Softmax (s) }",
        {"x": np.linspace(-3, 3, 6).reshape(2, 3), "m": np.array([[True, False, True], [False] * 3])},
    )


def test_attributes_that_name_a_dtype_follow() -> None:
    after, _ = check(
        "(int64[2] s, int8[n, n] m) => (int8[p, q] y, int8[n, n] e)"
        " { y = ConstantOfShape <value = int8[1] {-3}> (s) e = EyeLike <dtype = 3> (m) }",
        {"s": np.array([2, 3]), "m": np.zeros((3, 3), np.int8)},
    )
    assert dtypes_in(after) == {"int64", "int32"}


def test_an_operator_without_the_carrier_computes_in_float() -> None:
    feeds = {"x": np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)}
    after, _ = check(
        "(uint8[1, 1, 4, 4] x) => (uint8[1, 1, 2, 2] y)"
        " { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }",
        feeds,
    )
    assert [n.op_type for n in after.graph.node] == ["Cast", "MaxPool", "Cast"]


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_are_carried_with_what_they_capture(condition: bool) -> None:
    after, done = check(
        "(bool c, int8[3] x) => (int8[3] y) {"
        " y = If (c) <then_branch = t () => (int8[3] a) { a = Identity (x) },"
        " else_branch = e () => (int8[3] d) { d = Neg (x) }> }",
        {"c": np.array(condition), "x": np.array([-128, 5, 127], np.int8)},
    )
    assert done.inputs == {"x": ("int8", "int32")}
    (node,) = after.graph.node
    kinds = {v.type.tensor_type.elem_type for a in node.attribute for v in (*a.g.output, *a.g.value_info)}
    assert kinds == {onnx.TensorProto.INT32}


def test_symbolic_dims_stay() -> None:
    after, _ = carried(model_of("(uint8[n, 3] x) => (uint8[n, 3] y) { y = Add (x, x) }"))
    assert [d.dim_param or d.dim_value for d in after.graph.output[0].type.tensor_type.shape.dim] == ["n", 3]


# -- what changes and what does not -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(BITS) & set(WHOLE) | {"float64", "uint64"}))
def test_a_second_time_there_is_nothing_to_do(kind: str) -> None:
    name = {"float64": "double"}.get(kind, kind)
    once, done = carried(model_of(f"({name}[4] a) => ({name}[4] y) {{ s = Transpose (a) y = Identity (s) }}"))
    assert done.nodes
    again, nothing = carried(once)
    assert (nothing.nodes, nothing.inputs, nothing.outputs, nothing.made) == ([], {}, {}, [])
    assert again == once


def test_what_the_target_takes_stays() -> None:
    text = "(int8[4] a, uint8[4] c) => (int8[4] y, uint8[4] z) { y = Identity (a) z = Abs (c) }"
    before = model_of(text)
    after, done = carried(before, lambda node: False)
    assert (done.nodes, after.graph.node) == ([], before.graph.node)
    after, done = carried(before, lambda node: node.op == "Abs")
    assert (done.inputs, done.outputs) == ({"c": ("uint8", "int32")}, {"z": ("uint8", "int32")})
    assert dtypes_in(after) == {"int8", "int32"}


def test_what_is_connected_changes_together() -> None:
    text = "(int8[4] a) => (bool[4] y) { s = Neg (a) t = Identity (s) y = Equal (t, a) }"
    after, done = carried(model_of(text), lambda node: node.op == "Equal")
    assert len(done.nodes) == 3
    assert dtypes_in(after) == {"int32", "bool"}


def test_a_shared_constant_connects_nothing() -> None:
    text = "(int8[2] a, int8[2] c) => (int8[2] y, int8[2] z) <int8[2] k = {1, 2}> { y = Add (a, k) z = Max (c, k) }"
    after, done = carried(model_of(text), lambda node: node.op == "Add")
    assert set(done.inputs) == {"a"}
    assert {t.data_type for t in after.graph.initializer} == {onnx.TensorProto.INT8, onnx.TensorProto.INT32}


def test_names_do_not_depend_on_the_run() -> None:
    model = model_of("(int8[4] a, int8[4] c) => (int8[4] y) { y = Mul (a, c) }")
    assert carried(model)[0] == carried(model)[0]


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(uint64[1] x) => (uint64[1] y) <uint64[1] k = {9223372036854775808}> { y = Max (x, k) }", "'k'"),
        ("(uint8[2] x) => (float[2] y) <float s = {0.5}> { y = DequantizeLinear (x, s) }", "on purpose"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(CannotRetype, match=message):
        carried(model_of(text))


def test_foreign_operators_are_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18, "my.own" : 1]> g (int8[2] x) => (int8[2] y)'
        " { h = Neg (x) y = my.own.Thing (h) }"
    )
    with pytest.raises(CannotRetype, match=r"my\.own\.Thing"):
        carried(model)


def test_operators_on_the_dtype_itself_are_asked_for_first() -> None:
    text = (
        "(float[4] x) => (int8[4] y, int8[4] z) <float s = {0.5}, int8 k = {0}>"
        " { q = QuantizeLinear (x, s, k) y = Neg (q) z = QuantizeLinear (x, s, k) }"
    )
    graph, _ = import_graph(model_of(text))
    infer_types(graph)
    found = written_out_first(graph, lambda node: node.op == "Neg")
    assert [n.outputs[0].name for n in found] == ["q"]
    assert written_out_first(graph, lambda node: False) == []
