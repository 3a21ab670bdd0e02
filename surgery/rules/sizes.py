"""What rules of several themes share: sizes and places along axes, as tensors."""

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


def size_of(b: Body, x: str, size: Any, axis: int) -> str:
    """Size of an axis, rank 0, int64."""
    if isinstance(size, int):
        return b.const(size, np.int64)
    return b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0)


def range_of(b: Body, x: str, operand_shape: tuple[Any, ...], axis: int) -> str:
    """0, 1, ... along one axis of a tensor, rank 1, int64; a constant where the size is known."""
    size = operand_shape[axis]
    if isinstance(size, int):
        return b.const(np.arange(size), np.int64)
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    return b.op("Range", zero, size_of(b, x, None, axis), one)


def axis_size(b: Body, x: Operand, axis: int) -> str:
    """Size of an operand's axis, rank 0, int64."""
    return size_of(b, x.name, (x.shape or ())[axis], axis)


def axis_range(b: Body, x: Operand, axis: int) -> str:
    """0, 1, ... along an operand's axis, rank 1, int64."""
    return range_of(b, x.name, x.shape or (), axis)


def clamp(b: Body, value: str, low: str, high: str) -> str:
    """A value between two others."""
    return b.maximum(b.minimum(value, high), low)
