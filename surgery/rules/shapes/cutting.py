"""Slice and Split: pieces whose starts or sizes are inputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Dim, Site
from surgery.rules.reductions import run_time
from surgery.rules.shapes.axes import Along, counted, length
from surgery.rules.sizes import axis_size, clamp


@lowering(
    "slice-as-gather",
    "Slice",
    why="TensorRT wants starts, ends, axes and steps as constants or computed from shapes. The declared output shape "
    "has the number of elements, the operands say at run time which ones.",
    samples=[
        Sample(
            "(float[5, 6] x, int64[2] s, int64[2] e) => (float[3, 2] y) { y = Slice (x, s, e) }",
            feeds={"s": [1, -3], "e": [4, -1]},
        ),
        Sample(
            "(int32[n, 6] x, int32[1] s, int32[1] e, int32[1] a, int32[1] t) => (int32[n, 3] y) "
            "{ y = Slice (x, s, e, a, t) }",
            feeds={"s": [100], "e": [-100], "a": [-1], "t": [-2]},
        ),
        Sample(
            "(float16[4, 6] x, int64[2] s, int64[2] e, int64[2] a) => (float16[2, 6] y) { y = Slice (x, s, e, a) }",
            feeds={"s": [0, 2], "e": [100, 4], "a": [1, 0]},
        ),
        Sample(
            "(bool[4] x, int64[1] s, int64[1] e) => (bool[2] y) "
            "{ a = Constant <value_ints = [0]> () y = Slice (x, s, e, a) }",
            feeds={"s": [-100], "e": [2]},
        ),
        Sample(
            "(int64[4, 3] x, int64[2] s, int64[2] e, int64[2] a, int64[2] t) => (int64[2, 2] y) "
            "{ y = Slice (x, s, e, a, t) }",
            feeds={"s": [0, 3], "e": [3, 0], "a": [1, 0], "t": [2, -2]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16 double",
            "(T[5, 6] x, int64[2] s, int64[2] e) => (T[3, 2] y) { y = Slice (x, s, e) }",
            feeds={"s": [1, -3], "e": [4, -1]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[5] x, int64[1] s, int64[1] e) => (float[m] y) { y = Slice (x, s, e) }",
            feeds={"s": [1], "e": [3]},
        ),
        "(float[5] x) => (float[2] y) "
        "{ s = Constant <value_ints = [1]> () e = Constant <value_ints = [3]> () y = Slice (x, s, e) }",
    ],
)
def slice_as_gather(site: Site, b: Body) -> str:
    """The start plus multiples of the step along every axis that the operands may name."""
    x, shape = site.input(0), site.out(0).shape
    given = [i for i in range(1, 5) if site.has(i)]
    if all(site.input(i).value is not None or site.input(i).shape_only for i in given):
        raise NoMatch("all operands are constant, or computed from shapes")
    axes = site.input(3) if site.has(3) else None
    number = (site.input(1).shape or (None,))[0]
    along = Along(axes, number, x.rank)
    total = x.name
    for r in range(x.rank):
        total = _slice_axis(site, b, total, along, r, shape[r] if shape is not None else None)
    return total


def _slice_axis(site: Site, b: Body, value: str, along: Along, r: int, dim: Dim) -> str:
    x = site.input(0)
    own = (x.shape or ())[r]
    steps = site.input(4) if site.has(4) else None
    forward = steps is None or (steps.value is not None and bool(np.all(steps.value == 1)))
    if along.place(r) == -1 or (dim is not None and dim == own and (forward or dim == 1)):
        return value
    count = length(b, x, dim)
    if count is None:
        for i in range(1, 5):
            if site.has(i):
                site.need(i, "which part is taken, and with it the shape of the output")
        raise NoMatch("the size of the output is not known")
    size, zero = axis_size(b, x, r), b.const(0, "int64")
    last = b.sub(size, b.const(1, "int64"))
    start = along.entry(b, site.input(1), r, 0)
    start = b.where(b.less(start, zero), b.add(start, size), start)
    places = counted(b, dim, count)
    if not forward:
        assert steps is not None
        step = along.entry(b, steps, r, 1)
        places = b.mul(places, step)
    indices = b.add(clamp(b, start, zero, last), places)
    return b.gather(value, clamp(b, indices, zero, last), axis=r)


@lowering(
    "split-into-declared-sizes",
    "Split",
    why="TensorRT wants the sizes of the parts as constants; the declared output shapes have them.",
    samples=[
        Sample(
            "(float[6] x, int64[2] s) => (float[2] a, float[4] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
        Sample(
            "(int64[n, 6] x, int64[3] s) => (int64[n, 1] a, int64[n, 3] c, int64[n, 2] d) "
            "{ a, c, d = Split <axis = -1> (x, s) }",
            opset=13,
            feeds={"s": [1, 3, 2]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 bfloat16 float16 double bool",
            "(T[6] x, int64[2] s) => (T[2] a, T[4] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[6] x, int64[2] s) => (float[p] a, float[q] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
    ],
    since=13,
)
def split_into_declared(site: Site, b: Body) -> list[str]:
    """A Slice for each part."""
    x, sizes = site.input(0), run_time(site, 1)
    axis = int(site.attr("axis")) % x.rank
    dims = [o.shape[axis] if o is not None and o.shape is not None else None for o in site.outputs]
    own = (x.shape or ())[axis]
    missing = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    if len(missing) == 1 and isinstance(own, int):
        dims[missing[0]] = own - sum(d for d in dims if isinstance(d, int))
    elif missing:
        dims = [int(d) for d in site.need(1, f"the sizes of the {len(dims)} parts of {sizes.name}")]
    ends = np.cumsum([0, *dims])
    return [b.slice(x.name, axis, int(s), int(e)) for s, e in pairwise(ends)]
