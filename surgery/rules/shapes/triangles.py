"""Triangles and diagonals: rows and columns compared."""

from __future__ import annotations

import numpy as np
import onnx

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.reductions import choose
from surgery.rules.shapes.axes import counted
from surgery.rules.sizes import axis_size


def triangle(site: Site, b: Body) -> str:
    """Where row and column numbers compare, the input, else zero."""
    x = site.input(0)
    if x.rank < 2:
        raise NoMatch("not a matrix")
    difference = _columns_less_rows(b, x)
    k = b.op("Reshape", site.x(1), b.ints(1)) if site.has(1) else b.ints(0)
    outside = b.less(difference, k) if site.attr("upper") else b.greater(difference, k)
    return choose(b, outside, b.const(0, site.dtype()), x.name, x.dtype)


def _columns_less_rows(b: Body, x: Operand) -> str:
    shape = x.shape or ()
    rows, columns = (counted(b, shape[r], axis_size(b, x, r)) for r in (x.rank - 2, x.rank - 1))
    return b.sub(b.unsqueeze(columns, 0), b.unsqueeze(rows, 1))


@lowering(
    "upper-triangle-of-whole-numbers",
    "Trilu",
    why="TensorRT computes the upper triangle of int64 wrongly, without a word; the unsigned types become int64.",
    samples=[
        Sample(
            "(int64[2, 3, 4] x, int64 k) => (int64[2, 3, 4] y) { y = Trilu (x, k) }", feeds={"k": (-3, 4)}
        ),
        "(int64[n, m] x) => (int64[n, m] y) { y = Trilu (x) }",
        *samples_in(
            "uint32 uint64",
            "(T[2, 3, 4] x, int64 k) => (T[2, 3, 4] y) { y = Trilu (x, k) }",
            feeds={"k": (-3, 4)},
        ),
    ],
    near_misses=["(float[3, 3] x) => (float[3, 3] y) { y = Trilu (x) }"],
    when="always",
    since=14,
)
def upper_triangle(site: Site, b: Body) -> str:
    """The triangle as a choice."""
    if site.dtype().name not in ("int64", "uint64", "uint32") or not site.attr("upper"):
        raise NoMatch("taken, and computed right")
    return triangle(site, b)


@lowering(
    "triangle-as-choice",
    "Trilu",
    why="Where the target does not take Trilu: row and column numbers are compared.",
    samples=[
        Sample(
            "(float[2, 3, 4] x, int64[1] k) => (float[2, 3, 4] y) { y = Trilu <upper = 0> (x, k) }",
            feeds={"k": [1]},
        ),
        Sample("(bool[n, 4] x, int64 k) => (bool[n, 4] y) { y = Trilu (x, k) }", feeds={"k": (-3, 4)}),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 double",
            "(T[2, 3, 4] x, int64[1] k) => (T[2, 3, 4] y) { y = Trilu <upper = 0> (x, k) }",
            feeds={"k": [1]},
        ),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Relu (x) }"],
    since=14,
)
def triangle_as_choice(site: Site, b: Body) -> str:
    """The triangle as a choice."""
    return triangle(site, b)


@lowering(
    "eyelike-by-comparison",
    "EyeLike",
    why="TensorRT wants the shape of the matrix as numbers; row and column numbers that are k apart need none.",
    samples=[
        "(float[n, 4] x) => (float[n, 4] y) { y = EyeLike <k = 1> (x) }",
        "(int32[n, m] x) => (double[n, m] y) { y = EyeLike <dtype = 11, k = -1> (x) }",
        *samples_in(
            "float16 double int8 int16 int64 uint8 uint16 uint32 uint64 bool",
            "(T[n, 4] x) => (float[n, 4] y) { y = EyeLike <k = 1> (x) }",
        ),
        *samples_in(
            "float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool",
            "(float[n, 4] x) => (T[n, 4] y) { y = EyeLike <k = 1> (x) }",
        ),
    ],
    near_misses=["(float[3, 3] x) => (float[3, 3] y) { y = EyeLike (x) }"],
    when="always",
)
def eyelike(site: Site, b: Body) -> str:
    """Ones where column less row is k."""
    x = site.input(0)
    if x.static:
        raise NoMatch("taken: the sizes are known")
    wanted = site.attr("dtype")
    dtype = site.dtype() if wanted is None else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(wanted)))
    hit = b.equal(_columns_less_rows(b, x), b.const(int(site.attr("k")), "int64"))
    return b.cast(hit, dtype)
