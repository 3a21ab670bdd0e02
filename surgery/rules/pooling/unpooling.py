"""MaxUnpool by scattering, MaxRoiPool by masks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site

# -- MaxUnpool ----------------------------------------------------------------------------------------


@lowering(
    "maxunpool-by-scatter",
    "MaxUnpool",
    why="No TensorRT has MaxUnpool. Indices count the elements of the whole output, so it is one scatter.",
    samples=[
        Sample(
            """(float[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (float[1, 1, 4, 4] y)
            { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i) }""",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
        Sample(
            """(float[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (float[1, 1, 5, 5] y) <int64[4] s = {1, 1, 5, 5}>
            { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, s) }""",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
        Sample(
            """(double[2, 1, 3] x, int64[2, 1, 3] i) => (double[2, 1, 6] y)
            { y = MaxUnpool <kernel_shape = [3], strides = [2], pads = [1, 0]> (x, i) }""",
            feeds={"i": [[[0, 3, 5]], [[7, 8, 11]]]},
        ),
        *samples_in(
            "float16",
            "(T[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (T[1, 1, 4, 4] y) { y = MaxUnpool "
            "<kernel_shape = [2, 2], strides = [2, 2]> (x, i) }",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
    ],
    near_misses=[
        """(float[1, 1, h, 2] x, int64[1, 1, h, 2] i) => (float[1, 1, k, 4] y)
        { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i) }"""
    ],
)
def maxunpool(site: Site, b: Body) -> str:
    """Scatter into zeros."""
    x = site.input(0)
    size = _unpooled(site, x.dims[1:])
    volume = prod(size)
    batch = (x.shape or ())[0]
    if not isinstance(batch, int):
        raise NoMatch("the batch is not known")
    zeros = b.const(np.zeros(batch * volume), site.dtype(0))
    full = b.op("ScatterElements", zeros, b.reshape(site.x(1), -1), b.reshape(x.name, -1), axis=0)
    return b.reshape(full, batch, *size)


def _unpooled(site: Site, before: Sequence[int]) -> list[int]:
    """Channels and spatial sizes of the output."""
    if site.has(2):
        given = site.input(2).value
        if given is not None:
            return [int(d) for d in given[1:]]
        if site.out(0).static:
            return list(site.out(0).dims[1:])
        site.need(2, "the shape of the output")
    kernel = site.attr("kernel_shape", [])
    n = len(kernel)
    strides, pads = site.attr("strides") or [1] * n, site.attr("pads") or [0] * 2 * n
    return [
        before[0],
        *((before[i + 1] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + n] for i in range(n)),
    ]


# -- MaxRoiPool ---------------------------------------------------------------------------------------


@lowering(
    "maxroipool-by-masks",
    "MaxRoiPool",
    why="No TensorRT has MaxRoiPool. Which rows and columns belong to a bin is computed from the boxes.",
    samples=[
        Sample(
            """(float[2, 3, 8, 6] x, float[4, 5] r) => (float[4, 3, 2, 3] y)
            { y = MaxRoiPool <pooled_shape = [2, 3]> (x, r) }""",
            feeds={"r": [[0, 0, 0, 3, 3], [1, 1, 2, 5, 7], [1, 4, 4, 4, 4], [0, 2.5, -3, 9, 12]]},
        ),
        Sample(
            """(float[2, 3, 8, 6] x, float[k, 5] r) => (float[k, 3, 2, 2] y)
            { y = MaxRoiPool <pooled_shape = [2, 2], spatial_scale = 0.5> (x, r) }""",
            feeds={"r": [[0, 0, 0, 7, 7], [1, 3, 5, 11, 9], [1, 30, 30, 40, 40]]},
        ),
        *samples_in(
            "float16",
            "(T[2, 3, 8, 6] x, T[4, 5] r) => (T[4, 3, 2, 3] y) { y = MaxRoiPool <pooled_shape = [2, "
            "3]> (x, r) }",
            feeds={"r": [[0, 0, 0, 3, 3], [1, 1, 2, 5, 7], [1, 4, 4, 4, 4], [0, 2.5, -3, 9, 12]]},
        ),
    ],
    near_misses=["(float[1, 2, 5, 5] x) => (float[1, 2, 1, 1] y) { y = GlobalMaxPool (x) }"],
)
def maxroipool(site: Site, b: Body) -> str:
    """The maximum over the rows of each bin, then over the columns; 0 for an empty bin."""
    x = site.input(0)
    height, width = (x.shape or (None,) * 4)[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise NoMatch("the size of the image is not known")
    bins = [int(n) for n in site.attr("pooled_shape", [])]
    scale = float(site.attr("spatial_scale", 1.0))
    dtype = site.dtype(0)
    image = b.cast(b.gather(site.x(1), b.const(0, np.int64), axis=1), np.int64)
    picked = b.gather(x.name, image, axis=0)
    rows = _bin_masks(site, b, (2, 4), bins[0], height, scale)
    columns = _bin_masks(site, b, (1, 3), bins[1], width, scale)
    lowest = b.const(np.finfo(dtype).min, dtype)
    parts = []
    for k in range(bins[0]):
        mask = b.reshape(b.slice(rows, 1, k, k + 1), -1, 1, height, 1)
        parts.append(b.reduce("ReduceMax", b.where(mask, picked, lowest), 2))
    lines = b.unsqueeze(b.concat(parts, 2), 3)  # [boxes, channels, bins, 1, width]
    across = b.reshape(columns, -1, 1, 1, bins[1], width)
    top = b.reduce("ReduceMax", b.where(across, lines, lowest), 4, keepdims=False)
    return b.where(_some(b, rows, columns, bins), top, b.const(0, dtype))


def _some(b: Body, rows: str, columns: str, bins: list[int]) -> str:
    """Which bins have an element: [boxes, 1, rows, columns]."""
    sides = []
    for mask, shape in ((rows, (-1, 1, bins[0], 1)), (columns, (-1, 1, 1, bins[1]))):
        count = b.reduce("ReduceMax", b.cast(mask, np.float32), 2)
        sides.append(b.reshape(b.greater(count, b.scalar(0.5)), *shape))
    return b.logical_and(*sides)


def _bin_masks(site: Site, b: Body, ends: tuple[int, int], bins: int, size: int, scale: float) -> str:
    """[boxes, bins, size]: which elements along an axis belong to which bin."""
    dtype = site.dtype(1)
    corners = []
    for column in ends:
        at = b.mul(b.gather(site.x(1), b.ints(column), axis=1), b.const(scale, dtype))
        # Halves are rounded away from zero.
        whole = b.op("Floor", b.add(b.op("Abs", at), b.const(0.5, dtype)))
        corners.append(b.mul(whole, b.op("Sign", at)))
    extent = b.maximum(b.add(b.sub(corners[1], corners[0]), b.const(1, dtype)), b.const(1, dtype))
    step = b.div(extent, b.const(bins, dtype))
    start = b.op("Floor", b.mul(step, b.const(np.arange(bins)[None], dtype)))
    end = b.op("Ceil", b.mul(step, b.const(np.arange(1, bins + 1)[None], dtype)))
    low = b.unsqueeze(b.add(start, corners[0]), 2)
    high = b.unsqueeze(b.add(end, corners[0]), 2)
    place = b.const(np.arange(size)[None, None], dtype)
    return b.logical_and(b.logical_not(b.less(place, low)), b.less(place, high))
