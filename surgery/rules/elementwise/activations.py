"""Bounds, activations and normalizations of neighbours."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site


def whole(site: Site, *positions: int) -> None:
    """NoMatch unless these inputs hold whole numbers."""
    for i in positions:
        if site.kind(i) not in ("i", "u"):
            raise NoMatch(f"input {i} is {site.dtype(i)}")


@lowering(
    "clip-by-min-max",
    "Clip",
    why="TensorRT clips neither 8-bit numbers nor whole numbers without bounds; the upper bound wins as in ONNX.",
    samples=[
        "(int8[3, 4] x, int8 low) => (int8[3, 4] y) { y = Clip (x, low) }",
        "(int8[3, 4] x, int8 high) => (int8[3, 4] y) { y = Clip (x, , high) }",
        "(int8[n, 4] x) => (int8[n, 4] y) { y = Clip (x) }",
        "(int32[3, 4] x, int32 low, int32 high) => (int32[3, 4] y) { y = Clip (x, low, high) }",
        "(int64[3, 4] x, int64 low, int64 high) => (int64[3, 4] y) { y = Clip (x, low, high) }",
        "(float[3, 4] x, float low, float high) => (float[3, 4] y) { y = Clip (x, low, high) }",
        "(double[3, 4] x, double low) => (double[3, 4] y) { y = Clip (x, low) }",
        "(float16[3, 4] x, float16 low) => (float16[3, 4] y) { y = Clip (x, low) }",
        "(uint8[3, 4] x, uint8 low, uint8 high) => (uint8[3, 4] y) { y = Clip (x, low, high) }",
        *samples_in(
            "uint16 uint32 uint64 int16 bfloat16", "(T[3, 4] x, T low) => (T[3, 4] y) { y = Clip (x, low) }"
        ),
    ],
    near_misses=["(int8[3, 4] x, int8 low) => (int8[3, 4] y) { y = Max (x, low) }"],
)
def clip(site: Site, b: Body) -> str:
    """Max with the lower bound, then Min with the upper one."""
    value = site.x()
    if site.has(1):
        value = b.maximum(value, site.x(1))
    if site.has(2):
        value = b.minimum(value, site.x(2))
    return b.op("Identity", value) if value == site.x() else value


@lowering(
    "clip-with-crossed-bounds",
    "Clip",
    when="always",
    since=11,
    why="With a lower bound above the upper one, ONNX gives the upper one, TensorRT the lower one (measured on an "
    "H200).",
    samples=[
        "(float[3, 4] x) => (float[3, 4] y) <float low = {1.5}, float high = {-0.5}> { y = Clip (x, low, high) }",
        "(double[n, 4] x) => (double[n, 4] y) <double low = {1.5}, double high = {-0.5}> { y = Clip (x, low, high) }",
        "(float16[n, 4] x) => (float16[n, 4] y) <float16 low = {2}, float16 high = {1}> { y = Clip (x, low, high) }",
        *samples_in(
            "int8 uint8 int32 int64 uint32 uint64 int16 uint16",
            "(T[3, 4] x) => (T[3, 4] y) <T low = {3}, T high = {2}> { y = Clip (x, low, high) }",
        ),
    ],
    near_misses=[
        "(float[3, 4] x) => (float[3, 4] y) <float low = {-0.5}, float high = {1.5}> { y = Clip (x, low, high) }",
        "(float[3, 4] x, float high) => (float[3, 4] y) <float low = {-0.5}> { y = Clip (x, low, high) }",
    ],
)
def crossed_clip(site: Site, b: Body) -> str:
    """Max with the lower bound, then Min with the upper one."""
    if not site.has(1) or not site.has(2) or not np.all(site.const(1) > site.const(2)):
        raise NoMatch("the bounds are in order")
    return b.minimum(b.maximum(site.x(), site.x(1)), site.x(2))


@lowering(
    "integer-relu",
    "Relu",
    why="TensorRT's activations take floats alone.",
    samples=[
        *[f"({t}[n, 4] x) => ({t}[n, 4] y) {{ y = Relu (x) }}" for t in ("int32", "int64", "int8")],
        *samples_in("int16", "(T[n, 4] x) => (T[n, 4] y) { y = Relu (x) }"),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Relu (x) }"],
)
def integer_relu(site: Site, b: Body) -> str:
    """Max with 0."""
    whole(site, 0)
    return b.maximum(site.x(), b.const(0, site.dtype()))


@lowering(
    "integer-prelu",
    "PRelu",
    why="TensorRT's parametric activation takes floats alone.",
    samples=[
        *[
            f"({t}[2, 3, 4] x, {t}[3, 1] s) => ({t}[2, 3, 4] y) {{ y = PRelu (x, s) }}"
            for t in ("int32", "int64")
        ],
        *samples_in("uint32 uint64", "(T[2, 3, 4] x, T[3, 1] s) => (T[2, 3, 4] y) { y = PRelu (x, s) }"),
    ],
    near_misses=["(float[3] x, float[3] s) => (float[3] y) { y = PRelu (x, s) }"],
)
def integer_prelu(site: Site, b: Body) -> str:
    """The slope's product where x is below 0."""
    whole(site, 0)
    x = site.x()
    return b.where(b.less(x, b.const(0, site.dtype())), b.mul(x, site.x(1)), x)


@lowering(
    "celu-by-exp",
    "Celu",
    why="TensorRT's parser loses the rank when it writes Celu out for 16-bit floats.",
    samples=[
        "(float[n, 4] x) => (float[n, 4] y) { y = Celu <alpha = 0.5> (x) }",
        "(float[3, 4] x) => (float[3, 4] y) { y = Celu (x) }",
        *(
            Sample(f"({t}[3, 4] x) => ({t}[3, 4] y) {{ y = Celu <alpha = 2.0> (x) }}", opset=28)
            for t in ("float16", "bfloat16")
        ),
        *samples_in("double", "(T[3, 4] x) => (T[3, 4] y) { y = Celu <alpha = 2.0> (x) }", opset=28),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Elu (x) }"],
)
def celu(site: Site, b: Body) -> str:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)), in float32 for 16-bit floats."""
    dtype = site.dtype()
    narrow = dtype.itemsize == 2
    kind = np.dtype(np.float32) if narrow else dtype
    x = b.cast(site.x(), kind) if narrow else site.x()
    alpha, zero = b.const(site.attr("alpha", 1.0), kind), b.const(0, kind)
    below = b.mul(alpha, b.op("Elu", b.div(b.minimum(x, zero), alpha)))
    result = b.add(b.maximum(x, zero), below)
    return b.cast(result, dtype) if narrow else result


@lowering(
    "softmax-of-a-vector",
    "Softmax",
    "LogSoftmax",
    "Hardmax",
    why="TensorRT's layers want two dims.",
    samples=[
        *(f"(float[5] x) => (float[5] y) {{ y = {op} (x) }}" for op in ("Softmax", "LogSoftmax", "Hardmax")),
        "(float[n] x) => (float[n] y) { y = Softmax (x) }",
        "(float16[5] x) => (float16[5] y) { y = Softmax <axis = 0> (x) }",
        Sample("(float[5] x) => (float[5] y) { y = Softmax <axis = 0> (x) }", opset=11),
        *samples_in("double bfloat16", "(T[5] x) => (T[5] y) { y = Softmax (x) }"),
    ],
    near_misses=["(float[2, 5] x) => (float[2, 5] y) { y = Softmax (x) }"],
)
def softmax_of_a_vector(site: Site, b: Body) -> str:
    """With a dim of 1 in front, which is taken off again."""
    if site.input(0).rank != 1:
        raise NoMatch("not a vector")
    return b.squeeze(b.op(site.op, b.unsqueeze(site.x(), 0), axis=1), 0)


@lowering(
    "lrn-by-average-pool",
    "LRN",
    why="TensorRT normalises over odd windows of 1 to 15 channels in 4-D tensors alone.",
    samples=[
        "(float[n, 6, 4, 4] x) => (float[n, 6, 4, 4] y) "
        "{ y = LRN <size = 3, alpha = 0.5, beta = 0.6, bias = 2.0> (x) }",
        "(float[5, 5, 2, 3] x) => (float[5, 5, 2, 3] y) { y = LRN <size = 4, alpha = 0.5> (x) }",
        "(float16[5, 5, 2, 3] x) => (float16[5, 5, 2, 3] y) { y = LRN <size = 3, alpha = 0.5> (x) }",
        "(float[2, 20, 4, 4] x) => (float[2, 20, 4, 4] y) { y = LRN <size = 17, alpha = 0.9> (x) }",
        *samples_in(
            "double bfloat16",
            "(T[5, 5, 2, 3] x) => (T[5, 5, 2, 3] y) { y = LRN <size = 4, alpha = 0.5> (x) }",
        ),
    ],
    near_misses=["(float[2, 6] x) => (float[2, 6] y) { y = LpNormalization (x) }"],
)
def lrn(site: Site, b: Body) -> str:
    """The mean of squares over a window of channels by a pooling over a tensor of one channel."""
    size, rank = int(site.attr("size")), site.input(0).rank
    if rank < 3:
        raise NoMatch("fewer than three dims")
    dtype = site.dtype()
    narrow = dtype.itemsize == 2
    kind = np.dtype(np.float32) if narrow else dtype
    x = b.cast(site.x(), kind) if narrow else site.x()
    planes = b.unsqueeze(b.reshape(b.mul(x, x), 0, 0, -1), 1)
    before = (size - 1) // 2
    pads = [before, 0, size - 1 - before, 0]
    mean = b.op("AveragePool", planes, kernel_shape=[size, 1], pads=pads, strides=[1, 1], count_include_pad=1)
    mean = b.op("Reshape", mean, b.op("Shape", x))
    alpha, bias, beta = (
        b.const(site.attr(name, value), kind)
        for name, value in (("alpha", 1e-4), ("bias", 1.0), ("beta", 0.75))
    )
    result = b.div(x, b.op("Pow", b.add(b.mul(mean, alpha), bias), beta))
    return b.cast(result, dtype) if narrow else result


@lowering(
    "dropout-without-loss",
    "Dropout",
    why="TensorRT takes no training mode; with a ratio of 0, or outside training, nothing is dropped.",
    samples=[
        "(float[n, 4] x, bool t) => (float[n, 4] y, bool[n, 4] m) "
        "{ r = Constant <value = float {0.0}> () y, m = Dropout (x, r, t) }",
        "(float[3, 4] x) => (float[3, 4] y) { r = Constant <value = float {0.0}> () "
        "t = Constant <value = bool {1}> () y = Dropout (x, r, t) }",
        Sample(
            "(float16[3, 4] x, float r) => (float16[3, 4] y, bool[3, 4] m) "
            "{ t = Constant <value = bool {0}> () y, m = Dropout (x, r, t) }",
            feeds={"r": np.float32(0.3)},
        ),
        "(float[3, 4] x) => (float[3, 4] y, bool[3, 4] m) { y, m = Dropout (x) }",
        *samples_in(
            "double bfloat16",
            "(T[n, 4] x, bool t) => (T[n, 4] y, bool[n, 4] m) { r = Constant <value = float {0.0}> "
            "() y, m = Dropout (x, r, t) }",
        ),
        *samples_in(
            "float16 double",
            "(float16[3, 4] x, T r) => (float16[3, 4] y, bool[3, 4] m) { t = Constant <value = bool "
            "{0}> () y, m = Dropout (x, r, t) }",
            feeds={"r": 0.3},
        ),
    ],
    near_misses=[
        "(float[3] x) => (float[3] y) { r = Constant <value = float {0.5}> () t = Constant <value = bool {1}> () "
        "y = Dropout (x, r, t) }"
    ],
    since=12,
)
def dropout(site: Site, b: Body) -> list[str | None]:
    """The data as they are, and a mask of nothing but true."""
    mode = site.input(2).value if site.has(2) else np.array(False)
    if mode is None or np.any(mode):
        ratio = site.need(1, "whether anything is dropped") if site.has(1) else np.array(0.5)
        if np.any(ratio != 0) and np.any(site.need(2, "whether anything is dropped")):
            raise NoMatch("training draws at random what it drops")
    x = site.x()
    mask = None
    if site.used(1):
        shape = b.op("Shape", x)
        mask = b.op("Expand", b.const(True, np.bool_), shape)
    return [b.op("Identity", x), mask]
