"""Comparing plain tensors, with what Polygraphy's simple comparison lets through caught.

Measured with Polygraphy 0.53: different dtypes, lost precision of int64, different names and empty results
pass there, equal NaNs and infinities do not, and bfloat16 raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ULPS = 4
"""Units in the last place that low precision may differ by, if that is more than the tolerance allows."""

MANTISSA_BITS = {
    "float16": 10,
    "bfloat16": 7,
    "float8_e4m3fn": 3,
    "float8_e4m3fnuz": 3,
    "float8_e5m2": 2,
    "float8_e5m2fnuz": 2,
}
"""Float dtypes of low precision: they are compared in wider ones."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``|a - b| <= atol + rtol * |a|`` with a the expected value."""

    atol: float = 1e-4
    rtol: float = 1e-4

    def widened(self, dtype: np.dtype[Any]) -> Tolerance:
        """At least a few units in the last place of a dtype of low precision."""
        bits = MANTISSA_BITS.get(dtype.name)
        return self if bits is None else Tolerance(self.atol, max(self.rtol, ULPS * 2.0**-bits))


@dataclass(frozen=True, slots=True)
class OutputResult:
    """Comparison of one output.

    Attributes:
        name: The output.
        max_abs: Largest absolute difference; inf where shapes or kinds differ.
        max_rel: Largest relative difference, where the expected value is larger than the tolerance.
        compare: How it was compared.
        passed: Whether it agrees.
        note: What else is worth knowing.
        excused: Part of the entries, 0 to 1, that are further off than the tolerance, but no further than rounding
            moves the original.
    """

    name: str
    max_abs: float
    max_rel: float
    compare: str
    passed: bool
    note: str | None = None
    excused: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Entry of the report."""
        entry: dict[str, Any] = {
            "name": self.name,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "compare": self.compare,
            "passed": self.passed,
        }
        return {**entry, "note": self.note} if self.note else entry

    def __bool__(self) -> bool:
        return self.passed


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a float, those that numpy does not know included."""
    return dtype.kind == "f" or dtype.name in MANTISSA_BITS


def compare_tensor(
    name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: Tolerance
) -> OutputResult:
    """Compare dtype, shape and values.

    Floats agree within the tolerance, complex numbers part by part; NaN agrees with NaN and an infinity with
    itself. Everything else (integers, bool, text) has to be equal.
    """
    if expected.dtype != actual.dtype:
        return _differs(name, f"dtype {actual.dtype} instead of {expected.dtype}")
    if expected.shape != actual.shape:
        return _differs(name, f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.size == 0:
        return OutputResult(name, 0.0, 0.0, "empty", True)
    if expected.dtype.kind == "c":
        one, two = (np.stack([v.real, v.imag]) for v in (expected, actual))
        return compare_tensor(name, one, two, tolerance)
    if is_float(expected.dtype):
        return _compare_floats(name, expected, actual, tolerance.widened(expected.dtype))
    return _compare_exactly(name, expected, actual)


def _compare_exactly(name: str, expected: NDArray[Any], actual: NDArray[Any]) -> OutputResult:
    differ = np.asarray(expected != actual)
    count = int(np.count_nonzero(differ))
    if not count:
        return OutputResult(name, 0.0, 0.0, "exact", True)
    worst = float("inf")
    if expected.dtype.kind in "iu":
        # Python's integers: int64 beyond 2**53 would look equal as floats, and uint64 would wrap.
        pairs = zip(expected[differ].tolist(), actual[differ].tolist(), strict=True)
        worst = float(max(abs(a - b) for a, b in pairs))
    return OutputResult(name, worst, float("inf"), "exact", False, f"{count} of {expected.size} differ")


def _compare_floats(
    name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: Tolerance
) -> OutputResult:
    one, two = expected.astype(np.float64), actual.astype(np.float64)
    special = ~(np.isfinite(one) & np.isfinite(two))
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    misplaced = int(np.count_nonzero(special & ~same))
    if misplaced:
        return _differs(name, f"NaN or infinity in {misplaced} of {one.size} places on one side only")
    one, two = np.where(special, 0.0, one), np.where(special, 0.0, two)
    difference, size = np.abs(one - two), np.abs(one)
    relative = np.divide(difference, size, out=np.zeros_like(size), where=size > max(tolerance.atol, 1e-30))
    agree = difference <= tolerance.atol + tolerance.rtol * size
    wrong = int(np.count_nonzero(~agree))
    notes = [f"{wrong} of {one.size} differ"] if wrong else []
    if np.all(special):
        notes.append("no finite value")
    return OutputResult(
        name,
        float(difference.max()),
        float(relative.max()),
        f"atol {tolerance.atol:g}, rtol {tolerance.rtol:g}",
        not wrong,
        "; ".join(notes) or None,
    )


def _differs(name: str, why: str) -> OutputResult:
    return OutputResult(name, float("inf"), float("inf"), "shape and dtype", False, why)
