"""Values of types that numpy lacks go into ONNX Runtime and come out of it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from surgery.graph.evaluate import Evaluator
from surgery.verify.runner import run_onnx

RUNTIME = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
KINDS = ["bfloat16", "float8e4m3fn", "float8e5m2", "int4", "uint4"]


def model(kind: str, body: str, outputs: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]> g ({kind}[n, 3] x, float[3] b) => ({outputs}) {{ {body} }}"""
    )


def values(kind: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind.upper()))
    return np.array([[1, 2, 3], [0, 7, 5], [6, 4, 1]], np.float32).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs(kind: str) -> None:
    body = "s = Constant <value = float {0.5}> () f = DequantizeLinear (x, s) y = Add (f, b)"
    if kind == "bfloat16":
        body = "h = Constant <value = float {0.5}> () f = Cast <to = 1> (x) g = Mul (f, h) y = Add (g, b)"
    given = model(kind, body, "float[n, 3] y")
    feeds = {"x": values(kind), "b": np.array([1, 2, 3], np.float32)}
    want = [[1.5, 3, 4.5], [1, 5.5, 5.5], [4, 4, 3.5]]
    assert Evaluator(given).run(feeds)["y"].tolist() == want
    assert run_onnx(given, [feeds, feeds])[1]["y"].tolist() == want


@pytest.mark.parametrize("kind", ["bfloat16", "float8e4m3fn", "float8e5m2"])
def test_outputs(kind: str) -> None:
    given = model(kind, "y = Identity (x) z = Neg (b)", f"{kind}[n, 3] y, float[3] z")
    feeds = {"x": values(kind), "b": np.array([1, 2, 3], np.float32)}
    for found in (Evaluator(given).run(feeds), run_onnx(given, [feeds])[0]):
        assert found["y"].dtype == feeds["x"].dtype
        assert found["y"].astype(np.float32).tolist() == feeds["x"].astype(np.float32).tolist()
        assert found["z"].tolist() == [-1, -2, -3]


def test_formats_and_operator_sets_that_onnx_runtime_does_not_know() -> None:
    given = onnx.parser.parse_model(
        '<ir_version: 99, opset_import: ["" : 25]> g (float[n] x) => (float[n] y) { a = Relu (x) y = Neg (a) }'
    )
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    np.testing.assert_array_equal(Evaluator(given).run({"x": x})["y"], [0.0, 0.0, -2.0])


@pytest.mark.skipif(RUNTIME < (1, 24), reason="this ONNX Runtime knows no operator set with Swish")
def test_operators_without_kernels_in_operator_sets_that_onnx_runtime_does_not_know() -> None:
    """Swish is of opset 24; ONNX Runtime 1.31 writes it out in a model of that, and not in one of 25."""
    given = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["" : 25]> g (float[n] x) => (float[n] y) { a = Swish (x) y = Neg (a) }'
    )
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    np.testing.assert_allclose(Evaluator(given).run({"x": x})["y"], -x / (1 + np.exp(-x)), rtol=1e-6)


@pytest.mark.parametrize("inner", [False, True])
def test_operators_on_floats_of_two_kinds_run_in_the_wider_one(inner: bool) -> None:
    """Exporters write GridSample of float32 images at float64 places, which ONNX Runtime 1.31 has no kernel for."""
    call = 'y = GridSample <mode = "bilinear"> (x, at)'
    if inner:
        call = (
            f"y = If (c) <then_branch = t () => (float[1, 2, 3, 3] y) {{ {call} }}, else_branch = e () => "
            "(float[1, 2, 3, 3] z) { z = Slice (x, one, four, axes) }>"
        )
    given = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2, 5, 5] x, double[1, 3, 3, 2] at, bool c)
        => (float[1, 2, 3, 3] y)
        <int64[2] one = {{1, 1}}, int64[2] four = {{4, 4}}, int64[2] axes = {{2, 3}}> {{ {call} }}"""
    )
    x = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5)
    places = np.linspace(-0.8, 0.8, 3) + 1e-9
    at = np.stack(np.meshgrid(places, places), axis=-1)[None]
    feeds = {"x": x, "at": at, "c": np.array(True)}
    found = run_onnx(given, [feeds])[0]["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x[:, :, ::2, ::2], rtol=1e-6, atol=1e-6)
    notes: list[str] = []
    run_onnx(given, [feeds], notes=notes)
    assert "GridSample" in notes[0]


def test_bfloat16_in_an_operator_set_in_which_the_operator_does_not_take_it() -> None:
    """Conv takes bfloat16 from opset 22 on; exporters write it in 18, and TensorRT takes it."""
    given = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> g (bfloat16[1, 1, 4, 4] x, bfloat16[1, 1, 2, 2] w)
        => (bfloat16[1, 1, 3, 3] y) { c = Conv (x, w) y = Relu (c) }"""
    )
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    kind = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    feeds = {"x": x.astype(kind), "w": np.ones((1, 1, 2, 2), kind)}
    want = x[:, :, :-1, :-1] + x[:, :, 1:, :-1] + x[:, :, :-1, 1:] + x[:, :, 1:, 1:]
    for found in (Evaluator(given).run(feeds)["y"], run_onnx(given, [feeds])[0]["y"]):
        assert found.dtype == kind
        np.testing.assert_array_equal(found.astype(np.float32), want)


def test_operators_that_a_newer_set_gave_types_alone_run() -> None:
    """Cast of opset 28 is that of 25 with more types; ONNX Runtime 1.31 supports opsets to 26."""
    newest = onnx.defs.onnx_opset_version()
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {newest}]> g (float[2] x) => (double[2] y) {{'
        " y = Cast <to = 11> (x) }"
    )
    found = Evaluator(model).run({"x": np.array([1.5, -2.0], np.float32)})
    np.testing.assert_array_equal(found["y"], np.array([1.5, -2.0]))
