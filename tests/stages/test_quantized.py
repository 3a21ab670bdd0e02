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


STEPS = """<ir_version: 8, opset_import: ["" : 17]> g (float[2, 4] x) => (float[2, 4] y)
    <float s = {0.02}, TYPE z = {ZERO}> {
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d) }"""


@pytest.mark.parametrize("target", ["tensorrt-10.16", "tensorrt-rtx"])
@pytest.mark.parametrize(
    ("dtype", "zero", "kind"),
    [
        ("int8", 0, None),
        ("uint8", 0, "uint8 (2)"),
        ("uint8", 7, "uint8 with a zero point that is not 0 (2)"),
        ("int8", -3, "int8 with a zero point that is not 0 (2)"),
    ],
)
def test_steps_that_become_arithmetic_are_told_once(
    dtype: str, zero: int, kind: str | None, target: str
) -> None:
    model = parser.parse_model(STEPS.replace("TYPE", dtype).replace("ZERO", str(zero)))
    report = surgery.run("generic", model, target=target, stages="load..rewrite")
    assert report.failure is None, report.failure
    told = [w for w in report.warnings if "computed in float32, not in int8" in w]
    noted = [
        a for e in report.edits for a in e.assumptions if a.startswith("computed in float32, not in int8")
    ]
    if kind is None:
        assert (told, noted) == ([], [])
        return
    assert len(told) == 1
    assert told[0].startswith(f"2 of 2 quantised operators are computed in float32, not in int8: {kind}.")
    assert "QuantType.QInt8" in told[0]
    assert len(noted) == 2


def test_operators_on_quantised_numbers_are_told_too() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[3, 4] x) => (float[3, 2] y)
        <uint8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
        q, s, z = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, z) f = Cast <to = 1> (i) y = Mul (f, s) }"""
    report = surgery.run("generic", parser.parse_model(text), target="tensorrt-10.16", stages="load..rewrite")
    assert report.failure is None, report.failure
    told = [w for w in report.warnings if "computed in float32, not in int8" in w]
    assert len(told) == 1
    assert "DynamicQuantizeLinear (1), MatMulInteger (1)" in told[0]


def chain(count: int) -> onnx.ModelProto:
    """Quantisations one behind the other, a mean behind the last but one: what is between them is cheap."""
    steps, last = [], "x"
    for k in range(count):
        steps.append(f"q{k} = QuantizeLinear ({last}, s, z) d{k} = DequantizeLinear (q{k}, s, z)")
        last = f"r{k}"
        steps.append(
            f"{last} = ReduceMean <axes = [2, 3]> (d{k})" if k == count - 2 else f"{last} = Relu (d{k})"
        )
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2, 4, 6, 6] x) => (float[2, 4, 1, 1] {last})
        <float s = {{0.03}}, uint8 z = {{60}}> {{ {" ".join(steps)} }}"""
    return parser.parse_model(text)


@pytest.mark.slow
def test_a_chain_of_quantisations_is_built_in_time() -> None:
    target = resolve_target(None)
    if not target.installed or target.flavour != "tensorrt-rtx":
        pytest.skip("it is a property of TensorRT-RTX's builder")
    report = surgery.run("generic", chain(7), overrides={"build.seconds": 60})
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
