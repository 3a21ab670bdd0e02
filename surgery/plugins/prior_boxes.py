"""Reading the attributes of PriorBox_TRT off its boxes.

Source of the arithmetic: plugin/priorBoxPlugin of NVIDIA/TensorRT. Boxes are in parts of the image, so that they
say nothing about its size: it is taken from the graph's inputs where one has the right shape, else it is the smallest
with which sizes and steps are whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.heads.gridanchor import shortest
from surgery.plugins.from_numbers import FromNumbers

Boxes = NDArray[np.float64]

NEAR = 1e-5
"""Numbers of a float32 graph that are no further apart than this are the same."""

LARGEST_PART = 4096
"""Largest height or width of the smallest image of a shape."""

LARGEST_IMAGE = 1 << 14
"""Largest image that whole pixels are looked for with."""


@dataclass(frozen=True)
class _Grid:
    """Prior boxes of regular cells, in parts of the image.

    Attributes:
        rows: Cells from top to bottom.
        columns: Cells from left to right.
        step: (y, x) from cell to cell.
        offset: Centre of a cell in parts of it.
        sizes: (height, width) of the prior boxes of a cell, [P, 2].
        clip: Whether boxes end at the image's edges.
    """

    rows: int
    columns: int
    step: tuple[float, float]
    offset: float
    sizes: Boxes
    clip: bool


@dataclass(frozen=True)
class _Sizes:
    """minSize and maxSize, in parts of the image's height, and the aspect ratios beside 1."""

    smallest: Sequence[float]
    largest: Sequence[float]
    ratios: Sequence[float]


def from_numbers(arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]) -> list[FromNumbers]:
    """Constants [2, n, 1] that look like prior boxes over variances, with attributes, likeliest first.

    Args:
        arrays: Constants of a graph.
        shapes: Shapes of its inputs; those of 4 dims may be images.
    """
    images = [(s[2], s[3]) for s in shapes if len(s) == 4]
    found = []
    for number, array in enumerate(arrays):
        shape = array.shape
        if len(shape) != 3 or shape[0] != 2 or shape[2] != 1 or not shape[1] or shape[1] % 4:
            continue
        variances = array[1, :, 0].reshape(-1, 4)
        if not np.array_equal(variances, np.broadcast_to(variances[0], variances.shape)):
            continue
        variance = [shortest(float(v)) for v in variances[0]]
        for grid in _grids(array[0, :, 0].astype(np.float64).reshape(-1, 4)):
            for height, width, attributes in _read(grid, images):
                sizes = {"H": grid.rows, "W": grid.columns, "HI": height, "WI": width}
                found.append(FromNumbers({**attributes, "variance": variance}, (number,), sizes))
    return found


def _grids(boxes: Boxes) -> Iterator[_Grid]:
    """The ways in which boxes [n, 4] (xmin, ymin, xmax, ymax) are a grid of cells."""
    count = len(boxes)
    clip = bool(boxes.min() >= 0.0 and boxes.max() <= 1.0 and np.any((boxes == 0.0) | (boxes == 1.0)))
    for cells in _divisors(count):
        priors = count // cells
        for rows in _divisors(cells):
            grid = _grid(boxes.reshape(rows, cells // rows, priors, 4), clip=clip)
            if grid is not None:
                yield grid


def _divisors(number: int) -> list[int]:
    """Largest first: the fewest prior boxes to a cell."""
    return [d for d in range(number, 0, -1) if number % d == 0]


def _grid(boxes: Boxes, *, clip: bool) -> _Grid | None:
    """Boxes [H, W, P, 4] as a grid, if they are one."""
    across, down = boxes[0, :, :, 0::2], boxes[:, 0, :, 1::2]
    if (
        np.abs(boxes[..., 0::2] - across).max() > NEAR
        or np.abs(boxes[..., 1::2] - down[:, None]).max() > NEAR
    ):
        return None
    x, y = _axis(across, clip=clip), _axis(down, clip=clip)
    if x is None or y is None:
        return None
    offsets = [first / step for first, step, _ in (y, x) if step is not None and step > 0]
    offset = shortest(offsets[0]) if offsets else 0.5
    if offset == 0 and (x[1] is None or y[1] is None):
        return None
    steps = [first / offset if step is None else step for first, step, _ in (y, x)]
    return _Grid(
        boxes.shape[0],
        boxes.shape[1],
        (steps[0], steps[1]),
        offset,
        np.stack([y[2], x[2]], axis=-1),
        clip,
    )


def _axis(ends: Boxes, *, clip: bool) -> tuple[float, float | None, Boxes] | None:
    """First centre, step (None for one cell) and sizes [P] of boxes along one axis, [cells, P, 2]."""
    # What ends at the edge of the image says only that the box reaches so far.
    seen = (ends > 0.0) & (ends < 1.0) if clip else np.ones(ends.shape, np.bool_)
    step = None
    if len(ends) > 1:
        both = seen[1:] & seen[:-1]
        if not both.any():
            return None
        # From the furthest two that are seen, where rounding weighs least.
        cells = np.nonzero(both.any(axis=(1, 2)))[0]
        first, last = int(cells.min()), int(cells.max()) + 1
        far = seen[first] & seen[last]
        moves = (ends[last] - ends[first])[far] / (last - first) if far.any() else np.diff(ends, axis=0)[both]
        step = float(np.median(moves))
        if step <= 0:
            return None
    whole = seen.all(axis=-1)
    if not whole.any():
        return None
    moved = np.arange(len(ends))[:, None] * (step or 0.0)
    start = float(np.median((ends.mean(axis=-1) - moved)[whole]))
    centre = (start + moved)[:, :, None]
    reach = np.where(seen, np.abs(ends - centre), -np.inf)
    half = reach.max(axis=(0, 2))
    if not np.all(np.isfinite(half) & (half > 0)):
        return None
    made = np.concatenate([centre - half[:, None], centre + half[:, None]], axis=-1)
    made = np.clip(made, 0.0, 1.0) if clip else made
    return None if np.abs(made - ends).max() > NEAR else (start, step, 2 * half)


def _read(grid: _Grid, images: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Height and width of the image, and attributes."""
    height, width = grid.sizes[0]
    # Height over width of a square, in parts of the image: the image's width over its height.
    part = _simplest(float(height / width))
    if part is None:
        return
    # The first prior box is a square in pixels, so that its sides in parts of the image say how these compare.
    high, wide = part.denominator, part.numerator
    sizes = _sizes(grid, (high, wide))
    if sizes is None:
        return
    for own in (*(i for i in images if i[0] * wide == i[1] * high), None):
        image = own or _whole(grid, sizes, (high, wide))
        given = (0, 0) if own else image
        yield *image, {**_attributes(grid, sizes, image), "imgH": given[0], "imgW": given[1]}


def _simplest(number: float) -> Fraction | None:
    """The fraction of smallest denominator that a number is up to rounding."""
    exact = Fraction(number)
    for largest in range(1, LARGEST_PART + 1):
        found = exact.limit_denominator(largest)
        if found and abs(float(found) - number) <= NEAR / 2 * number:
            return found
    return None


def _sizes(grid: _Grid, image: tuple[int, int]) -> _Sizes | None:
    pixels = grid.sizes * image
    ratios = pixels[:, 1] / pixels[:, 0]
    return _groups(np.sqrt(pixels[:, 0] * pixels[:, 1]) / image[0], ratios)


def _whole(grid: _Grid, sizes: _Sizes, image: tuple[int, int]) -> tuple[int, int]:
    """The smallest image of a shape with whole sizes and steps; the smallest of all if none has."""
    parts = [image[0] * s for s in (*sizes.smallest, *sizes.largest)]
    if not _fills(grid):  # steps that do are not given
        parts += [s * i for s, i in zip(grid.step, image, strict=True)]
    for scale in range(1, LARGEST_IMAGE // max(image) + 1):
        numbers = np.array(parts) * scale
        if np.all(np.abs(numbers - np.rint(numbers)) < NEAR * np.maximum(numbers, 1.0)):
            return image[0] * scale, image[1] * scale
    return image


def _fills(grid: _Grid) -> bool:
    """Whether the cells fill the image: their steps are what they are if none are given."""
    return abs(grid.step[0] * grid.rows - 1.0) <= NEAR and abs(grid.step[1] * grid.columns - 1.0) <= NEAR


def _attributes(grid: _Grid, sizes: _Sizes, image: tuple[int, int]) -> dict[str, Any]:
    others = sizes.ratios
    pairs = list(zip(others[0::2], others[1::2], strict=False))
    # With none it makes no difference; converters set it.
    flip = len(others) % 2 == 0 and all(abs(a * b - 1.0) < NEAR * 10 for a, b in pairs)
    fills = _fills(grid)
    return {
        "minSize": [shortest(v * image[0]) for v in sizes.smallest],
        "maxSize": [shortest(v * image[0]) for v in sizes.largest],
        "aspectRatios": [shortest(a) for a, _ in pairs] if flip else [shortest(v) for v in others],
        "flip": int(flip),
        "clip": int(grid.clip),
        "stepH": 0.0 if fills else shortest(grid.step[0] * image[0]),
        "stepW": 0.0 if fills else shortest(grid.step[1] * image[1]),
        "offset": grid.offset,
    }


def _groups(scales: Boxes, ratios: Boxes) -> _Sizes | None:
    """The prior boxes of a cell: each minSize has the same kinds of boxes after it."""
    square = np.abs(ratios - 1.0) < NEAR * 10
    for between in (1, 0):
        for groups in _divisors(len(scales))[::-1]:
            size = len(scales) // groups
            if size < 1 + between:
                continue
            by_group, kinds = scales.reshape(groups, size), ratios.reshape(groups, size)
            others = kinds[0, 1 + between :]
            fits = (
                square.reshape(groups, size)[:, : 1 + between].all()
                and not square.reshape(groups, size)[:, 1 + between :].any()
                and np.allclose(kinds, kinds[0], rtol=NEAR * 10)
                and np.allclose(by_group[:, 1 + between :], by_group[:, :1], rtol=NEAR * 10)
            )
            if not fits or (between and np.any(by_group[:, 1] <= by_group[:, 0])):
                continue
            largest = by_group[:, 1] ** 2 / by_group[:, 0] if between else np.zeros(0)
            return _Sizes(by_group[:, 0].tolist(), largest.tolist(), others.tolist())
    return None
