"""Products, attention and pooling of quantized tensors."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.attention import reject, self_attention
from surgery.rules.contrib.common import MS, ms
from surgery.rules.contrib.quantized import SCALES, channels_first, channels_last, nearest, scalar_of
from surgery.rules.engine.rule import Sample, lowering
from surgery.rules.engine.site import Site


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
    return nearest(site, b, b.add(b.op("Round", y), scalar_of(site, b, 8)))


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
