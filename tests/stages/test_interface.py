"""Inputs and outputs that no TensorRT has a type for."""

from __future__ import annotations

from typing import Any

import onnx.parser
import pytest

import surgery
from surgery.graph.infer import dims_of


@pytest.mark.parametrize(
    ("signature", "body", "code", "words"),
    [
        ("(string[n] x) => (string[n] y)", "y = StringNormalizer (x)", "input-type", "'x' holds strings"),
        ("(float[n] x) => (string[n] y)", "y = Cast <to = 8> (x)", "output-type", "'y' holds strings"),
        ("(complex64[n] x) => (complex64[n] y)", "y = Identity (x)", "input-type", "'x' is complex"),
        (
            "(seq(float[n]) x) => (float[n] y)",
            "y = ConcatFromSequence <axis = 0> (x)",
            "input-type",
            "a sequence",
        ),
    ],
)
def test_they_are_refused_before_anything_is_done(signature: str, body: str, code: str, words: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {signature} {{ {body} }}')
    report = surgery.run("generic", model, target="tensorrt-10.16")
    assert report.exit_code == 4
    assert report.failure is not None
    assert report.failure.code == code
    assert words in report.failure.message
    assert report.failure.fix


def unshaped() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float x) => (float y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { a = Relu (x) y = MatMul (a, w) }"""
    )
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "declared"),
    [(((1, 3), (4, 3), (8, 3)), ["x_0", 3]), (((4, 3), (4, 3), (4, 3)), [4, 3])],
)
def test_an_input_without_a_shape_takes_the_one_that_is_given(shape: Any, declared: list[Any]) -> None:
    report = surgery.run("generic", unshaped(), target="tensorrt-rtx", shapes={"x": shape})
    assert report.failure is None
    assert report.model is not None
    assert dims_of(report.model.graph.input[0]) == declared
    assert report.verification["graph"]["status"] == "passed"


@pytest.mark.slow
def test_an_input_without_a_shape_is_asked_for_before_the_parser_takes_it_for_a_number() -> None:
    report = surgery.run("generic", unshaped(), target="tensorrt-rtx")
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "input-without-shape")
    assert "--shape x=" in (report.failure.fix or "")


@pytest.mark.slow
def test_a_refused_input_is_called_one() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[1, 2, 1, 2, 1, 2, 1, 2, 3] x) => (float[1, 2, 1, 2, 1, 2, 1, 2, 3] y) { y = Relu (x) }"""
    )
    report = surgery.run("generic", model, target="tensorrt-rtx")
    assert report.failure is not None
    assert report.failure.message == "g: the parser refuses an input: 'x' (float, 9 dims)"


def test_what_onnx_runtime_saved_for_one_processor_is_refused() -> None:
    """TensorRT's parser would take the Conv for ONNX's own, and compute with weights in another order."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "com.microsoft.nchwc" : 1]>
        g (float[n, 8, 4, 4] x, float[8, 8, 1, 1] w) => (float[n, 8, 4, 4] y)
        { a = com.microsoft.nchwc.ReorderInput (x) b = com.microsoft.nchwc.Conv <kernel_shape = [1, 1]> (a, w)
          y = com.microsoft.nchwc.ReorderOutput <channels = 8> (b) }"""
    )
    report = surgery.run("generic", model, target="tensorrt-10.16")
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "processor-layout")
    assert "com.microsoft.nchwc.ReorderInput" in report.failure.message


@pytest.mark.slow
def test_a_model_that_onnx_runtime_has_no_kernels_for_is_called_that() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 11, opset_import: ["" : 23]> g (float4e2m1[n, 8] x) => (float[n, 8] y)
        { s = Constant <value = float {0.5}> () y = DequantizeLinear (x, s) }"""
    )
    report = surgery.run("generic", model, target="tensorrt-rtx")
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "original-not-run")
