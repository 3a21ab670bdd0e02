"""Compress by a constant mask, and ReverseSequence."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.sizes import count_up, dims_tensor, volume


@lowering(
    "compress-by-constant",
    "Compress",
    why="No TensorRT has Compress. A constant condition is a list of positions to gather.",
    samples=[
        "(float[2, 4] x) => (float[2, 2] y) <bool[4] c = {1, 0, 1, 0}> { y = Compress <axis = -1> (x, c) }",
        "(int64[4, n] x) => (int64[2, n] y) <bool[3] c = {0, 1, 1}> { y = Compress <axis = 0> (x, c) }",
        "(uint8[2, n] x) => (uint8[2] y) <bool[3] c = {0, 1, 1}> { y = Compress (x, c) }",
        "(bool[4] x) => (bool[1] y) <bool[4] c = {0, 0, 0, 1}> { y = Compress <axis = 0> (x, c) }",
        "(double[4] x) => (double[1] y) <bool[4] c = {0, 0, 0, 1}> { y = Compress <axis = 0> (x, c) }",
        "(float16[4] x) => (float16[1] y) <bool[4] c = {0, 0, 0, 1}> { y = Compress <axis = 0> (x, c) }",
        "(int32[4] x) => (int32[1] y) <bool[4] c = {0, 0, 0, 1}> { y = Compress <axis = 0> (x, c) }",
        *samples_in(
            "uint16 uint32 uint64 int8 int16",
            "(T[2, 4] x) => (T[2, 2] y) <bool[4] c = {1, 0, 1, 0}> { y = Compress <axis = -1> (x, c) }",
        ),
    ],
    near_misses=["(float[2] x) => (float[n] y) <bool[2] c = {0, 0}> { y = Compress <axis = 0> (x, c) }"],
)
def compress_constant(site: Site, b: Body) -> str:
    """A gather of the positions where the condition holds."""
    chosen = np.flatnonzero(site.const(1))
    axis = site.attributes.get("axis")
    x = site.input(0)
    dims = (x.shape or ()) if axis is None else (x.shape or ())[int(axis) % x.rank :][:1]
    if x.shape is not None and all(isinstance(d, int) for d in dims):
        chosen = chosen[chosen < volume(dims)]
    if not len(chosen):
        raise NoMatch("nothing is chosen: the output is empty")
    if axis is None:
        return b.gather(b.reshape(site.x(0), -1), b.const(chosen, np.int64), 0)
    return b.gather(site.x(0), b.const(chosen, np.int64), int(axis))


@lowering(
    "reversesequence-by-gather",
    "ReverseSequence",
    why="TensorRT takes ReverseSequence in some configurations only. Positions are computed and gathered.",
    samples=[
        Sample(
            "(float[4, 3, 2] x, int64[3] s) => (float[4, 3, 2] y) { y = ReverseSequence (x, s) }",
            feeds={"s": [4, 1, 2]},
        ),
        Sample(
            "(int64[n, t] x, int64[n] s) => (int64[n, t] y)"
            " { y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, s) }",
            feeds={"s": (1, 3)},
        ),
        Sample(
            "(bool[2, 4, 2] x, int64[2] s) => (bool[2, 4, 2] y)"
            " { y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, s) }",
            feeds={"s": (1, 5)},
        ),
        "(float16[2, 3] x) => (float16[2, 3] y) <int64[2] s = {3, 2}>"
        " { y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, s) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 double",
            "(T[4, 3, 2] x, int64[3] s) => (T[4, 3, 2] y) { y = ReverseSequence (x, s) }",
            feeds={"s": [4, 1, 2]},
        ),
    ],
    near_misses=["(float[2, 3] x, int64[2] s) => (float[2, 3] y) { y = Identity (x) }"],
)
def reverse_sequence(site: Site, b: Body) -> str:
    """Positions below the length count down, the others stay."""
    x, lengths = site.input(0), site.x(1)
    batch, time = int(site.attr("batch_axis", 1)) % x.rank, int(site.attr("time_axis", 0)) % x.rank
    column = [1] * x.rank
    column[time] = -1
    t = b.reshape(count_up(b, dims_tensor(b, x, time, time + 1)), *column)
    column[time], column[batch] = 1, -1
    length = b.reshape(b.cast(lengths, np.int64), *column)
    mirrored = b.sub(b.sub(length, b.const(1, np.int64)), t)
    position = b.where(b.less(t, length), mirrored, t)
    return b.gather_elements(x.name, b.op("Expand", position, dims_tensor(b, x, 0, x.rank)), time)
