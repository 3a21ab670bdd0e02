"""Slices whose bounds come from data."""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.rules.engine.rule import Bounded, NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site


@lowering(
    "slice-with-a-count",
    "Slice",
    why="TensorRT needs the size of a slice to follow from shapes. Here the slice is padded to the whole length of "
    "its axis, by a gather of start, start + 1, ..., and a count says how much of it is real.",
    samples=[
        Sample(
            "(float[8] x, int64[1] s, int64[1] e) => (float[k] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 4), "e": (3, 9)},
        ),
        Sample(
            "(float16[2, 8] x, int64[1] s, int64[1] e) => (float16[2, k] y) "
            "{ a = Constant <value_ints = [-1]> () y = Slice (x, s, e, a) }",
            feeds={"s": (-8, 0), "e": (-4, 12)},
        ),
        Sample(
            "(int64[n, 3] x, int64[1] s, int64[1] e) => (int64[k, 3] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 2), "e": (1, 3)},
        ),
        Sample(
            "(int32[8] x, int32[1] s, int32[1] e) => (int32[k] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 4), "e": (3, 9)},
        ),
        Sample(
            "(bool[8] x, int64[1] s, int64[1] e) => (bool[k] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 4), "e": (3, 9)},
        ),
        Sample(
            "(double[8] x, int64[1] s, int64[1] e) => (double[k] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 4), "e": (3, 9)},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16",
            "(T[8] x, int64[1] s, int64[1] e) => (T[k] y) { y = Slice (x, s, e) }",
            feeds={"s": (0, 4), "e": (3, 9)},
        ),
    ],
    near_misses=[
        "(float[8, 8] x, int64[2] s, int64[2] e) => (float[k, l] y) { y = Slice (x, s, e) }",
        "(float[8] x, int64[1] s, int64[1] e, int64[1] t) => (float[k] y) { y = Slice (x, s, e, , t) }",
    ],
    rank=60,
)
def slice_with_a_count(site: Site, b: Body) -> Bounded:
    """One axis, step 1."""
    starts, ends = site.input(1), site.input(2)
    if starts.shape != (1,) or ends.shape != (1,):
        raise NoMatch("more than one axis is sliced")
    if starts.constant and ends.constant:
        raise NoMatch("the bounds are constant")
    if site.has(4) and any(step != 1 for step in site.const(4).reshape(-1)):
        raise NoMatch("the step is not 1")
    data = site.input(0)
    axis = int(site.const(3).reshape(-1)[0]) if site.has(3) else 0
    axis %= data.rank
    known = data.dim(axis)
    shape = b.op("Shape", data.name)
    length = b.ints(known) if isinstance(known, int) else b.slice(shape, 0, axis, axis + 1)
    zero, one = b.ints(0), b.ints(1)

    def clamped(value: str) -> str:
        """A bound as ONNX reads it: from the end if negative, then kept within 0 and the length."""
        whole = b.cast(value, "int64")
        whole = b.where(b.less(whole, zero), b.add(whole, length), whole)
        return b.minimum(b.maximum(whole, zero), length)

    first, last = clamped(starts.name), clamped(ends.name)
    steps = b.op("Range", b.squeeze(zero, 0), b.squeeze(length, 0), b.squeeze(one, 0))
    places = b.minimum(b.add(first, steps), b.sub(length, one))
    count = b.squeeze(b.maximum(b.sub(last, first), zero), 0)
    return Bounded(b.gather(data.name, places, axis), axis, count)


LOWEST = -(2**63)
"""The end that exporters write for "to the first entry, backwards"."""


@lowering(
    "slice-to-the-lowest-number",
    "Slice",
    why="TensorRT-RTX adds the size of the axis to an end below 0 and gets another size for the lowest int64 where "
    "the size is free: the lowest but one means the same.",
    when="always",
    samples=[
        "(float[n, 3] x) => (float[n, 3] y) { o = Constant <value_ints = [-1]> () z = Constant <value_ints = [0]> () "
        "e = Constant <value_ints = [-9223372036854775808]> () y = Slice (x, o, e, z, o) }",
        "(int64[2, n] x) => (int64[2, n] y) { o = Constant <value_ints = [-1, -1]> () "
        "e = Constant <value_ints = [-9223372036854775808, -9223372036854775808]> () "
        "a = Constant <value_ints = [0, 1]> () y = Slice (x, o, e, a, o) }",
        *samples_in(
            "float16 bfloat16 double bool int32 uint8 uint16 uint32 uint64 int8 int16",
            "(T[n] x) => (T[n] y) { o = Constant <value_ints = [-1]> () z = Constant <value_ints = [0]> () "
            "e = Constant <value_ints = [-9223372036854775808]> () y = Slice (x, o, e, z, o) }",
        ),
    ],
    near_misses=[
        "(float[n, 3] x) => (float[n, 3] y) { o = Constant <value_ints = [-1]> () z = Constant <value_ints = [0]> () "
        "e = Constant <value_ints = [-9223372036854775807]> () y = Slice (x, o, e, z, o) }",
    ],
)
def slice_to_the_lowest_number(site: Site, b: Body) -> str:
    """The same with an end that has room above it."""
    ends = site.const(2)
    if not (ends == LOWEST).any():
        raise NoMatch("no end is the lowest number")
    rest = [site.x(i) if site.has(i) else "" for i in (3, 4)]
    while rest and not rest[-1]:
        rest.pop()
    return b.op("Slice", site.x(0), site.x(1), b.ints(*(max(int(e), LOWEST + 1) for e in ends)), *rest)


@lowering(
    "slice-of-the-first-axes",
    "Slice",
    why="TensorRT's parser takes all axes where none are given, even where there are fewer starts; ONNX Runtime "
    "takes the first ones.",
    samples=[
        "(float[8, 3] x) => (float[4, 3] y)"
        " { s = Constant <value_ints = [2]> () e = Constant <value_ints = [6]> () y = Slice (x, s, e) }",
        "(float16[n, 5, 2] x) => (float16[p, 3, 2] y)"
        " { s = Constant <value_ints = [1, 0]> () e = Constant <value_ints = [9, 3]> () y = Slice (x, s, e) }",
        *samples_in(
            "double bool int32 int64 uint8 uint16 uint32 uint64 int8 int16 bfloat16",
            "(T[8, 3] x) => (T[4, 3] y)"
            " { s = Constant <value_ints = [2]> () e = Constant <value_ints = [6]> () y = Slice (x, s, e) }",
        ),
        "(float[8, 3] x) => (float[4, 3] y) { s = Constant <value_ints = [0]> () e = Constant <value_ints = [8]> ()"
        ' t = Constant <value_ints = [2]> () y = Slice (x, s, e, "", t) }',
    ],
    near_misses=[
        "(float[8, 3] x) => (float[4, 2] y)"
        " { s = Constant <value_ints = [2, 1]> () e = Constant <value_ints = [6, 3]> () y = Slice (x, s, e) }",
    ],
)
def slice_of_the_first_axes(site: Site, b: Body) -> str:
    """The same with the axes written down."""
    count = site.input(1).dim(0)
    if site.has(3) or not isinstance(count, int) or count >= site.input(0).rank:
        raise NoMatch("it says which axes, or is of all")
    steps = [site.x(4)] if site.has(4) else []
    return b.op("Slice", *(site.x(i) for i in range(3)), b.ints(*range(count)), *steps)
