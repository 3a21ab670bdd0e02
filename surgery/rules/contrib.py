"""Operators of ONNX Runtime's domain com.microsoft, which its optimizer leaves behind in saved models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.attention import HALVES, reduce_mean, to
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.quantization import as_float, dequantize, is_zero, limits, quantize

MS = "com.microsoft"
DOMAINS = {MS: 1}


def ms(text: str, opset: int = 18, **feeds: Any) -> Sample:
    """A sample with the domain imported; `@` stands for its name."""
    return Sample(text.replace("@", MS + "."), opset=opset, feeds=feeds, domains=DOMAINS)


# -- products -------------------------------------------------------------------------------------------


def batch_first(rank: int) -> list[int]:
    """Permutation that moves the first dim behind the batch dims."""
    return [*range(1, rank - 1), 0, rank - 1]


def arranged(site: Site, b: Body, i: int, letter: str) -> str:
    """Operand `i` of a product as its attributes say to transpose it."""
    x = site.x(i)
    batch, last = site.attr(f"transBatch{letter}", 0), site.attr(f"trans{letter}", 0)
    if not batch and not last:
        return x
    rank = site.input(i).rank
    if rank < 2:
        return x
    perm = batch_first(rank) if batch else list(range(rank))
    if last:
        perm[-1], perm[-2] = perm[-2], perm[-1]
    return b.transpose(x, *perm) if perm != list(range(rank)) else x


@lowering(
    "ms-fused-matmul",
    "FusedMatMul",
    "TransposeMatMul",
    domain=MS,
    why="A product with its operands' transpositions and a factor, which ONNX Runtime's optimizer makes of "
    "Transpose, MatMul and Mul.",
    samples=[
        ms(
            "(float[2, 3, 4] a, float[2, 5, 4] c) => (float[2, 3, 5] y) "
            "{ y = @FusedMatMul <transB = 1, alpha = 0.5> (a, c) }"
        ),
        ms(
            "(float[n, 4, 3] a, float[n, 4, 5] c) => (float[n, 3, 5] y) { y = @FusedMatMul <transA = 1> (a, c) }"
        ),
        ms(
            "(double[4, 3] a, double[5, 4] c) => (double[3, 5] y) "
            "{ y = @FusedMatMul <transA = 1, transB = 1> (a, c) }"
        ),
        ms(
            "(float[3, 2, 6, 4] a, float[2, 6, 4, 5] c) => (float[2, 6, 3, 5] y) "
            "{ y = @FusedMatMul <transBatchA = 1> (a, c) }"
        ),
        ms(
            "(float[2, 6, 3, 4] a, float[4, 2, 6, 5] c) => (float[2, 6, 3, 5] y) "
            "{ y = @FusedMatMul <transBatchB = 1, alpha = 2.0> (a, c) }"
        ),
        ms(
            "(float[4, 2, 3] a, float[5, 2, 4] c) => (float[2, 3, 5] y) "
            "{ y = @FusedMatMul <transBatchB = 1, transBatchA = 1, transA = 1, transB = 1> (a, c) }"
        ),
        ms("(float[3, 4] a, float[5, 4] c) => (float[3, 5] y) { y = @TransposeMatMul <transB = 1> (a, c) }"),
    ],
    near_misses=["(float[3, 4] a, float[4, 5] c) => (float[3, 5] y) { y = MatMul (a, c) }"],
)
def fused_matmul(site: Site, b: Body) -> str:
    """Transpose, MatMul, Mul."""
    y = b.op("MatMul", arranged(site, b, 0, "A"), arranged(site, b, 1, "B"))
    alpha = float(site.attr("alpha", 1.0))
    return y if alpha == 1.0 else b.mul(y, b.const(alpha, site.dtype(0)))


def leaky(b: Body, x: str, values: Sequence[float]) -> str:
    """LeakyRelu with its slope."""
    return b.op("LeakyRelu", x, alpha=float(values[0] if values else 0.01))


def clipped(b: Body, x: str, values: Sequence[float]) -> str:
    """Clip between two numbers."""
    low, high = values if len(values) == 2 else (np.finfo(np.float32).min, np.finfo(np.float32).max)
    return b.op("Clip", x, b.scalar(float(low)), b.scalar(float(high)))


def hard_sigmoid(b: Body, x: str, values: Sequence[float]) -> str:
    """HardSigmoid with slope and offset."""
    alpha, beta = values if len(values) >= 2 else (0.2, 0.5)
    return b.op("HardSigmoid", x, alpha=float(alpha), beta=float(beta))


def elu(b: Body, x: str, values: Sequence[float]) -> str:
    """Elu with its factor."""
    return b.op("Elu", x, alpha=float(values[0] if values else 1.0))


def thresholded(b: Body, x: str, values: Sequence[float]) -> str:
    """ThresholdedRelu with its threshold."""
    return b.op("ThresholdedRelu", x, alpha=float(values[0] if values else 1.0))


WITH_VALUES: dict[str, Callable[[Body, str, Sequence[float]], str]] = {
    "LeakyRelu": leaky,
    "Clip": clipped,
    "HardSigmoid": hard_sigmoid,
    "Elu": elu,
    "ThresholdedRelu": thresholded,
}
PLAIN = ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign")


def activated(b: Body, x: str, name: str, values: Sequence[float]) -> str:
    """The activation that a fused operator ends with."""
    if not name:
        return x
    if name in PLAIN:
        return b.op(name, x)
    if name not in WITH_VALUES:
        raise NoMatch(f"the activation {name} is not known")
    return WITH_VALUES[name](b, x, values)


@lowering(
    "ms-fused-conv",
    "FusedConv",
    domain=MS,
    why="A convolution with a sum and an activation behind it, as ONNX Runtime's optimizer saves them.",
    samples=[
        ms(
            "(float[1, 3, 6, 6] x, float[4, 3, 3, 3] w, float[4] c) => (float[1, 4, 6, 6] y) "
            '{ y = @FusedConv <activation = "Relu", pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w, c) }'
        ),
        ms(
            "(float[n, 4, 6, 6] x, float[4, 2, 3, 3] w, float[4] c, float[n, 4, 4, 4] z) => (float[n, 4, 4, 4] y) "
            '{ y = @FusedConv <activation = "Relu", group = 2> (x, w, c, z) }'
        ),
        *(
            ms(
                "(float[1, 3, 6] x, float[4, 3, 3] w) => (float[1, 4, 2] y) "
                f'{{ y = @FusedConv <activation = "{name}", strides = [2]{values}> (x, w) }}'
            )
            for name, values in (
                ("Tanh", ""),
                ("Sigmoid", ""),
                ("LeakyRelu", ", activation_params = [0.3]"),
                ("Clip", ", activation_params = [-0.5, 0.5]"),
                ("HardSigmoid", ", activation_params = [0.3, 0.4]"),
            )
        ),
    ],
    near_misses=[
        ms("(float[1, 3, 6] x, float[4, 3, 3] w) => (float[1, 4, 4] y) { y = Conv (x, w) }"),
        ms(
            "(float[1, 3, 6] x, float[4, 3, 3] w) => (float[1, 4, 4] y) "
            '{ y = @FusedConv <activation = "Unheard"> (x, w) }'
        ),
    ],
)
def fused_conv(site: Site, b: Body) -> str:
    """Conv, Add, activation."""
    own = {k: v for k, v in site.attributes.items() if k not in ("activation", "activation_params")}
    y = b.op("Conv", site.x(0), site.x(1), *([site.x(2)] if site.has(2) else []), **own)
    if site.has(3):
        y = b.add(y, site.x(3))
    return activated(b, y, site.attr("activation", ""), site.attr("activation_params", []))


@lowering(
    "ms-fused-gemm",
    "FusedGemm",
    domain=MS,
    why="A Gemm with an activation behind it, as ONNX Runtime's optimizer saves them.",
    samples=[
        *(
            ms(
                "(float[n, 4] x, float[5, 4] w, float[5] c) => (float[n, 5] y) "
                f'{{ y = @FusedGemm <activation = "{name}", transB = 1, alpha = 0.5, beta = 2.0{values}> (x, w, c) }}'
            )
            for name, values in (
                ("Relu", ""),
                ("Tanh", ""),
                ("Sigmoid", ""),
                ("LeakyRelu", ", activation_alpha = 0.3"),
                ("Elu", ", activation_alpha = 0.3"),
                ("HardSigmoid", ", activation_alpha = 0.3, activation_beta = 0.4"),
                ("Softplus", ""),
                ("Softsign", ""),
                ("ThresholdedRelu", ", activation_alpha = 0.3"),
            )
        ),
        ms(
            "(float[4, 3] x, float[4, 5] w) => (float[3, 5] y) "
            '{ y = @FusedGemm <activation = "Relu", transA = 1> (x, w) }'
        ),
    ],
    near_misses=["(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = Gemm (x, w) }"],
)
def fused_gemm(site: Site, b: Body) -> str:
    """Gemm, activation."""
    own = {k: v for k, v in site.attributes.items() if not k.startswith("activation")}
    y = b.op("Gemm", site.x(0), site.x(1), *([site.x(2)] if site.has(2) else []), **own)
    given = (site.attr(f"activation_{n}") for n in ("alpha", "beta", "gamma"))
    return activated(b, y, site.attr("activation", ""), [float(v) for v in given if v is not None])


# -- activations ----------------------------------------------------------------------------------------


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


# -- normalizations -------------------------------------------------------------------------------------


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


# -- attention ------------------------------------------------------------------------------------------


def heads_of(b: Body, x: str, heads: int) -> str:
    """(batch, sequence, heads * size) as (batch, heads, sequence, size)."""
    return b.transpose(b.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)


def part(b: Body, x: str, axis: int, start: int, end: int) -> str:
    """Elements start..end along an axis."""
    return b.slice(x, axis, start, end)


def entry(b: Body, x: str, axis: int, index: int) -> str:
    """One element along an axis, which goes."""
    return b.gather(x, b.const(index, np.int64), axis=axis)


def length(b: Body, x: str, axis: int) -> str:
    """Size of an axis, rank 0, int64."""
    return b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0)


def places(b: Body, size: str) -> str:
    """0, 1, ... size - 1."""
    return b.op("Range", b.const(0, np.int64), size, b.const(1, np.int64))


class Cell:
    """One scaled dot-product attention of ONNX Runtime: softmax(q k' scale + biases) v.

    Args:
        site: The node.
        b: What is written to.
        q: (batch, heads, queries, size).
        k: (batch, heads, all keys, size), the past included.
        v: (batch, heads, all keys, size of values).
        size: Size of a query's head if known.
    """

    def __init__(self, site: Site, b: Body, q: str, k: str, v: str, size: int | None) -> None:
        self.site, self.b, self.q, self.k, self.v = site, b, q, k, v
        scale = float(site.attr("scale", 0.0)) or None
        if scale is None and size is not None:
            scale = float(1 / np.sqrt(np.float32(size)))
        if scale is not None:
            factor = b.scalar(scale)
        else:
            factor = b.op("Reciprocal", b.op("Sqrt", b.cast(length(b, q, 3), np.float32)))
        self.scores = b.mul(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), factor)
        self.filter = float(site.attr("mask_filter_value", -10000.0))

    def bias(self, i: int) -> None:
        """Add input `i` to the scores, if it is there."""
        if self.site.has(i):
            self.scores = self.b.add(self.scores, self.site.x(i))

    def mask(self, i: int, batch: Any) -> None:
        """Hide what input `i` hides: whole numbers per key, or the ends (and starts) of each sample's keys."""
        if not self.site.has(i):
            return
        b, mask, name = self.b, self.site.input(i), self.site.x(i)
        if mask.rank == 2 and (mask.shape or ())[1] == 1:
            return  # one value per sample: ONNX Runtime takes that for no mask
        if mask.rank == 1:
            hidden = self._ends(name, mask.shape, batch)
        elif mask.rank in (2, 3):
            hidden = b.op("LessOrEqual", name, b.const(0, self.site.dtype(i)))
            hidden = b.unsqueeze(hidden, *((1, 2) if mask.rank == 2 else (1,)))
        else:
            raise NoMatch("masks of rank 4 are not defined on the CPU")
        self._hide(hidden)

    def _ends(self, name: str, shape: Any, batch: Any) -> str:
        b = self.b
        columns = b.cast(places(b, length(b, self.k, 2)), np.int32)
        if shape[0] is not None and shape[0] == batch:
            return b.greater_equal(columns, b.unsqueeze(name, 1, 2, 3))
        if not isinstance(shape[0], int) or not isinstance(batch, int) or shape[0] != 2 * batch:
            raise NoMatch("whether the mask has ends alone or ends and starts is not known")
        ends, starts = (b.unsqueeze(n, 1, 2, 3) for n in b.split(name, 0, 2))
        return b.logical_or(b.greater_equal(columns, ends), b.less(columns, starts))

    def _hide(self, hidden: str) -> None:
        b = self.b
        self.scores = b.add(self.scores, b.where(hidden, b.scalar(self.filter), b.scalar(0)))

    def causal(self) -> None:
        """Hide later keys; queries are the last of all positions."""
        b = self.b
        queries, keys = length(b, self.q, 2), length(b, self.k, 2)
        rows = b.unsqueeze(b.add(places(b, queries), b.sub(keys, queries)), 1)
        later = b.greater(b.unsqueeze(places(b, keys), 0), rows)
        self.scores = b.where(later, b.scalar(np.finfo(np.float32).min), self.scores)

    def result(self) -> str:
        """(batch, queries, heads * size)."""
        b = self.b
        y = b.op("MatMul", b.op("Softmax", self.scores, axis=-1), self.v)
        return b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def hidden_sizes(site: Site) -> list[int]:
    """Columns of the weights for queries, keys and values."""
    sizes = [int(v) for v in site.attr("qkv_hidden_sizes", [])]
    if sizes:
        return sizes
    columns = site.input(1).shape[1] if site.input(1).rank == 2 else None  # type: ignore[index]
    if not isinstance(columns, int):
        raise NoMatch("the size of the weights is not known")
    return [columns // 3] * 3


def reject(site: Site, *attributes: str) -> None:
    """Raise NoMatch if one of the attributes is set."""
    for name in attributes:
        if site.attr(name, 0):
            raise NoMatch(f"{name} is not written out")


def self_attention(
    site: Site, b: Body, product: str, mask: int, past: int, bias: int | None
) -> list[str | None]:
    """The rest of Attention and QAttention, from the product of input and weights on."""
    heads = int(site.attr("num_heads"))
    sizes = hidden_sizes(site)
    cuts = np.cumsum([0, *sizes]).tolist()
    q, k, v = (heads_of(b, part(b, product, -1, cuts[i], cuts[i + 1]), heads) for i in range(3))
    if site.has(past):
        k = b.concat([entry(b, site.x(past), 0, 0), k], 2)
        v = b.concat([entry(b, site.x(past), 0, 1), v], 2)
    cell = Cell(site, b, q, k, v, sizes[0] // heads)
    if bias is not None:
        cell.bias(bias)
    shape = site.input(0).shape
    cell.mask(mask, shape[0] if shape else None)
    if site.attr("unidirectional", 0):
        cell.causal()
    present = None
    if site.used(1):
        present = b.concat([b.unsqueeze(k, 0), b.unsqueeze(v, 0)], 0)
    return [cell.result(), present]


ATTENTION_INPUTS = "float[2, 3, 8] x, float[8, 24] w, float[24] c"
ATTENTION_PAST = f"({ATTENTION_INPUTS}, int32[2, 7] m, float[2, 2, 2, 4, 4] p) =>"


@lowering(
    "ms-attention",
    "Attention",
    domain=MS,
    why="Self attention with its projection, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(f"({ATTENTION_INPUTS}) => (float[2, 3, 8] y) {{ y = @Attention <num_heads = 2> (x, w, c) }}"),
        ms(
            f"({ATTENTION_INPUTS}) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, unidirectional = 1, scale = 0.3> (x, w, c) }"
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, mask_filter_value = -3.0> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            "(float[b, s, 8] x, float[8, 24] w, float[24] c, int32[b, s] m) => (float[b, s, 8] y) "
            "{ y = @Attention <num_heads = 4> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 3, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, unidirectional = 1> (x, w, c, m) }",
            m=[2, 1],
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 1] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[4] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=[3, 2, 1, 0],
        ),
        ms(
            f"{ATTENTION_PAST} (float[2, 3, 8] y, float[2, 2, 2, 7, 4] r) "
            "{ y, r = @Attention <num_heads = 2, unidirectional = 1, mask_filter_value = -2.0> (x, w, c, m, p) }",
            m=(0, 2),
        ),
        ms(
            "(float[2, 3, 8] x, float[8, 20] w, float[20] c, float[2, 2, 3, 3] e) => (float[2, 3, 4] y) "
            "{ y = @Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (x, w, c, , , e) }"
        ),
    ],
    near_misses=[
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 1, 3, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }"
        )
    ],
)
def ms_attention(site: Site, b: Body) -> list[str | None]:
    """Projection, heads, scores with bias and mask, softmax, values."""
    reject(site, "do_rotary", "past_present_share_buffer")
    if not site.has(2):
        raise NoMatch(
            "ONNX Runtime's own kernel reads the bias even where it is left out, and ends the process"
        )
    product = b.add(b.op("MatMul", site.x(0), site.x(1)), site.x(2))
    return self_attention(site, b, product, mask=3, past=4, bias=5)


def operands_of_heads(site: Site, b: Body, heads: int) -> list[str]:
    """Query, key and value of MultiHeadAttention in (batch, heads, sequence, size), the bias added."""
    query = site.input(0)
    if query.rank == 5:
        return [b.transpose(entry(b, query.name, 3, i), 0, 2, 1, 3) for i in range(3)]
    names = [query.name]
    if site.input(1).rank == 5:
        packed = [b.transpose(entry(b, site.x(1), 3, i), 0, 2, 1, 3) for i in range(2)]
        return [heads_of(b, added(site, b, query.name, 0), heads), *packed]
    names += [site.x(1), site.x(2)]
    made = []
    for i, name in enumerate(names):
        if site.input(i).rank == 4:
            made.append(name)
        elif site.input(i).rank == 3:
            made.append(heads_of(b, added(site, b, name, i), heads))
        else:
            raise NoMatch(f"input {i} has rank {site.input(i).rank}")
    return made


def added(site: Site, b: Body, x: str, which: int) -> str:
    """Query, key or value plus its part of the bias."""
    if not site.has(3):
        return x
    sizes = [site.input(0).shape[-1], site.input(0).shape[-1]]  # type: ignore[index]
    if which == 0 and not isinstance(sizes[0], int):
        raise NoMatch("the hidden size is not known")
    start = sum(int(s) for s in sizes[:which] if isinstance(s, int))
    end = start + int(sizes[which]) if which < 2 else np.iinfo(np.int32).max  # type: ignore[arg-type]
    return b.add(x, part(b, site.x(3), 0, start, end))


MHA = "float[2, 3, 8] q, float[2, 5, 8] k, float[2, 5, 8] v"


@lowering(
    "ms-multi-head-attention",
    "MultiHeadAttention",
    domain=MS,
    why="Attention over projected queries, keys and values, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(f"({MHA}) => (float[2, 3, 8] y) {{ y = @MultiHeadAttention <num_heads = 2> (q, k, v) }}"),
        ms(
            "(float[b, s, 8] q, float[b, t, 8] k, float[b, t, 12] v, float[28] c, int32[b, t] m) => "
            "(float[b, s, 12] y) { y = @MultiHeadAttention <num_heads = 4> (q, k, v, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({MHA}, float[24] c, int32[2] m, float[1, 2, 3, 5] e) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2, scale = 0.2> (q, k, v, c, m, e) }",
            m=[3, 5],
        ),
        ms(
            "(float[2, 3, 8] q, float[2, 3, 8] k, float[2, 3, 8] v, float[2, 2, 4, 4] p, float[2, 2, 4, 4] r) => "
            "(float[2, 3, 8] y, float[2, 2, 7, 4] a, float[2, 2, 7, 4] d) { y, a, d = @MultiHeadAttention "
            "<num_heads = 2, unidirectional = 1> (q, k, v, , , , p, r) }"
        ),
        ms(
            "(float[2, 3, 8] q, float[2, 2, 5, 4] k, float[2, 2, 5, 4] v) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v) }"
        ),
        ms(
            f"({MHA}, int32[2, 3, 5] m) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v, , m) }",
            m=(0, 2),
        ),
    ],
    near_misses=[
        ms(
            f"({MHA}, int32[2, 1, 1, 5] m) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v, , m) }"
        )
    ],
)
def multi_head_attention(site: Site, b: Body) -> list[str | None]:
    """Heads, past, scores with bias and mask, softmax, values."""
    if site.has(8) or site.has(9):
        raise NoMatch("caches that are shared between calls are not written out")
    heads = int(site.attr("num_heads"))
    q, k, v = operands_of_heads(site, b, heads)
    if site.has(6):
        k, v = b.concat([site.x(6), k], 2), b.concat([site.x(7), v], 2)
    shape = site.input(0).shape or ()
    hidden = shape[2] if len(shape) == 3 else None
    cell = Cell(site, b, q, k, v, hidden // heads if isinstance(hidden, int) else None)
    cell.bias(5)
    cell.mask(4, shape[0] if shape else None)
    if site.attr("unidirectional", 0):
        cell.causal()
    return [cell.result(), k, v, cell.scores]


@lowering(
    "ms-embed-layernorm",
    "EmbedLayerNormalization",
    domain=MS,
    why="The sum of word, position and segment embeddings, normalized, as ONNX Runtime's transformer optimizer "
    "fuses it.",
    samples=[
        ms(
            "(int32[2, 3] i, int32[2, 3] s, float[9, 4] w, float[5, 4] p, float[2, 4] t, float[4] g, float[4] c, "
            "int32[2, 3] m) => (float[2, 3, 4] y, int32[2] n, float[2, 3, 4] e) "
            "{ y, n, e = @EmbedLayerNormalization <epsilon = 0.01> (i, s, w, p, t, g, c, m) }",
            i=(0, 9),
            s=(0, 2),
            m=(0, 2),
        ),
        ms(
            "(int32[b, s] i, float[9, 4] w, float[5, 4] p, float[4] g, float[4] c) => (float[b, s, 4] y, int32[b] n) "
            "{ y, n = @EmbedLayerNormalization <epsilon = 0.01> (i, , w, p, , g, c) }",
            i=(0, 9),
        ),
        ms(
            "(int32[2, 3] i, float[9, 4] w, float[5, 4] p, float[4] g, float[4] c, int32[1, 3] o) => "
            "(float[2, 3, 4] y, int32[2] n) { y, n = @EmbedLayerNormalization <epsilon = 0.01> "
            "(i, , w, p, , g, c, , o) }",
            i=(0, 9),
            o=(0, 5),
        ),
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def embed_layernorm(site: Site, b: Body) -> list[str | None]:
    """Gathers, sum, normalization; the count of each sample's mask."""
    ids = site.x(0)
    total = b.gather(site.x(2), ids, axis=0)
    if site.has(8):
        total = b.add(total, b.gather(site.x(3), site.x(8), axis=0))
    else:
        used = b.unsqueeze(length(b, ids, 1), 0)
        total = b.add(total, b.op("Slice", site.x(3), b.ints(0), used, b.ints(0)))
    if site.has(1):
        total = b.add(total, b.gather(site.x(4), site.x(1), axis=0))
    epsilon = float(site.attr("epsilon", 1e-12))
    y, _, _ = normalized(b, total, site.x(5), site.x(6), site.dtype(2), -1, 3, epsilon, True)
    count = None
    if site.used(1):
        seen = site.x(7) if site.has(7) else b.mul(ids, b.const(0, site.dtype(0)))
        ones = b.cast(b.equal(seen, b.const(1, np.int32)), np.int32)
        count = b.reduce("ReduceSum", ones, 1, keepdims=False)
    return [y, count, total]


@lowering(
    "ms-rotary-embedding",
    "RotaryEmbedding",
    domain=MS,
    why="Rotation of query or key by position, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(
            "(float[2, 3, 8] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 8] y) "
            "{ y = @RotaryEmbedding (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float[b, t, 12] x, int64[1] p, float[6, 2] c, float[6, 2] s) => (float[b, t, 12] y) "
            "{ y = @RotaryEmbedding <interleaved = 1, num_heads = 3> (x, p, c, s) }",
            p=[1],
        ),
        ms(
            "(float[2, 3, 3, 8] x, int64[2, 3] p, float[6, 4] c, float[6, 4] s) => (float[2, 3, 3, 8] y) "
            "{ y = @RotaryEmbedding (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float[2, 3, 16] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 16] y) "
            "{ y = @RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4> (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float16[2, 3, 8] x, int64[2, 3] p, float16[6, 2] c, float16[6, 2] s) => (float16[2, 3, 8] y) "
            "{ y = @RotaryEmbedding <interleaved = 1> (x, p, c, s) }",
            p=(0, 6),
        ),
    ],
    near_misses=[
        ms(
            "(float[2, 3, 8] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 8] y) "
            "{ y = @RotaryEmbedding <is_packed_batching = 1> (x, p, c, s) }"
        )
    ],
)
def rotary_embedding(site: Site, b: Body) -> str:
    """Cosines and sines of the positions, the two halves (or alternating elements) rotated, the rest kept."""
    reject(site, "is_packed_batching")
    x = site.input(0)
    half = site.input(2).shape[1] if site.input(2).rank == 2 else None  # type: ignore[index]
    if not isinstance(half, int):
        raise NoMatch("the size of the rotated part is not known")
    rotated = 2 * half
    data, size = x.name, rotated
    if x.rank == 3:
        heads, hidden = int(site.attr("num_heads", 0)), x.shape[2]  # type: ignore[index]
        if heads and not isinstance(hidden, int):
            raise NoMatch("the hidden size is not known")
        size = int(hidden) // heads if heads else rotated  # type: ignore[arg-type]
        data = b.transpose(b.reshape(data, 0, 0, -1, size), 0, 2, 1, 3)
    elif isinstance(x.shape[3], int):  # type: ignore[index]
        size = int(x.shape[3])  # type: ignore[index]
    angles = angle_positions(site, b, length(b, data, 2))
    cosine, sine = (b.unsqueeze(b.gather(site.x(i), angles, axis=0), 1) for i in (2, 3))
    turning = data if size == rotated else part(b, data, -1, 0, rotated)
    done = turned(b, turning, cosine, sine, half, bool(site.attr("interleaved", 0)))
    if size != rotated:
        done = b.concat([done, part(b, data, -1, rotated, size)], -1)
    return b.reshape(b.transpose(done, 0, 2, 1, 3), 0, 0, -1) if x.rank == 3 else done


def angle_positions(site: Site, b: Body, queries: str) -> str:
    """Positions (batch or 1, sequence): given, or counted from the one that is given."""
    positions = site.input(1)
    if positions.rank == 2:
        return positions.name
    if positions.rank != 1:
        raise NoMatch(f"positions have rank {positions.rank}")
    return b.unsqueeze(b.add(places(b, queries), positions.name), 0)


def turned(b: Body, x: str, cosine: str, sine: str, half: int, alternating: bool) -> str:
    """Pairs of elements rotated: the two halves, or neighbours."""
    if alternating:
        pairs = b.reshape(x, 0, 0, 0, half, 2)
        one, two = entry(b, pairs, -1, 0), entry(b, pairs, -1, 1)
    else:
        one, two = part(b, x, -1, 0, half), part(b, x, -1, half, 2 * half)
    real = b.sub(b.mul(one, cosine), b.mul(two, sine))
    imaginary = b.add(b.mul(one, sine), b.mul(two, cosine))
    if not alternating:
        return b.concat([real, imaginary], -1)
    both = b.concat([b.unsqueeze(real, 4), b.unsqueeze(imaginary, 4)], 4)
    return b.reshape(both, 0, 0, 0, 2 * half)


# -- quantised ------------------------------------------------------------------------------------------


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


def nearest(site: Site, b: Body, x: str, dtype: np.dtype[Any] | None = None) -> str:
    """Rounded half to even and saturated to the output's dtype; the zero point is in it already."""
    out = dtype or site.out(0).dtype or site.dtype(0)
    low, high = limits(out)
    return b.cast(b.op("Clip", b.op("Round", x), b.scalar(low), b.scalar(high)), out)


def stored(site: Site, b: Body, x: str, scale: int, zero: int) -> str:
    """Real numbers as quantised ones."""
    whole = b.op("Round", b.div(x, scalar_of(site, b, scale)))
    if not is_zero(site, zero):
        whole = b.add(whole, scalar_of(site, b, zero))
    out = site.out(0).dtype or site.dtype(0)
    low, high = limits(out)
    return b.cast(b.op("Clip", whole, b.scalar(low), b.scalar(high)), out)


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


# -- quantised products ---------------------------------------------------------------------------------


def integer_product(b: Body, left: str, right: str, zl: str, zr: str) -> str:
    """int32 product of quantised matrices, in float32."""
    zeros = (zl, zr) if zr else (zl,) if zl else ()
    return b.cast(b.op("MatMulInteger", left, right, *zeros), np.float32)


@lowering(
    "ms-matmul-integer-to-float",
    "MatMulIntegerToFloat",
    domain=MS,
    why="MatMulInteger with the scales and the bias behind it.",
    samples=[
        ms(
            "(uint8[n, 4] x, int8[4, 5] w, float s, float[5] r, uint8 i, int8[5] j, float[5] c) => (float[n, 5] y) "
            "{ y = @MatMulIntegerToFloat (x, w, s, r, i, j, c) }"
        ),
        ms(
            "(uint8[2, 3, 4] x, uint8[4, 5] w, float s, float r) => (float[2, 3, 5] y) "
            "{ y = @MatMulIntegerToFloat (x, w, s, r) }"
        ),
        ms(
            "(uint8[3, 4] x, uint8[4, 5] w, float s, float r, uint8 j) => (float[3, 5] y) "
            "{ y = @MatMulIntegerToFloat (x, w, s, r, , j) }"
        ),
    ],
    near_misses=["(uint8[3, 4] x, int8[4, 5] w) => (int32[3, 5] y) { y = MatMulInteger (x, w) }"],
)
def matmul_integer_to_float(site: Site, b: Body) -> str:
    """MatMulInteger, scales, bias."""
    y = integer_product(b, site.x(0), site.x(1), site.optional(4), site.optional(5))
    y = b.mul(y, b.mul(site.x(2), site.x(3)))
    return b.add(y, site.x(6)) if site.has(6) else y


@lowering(
    "ms-dynamic-quantize-matmul",
    "DynamicQuantizeMatMul",
    domain=MS,
    why="A product whose left operand is quantised on the way: DynamicQuantizeLinear and MatMulInteger.",
    samples=[
        ms(
            "(float[n, 4] x, int8[4, 5] w, float[5] r, int8[5] j, float[5] c) => (float[n, 5] y) "
            "{ y = @DynamicQuantizeMatMul (x, w, r, j, c) }"
        ),
        ms(
            "(float[2, 3, 4] x, uint8[4, 5] w, float r) => (float[2, 3, 5] y) "
            "{ y = @DynamicQuantizeMatMul (x, w, r) }"
        ),
    ],
    near_misses=["(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = MatMul (x, w) }"],
)
def dynamic_quantize_matmul(site: Site, b: Body) -> str:
    """DynamicQuantizeLinear, MatMulInteger, scales, bias."""
    x, scale, zero = b.node("DynamicQuantizeLinear", [site.x(0)], outputs=3)
    y = b.mul(integer_product(b, x, site.x(1), zero, site.optional(3)), b.mul(scale, site.x(2)))
    return b.add(y, site.x(4)) if site.has(4) else y


def gemm(
    kinds: tuple[str, str], out: str, columns: str, attributes: str, left: str, right: str, rest: str
) -> Sample:
    """A sample of QGemm."""
    a, w = kinds
    return ms(
        f"({a}{left} x, float s, {a} i, {w}{right} c, float{columns} r, {w}{columns} j, int32[5] d"
        f"{', float t, ' + a + ' k' if rest else ''}) => ({out}[3, 5] y) "
        f"{{ y = @QGemm {attributes} (x, s, i, c, r, j, d{rest}) }}",
        **{"s": SCALES["s"], "r": (0.01, 0.03), "t": SCALES["t"]},
    )


@lowering(
    "ms-qgemm",
    "QGemm",
    domain=MS,
    why="Gemm of quantised matrices, which ONNX Runtime's quantizer leaves in operator form.",
    samples=[
        gemm(("uint8", "int8"), "uint8", "", "", "[3, 4]", "[4, 5]", ", t, k"),
        gemm(("int8", "int8"), "int8", "", "<transB = 1>", "[3, 4]", "[5, 4]", ", t, k"),
        gemm(("uint8", "uint8"), "float", "", "<transA = 1, alpha = 0.5>", "[4, 3]", "[4, 5]", ""),
        gemm(("uint8", "int8"), "uint8", "[5]", "<transB = 1>", "[3, 4]", "[5, 4]", ", t, k"),
    ],
    near_misses=["(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = Gemm (x, w) }"],
)
def qgemm(site: Site, b: Body) -> str:
    """MatMulInteger, the whole-number bias, scales, quantised again if the output is."""
    left = b.transpose(site.x(0), 1, 0) if site.attr("transA", 0) else site.x(0)
    right = b.transpose(site.x(3), 1, 0) if site.attr("transB", 0) else site.x(3)
    sums = b.op("MatMulInteger", left, right, site.x(2), site.x(5))
    if site.has(6):
        sums = b.add(sums, site.x(6))
    factor = b.mul(scalar_of(site, b, 1), scalar_of(site, b, 4))
    alpha = float(site.attr("alpha", 1.0))
    if alpha != 1.0:
        factor = b.mul(factor, b.scalar(alpha))
    y = b.cast(sums, np.float32)
    if not site.has(7):
        return b.mul(y, factor)
    y = b.mul(y, b.div(factor, scalar_of(site, b, 7)))
    return nearest(site, b, b.add(b.op("Round", y), scalar_of(site, b, 8)), site.out(0).dtype)


QUANTISED = "uint8[2, 3, 8] x, {w}[8, 24] w, float[24] c, float s, float{n} r"


@lowering(
    "ms-qattention",
    "QAttention",
    domain=MS,
    why="Attention over a quantised input with a quantised projection.",
    samples=[
        ms(
            f"({QUANTISED.format(w='int8', n='')}) => (float[2, 3, 8] y) "
            "{ y = @QAttention <num_heads = 2> (x, w, c, s, r) }",
            s=np.float32(0.01),
            r=np.float32(0.02),
        ),
        ms(
            f"({QUANTISED.format(w='uint8', n='')}, int32[2, 3] m, uint8 i, uint8 j) => (float[2, 3, 8] y) "
            "{ y = @QAttention <num_heads = 4, unidirectional = 1> (x, w, c, s, r, m, i, j) }",
            s=np.float32(0.01),
            r=np.float32(0.02),
            m=(0, 2),
        ),
        ms(
            f"({QUANTISED.format(w='int8', n='[24]')}, int32[2, 5] m, uint8 i, int8[24] j, float[2, 2, 2, 2, 4] p) "
            "=> (float[2, 3, 8] y, float[2, 2, 2, 5, 4] q) "
            "{ y, q = @QAttention <num_heads = 2> (x, w, c, s, r, m, i, j, p) }",
            s=np.float32(0.01),
            r=(0.01, 0.03),
            m=(0, 2),
        ),
    ],
    near_misses=[
        ms(
            f"({QUANTISED.format(w='int8', n='')}) => (float[2, 3, 8] y) "
            "{ y = @QAttention <num_heads = 2, do_rotary = 1> (x, w, c, s, r) }"
        )
    ],
)
def qattention(site: Site, b: Body) -> list[str | None]:
    """MatMulInteger, scales, bias, then attention."""
    reject(site, "do_rotary", "past_present_share_buffer")
    product = integer_product(b, site.x(0), site.x(1), site.optional(6), site.optional(7))
    product = b.add(b.mul(product, b.mul(scalar_of(site, b, 3), scalar_of(site, b, 4))), site.x(2))
    return self_attention(site, b, product, mask=5, past=8, bias=None)


@lowering(
    "ms-qlinear-conv",
    "QLinearConv",
    domain=MS,
    why="ONNX's QLinearConv, with channels first or last.",
    samples=[
        ms(
            f"({kind}[1, {shape}] x, float s, {kind} i, {kind}[4, 3, 3, 3] w, float r, {kind} j, float t, {kind} k, "
            f"int32[4] d) => ({kind}[1, {out}] y) {{ y = @QLinearConv {attributes} (x, s, i, w, r, j, t, k, d) }}",
            **SCALES,
        )
        for kind, shape, out, attributes in (
            ("uint8", "3, 6, 6", "4, 6, 6", "<pads = [1, 1, 1, 1]>"),
            ("uint8", "6, 6, 3", "4, 4, 4", "<channels_last = 1>"),
            ("int8", "6, 6, 3", "2, 2, 4", "<channels_last = 1, strides = [2, 2]>"),
        )
    ],
    near_misses=["(float[1, 3, 4, 4] x, float[4, 3, 3, 3] w) => (float[1, 4, 2, 2] y) { y = Conv (x, w) }"],
)
def ms_qlinear_conv(site: Site, b: Body) -> str:
    """Transpose, QLinearConv, Transpose."""
    own = {k: v for k, v in site.attributes.items() if k != "channels_last"}
    rest = [site.optional(i) for i in range(1, len(site.inputs))]
    return channels_last(site, b, b.op("QLinearConv", channels_first(site, b, site.x(0)), *rest, **own))


@lowering(
    "ms-nhwc-maxpool",
    "NhwcMaxPool",
    domain=MS,
    why="Max pooling of quantised tensors with channels last.",
    samples=[
        ms(
            f"({kind}[n, 6, 6, 3] x) => ({kind}[n, 3, 3, 3] y) "
            "{ y = @NhwcMaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0]> (x) }"
        )
        for kind in ("uint8", "int8")
    ],
    near_misses=[
        "(float[1, 3, 4, 4] x) => (float[1, 3, 3, 3] y) { y = MaxPool <kernel_shape = [2, 2]> (x) }"
    ],
)
def nhwc_maxpool(site: Site, b: Body) -> str:
    """Transpose, MaxPool, Transpose."""
    rank = site.input(0).rank
    x = b.transpose(site.x(0), 0, rank - 1, *range(1, rank - 1))
    return b.transpose(b.op("MaxPool", x, **site.attributes), 0, *range(2, rank), 1)


LINEAR = (("uint8", 7), ("int8", -3), ("uint16", 300), ("int16", -300))


def eight(op: str, text: str) -> list[Sample]:
    """Samples of QuantizeLinear or DequantizeLinear per dtype, for the whole tensor and along an axis."""
    found = []
    for kind, zero in LINEAR:
        constants = f"s = Constant <value = float {{0.037}}> () z = Constant <value = {kind} {{{zero}}}> ()"
        found.append(ms(text.format(t=kind) + f" {{ {constants} y = @{op} (x, s, z) }}"))
    constants = (
        "s = Constant <value = float[3] {0.037, 0.5, 0.11}> () z = Constant <value = uint8[3] {1, 20, 3}> ()"
    )
    return [*found, ms(text.format(t="uint8") + f" {{ {constants} y = @{op} <axis = 1> (x, s, z) }}")]


@lowering(
    "ms-quantize",
    "QuantizeLinear",
    domain=MS,
    why="QuantizeLinear for more dtypes than ONNX's had when it was written.",
    samples=eight("QuantizeLinear", "(float[2, 3, n] x) => ({t}[2, 3, n] y)"),
    near_misses=["(float[2] x, float s, int8 z) => (int8[2] y) { y = QuantizeLinear (x, s, z) }"],
)
def ms_quantize(site: Site, b: Body) -> Any:
    """As ONNX's."""
    return quantize.build(site, b)


@lowering(
    "ms-dequantize",
    "DequantizeLinear",
    domain=MS,
    why="DequantizeLinear for more dtypes than ONNX's had when it was written.",
    samples=eight("DequantizeLinear", "({t}[2, 3, n] x) => (float[2, 3, n] y)"),
    near_misses=["(int8[2] x, float s, int8 z) => (float[2] y) { y = DequantizeLinear (x, s, z) }"],
)
def ms_dequantize(site: Site, b: Body) -> Any:
    """As ONNX's."""
    return dequantize.build(site, b)


PACKED = {2: 4, 4: 2, 8: 1}
"""Bits of a weight to weights in a byte."""


def unpacked(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Whole numbers of so many bits, the lowest bits of a byte first, along the last axis."""
    shifts = np.arange(PACKED[bits]) * bits
    apart = (values[..., None].astype(np.int64) >> shifts) & ((1 << bits) - 1)
    return apart.reshape(*values.shape[:-1], -1)


def block_weights(site: Site) -> np.ndarray[Any, Any]:
    """The weights of MatMulNBits, (K, N), in float32."""
    bits, block = int(site.attr("bits", 4)), int(site.attr("block_size"))
    rows, columns = int(site.attr("N")), int(site.attr("K"))
    if bits not in PACKED:
        raise NoMatch(f"weights of {bits} bits are not written out")
    blocks = -(-columns // block)
    numbers = unpacked(site.const(1).reshape(rows, blocks, -1), bits)[..., :block]
    scales = site.const(2).astype(np.float32).reshape(rows, blocks, 1)
    zeros: Any = 1 << (bits - 1)
    if site.has(3):
        zeros = site.const(3)
        if zeros.dtype == np.uint8:
            zeros = unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
        zeros = zeros.astype(np.float32).reshape(rows, blocks, 1)
    weights = (numbers.astype(np.float32) - zeros) * scales
    return np.ascontiguousarray(weights.reshape(rows, -1)[:, :columns].T)


def packed_weights(bits: int, rows: int, columns: int, block: int, zeros: str = "") -> str:
    """Constants of a sample of MatMulNBits."""
    blocks = -(-columns // block)
    numbers = [(37 * i + 11 * (i // 7)) % 256 for i in range(rows * blocks * (block // PACKED[bits]))]
    scales = [0.01 * (1 + i % 5) for i in range(rows * blocks)]
    text = (
        f"w = Constant <value = uint8[{rows}, {blocks}, {block // PACKED[bits]}] "
        f"{{{', '.join(map(str, numbers))}}}> () "
        f"s = Constant <value = float[{rows * blocks}] {{{', '.join(map(str, scales))}}}> () "
    )
    count = rows * -(-blocks // PACKED[bits])
    if zeros:
        text += f"z = Constant <value = uint8[{count}] {{{', '.join(str(17 * i % 256) for i in range(count))}}}> () "
    return text


@lowering(
    "ms-matmul-nbits",
    "MatMulNBits",
    domain=MS,
    why="Products with weights of 2, 4 or 8 bits in blocks. The weights become real numbers when the model is "
    "rewritten.",
    samples=[
        ms(
            f"(float[2, n, {columns}] x) => (float[2, n, {rows}] y) {{ "
            + packed_weights(bits, rows, columns, 16, zeros)
            + f"y = @MatMulNBits <bits = {bits}, block_size = 16, K = {columns}, N = {rows}> (x, w, s{zeros}) }}"
        )
        for bits, rows, columns, zeros in ((4, 3, 32, ""), (4, 3, 48, ", z"), (8, 2, 32, ""), (4, 2, 40, ""))
    ],
    near_misses=[
        ms(
            "(float[2, 32] x, uint8[3, 2, 8] w, float[6] s) => (float[2, 3] y) "
            "{ y = @MatMulNBits <bits = 4, block_size = 16, K = 32, N = 3> (x, w, s) }"
        )
    ],
)
def matmul_nbits(site: Site, b: Body) -> str:
    """MatMul with the weights written out, and the bias."""
    if site.has(4):
        raise NoMatch("weights in another order are not written out")
    dtype = site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    y = b.op("MatMul", to(b, site.x(0), dtype, work), b.const(block_weights(site), work))
    if site.has(5):
        y = b.add(y, to(b, site.x(5), site.dtype(5), work))
    return to(b, y, work, dtype)


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


# -- the same under another name ------------------------------------------------------------------------


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
