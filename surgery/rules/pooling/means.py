"""AveragePool and LpPool."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.pooling.sliding import (
    averaged,
    is_static,
    narrowed,
    widened,
    window_slices,
    window_sum,
    windows,
)

# -- AveragePool --------------------------------------------------------------------------------------


@lowering(
    "averagepool-by-gathers",
    "AveragePool",
    why="TensorRT has no dilated average. Sums are taken axis by axis and divided by the number of elements.",
    samples=[
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [2, 2], dilations = [1, 2], pads = [1, 0, 1, 1],
                               count_include_pad = 1, strides = [2, 1]> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[n, 2, 9, 8] x) => (float[n, 2, 5, 4] y)
        { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[1, 2, 9, 8] x) => (float[1, 2, 7, 3] y)
        { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2], pads = [1, 0, 1, 1], strides = [1, 2],
                           count_include_pad = 1> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[1, 1, 8, 8, 8] x) => (float[1, 1, 4, 4, 4] y)
        { y = AveragePool <kernel_shape = [2, 2, 2], dilations = [2, 2, 2], strides = [2, 2, 2],
                           ceil_mode = 1> (x) }""",
            opset=19,
        ),
        *samples_in(
            "float16 double",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) { y = AveragePool <kernel_shape = [2, 2], "
            "dilations = [1, 2], pads = [1, 0, 1, 1], count_include_pad = 1, strides = [2, 1]> (x) }",
            opset=19,
        ),
    ],
    near_misses=[
        Sample(
            """(float[1, 1, h, w] x) => (float[1, 1, p, q] y)
        { y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]> (x) }""",
            opset=19,
        )
    ],
    since=19,
)
def averagepool_by_gathers(site: Site, b: Body) -> str:
    """The sum over each window, divided by how many elements count."""
    if is_static(site):
        return averaged(site, b, windows(site))
    if any(site.attr("pads") or ()) and not site.attr("count_include_pad", 0):
        raise NoMatch("how many elements count depends on the size of the image, which is not known")
    x, dtype = widened(site, b)
    total = window_slices(site, b, x, "Add", np.zeros((), dtype))
    volume = prod(int(k) for k in site.attr("kernel_shape", []))
    return narrowed(site, b, b.div(total, b.const(volume, dtype)), dtype)


# -- LpPool -------------------------------------------------------------------------------------------


@lowering(
    "lppool-by-powers",
    "LpPool",
    why="TensorRT has p = 1 and 2 without dilations. The p-th root of the sum of p-th powers.",
    samples=[
        """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
        { y = LpPool <kernel_shape = [2, 3], strides = [1, 2], pads = [0, 1, 1, 0], p = 3> (x) }""",
        "(float[n, 2, 6, 6] x) => (float[n, 2, 5, 5] y) { y = LpPool <kernel_shape = [2, 2], p = 3> (x) }",
        """(float[1, 2, 7, 6] x) => (float[1, 2, 4, 3] y)
        { y = LpPool <kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_LOWER", p = 4> (x) }""",
        """(float[1, 2, 9] x) => (float[1, 2, 5] y)
        { y = LpPool <kernel_shape = [3], dilations = [3], pads = [1, 1], p = 1> (x) }""",
        """(float[1, 2, 9, 8] x) => (float[1, 2, 5, 4] y)
        { y = LpPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, p = 3> (x) }""",
        *samples_in(
            "float16 double",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) { y = LpPool <kernel_shape = [2, 3], strides = "
            "[1, 2], pads = [0, 1, 1, 0], p = 3> (x) }",
        ),
    ],
    near_misses=[
        """(float[1, 1, h, w] x) => (float[1, 1, p, q] y)
        { y = LpPool <kernel_shape = [2, 2], p = 3, auto_pad = "SAME_UPPER"> (x) }"""
    ],
)  # fmt: skip
def lppool(site: Site, b: Body) -> str:
    """Powers, the sum over each window, the root."""
    x, dtype = widened(site, b)
    p = int(site.attr("p", 2))
    powers = _power(b, x, p, dtype)
    if not is_static(site):
        total = window_slices(site, b, powers, "Add", np.zeros((), dtype))
        return narrowed(site, b, _root(b, total, p, dtype), dtype)
    found = windows(site)
    if all(w.dilation == 1 for w in found) and not site.attr("ceil_mode", 0):
        mean = b.op(
            "AveragePool",
            powers,
            kernel_shape=[w.kernel for w in found],
            strides=[w.stride for w in found],
            pads=[*(w.head for w in found), *(w.tail for w in found)],
            count_include_pad=1,
        )
        total = b.mul(mean, b.const(prod(w.kernel for w in found), dtype))
    else:
        total = window_sum(b, powers, found, dtype)
    return narrowed(site, b, _root(b, total, p, dtype), dtype)


def _power(b: Body, x: str, p: int, dtype: Any) -> str:
    """The p-th power of the magnitude."""
    if p == 2:
        return b.mul(x, x)
    size = b.op("Abs", x)
    return size if p == 1 else b.op("Pow", size, b.const(p, dtype))


def _root(b: Body, x: str, p: int, dtype: Any) -> str:
    if p == 1:
        return x
    return b.op("Sqrt", x) if p == 2 else b.op("Pow", x, b.const(1 / p, dtype))


@lowering(
    "global-lppool-by-powers",
    "GlobalLpPool",
    why="TensorRT has p = 1 and 2. The p-th root of the sum of p-th powers over all spatial axes.",
    samples=[
        "(float[n, 2, h, w] x) => (float[n, 2, 1, 1] y) { y = GlobalLpPool <p = 3> (x) }",
        "(float[1, 2, 5] x) => (float[1, 2, 1] y) { y = GlobalLpPool <p = 1> (x) }",
        "(float[1, 2, 5, 3, 2] x) => (float[1, 2, 1, 1, 1] y) { y = GlobalLpPool (x) }",
        *samples_in("float16", "(T[n, 2, h, w] x) => (T[n, 2, 1, 1] y) { y = GlobalLpPool <p = 3> (x) }"),
    ],
    near_misses=["(float[1, 2, 5] x) => (float[1, 2, 1] y) { y = GlobalAveragePool (x) }"],
)
def global_lppool(site: Site, b: Body) -> str:
    """Powers, their sum, the root."""
    x, dtype = widened(site, b)
    p = int(site.attr("p", 2))
    total = b.reduce("ReduceSum", _power(b, x, p, dtype), *range(2, site.input(0).rank))
    return narrowed(site, b, _root(b, total, p, dtype), dtype)
