"""Outputs that are inputs."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.verify.inverse import apply_inverses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_an_input_that_is_given_out_again_gets_a_second_name(kind: str) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y, {kind}[n, 3] x) {{ y = Abs (x) }}"""
    )
    report = surgery.run("generic", model, target="tensorrt-rtx")
    assert report.failure is None
    assert report.model is not None
    assert [o.name for o in report.model.graph.output] == ["y", "x_out"]
    change = report.io_changes[0]
    assert change.inverse == {"op": "rename", "from": "x_out", "to": "x"}
    declared = report.model.graph.input[0].type.tensor_type.elem_type
    x = np.array([[-1, 2, 3]], onnx.helper.tensor_dtype_to_np_dtype(declared))
    found = Evaluator(report.model).run({"x": x})
    steps = [c.inverse for c in report.io_changes if c.inverse]
    assert apply_inverses(found, steps)["x"].tolist() == [[-1, 2, 3]]


def test_outputs_without_such_a_name_stay() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { y = Abs (x) z = Identity (x) }"""
    )
    report = surgery.run("generic", model, target="tensorrt-10.16")
    assert report.model is not None
    assert [o.name for o in report.model.graph.output] == ["y", "z"]
    assert not report.io_changes
