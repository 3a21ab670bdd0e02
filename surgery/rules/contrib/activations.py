"""Activations of com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, to


def gelu_of(b: Body, x: str, dtype: np.dtype[Any]) -> str:
    """x/2 * (1 + erf(x/sqrt 2))."""
    inner = b.op("Erf", b.mul(x, b.const(np.sqrt(0.5), dtype)))
    return b.mul(b.mul(x, b.const(0.5, dtype)), b.add(inner, b.const(1, dtype)))


def tanh_gelu_of(b: Body, x: str, dtype: np.dtype[Any]) -> str:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    square = b.mul(x, x)
    slope = b.add(
        b.mul(square, b.const(0.044715 * np.sqrt(2 / np.pi), dtype)), b.const(np.sqrt(2 / np.pi), dtype)
    )
    inner = b.op("Tanh", b.mul(x, slope))
    return b.mul(b.mul(x, b.const(0.5, dtype)), b.add(inner, b.const(1, dtype)))


def inside(site: Site, b: Body, i: int = 0) -> tuple[str, np.dtype[Any], np.dtype[Any]]:
    """Operand `i`, cast to float32 if it is narrower; its dtype and the one to compute in."""
    dtype = site.dtype(i)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    return to(b, site.x(i), dtype, work), dtype, work


@lowering(
    "ms-activation",
    "Gelu",
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
    "BiasSplitGelu",
    "BiasAdd",
    "BiasSoftmax",
    domain=MS,
    why="Activations, some with a bias, that ONNX Runtime's optimizer makes of erf, tanh, sigmoid or softmax.",
    samples=[
        ms("(float[n, 4] x) => (float[n, 4] y) { y = @Gelu (x) }"),
        ms("(float[n, 3, 4] x, float[4] c) => (float[n, 3, 4] y) { y = @BiasGelu (x, c) }"),
        ms("(float[2, 4] x) => (float[2, 4] y) { y = @FastGelu (x) }"),
        ms("(float[n, 3, 4] x, float[4] c) => (float[n, 3, 4] y) { y = @FastGelu (x, c) }"),
        ms("(float[n, 4] x) => (float[n, 4] y) { y = @QuickGelu (x) }"),
        ms("(float[2, 4] x) => (float[2, 4] y) { y = @QuickGelu <alpha = 0.7> (x) }"),
    ],
    near_misses=[Sample("(float[2, 4] x) => (float[2, 4] y) { y = Gelu (x) }", opset=20)],
)
def activations(site: Site, b: Body) -> str:
    """The sum with the bias, then the activation; BiasSplitGelu multiplies one half by the other's."""
    x, dtype, work = inside(site, b)
    for i in range(1, len(site.inputs)):
        if site.has(i):
            x = b.add(x, to(b, site.x(i), site.dtype(i), work))
    if site.op == "QuickGelu":
        x = b.mul(x, b.op("Sigmoid", b.mul(x, b.const(site.attr("alpha", 1.702), work))))
    elif site.op == "BiasSplitGelu":
        left, right = b.split(x, -1, 2)
        x = b.mul(left, gelu_of(b, right, work))
    elif site.op == "BiasSoftmax":
        x = softmax_from(site, b, x, int(site.attr("axis", 1)))
    elif site.op == "FastGelu":
        x = tanh_gelu_of(b, x, work)
    elif site.op != "BiasAdd":
        x = gelu_of(b, x, work)
    return to(b, x, work, dtype)


def softmax_from(site: Site, b: Body, x: str, axis: int) -> str:
    """Softmax over all axes from one on, as ONNX had it before opset 13."""
    rank = site.input(0).rank
    if axis % rank == rank - 1:
        return b.op("Softmax", x, axis=-1)
    flat = b.op("Flatten", x, axis=axis % rank)
    return b.op("Reshape", b.op("Softmax", flat, axis=-1), b.op("Shape", x))
