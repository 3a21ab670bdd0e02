"""Window functions of signal processing, where their size is an input."""

from __future__ import annotations

import math

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site

_ALPHA = float(np.float32(0.16))

COSINES = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (float(np.float32(25.0 / 46.0)), float(np.float32(21.0 / 46.0)), 0.0),
    "BlackmanWindow": (float(np.float32((1.0 - _ALPHA) / 2.0)), 0.5, _ALPHA / 2.0),
}
"""Weights of 1, -cos(t) and cos(2t) from the operators' definitions, as ONNX Runtime rounds them."""


@lowering(
    "window-of-declared-size",
    *COSINES,
    why="The target has no window functions, and wants the number of elements as a constant: the declared output "
    "shape has it. The sum of cosines is the operators' definition.",
    samples=[
        Sample("(int32 n) => (float[10] y) { y = HannWindow (n) }", feeds={"n": 10}),
        Sample("(int64 n) => (float[9] y) { y = HammingWindow <periodic = 0> (n) }", feeds={"n": 9}),
        Sample(
            "(int32 n) => (double[10] y) { y = BlackmanWindow <output_datatype = 11> (n) }", feeds={"n": 10}
        ),
        Sample("(int32 n) => (float16[7] y) { y = HannWindow <output_datatype = 10> (n) }", feeds={"n": 7}),
    ],
    near_misses=[Sample("(int32 n) => (float[m] y) { y = HannWindow (n) }", feeds={"n": 10})],
    since=17,
)
def window_of_declared_size(site: Site, b: Body) -> str:
    """Cosines of places over the size, which stays an operand."""
    if site.input(0).value is not None:
        raise NoMatch("the size is constant")
    out = site.out(0)
    if not out.static:
        site.need(0, "the size of the window")
    dtype = np.dtype(np.float64 if out.dtype == np.float64 else np.float32)
    size = b.cast(site.x(0), dtype)
    if not site.attr("periodic"):
        size = b.sub(size, b.const(1, dtype))
    angle = b.div(b.const(np.arange(out.dims[0]) * math.tau, dtype), size)
    first, second, third = (b.const(weight, dtype) for weight in COSINES[site.op])
    total = b.sub(first, b.mul(second, b.op("Cos", angle)))
    if COSINES[site.op][2]:
        total = b.add(total, b.mul(third, b.op("Cos", b.mul(angle, b.const(2, dtype)))))
    if out.dtype is not None and out.dtype != dtype:
        total = b.cast(total, out.dtype)
    return total
