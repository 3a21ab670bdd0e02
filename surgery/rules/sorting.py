"""Sorting more than TensorRT sorts at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.sizes import count_up

TOPK_LIMIT = 3840
"""Largest K that TensorRT's TopK layer takes (TensorRT documentation, ITopKLayer)."""

SORTED = (np.float16, np.float32, np.float64, np.int32, np.int64)
"""Types that are sorted as they are; others become one of them first."""

SEARCH_LIMIT = 2**26
"""Most positions that are looked for at once: each entry in each part."""


@dataclass(frozen=True)
class Parts:
    """A long row in parts that are sorted by themselves: C of them, L entries each, the last one filled up.

    Attributes:
        count: C.
        length: L.
        size: Entries of the row, N.
        values: [R, C, L].
        positions: int64 [R, C, L], in the row.
    """

    count: int
    length: int
    size: int
    values: str
    positions: str


def _many(n: int, dtype: str, attributes: str = "largest = 1") -> Sample:
    """A sample of so many different numbers that must all be sorted; the order among equals is open."""
    rng = np.random.default_rng(n)
    values = rng.permutation(n).reshape(1, n) - n // 2
    return Sample(
        f"({dtype}[1, {n}] x) => ({dtype}[1, {n}] v, int64[1, {n}] i) "
        f"{{ k = Constant <value_ints = [{n}]> () v, i = TopK <{attributes}> (x, k) }}",
        feeds={"x": values},
    )


@lowering(
    "topk-beyond-the-limit",
    "TopK",
    why="TensorRT's TopK takes at most 3840 entries. Parts are sorted by themselves; a binary search in all other "
    "parts says how many entries come before each one.",
    samples=[
        _many(4000, "float"),
        _many(8400, "float", "largest = 0"),
        _many(7681, "double"),
        _many(4001, "int32"),
        _many(3841, "int64", "axis = -1"),
        Sample(
            "(float[n, 5000, 2] x) => (float[n, 4000, 2] v, int64[n, 4000, 2] i) "
            "{ k = Constant <value_ints = [4000]> () v, i = TopK <axis = 1> (x, k) }",
            feeds={"x": np.random.default_rng(0).permutation(20000).reshape(2, 5000, 2)},
        ),
        Sample(
            "(float[2, n] x) => (float[2, n] v, int64[2, n] i) "
            "{ k = Shape <start = 1> (x) v, i = TopK <largest = 0> (x, k) }",
            feeds={"x": np.random.default_rng(0).permutation(10000).reshape(2, 5000)},
        ),
        Sample(
            "(int32[n, 3] x) => (int32[k, 3] v, int64[k, 3] i) "
            "{ k = Constant <value_ints = [4000]> () v, i = TopK <axis = 0> (x, k) }",
            feeds={"x": np.random.default_rng(0).permutation(12600).reshape(4200, 3)},
        ),
        Sample(
            "(float16[1, 3900] x) => (float16[1, 3841] v, int64[1, 3841] i) "
            "{ k = Constant <value_ints = [3841]> () v, i = TopK (x, k) }",
            feeds={"x": np.random.default_rng(0).permutation(3900).reshape(1, 3900) - 1950},
        ),
    ],
    near_misses=[
        "(float[2, 7000] x) => (float[2, 3] v, int64[2, 3] i) "
        "{ k = Constant <value_ints = [3]> () v, i = TopK (x, k) }",
        Sample(
            "(float[2, 9] x, int64[1] k) => (float[2, m] v, int64[2, m] i) { v, i = TopK (x, k) }", feeds={"k": [2]}
        ),
    ],
    rank=5,
)  # fmt: skip
def topk_beyond_the_limit(site: Site, b: Body) -> list[str]:
    """Each entry goes to the place that is the number of entries before it."""
    x = site.input(0)
    axis = int(site.attr("axis", -1)) % x.rank
    size, number = (x.shape or ())[axis], site.input(1).value
    if number is not None and int(np.ravel(number)[0]) <= TOPK_LIMIT:
        raise NoMatch("TensorRT takes that many")
    if number is None and (isinstance(size, int) or not site.input(1).shape_only):
        raise NoMatch("how many are wanted is not known, and not because of free sizes")
    if site.dtype(0) not in SORTED:
        raise NoMatch("TensorRT sorts them as another type")
    order = [*(a for a in range(x.rank) if a != axis), axis]
    moved = x.name if order == sorted(order) else b.transpose(x.name, *order)
    largest = bool(site.attr("largest", 1))
    dims = b.op("Shape", moved)
    if isinstance(size, int):
        parts = _sorted_parts(b, b.reshape(moved, -1, size), size, site)
        places = _places(b, parts, largest=largest)
        flat = [b.reshape(v, 0, parts.count * parts.length) for v in (parts.values, parts.positions)]
        whole = [b.op("ScatterElements", f, places, f, axis=1) for f in flat]
    else:
        dtype = np.dtype(site.dtype(0))
        low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-np.inf, np.inf)
        lowest = b.const(low if largest else high, dtype)
        one_row = b.concat([b.ints(-1), b.slice(dims, 0, x.rank - 1, x.rank)], 0)
        whole = [*_sorted_free(b, b.op("Reshape", moved, one_row), lowest, largest=largest)]
    wanted = b.reshape(site.x(1), 1)
    shape = b.concat([b.slice(dims, 0, 0, x.rank - 1), wanted], 0)
    found = []
    for value in whole:
        back = b.op("Reshape", b.op("Slice", value, b.ints(0), wanted, b.ints(1)), shape)
        found.append(back if order == sorted(order) else b.transpose(back, *np.argsort(order).tolist()))
    return found


def _sorted_parts(b: Body, rows: str, size: int, site: Site) -> Parts:
    """Rows [R, N] in parts of one length, if there is one that fits; else the last part is shorter, and filled up."""
    least = -(-size // TOPK_LIMIT)
    count = next((c for c in range(least, 2 * least + 1) if size % c == 0), least)
    length = -(-size // count)
    if count * size > SEARCH_LIMIT:
        raise NoMatch(f"{size} entries are too many to sort")
    full, rest = divmod(size, length)
    attributes = {"axis": 2, "largest": int(site.attr("largest", 1)), "sorted": 1}
    pieces: list[tuple[str, str]] = []
    for first, many, long in ((0, full, length), (full, 1, rest)):
        if long and many:
            piece = b.slice(rows, 1, first * length, first * length + many * long)
            stacked = b.reshape(piece, 0, many, long)
            values, where = b.node("TopK", [stacked, b.ints(long)], outputs=2, attributes=attributes)
            starts = (first + np.arange(many)).reshape(1, many, 1) * length
            pieces.append((values, b.add(where, b.const(starts, np.int64))))
    if rest:
        values, where = pieces[1]
        filled = []
        for value, dtype in ((values, site.dtype(0)), (where, np.dtype(np.int64))):
            end = b.slice(b.op("Shape", value), 0, 0, 2)
            room = b.op("Expand", b.const(0, dtype), b.concat([end, b.ints(length - rest)], 0))
            filled.append(b.concat([value, room], 2))
        pieces[1] = (filled[0], filled[1])
    joined = [b.concat([p[k] for p in pieces], 1) for k in (0, 1)]
    return Parts(count, length, size, joined[0], joined[1])


def _places(b: Body, parts: Parts, *, largest: bool) -> str:
    """Place of each entry [R, C * L] among all; what the last part was filled up with comes last. int64."""
    count, length = parts.count, parts.length
    total = count * length
    own = np.arange(total) // length  # part of each entry
    part = np.arange(count).reshape(1, count, 1)
    wanted = b.reshape(parts.values, 0, 1, total)  # [R, 1, C * L], looked for in [R, C, L]
    ends = np.minimum(length, parts.size - part * length).astype(np.int32)
    shape = b.concat([b.slice(b.op("Shape", wanted), 0, 0, 1), b.ints(count, total)], 0)
    low = b.op("Expand", b.const(0, np.int32), shape)
    high = b.op("Expand", b.const(ends, np.int32), shape)
    ties = b.const(part < own.reshape(1, 1, total), np.bool_)  # equal entries of earlier parts come before
    low = _searched(b, parts.values, wanted, (low, high), ties, length, largest=largest)
    # In its own part an entry's place is known.
    here = np.broadcast_to(np.where(part == own, np.arange(total) % length, 0), (1, count, total))
    elsewhere = b.where(b.const(part == own, np.bool_), b.const(here, np.int32), low)
    place = b.cast(b.reduce("ReduceSum", elsewhere, 1, keepdims=False), np.int64)  # [R, C * L]
    if total > parts.size:
        flat = np.arange(total).reshape(1, total)
        place = b.where(b.const(flat >= parts.size, np.bool_), b.const(flat, np.int64), place)
    return place


def _searched(
    b: Body, values: str, wanted: str, ends: tuple[str, str], ties: str, length: int, *, largest: bool
) -> str:
    """How many entries of each part come before each entry of the row: int32 [R, C, T].

    Args:
        b: Where the nodes go.
        values: [R, C, L], sorted along L.
        wanted: [R, 1, T].
        ends: First place and the one behind the last; int32 [R, C, T].
        ties: Whether an equal entry of the part comes before; bool [1, C, T].
        length: L.
        largest: The largest entries come first.
    """
    low, high = ends
    one, two, last = (b.const(v, np.int32) for v in (1, 2, length - 1))
    for _ in range(math.ceil(math.log2(length + 1))):
        middle = b.div(b.add(low, high), two)
        inside = b.less(middle, high)
        there = b.gather_elements(values, b.where(b.less(last, middle), last, middle), 2)
        ahead = b.greater(there, wanted) if largest else b.less(there, wanted)
        before = b.logical_or(ahead, b.logical_and(b.equal(there, wanted), ties))
        on = b.logical_and(inside, before)
        off = b.logical_and(inside, b.logical_not(before))
        low, high = b.where(on, b.add(middle, one), low), b.where(off, middle, high)
    return low


def _sorted_free(b: Body, rows: str, lowest: str, *, largest: bool) -> tuple[str, str]:
    """Rows [R, N] of any length, sorted: values, and positions (int64); what is behind N is not real.

    Parts are as long as TensorRT sorts. The last one is filled up with what comes last; among what is equal to that,
    TensorRT may sort the filling first, so in each part what is real is counted.
    """
    length = b.ints(TOPK_LIMIT)
    size = b.slice(b.op("Shape", rows), 0, 1, 2)
    count = b.div(b.add(size, b.ints(TOPK_LIMIT - 1)), length)
    total = b.mul(count, length)
    place, last = count_up(b, total), b.sub(size, b.ints(1))
    there = b.less(place, size)
    values = b.where(there, b.gather(rows, b.where(there, place, last), 1), lowest)
    attributes = {"axis": 2, "largest": int(largest), "sorted": 1}
    stacked = b.reshape(values, 0, -1, TOPK_LIMIT)
    values, where = b.node("TopK", [stacked, length], outputs=2, attributes=attributes)
    part = b.reshape(count_up(b, count), 1, -1, 1)
    positions = b.add(where, b.mul(part, length))
    real = b.less(positions, size)
    flags = b.cast(real, np.int32)
    before = b.sub(b.op("CumSum", flags, b.const(2, np.int64)), flags)  # in its own part
    own = b.reshape(b.div(place, length), 1, 1, -1)
    shape = b.concat([b.slice(b.op("Shape", values), 0, 0, 2), total], 0)
    ends = [b.op("Expand", b.const(v, np.int32), shape) for v in (0, TOPK_LIMIT)]
    wanted = b.reshape(values, 0, 1, -1)
    found = _searched(b, values, wanted, (ends[0], ends[1]), b.less(part, own), TOPK_LIMIT, largest=largest)
    elsewhere = b.where(b.equal(part, own), b.reshape(before, 0, 1, -1), found)
    places = b.cast(b.reduce("ReduceSum", elsewhere, 1, keepdims=False), np.int64)
    places = b.where(b.reshape(real, 0, -1), places, b.sub(total, b.ints(1)))
    flat = [b.reshape(v, 0, -1) for v in (values, positions)]
    sorted_values, order = (b.op("ScatterElements", f, places, f, axis=1) for f in flat)
    return sorted_values, order
