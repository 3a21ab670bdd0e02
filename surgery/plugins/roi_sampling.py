"""Bilinear samples of feature maps under boxes: RoiAlign, crop and resize, and their forms over several levels.

TensorRT-RTX has no RoiAlign. Here the pixels of all images and levels lie in one table, rows of which are
gathered by number; so a box reads only the level it belongs to, and boxes of one image need no loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode

Pooling = Literal["mean", "max", "max-of-products"]
"""How the samples of a bin become one value; `max-of-products` takes the largest weighted pixel of all samples."""

UNROLLED = 4
"""Up to so many samples of a bin are written out one after the other; more take a loop."""

ENDLESS = 2**30
"""Trip count of a loop that ends by its condition."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where samples lie along one axis, for R boxes.

    Sample i of bin p is at ``start + step * p + step * (i + offset) / samples``, in pixels.

    Attributes:
        start: [R, 1] float32.
        step: [R, 1] float32, distance from bin to bin.
        bins: Number of bins.
        size: [R, 1] or scalar float32, pixels of the map.
        samples: Samples of a bin: their number, or the name of an [R, 1] float32 value.
        offset: See above.
        margin: Samples more than this many pixels outside the first or last pixel count as 0; None: samples
            are moved to the nearest pixel.
    """

    start: str
    step: str
    bins: int
    size: str
    samples: int | str = 1
    offset: float = 0.0
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Pixels:
    """Feature maps as one table.

    Attributes:
        rows: [images * per_image, channels] float32.
        channels: Number of channels.
        per_image: Pixels of one image, all levels together.
        sizes: (height, width) of each level.
    """

    rows: str
    channels: int
    per_image: int
    sizes: tuple[tuple[int, int], ...]

    @property
    def starts(self) -> list[int]:
        """Number of the first pixel of each level within an image."""
        areas = [h * w for h, w in self.sizes]
        return [sum(areas[:i]) for i in range(len(areas))]


@dataclass(frozen=True, slots=True)
class _Taps:
    """Two neighbouring pixels with weights, each [R, bins]; `inside` and `active` say which samples count."""

    places: tuple[str, str]
    weights: tuple[str, str]
    inside: str | None
    active: str | None


def pixel_table(b: Body, node: ConfiguredNode, inputs: Sequence[int]) -> Pixels:
    """The table of the maps [B, C, H, W] at these input positions; all but B have to be known numbers."""
    channels = node.static(inputs[0], 1)
    sizes, parts = [], []
    for i in inputs:
        height, width = node.static(i, 2), node.static(i, 3)
        turned = b.transpose(node.input_names[i], 0, 2, 3, 1)
        parts.append(b.reshape(turned, 0, height * width, channels))
        sizes.append((height, width))
    rows = b.reshape(b.concat(parts, 1), -1, channels)
    return Pixels(rows, channels, sum(h * w for h, w in sizes), tuple(sizes))


def size_of(b: Body, x: str, axis: int) -> str:
    """A dimension at run time, int64 [1]."""
    return b.slice(b.op("Shape", x), 0, axis, axis + 1)


def numbers(b: Body, x: str, axis: int = 0) -> str:
    """0, 1, 2, ... along a dimension that may be open, int64 [n]."""
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    return b.op("Range", zero, b.squeeze(size_of(b, x, axis), 0), one)


def image_numbers(b: Body, x: str, boxes: int) -> str:
    """For boxes [B, boxes, ...] in one row each: the image that each belongs to, int64 [B * boxes]."""
    images = b.unsqueeze(numbers(b, x), 1)
    return b.reshape(b.add(images, b.const(np.zeros((1, boxes)), np.int64)), -1)


def columns(b: Body, boxes: str, count: int = 4) -> list[str]:
    """The columns of [R, count], each [R, 1]."""
    return list(b.split(boxes, 1, count))


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Writes the rounds of one pooling; `base` is [R, 1, 1] int64, the first pixel of each box's map."""

    pixels: str
    base: str
    width: str
    rows: Axis
    cols: Axis
    pooling: Pooling
    empty: float

    def run(self, b: Body) -> str:
        """[R, bins, bins, channels]."""
        down, right = self.rows.samples, self.cols.samples
        zero = b.scalar(0.0)
        value, active = self._sample(b, zero, zero)
        first = value if active is None else b.where(active, value, b.scalar(self._neutral()))
        if isinstance(down, int) and isinstance(right, int):
            total = self._fixed(b, first, down, right)
        else:
            total = self._looped(b, first, down, right)
        if self.pooling == "mean":
            if isinstance(down, int) and isinstance(right, int):
                return total if down * right == 1 else b.div(total, b.scalar(float(down * right)))
            number = b.mul(self._count(b, down), self._count(b, right))
            return b.div(total, b.unsqueeze(b.maximum(number, b.scalar(1.0)), 2, 3))
        if self.empty == SMALLEST or (isinstance(down, int) and isinstance(right, int)):
            return total
        number = b.minimum(self._count(b, down), self._count(b, right))
        some = b.unsqueeze(b.greater(number, zero), 2, 3)
        return b.where(some, total, b.scalar(self.empty))

    def _neutral(self) -> float:
        return 0.0 if self.pooling == "mean" else SMALLEST

    @staticmethod
    def _most(b: Body, samples: int | str) -> str:
        if isinstance(samples, int):
            return b.scalar(float(samples))
        return b.reduce("ReduceMax", samples, 0, 1, keepdims=False)

    @staticmethod
    def _count(b: Body, samples: int | str) -> str:
        return b.const([[samples]]) if isinstance(samples, int) else samples

    def _fixed(self, b: Body, first: str, down: int, right: int) -> str:
        number, total = down * right, first
        if number <= UNROLLED:
            for sample in range(1, number):
                total = self._joined(b, total, b.scalar(sample // right), b.scalar(sample % right))
            return total
        inner = b.nested()
        step, go, carried = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("total")
        k = inner.add(inner.cast(step, np.float32), b.scalar(1.0))
        after = self._at(inner, carried, k, b.scalar(float(right)))
        graph = inner.subgraph(
            "one_sample_of_every_bin",
            [(step, np.int64), (go, np.bool_), (carried, np.float32)],
            [(inner.always(), np.bool_), (after, np.float32)],
        )
        return b.loop(number - 1, [first], graph)[0]

    def _looped(self, b: Body, first: str, down: int | str, right: int | str) -> str:
        """As many rounds as the box with the most samples needs; the others sit rounds out."""
        most_down = self._most(b, down)
        most_right = b.maximum(self._most(b, right), b.scalar(1.0))
        last = b.sub(b.mul(most_down, most_right), b.scalar(1.5))
        inner = b.nested()
        step, go, carried = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("total")
        k = inner.add(inner.cast(step, np.float32), b.scalar(1.0))
        after = self._at(inner, carried, k, most_right)
        more = inner.less(k, last)
        graph = inner.subgraph(
            "one_sample_of_every_bin",
            [(step, np.int64), (go, np.bool_), (carried, np.float32)],
            [(more, np.bool_), (after, np.float32)],
        )
        return b.loop(ENDLESS, [first], graph, conditional=True)[0]

    def _at(self, b: Body, total: str, k: str, right: str) -> str:
        row = b.op("Floor", b.div(k, right))
        return self._joined(b, total, row, b.sub(k, b.mul(row, right)))

    def _joined(self, b: Body, total: str, row: str, column: str) -> str:
        value, active = self._sample(b, row, column)
        if self.pooling == "mean":
            value = value if active is None else b.where(active, value, b.scalar(0.0))
            return b.add(total, value)
        value = value if active is None else b.where(active, value, b.scalar(SMALLEST))
        return b.maximum(total, value)

    def _sample(self, b: Body, row: str, column: str) -> tuple[str, str | None]:
        """One sample of every bin, [R, bins, bins, channels], and whether the box has it, [R, 1, 1, 1]."""
        down, right = self._taps(b, self.rows, row), self._taps(b, self.cols, column)
        result = ""
        for y, wy in zip(down.places, down.weights, strict=True):
            line = b.mul(b.unsqueeze(y, 2), self.width)
            for x, wx in zip(right.places, right.weights, strict=True):
                place = b.cast(b.add(line, b.unsqueeze(x, 1)), np.int64)
                found = b.gather(self.pixels, b.add(place, self.base), axis=0)
                weight = b.unsqueeze(b.mul(b.unsqueeze(wy, 2), b.unsqueeze(wx, 1)), 3)
                value = b.mul(found, weight)
                join = b.maximum if self.pooling == "max-of-products" else b.add
                result = join(result, value) if result else value
        inside = None
        for mask, axis in ((down.inside, 2), (right.inside, 1)):
            if mask is not None:
                wide = b.unsqueeze(mask, axis, 3)
                inside = wide if inside is None else b.logical_and(inside, wide)
        if inside is not None:
            result = b.where(inside, result, b.scalar(0.0))
        masks = [b.unsqueeze(m, 2, 3) for m in (down.active, right.active) if m is not None]
        if len(masks) == 2:
            return result, b.logical_and(*masks)
        return result, masks[0] if masks else None

    @staticmethod
    def _taps(b: Body, axis: Axis, number: str) -> _Taps:
        share = b.add(number, b.scalar(axis.offset))
        active = None
        if isinstance(axis.samples, str):
            active = b.less(number, axis.samples)
            share = b.div(share, b.maximum(axis.samples, b.scalar(1.0)))
        elif axis.samples > 1:
            share = b.div(share, b.scalar(float(axis.samples)))
        bins = b.const(np.arange(axis.bins).reshape(1, -1))
        at = b.add(b.add(axis.start, b.mul(axis.step, bins)), b.mul(axis.step, share))
        last, zero, one = b.sub(axis.size, b.scalar(1.0)), b.scalar(0.0), b.scalar(1.0)
        inside = None
        if axis.margin is not None:
            limit = b.scalar(axis.margin)
            low_enough = b.greater_equal(b.add(last, limit), at)
            inside = b.logical_and(low_enough, b.greater_equal(at, b.scalar(-axis.margin)))
        at = b.minimum(b.maximum(at, zero), last)
        low = b.op("Floor", at)
        part = b.sub(at, low)
        high = b.minimum(b.add(low, one), last)
        return _Taps((low, high), (b.sub(one, part), part), inside, active)


def sample_boxes(
    b: Body,
    pixels: Pixels,
    images: str,
    rows: Axis,
    cols: Axis,
    *,
    level: str | None = None,
    pooling: Pooling = "mean",
    empty: float = 0.0,
) -> str:
    """Pooled values of every box, [R, channels, rows.bins, cols.bins].

    Args:
        b: Where the nodes go.
        pixels: The maps.
        images: int64 [R], image of each box.
        rows: Sample positions downwards.
        cols: Sample positions to the right.
        level: int64 [R], level of each box; None with one level.
        pooling: What becomes of a bin's samples.
        empty: Value of a bin without a sample, with a maximum (a mean is 0 there).
    """
    base = b.mul(images, b.const(pixels.per_image, np.int64))
    if level is None:
        width = b.scalar(float(pixels.sizes[0][1]))
    else:
        base = b.add(base, b.gather(b.const(pixels.starts, np.int64), level, axis=0))
        widths = b.const([float(w) for _, w in pixels.sizes])
        width = b.unsqueeze(b.gather(widths, level, axis=0), 1, 2)
    sampler = _Sampler(pixels.rows, b.unsqueeze(base, 1, 2), width, rows, cols, pooling, empty)
    return b.transpose(sampler.run(b), 0, 3, 1, 2)


def level_sizes(b: Body, pixels: Pixels, level: str) -> tuple[str, str]:
    """Height and width of each box's level, [R, 1] float32 each."""
    return tuple(  # type: ignore[return-value]
        b.unsqueeze(b.gather(b.const([float(s[i]) for s in pixels.sizes]), level, axis=0), 1) for i in (0, 1)
    )


def level_above(b: Body, value: str, limits: Sequence[float], *, reaches: bool = False) -> str:
    """How many of the rising limits a value [R, 1] exceeds (or reaches), int64 [R]."""
    test = b.greater_equal if reaches else b.greater
    passed = b.cast(test(value, b.const([limits])), np.float32)  # [R, limits]
    return b.cast(b.reduce("ReduceSum", passed, 1, keepdims=False), np.int64)


def aligned_axis(
    b: Body,
    low: str,
    high: str,
    *,
    bins: int,
    size: str,
    sampling_ratio: int,
    half_pixel: bool,
    clamp_negative: bool = False,
) -> Axis:
    """The axis of RoiAlign between two coordinates [R, 1] that are already scaled to the map.

    Args:
        b: Where the nodes go.
        low: Start of the box.
        high: End of the box.
        bins: Number of bins.
        size: Pixels of the map.
        sampling_ratio: Samples of a bin; 0 for as many as a bin has pixels, rounded up.
        half_pixel: Coordinates are shifted by half a pixel; else a box is at least a pixel wide.
        clamp_negative: With `half_pixel`, a box with its ends swapped counts as empty.
    """
    if half_pixel:
        half = b.scalar(0.5)
        low, high = b.sub(low, half), b.sub(high, half)
    extent = b.sub(high, low)
    if not half_pixel:
        extent = b.maximum(extent, b.scalar(1.0))
    elif clamp_negative:
        extent = b.maximum(extent, b.scalar(0.0))
    step = b.div(extent, b.scalar(float(bins)))
    samples: int | str = sampling_ratio if sampling_ratio > 0 else b.op("Ceil", step)
    return Axis(low, step, bins, size, samples, offset=0.5, margin=1.0)


def int64(b: Body, x: str) -> str:
    """Whole numbers of any kind as int64."""
    return b.cast(x, np.int64)


def emit_crops(b: Body, node: ConfiguredNode) -> str:
    """The body of CropAndResize and CropAndResizeDynamic, [B, R, C, crop_height, crop_width].

    Source: plugin/common/kernels/cropAndResizeKernel.cu of NVIDIA/TensorRT, release/10.13.
    """
    pixels = pixel_table(b, node, [0])
    number = node.static(1, 1)
    boxes = node.input_names[1]
    y1, x1, y2, x2 = columns(b, b.reshape(boxes, -1, 4))
    axes = []
    for low, high, size, attribute in (
        (y1, y2, pixels.sizes[0][0], "crop_height"),
        (x1, x2, pixels.sizes[0][1], "crop_width"),
    ):
        crop, last = node.attributes[attribute], b.scalar(size - 1.0)
        if crop > 1:
            start = b.mul(low, last)
            step = b.div(b.mul(b.sub(high, low), last), b.scalar(crop - 1.0))
        else:
            start = b.mul(b.mul(b.add(low, high), b.scalar(0.5)), last)
            step = b.mul(start, b.scalar(0.0))
        axes.append(Axis(start, step, crop, b.scalar(float(size)), margin=0.0))
    images = image_numbers(b, boxes, number)
    found = sample_boxes(b, pixels, images, axes[0], axes[1])
    return b.reshape(found, -1, number, pixels.channels, axes[0].bins, axes[1].bins)
