"""Products of matrices: vectors and whole numbers."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.elementwise.activations import whole
from surgery.rules.engine.rule import NoMatch, lowering, samples_in
from surgery.rules.engine.site import Site

MAX_PRODUCTS = 1 << 28
"""Products of whole-number matrices with more terms than this would not fit into memory side by side."""


@lowering(
    "matmul-of-a-vector",
    "MatMul",
    why="TensorRT's parser mistakes the result's shape where a vector meets a batch of matrices.",
    samples=[
        "(float[3] x, float[2, 3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }",
        "(float[3] x, float[n, 2, 3, 4] w) => (float[n, 2, 4] y) { y = MatMul (x, w) }",
        "(float[n, 4, 3] x, float[3] w) => (float[n, 4] y) { y = MatMul (x, w) }",
        "(float[3] x, float[3] w) => (float y) { y = MatMul (x, w) }",
        "(float16[3] x, float16[3, 4] w) => (float16[4] y) { y = MatMul (x, w) }",
        *samples_in(
            "double uint32 uint64 int32 int64 bfloat16",
            "(T[3] x, T[2, 3, 4] w) => (T[2, 4] y) { y = MatMul (x, w) }",
        ),
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def matmul_of_a_vector(site: Site, b: Body) -> str:
    """A dim of 1 more on the vector, and one less on the result."""
    ranks = [site.input(i).rank for i in (0, 1)]
    if 1 not in ranks:
        raise NoMatch("neither operand is a vector")
    x = b.unsqueeze(site.x(0), 0) if ranks[0] == 1 else site.x(0)
    w = b.unsqueeze(site.x(1), 1) if ranks[1] == 1 else site.x(1)
    axes = [axis for axis, rank in ((-2, ranks[0]), (-1, ranks[1])) if rank == 1]
    return b.squeeze(b.op("MatMul", x, w), *axes)


@lowering(
    "integer-matmul",
    "MatMul",
    why="TensorRT multiplies matrices of floats alone; float32 is not exact for 32-bit numbers.",
    samples=[
        *(
            f"({t}[3, 4] x, {t}[4, 5] w) => ({t}[3, 5] y) {{ y = MatMul (x, w) }}"
            for t in ("int32", "int64", "uint32", "uint64")
        ),
        "(int32[2, n, 4] x, int32[4, 5] w) => (int32[2, n, 5] y) { y = MatMul (x, w) }",
        "(int32[2, 1, 3, 4] x, int32[3, 4, 5] w) => (int32[2, 3, 3, 5] y) { y = MatMul (x, w) }",
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def integer_matmul(site: Site, b: Body) -> str:
    """Every product of a row and a column side by side, and their sums."""
    whole(site, 0, 1)
    x, w = site.input(0), site.input(1)
    if x.rank < 2 or w.rank < 2:
        raise NoMatch("a vector")
    if x.static and w.static and int(np.prod(x.dims)) * w.dims[-1] > MAX_PRODUCTS:
        raise NoMatch("too many products")
    dtype = site.dtype(0)
    wide = dtype.kind == "u"
    left, right = (b.cast(o.name, np.int64) if wide else o.name for o in (x, w))
    products = b.mul(b.unsqueeze(left, -1), b.unsqueeze(right, -3))
    result = b.reduce("ReduceSum", products, -2, keepdims=False)
    if dtype == np.uint32:
        result = b.op("Mod", result, b.const(1 << 32, np.int64))
    return b.cast(result, dtype) if wide else result


@lowering(
    "integer-gemm",
    "Gemm",
    why="TensorRT multiplies matrices of floats alone; float32 is not exact for 32-bit numbers.",
    samples=[
        "(int32[3, 4] x, int32[4, 5] w) => (int32[3, 5] y) { y = Gemm (x, w) }",
        "(int32[4, n] x, int32[5, 4] w, int32[5] c) => (int32[n, 5] y) "
        "{ y = Gemm <transA = 1, transB = 1> (x, w, c) }",
        "(int64[3, 4] x, int64[4, 5] w, int64 c) => (int64[3, 5] y) { y = Gemm (x, w, c) }",
        *samples_in("uint32 uint64", "(T[3, 4] x, T[4, 5] w) => (T[3, 5] y) { y = Gemm (x, w) }"),
    ],
    near_misses=[
        "(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = Gemm (x, w) }",
        "(int32[3, 4] x, int32[4, 5] w) => (int32[3, 5] y) { y = Gemm <alpha = 0.5> (x, w) }",
    ],
)
def integer_gemm(site: Site, b: Body) -> str:
    """MatMul of what may have to be transposed, and a sum."""
    whole(site, 0, 1)
    has_bias = site.has(2)
    if site.attr("alpha", 1.0) != 1 or (has_bias and site.attr("beta", 1.0) != 1):
        raise NoMatch("whole numbers times a factor that is not 1")
    x = b.transpose(site.x(0), 1, 0) if site.attr("transA", 0) else site.x(0)
    w = b.transpose(site.x(1), 1, 0) if site.attr("transB", 0) else site.x(1)
    product = b.op("MatMul", x, w)
    return b.add(product, site.x(2)) if has_bias else product
