"""Comparing plain tensors, with what Polygraphy's simple comparison lets through caught.

Measured with Polygraphy 0.53: different dtypes, lost precision of int64, different names and empty results
pass there, and equal NaNs do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``|a - b| <= atol + rtol * |a|`` with a the expected value."""

    atol: float = 1e-4
    rtol: float = 1e-4


@dataclass(frozen=True, slots=True)
class OutputResult:
    """Comparison of one output.

    Attributes:
        name: The output.
        max_abs: Largest absolute difference; inf where shapes or kinds differ.
        max_rel: Largest relative difference.
        compare: How it was compared.
        passed: Whether it agrees.
        note: What else is worth knowing.
    """

    name: str
    max_abs: float
    max_rel: float
    compare: str
    passed: bool
    note: str | None = None

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


def compare_tensor(
    name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: Tolerance
) -> OutputResult:
    """Compare shape, dtype and values; NaN equals NaN, infinities equal themselves, integers are exact."""
    if expected.dtype != actual.dtype:
        return _differs(name, f"dtype {actual.dtype} instead of {expected.dtype}")
    if expected.shape != actual.shape:
        return _differs(name, f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.size == 0:
        return OutputResult(name, 0.0, 0.0, "empty", True)
    if expected.dtype.kind not in "fc" and expected.dtype.name not in ("bfloat16",):
        same = expected == actual
        worst = 0.0
        if expected.dtype.kind in "iu" and not np.all(same):
            worst = float(np.max(np.abs(expected.astype(np.float64) - actual.astype(np.float64))))
        elif not np.all(same):
            worst = float("inf")
        return OutputResult(name, worst, 0.0, "exact", bool(np.all(same)))
    one, two = expected.astype(np.float64), actual.astype(np.float64)
    special = ~np.isfinite(one) | ~np.isfinite(two)
    equal_special = (one == two) | (np.isnan(one) & np.isnan(two))
    if not np.all(equal_special[special]):
        return _differs(name, "NaN or infinity in different places")
    difference = np.where(special, 0.0, np.abs(np.where(special, 0.0, one) - np.where(special, 0.0, two)))
    size = np.abs(np.where(special, 0.0, one))
    allowed = tolerance.atol + tolerance.rtol * size
    relative = difference / np.maximum(size, np.finfo(np.float32).tiny)
    relative = np.where(difference == 0, 0.0, np.where(size < tolerance.atol, 0.0, relative))
    return OutputResult(
        name,
        float(difference.max()),
        float(relative.max()),
        f"atol {tolerance.atol:g}, rtol {tolerance.rtol:g}",
        bool(np.all(difference <= allowed)),
    )


def _differs(name: str, why: str) -> OutputResult:
    return OutputResult(name, float("inf"), float("inf"), "shape and dtype", False, why)
