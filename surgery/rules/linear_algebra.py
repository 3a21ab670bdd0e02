"""Determinants."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site

COFACTORS = 3
"""Largest size that is expanded into products; elimination is as exact and shorter beyond."""

MAX_DET = 64
"""Largest size that is unrolled."""


@lowering(
    "det-by-elimination",
    "Det",
    why="No TensorRT has Det. Gaussian elimination with partial pivoting, unrolled over the static size.",
    samples=[
        "(float[2, 3, 3] x) => (float[2] y) { y = Det (x) }",
        "(float[1, 1] x) => (float y) { y = Det (x) }",
        "(float[n, 2, 2] x) => (float[n] y) { y = Det (x) }",
        "(float[4, 4] x) => (float y) { y = Det (x) }",
        "(float[a, b, 7, 7] x) => (float[a, b] y) { y = Det (x) }",
        "(double[2, 5, 5] x) => (double[2] y) { y = Det (x) }",
        "(float16[2, 3, 3] x) => (float16[2] y) { y = Det (x) }",
    ],
    near_misses=["(float[n, n] x) => (float y) { y = Det (x) }"],
)
def det(site: Site, b: Body) -> str:
    """Products for the smallest sizes; larger matrices by elimination with partial pivoting."""
    x = site.input(0)
    size = x.shape[-1] if x.shape else None
    if not isinstance(size, int):
        raise NoMatch("the size of the matrices is not known")
    if not 1 <= size <= MAX_DET:
        raise NoMatch(f"matrices of {size} rows are not unrolled")
    wide = np.dtype(np.float64 if site.dtype(0) == np.float64 else np.float32)
    matrix = b.cast(x.name, wide)
    found = (
        _minor(b, matrix, 0, list(range(size))) if size <= COFACTORS else _eliminated(b, matrix, size, wide)
    )
    return b.cast(found, site.dtype(0))


def _minor(b: Body, matrix: str, row: int, columns: list[int]) -> str:
    """Determinant of the rows from one on and some columns, expanded along the first of these rows."""
    line = b.gather(matrix, b.const(row, np.int64), -2)
    total = ""
    for k, column in enumerate(columns):
        term = b.gather(line, b.const(column, np.int64), -1)
        if len(columns) > 1:
            term = b.mul(term, _minor(b, matrix, row + 1, [c for c in columns if c != column]))
        total = term if not total else b.sub(total, term) if k % 2 else b.add(total, term)
    return total


def _eliminated(b: Body, matrix: str, size: int, wide: np.dtype[np.generic]) -> str:
    """The product of the pivots, with a change of sign for every exchange of rows.

    In every step the row with the largest entry of the first column changes places with the first row, and
    the remaining matrix gets one row and one column smaller.
    """
    zero, one = b.const(0, wide), b.const(1, wide)
    result = ""
    for left in range(size, 0, -1):
        if left == 1:
            pivot = b.squeeze(matrix, -2, -1)
            return b.mul(result, pivot) if result else pivot
        column = b.slice(matrix, -1, 0, 1)  # [..., left, 1]
        large = b.op("Abs", column)
        rows = b.const(np.arange(left).reshape(-1, 1), np.int64)
        largest = b.equal(large, b.reduce("ReduceMax", large, -2))
        best = b.reduce("ReduceMin", b.where(largest, rows, b.const(left - 1, np.int64)), -2)  # [..., 1, 1]
        chosen = b.equal(rows, best)  # [..., left, 1]
        pivot_row = b.reduce("ReduceSum", b.where(chosen, matrix, zero), -2)
        pivot = b.slice(pivot_row, -1, 0, 1)
        moved = b.where(chosen, b.slice(matrix, -2, 0, 1), matrix)  # the first row goes where the pivot was
        rest = b.slice(moved, -2, 1, left)
        # A column of zeros makes the determinant 0 whatever the factors are.
        factors = b.div(b.slice(rest, -1, 0, 1), b.where(b.equal(pivot, zero), one, pivot))
        matrix = b.sub(b.slice(rest, -1, 1, left), b.mul(factors, b.slice(pivot_row, -1, 1, left)))
        exchanged = b.greater(best, b.const(0, np.int64))
        signed = b.squeeze(b.where(exchanged, b.op("Neg", pivot), pivot), -2, -1)
        result = b.mul(result, signed) if result else signed
    return result
