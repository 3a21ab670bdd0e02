"""DeformConv: taps at shifted places, then a product with the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.precision import inner_dtype, to
from surgery.rules.sampling.pixels import Tap, pixel_rows, weighted_pixels, within
from surgery.rules.sizes import axis_range, axis_size, clamp


@lowering(
    "deformconv-by-gathers",
    "DeformConv",
    why="No TensorRT has DeformConv. Pixels are sampled where offsets say; the rest is a product with the kernel.",
    samples=[
        Sample(
            """(float[n, 2, 5, 6] x, float[3, 2, 2, 3] w, float[n, 12, 4, 4] o) => (float[n, 3, 4, 4] y)
            { y = DeformConv (x, w, o) }""",
            opset=19,
        ),
        Sample(
            """(float[1, 4, 6, 6] x, float[4, 2, 3, 3] w, float[1, 36, 3, 3] o, float[4] b, float[1, 18, 3, 3] m)
            => (float[1, 4, 3, 3] y)
            { y = DeformConv <group = 2, offset_group = 2, pads = [1, 1, 1, 1], strides = [2, 2]>
                            (x, w, o, b, m) }""",
            opset=19,
        ),
        Sample(
            """(double[1, 1, 7, 7] x, double[1, 1, 2, 2] w, double[1, 8, 5, 5] o, double[1, 4, 5, 5] m)
            => (double[1, 1, 5, 5] y)
            { y = DeformConv <dilations = [2, 2], kernel_shape = [2, 2]> (x, w, o, , m) }""",
            opset=19,
        ),
        Sample(
            """(float[n, 2, h, v] x, float[3, 2, 2, 3] w, float[n, 12, k, l] o, float[3] b, float[n, 6, k, l] m)
            => (float[n, 3, k, l] y)
            { y = DeformConv <strides = [2, 1], pads = [1, 0, 1, 1]> (x, w, o, b, m) }""",
            opset=19,
            feeds={
                "x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 6)).astype(np.float32),
                "o": np.random.default_rng(1).normal(0, 1, (2, 12, 3, 5)).astype(np.float32),
                "m": np.random.default_rng(2).uniform(0, 1, (2, 6, 3, 5)).astype(np.float32),
            },
        ),
        *samples_in(
            "float16",
            "(T[n, 2, 5, 6] x, T[3, 2, 2, 3] w, T[n, 12, 4, 4] o) => (T[n, 3, 4, 4] y) { y = "
            "DeformConv (x, w, o) }",
            opset=19,
        ),
    ],
    near_misses=[
        Sample(
            """(float[1, c, 5, 6] x, float[3, 2, 2, 3] w, float[1, 12, 4, 4] o) => (float[1, 3, 4, 4] y)
            { y = DeformConv (x, w, o) }""",
            opset=19,
        )
    ],
)
def deformconv(site: Site, b: Body) -> str:
    """Columns of sampled pixels, times the kernel."""
    x, kernel = site.input(0), site.input(1)
    if x.rank != 4:
        raise NoMatch("only images of two axes")
    channels, *sizes = (x.shape or ())[1:]
    if not isinstance(channels, int):
        raise NoMatch("the number of channels is not known")
    out, _, *taps = kernel.dims
    strides, dilations = site.attr("strides") or [1, 1], site.attr("dilations") or [1, 1]
    pads, groups = site.attr("pads") or [0] * 4, int(site.attr("group", 1))
    space: list[int | str]
    after: list[int | str]
    if all(isinstance(s, int) for s in sizes):
        space = [int(s) for s in sizes if isinstance(s, int)]
        after = [
            (int(s) + pads[i] + pads[i + 2] - dilations[i] * (taps[i] - 1) - 1) // strides[i] + 1
            for i, s in enumerate(space)
        ]
    else:  # there is an offset for each place of the result
        space = [axis_size(b, x, 2), axis_size(b, x, 3)]
        after = [axis_size(b, site.input(2), 2), axis_size(b, site.input(2), 3)]
    dtype = inner_dtype(site.dtype(0))
    parts = int(site.attr("offset_group", 1))
    area = prod(taps)

    offsets = _shaped(b, to(b, site.x(2), site.dtype(2), dtype), -1, parts, area, 2, *after)
    axes = []
    for i in range(2):
        inner = np.unravel_index(np.arange(area), taps)[i] * dilations[i] - pads[i]
        shape = [1, 1, 1, -1, 1] if i == 0 else [1, 1, 1, 1, -1]
        start = _starts(b, after[i], strides[i], shape, inner.reshape(1, 1, area, 1, 1), dtype)
        at = b.add(b.gather(offsets, b.const(i, np.int64), axis=3), start)
        axes.append(_linear_taps(b, at, space[i], dtype))
    image = _shaped(b, to(b, x.name, site.dtype(0), dtype), -1, channels // parts, *space)
    rows = pixel_rows(b, image, 2, True)
    pixels = _times(b, *space)
    batch = b.mul(b.mul(axis_range(b, x, 0), b.const(parts, np.int64)), pixels)
    base = b.add(
        b.reshape(batch, -1, 1, 1, 1, 1),
        b.mul(b.const(np.arange(parts).reshape(1, parts, 1, 1, 1), np.int64), pixels),
    )
    lengths = [_number(b, s) for s in space]
    found = weighted_pixels(b, rows, base, axes, lengths, dtype)  # [N, parts, area, h, w, channels of a part]
    if site.has(4):
        mask = _shaped(b, to(b, site.x(4), site.dtype(4), dtype), -1, parts, area, *after, 1)
        found = b.mul(found, mask)
    turned = b.transpose(found, 0, 1, 5, 2, 3, 4)
    columns = _shaped(b, turned, -1, groups, channels // groups * area, _times(b, *after))
    weights = b.reshape(to(b, kernel.name, site.dtype(1), dtype), groups, out // groups, -1)
    result = _shaped(b, b.op("MatMul", weights, columns), -1, out, *after)
    if site.has(3):
        result = b.add(result, b.reshape(to(b, site.x(3), site.dtype(3), dtype), 1, out, 1, 1))
    return to(b, result, dtype, site.dtype(0))


def _number(b: Body, value: int | str) -> str:
    """A number, known or computed, as an int64 of rank 0."""
    return b.const(value, np.int64) if isinstance(value, int) else b.reshape(value)


def _times(b: Body, one: int | str, two: int | str) -> str:
    """The product of two numbers as an int64 of rank 0."""
    if isinstance(one, int) and isinstance(two, int):
        return b.const(one * two, np.int64)
    return b.mul(_number(b, one), _number(b, two))


def _shaped(b: Body, value: str, *dims: int | str) -> str:
    """A reshape to dims that are known or computed."""
    parts = [b.ints(d) if isinstance(d, int) else b.reshape(d, 1) for d in dims]
    return b.op("Reshape", value, b.concat(parts, 0))


def _starts(b: Body, count: int | str, stride: int, shape: Sequence[int], inner: Any, dtype: Any) -> str:
    """Where each tap of each window begins, without its offset."""
    if isinstance(count, int):
        return b.const((np.arange(count) * stride).reshape(shape) + inner, dtype)
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    steps = b.mul(b.op("Range", zero, _number(b, count), one), b.const(stride, np.int64))
    return b.cast(b.add(b.reshape(steps, *shape), b.const(inner, np.int64)), dtype)


def _linear_taps(b: Body, at: str, size: int | str, dtype: Any) -> list[Tap]:
    """Both pixels around a place; beyond the image there are zeros."""
    low = b.op("Floor", at)
    part = b.sub(at, low)
    zero, one = b.const(0, dtype), b.const(1, dtype)
    last = b.const(size - 1, dtype) if isinstance(size, int) else b.sub(b.cast(_number(b, size), dtype), one)
    found = []
    for place, weight in ((low, b.sub(one, part)), (b.add(low, one), part)):
        index = b.cast(clamp(b, place, zero, last), np.int64)
        found.append(Tap(index, weight, within(b, place, zero, last)))
    return found
