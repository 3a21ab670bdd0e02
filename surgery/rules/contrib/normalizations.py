"""Normalizations of ONNX Runtime, sums in front of them included."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, reduce_mean, to


def moments(
    b: Body, x: str, epsilon: float, axes: range, work: np.dtype[Any], centre: bool
) -> tuple[str, str, str]:
    """The centred values (or the values), their mean, and the reciprocal of the root of their mean square."""
    mean = reduce_mean(b, x, axes) if centre else ""
    centred = b.sub(x, mean) if centre else x
    square = reduce_mean(b, b.mul(centred, centred), axes)
    return centred, mean, b.op("Reciprocal", b.op("Sqrt", b.add(square, b.const(epsilon, work))))


def normalized(
    b: Body,
    x: str,
    scale: str,
    shift: str,
    dtype: np.dtype[Any],
    axis: int,
    rank: int,
    epsilon: float,
    centre: bool,
) -> tuple[str, str, str]:
    """Result, mean and reciprocal deviation; the latter two are written as well, unread ones are dropped."""
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    centred, mean, root = moments(b, to(b, x, dtype, work), epsilon, range(axis % rank, rank), work, centre)
    if centre and b.opset >= 17:
        extra = [shift] if shift else []
        y = b.op("LayerNormalization", x, scale, *extra, axis=axis % rank, epsilon=float(epsilon))
        return y, mean, root
    y = b.mul(b.mul(centred, root), to(b, scale, dtype, work))
    if shift:
        y = b.add(y, to(b, shift, dtype, work))
    return to(b, y, work, dtype), mean, root


@lowering(
    "ms-skip-layernorm",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    domain=MS,
    why="The sum of a branch, a skip connection and a bias, normalized: what ONNX Runtime's transformer "
    "optimizer makes of Add and LayerNormalization (or the mean square alone).",
    samples=[
        ms(
            "(float[2, 3, 4] x, float[2, 3, 4] s, float[4] w, float[4] c, float[4] d) => "
            "(float[2, 3, 4] y, float[2, 3, 4] t) { y, , , t = @SkipLayerNormalization <epsilon = 0.01> "
            "(x, s, w, c, d) }"
        ),
        ms(
            "(float[n, 3, 4] x, float[n, 3, 4] s, float[4] w, float[4] c) => (float[n, 3, 4] y) "
            "{ y = @SkipLayerNormalization (x, s, w, c) }"
        ),
        ms(
            "(float[2, 3, 4] x, float[1, 3, 4] s, float[4] w) => (float[2, 3, 4] y) "
            "{ y = @SkipLayerNormalization (x, s, w) }",
            opset=14,
        ),
        ms(
            "(float16[2, 3, 4] x, float16[3, 4] s, float16[4] w, float16[4] c) => (float16[2, 3, 4] y) "
            "{ y = @SkipLayerNormalization <epsilon = 0.01> (x, s, w, c) }"
        ),
        ms(
            "(float[n, 3, 4] x, float[n, 3, 4] s, float[4] w, float[4] d) => (float[n, 3, 4] y, float[n, 3, 4] t) "
            "{ y, , , t = @SkipSimplifiedLayerNormalization (x, s, w, d) }"
        ),
        ms(
            "(float[2, 4] x, float[2, 4] s, float[4] w) => (float[2, 4] y) "
            "{ y = @SkipSimplifiedLayerNormalization <epsilon = 0.1> (x, s, w) }"
        ),
        ms(
            "(float16[2, 3, 4] x, float16[2, 3, 4] s, float16[4] w) => (float16[2, 3, 4] y) "
            "{ y = @SkipSimplifiedLayerNormalization (x, s, w) }"
        ),
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def skip_layernorm(site: Site, b: Body) -> list[str | None]:
    """Add, Add, then the normalization; the sum is the fourth output."""
    centre = site.op == "SkipLayerNormalization"
    bias = 4 if centre else 3
    total = b.add(site.x(0), site.x(1))
    if site.has(bias):
        total = b.add(total, site.x(bias))
    shift = site.optional(3) if centre else ""
    epsilon = float(site.attr("epsilon", 1e-12 if centre else 1e-5))
    y, mean, root = normalized(
        b, total, site.x(2), shift, site.dtype(0), -1, site.input(0).rank, epsilon, centre
    )
    return [y, mean or None, root, total]


@lowering(
    "simplified-layernorm",
    "SimplifiedLayerNormalization",
    why="ONNX Runtime's name, in ONNX's own domain, for what is RMSNormalization since opset 23.",
    samples=[
        "(float[n, 3, 4] x, float[4] w) => (float[n, 3, 4] y) "
        "{ y = SimplifiedLayerNormalization <epsilon = 0.01> (x, w) }",
        "(float[2, 3, 4] x, float[3, 4] w) => (float[2, 3, 4] y, float[2, 1, 1] r) "
        "{ y, r = SimplifiedLayerNormalization <axis = 1> (x, w) }",
        "(float16[2, 3, 4] x, float16[4] w) => (float16[2, 3, 4] y) { y = SimplifiedLayerNormalization (x, w) }",
        "(double[2, 3, 4] x, double[4] w) => (double[2, 3, 4] y) { y = SimplifiedLayerNormalization (x, w) }",
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def simplified_layernorm(site: Site, b: Body) -> list[str | None]:
    """Values over the root of their mean square, times the scale."""
    axis, epsilon = int(site.attr("axis", -1)), float(site.attr("epsilon", 1e-5))
    y, _, root = normalized(
        b, site.x(0), site.x(1), "", site.dtype(0), axis, site.input(0).rank, epsilon, False
    )
    return [y, root]
