"""Pixels of an image gathered at computed places and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from surgery.graph.body import Body

CUBIC = -0.75
"""Coefficient of cubic interpolation, as in PyTorch and ONNX Runtime."""


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


def pixel_rows(b: Body, x: str, spatial: int, zero: bool) -> str:
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


def within(b: Body, x: str, low: str, high: str) -> str:
    """Whether a value lies between two others, or on one of them."""
    return b.logical_not(b.logical_or(b.less(x, low), b.greater(x, high)))
