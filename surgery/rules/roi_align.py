"""RoiAlign: means, or maxima, of samples within the bins of boxes on feature maps of any size.

Source: RoiAlign of the ONNX operator set, 10 to 22, as ONNX Runtime computes it (a maximum is that of the weighted
pixels of all samples of a bin).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.precision import inner_dtype, to
from surgery.rules.sampling.pixels import Tap, pixel_rows, weighted_pixels, within
from surgery.rules.sizes import axis_range, axis_size, clamp

CANDIDATES = 6
"""Samples of an adaptive bin that can touch a pixel: they are more than half a pixel apart."""

MOST_GATHERED = 4
"""Samples of a bin along an axis up to which each is gathered by itself."""

MOST_IN_STRIPS = 2**26
"""Elements that a product with the weights of rows may leave: box by row of bins, channel and column of the map."""


@dataclass(frozen=True)
class Bins:
    """The bins of all boxes along one axis, float tensors [boxes, 1] or [boxes, bins].

    Attributes:
        start: Where each bin starts.
        extent: Size of a bin.
        size: Pixels of the map, a number [] of the same dtype.
        length: The same as int64 [].
        pixels: 0, 1, ... for each pixel, [pixels] of the same dtype.
        count: Bins.
    """

    start: str
    extent: str
    size: str
    length: str
    pixels: str
    count: int


def _bins(site: Site, b: Body, axis: int, dtype: Any) -> Bins:
    """The bins along axis 2 or 3 of the maps."""
    count = int(site.attr("output_height" if axis == 2 else "output_width", 1))
    scale = b.const(float(site.attr("spatial_scale", 1.0)), dtype)
    half = site.opset >= 16 and site.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    boxes = to(b, site.x(1), site.dtype(1), dtype)
    corners = []
    for column in (3 - axis, 5 - axis):
        at = b.mul(b.gather(boxes, b.ints(column), axis=1), scale)
        corners.append(b.sub(at, b.const(0.5, dtype)) if half else at)
    extent = b.sub(corners[1], corners[0])
    if not half:
        extent = b.maximum(extent, b.const(1, dtype))
    extent = b.div(extent, b.const(count, dtype))
    start = b.add(corners[0], b.mul(extent, b.const(np.arange(count)[None], dtype)))
    known = _map_size(site, axis)
    length = axis_size(b, site.input(0), axis)
    if known is not None:
        size, pixels = b.const(known, dtype), b.const(np.arange(known), dtype)
    else:
        size, pixels = b.cast(length, dtype), b.cast(axis_range(b, site.input(0), axis), dtype)
    return Bins(start, extent, size, length, pixels, count)


def _map_size(site: Site, axis: int) -> int | None:
    dim = (site.input(0).shape or (None,) * 4)[axis]
    return dim if isinstance(dim, int) else None


def _channels(site: Site) -> int:
    channels = (site.input(0).shape or (None, None))[1]
    if not isinstance(channels, int):
        raise NoMatch("the number of channels is not known")
    return channels


def _touch(b: Body, at: str, bins: Bins, dtype: Any) -> str:
    """Weight of each pixel for samples at a place; samples more than a pixel outside count nothing."""
    inside = within(b, at, b.const(-1, dtype), bins.size)
    clamped = clamp(b, at, b.const(0, dtype), b.sub(bins.size, b.const(1, dtype)))
    distance = b.op("Abs", b.sub(clamped, bins.pixels))
    weight = b.maximum(b.sub(b.const(1, dtype), distance), b.const(0, dtype))
    return b.where(inside, weight, b.const(0, dtype))


def _bin_weights(b: Body, bins: Bins, ratio: int, dtype: Any) -> str:
    """[boxes, bins, pixels]: share of each pixel in the mean over a bin's samples."""
    start, extent = b.unsqueeze(bins.start, 2), b.unsqueeze(bins.extent, 2)
    total = ""
    if ratio > 0:
        step = b.div(extent, b.const(ratio, dtype))
        for k in range(ratio):
            at = b.add(start, b.mul(step, b.const(k + 0.5, dtype)))
            weight = _touch(b, at, bins, dtype)
            total = b.add(total, weight) if total else weight
        return b.div(total, b.const(ratio, dtype))
    count = b.op("Ceil", extent)
    divisor = b.maximum(count, b.const(1, dtype))
    step = b.div(extent, divisor)
    # Only the samples within a pixel's distance touch it; they follow each other.
    stride = b.maximum(step, b.const(0.5, dtype))
    first = b.sub(b.sub(bins.pixels, b.const(1, dtype)), b.add(start, b.mul(step, b.const(0.5, dtype))))
    number = b.maximum(b.op("Floor", b.div(first, stride)), b.const(0, dtype))
    for _ in range(CANDIDATES):
        at = b.add(start, b.mul(step, b.add(number, b.const(0.5, dtype))))
        weight = b.where(b.less(number, count), _touch(b, at, bins, dtype), b.const(0, dtype))
        total = b.add(total, weight) if total else weight
        number = b.add(number, b.const(1, dtype))
    return b.div(total, divisor)


_BOXES = [[0, 0, 7, 7], [1.2, 2.5, 5.1, 6.9], [-3, -2, 2, 12], [4, 4, 4.2, 4.1], [5, 6, 3, 2]]
_IMAGES = [0, 1, 1, 0, 1]
_MAPS = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 9)).astype(np.float32)


@lowering(
    "roialign-by-gathers",
    "RoiAlign",
    why="TensorRT-RTX has no RoiAlign. On large maps, and maps of free size, the pixels around each sample are"
    " gathered and weighted, which takes no more memory than the bins of all boxes.",
    samples=[
        Sample(
            """(float[2, 3, h, w] x, float[5, 4] r, int64[5] n) => (float[5, 3, 2, 3] y)
            { y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2> (x, r, n) }""",
            feeds={"x": _MAPS, "r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[b, 3, h, w] x, float[k, 4] r, int64[k] n) => (float[k, 3, 2, 1] y)
            { y = RoiAlign <output_height = 2, sampling_ratio = 1, spatial_scale = 0.5,
                            coordinate_transformation_mode = "output_half_pixel"> (x, r, n) }""",
            feeds={"x": _MAPS, "r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[1, 2, h, w] x, float[5, 4] r, int64[5] n) => (float[5, 2, 2, 3] y)
            { y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 3> (x, r, n) }""",
            opset=11,
            feeds={"x": _MAPS[:1, :2], "r": _BOXES, "n": [0] * 5},
        ),
        *samples_in(
            "float16 double",
            "(T[2, 3, h, w] x, T[5, 4] r, int64[5] n) => (T[5, 3, 2, 3] y) { y = RoiAlign "
            "<output_height = 2, output_width = 3, sampling_ratio = 2> (x, r, n) }",
            feeds={"x": _MAPS, "r": _BOXES, "n": _IMAGES},
        ),
    ],
    near_misses=[
        """(float[2, 3, h, 9] x, float[5, 4] r, int64[5] n) => (float[5, 3, 1, 1] y)
        { y = RoiAlign <mode = "max"> (x, r, n) }""",
        """(float[2, c, h, 9] x, float[5, 4] r, int64[5] n) => (float[5, c, 1, 1] y)
        { y = RoiAlign <sampling_ratio = 2> (x, r, n) }""",
    ],
    rank=-1,
)
def roialign_by_gathers(site: Site, b: Body) -> str:
    """Four pixels for each sample, summed sample by sample."""
    ratio = int(site.attr("sampling_ratio", 0))
    if site.attr("mode", "avg") != "avg" or not 0 < ratio <= MOST_GATHERED:
        raise NoMatch("not the mean of a few samples")
    channels = _channels(site)
    sizes = [_map_size(site, axis) for axis in (2, 3)]
    boxes = (site.input(1).shape or (None,))[0]
    strips = (boxes if isinstance(boxes, int) else 1) * int(site.attr("output_height", 1)) * channels
    if all(s is not None for s in sizes) and strips * int(sizes[1] or 0) <= MOST_IN_STRIPS:
        raise NoMatch("a map of known size is small enough for products with weights")
    dtype = inner_dtype(site.dtype(0))
    rows, columns = _bins(site, b, 2, dtype), _bins(site, b, 3, dtype)
    taps = [_mean_taps(b, bins, ratio, axis, dtype) for bins, axis in ((rows, 2), (columns, 1))]
    pixels = pixel_rows(b, to(b, site.x(0), site.dtype(0), dtype), 2, False)
    total = weighted_pixels(
        b, pixels, _first_pixels(site, b, rows, columns), taps, [rows.length, columns.length], dtype
    )
    found = b.transpose(b.div(total, b.const(ratio * ratio, dtype)), 0, 3, 1, 2)
    return to(b, found, dtype, site.dtype(0))


def _first_pixels(site: Site, b: Body, rows: Bins, columns: Bins) -> str:
    """Number of the first pixel of each box's image, int64 [boxes, 1, 1]."""
    area = b.mul(rows.length, columns.length)
    return b.reshape(b.mul(b.cast(site.x(2), np.int64), area), -1, 1, 1)


def _mean_taps(b: Body, bins: Bins, ratio: int, axis: int, dtype: Any) -> list[Tap]:
    """Both pixels around each sample of every bin, with a dim of 1 at `axis`; samples outside have no weight."""
    step = b.div(bins.extent, b.const(ratio, dtype))
    found = []
    for k in range(ratio):
        at = b.unsqueeze(b.add(bins.start, b.mul(step, b.const(k + 0.5, dtype))), axis)
        taps, inside = _neighbours(b, at, bins, dtype)
        zero = b.const(0, dtype)
        found += [Tap(t.place, b.where(inside, str(t.weight), zero), None) for t in taps]
    return found


def _neighbours(b: Body, at: str, bins: Bins, dtype: Any) -> tuple[list[Tap], str]:
    """Both pixels around places, and which places count."""
    last, zero, one = b.sub(bins.size, b.const(1, dtype)), b.const(0, dtype), b.const(1, dtype)
    inside = within(b, at, b.const(-1, dtype), bins.size)
    at = clamp(b, at, zero, last)
    low = b.op("Floor", at)
    part = b.sub(at, low)
    high = b.minimum(b.add(low, one), last)
    return [
        Tap(b.cast(low, np.int64), b.sub(one, part), None),
        Tap(b.cast(high, np.int64), part, None),
    ], inside


@lowering(
    "roialign-by-weights",
    "RoiAlign",
    why="TensorRT-RTX has no RoiAlign. The mean over the samples of a bin is a product with weights of rows and one"
    " with weights of columns, also where the number of samples depends on the box.",
    samples=[
        Sample(
            """(float[2, 3, 8, 9] x, float[5, 4] r, int64[5] n) => (float[5, 3, 2, 3] y)
            { y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2> (x, r, n) }""",
            feeds={"r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[2, 3, 8, 9] x, float[5, 4] r, int64[5] n) => (float[5, 3, 3, 2] y)
            { y = RoiAlign <output_height = 3, output_width = 2, spatial_scale = 1.5> (x, r, n) }""",
            feeds={"r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[2, 3, h, w] x, float[k, 4] r, int64[k] n) => (float[k, 3, 3, 2] y)
            { y = RoiAlign <output_height = 3, output_width = 2, spatial_scale = 1.5> (x, r, n) }""",
            feeds={"x": _MAPS, "r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[b, 1, 8, 9] x, float[k, 4] r, int64[k] n) => (float[k, 1, 1, 2] y)
            { y = RoiAlign <output_width = 2, coordinate_transformation_mode = "output_half_pixel"> (x, r, n) }""",
            feeds={"r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(double[1, 2, 8, 9] x, double[5, 4] r, int64[5] n) => (double[5, 2, 2, 2] y)
            { y = RoiAlign <output_height = 2, output_width = 2> (x, r, n) }""",
            opset=11,
            feeds={"r": _BOXES, "n": [0, 0, 0, 0, 0]},
        ),
        Sample(
            """(float[2, 3, 8, 9] x, float[5, 4] r, int64[5] n) => (float[5, 3, 2, 3] y)
            { y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2, mode = "max"> (x, r, n) }""",
            feeds={"r": _BOXES, "n": _IMAGES},
        ),
        Sample(
            """(float[2, 3, h, w] x, float[k, 4] r, int64[k] n) => (float[k, 3, 2, 3] y)
            { y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2, mode = "max"> (x, r, n) }""",
            feeds={"x": _MAPS, "r": _BOXES, "n": _IMAGES},
        ),
        *samples_in(
            "float16",
            "(T[2, 3, 8, 9] x, T[5, 4] r, int64[5] n) => (T[5, 3, 2, 3] y) { y = RoiAlign "
            "<output_height = 2, output_width = 3, sampling_ratio = 2> (x, r, n) }",
            feeds={"r": _BOXES, "n": _IMAGES},
        ),
    ],
    near_misses=[
        """(float[2, c, 8, 9] x, float[5, 4] r, int64[5] n) => (float[5, c, 1, 1] y)
        { y = RoiAlign (x, r, n) }""",
        """(float[2, 3, 8, 9] x, float[5, 4] r, int64[5] n) => (float[5, 3, 1, 1] y)
        { y = RoiAlign <mode = "max"> (x, r, n) }""",
    ],
)
def roialign(site: Site, b: Body) -> str:
    """Rows, then columns; for the maximum, sample by sample."""
    dtype = inner_dtype(site.dtype(0))
    channels = _channels(site)
    rows, columns = _bins(site, b, 2, dtype), _bins(site, b, 3, dtype)
    ratio = max(0, int(site.attr("sampling_ratio", 0)))
    x = to(b, site.x(0), site.dtype(0), dtype)
    if site.attr("mode", "avg") == "max":
        return to(b, _sampled_maximum(site, b, x, rows, columns, ratio, dtype), dtype, site.dtype(0))
    down, right = _bin_weights(b, rows, ratio, dtype), _bin_weights(b, columns, ratio, dtype)
    return to(
        b, _weighted_mean(site, b, x, down, right, (rows, columns), channels, dtype), dtype, site.dtype(0)
    )


def _weighted_mean(
    site: Site, b: Body, x: str, down: str, right: str, bins: tuple[Bins, Bins], channels: int, dtype: Any
) -> str:
    """[boxes, channels, rows, columns]. The image of a box is picked by weights of 0 and 1."""
    image, (rows, columns) = site.input(0), bins
    if (image.shape or ())[0] != 1:
        number = b.unsqueeze(b.cast(site.x(2), np.int64), 1)
        own = b.cast(b.equal(number, b.unsqueeze(axis_range(b, image, 0), 0)), dtype)  # [boxes, images]
        down = b.mul(b.unsqueeze(down, 2), b.unsqueeze(own, 1, 3))  # [boxes, bins, images, pixels]
    lines = b.op("Reshape", down, _shape(b, -1, _product(b, image, (0, 2))))
    pixels = b.op("Flatten", b.transpose(x, 0, 2, 1, 3), axis=2)  # [images x rows, channels x columns]
    width = (image.shape or ())[3]
    strips = b.op(
        "Reshape",
        b.op("MatMul", lines, pixels),
        _shape(b, -1, rows.count * channels, _dim(b, image, 3, width)),
    )
    cells = b.op("MatMul", strips, b.transpose(right, 0, 2, 1))
    return b.transpose(b.reshape(cells, -1, rows.count, channels, columns.count), 0, 2, 1, 3)


def _dim(b: Body, image: Operand, axis: int, known: Any) -> int | str:
    return known if isinstance(known, int) else axis_size(b, image, axis)


def _product(b: Body, image: Operand, axes: Sequence[int]) -> int | str:
    """Product of sizes: a number, or an int64 tensor of rank 0."""
    dims = [(image.shape or ())[a] for a in axes]
    if all(isinstance(d, int) for d in dims):
        return prod(int(d) for d in dims if isinstance(d, int))
    found = [axis_size(b, image, a) for a in axes if (image.shape or ())[a] != 1]
    result = found[0]
    for other in found[1:]:
        result = b.mul(result, other)
    return result


def _shape(b: Body, *dims: int | str) -> str:
    """A shape from numbers and int64 tensors of rank 0."""
    if all(isinstance(d, int) for d in dims):
        return b.ints(*(int(d) for d in dims))
    return b.concat([b.ints(d) if isinstance(d, int) else b.reshape(d, 1) for d in dims], 0)


def _sampled_maximum(site: Site, b: Body, x: str, rows: Bins, columns: Bins, ratio: int, dtype: Any) -> str:
    """The largest of the weighted pixels of all samples."""
    if ratio < 1:
        raise NoMatch("the number of samples depends on the boxes, and a maximum needs all of them")
    channels = _channels(site)
    sides = [_sample_taps(b, bins, ratio, axis, dtype) for bins, axis in ((rows, 2), (columns, 1))]
    base = _first_pixels(site, b, rows, columns)
    pixels = pixel_rows(b, x, 2, False)
    top = ""
    for row, column in product(*(taps for taps, _ in sides)):
        place = b.add(b.add(b.mul(row.place, columns.length), column.place), base)
        found = b.mul(
            b.gather(pixels, place, axis=0), b.unsqueeze(b.mul(str(row.weight), str(column.weight)), 3)
        )
        top = b.maximum(top, found) if top else found
    inside = b.unsqueeze(b.logical_and(sides[0][1], sides[1][1]), 3)
    top = b.where(inside, top, b.const(0, dtype))
    split = b.reshape(top, -1, rows.count, ratio, columns.count, ratio, channels)
    return b.transpose(b.reduce("ReduceMax", split, 2, 4, keepdims=False), 0, 3, 1, 2)


def _sample_taps(b: Body, bins: Bins, ratio: int, axis: int, dtype: Any) -> tuple[list[Tap], str]:
    """Both pixels around every sample of every bin, with a dim of 1 at `axis`; and which samples count."""
    step = b.unsqueeze(b.div(bins.extent, b.const(ratio, dtype)), 2)
    offsets = b.const((np.arange(ratio) + 0.5)[None, None], dtype)
    at = b.reshape(b.add(b.unsqueeze(bins.start, 2), b.mul(step, offsets)), -1, bins.count * ratio)
    return _neighbours(b, b.unsqueeze(at, axis), bins, dtype)
