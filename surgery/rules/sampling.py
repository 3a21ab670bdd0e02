"""Sampling an image at computed places, and moving its pixels: grids, boxes, deformed kernels, blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site

CUBIC = -0.75
"""Coefficient of cubic interpolation, as in PyTorch and ONNX Runtime."""


def _size(b: Body, x: Operand, axis: int) -> str:
    """A size as an int64 tensor."""
    size = (x.shape or ())[axis]
    if isinstance(size, int):
        return b.const(size, np.int64)
    return b.gather(b.op("Shape", x.name), b.const(axis, np.int64), axis=0)


def _numbers(b: Body, x: Operand, axis: int) -> str:
    """0, 1, ... up to a size, int64."""
    size = (x.shape or ())[axis]
    if isinstance(size, int):
        return b.const(np.arange(size), np.int64)
    return b.op("Range", b.const(0, np.int64), _size(b, x, axis), b.const(1, np.int64))


def _inner(dtype: Any) -> Any:
    """The dtype to compute in: at least float32."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def _as(b: Body, x: str, given: Any, wanted: Any) -> str:
    return x if given == wanted else b.cast(x, wanted)


@dataclass(frozen=True)
class Tap:
    """Pixels along one axis: their numbers (int64, inside), weights, and which are inside (None: all).

    Attributes:
        place: Numbers of pixels.
        weight: Their weights, or None for 1.
        inside: Whether they were inside before they were brought there, or None if that does not matter.
    """

    place: str
    weight: str | None
    inside: str | None


def _rows(b: Body, x: str, spatial: int, zero: bool) -> str:
    """[N, C, ...] as one row of channels per pixel; with `zero`, after a row of zeros."""
    order = [0, *range(2, spatial + 2), 1]
    rows = b.op("Flatten", b.transpose(x, *order), axis=spatial + 1)
    return b.op("Pad", rows, b.ints(1, 0, 0, 0)) if zero else rows


def weighted_pixels(
    b: Body, rows: str, base: str, axes: Sequence[Sequence[Tap]], sizes: Sequence[str], dtype: Any
) -> str:
    """Sum over all combinations of taps of pixels times weights: the shape of the taps, and channels last.

    Args:
        b: The builder.
        rows: One row per pixel, after a row of zeros if taps can be outside.
        base: Number of the first pixel of each image, shaped to broadcast with the taps.
        axes: Taps of each axis.
        sizes: Sizes of the axes, int64.
        dtype: Of rows and weights.
    """
    total = ""
    for taps in product(*axes):
        place = ""
        for tap, size in zip(taps, sizes, strict=True):
            place = b.add(b.mul(place, size), tap.place) if place else tap.place
        place = b.add(place, base)
        outside = [t.inside for t in taps if t.inside is not None]
        if outside:
            inside = reduce(b.logical_and, outside)
            place = b.where(inside, b.add(place, b.const(1, np.int64)), b.const(0, np.int64))
        found = b.gather(rows, place, axis=0)
        weights = [t.weight for t in taps if t.weight is not None]
        if weights:
            weight = b.unsqueeze(reduce(b.mul, weights), -1)
            found = b.mul(found, weight)
        total = b.add(total, found) if total else found
    return total


def _clamped(b: Body, x: str, low: str, high: str) -> str:
    return b.maximum(b.minimum(x, high), low)


def _within(b: Body, x: str, low: str, high: str) -> str:
    return b.logical_not(b.logical_or(b.less(x, low), b.greater(x, high)))


# -- GridSample ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One axis of the sampled image, as tensors of the dtype of the coordinates."""

    last: str
    low: str
    high: str
    length: Any


class Grid:
    """The configuration of a GridSample."""

    def __init__(self, site: Site, b: Body, dtype: Any) -> None:
        self.b, self.dtype = b, dtype
        mode = site.attr("mode", "linear")
        self.mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
        self.padding = site.attr("padding_mode", "zeros")
        self.align = bool(site.attr("align_corners", 0))

    def number(self, value: float) -> str:
        """A constant of the dtype of the coordinates."""
        return self.b.const(value, self.dtype)

    def side(self, x: Operand, axis: int) -> Side:
        """The limits of an axis: pixels' centers, or, without align_corners, edges."""
        b = self.b
        size = (x.shape or ())[axis]
        if isinstance(size, int):
            edge = 0.0 if self.align else 0.5
            high = size - 1 + edge
            return Side(self.number(size - 1), self.number(-edge), self.number(high), size)
        length = b.cast(_size(b, x, axis), self.dtype)
        last = b.sub(length, self.number(1))
        if self.align:
            return Side(last, self.number(0), last, length)
        return Side(last, self.number(-0.5), b.sub(length, self.number(0.5)), length)

    def place(self, at: str, side: Side) -> str:
        """A coordinate in -1..1 as a place among the pixels."""
        b = self.b
        if self.align:
            return b.mul(b.div(b.add(at, self.number(1)), self.number(2)), side.last)
        length = side.length if isinstance(side.length, str) else self.number(side.length)
        scaled = b.mul(b.add(at, self.number(1)), length)
        return b.div(b.sub(scaled, self.number(1)), self.number(2))

    def reflected(self, place: str, side: Side) -> str:
        """A place mirrored at the limits as often as needed."""
        b = self.b
        if isinstance(side.length, int) and side.length == 1 and self.align:
            return b.mul(place, self.number(0))
        reach = b.sub(side.high, side.low)
        double = b.mul(reach, self.number(2))
        shifted = b.sub(place, side.low)
        rest = b.sub(shifted, b.mul(double, b.op("Floor", b.div(shifted, double))))
        folded = b.add(b.sub(reach, b.op("Abs", b.sub(rest, reach))), side.low)
        return b.where(_within(b, place, side.low, side.high), place, folded)

    def taps(self, place: str, side: Side, weights: Any) -> list[Tap]:
        """The pixels around a place, and their weights in the given dtype."""
        b = self.b
        if self.mode == "nearest":
            return [self.tap(place, None, side)]
        low = b.op("Floor", place)
        part = _as(b, b.sub(place, low), self.dtype, weights)
        one = b.const(1, weights)
        if self.mode == "linear":
            return [
                self.tap(low, b.sub(one, part), side),
                self.tap(b.add(low, self.number(1)), part, side),
            ]
        if self.mode != "cubic":
            raise NoMatch(f"mode {self.mode} is not known")
        rest = b.sub(one, part)
        found = [_cubic_far(b, part, weights), _cubic_near(b, part, weights)]
        found += [_cubic_near(b, rest, weights), _cubic_far(b, rest, weights)]
        return [self.tap(b.add(low, self.number(k - 1)), w, side) for k, w in enumerate(found)]

    def tap(self, place: str, weight: str | None, side: Side) -> Tap:
        """A pixel, brought back into the image."""
        b = self.b
        inside = None
        if self.padding == "zeros":
            inside = _within(b, place, self.number(0), side.last)
        elif self.padding == "reflection":
            place = self.reflected(place, side)
        index = b.cast(_clamped(b, place, self.number(0), side.last), np.int64)
        return Tap(index, weight, inside)


def _cubic_near(b: Body, t: str, dtype: Any) -> str:
    """Weight of a pixel at a distance t up to 1."""
    inner = b.sub(b.mul(t, b.const(CUBIC + 2, dtype)), b.const(CUBIC + 3, dtype))
    return b.add(b.mul(b.mul(inner, t), t), b.const(1, dtype))


def _cubic_far(b: Body, t: str, dtype: Any) -> str:
    """Weight of a pixel at a distance 1 + t, t up to 1."""
    far = b.add(t, b.const(1, dtype))
    inner = b.sub(b.mul(far, b.const(CUBIC, dtype)), b.const(5 * CUBIC, dtype))
    inner = b.add(b.mul(inner, far), b.const(8 * CUBIC, dtype))
    return b.sub(b.mul(inner, far), b.const(4 * CUBIC, dtype))


@lowering(
    "gridsample-by-gathers",
    "GridSample",
    why="What TensorRT's grid sampling does not take: each place is a weighted sum of gathered pixels, as in ONNX"
    " Runtime.",
    samples=[
        "(float[2, 3, 4, 5] x, float[2, 3, 2, 2] g) => (float[2, 3, 3, 2] y) { y = GridSample (x, g) }",
        """(float[n, 2, 4, 5] x, float[n, 3, 2, 2] g) => (float[n, 2, 3, 2] y)
        { y = GridSample <mode = "bicubic", padding_mode = "border"> (x, g) }""",
        """(float[1, 2, h, w] x, float[1, 3, 2, 2] g) => (float[1, 2, 3, 2] y)
        { y = GridSample <mode = "bicubic", padding_mode = "reflection", align_corners = 1> (x, g) }""",
        """(float[1, 2, 4, 5] x, float[1, 9, 8, 2] g) => (float[1, 2, 9, 8] y)
        { y = GridSample <mode = "nearest", padding_mode = "reflection"> (x, g) }""",
        Sample(
            """(float[2, 1, 3, 4, 5] x, float[2, 2, 2, 3, 3] g) => (float[2, 1, 2, 2, 3] y)
            { y = GridSample <mode = "linear", padding_mode = "reflection"> (x, g) }""",
            opset=20,
        ),
        Sample(
            """(double[2, 1, 4, 5] x, double[2, 2, 3, 2] g) => (double[2, 1, 2, 3] y)
            { y = GridSample <mode = "cubic", align_corners = 1> (x, g) }""",
            opset=20,
        ),
        """(float16[1, 2, 4, 5] x, float16[1, 3, 2, 2] g) => (float16[1, 2, 3, 2] y)
        { y = GridSample <padding_mode = "border"> (x, g) }""",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64",
            "(T[1, 2, 4, 5] x, float[1, 9, 8, 2] g) => (T[1, 2, 9, 8] y) { y = GridSample <mode = "
            '"nearest", padding_mode = "reflection"> (x, g) }',
        ),
    ],
    near_misses=[
        "(string[1, 2, 4, 5] x, float[1, 3, 2, 2] g) => (string[1, 2, 3, 2] y) { y = GridSample (x, g) }"
    ],
)
def gridsample(site: Site, b: Body) -> str:
    """Gather the pixels around every place of the grid."""
    x = site.input(0)
    spatial = x.rank - 2
    if site.kind(0) not in "fiu":
        raise NoMatch("not an image of numbers")
    grid = Grid(site, b, _inner(site.dtype(1)))
    dtype = site.dtype(0) if grid.mode == "nearest" else _inner(site.dtype(0))
    if site.kind(0) != "f" and grid.mode != "nearest":
        raise NoMatch("whole numbers are not interpolated")
    places = _as(b, site.x(1), site.dtype(1), grid.dtype)
    sides = [grid.side(x, k + 2) for k in range(spatial)]
    at = []
    for k in range(spatial):  # the last axis of the image is the first coordinate
        coordinate = b.gather(places, b.const(spatial - 1 - k, np.int64), axis=-1)
        place = grid.place(coordinate, sides[k])
        at.append(b.op("Round", place) if grid.mode == "nearest" else place)
    taps = [grid.taps(p, s, dtype) for p, s in zip(at, sides, strict=True)]
    sizes = [_size(b, x, k + 2) for k in range(spatial)]
    rows = _rows(b, _as(b, x.name, site.dtype(0), dtype), spatial, grid.padding == "zeros")
    starts = b.reshape(b.mul(_numbers(b, x, 0), reduce(b.mul, sizes)), -1, *[1] * spatial)
    found = weighted_pixels(b, rows, starts, taps, sizes, dtype)
    turned = b.transpose(found, 0, spatial + 1, *range(1, spatial + 1))
    return _as(b, turned, dtype, site.dtype(0))


# -- AffineGrid ---------------------------------------------------------------------------------------


@lowering(
    "affinegrid-by-product",
    "AffineGrid",
    why="No TensorRT has AffineGrid. The corners' grid is constant; a product with theta moves it.",
    samples=[
        Sample(
            """(float[2, 2, 3] t) => (float[2, 4, 5, 2] y) <int64[4] s = {2, 1, 4, 5}>
            { y = AffineGrid (t, s) }""",
            opset=20,
        ),
        Sample(
            """(float[2, 3, 4] t, int64[5] s) => (float[2, 3, 4, 5, 3] y)
            { y = AffineGrid <align_corners = 1> (t, s) }""",
            opset=20,
            feeds={"s": [2, 1, 3, 4, 5]},
        ),
        Sample(
            """(double[2, 2, 3] t) => (double[2, 1, 3, 2] y) <int64[4] s = {2, 1, 1, 3}>
            { y = AffineGrid <align_corners = 1> (t, s) }""",
            opset=20,
        ),
        *samples_in(
            "float16",
            "(T[2, 2, 3] t) => (T[2, 4, 5, 2] y) <int64[4] s = {2, 1, 4, 5}> { y = AffineGrid (t, s) }",
            opset=20,
        ),
    ],
    near_misses=[
        Sample("(float[n, 2, 3] t, int64[4] s) => (float[n, h, w, 2] y) { y = AffineGrid (t, s) }", opset=20)
    ],
)
def affinegrid(site: Site, b: Body) -> str:
    """Product of the corners' grid and theta."""
    dims = _grid_sizes(site)
    dtype = _inner(site.dtype(0))
    align = bool(site.attr("align_corners", 0))
    lines = []
    for size in dims:
        steps = np.arange(size, dtype=np.float64)
        if align:
            lines.append(-1 + 2 * steps / (size - 1) if size > 1 else np.ones(1))
        else:
            lines.append((2 * steps + 1) / size - 1)
    mesh = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*(m.reshape(-1) for m in reversed(mesh)), np.ones(prod(dims))], axis=1)
    theta = _as(b, b.transpose(site.x(0), 0, 2, 1), site.dtype(0), dtype)
    moved = b.op("MatMul", b.const(points, dtype), theta)
    return _as(b, b.reshape(moved, -1, *dims, len(dims)), dtype, site.dtype(0))


def _grid_sizes(site: Site) -> list[int]:
    """Spatial sizes of the grid."""
    given = site.input(1).value
    if given is not None:
        return [int(d) for d in given[2:]]
    shape = (site.out(0).shape or ())[1:-1]
    if shape and all(isinstance(d, int) for d in shape):
        return [int(d) for d in shape if isinstance(d, int)]
    return [int(d) for d in site.need(1, "the size of the grid")[2:]]


# -- DeformConv ---------------------------------------------------------------------------------------


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
        space = [_size(b, x, 2), _size(b, x, 3)]
        after = [_size(b, site.input(2), 2), _size(b, site.input(2), 3)]
    dtype = _inner(site.dtype(0))
    parts = int(site.attr("offset_group", 1))
    area = prod(taps)

    offsets = _shaped(b, _as(b, site.x(2), site.dtype(2), dtype), -1, parts, area, 2, *after)
    axes = []
    for i in range(2):
        inner = np.unravel_index(np.arange(area), taps)[i] * dilations[i] - pads[i]
        shape = [1, 1, 1, -1, 1] if i == 0 else [1, 1, 1, 1, -1]
        start = _starts(b, after[i], strides[i], shape, inner.reshape(1, 1, area, 1, 1), dtype)
        at = b.add(b.gather(offsets, b.const(i, np.int64), axis=3), start)
        axes.append(_linear_taps(b, at, space[i], dtype))
    image = _shaped(b, _as(b, x.name, site.dtype(0), dtype), -1, channels // parts, *space)
    rows = _rows(b, image, 2, True)
    pixels = _times(b, *space)
    batch = b.mul(b.mul(_numbers(b, x, 0), b.const(parts, np.int64)), pixels)
    base = b.add(
        b.reshape(batch, -1, 1, 1, 1, 1),
        b.mul(b.const(np.arange(parts).reshape(1, parts, 1, 1, 1), np.int64), pixels),
    )
    lengths = [_number(b, s) for s in space]
    found = weighted_pixels(b, rows, base, axes, lengths, dtype)  # [N, parts, area, h, w, channels of a part]
    if site.has(4):
        mask = _shaped(b, _as(b, site.x(4), site.dtype(4), dtype), -1, parts, area, *after, 1)
        found = b.mul(found, mask)
    turned = b.transpose(found, 0, 1, 5, 2, 3, 4)
    columns = _shaped(b, turned, -1, groups, channels // groups * area, _times(b, *after))
    weights = b.reshape(_as(b, kernel.name, site.dtype(1), dtype), groups, out // groups, -1)
    result = _shaped(b, b.op("MatMul", weights, columns), -1, out, *after)
    if site.has(3):
        result = b.add(result, b.reshape(_as(b, site.x(3), site.dtype(3), dtype), 1, out, 1, 1))
    return _as(b, result, dtype, site.dtype(0))


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
        index = b.cast(_clamped(b, place, zero, last), np.int64)
        found.append(Tap(index, weight, _within(b, place, zero, last)))
    return found


# -- Col2Im -------------------------------------------------------------------------------------------


@lowering(
    "col2im-by-gather",
    "Col2Im",
    why="No TensorRT has Col2Im. Which columns add up to a pixel is known, so each pixel gathers and adds them.",
    samples=[
        """(float[n, 8, 4] x) => (float[n, 2, 4, 4] y) <int64[2] i = {4, 4}, int64[2] k = {2, 2}>
        { y = Col2Im <strides = [2, 2]> (x, i, k) }""",
        """(float[1, 6, 25] x) => (float[1, 1, 5, 6] y) <int64[2] i = {5, 6}, int64[2] k = {2, 3}>
        { y = Col2Im <pads = [0, 1, 1, 0]> (x, i, k) }""",
        """(float16[2, 8, 9] x) => (float16[2, 2, 5, 5] y) <int64[2] i = {5, 5}, int64[2] k = {2, 2}>
        { y = Col2Im <dilations = [2, 2]> (x, i, k) }""",
        Sample(
            """(double[1, 8, 12] x, int64[3] i) => (double[1, 1, 3, 4, 3] y) <int64[3] k = {2, 2, 2}>
            { y = Col2Im (x, i, k) }""",
            feeds={"i": [3, 4, 3]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 bool",
            "(T[n, 8, 4] x) => (T[n, 2, 4, 4] y) <int64[2] i = {4, 4}, int64[2] k = {2, 2}> { y = "
            "Col2Im <strides = [2, 2]> (x, i, k) }",
        ),
    ],
    near_misses=[
        """(float[1, 8, 9] x, int64[2] i) => (float[1, 2, h, w] y) <int64[2] k = {2, 2}>
        { y = Col2Im (x, i, k) }"""
    ],
)
def col2im(site: Site, b: Body) -> str:
    """Gather the columns of each pixel and add them up."""
    block = [int(k) for k in site.need(2, "the shape of the blocks")]
    image = _image_shape(site)
    n = len(image)
    strides, dilations = site.attr("strides") or [1] * n, site.attr("dilations") or [1] * n
    pads = site.attr("pads") or [0] * 2 * n
    counts = [
        (image[i] + pads[i] + pads[i + n] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(n)
    ]
    taps = np.stack([t.reshape(-1) for t in np.indices(block)], axis=1)
    steps = np.stack([t.reshape(-1) for t in np.indices(counts)], axis=1)
    at = steps[None] * strides - pads[:n] + taps[:, None] * dilations  # [taps, steps, n]
    inside = ((at >= 0) & (at < image)).all(axis=2).reshape(-1)
    pixels = np.ravel_multi_index(tuple(np.clip(at, 0, np.array(image) - 1).reshape(-1, n).T), image)
    columns = np.flatnonzero(inside)
    pixels = pixels[inside]
    order = np.argsort(pixels, kind="stable")
    columns, pixels = columns[order], pixels[order]
    first = np.searchsorted(pixels, np.arange(prod(image)))
    rank = np.arange(len(pixels)) - first[pixels]
    most = int(rank.max(initial=0)) + 1
    zero = len(taps) * len(steps)
    places = np.full((prod(image), most), zero, np.int64)
    places[pixels, rank] = columns
    dtype = _inner(site.dtype(0)) if site.kind(0) == "f" else site.dtype(0)
    x = _as(b, site.x(0), site.dtype(0), dtype)
    channels = _channels(site, len(taps))
    flat = b.reshape(x, -1, channels, zero)
    if (places == zero).any():
        flat = b.op("Pad", flat, b.ints(0, 0, 0, 0, 0, 1))
    total = b.reduce("ReduceSum", b.gather(flat, b.const(places, np.int64), axis=2), 3, keepdims=False)
    return _as(b, b.reshape(total, -1, channels, *image), dtype, site.dtype(0))


def _channels(site: Site, taps: int) -> int:
    rows = (site.input(0).shape or (None,) * 2)[1]
    if not isinstance(rows, int):
        raise NoMatch("the number of channels is not known")
    return rows // taps


def _image_shape(site: Site) -> list[int]:
    given = site.input(1).value
    if given is not None:
        return [int(d) for d in given]
    shape = (site.out(0).shape or ())[2:]
    if shape and all(isinstance(d, int) for d in shape):
        return [int(d) for d in shape if isinstance(d, int)]
    return [int(d) for d in site.need(1, "the shape of the image")]


# -- DepthToSpace, SpaceToDepth -----------------------------------------------------------------------


def _rearranged(
    b: Body, x: Operand, middle: Sequence[Any], order: Sequence[int], after: Sequence[Any]
) -> str:
    """Reshape, transpose, reshape; sizes are numbers, or (axis of x, factor, divisor)."""
    turned = b.transpose(b.op("Reshape", x.name, _shape(b, x, middle)), *order)
    return b.op("Reshape", turned, _shape(b, x, after))


def _shape(b: Body, x: Operand, sizes: Sequence[Any]) -> str:
    known: list[int | None] = []
    for size in sizes:
        if isinstance(size, int):
            known.append(size)
            continue
        axis, factor, divisor = size
        dim = x.dim(axis)
        known.append(dim * factor // divisor if isinstance(dim, int) else None)
    if known.count(None) <= 1:
        return b.ints(*(-1 if k is None else k for k in known))
    parts = []
    for size, number in zip(sizes, known, strict=True):
        if number is not None:
            parts.append(b.ints(number))
            continue
        axis, factor, divisor = size
        length = b.slice(b.op("Shape", x.name), 0, axis, axis + 1)
        length = length if factor == 1 else b.mul(length, b.ints(factor))
        parts.append(length if divisor == 1 else b.div(length, b.ints(divisor)))
    return b.concat(parts, 0)


def _to_space(site: Site, b: Body) -> str:
    n = int(site.attr("blocksize", 1))
    batch, depth, height, width = (0, 1, 1), (1, 1, n * n), (2, 1, 1), (3, 1, 1)
    crd = site.attr("mode", "DCR") == "CRD"
    middle = [batch, depth, n, n, height, width] if crd else [batch, n, n, depth, height, width]
    order = [0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2]
    return _rearranged(b, site.input(0), middle, order, [batch, depth, (2, n, 1), (3, n, 1)])


def _to_depth(site: Site, b: Body) -> str:
    n = int(site.attr("blocksize", 1))
    batch, channels, height, width = (0, 1, 1), (1, 1, 1), (2, 1, n), (3, 1, n)
    crd = site.attr("mode", "DCR") == "CRD"
    order = [0, 1, 3, 5, 2, 4] if crd else [0, 3, 5, 1, 2, 4]
    middle = [batch, channels, height, n, width, n]
    return _rearranged(b, site.input(0), middle, order, [batch, (1, n * n, 1), height, width])


@lowering(
    "blocks-in-crd-order",
    "DepthToSpace",
    "SpaceToDepth",
    why="TensorRT builds the CRD order and gives wrong numbers. It is a reshape, a transpose and a reshape.",
    when="always",
    samples=[
        """(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y)
        { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }""",
        """(float[n, 8, h, w] x) => (float[n, 2, p, q] y)
        { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }""",
        """(double[n, 18, 2, w] x) => (double[n, 2, 6, q] y)
        { y = DepthToSpace <blocksize = 3, mode = "CRD"> (x) }""",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 bool",
            '(T[1, 8, 2, 3] x) => (T[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
        ),
    ],
    near_misses=[
        "(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        "(float[1, 2, 4, 6] x) => (float[1, 8, 2, 3] y) { y = SpaceToDepth <blocksize = 2> (x) }",
    ],
)
def blocks_in_crd_order(site: Site, b: Body) -> str:
    """Blocks whose depth runs slowest."""
    if site.attr("mode", "DCR") != "CRD":
        raise NoMatch("the other order is computed as it should be")
    return _to_space(site, b) if site.op == "DepthToSpace" else _to_depth(site, b)


@lowering(
    "blocks-by-transpose",
    "DepthToSpace",
    "SpaceToDepth",
    why="What TensorRT does not take of them, such as other dtypes, is a reshape, a transpose and a reshape.",
    samples=[
        "(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        "(float[n, 2, h, w] x) => (float[n, 8, p, q] y) { y = SpaceToDepth <blocksize = 2> (x) }",
        "(double[1, 2, 4, 6] x) => (double[1, 8, 2, 3] y) { y = SpaceToDepth <blocksize = 2> (x) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 bool",
            "(T[1, 8, 2, 3] x) => (T[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        ),
    ],
    near_misses=["(float[8, 2, 3] x) => (float[8, 3, 2] y) { y = Transpose <perm = [0, 2, 1]> (x) }"],
)
def blocks_by_transpose(site: Site, b: Body) -> str:
    """Blocks in either order."""
    return _to_space(site, b) if site.op == "DepthToSpace" else _to_depth(site, b)
