"""Averages over windows that TensorRT takes no pooling for, of images whose size is free."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import computing_dtype


@lowering(
    "averagepool-by-products",
    "AveragePool",
    why="TensorRT's windows have fewer than 100,000 elements, and larger ones are common where a pooling stands for "
    "the average of the whole image. The sum over windows along an axis is a product with a matrix of zeros and "
    "ones, which the size of the image makes at run time.",
    samples=[
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [400, 400], strides = [400, 400], ceil_mode = 1> (x) }""",
            feeds={"x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 7)).astype(np.float32)},
        ),
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [400, 300], strides = [3, 2], ceil_mode = 1,
                               pads = [198, 148, 199, 150], count_include_pad = 1> (x) }""",
            feeds={"x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 7)).astype(np.float32)},
        ),
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [400, 300], strides = [3, 2], pads = [198, 148, 199, 150]> (x) }""",
            feeds={"x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 7)).astype(np.float32)},
        ),
        Sample(
            """(float16[n, 2, h, w] x) => (float16[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [400, 400], strides = [400, 400], ceil_mode = 1> (x) }""",
            feeds={"x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 7)).astype(np.float16)},
        ),
        Sample(
            """(double[n, 2, h, w] x) => (double[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [400, 300], strides = [3, 2], ceil_mode = 1,
                               pads = [198, 148, 199, 150], count_include_pad = 1> (x) }""",
            feeds={"x": np.random.default_rng(0).normal(0, 1, (2, 2, 5, 7))},
        ),
    ],
    near_misses=[
        """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
        { y = AveragePool <kernel_shape = [400, 400], auto_pad = "SAME_UPPER"> (x) }"""
    ],
)  # fmt: skip
def averagepool_by_products(site: Site, b: Body) -> str:
    """One product for each axis, divided by how many elements the windows have."""
    x = site.input(0)
    kernel = [int(k) for k in site.attr("kernel_shape", [])]
    n = len(kernel)
    if x.rank != n + 2:
        raise NoMatch("the kernel does not have the rank of the input")
    if all(isinstance(d, int) for d in (x.shape or ())[2:]):
        raise NoMatch("the size of the image is known")
    if str(site.attr("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
        raise NoMatch("the size of the image decides the padding")
    if any(d != 1 for d in site.attr("dilations") or []):
        raise NoMatch("a dilated window")
    wide = computing_dtype(site.dtype(0))
    pads = site.attr("pads") or [0] * 2 * n
    strides = site.attr("strides") or [1] * n
    up, padded = bool(site.attr("ceil_mode", 0)), bool(site.attr("count_include_pad", 0))
    shape = b.op("Shape", x.name)
    found = b.cast(x.name, wide)
    for i in range(n):
        size = b.squeeze(b.slice(shape, 0, i + 2, i + 3), 0)
        weights = _weights(b, size, kernel[i], int(strides[i]), (int(pads[i]), int(pads[i + n])), up, padded)
        weights = b.cast(weights, wide)
        if i == n - 1:
            found = b.op("MatMul", found, b.transpose(weights, 1, 0))
        else:
            turned = [*(k for k in range(n + 2) if k != i + 2), i + 2]
            back = [*range(i + 2), n + 1, *range(i + 2, n + 1)]
            found = b.transpose(
                b.op("MatMul", b.transpose(found, *turned), b.transpose(weights, 1, 0)), *back
            )
    return b.cast(found, site.dtype(0))


def _weights(
    b: Body, size: str, kernel: int, stride: int, pads: tuple[int, int], up: bool, padded: bool
) -> str:
    """[windows, size] in float32: one over the elements of a window where it has one, and 0."""
    head, tail = pads
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    room = b.add(size, b.const(head + tail - kernel, np.int64))
    # Division of whole numbers rounds down for what is not negative; the room may be negative where it rounds up.
    steps = b.op("Neg", _floor_div(b, b.op("Neg", room), stride)) if up else _floor_div(b, room, stride)
    count = b.add(steps, one)
    if up:  # no window starts in the padding behind
        last = b.mul(steps, b.const(stride, np.int64))
        behind = b.greater_equal(last, b.add(size, b.const(head, np.int64)))
        count = b.sub(count, b.cast(behind, np.int64))
    starts = b.sub(b.mul(b.op("Range", zero, count, one), b.const(stride, np.int64)), b.const(head, np.int64))
    starts = b.unsqueeze(starts, 1)
    ends = b.add(starts, b.const(kernel, np.int64))
    places = b.unsqueeze(b.op("Range", zero, size, one), 0)
    inside = b.logical_and(b.greater_equal(places, starts), b.less(places, ends))
    mask = b.cast(inside, np.float32)
    if padded:
        stop = b.minimum(ends, b.add(size, b.const(tail, np.int64)))
        elements = b.cast(b.sub(stop, starts), np.float32)
    else:
        elements = b.reduce("ReduceSum", mask, 1)
    return b.div(mask, elements)


def _floor_div(b: Body, value: str, by: int) -> str:
    """A whole number divided and rounded down, below zero too."""
    if by == 1:
        return value
    # Far enough above zero, rounding to zero is rounding down.
    far = 1 << 20
    return b.sub(
        b.div(b.add(value, b.const(far * by, np.int64)), b.const(by, np.int64)), b.const(far, np.int64)
    )
