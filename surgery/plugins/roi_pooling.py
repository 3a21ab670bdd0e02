"""Largest pixel of rectangles of any size: RoIPool without a loop.

TensorRT-RTX has no MaxRoiPool. Here the maximum of every window with sides that are powers of two is in a table; a
rectangle is covered by four such windows, so four rows of the table give its maximum exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode


def power_sides(size: int) -> list[int]:
    """1, 2, 4, ... up to a size."""
    return [2**i for i in range(size.bit_length())]


def window_maxima(b: Body, node: ConfiguredNode, index: int) -> str:
    """The table of a map [B, C, H, W]: rows [B * windows * H * W, C], windows by height and then by width.

    The row of a pixel is the maximum of the window whose upper left corner it is, cut off at the map's edges.
    """
    channels, height, width = (node.static(index, axis) for axis in (1, 2, 3))
    x, parts = node.input_names[index], []
    for high in power_sides(height):
        for wide in power_sides(width):
            pooled = x
            if high * wide > 1:
                pooled = b.op(
                    "MaxPool", x, kernel_shape=[high, wide], strides=[1, 1], pads=[0, 0, high - 1, wide - 1]
                )
            parts.append(b.reshape(b.transpose(pooled, 0, 2, 3, 1), 0, height * width, channels))
    return b.reshape(b.concat(parts, 1), -1, channels)


def rounded(b: Body, x: str) -> str:
    """Nearest whole number of values that are not negative, halves upwards."""
    low = b.op("Floor", x)
    up = b.greater_equal(b.sub(x, low), b.scalar(0.5))
    return b.add(low, b.cast(up, np.float32))


def pool_boxes(
    b: Body,
    node: ConfiguredNode,
    index: int,
    images: str,
    corners: tuple[str, str, str, str],
    bins: tuple[int, int],
) -> str:
    """Maximum of each bin, [R, C, bins down, bins right]; a bin that is empty gives 0.

    Args:
        b: Where the nodes go.
        node: Its input `index` is the map.
        index: See `node`.
        images: int64 [R], image of each box.
        corners: x0, y0, x1, y1, each [R, 1], whole numbers of pixels, the last one included.
        bins: Number of bins downwards and to the right.
    """
    height, width = node.static(index, 2), node.static(index, 3)
    table = window_maxima(b, node, index)
    x0, y0, x1, y1 = corners
    down = _Side(b, y0, y1, bins[0], height)
    right = _Side(b, x0, x1, bins[1], width)
    area = height * width
    windows = len(down.powers) * len(right.powers)
    base = b.unsqueeze(b.mul(images, b.const(windows * area, np.int64)), 1, 2)
    kind = b.add(
        b.mul(b.unsqueeze(down.kind, 2), b.scalar(float(len(right.powers)))), b.unsqueeze(right.kind, 1)
    )
    kind = b.add(b.mul(b.cast(kind, np.int64), b.const(area, np.int64)), base)
    best = ""
    for y in (down.first, down.second):
        for x in (right.first, right.second):
            place = b.add(b.mul(b.unsqueeze(y, 2), b.scalar(float(width))), b.unsqueeze(x, 1))
            found = b.gather(table, b.add(b.cast(place, np.int64), kind), axis=0)
            best = b.maximum(best, found) if best else found
    some = b.logical_and(b.unsqueeze(down.some, 2), b.unsqueeze(right.some, 1))
    return b.transpose(b.where(b.unsqueeze(some, 3), best, b.scalar(0.0)), 0, 3, 1, 2)


def _borders(b: Body, extent: str, bins: int, size: int) -> tuple[str, str]:
    """First pixel of each bin and the one behind its last, from the box's first pixel on; each [R, bins].

    The kernel divides in float32 and multiplies back, so that 3 / 7 * 7 decides whether a bin has one more row. A GPU
    gave the neighbouring number for that quotient, so extents that occur are looked up.
    """
    known = 2 * size
    tables = bin_borders(np.arange(known + 1), bins)
    at = b.cast(b.minimum(extent, b.scalar(float(known))), np.int64)
    looked_up = [b.gather(b.const(t), b.squeeze(at, 1), axis=0) for t in tables]
    step = b.div(extent, b.scalar(float(bins)))
    start = b.op("Floor", b.mul(b.const(np.arange(bins).reshape(1, -1)), step))
    end = b.op("Ceil", b.mul(b.const(np.arange(1, bins + 1).reshape(1, -1)), step))
    larger = b.greater(extent, b.scalar(float(known)))
    return b.where(larger, start, looked_up[0]), b.where(larger, end, looked_up[1])


def bin_borders(extents: NDArray[Any], bins: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and end of every bin, each [R, bins], for whole extents [R], in the float32 arithmetic of the kernel."""
    step = extents.astype(np.float32)[:, None] / np.float32(bins)
    numbers = np.arange(bins + 1, dtype=np.float32)
    return np.floor(numbers[:-1] * step), np.ceil(numbers[1:] * step)


class _Side:
    """The bins along one axis, each [R, bins] float32.

    Attributes:
        kind: Which power of two covers the bin, at least half of it.
        first: Start of the window that begins with the bin.
        second: Start of the window that ends with it.
        some: Whether the bin has a pixel, bool.
        powers: The powers of two.
    """

    def __init__(self, b: Body, low: str, high: str, bins: int, size: int) -> None:
        self.powers = power_sides(size)
        one, zero, full = b.scalar(1.0), b.scalar(0.0), b.scalar(float(size))
        extent = b.maximum(b.add(b.sub(high, low), one), one)
        start, end = _borders(b, extent, bins, size)
        start, end = (b.minimum(b.maximum(b.add(v, low), zero), full) for v in (start, end))
        length = b.sub(end, start)
        self.some = b.greater(length, zero)
        larger = b.const(np.array(self.powers[1:] or [2 * size], np.float32).reshape(1, 1, -1))
        reached = b.cast(b.greater_equal(b.unsqueeze(length, 2), larger), np.float32)
        self.kind = b.reduce("ReduceSum", reached, 2, keepdims=False)
        side = b.gather(b.const(np.array(self.powers, np.float32)), b.cast(self.kind, np.int64), axis=0)
        last = b.scalar(size - 1.0)
        self.first = b.minimum(start, last)
        self.second = b.maximum(b.sub(end, side), zero)
