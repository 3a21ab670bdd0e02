"""Inference does not end the process."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from surgery.graph.typed import infer_shapes

LOOKUP = (
    "y = ai.onnx.ml.LabelEncoder <keys_int64s = [1, 2], values_floats = [0.5, 1.5], default_float = 0.0> (m)"
)


def model(first: str) -> onnx.ModelProto:
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "own" : 1]> g (int64[n] x) => (float[p] z)
        {{ {first} {LOOKUP} z = Neg (y) }}"""
    )


@pytest.mark.parametrize("prop", [False, True])
def test_a_table_behind_an_operator_that_nobody_knows(prop: bool) -> None:
    given = model("m = own.Foo (x)")
    before = given.SerializeToString()
    found = infer_shapes(given, data_prop=prop)
    assert given.SerializeToString() == before
    assert [n.domain for n in found.graph.node] == ["own", "ai.onnx.ml", ""]
    assert {o.domain for o in found.opset_import} == {"", "ai.onnx.ml", "own"}


def test_a_table_in_a_body() -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "own" : 1]> g (int64[n] x, bool c)
        => (float[p] z) {{ m = own.Foo (x) z = If (c) <then_branch = t () => (float[p] y) {{ {LOOKUP} }},
        else_branch = e () => (float[p] q) {{ q = own.Bar (m) }}> }}"""
    infer_shapes(parser.parse_model(text))


def test_types_that_are_known_go_on() -> None:
    found = infer_shapes(model("m = Identity (x)"))
    (value,) = [v for v in found.graph.value_info if v.name == "y"]
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    two = model("k = ai.onnx.ml.LabelEncoder <keys_int64s = [1], values_int64s = [2]> (x) m = Identity (k)")
    found = infer_shapes(two)
    assert "y" in {v.name for v in found.graph.value_info}
