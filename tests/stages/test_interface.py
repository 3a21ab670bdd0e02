"""Inputs and outputs that no TensorRT has a type for."""

from __future__ import annotations

import onnx.parser
import pytest

import surgery


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
