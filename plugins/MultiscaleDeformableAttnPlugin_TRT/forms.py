"""How exporters write multi-scale deformable attention: one GridSample for each level."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.recognise_forms import Form, Lying, Skeleton
from surgery.plugins.successor import call

LEVELS = (1, 2, 3, 4, 5)

FILLS = {
    "value": ({"fill": "normal"},),
    "places": ({"low": -0.2, "high": 1.2},),
}


def split_first(s: Skeleton, levels: int) -> None:
    """Levels of the values and of the places are taken apart, then heads moved into the batch."""
    value, places, weights = s.input("value"), s.input("places"), s.input("weights")
    grid = s.op("Sub", s.op("Mul", places, s.number()), s.number())
    sampled = []
    for level in range(levels):
        pixels = s.view(s.op("Transpose", s.view(s.part(value))))
        s.tap(f"pixels_{level}", pixels)
        at = s.view(s.op("Transpose", s.part(grid)))
        sampled.append(s.view(s.op("GridSample", pixels, at)))
    _summed(s, s.view(s.op("Concat", *sampled)), s.view(s.op("Transpose", weights)))


def heads_first(s: Skeleton, levels: int) -> None:
    """Heads are moved into the batch, then levels taken apart; points of all levels lie side by side."""
    value, places, weights = s.input("value"), s.input("places"), s.input("weights")
    rows = s.view(s.op("Transpose", value))
    grid = s.op("Sub", s.op("Mul", places, s.number()), s.number())
    grids = s.view(s.op("Transpose", grid))
    sampled = []
    for level in range(levels):
        pixels = s.view(s.part(rows))
        s.tap(f"pixels_{level}", pixels)
        sampled.append(s.op("GridSample", pixels, s.part(grids)))
    _summed(s, s.op("Concat", *sampled), s.view(s.op("Transpose", weights)))


def _summed(s: Skeleton, sampled: str, weights: str) -> None:
    total = s.op("ReduceSum", s.op("Mul", sampled, weights))
    s.result(s.op("Transpose", s.view(total)))


def plugin(b: Body, found: Lying) -> str:
    """The plugin's node; rows and columns of the levels are those of the tensors that GridSample reads."""
    levels, heads = found.variant, found.size("value", 2)
    shapes, starts = _levels(b, found)
    places = b.reshape("places", 0, 0, heads, levels, -1, 2)
    weights = b.reshape("weights", 0, 0, heads, levels, -1)
    (y,) = call(
        b,
        found.definition.name,
        ["value", b.cast(shapes, np.int32), b.cast(starts, np.int32), places, weights],
        version=found.definition.version,
    )
    return b.reshape(y, 0, 0, heads * found.size("value", 3))


def _levels(b: Body, found: Lying) -> tuple[str, str]:
    """Rows and columns of each level [L, 2], and the number of its first pixel [L]."""
    taps = [f"pixels_{i}" for i in range(found.variant)]
    dims = [found.shape(t)[2:] for t in taps]
    fixed = [tuple(d for d in pair if isinstance(d, int)) for pair in dims]
    if all(len(pair) == 2 for pair in fixed):
        areas = [rows * columns for rows, columns in fixed]
        return b.const(fixed, np.int64), b.const(np.cumsum([0, *areas[:-1]]), np.int64)
    sizes = [b.slice(b.op("Shape", found.tap(t)), 0, 2, 4) for t in taps]
    first, starts = b.ints(0), []
    for size in sizes:
        starts.append(first)
        first = b.add(first, b.mul(b.slice(size, 0, 0, 1), b.slice(size, 0, 1, 2)))
    return b.reshape(b.concat(sizes, 0), -1, 2), b.concat(starts, 0)


FORMS = (
    Form(
        "grid-sample",
        "Deformable DETR, RT-DETR, Grounding DINO and Mask2Former of Hugging Face, mmcv without its operator",
        LEVELS,
        split_first,
        plugin,
        FILLS,
    ),
    Form(
        "grid-sample-heads-first",
        "D-FINE and RT-DETRv2 with as many points on each level",
        LEVELS,
        heads_first,
        plugin,
        FILLS,
    ),
)
