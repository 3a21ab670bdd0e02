from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.errors import ModelError
from surgery.graph.evaluate import Evaluator
from surgery.graph.functions import inline_functions

X = np.array([-1.0, 2.0], np.float32)
LEAKY = "F <%s> (x) => (y) { y = LeakyRelu <alpha: float = @al> (x) }"


def model(calls: str, *functions: str, opset: int = 21, shape: str = "2") -> onnx.ModelProto:
    head = f'<ir_version: 9, opset_import: ["" : {opset}, "d" : 1]>'
    text = f"{head} g (float[{shape}] x) => (float[2] y) {{ {calls} }} " + " ".join(functions)
    return parser.parse_model(text)


def function(body: str, *, opset: int = 21, extra: str = "", domain: str = "d") -> str:
    return f'<domain: "{domain}", opset_import: ["" : {opset}, "d" : 1]{extra}> {body}'


def run(given: onnx.ModelProto, x: Any = X) -> Any:
    before = given.SerializeToString(deterministic=True)
    inlined = inline_functions(given)
    assert given.SerializeToString(deterministic=True) == before
    assert not inlined.functions
    onnx.checker.check_model(inlined)
    assert inline_functions(given) == inlined
    return Evaluator(inlined, threads=1).run({"x": x})["y"]


@pytest.mark.parametrize(
    ("call", "attribute", "slope"),
    [
        ("y = d.F <al = 2.0> (x)", "al", 2.0),
        ("y = d.F <al = 2.0> (x)", "al: float = 0.5", 2.0),
        ("y = d.F (x)", "al: float = 0.5", 0.5),
    ],
)
def test_attributes_are_bound_or_take_their_default(call: str, attribute: str, slope: float) -> None:
    assert run(model(call, function(LEAKY % attribute)))[0] == -slope


@pytest.mark.parametrize(
    ("call", "outer", "inner", "slope"),
    [
        ("y = d.G <b = 3.0> (x)", "G <b> (x) => (y) { y = d.F <al: float = @b> (x) }", "al", 3.0),
        (
            "y = d.G (x)",
            "G <b: float = 7.0> (x) => (y) { y = d.F <al: float = @b> (x) }",
            "al: float = 0.5",
            7.0,
        ),
        ("y = d.G (x)", "G (x) => (y) { y = d.F (x) }", "al: float = 0.5", 0.5),
    ],
)
def test_nested_calls_hand_attributes_on(call: str, outer: str, inner: str, slope: float) -> None:
    assert run(model(call, function(outer), function(LEAKY % inner)))[0] == -slope


def test_a_required_attribute_is_missed() -> None:
    with pytest.raises(ModelError, match="lacks the attribute 'al'"):
        inline_functions(model("y = d.F (x)", function(LEAKY % "al")))


def test_overloads_are_told_apart() -> None:
    given = model(
        "a = d.F:v1 (x) y = d.F:v2 (a)",
        function("F (x) => (y) { y = Neg (x) }", extra=', overload: "v1"'),
        function("F (x) => (y) { y = Exp (x) }", extra=', overload: "v2"'),
    )
    np.testing.assert_allclose(run(given), np.exp(-X), rtol=1e-6)


def test_a_name_that_an_overload_would_take_is_avoided() -> None:
    given = model(
        "a = d.F:v1 (x) y = d.F__v1 (a)",
        function("F (x) => (y) { y = Neg (x) }", extra=', overload: "v1"'),
        function("F__v1 (x) => (y) { y = Exp (x) }"),
    )
    np.testing.assert_allclose(run(given), np.exp(-X), rtol=1e-6)


def test_an_older_function_is_brought_to_the_models_opset() -> None:
    given = model(
        "y = d.F (x)", function("F (x) => (y) { y = Squeeze <axes = [0]> (x) }", opset=11), shape="1, 2"
    )
    assert run(given, X[None]).tolist() == X.tolist()


def test_a_newer_function_is_brought_to_the_models_opset() -> None:
    body = "F (x) => (y) { a = Constant <value_ints = [0]> () y = Squeeze (x, a) }"
    given = model("y = d.F (x)", function(body, opset=13), opset=11, shape="1, 2")
    assert run(given, X[None]).tolist() == X.tolist()


def test_trailing_inputs_and_outputs_may_be_left_out() -> None:
    clip = function("F (x, lo, hi) => (y) { y = Clip (x, lo, hi) }")
    assert run(model("y = d.F (x)", clip)).tolist() == X.tolist()
    two = function("F (x) => (a, b) { a = Neg (x) b = Abs (x) }")
    assert run(model(", y = d.F (x)", two)).tolist() == [1.0, 2.0]
    with pytest.raises(ModelError, match="has 2 inputs"):
        inline_functions(model("y = d.F (x, x)", two))


def test_calls_in_branches_and_branches_in_functions() -> None:
    branches = (
        "c = Constant <value_int = 1> () b = Cast <to = 9> (c) "
        "y = If (b) <then_branch = t () => (float[2] o) { o = d.F (x) },"
        " else_branch = e () => (float[2] q) { q = d.F <al = 9.0> (x) }>"
    )
    assert run(model(branches, function(LEAKY % "al: float = 0.5")))[0] == -0.5
    body = (
        "F (x) => (y) { c = Constant <value_int = 1> () b = Cast <to = 9> (c) z = Neg (x) "
        "y = If (b) <then_branch = t () => (o) { o = Add (x, z) }, else_branch = e () => (q) { q = Neg (z) }> }"
    )
    assert run(model("a = d.F (x) s = Sub (x, a) y = d.F (s)", function(body))).tolist() == [0.0, 0.0]


def test_a_circle_is_reported() -> None:
    with pytest.raises(ModelError, match="calls itself"):
        inline_functions(model("y = d.F (x)", function("F (x) => (y) { y = d.F (x) }")))


def test_what_a_function_imports_the_model_imports() -> None:
    body = '<domain: "d", opset_import: ["" : 21, "com.microsoft" : 1]> F (x) => (y) { y = com.microsoft.Gelu (x) }'
    assert run(model("y = d.F (x)", body))[1] == pytest.approx(1.9545, abs=1e-3)


def test_functions_of_plugins_stay() -> None:
    plugin = function("P (a) => (b) { b = Neg (a) }", domain="trt.plugins")
    given = model("z = d.F (x) y = trt.plugins.P (z)", function(LEAKY % "al: float = 0.5"), plugin)
    given.opset_import.add(domain="trt.plugins", version=1)
    inlined = inline_functions(given)
    assert [f.name for f in inlined.functions] == ["P"]
    assert [n.op_type for n in inlined.graph.node] == ["LeakyRelu", "P"]


def test_a_model_without_functions_is_only_copied() -> None:
    given = model("y = Neg (x)")
    assert inline_functions(given) == given
