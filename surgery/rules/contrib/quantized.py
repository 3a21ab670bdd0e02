"""Arithmetic on quantized tensors: QLinear operators of com.microsoft."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.activations import softmax_from
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import reduce_mean
from surgery.rules.quantization.common import as_float, is_zero, limits


def scalar_of(site: Site, b: Body, i: int) -> str:
    """Scale or zero point `i` in float32, of rank 0 where it is written as a list of one; zero if left out."""
    if not site.has(i):
        return b.scalar(0)
    value = as_float(site, i, b)
    return b.squeeze(value, 0) if site.input(i).shape == (1,) else value


def real(site: Site, b: Body, x: int, scale: int, zero: int) -> str:
    """The numbers that a quantised input stands for."""
    value = as_float(site, x, b)
    if not is_zero(site, zero):
        value = b.sub(value, scalar_of(site, b, zero))
    return b.mul(value, scalar_of(site, b, scale))


def saturated(site: Site, b: Body, whole: str) -> str:
    """Whole numbers in the output's dtype, those beyond its ends at its ends."""
    out = site.out(0).dtype or site.dtype(0)
    low, high = limits(out)
    return b.cast(b.op("Clip", whole, b.scalar(low), b.scalar(high)), out)


def nearest(site: Site, b: Body, x: str) -> str:
    """Rounded half to even and saturated to the output's dtype; the zero point is in it already."""
    return saturated(site, b, b.op("Round", x))


def stored(site: Site, b: Body, x: str, scale: int, zero: int) -> str:
    """Real numbers as quantised ones."""
    whole = b.op("Round", b.div(x, scalar_of(site, b, scale)))
    if not is_zero(site, zero):
        whole = b.add(whole, scalar_of(site, b, zero))
    return saturated(site, b, whole)


SCALES = {"s": np.float32(0.0371), "r": np.float32(0.0213), "t": np.float32(0.0519)}


def binary(op: str, kind: str, left: str, right: str) -> Sample:
    """A sample of QLinearAdd or QLinearMul."""
    return ms(
        f"({kind}{left} x, float s, {kind} i, {kind}{right} c, float r, {kind} j, float t, {kind} k) => "
        f"({kind}{left} y) {{ y = @{op} (x, s, i, c, r, j, t, k) }}",
        **SCALES,
    )


@lowering(
    "ms-qlinear-arithmetic",
    "QLinearAdd",
    "QLinearMul",
    domain=MS,
    why="Sums and products of quantised tensors, which ONNX Runtime's quantizer leaves in operator form; in "
    "float32 in the order of ONNX Runtime's kernels.",
    samples=[
        binary("QLinearAdd", "uint8", "[2, n, 4]", "[n, 4]"),
        binary("QLinearAdd", "int8", "[2, 3, 4]", "[2, 3, 4]"),
        binary("QLinearMul", "uint8", "[2, 3, 4]", "[2, 3, 4]"),
        binary("QLinearMul", "int8", "[2, 3, 4]", "[4]"),
    ],
    near_misses=["(float[3] x, float[3] c) => (float[3] y) { y = Add (x, c) }"],
)
def qlinear_arithmetic(site: Site, b: Body) -> str:
    """Operands times their share of the output's scale, the zero points gathered in one constant."""
    x, y = as_float(site, 0, b), as_float(site, 3, b)
    sx, sy, sz = (scalar_of(site, b, i) for i in (1, 4, 6))
    zx, zy, zz = (scalar_of(site, b, i) for i in (2, 5, 7))
    if site.op == "QLinearMul":
        product = b.mul(b.sub(x, zx), b.sub(y, zy))
        return nearest(site, b, b.add(b.mul(product, b.div(b.mul(sx, sy), sz)), zz))
    rx, ry = b.div(sx, sz), b.div(sy, sz)
    fixed = b.sub(zz, b.add(b.mul(rx, zx), b.mul(ry, zy)))
    return nearest(site, b, b.add(b.mul(x, rx), b.add(b.mul(y, ry), fixed)))


def unary(op: str, kind: str, attributes: str = "") -> Sample:
    """A sample of a quantised activation."""
    return ms(
        f"({kind}[n, 9] x, float s, {kind} i, float t, {kind} k) => ({kind}[n, 9] y) "
        f"{{ y = @{op} {attributes} (x, s, i, t, k) }}",
        s=np.float32(0.0371),
        t=np.float32(0.0087),
    )


@lowering(
    "ms-qlinear-activation",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearSoftmax",
    domain=MS,
    why="Activations of quantised tensors, which ONNX Runtime's quantizer leaves in operator form.",
    samples=[
        unary("QLinearSigmoid", "uint8"),
        unary("QLinearSigmoid", "int8"),
        unary("QLinearLeakyRelu", "uint8"),
        unary("QLinearLeakyRelu", "int8", "<alpha = 0.3>"),
        unary("QLinearSoftmax", "uint8", "<opset = 13>"),
        unary("QLinearSoftmax", "int8", "<opset = 13, axis = 0>"),
        unary("QLinearSoftmax", "uint8", "<opset = 12, axis = 0>"),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Sigmoid (x) }"],
)
def qlinear_activation(site: Site, b: Body) -> str:
    """Real numbers, the activation, quantised again."""
    x = real(site, b, 0, 1, 2)
    if site.op == "QLinearSigmoid":
        y = b.op("Sigmoid", x)
    elif site.op == "QLinearLeakyRelu":
        y = b.op("LeakyRelu", x, alpha=float(site.attr("alpha", 0.01)))
    else:
        return stored_probabilities(site, b, softmax_of(site, b, x))
    return stored(site, b, y, 3, 4)


def softmax_of(site: Site, b: Body, x: str) -> str:
    """Softmax along an axis, or, before opset 13, over all axes from that one on."""
    axis = int(site.attr("axis", -1))
    return (
        b.op("Softmax", x, axis=axis) if int(site.attr("opset", 13)) >= 13 else softmax_from(site, b, x, axis)
    )


def stored_probabilities(site: Site, b: Body, p: str) -> str:
    """Quantised as ONNX Runtime's softmax does: by the reciprocal of the scale without its fraction."""
    steps = b.op("Floor", b.op("Reciprocal", scalar_of(site, b, 3)))
    return nearest(site, b, b.add(b.op("Round", b.mul(p, steps)), scalar_of(site, b, 4)))


def channels_first(site: Site, b: Body, x: str) -> str:
    """(batch, ..., channels) as (batch, channels, ...), if the node has it that way."""
    rank = site.input(0).rank
    return b.transpose(x, 0, rank - 1, *range(1, rank - 1)) if site.attr("channels_last", 0) else x


def channels_last(site: Site, b: Body, x: str) -> str:
    """The way back."""
    rank = site.input(0).rank
    return b.transpose(x, 0, *range(2, rank), 1) if site.attr("channels_last", 0) else x


def pooled(op: str, kind: str, out: str, attributes: str) -> Sample:
    """A sample of a quantised pooling over (2, 3, 6, 6)."""
    return ms(
        f"({kind}[2, 3, 6, 6] x, float s, {kind} i, float t, {kind} k) => ({kind}[{out}] y) "
        f"{{ y = @{op} {attributes} (x, s, i, t, k) }}",
        s=np.float32(0.0371),
        t=np.float32(0.0287),
    )


@lowering(
    "ms-qlinear-pool",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    domain=MS,
    why="Means of quantised tensors, which ONNX Runtime's quantizer leaves in operator form.",
    samples=[
        pooled("QLinearGlobalAveragePool", "uint8", "2, 3, 1, 1", ""),
        pooled("QLinearGlobalAveragePool", "int8", "2, 1, 1, 6", "<channels_last = 1>"),
        pooled("QLinearAveragePool", "uint8", "2, 3, 3, 3", "<kernel_shape = [2, 2], strides = [2, 2]>"),
        pooled(
            "QLinearAveragePool",
            "int8",
            "2, 3, 6, 6",
            "<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>",
        ),
        pooled("QLinearAveragePool", "uint8", "2, 2, 5, 6", "<kernel_shape = [2, 2], channels_last = 1>"),
    ],
    near_misses=["(float[1, 3, 4, 4] x) => (float[1, 3, 1, 1] y) { y = GlobalAveragePool (x) }"],
)
def qlinear_pool(site: Site, b: Body) -> str:
    """Real numbers (whole ones for the mean over all), the mean, quantised again."""
    if site.op == "QLinearGlobalAveragePool":
        x = as_float(site, 0, b)
        rank = site.input(0).rank
        axes = range(1, rank - 1) if site.attr("channels_last", 0) else range(2, rank)
        mean = b.sub(reduce_mean(b, x, axes), scalar_of(site, b, 2))
        ratio = b.div(scalar_of(site, b, 1), scalar_of(site, b, 3))
        return nearest(site, b, b.add(b.mul(mean, ratio), scalar_of(site, b, 4)))
    own = {k: v for k, v in site.attributes.items() if k != "channels_last"}
    x = channels_first(site, b, real(site, b, 0, 1, 2))
    return channels_last(site, b, stored(site, b, b.op("AveragePool", x, **own), 3, 4))


@lowering(
    "ms-qlinear-concat",
    "QLinearConcat",
    domain=MS,
    why="Quantised tensors of several scales brought to one and concatenated.",
    samples=[
        ms(
            f"(float t, {kind} k, {kind}[2, n] x, float s, {kind} i, {kind}[2, 4] c, float r, {kind} j) => "
            f"({kind}[2, m] y) {{ y = @QLinearConcat <axis = 1> (t, k, x, s, i, c, r, j) }}",
            **SCALES,
        )
        for kind in ("uint8", "int8")
    ],
    near_misses=["(float[3] x, float[3] c) => (float[6] y) { y = Concat <axis = 0> (x, c) }"],
)
def qlinear_concat(site: Site, b: Body) -> str:
    """Each one in the output's scale, then Concat."""
    parts = [stored(site, b, real(site, b, i, i + 1, i + 2), 0, 1) for i in range(2, len(site.inputs), 3)]
    return b.concat(parts, int(site.attr("axis")))


@lowering(
    "ms-qlinear-where",
    "QLinearWhere",
    domain=MS,
    why="A choice between quantised tensors of two scales.",
    samples=[
        ms(
            f"(bool[2, 1] a, {kind}[2, n] x, float s, {kind} i, {kind}[n] c, float r, {kind} j, float t, "
            f"{kind} k) => ({kind}[2, n] y) {{ y = @QLinearWhere (a, x, s, i, c, r, j, t, k) }}",
            **SCALES,
        )
        for kind in ("uint8", "int8")
    ],
    near_misses=["(bool[3] a, float[3] x, float[3] c) => (float[3] y) { y = Where (a, x, c) }"],
)
def qlinear_where(site: Site, b: Body) -> str:
    """Both in the output's scale, then Where."""
    return b.where(site.x(0), *(stored(site, b, real(site, b, i, i + 1, i + 2), 7, 8) for i in (1, 4)))
