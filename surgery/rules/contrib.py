"""Operators of ONNX Runtime's domain com.microsoft, which its optimizer leaves behind in saved models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.attention import HALVES, reduce_mean, to
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site

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
    "ms-gelu",
    "Gelu",
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
    "BiasSplitGelu",
    domain=MS,
    why="Activations, some with a bias, that ONNX Runtime's optimizer makes of erf, tanh or sigmoid.",
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
def gelus(site: Site, b: Body) -> str:
    """The sum with the bias, then the activation; BiasSplitGelu multiplies one half by the other's."""
    x, dtype, work = inside(site, b)
    if site.has(1):
        x = b.add(x, to(b, site.x(1), site.dtype(1), work))
    if site.op == "QuickGelu":
        alpha = b.const(site.attr("alpha", 1.702), work)
        return to(b, b.mul(x, b.op("Sigmoid", b.mul(x, alpha))), work, dtype)
    if site.op == "BiasSplitGelu":
        left, right = b.split(x, -1, 2)
        return to(b, b.mul(left, gelu_of(b, right, work)), work, dtype)
    shape = tanh_gelu_of if site.op == "FastGelu" else gelu_of
    return to(b, shape(b, x, work), work, dtype)


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
