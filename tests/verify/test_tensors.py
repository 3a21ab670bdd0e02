from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from surgery.verify.tensors import OutputResult, Tolerance, compare_tensor


def compare(
    expected: Any, actual: Any, dtype: Any = np.float32, atol: float = 1e-4, rtol: float = 0.0
) -> OutputResult:
    return compare_tensor("y", np.asarray(expected, dtype), np.asarray(actual, dtype), Tolerance(atol, rtol))


def test_equal_tensors_pass() -> None:
    outcome = compare([1.0, 2.0], [1.0, 2.0])
    assert outcome
    assert outcome.to_dict() == {
        "name": "y", "max_abs": 0.0, "max_rel": 0.0, "compare": "atol 0.0001, rtol 0", "passed": True
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("off", "passes"), [(5e-5, True), (-5e-5, True), (2e-4, False), (-2e-4, False)])
def test_absolute_tolerance(dtype: Any, off: float, passes: bool) -> None:
    outcome = compare([1.0, 2.0], [1.0, 2.0 + off], dtype)
    assert outcome.passed is passes
    assert outcome.max_abs == pytest.approx(abs(off), rel=0.01)
    assert outcome.max_rel == pytest.approx(abs(off) / 2, rel=0.01)
    assert outcome.note == (None if passes else "1 of 2 differ")


def test_relative_tolerance_is_of_the_expected_value() -> None:
    assert compare([1000.0], [1000.9], atol=0.0, rtol=1e-3)
    assert not compare([1000.0], [1001.1], atol=0.0, rtol=1e-3)
    assert not compare([0.0], [1e-6], atol=0.0, rtol=1.0)


def test_a_different_dtype_fails() -> None:
    outcome = compare_tensor("y", np.zeros(2, np.float32), np.zeros(2, np.float64), Tolerance())
    assert not outcome
    assert outcome.note == "dtype float64 instead of float32"
    assert outcome.max_abs == float("inf")


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 1), ()])
def test_a_different_shape_fails_even_if_it_broadcasts(shape: tuple[int, ...]) -> None:
    outcome = compare_tensor("y", np.ones(3, np.float32), np.ones(shape, np.float32), Tolerance())
    assert not outcome
    assert "instead of [3]" in (outcome.note or "")


def test_an_empty_tensor_passes_only_with_its_shape() -> None:
    assert compare(np.zeros((0, 4)), np.zeros((0, 4))).compare == "empty"
    assert not compare(np.zeros((0, 4)), np.zeros((0, 5)))


def test_equal_nans_and_infinities_pass() -> None:
    values = [1.0, np.nan, np.inf, -np.inf]
    outcome = compare(values, values)
    assert outcome
    assert outcome.max_abs == 0.0


@pytest.mark.parametrize("actual", [np.nan, -np.inf, 1.0, 3e38])
def test_an_infinity_agrees_with_nothing_else(actual: float) -> None:
    assert not compare([0.0, np.inf], [0.0, actual], atol=1e30, rtol=1.0)
    assert not compare([0.0, actual], [0.0, np.inf], atol=1e30, rtol=1.0)


def test_a_nan_on_one_side_fails_and_says_so() -> None:
    outcome = compare([0.0, np.nan], [0.0, 0.0])
    assert not outcome
    assert outcome.note == "NaN or infinity in 1 of 2 places on one side only"
    assert not compare([0.0, 0.0], [0.0, np.nan])


def test_tensors_without_a_finite_value_say_so() -> None:
    outcome = compare([np.nan], [np.nan])
    assert outcome
    assert outcome.note == "no finite value"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_integers_are_exact(dtype: Any) -> None:
    assert compare([1, 2, 3], [1, 2, 3], dtype, atol=10)
    outcome = compare([1, 2, 3], [1, 0, 3], dtype, atol=10)
    assert not outcome
    assert outcome.max_abs == 2
    assert outcome.compare == "exact"
    assert outcome.note == "1 of 3 differ"


def test_int64_beyond_what_floats_can_tell_apart() -> None:
    outcome = compare([2**53 + 1], [2**53], np.int64)
    assert not outcome
    assert outcome.max_abs == 1


def test_bool_and_text_are_exact() -> None:
    assert compare([True, False], [True, False], bool)
    assert not compare([True, False], [True, True], bool)
    assert compare(["a", "b"], ["a", "b"], object)
    assert not compare(["a", "b"], ["a", "c"], object)


def test_int4_is_exact() -> None:
    assert compare([1, -2], [1, -2], ml_dtypes.int4)
    assert not compare([1, -2], [1, -3], ml_dtypes.int4)


@pytest.mark.parametrize(
    ("dtype", "step"),
    [(np.float16, 2.0**-10), (ml_dtypes.bfloat16, 2.0**-7), (ml_dtypes.float8_e4m3fn, 2.0**-3)],
)
def test_low_precision_may_differ_by_a_few_units_in_the_last_place(dtype: Any, step: float) -> None:
    outcome = compare([1.0], [1.0 + step], dtype)
    assert outcome
    assert outcome.max_abs == pytest.approx(step)
    assert not compare([1.0], [1.0 + 8 * step], dtype)
    assert not compare([1.0], [np.nan], dtype)


def test_low_precision_has_no_overflow_in_the_difference() -> None:
    outcome = compare([60000.0], [-60000.0], np.float16)
    assert not outcome
    assert outcome.max_abs == pytest.approx(120000, rel=1e-3)


def test_complex_numbers_are_compared_part_by_part() -> None:
    assert compare([1 + 2j], [1 + 2.00005j], np.complex64)
    assert not compare([1 + 2j], [1 + 3j], np.complex64)
