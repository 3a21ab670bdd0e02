from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import pytest

from surgery.verify.ranges import Wide, draw_wide, ranges_from_use, wide_from_use


def model(text: str, opset: int = 26) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_indices_stay_within_what_they_index() -> None:
    found = ranges_from_use(model("(float[7, 3] x, int64[2] i) => (float[2, 3] y) { y = Gather (x, i) }"))
    assert found == {"i": (0, 7)}


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_whole_divisors_are_never_zero(op: str) -> None:
    found = ranges_from_use(model(f"(int32[4] x, int32[4] w) => (int32[4] y) {{ y = {op} (x, w) }}"))
    assert set(found) == {"w"}
    assert found["w"][0] == 1


def test_divisors_that_are_floats_have_no_range() -> None:
    assert ranges_from_use(model("(float[4] x, float[4] w) => (float[4] y) { y = Div (x, w) }")) == {}


def test_shifts_are_below_the_width() -> None:
    text = '(uint16[4] x, uint16[4] w) => (uint16[4] y) { y = BitShift <direction = "LEFT"> (x, w) }'
    assert ranges_from_use(model(text)) == {"w": (0, 16)}
    assert wide_from_use(model(text)) == {"x": Wide("bits", (np.dtype(np.uint16),))}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_operators_on_bits_get_every_number(dtype: str) -> None:
    text = (
        f"({dtype}[500] x, {dtype}[500] w) => ({dtype}[500] y)"
        " { a = BitwiseAnd (x, w) b = Identity (x) y = BitwiseXor (a, b) }"
    )
    found = wide_from_use(model(text))
    assert set(found) == {"x", "w"}
    values = draw_wide(found["x"], np.dtype(dtype), (500,), rng())
    info = np.iinfo(dtype)
    assert values.dtype == np.dtype(dtype)
    assert int(values.min()) <= info.min + 1
    assert min(info.max, 2**63 - 1) >= int(values.max()) >= min(info.max, 2**63 - 1) - 1
    # Numbers that float32 does not hold are among them, where there are such.
    exact = values.astype(np.float32).astype(np.float64) == values.astype(np.float64)
    assert info.bits < 32 or not exact.all()


def test_a_cast_on_the_way_keeps_numbers_to_what_both_dtypes_hold() -> None:
    text = "(int64[200] x, int32[200] w) => (int32[200] y) { a = Cast <to = 6> (x) y = BitwiseOr (a, w) }"
    found = wide_from_use(model(text))
    values = draw_wide(found["x"], np.dtype(np.int64), (200,), rng())
    assert values.dtype == np.int64
    assert np.array_equal(values, values.astype(np.int32))
    assert int(values.min()) < -(2**24)


@pytest.mark.parametrize(
    "body",
    [
        "y = Add (x, w)",
        "a = BitwiseAnd (x, w) y = Add (a, x)",
        "f = Cast <to = 1> (x) g = Floor (f) a = Cast <to = 6> (g) y = BitwiseAnd (a, w)",
    ],
)
def test_inputs_that_arithmetic_reads_too_stay_small(body: str) -> None:
    found = wide_from_use(model(f"(int32[4] x, int32[4] w) => (int32[4] y) {{ {body} }}"))
    assert "x" not in found


def test_numbers_that_are_the_bits_of_floats() -> None:
    found = wide_from_use(model("(int32[300] x) => (float[300] y) { y = BitCast <to = 1> (x) }"))
    values = draw_wide(found["x"], np.dtype(np.int32), (300,), rng()).view(np.float32)
    assert not np.isnan(values).any()
    assert np.isinf(values).any()
    finite = np.abs(values[np.isfinite(values) & (values != 0)])
    assert finite.min() < 1e-20
    assert finite.max() > 1e20
    assert finite.min() >= np.finfo(np.float32).smallest_normal


@pytest.mark.parametrize(("dtype", "whole"), [(np.float32, 6), (np.float16, 5), (ml_dtypes.bfloat16, 5)])
def test_floats_whose_bits_are_read(dtype: Any, whole: int) -> None:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    name = onnx.TensorProto.DataType.Name(kind).lower()
    to = {6: "int32", 5: "int16"}[whole]
    found = wide_from_use(model(f"({name}[300] x) => ({to}[300] y) {{ y = BitCast <to = {whole}> (x) }}"))
    assert found == {"x": Wide("floats")}
    values = draw_wide(found["x"], np.dtype(dtype), (300,), rng())
    assert values.dtype == np.dtype(dtype)
    numbers = values.astype(np.float64)
    assert np.signbit(numbers[numbers == 0]).any()
    sizes = np.abs(numbers[np.isfinite(numbers) & (numbers != 0)])
    assert sizes.max() / sizes.min() > 2.0**20


DYNAMIC = "y, s, z = DynamicQuantizeLinear (x)"
CONSTANTS = "s = Constant <value = float {0.25}> () z = Constant <value = uint8 {128}> ()"


def test_quantised_outputs_get_values_halfway_between_two_steps() -> None:
    found = wide_from_use(model(f"(float[400] x) => (uint8[400] y, float s, uint8 z) {{ {DYNAMIC} }}"))
    assert found == {"x": Wide("halves")}
    values = draw_wide(found["x"], np.dtype(np.float32), (400,), rng())
    step = (values.max() - values.min()) / np.float32(255)
    off = np.abs(np.mod(values[2:] / step, 1) - 0.5)
    assert off.max() < 1e-3
    assert len({*np.round(values / step).tolist()}) > 100


def test_a_known_step_is_kept() -> None:
    found = wide_from_use(
        model(f"(float[4] x) => (uint8[2, 2] y) {{ {CONSTANTS} q = QuantizeLinear (x, s, z) n = Constant"
              " <value_ints = [2, 2]> () y = Reshape (q, n) }")
    )  # fmt: skip
    assert found == {"x": Wide("halves", step=0.25)}
    values = draw_wide(found["x"], np.dtype(np.float32), (4,), rng())
    assert np.array_equal(np.mod(values[2:] / 0.25, 1), [0.5, 0.5])


def test_quantisation_inside_of_a_model_is_rounding_and_nothing_more() -> None:
    body = f"{CONSTANTS} q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
    assert wide_from_use(model(f"(float[4] x) => (float[4] y) {{ {body} }}")) == {}
