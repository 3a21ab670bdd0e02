"""Products that ONNX Runtime has fused with what is around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site


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
