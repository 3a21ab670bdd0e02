"""The inverse of a matrix, and operators that ONNX has under another name."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, to

MAX_INVERSE = 32
"""Largest matrix whose elimination is unrolled."""


@lowering(
    "ms-inverse",
    "Inverse",
    domain=MS,
    why="No TensorRT inverts matrices. Gauss-Jordan elimination with partial pivoting, unrolled over the size.",
    samples=[
        ms("(float[2, 3, 3] x) => (float[2, 3, 3] y) { y = @Inverse (x) }"),
        ms("(float[1, 1] x) => (float[1, 1] y) { y = @Inverse (x) }", x=(1, 3)),
        ms("(double[n, 2, 5, 5] x) => (double[n, 2, 5, 5] y) { y = @Inverse (x) }"),
        ms("(float16[2, 2] x) => (float16[2, 2] y) { y = @Inverse (x) }", x=[[1, 2], [3, 1]]),
    ],
    near_misses=[ms("(float[n, n] x) => (float[n, n] y) { y = @Inverse (x) }")],
)
def inverse(site: Site, b: Body) -> str:
    """The matrix beside the identity; what makes the one the identity makes the other the inverse."""
    x = site.input(0)
    size = x.shape[-1] if x.shape else None
    if not isinstance(size, int) or not 1 <= size <= MAX_INVERSE:
        raise NoMatch(f"matrices of {size} rows are not unrolled")
    dtype = site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    left = to(b, x.name, dtype, work)
    matrix = b.concat([left, b.op("Expand", b.const(np.eye(size), work), b.op("Shape", left))], -1)
    rows = b.const(np.arange(size).reshape(-1, 1), np.int64)
    for step in range(size):
        matrix = eliminated(b, matrix, rows, step, size, work)
    return to(b, b.slice(matrix, -1, size, 2 * size), work, dtype)


def eliminated(b: Body, matrix: str, rows: str, step: int, size: int, work: np.dtype[Any]) -> str:
    """One column made one of the identity, by the row with its largest entry from that step on."""
    here = np.arange(size).reshape(-1, 1)
    column = b.op("Abs", b.slice(matrix, -1, step, step + 1))
    large = b.where(b.const(here >= step, np.bool_), column, b.const(-1, work))
    largest = b.equal(large, b.reduce("ReduceMax", large, -2))
    best = b.reduce("ReduceMin", b.where(largest, rows, b.const(size - 1, np.int64)), -2)
    chosen = b.equal(rows, best)
    line = b.reduce("ReduceSum", b.where(chosen, matrix, b.const(0, work)), -2)
    unit = b.div(line, b.slice(line, -1, step, step + 1))
    moved = b.where(chosen, b.slice(matrix, -2, step, step + 1), matrix)
    others = b.sub(moved, b.mul(b.slice(moved, -1, step, step + 1), unit))
    return b.where(b.const(here == step, np.bool_), unit, others)


@lowering(
    "ms-as-onnx",
    "ExpandDims",
    "GatherND",
    "Range",
    "Trilu",
    "CDist",
    domain=MS,
    why="Operators that ONNX got later, or that a few of its operators make.",
    samples=[
        ms(
            "(float[2, n] x) => (float[2, 1, n] y) { a = Constant <value = int32 {1}> () y = @ExpandDims (x, a) }"
        ),
        ms(
            "(int64[2, n] x) => (int64[2, n, 1] y) { a = Constant <value = int32 {-1}> () y = @ExpandDims (x, a) }"
        ),
        ms("(float[3, 4] x, int64[2, 1] i) => (float[2, 4] y) { y = @GatherND (x, i) }", i=(0, 3)),
        ms("(float[3, 4] x) => (float[3, 4] y) { y = @Trilu <upper = 0> (x) }"),
        ms(
            "(int64[n, 3, 4] x) => (int64[n, 3, 4] y) { k = Constant <value = int64 {1}> () y = @Trilu (x, k) }"
        ),
        ms("(float a, float c, float d) => (float[k] y) { y = @Range (a, c, d) }", a=0, c=5, d=2),
        ms("(float[n, 4] x, float[3, 4] z) => (float[n, 3] y) { y = @CDist (x, z) }"),
        ms(
            '(double[2, 4] x, double[3, 4] z) => (double[2, 3] y) { y = @CDist <metric = "euclidean"> (x, z) }'
        ),
    ],
    near_misses=["(float[3, 4] x) => (float[3, 4] y) { y = Trilu (x) }"],
)
def as_onnx(site: Site, b: Body) -> str:
    """One or a few operators of ONNX."""
    inputs = [site.optional(i) for i in range(len(site.inputs))]
    if site.op == "ExpandDims":
        return expand_dims(site, b)
    if site.op == "CDist":
        return pairwise_distances(site, b)
    if site.op == "Trilu" and b.opset < 14:
        raise NoMatch("Trilu exists since opset 14")
    if site.op == "Range" and not site.has(2):
        inputs = [*inputs[:2], b.const(1, site.dtype(0))]
    return b.op(site.op, *inputs, **site.attributes)


def expand_dims(site: Site, b: Body) -> str:
    """Unsqueeze; negative axes count in the result."""
    axis = int(site.need(1, "where the new axis is").reshape(()))
    return b.unsqueeze(site.x(0), axis if axis >= 0 else axis + site.input(0).rank + 1)


def pairwise_distances(site: Site, b: Body) -> str:
    """Distances (squared by default) of all rows of both, from differences, not from products that cancel."""
    difference = b.sub(b.unsqueeze(site.x(0), 1), b.unsqueeze(site.x(1), 0))
    squares = b.reduce("ReduceSum", b.mul(difference, difference), 2, keepdims=False)
    return b.op("Sqrt", squares) if site.attr("metric", "sqeuclidean") == "euclidean" else squares
