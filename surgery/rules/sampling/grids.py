"""GridSample and AffineGrid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.precision import inner_dtype, to
from surgery.rules.sampling.pixels import CUBIC, Tap, pixel_rows, weighted_pixels, within
from surgery.rules.sizes import axis_range, axis_size, clamp

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
        length = b.cast(axis_size(b, x, axis), self.dtype)
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
        return b.where(within(b, place, side.low, side.high), place, folded)

    def taps(self, place: str, side: Side, weights: Any) -> list[Tap]:
        """The pixels around a place, and their weights in the given dtype."""
        b = self.b
        if self.mode == "nearest":
            return [self.tap(place, None, side)]
        low = b.op("Floor", place)
        part = to(b, b.sub(place, low), self.dtype, weights)
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
            inside = within(b, place, self.number(0), side.last)
        elif self.padding == "reflection":
            place = self.reflected(place, side)
        index = b.cast(clamp(b, place, self.number(0), side.last), np.int64)
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
    grid = Grid(site, b, inner_dtype(site.dtype(1)))
    dtype = site.dtype(0) if grid.mode == "nearest" else inner_dtype(site.dtype(0))
    if site.kind(0) != "f" and grid.mode != "nearest":
        raise NoMatch("whole numbers are not interpolated")
    places = to(b, site.x(1), site.dtype(1), grid.dtype)
    sides = [grid.side(x, k + 2) for k in range(spatial)]
    at = []
    for k in range(spatial):  # the last axis of the image is the first coordinate
        coordinate = b.gather(places, b.const(spatial - 1 - k, np.int64), axis=-1)
        place = grid.place(coordinate, sides[k])
        at.append(b.op("Round", place) if grid.mode == "nearest" else place)
    taps = [grid.taps(p, s, dtype) for p, s in zip(at, sides, strict=True)]
    sizes = [axis_size(b, x, k + 2) for k in range(spatial)]
    rows = pixel_rows(b, to(b, x.name, site.dtype(0), dtype), spatial, grid.padding == "zeros")
    starts = b.reshape(b.mul(axis_range(b, x, 0), reduce(b.mul, sizes)), -1, *[1] * spatial)
    found = weighted_pixels(b, rows, starts, taps, sizes, dtype)
    turned = b.transpose(found, 0, spatial + 1, *range(1, spatial + 1))
    return to(b, turned, dtype, site.dtype(0))


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
    dtype = inner_dtype(site.dtype(0))
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
    theta = to(b, b.transpose(site.x(0), 0, 2, 1), site.dtype(0), dtype)
    moved = b.op("MatMul", b.const(points, dtype), theta)
    return to(b, b.reshape(moved, -1, *dims, len(dims)), dtype, site.dtype(0))


def _grid_sizes(site: Site) -> list[int]:
    """Spatial sizes of the grid."""
    given = site.input(1).value
    if given is not None:
        return [int(d) for d in given[2:]]
    shape = (site.out(0).shape or ())[1:-1]
    if shape and all(isinstance(d, int) for d in shape):
        return [int(d) for d in shape if isinstance(d, int)]
    return [int(d) for d in site.need(1, "the size of the grid")[2:]]
