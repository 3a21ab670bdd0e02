"""Convolutions of int8: they stay where the installed TensorRT builds them, and become float where it does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import surgery
from surgery.targets import resolve_target
from surgery.trt.session import give_back, lend
from surgery.trt.types import BuildOptions, Limits

CONV = """<ir_version: 8, opset_import: ["" : 17]> g (float[2, 4, 8, 8] x) => (float[2, 8, 8, 8] y)
    <float s = {0.02}, int8 z = {0}, float[8] sw = {0.01, 0.02, 0.01, 0.02, 0.01, 0.03, 0.01, 0.02},
    int8[8] zw = {0, 0, 0, 0, 0, 0, 0, 0}> {
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) WEIGHTS
    y = Conv <pads = [1, 1, 1, 1]> (d, f) }"""

WEIGHTS = {
    "stored as int8": ("f = DequantizeLinear <axis = 0> (w, sw, zw)", np.int8),
    "quantised in the graph": (
        "p = QuantizeLinear <axis = 0> (w, sw, zw) f = DequantizeLinear <axis = 0> (p, sw, zw)",
        np.float32,
    ),
}


def made(kind: str) -> onnx.ModelProto:
    text, dtype = WEIGHTS[kind]
    model = parser.parse_model(CONV.replace("WEIGHTS", text))
    values = np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype(dtype)
    if dtype == np.float32:
        values = values * np.float32(0.01)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return model


@pytest.mark.parametrize("kind", WEIGHTS)
def test_int8_stays_where_it_builds_and_is_float_where_it_does_not(kind: str) -> None:
    model = made(kind)
    worker = lend(resolve_target("tensorrt-rtx").flavour)
    try:
        built = worker.build(model.SerializeToString(), [], BuildOptions(tf32=False), limits=Limits(120.0)).ok
    finally:
        give_back(worker)
    report = surgery.run("generic", model, target="tensorrt-rtx")
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.model is not None
    left = [n.op_type for n in report.model.graph.node].count("DequantizeLinear")
    told = [w for w in report.warnings if "convolution of int8" in str(w)]
    assert (left, len(told)) == ((2, 0) if built else (1, 1))


def test_weights_of_int8_alone_stay() -> None:
    model = made("stored as int8")
    conv = model.graph.node[-1]
    conv.input[0] = "x"
    report = surgery.run("generic", model, target="tensorrt-rtx")
    assert report.failure is None, report.failure
    assert report.model is not None
    assert [n.op_type for n in report.model.graph.node].count("DequantizeLinear") == 1
