"""What rules of several themes share: the dtypes that are computed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body

HALVES = ("float16", "bfloat16")
"""Floats that are computed with in float32."""


def to(b: Body, x: str, have: np.dtype[Any], want: np.dtype[Any]) -> str:
    """Cast where the dtypes differ."""
    return x if have == want else b.cast(x, want)


def reduce_mean(b: Body, x: str, axes: Sequence[int]) -> str:
    """Mean over axes, which stay with size 1 (ReduceMean takes them as an input from opset 18)."""
    if b.opset >= 18:
        return b.op("ReduceMean", x, b.ints(*axes), keepdims=1)
    return b.op("ReduceMean", x, axes=list(axes), keepdims=1)


def inner_dtype(dtype: Any) -> Any:
    """The dtype to compute in: at least float32."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums, products and extremes of a dtype are computed in: at least as exact."""
    if "float" in dtype.name:
        return np.dtype(np.float64 if dtype == np.float64 else np.float32)
    if dtype.itemsize > 4 or dtype == np.uint32:
        return np.dtype(np.int64)
    return np.dtype(np.int32)
