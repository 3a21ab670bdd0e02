"""Scattering with reductions, selection by constant masks, reversal, n-gram counting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMBINE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
REDUCE = {"add": "ReduceSum", "mul": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}

MASK_LIMIT = 2**22
"""Most (target, update) pairs that are compared all at once; more go through a loop."""

ROUNDS_LIMIT = 8
"""Most updates of one target that are unrolled where the indices are constant."""

ALL = 2**31 - 1
"""End of a slice that goes to the end."""

LANES_LIMIT = 2**22
"""Elements that the lanes of all rows together have at most, where they are more than the rows."""

MOST_LANES = 64
"""Lanes of a row, at most."""

FREE_DIM = 16
"""What a free dim counts as where the size of an intermediate tensor decides."""


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums, products and extremes of a dtype are computed in: at least as exact."""
    if "float" in dtype.name:
        return np.dtype(np.float64 if dtype == np.float64 else np.float32)
    if dtype.itemsize > 4 or dtype == np.uint32:
        return np.dtype(np.int64)
    return np.dtype(np.int32)


def dims_tensor(b: Body, operand: Operand, start: int, end: int) -> str:
    """Dims start..end of an operand, 1-D int64: a constant if they are known."""
    dims = (operand.shape or ())[start:end]
    if all(isinstance(d, int) for d in dims):
        return b.ints(*[int(d) for d in dims if isinstance(d, int)])
    return b.slice(b.op("Shape", operand.name), 0, start, end)


def product_tensor(b: Body, operand: Operand, start: int, end: int) -> str:
    """Product of the dims start..end of an operand, int64 of shape [1]."""
    dims = (operand.shape or ())[start:end]
    if all(isinstance(d, int) for d in dims):
        return b.ints(math.prod(d for d in dims if isinstance(d, int)))
    return b.reduce("ReduceProd", b.slice(b.op("Shape", operand.name), 0, start, end), 0)


def volume(dims: Sequence[object]) -> int:
    """Product of dims; a free one counts as `FREE_DIM`."""
    return math.prod(d if isinstance(d, int) else FREE_DIM for d in dims)


def wrapped(b: Body, indices: str, sizes: str) -> str:
    """Indices with those below 0 counted from the end."""
    return b.where(b.less(indices, b.const(0, np.int64)), b.add(indices, sizes), indices)


def count_up(b: Body, count: str) -> str:
    """0, 1, ... below a count of shape [1]; int64."""
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    if b.opset >= 27:  # no TensorRT of this time takes the Range of these opsets
        return b.sub(b.op("CumSum", b.op("Expand", one, count), zero), one)
    return b.op("Range", zero, b.squeeze(count, 0), one)


@dataclass(frozen=True)
class Updates:
    """Updates of the rows of a matrix [P, S].

    Attributes:
        data: The matrix.
        rows: Positions of the rows, int64 [U], not negative.
        values: Updates [U, S].
        reduction: How they are combined with what is there.
        dtype: Dtype of the matrix.
        known: The positions where they are constant.
    """

    data: str
    rows: str
    values: str
    reduction: str
    dtype: np.dtype[Any]
    known: NDArray[Any] | None = None

    def combine(self, b: Body, old: str, new: str) -> str:
        """Both under the reduction."""
        return b.op(COMBINE[self.reduction], old, new)


def masked_reduce(b: Body, u: Updates, mask: str, values: str, data: str, axis: int) -> str:
    """Updates under a mask, reduced along an axis; where nothing is chosen, what changes nothing."""
    neutral = data if u.reduction in ("max", "min") else b.const(int(u.reduction == "mul"), u.dtype)
    return b.reduce(REDUCE[u.reduction], b.where(mask, values, neutral), axis, keepdims=False)


def by_rounds(b: Body, u: Updates) -> str | None:
    """Constant positions: one plain scatter for the first update of every row, one for the second, ..."""
    if u.known is None:
        return None
    rows = u.known.reshape(-1)
    seen: dict[int, int] = {}
    number = np.zeros(len(rows), np.int64)
    for k, row in enumerate(rows.tolist()):
        number[k] = seen.get(row, 0)
        seen[row] = int(number[k]) + 1
    if not len(rows) or number.max() >= ROUNDS_LIMIT:
        return None
    data = u.data
    for k in range(int(number.max()) + 1):
        chosen = np.flatnonzero(number == k)
        whole = len(chosen) == len(rows)
        values = u.values if whole else b.gather(u.values, b.const(chosen, np.int64), 0)
        old = b.gather(data, b.const(rows[chosen], np.int64), 0)
        data = b.op("ScatterND", data, b.const(rows[chosen, None], np.int64), u.combine(b, old, values))
    return data


def by_masks(b: Body, u: Updates, rows: int) -> str:
    """Every (row, update) pair at once."""
    mask = b.unsqueeze(b.equal(b.const(np.arange(rows)[:, None], np.int64), b.unsqueeze(u.rows, 0)), 2)
    reduced = masked_reduce(b, u, mask, b.unsqueeze(u.values, 0), b.unsqueeze(u.data, 1), 1)
    return u.combine(b, u.data, reduced)


def by_loop(b: Body, u: Updates) -> str:
    """Rounds until nothing is left: in each, one of the updates of every row wins and is applied.

    Who wins is whoever is found in a table after all have written their number to it, so a round is right
    whatever order the scatter writes duplicates in. There are as many rounds as updates of one row. So that these
    are few, every row has several lanes, which updates take in turns, and which are combined at the end; and where
    the reduction picks one of the updates, those that would change nothing any more are done. Those that do not win
    write to a row of their own behind the matrix.
    """
    size = b.op("Shape", u.data)
    rows, width, one = b.slice(size, 0, 0, 1), b.slice(size, 0, 1, 2), b.ints(1)
    count = b.op("Shape", u.rows)
    lanes = _lanes(b, b.mul(rows, width), count)
    all_rows = b.mul(rows, lanes)
    last = b.squeeze(all_rows, 0)
    if u.reduction in ("max", "min"):
        repeated = b.op("Expand", b.unsqueeze(u.data, 0), b.concat([lanes, rows, width], 0))
        extra = b.op("Expand", b.const(0, u.dtype), b.concat([one, width], 0))
        data = b.concat([b.op("Reshape", repeated, b.concat([b.ints(-1), width], 0)), extra], 0)
    else:
        more_rows = b.add(b.sub(all_rows, rows), one)
        neutral = b.const(int(u.reduction == "mul"), u.dtype)
        data = b.concat([u.data, b.op("Expand", neutral, b.concat([more_rows, width], 0))], 0)
    # TensorRT scatters no more updates than a tensor has elements: the table has room for all of them.
    room = b.add(b.add(all_rows, one), count)
    table = b.op("Expand", b.const(0, np.int64), room)
    ids = count_up(b, count)
    lane = b.sub(ids, b.mul(b.div(ids, lanes), lanes))
    targets = b.add(u.rows, b.mul(lane, rows))

    inner = b.nested()
    step, go, target, now = (inner.fresh(s) for s in ("iteration", "condition", "target", "now"))
    written = inner.op("ScatterElements", table, target, ids, axis=0)
    mine = inner.equal(inner.gather(written, target, 0), ids)
    wins = inner.logical_and(mine, inner.less(target, last))
    at = inner.where(wins, target, last)
    new = u.combine(inner, inner.gather(now, at, 0), u.values)
    after = inner.op("ScatterND", now, inner.unsqueeze(at, 1), new)
    done = inner.logical_or(wins, _idle(inner, u, inner.gather(after, target, 0))) if _picks(u) else wins
    left = inner.where(done, last, target)
    more = inner.less(inner.reduce("ReduceMin", left, 0, keepdims=False), last)
    graph = inner.subgraph(
        "one_update_of_every_row",
        [(step, np.int64), (go, np.bool_), (target, np.int64), (now, u.dtype)],
        [(more, np.bool_), (left, np.int64), (after, u.dtype)],
    )
    # In every round at least one update is done, so there are never more rounds than updates.
    carried = [b.squeeze(count, 0), b.const(True, np.bool_), targets, data]
    _, ended = b.node("Loop", carried, outputs=2, attributes={"body": graph})
    kept = b.op("Slice", ended, b.ints(0), all_rows, b.ints(0))
    apart = b.op("Reshape", kept, b.concat([lanes, rows, width], 0))
    return b.reduce(REDUCE[u.reduction], apart, 0, keepdims=False)


def _lanes(b: Body, cells: str, count: str) -> str:
    """How many lanes every row gets, int64 [1]: no more than updates, and little memory."""
    one = b.ints(1)
    fitting = b.div(b.ints(LANES_LIMIT), b.op("Max", cells, one))
    return b.op("Max", b.op("Min", fitting, b.ints(MOST_LANES), count), one)


def _picks(u: Updates) -> bool:
    """Whether the reduction picks one of its operands."""
    return u.reduction in ("max", "min")


def _idle(b: Body, u: Updates, there: str) -> str:
    """Whether an update changes nothing of what is in its row; a NaN counts as a change."""
    changed = b.logical_not(b.equal(u.combine(b, there, u.values), there))
    return b.equal(b.reduce("ReduceMax", b.cast(changed, np.int32), 1, keepdims=False), b.const(0, np.int32))


def reduction_of(site: Site) -> str:
    """The reduction; NoMatch for none and for those this file does not know."""
    reduction = str(site.attr("reduction", "none"))
    if reduction not in COMBINE:
        raise NoMatch(f"reduction {reduction!r}")
    if site.kind(0) == "b":
        raise NoMatch("booleans are not reduced")
    return reduction


def flat_positions(known: NDArray[Any], dims: Sequence[int]) -> NDArray[Any]:
    """Tuples of indices [U, K] as positions in an array of these dims."""
    position = np.zeros(len(known), np.int64)
    for k, dim in enumerate(dims):
        index = known[:, k]
        if np.any((index < -dim) | (index >= dim)):
            raise NoMatch("an index is out of bounds")
        position = position * dim + np.where(index < 0, index + dim, index)
    return position


@lowering(
    "scatternd-with-reduction",
    "ScatterND",
    why="TensorRT's ScatterND has no reduction. Rounds of plain scatters without duplicates; or all pairs.",
    samples=[
        Sample(
            "(float[5, 3] x, int64[4, 1] i, float[4, 3] u) => (float[5, 3] y)"
            ' { y = ScatterND <reduction = "add"> (x, i, u) }',
            feeds={"i": [[1], [4], [1], [-4]]},
        ),
        Sample(
            "(float16[n, 3] x, int64[4, 2] i, float16[4] u) => (float16[n, 3] y)"
            ' { y = ScatterND <reduction = "mul"> (x, i, u) }',
            feeds={"i": [[1, 0], [0, -1], [1, 0], [1, 0]]},
        ),
        Sample(
            "(double[2, 3, m] x, int64[2, 2, 1] i, double[2, 2, 3, m] u) => (double[2, 3, m] y)"
            ' { y = ScatterND <reduction = "max"> (x, i, u) }',
            feeds={"i": [[[1], [0]], [[-1], [1]]]},
        ),
        Sample(
            "(int64[6] x, int64[5, 1] i, int64[5] u) => (int64[6] y)"
            ' { y = ScatterND <reduction = "min"> (x, i, u) }',
            feeds={"i": [[1], [0], [1], [-1], [5]]},
        ),
        Sample(
            "(int32[6] x, int64[k, 1] i, int32[k] u) => (int32[6] y)"
            ' { y = ScatterND <reduction = "add"> (x, i, u) }',
        ),
        *(
            Sample(
                "(int64[n, 2] x, int64[k, 1] i, int64[k, 2] u) => (int64[n, 2] y)"
                f' {{ y = ScatterND <reduction = "{reduction}"> (x, i, u) }}',
                feeds={
                    "x": np.zeros((3, 2), np.int64), "i": np.arange(200).reshape(-1, 1) % 7 // 3,
                    "u": np.arange(400).reshape(200, 2) * 7919 % 1000 - 500,
                },
            )
            for reduction in ("add", "max", "min")
        ),
        "(int8[6] x, int8[5] u) => (int8[6] y)"
        ' <int64[5, 1] i = {1, 0, 1, -1, 1}> { y = ScatterND <reduction = "mul"> (x, i, u) }',
        "(float[6, n] x, float[2, n] u) => (float[6, n] y)"
        ' <int64[2, 1] i = {1, -1}> { y = ScatterND <reduction = "add"> (x, i, u) }',
        *samples_in(
            "uint8 uint16 uint32 uint64 int16 bfloat16",
            "(T[5, 3] x, int64[4, 1] i, T[4, 3] u) => (T[5, 3] y)"
            ' { y = ScatterND <reduction = "add"> (x, i, u) }',
            feeds={"i": [[1], [4], [1], [-4]]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[5, 3] x, int64[4, 1] i, float[4, 3] u) => (float[5, 3] y) { y = ScatterND (x, i, u) }",
            feeds={"i": [[1], [4], [0], [2]]},
        ),
    ],
)  # fmt: skip
def scatter_nd(site: Site, b: Body) -> str:
    """The data as a matrix of rows, and the indices as positions of rows."""
    reduction = reduction_of(site)
    data, indices, updates = site.input(0), site.input(1), site.input(2)
    depth = indices.shape[-1] if indices.shape else None
    if not isinstance(depth, int) or depth < 1:
        raise NoMatch("the length of an index is not known")
    wide = computing_dtype(site.dtype(0))
    head, tail = (data.shape or ())[:depth], (data.shape or ())[depth : data.rank]
    known = None
    if indices.value is not None and all(isinstance(d, int) for d in head):
        known = flat_positions(indices.value.reshape(-1, depth), [int(d) for d in head if isinstance(d, int)])
        rows = b.const(known, np.int64)
    else:
        rows = _row_positions(b, data, indices, depth)
    width = product_tensor(b, data, depth, data.rank)
    matrix = b.concat([b.ints(-1), width], 0)
    u = Updates(
        b.op("Reshape", b.cast(data.name, wide), matrix), rows,
        b.op("Reshape", b.cast(updates.name, wide), matrix), reduction, wide, known,
    )  # fmt: skip
    pairs = volume(head) * volume((indices.shape or ())[:-1]) * volume(tail)
    out = by_rounds(b, u)
    if out is None and all(isinstance(d, int) for d in head) and pairs <= MASK_LIMIT:
        out = by_masks(b, u, volume(head))
    out = b.op("Reshape", out or by_loop(b, u), dims_tensor(b, data, 0, data.rank))
    return b.cast(out, site.dtype(0))


def _row_positions(b: Body, data: Operand, indices: Operand, depth: int) -> str:
    """Positions of rows, int64 [U], of indices that are not known when the engine is built."""
    sizes = dims_tensor(b, data, 0, depth)
    index = wrapped(b, indices.name, sizes)
    if depth > 1:
        head = (data.shape or ())[:depth]
        dims = [int(d) for d in head if isinstance(d, int)]
        if len(dims) == depth:
            strides = b.ints(*[math.prod(dims[k + 1 :]) for k in range(depth)])
        else:
            parts = [b.reduce("ReduceProd", b.slice(sizes, 0, k + 1, depth), 0) for k in range(depth - 1)]
            strides = b.concat([*parts, b.ints(1)], 0)
        index = b.reduce("ReduceSum", b.mul(index, strides), -1)
    return b.reshape(index, -1)


@lowering(
    "scatterelements-with-reduction",
    "ScatterElements",
    why="TensorRT's ScatterElements has no reduction. Rounds of plain scatters without duplicates; or all pairs.",
    since=16,
    samples=[
        Sample(
            "(float[2, 5] x, int64[2, 4] i, float[2, 4] u) => (float[2, 5] y)"
            ' { y = ScatterElements <axis = 1, reduction = "add"> (x, i, u) }',
            feeds={"i": [[1, 4, 1, -4], [0, 0, 0, -1]]},
        ),
        Sample(
            "(float16[n, 5] x, int64[n, 4] i, float16[n, 4] u) => (float16[n, 5] y)"
            ' { y = ScatterElements <axis = -1, reduction = "mul"> (x, i, u) }',
        ),
        Sample(
            "(double[4, 5] x, int32[2, 3] i, double[2, 3] u) => (double[4, 5] y)"
            ' { y = ScatterElements <axis = 0, reduction = "max"> (x, i, u) }',
            feeds={"i": [[1, 3, 1], [-3, 0, 1]]},
        ),
        Sample(
            "(int64[n, 5] x, int64[m, 3] i, int64[m, 3] u) => (int64[n, 5] y)"
            ' { y = ScatterElements <axis = 0, reduction = "min"> (x, i, u) }',
            feeds={"i": [[1, 0, 0], [0, 1, 0]], "x": (-9, 9), "u": [[1, 2, -3], [4, -5, 6]]},
        ),
        "(int32[3, 2] x, int32[2, 2] u) => (int32[3, 2] y)"
        ' <int64[2, 2] i = {1, 0, 1, -1}> { y = ScatterElements <reduction = "add"> (x, i, u) }',
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16",
            "(T[2, 5] x, int64[2, 4] i, T[2, 4] u) => (T[2, 5] y)"
            ' { y = ScatterElements <axis = 1, reduction = "add"> (x, i, u) }',
            feeds={"i": [[1, 4, 1, -4], [0, 0, 0, -1]]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[5] x, int64[2] i, float[2] u) => (float[5] y) { y = ScatterElements (x, i, u) }",
            feeds={"i": [1, 4]},
        ),
    ],
)  # fmt: skip
def scatter_elements(site: Site, b: Body) -> str:
    """Pairs along the axis; or the elements as rows of length 1."""
    reduction = reduction_of(site)
    data, indices, updates = site.input(0), site.input(1), site.input(2)
    axis = int(site.attr("axis", 0)) % data.rank
    wide = computing_dtype(site.dtype(0))
    values = b.cast(updates.name, wide)
    index = b.cast(indices.name, np.int64)
    u = Updates(b.cast(data.name, wide), index, values, reduction, wide)
    return b.cast(reduced_elements(b, u, data, indices, axis), site.dtype(0))


def reduced_elements(b: Body, u: Updates, data: Operand, indices: Operand, axis: int) -> str:
    """Updates of elements along an axis, combined with what is there.

    Args:
        b: Gets the nodes.
        u: The data, indices and updates as they are, neither flattened nor wrapped.
        data: Shape of the data.
        indices: Shape of the indices, and their value where it is known.
        axis: The axis, not negative.
    """
    index, values, reduction, wide = u.rows, u.values, u.reduction, u.dtype
    fixed = indices.value if data.static else None
    out = None
    if fixed is None and _along_one_axis(data, indices, axis):
        out = _masked_elements(b, u, data, indices, axis)
    if out is None:
        known = _element_positions(fixed, data.dims, axis) if fixed is not None else None
        rows = (
            b.const(known, np.int64)
            if known is not None
            else run_time_elements(b, index, data, indices, axis)
        )
        column = b.ints(-1, 1)
        u = Updates(
            b.op("Reshape", u.data, column), rows, b.op("Reshape", values, column), reduction, wide, known
        )
        out = by_rounds(b, u) or by_loop(b, u)
        out = b.op("Reshape", out, dims_tensor(b, data, 0, data.rank))
    return out


def _along_one_axis(data: Operand, indices: Operand, axis: int) -> bool:
    """Whether the pairs of (target, update) along the axis can be compared all at once."""
    there, here = data.shape or (), indices.shape or ()
    if not isinstance(there[axis], int) or not isinstance(here[axis], int) or data.rank > 7:
        return False
    known = all(
        (isinstance(d, int) and isinstance(i, int)) or (isinstance(d, str) and d and d == i)
        for k, (d, i) in enumerate(zip(there, here, strict=True))
        if k != axis
    )
    return known and volume(there) * volume([here[axis]]) <= MASK_LIMIT


def _masked_elements(b: Body, u: Updates, data: Operand, indices: Operand, axis: int) -> str:
    """Every (target, update) pair along the axis at once; where there are no updates, an index that is none."""
    rank, there, here = data.rank, list(data.shape or ()), list(indices.shape or ())
    size = int(there[axis] or 0)
    index, values = wrapped(b, u.rows, b.const(size, np.int64)), u.values
    for k in range(rank):
        whole, part = there[k], here[k]
        missing = whole - part if isinstance(whole, int) and isinstance(part, int) and k != axis else 0
        if not missing:
            continue
        shape = _block(b, index, here, k, missing)
        index = b.concat([index, b.op("Expand", b.const(size, np.int64), shape)], k)
        values = b.concat([values, b.op("Expand", b.const(0, u.dtype), shape)], k)
        here[k] = there[k]
    column = [1] * (rank + 1)
    column[axis] = size
    mask = b.equal(b.unsqueeze(index, axis), b.const(np.arange(size).reshape(column), np.int64))
    reduced = masked_reduce(b, u, mask, b.unsqueeze(values, axis), b.unsqueeze(u.data, axis + 1), axis + 1)
    return u.combine(b, u.data, reduced)


def _block(b: Body, value: str, dims: Sequence[object], axis: int, size: int) -> str:
    """The shape of a value with another size along an axis; 1-D int64."""
    if all(isinstance(d, int) for d in dims):
        return b.ints(*[size if k == axis else d for k, d in enumerate(dims) if isinstance(d, int)])
    whole = b.op("Shape", value)
    parts = [b.slice(whole, 0, 0, axis)] if axis else []
    parts.append(b.ints(size))
    if axis + 1 < len(dims):
        parts.append(b.slice(whole, 0, axis + 1, len(dims)))
    return b.concat(parts, 0)


def _element_positions(indices: NDArray[Any], dims: Sequence[int], axis: int) -> NDArray[Any]:
    """Positions in the flattened data of the elements that constant indices mean."""
    grid: list[NDArray[Any]] = list(np.indices(indices.shape))
    grid[axis] = indices
    return flat_positions(np.stack([g.reshape(-1) for g in grid], 1), dims)


def run_time_elements(b: Body, index: str, data: Operand, indices: Operand, axis: int) -> str:
    """Positions in the flattened data of the elements that indices mean; int64 [U]."""
    rank = data.rank
    position = wrapped(b, index, dims_tensor(b, data, axis, axis + 1))
    position = b.mul(position, product_tensor(b, data, axis + 1, rank))
    for k in range(rank):
        if k == axis:
            continue
        here = b.mul(count_up(b, dims_tensor(b, indices, k, k + 1)), product_tensor(b, data, k + 1, rank))
        shape = [1] * rank
        shape[k] = -1
        position = b.add(position, b.reshape(here, *shape))
    return b.reshape(position, -1)


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


@lowering(
    "tfidfvectorizer-by-comparison",
    "TfIdfVectorizer",
    why="No TensorRT has TfIdfVectorizer. All windows of the input are compared with all n-grams of the pool.",
    samples=[
        Sample(
            "(int32[12] x) => (float[7] y) { y = TfIdfVectorizer <mode = 'TF', min_gram_length = 1,"
            " max_gram_length = 2, max_skip_count = 5, ngram_counts = [0, 4], ngram_indexes = [0, 1, 2, 3, 4, 5, 6],"
            " pool_int64s = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]> (x) }".replace("'", '"'),
            feeds={"x": (2, 9)},
        ),
        Sample(
            "(int64[n, c] x) => (float[n, 7] y) { y = TfIdfVectorizer <mode = 'TFIDF', min_gram_length = 2,"
            " max_gram_length = 2, max_skip_count = 1, ngram_counts = [0, 4], ngram_indexes = [0, 1, 2, 3, 6, 4, 4],"
            " pool_int64s = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7], weights = [1., 2., 3., 4., 5., 6., 7.]> (x) }".replace(
                "'", '"'
            ),
            feeds={"x": (5, 9)},
        ),
        Sample(
            "(int64[2, 6] x) => (float[2, 3] y) { y = TfIdfVectorizer <mode = 'IDF', min_gram_length = 3,"
            " max_gram_length = 3, max_skip_count = 0, ngram_counts = [0, 0, 0], ngram_indexes = [2, 0],"
            " pool_int64s = [1, 1, 0, 0, 1, 1]> (x) }".replace("'", '"'),
            feeds={"x": (0, 2)},
        ),
    ],
    near_misses=[
        "(string[6] x) => (float[2] y) { y = TfIdfVectorizer <mode = 'TF', min_gram_length = 1,"
        " max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1],"
        " pool_strings = ['a', 'b']> (x) }".replace("'", '"')
    ],
)  # fmt: skip
def tf_idf(site: Site, b: Body) -> str:
    """Counts per n-gram of the pool, put into the columns that the n-grams name, and weighted."""
    pool = site.attributes.get("pool_int64s")
    if site.kind(0) not in "iu" or pool is None:
        raise NoMatch("the pool holds strings")
    indexes = [int(i) for i in site.attr("ngram_indexes")]
    x = b.cast(site.x(0), np.int64)
    rank = site.input(0).rank
    x = x if rank == 2 else b.reshape(x, 1, -1)
    found = _ngram_counts(site, b, x, [int(v) for v in pool])
    columns: list[list[int]] = [[] for _ in range(max(indexes) + 1)]
    for position, ngram in enumerate(found.numbers):
        columns[indexes[ngram]].append(position)
    counts = b.concat(found.counts, 1)
    weights = site.attributes.get("weights")
    mode = str(site.attr("mode"))
    if mode == "TFIDF" and weights is not None:
        counts = b.mul(counts, b.const([weights[n] for n in found.numbers], np.float32))
    # One more column that is always 0, for outputs without an n-gram.
    counts = b.concat([counts, b.mul(b.slice(counts, 1, 0, 1), b.scalar(0.0))], 1)
    out = ""
    for k in range(max(1, *(len(c) for c in columns))):
        chosen = [c[k] if k < len(c) else len(found.numbers) for c in columns]
        part = b.gather(counts, b.const(chosen, np.int64), 1)
        out = b.add(out, part) if out else part
    if mode == "IDF":
        present = b.cast(b.greater(out, b.scalar(0.0)), np.float32)
        out = b.mul(present, b.const(_column_weights(columns, found.numbers, weights), np.float32))
    return out if rank == 2 else b.squeeze(out, 0)


def _column_weights(columns: list[list[int]], numbers: list[int], weights: list[float] | None) -> list[float]:
    """The weight of each column where it does not depend on which of its n-grams occurs last."""
    if weights is None:
        return [1.0] * len(columns)
    found = [{weights[numbers[position]] for position in column} for column in columns]
    if any(len(f) > 1 for f in found):
        raise NoMatch("n-grams of one column have different weights")
    return [f.pop() if f else 0.0 for f in found]


@dataclass(frozen=True)
class NgramCounts:
    """Counts [B, N] of some n-grams, as tensors to concatenate, and the numbers of the n-grams in the pool."""

    counts: list[str]
    numbers: list[int]


def _ngram_counts(site: Site, b: Body, x: str, pool: list[int]) -> NgramCounts:
    shortest, longest = int(site.attr("min_gram_length")), int(site.attr("max_gram_length"))
    distances = int(site.attr("max_skip_count")) + 1
    starts = [int(s) for s in site.attr("ngram_counts")]
    room = distances * (longest - 1)
    if room:  # windows that do not fit contain a value that no n-gram has
        nothing = max(pool) + 1 if max(pool) < 2**62 else min(pool) - 1
        rows = b.slice(b.op("Shape", x), 0, 0, 1)
        behind = b.op("Expand", b.const(nothing, np.int64), b.concat([rows, b.ints(room)], 0))
        x = b.concat([x, behind], 1)
    counts: list[str] = []
    numbers: list[int] = []
    number = 0
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        ngrams = np.asarray(pool[start:end], np.int64).reshape(-1, size)
        here = range(number, number + len(ngrams))
        number += len(ngrams)
        if not len(ngrams) or not shortest <= size <= longest:
            continue
        total = ""
        for distance in range(1, distances + 1 if size > 1 else 2):
            same = ""
            for k in range(size):
                shifted = b.slice(x, 1, k * distance, k * distance - room or ALL) if room else x
                hit = b.equal(b.unsqueeze(shifted, 2), b.const(ngrams[:, k].reshape(1, 1, -1), np.int64))
                same = b.logical_and(same, hit) if same else hit
            part = b.reduce("ReduceSum", b.cast(same, np.float32), 1, keepdims=False)
            total = b.add(total, part) if total else part
        counts.append(total)
        numbers += here
    if not counts:
        raise NoMatch("no n-gram of the pool has a length that counts")
    return NgramCounts(counts, numbers)
