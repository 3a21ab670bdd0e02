"""Products of quantised numbers: sums that stay below what float32 holds exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import op, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.quantization.common import as_float, centred, is_zero, limits
from surgery.rules.quantization.linear import quotient, saturate

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 1 << 24
"""Sums of whole numbers up to here are exact in float32, in any order."""

MAX_CHUNKS = 64
"""Products over more chunks of terms than this are not unrolled."""


def largest(site: Site, i: int, zero: int) -> int:
    """How large input `i` minus its zero point gets."""
    low, high = limits(site.dtype(i))
    if not site.has(zero):
        return max(-low, high)
    value = site.input(zero).value
    if value is None:
        return high - low
    zeros = value.astype(np.int64)
    return int(max(high - zeros.min(), zeros.max() - low, 1))


def eight_bits(site: Site, *positions: int) -> None:
    """NoMatch unless these inputs hold 8-bit whole numbers."""
    for i in positions:
        if site.dtype(i).name not in ("int8", "uint8"):
            raise NoMatch(f"input {i} is {site.dtype(i)}")


def chunks(costs: Sequence[int], limit: int = EXACT) -> list[tuple[int, int]] | None:
    """Ranges of terms whose absolute values sum to no more than the limit; None if one term alone does."""
    found, start, total = [], 0, 0
    for k, cost in enumerate(costs):
        if cost > limit:
            return None
        if total + cost > limit:
            found.append((start, k))
            start, total = k, 0
        total += cost
    return [*found, (start, len(costs))]


def halves(value: str, b: Body) -> tuple[str, str]:
    """High part and low four bits of whole numbers from -255 to 255: ``16 * high + low``, neither above 16."""
    high = b.op("Floor", b.mul(value, b.scalar(1 / 16)))
    return high, b.sub(value, b.mul(high, b.scalar(16)))


def total(parts: Sequence[str], b: Body) -> str:
    """Sum of int32 tensors."""
    result = parts[0]
    for part in parts[1:]:
        result = b.add(result, part)
    return result


def _magnitudes(site: Site, i: int, zero: int, spread: int) -> NDArray[Any] | None:
    """Absolute values of a constant operand minus a zero point of one value, or of one per `spread` place."""
    value = site.input(i).value
    zeros = site.input(zero).value if site.has(zero) else np.zeros((), np.int64)
    if value is None or zeros is None:
        return None
    zeros = zeros.astype(np.int64)
    if zeros.ndim == 1 and zeros.size > 1:
        zeros = zeros.reshape([-1 if d == spread % value.ndim else 1 for d in range(value.ndim)])
    found: NDArray[Any] = np.abs(value.astype(np.int64) - zeros)
    return found


def _columns(site: Site, i: int, zero: int, axis: int, b: Body) -> str:
    """Zero point or scale of a MatMul's operand: one value, or one per row (-2) or column (-1)."""
    operand = site.input(zero)
    value = as_float(site, zero, b)
    if operand.rank != 1:
        return value
    if operand.shape == (1,):
        return b.squeeze(value, 0)
    return b.unsqueeze(value, 1) if axis == -2 and site.input(i).rank > 1 else value


def _product(site: Site, b: Body, ia: int, ib: int, za: int, zb: int) -> str:
    """MatMul of 8-bit numbers minus their zero points, exact in int32."""
    eight_bits(site, ia, ib)
    a, w = site.input(ia), site.input(ib)
    left = centred(site, ia, za, b, "" if is_zero(site, za) else _columns(site, ia, za, -2, b))
    right = centred(site, ib, zb, b, "" if is_zero(site, zb) else _columns(site, ib, zb, -1, b))
    axis = -2 if w.rank > 1 else -1
    terms = a.shape[-1] if a.shape and isinstance(a.shape[-1], int) else w.shape[axis] if w.shape else None
    costs = _costs(site, ia, ib, za, zb, terms) if isinstance(terms, int) else None
    return exact_product(b, left, right, costs, axis)


def exact_product(b: Body, left: str, right: str, costs: Sequence[int] | None, axis: int = -2) -> str:
    """MatMul of whole numbers from -255 to 255 that are float32, exact in int32.

    Args:
        b: What is written to.
        left: Left operand.
        right: Right one.
        costs: How large each of the terms gets at most, over all columns; None if their number is not known.
        axis: Axis of the terms in the right operand.
    """
    ranges = chunks(costs) if costs is not None else None
    if ranges is None or len(ranges) > MAX_CHUNKS:
        return _of_halves(left, right, b)
    parts = []
    for start, end in ranges:
        whole = len(ranges) == 1
        x = left if whole else b.slice(left, -1, start, end)
        y = right if whole else b.slice(right, axis, start, end)
        parts.append(whole_product(b, x, y))
    return total(parts, b)


def whole_product(b: Body, x: str, y: str) -> str:
    """MatMul of whole numbers in float32, as int32; rounded, so that it is whole however it is summed."""
    return b.cast(b.op("Round", b.op("MatMul", x, y)), np.int32)


def _costs(site: Site, ia: int, ib: int, za: int, zb: int, terms: int) -> list[int]:
    """How large each of a MatMul's terms gets at most, over all columns."""
    most = largest(site, ia, za)
    known = _magnitudes(site, ib, zb, -1)
    if known is None or known.ndim < 2:
        return [most * largest(site, ib, zb)] * terms
    rows = np.moveaxis(known, -2, 0).reshape(terms, -1)
    return [max(1, int(c)) for c in rows.max(axis=1, initial=0) * most]


def _of_halves(left: str, right: str, b: Body) -> str:
    """Four products of halves: exact up to 65536 terms, whatever their number turns out to be."""
    sixteen = b.const(16, np.int32)
    (ah, al), (bh, bl) = halves(left, b), halves(right, b)

    middle = b.add(whole_product(b, ah, bl), whole_product(b, al, bh))
    high = b.add(b.mul(whole_product(b, ah, bh), sixteen), middle)
    return b.add(b.mul(high, sixteen), whole_product(b, al, bl))


@lowering(
    "matmul-integer",
    "MatMulInteger",
    why="No TensorRT has MatMulInteger. float32 is exact while sums stay below 2**24; chunks are added in int32.",
    samples=[
        "(uint8[3, 4] x, int8[4, 5] w) => (int32[3, 5] y) { y = MatMulInteger (x, w) }",
        "(uint8[3, 4] x, int8[4, 5] w, uint8 a, int8 c) => (int32[3, 5] y) { y = MatMulInteger (x, w, a, c) }",
        "(uint8[3, 4] x, uint8[4, 5] w, uint8 a, uint8[5] c) => (int32[3, 5] y) { y = MatMulInteger (x, w, a, c) }",
        "(int8[2, 3, 4] x, int8[4, 5] w, int8 a) => (int32[2, 3, 5] y) { y = MatMulInteger (x, w, a) }",
        Sample(
            "(uint8[2, 1000] x, uint8[1000, 3] w, uint8 a) => (int32[2, 3] y) { y = MatMulInteger (x, w, a) }",
            feeds={"x": (250, 256), "w": (200, 256), "a": np.uint8(0)},
        ),
        Sample(
            "(uint8[n, k] x, uint8[k, 3] w) => (int32[n, 3] y) { y = MatMulInteger (x, w) }",
            feeds={"x": (0, 256), "w": (200, 256)},
        ),
        "(uint8[n, 3] x) => (int32[n, 2] y) { w = Constant <value = int8[3, 2] {1, -2, 3, 4, 5, -128}> () "
        "y = MatMulInteger (x, w) }",
    ],
    near_misses=["(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = MatMul (x, w) }"],
)
def matmul_integer(site: Site, b: Body) -> str:
    """Zero points off, products of float32 over chunks of terms, sums in int32."""
    return _product(site, b, 0, 1, 2, 3)


_WHOLE = op("Cast", op("Round", value("x"), keep=True), attrs={"to": 6}, keep=True)


@pattern_rule(
    "whole-numbers-stay-in-float",
    op("Cast", _WHOLE, attrs={"to": 1}),
    why="Sums of quantised numbers are whole numbers of float32. Cast to int32 and back they are the same. A "
    "network with a product of one row and both casts behind it gave NaN on a GPU with TensorRT-RTX 1.6.",
    samples=[
        "(float[n, 3] x) => (float[n, 3] y) { w = Round (x) i = Cast <to = 6> (w) y = Cast <to = 1> (i) }",
        "(float[4] x) => (float[4] y, int32[4] i) { w = Round (x) i = Cast <to = 6> (w) y = Cast <to = 1> (i) }",
    ],
    near_misses=[
        "(float[4] x) => (float[4] y) { w = Exp (x) i = Cast <to = 6> (w) y = Cast <to = 1> (i) }",
        "(float[4] x) => (float16[4] y) { w = Round (x) i = Cast <to = 6> (w) y = Cast <to = 10> (i) }",
        "(float16[4] x) => (float[4] y) { w = Round (x) i = Cast <to = 6> (w) y = Cast <to = 1> (i) }",
    ],
    when="always",
)
def whole_numbers_stay_in_float(site: CutSite, b: Body) -> str:
    """The rounded number itself; casts of what int32 cannot hold have no defined result."""
    x = site.tensor("x")
    if x.dtype != np.float32:
        raise NoMatch(f"a number of {x.dtype}")
    return b.op("Round", x.name)


def _requantize(site: Site, b: Body, sums: str, factor: str, y_scale: int, y_zero: int) -> str:
    """int32 sums times a factor over the output's scale, rounded and saturated."""
    out = site.out(0).dtype or site.dtype(y_zero)
    scaled = b.mul(b.cast(sums, np.float32), quotient(factor, _single(site, y_scale, b), b))
    return saturate(scaled, "" if is_zero(site, y_zero) else _single(site, y_zero, b), out, b)


def _single(site: Site, i: int, b: Body) -> str:
    """A scale or zero point of one value, as a scalar where it is written as a list of one."""
    operand = site.input(i)
    value = as_float(site, i, b)
    return b.squeeze(value, 0) if operand.rank == 1 and operand.shape == (1,) else value


_QMM = (
    "({t}[{m}4] x, {f} xs, {t} xz, {t}[{k}4, 5] w, {f}{n} ws, {t}{n} wz, {f} ys, {t} yz) => ({t}[{m}5] y) {{ "
)


_QMM += "y = QLinearMatMul (x, xs, xz, w, ws, wz, ys, yz) }}"

_FEEDS = {"xs": np.float32(0.02), "ws": np.float32(0.03), "ys": np.float32(0.4)}


@lowering(
    "qlinear-matmul",
    "QLinearMatMul",
    why="No TensorRT has QLinearMatMul: an exact integer product, scaled in float32 and rounded half to even.",
    samples=[
        Sample(_QMM.format(t="uint8", f="float", m="3, ", k="", n=""), feeds=_FEEDS),
        Sample(_QMM.format(t="int8", f="float", m="3, ", k="", n=""), feeds=_FEEDS),
        Sample(_QMM.format(t="int8", f="float", m="2, n, ", k="2, ", n=""), feeds=_FEEDS),
        Sample(
            _QMM.format(t="uint8", f="float", m="3, ", k="", n="[5]"),
            feeds={**_FEEDS, "ws": np.linspace(0.01, 0.1, 5, dtype=np.float32)},
        ),
    ],
    near_misses=["(uint8[3, 4] x, int8[4, 5] w) => (int32[3, 5] y) { y = MatMulInteger (x, w) }"],
)
def qlinear_matmul(site: Site, b: Body) -> str:
    """The exact product times both scales over the output's."""
    sums = _product(site, b, 0, 3, 2, 5)
    factor = b.mul(_columns(site, 0, 1, -2, b), _columns(site, 3, 4, -1, b))
    return _requantize(site, b, sums, factor, 6, 7)


def _convolution(site: Site, b: Body, ix: int, iw: int, zx: int, zw: int) -> str:
    """Conv of 8-bit numbers minus their zero points, exact in int32."""
    eight_bits(site, ix, iw)
    w = site.input(iw)
    sizes = w.dims
    rank = len(sizes)
    spread = "" if is_zero(site, zw) else _per_filter(site, zw, rank, b)
    x = centred(site, ix, zx, b)
    kernel = centred(site, iw, zw, b, spread)
    group = int(site.attr("group", 1))
    most = largest(site, ix, zx)
    known = _magnitudes(site, iw, zw, 0)
    if known is None:
        costs = [most * largest(site, iw, zw) * int(np.prod(sizes[2:]))] * sizes[1]
    else:
        costs = [
            max(1, int(c)) * most for c in known.reshape(*sizes[:2], -1).sum(axis=2).max(axis=0, initial=0)
        ]
    attributes = dict(site.attributes)

    def conv(data: str, filters: str) -> str:
        # Rounded: a convolution by transforms is not exact, and a cast would cut 4.9999 to 4.
        return b.cast(b.op("Round", b.op("Conv", data, filters, **attributes)), np.int32)

    ranges = chunks(costs) if group == 1 else [(0, sizes[1])] if sum(costs) <= EXACT else None
    if ranges is not None and len(ranges) <= MAX_CHUNKS:
        if len(ranges) == 1:
            return conv(x, kernel)
        return total([conv(b.slice(x, 1, *r), b.slice(kernel, 1, *r)) for r in ranges], b)
    if int(np.prod(sizes[1:])) > EXACT // 256:
        raise NoMatch("a filter has too many terms")
    sixteen = b.const(16, np.int32)
    (xh, xl), (wh, wl) = halves(x, b), halves(kernel, b)
    middle = b.add(conv(xh, wl), conv(xl, wh))
    return b.add(b.mul(b.add(b.mul(conv(xh, wh), sixteen), middle), sixteen), conv(xl, wl))


def _per_filter(site: Site, i: int, rank: int, b: Body) -> str:
    """A zero point or scale per filter, with dims of 1 behind it; a single one as a scalar."""
    operand = site.input(i)
    if operand.rank == 0 or operand.shape == (1,):
        return _single(site, i, b)
    return b.unsqueeze(as_float(site, i, b), *range(1, rank))


@lowering(
    "conv-integer",
    "ConvInteger",
    why="No TensorRT has ConvInteger. float32 is exact while sums stay below 2**24; chunks are added in int32.",
    samples=[
        "(uint8[1, 2, 5, 5] x, uint8[3, 2, 3, 3] w) => (int32[1, 3, 3, 3] y) { y = ConvInteger (x, w) }",
        "(uint8[n, 2, 5, 5] x, uint8[4, 1, 3, 3] w, uint8 a) => (int32[n, 4, 3, 3] y) "
        "{ y = ConvInteger <pads = [1, 1, 1, 1], strides = [2, 2], group = 2> (x, w, a) }",
        "(uint8[1, 2, 9] x, uint8[3, 2, 3] w, uint8 a, uint8 c) => (int32[1, 3, 7] y) "
        "{ y = ConvInteger (x, w, a, c) }",
        Sample(
            "(uint8[1, 64, 5, 5] x, uint8[3, 64, 3, 3] w, uint8 a) => (int32[1, 3, 3, 3] y) "
            "{ y = ConvInteger (x, w, a) }",
            feeds={"x": (240, 256), "w": (200, 256), "a": np.uint8(1)},
        ),
        Sample(
            "(uint8[1, 80, 5, 5] x, uint8[4, 40, 3, 3] w, uint8 a) => (int32[1, 4, 3, 3] y) "
            "{ y = ConvInteger <group = 2> (x, w, a) }",
            feeds={"x": (240, 256), "w": (200, 256), "a": np.uint8(1)},
        ),
        *samples_in(
            "int8",
            "(T[1, 2, 5, 5] x, uint8[3, 2, 3, 3] w) => (int32[1, 3, 3, 3] y) { y = ConvInteger (x, w) }",
        ),
        *samples_in(
            "int8",
            "(uint8[1, 2, 5, 5] x, T[3, 2, 3, 3] w) => (int32[1, 3, 3, 3] y) { y = ConvInteger (x, w) }",
        ),
    ],
    near_misses=["(float[1, 2, 5, 5] x, float[3, 2, 3, 3] w) => (float[1, 3, 3, 3] y) { y = Conv (x, w) }"],
)
def conv_integer(site: Site, b: Body) -> str:
    """Zero points off first, so that padding stays zero; then convolutions of float32 whose sums are exact."""
    return _convolution(site, b, 0, 1, 2, 3)


_QCONV = (
    "(uint8[{n}, 2, 5, 5] x, float xs, uint8 xz, {t}[4, 2, 3, 3] w, float{m} ws, {t}{m} wz, float ys, uint8 yz{bt}) "
    "=> (uint8[{n}, 4, 5, 5] y) {{ y = QLinearConv <pads = [1, 1, 1, 1]> (x, xs, xz, w, ws, wz, ys, yz{b}) }}"
)

_SCALES = {"xs": np.float32(0.02), "ws": np.float32(0.03), "ys": np.float32(0.9), "xz": np.uint8(3)}

_FILTERS = {**_SCALES, "ws": np.linspace(0.01, 0.1, 4, dtype=np.float32), "wz": np.zeros(4, np.int8)}


@lowering(
    "qlinear-conv",
    "QLinearConv",
    why="No TensorRT has QLinearConv: an exact integer convolution, scaled in float32 and rounded half to even.",
    samples=[
        Sample(_QCONV.format(n=1, t="uint8", m="", bt="", b=""), feeds=_SCALES),
        Sample(_QCONV.format(n="n", t="int8", m="[4]", bt="", b=""), feeds=_FILTERS),
        Sample(_QCONV.format(n=1, t="int8", m="[4]", bt=", int32[4] bias", b=", bias"), feeds=_FILTERS),
        *samples_in(
            "int8",
            "(T[1, 2, 5, 5] x, float xs, T xz, uint8[4, 2, 3, 3] w, float ws, uint8 wz, float ys, "
            "uint8 yz) => (uint8[1, 4, 5, 5] y) { y = QLinearConv <pads = [1, 1, 1, 1]> (x, xs, xz, "
            "w, ws, wz, ys, yz) }",
            feeds={"xs": 0.02, "ws": 0.03, "ys": 0.9, "xz": 3},
        ),
        *samples_in(
            "int8",
            "(uint8[1, 2, 5, 5] x, float xs, uint8 xz, uint8[4, 2, 3, 3] w, float ws, uint8 wz, "
            "float ys, T yz) => (T[1, 4, 5, 5] y) { y = QLinearConv <pads = [1, 1, 1, 1]> (x, xs, "
            "xz, w, ws, wz, ys, yz) }",
            feeds={"xs": 0.02, "ws": 0.03, "ys": 0.9, "xz": 3},
        ),
    ],
    near_misses=["(float[1, 2, 5, 5] x, float[3, 2, 3, 3] w) => (float[1, 3, 3, 3] y) { y = Conv (x, w) }"],
)
def qlinear_conv(site: Site, b: Body) -> str:
    """The exact convolution and bias, times both scales over the output's."""
    sums = _convolution(site, b, 0, 3, 2, 5)
    rank = site.input(3).rank
    if site.has(8):
        sums = b.add(sums, b.unsqueeze(site.x(8), *range(1, rank - 1)))
    factor = b.mul(_single(site, 1, b), _per_filter(site, 4, rank - 1, b))
    return _requantize(site, b, sums, factor, 6, 7)
