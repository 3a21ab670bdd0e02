"""Dims and places as tensors, and the dtypes that reductions are computed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.site import Operand

ALL = 2**31 - 1
"""End of a slice that goes to the end."""

FREE_DIM = 16
"""What a free dim counts as where the size of an intermediate tensor decides."""


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums, products and extremes of a dtype are computed in: at least as exact."""
    if "float" in dtype.name:
        return np.dtype(np.float64 if dtype == np.float64 else np.float32)
    if dtype.itemsize > 4 or dtype == np.uint32:
        return np.dtype(np.int64)
    return np.dtype(np.int32)


def dims_tensor(b: Body, operand: Operand, start: int, end: int) -> str:
    """Dims start..end of an operand, 1-D int64: a constant if they are known."""
    dims = (operand.shape or ())[start:end]
    if all(isinstance(d, int) for d in dims):
        return b.ints(*[int(d) for d in dims if isinstance(d, int)])
    return b.slice(b.op("Shape", operand.name), 0, start, end)


def product_tensor(b: Body, operand: Operand, start: int, end: int) -> str:
    """Product of the dims start..end of an operand, int64 of shape [1]."""
    dims = (operand.shape or ())[start:end]
    if all(isinstance(d, int) for d in dims):
        return b.ints(math.prod(d for d in dims if isinstance(d, int)))
    return b.reduce("ReduceProd", b.slice(b.op("Shape", operand.name), 0, start, end), 0)


def volume(dims: Sequence[object]) -> int:
    """Product of dims; a free one counts as `FREE_DIM`."""
    return math.prod(d if isinstance(d, int) else FREE_DIM for d in dims)


def wrapped(b: Body, indices: str, sizes: str) -> str:
    """Indices with those below 0 counted from the end."""
    return b.where(b.less(indices, b.const(0, np.int64)), b.add(indices, sizes), indices)


def count_up(b: Body, count: str) -> str:
    """0, 1, ... below a count of shape [1]; int64."""
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    if b.opset >= 27:  # no TensorRT of this time takes the Range of these opsets
        return b.sub(b.op("CumSum", b.op("Expand", one, count), zero), one)
    return b.op("Range", zero, b.squeeze(count, 0), one)
