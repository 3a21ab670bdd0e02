"""ScatterND and ScatterElements with a reduction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.indexing.updates import (
    MASK_LIMIT,
    Updates,
    by_loop,
    by_masks,
    by_rounds,
    masked_reduce,
    reduction_of,
)
from surgery.rules.precision import computing_dtype
from surgery.rules.sizes import count_up, dims_tensor, product_tensor, volume, wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
