"""Operators whose output size depends on the data: outputs of fixed size, and a count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import Bounded, NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.precision import computing_dtype
from surgery.rules.sizes import count_up, dims_tensor, product_tensor, volume

MOST_WRITTEN = 2**16
"""Most positions that are written out as a constant."""

PAIR_LIMIT = 2**26
"""Most pairs of entries that are compared at once."""


@dataclass(frozen=True)
class Compacted:
    """Positions of what was chosen, in order and padded with 0; and their number.

    Attributes:
        order: int64 [N].
        count: int64, rank 0.
    """

    order: str
    count: str


@dataclass(frozen=True)
class Length:
    """The length of an axis: int64 of shape [1], and the number if it is known."""

    name: str
    known: int | None

    @staticmethod
    def of(b: Body, value: str, dims: Sequence[object]) -> Length:
        """The length of a vector that has as many entries as dims have elements."""
        if all(isinstance(d, int) for d in dims):
            return Length(b.ints(volume(dims)), volume(dims))
        return Length(b.slice(b.op("Shape", value), 0, 0, 1), None)

    def positions(self, b: Body) -> str:
        """0, 1, ... below it; int64."""
        if self.known is not None and self.known <= MOST_WRITTEN:
            return b.const(np.arange(self.known), np.int64)
        return count_up(b, self.name)


def compacted(b: Body, chosen: str, size: Length) -> Compacted:
    """Positions where a bool vector is true: each goes to the number of those before it.

    What is not chosen goes to a slot behind the others, which is cut off. No sort, no TopK, any length.
    """
    flags = b.cast(chosen, np.int64)
    place = b.sub(b.op("CumSum", flags, b.const(0, np.int64)), b.const(1, np.int64))
    slots = b.where(chosen, place, size.name)
    count = b.reduce("ReduceSum", flags, 0, keepdims=False)
    return Compacted(scattered(b, slots, size.positions(b), size), count)


def scattered(b: Body, slots: str, values: str, size: Length) -> str:
    """Values [N] at slots [N] of a zero vector of that size; int64. Slot `size` is cut off."""
    length = b.ints(size.known + 1) if size.known is not None else b.add(size.name, b.ints(1))
    room = b.op("Expand", b.const(0, np.int64), length)
    # Not ScatterElements, which a rule writes anew where nothing shows that there is room for all values.
    filled = b.op("ScatterND", room, b.unsqueeze(slots, 1), values)
    return b.op("Slice", filled, b.ints(0), size.name, b.ints(0))


def not_empty(operand: Operand) -> None:
    """NoMatch for an operand without elements."""
    if any(d == 0 for d in operand.shape or ()):
        raise NoMatch(f"{operand.name} is empty")


@lowering(
    "nonzero-by-prefix-sums",
    "NonZero",
    why="TensorRT-RTX has no NonZero. Prefix sums say where each position goes; the output is padded.",
    samples=[
        "(float[3, 4] x) => (int64[2, k] y) { y = NonZero (x) }",
        "(bool[n, 4, 2] x) => (int64[3, k] y) { y = NonZero (x) }",
        Sample("(int64[7] x) => (int64[1, k] y) { y = NonZero (x) }", feeds={"x": (0, 2)}),
        Sample("(int32[7] x) => (int64[1, k] y) { y = NonZero (x) }", feeds={"x": (0, 2)}),
        Sample("(uint8[n] x) => (int64[1, k] y) { y = NonZero (x) }", feeds={"x": (0, 2)}),
        *samples_in(
            "uint16 uint32 uint64 int8 int16 bfloat16 float16 double",
            "(T[3, 4] x) => (int64[2, k] y) { y = NonZero (x) }",
        ),
    ],
    near_misses=["(float[3, 0] x) => (int64[2, k] y) { y = NonZero (x) }"],
)
def nonzero(site: Site, b: Body) -> Bounded:
    """Flat positions, taken apart into coordinates."""
    x = site.input(0)
    not_empty(x)
    if not x.rank:
        raise NoMatch("a scalar")
    chosen = x.name if site.kind(0) == "b" else b.cast(x.name, np.bool_)
    flat = b.reshape(chosen, -1)
    found = compacted(b, flat, Length.of(b, flat, x.shape or ()))
    rest, rows = found.order, []
    for axis in reversed(range(x.rank)):
        if not axis:
            rows.append(rest)
            break
        size = dims_tensor(b, x, axis, axis + 1)
        above = b.div(rest, size)
        rows.append(b.sub(rest, b.mul(above, size)))
        rest = above
    return Bounded(b.concat([b.unsqueeze(r, 0) for r in reversed(rows)], 0), 1, found.count)


@lowering(
    "compress-by-prefix-sums",
    "Compress",
    why="No TensorRT has Compress. Prefix sums say where each position goes; the output is padded.",
    samples=[
        "(float[3, 4] x, bool[4] c) => (float[3, k] y) { y = Compress <axis = -1> (x, c) }",
        "(int64[n, 4] x, bool[n] c) => (int64[k, 4] y) { y = Compress <axis = 0> (x, c) }",
        "(uint8[3, n] x, bool[5] c) => (uint8[k] y) { y = Compress (x, c) }",
        "(int8[2, 2] x, bool[5] c) => (int8[k] y) { y = Compress (x, c) }",
        "(double[3] x, bool[3] c) => (double[k] y) { y = Compress <axis = 0> (x, c) }",
        "(float16[3] x, bool[3] c) => (float16[k] y) { y = Compress <axis = 0> (x, c) }",
        "(bool[3] x, bool[3] c) => (bool[k] y) { y = Compress <axis = 0> (x, c) }",
        "(int32[3] x, bool[3] c) => (int32[k] y) { y = Compress <axis = 0> (x, c) }",
        *samples_in(
            "uint16 uint32 uint64 int16",
            "(T[3, 4] x, bool[4] c) => (T[3, k] y) { y = Compress <axis = -1> (x, c) }",
        ),
    ],
    near_misses=["(float[3, 4] x, bool[0] c) => (float[3, k] y) { y = Compress <axis = -1> (x, c) }"],
)
def compress(site: Site, b: Body) -> Bounded:
    """A gather of as many positions as the condition has; those that hold come first."""
    x = site.input(0)
    not_empty(x)
    not_empty(site.input(1))
    if site.input(1).value is not None:
        raise NoMatch("the condition is constant")
    axis = site.attributes.get("axis")
    if axis is None:
        axis, source, dims = 0, b.reshape(x.name, -1), x.shape or ()
        length = product_tensor(b, x, 0, x.rank)
    else:
        axis, source = int(axis) % x.rank, x.name
        dims = (x.shape or ())[axis : axis + 1]
        length = dims_tensor(b, x, axis, axis + 1)
    condition, conditions = site.x(1), (site.input(1).shape or (None,))[0]
    sure = (
        isinstance(conditions, int) and all(isinstance(d, int) for d in dims) and conditions <= volume(dims)
    )
    if not sure:  # a condition may be longer than what it chooses from; the rest of it counts for nothing
        condition = b.op("Slice", condition, b.ints(0), length, b.ints(0))
    found = compacted(b, condition, Length.of(b, condition, (conditions if sure else None,)))
    return Bounded(b.gather(source, found.order, axis), axis, found.count)


@lowering(
    "unique-by-comparison",
    "Unique",
    why="No TensorRT has Unique. All pairs are compared; counts of smaller entries say where each one goes.",
    samples=[
        Sample(
            "(float[9] x) => (float[k] y, int64[k] f, int64[9] i, int64[k] c) { y, f, i, c = Unique (x) }",
            feeds={"x": [2.0, 1.0, 1.0, 3.0, 4.0, 3.0, 0.0, -1.0, 2.0]},
        ),
        Sample(
            "(int64[n, 4] x) => (int64[k] y, int64[k] f, int64[m] i, int64[k] c)"
            " { y, f, i, c = Unique <sorted = 0> (x) }",
            feeds={"x": (0, 5)},
        ),
        Sample(
            "(int8[6, 2, 2] x) => (int8[k, 2, 2] y, int64[k] f, int64[6] i, int64[k] c)"
            " { y, f, i, c = Unique <axis = 0> (x) }",
            feeds={"x": (0, 2)},
        ),
        Sample(
            "(double[2, n, 3] x) => (double[2, k, 3] y, int64[k] f, int64[n] i, int64[k] c)"
            " { y, f, i, c = Unique <axis = -2, sorted = 0> (x) }",
            feeds={"x": [[[1, 2, 3], [0, 2, 3], [1, 2, 3]], [[5, 6, 7], [5, 6, 7], [5, 6, 7]]]},
        ),
        Sample(
            "(float[1, 6] x) => (float[1, k] y) { y = Unique <axis = 1> (x) }",
            feeds={"x": [[1.0, 0.0, 1.0, 2.0, 0.0, -1.0]]},
        ),
        *samples_in(
            "int16 int32 float16 bool",
            "(T[9] x) => (T[k] y, int64[k] f, int64[9] i, int64[k] c) { y, f, i, c = Unique (x) }",
            feeds={"x": [2.0, 1.0, 1.0, 3.0, 4.0, 3.0, 0.0, -1.0, 2.0]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64",
            "(T[6, 2, 2] x) => (T[k, 2, 2] y, int64[k] f, int64[6] i, int64[k] c) { y, f, i, c = "
            "Unique <axis = 0> (x) }",
            feeds={"x": (0, 2)},
        ),
    ],
    near_misses=["(float[100000] x) => (float[k] y) { y = Unique (x) }"],
)
def unique(site: Site, b: Body) -> list[Bounded | str | None]:
    """Entries as rows of a matrix; who is first of its kind, and how many kinds come before it."""
    x = site.input(0)
    not_empty(x)
    dims = x.shape or ()
    axis = site.attributes.get("axis")
    if axis is None or x.rank == 1:
        axis, source, entries, rest = 0, b.reshape(x.name, -1), x.shape, []
        table = b.unsqueeze(source, 1)
    else:
        axis, source = int(axis) % x.rank, x.name
        rest = [k for k in range(x.rank) if k != axis]
        entries = (dims[axis],)
    columns = math.prod(replace(x, shape=tuple(dims[k] for k in rest)).dims)
    if rest:
        table = b.reshape(b.transpose(x.name, axis, *rest), -1, columns)
    if volume(entries or ()) ** 2 * columns > PAIR_LIMIT:
        raise NoMatch(f"{volume(entries or ())} entries of {columns} are too many to compare all pairs")
    table = b.cast(table, computing_dtype(site.dtype(0)) if site.kind(0) != "b" else np.int32)
    size = Length.of(b, table, entries or ())
    kinds = _kinds(b, table, columns, size, ordered=bool(site.attr("sorted", 1)))
    return [
        Bounded(b.gather(source, kinds.order, axis), axis, kinds.count),
        # A name of its own: the gather above reads all of the padded positions.
        Bounded(b.op("Identity", kinds.order), 0, kinds.count),
        kinds.inverse,
        Bounded(kinds.sizes, 0, kinds.count),
    ]


@dataclass(frozen=True)
class Kinds:
    """The different rows of a matrix [N, S].

    Attributes:
        order: int64 [N]: first row of each kind, padded with 0.
        sizes: int64 [N]: rows of each kind, padded with 0.
        inverse: int64 [N]: kind of each row.
        count: int64, rank 0: number of kinds.
    """

    order: str
    sizes: str
    inverse: str
    count: str


def _kinds(b: Body, table: str, columns: int, size: Length, *, ordered: bool) -> Kinds:
    here = size.positions(b)
    equal, smaller = _compared(b, table, columns)  # [i, j]: row j is equal to, is smaller than row i
    earliest = b.where(equal, b.unsqueeze(here, 0), size.name)
    first_of = b.reduce("ReduceMin", earliest, 1, keepdims=False)
    first = b.equal(first_of, here)
    flags = b.cast(first, np.int64)
    before = smaller if ordered else b.less(b.unsqueeze(here, 0), b.unsqueeze(first_of, 1))
    preceding = b.where(before, b.unsqueeze(flags, 0), b.const(0, np.int64))
    inverse = b.reduce("ReduceSum", preceding, 1, keepdims=False)
    slots = b.where(first, inverse, size.name)
    many = b.reduce("ReduceSum", b.cast(equal, np.int64), 1, keepdims=False)
    count = b.reduce("ReduceSum", flags, 0, keepdims=False)
    return Kinds(scattered(b, slots, here, size), scattered(b, slots, many, size), inverse, count)


def _compared(b: Body, table: str, columns: int) -> tuple[str, str]:
    """For all pairs of rows [i, j]: whether they are equal, and whether j is smaller in lexicographic order."""
    mine, other = b.unsqueeze(table, 1), b.unsqueeze(table, 0)
    equal, smaller = b.equal(other, mine), b.less(other, mine)  # [N, N, S]

    def part(value: str, start: int, end: int, step: int) -> str:
        return b.op("Slice", value, b.ints(start), b.ints(end), b.ints(2), b.ints(step))

    while columns > 1:  # neighbours are merged: the left one decides unless it is equal
        even = columns - columns % 2
        left, right = ([part(v, k, even, 2) for v in (equal, smaller)] for k in (0, 1))
        merged = [b.logical_and(left[0], right[0]), b.logical_or(left[1], b.logical_and(left[0], right[1]))]
        if columns % 2:
            merged = [
                b.concat([m, part(v, even, columns, 1)], 2)
                for m, v in zip(merged, (equal, smaller), strict=True)
            ]
        equal, smaller = merged
        columns -= even // 2
    return b.squeeze(equal, 2), b.squeeze(smaller, 2)
