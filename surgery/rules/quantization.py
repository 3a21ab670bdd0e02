"""Quantised operators as casts and exact arithmetic in float32 and int32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import op, optional, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 1 << 24
"""Sums of whole numbers up to here are exact in float32, in any order."""

INTEGERS = frozenset({"int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32"})
"""Dtypes that QuantizeLinear and DequantizeLinear have beside floats."""

MAX_CHUNKS = 64
"""Products over more chunks of terms than this are not unrolled."""


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Lowest and highest value of a whole-number dtype, those of ml_dtypes too."""
    import ml_dtypes

    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def as_float(site: Site, i: int, b: Body) -> str:
    """Input `i` in float32: a constant is converted here, anything else by a Cast."""
    operand = site.input(i)
    if operand.value is not None:
        return b.const(operand.value.astype(np.float32), np.float32)
    return operand.name if operand.dtype == np.float32 else b.cast(operand.name, np.float32)


def is_zero(site: Site, i: int) -> bool:
    """Whether a zero point is left out or known to be zero."""
    if not site.has(i):
        return True
    value = site.input(i).value
    return value is not None and not np.any(value.astype(np.float32))


def centred(site: Site, i: int, zero: int, b: Body, like: str = "") -> str:
    """Input `i` minus its zero point in float32; `like` is the zero point where it had to be reshaped."""
    value = b.cast(site.x(i), np.float32) if site.input(i).value is None else as_float(site, i, b)
    return value if is_zero(site, zero) else b.sub(value, like or as_float(site, zero, b))


# -- QuantizeLinear and DequantizeLinear ------------------------------------------------------------


def _spread(site: Site, i: int, b: Body) -> str:
    """Scale or zero point `i` in float32, in a shape that broadcasts against the data."""
    operand, data = site.input(i), site.input(0)
    value = as_float(site, i, b)
    if operand.rank == 0:
        return value
    axis = int(site.attr("axis", 1))
    block = int(site.attr("block_size", 0))
    if block:
        axis = axis % data.rank
        return b.gather(value, _block_numbers(data, axis, block, b), axis=axis)
    if operand.rank > 1:
        raise NoMatch("a scale of several dims without block_size")
    if operand.shape == (1,):
        return b.reshape(value, *()) if data.rank == 0 else value
    behind = data.rank - 1 - axis % data.rank
    return b.unsqueeze(value, *range(1, 1 + behind)) if behind else value


def _block_numbers(data: Operand, axis: int, block: int, b: Body) -> str:
    """For each place along the axis, which block it is in."""
    size = data.shape[axis] if data.shape else None
    if isinstance(size, int):
        return b.const(np.arange(size) // block, np.int64)
    count = b.gather(b.op("Shape", data.name), b.const(axis, np.int64), axis=0)
    places = b.op("Range", b.const(0, np.int64), count, b.const(1, np.int64))
    return b.div(places, b.const(block, np.int64))


def _split(value: str, b: Body) -> tuple[str, str]:
    """A float32 as a sum of two numbers of 12 bits (Veltkamp), whose products are exact."""
    large = b.mul(value, b.scalar(4097))
    high = b.sub(large, b.sub(large, value))
    return high, b.sub(value, high)


def quotient(x: str, divisor: str, b: Body) -> str:
    """A quotient of float32 rounded to the nearest, whatever Div gives, for a rounding that follows.

    GPUs divide by a product with the reciprocal, which is off in the last place: -2.5 / 0.019607844 becomes -127.5
    and its rounding -128 instead of -127. What is left over, x - q * divisor, is found with products of halves and
    divided once more. These products are exact, so it is all the same whether a compiler fuses them with the
    differences. Where something is out of range what is left is no number less than 1, and the quotient stands.
    """
    first = b.div(x, divisor)
    (high, low), (high_d, low_d) = _split(first, b), _split(divisor, b)
    rest = x
    for one, two in ((high, high_d), (high, low_d), (low, high_d), (low, low_d)):
        rest = b.sub(rest, b.mul(one, two))
    more = b.div(rest, divisor)
    return b.where(b.less(b.op("Abs", more), b.scalar(1)), b.add(first, more), first)


_QUOTIENT = op("Div", value("x"), value("w"), keep=True)
_STEP = "q = QuantizeLinear (x, s, z)"


def _exact(site: CutSite, b: Body) -> str:
    """The quotient that was matched, exact; NoMatch where it is already or where it is no matter of the GPU."""
    x, w = site.tensor("x"), site.tensor("w")
    if x.dtype != np.float32:
        raise NoMatch(f"a quotient of {x.dtype}")
    if x.shape_only and w.shape_only:
        raise NoMatch("it is computed on the host")
    if w.value is not None and np.all(np.abs(np.frexp(w.value)[0]) == 0.5):
        raise NoMatch("quotients by powers of two are exact")
    return quotient(x.name, w.name, b)


@pattern_rule(
    "division-before-rounding",
    op(("Round", "Floor", "Ceil"), _QUOTIENT, name="whole"),
    why="GPUs divide by a product with the reciprocal. What is off in the last place decides where a rounding falls.",
    samples=[
        *(
            f"(float[n, 4] x, float[4] w) => (float[n, 4] y) {{ q = Div (x, w) y = {kind} (q) }}"
            for kind in ("Round", "Floor", "Ceil")
        ),
        "(float[9] x) => (float[9] y, float[9] q) "
        "{ w = Constant <value = float {0.3}> () q = Div (x, w) y = Floor (q) }",
    ],
    near_misses=[
        "(float[9] x) => (float[9] y) { w = Constant <value = float {0.25}> () q = Div (x, w) y = Floor (q) }",
        "(float16[9] x, float16 w) => (float16[9] y) { q = Div (x, w) y = Floor (q) }",
        "(float[9] x, float w) => (float[9] y) { q = Div (x, w) y = Relu (q) }",
    ],
    when="always",
)
def division_before_rounding(site: CutSite, b: Body) -> str:
    """The same with a quotient that is exact to the last place."""
    return b.op(site.node("whole").op, _exact(site, b))


@pattern_rule(
    "step-that-is-a-quotient",
    op("QuantizeLinear", value("data"), _QUOTIENT, optional(value("zero")), name="steps"),
    why="GPUs divide by a product with the reciprocal. Where the size of a step is off in the last place, values "
    "halfway between two steps go to the other one.",
    samples=[
        "(float[9] x, float a, uint8 z) => (uint8[9] q) "
        f"{{ w = Constant <value = float {{255.0}}> () t = Abs (a) s = Div (t, w) {_STEP} }}",
        Sample(
            f"(float[9] x, float a, int8 z) => (int8[9] q, float s) {{ c = Abs (a) s = Div (c, c) {_STEP} }}",
            feeds={"x": (-90, 90), "a": np.float32(3)},
        ),
    ],
    near_misses=["(float[9] x, float s, uint8 z) => (uint8[9] q) { q = QuantizeLinear (x, s, z) }"],
    when="always",
)
def step_that_is_a_quotient(site: CutSite, b: Body) -> str:
    """The same with a step that is exact to the last place."""
    zero = [site.name("zero")] if site.given("zero") else []
    attributes = site.node("steps").attributes
    return b.op("QuantizeLinear", site.name("data"), _exact(site, b), *zero, **attributes)


def _quantize(site: Site, b: Body) -> str:
    out = site.out(0).dtype
    if out is None or out.name not in INTEGERS:
        raise NoMatch(f"quantises to {out}")
    scaled = quotient(as_float(site, 0, b), _spread(site, 1, b), b)
    zero = "" if is_zero(site, 2) else _spread(site, 2, b)
    return saturate(scaled, zero, out, b)


def saturate(scaled: str, zero: str, out: np.dtype[Any], b: Body) -> str:
    """Round half to even, add the zero point, keep within the dtype, convert."""
    whole = b.op("Round", scaled)
    if zero:
        whole = b.add(whole, zero)
    low, high = limits(out)
    return b.cast(b.op("Clip", whole, b.scalar(low), b.scalar(high)), out)


def _dequantize(site: Site, b: Body) -> str:
    dtype, out = site.dtype(0), site.out(0).dtype
    if dtype.name not in INTEGERS:
        raise NoMatch(f"dequantises {dtype}")
    if dtype == np.int32 and not is_zero(site, 2):
        raise NoMatch("int32 with a zero point")
    like = "" if is_zero(site, 2) else _spread(site, 2, b)
    value = b.mul(centred(site, 0, 2, b, like), _spread(site, 1, b))
    return value if out is None or out == np.float32 else b.cast(value, out)


_Q = "(float[2, 8, 3] x) => ({t}[2, 8, 3] y) {{ {c} y = QuantizeLinear {a} (x, s, z) }}"
_DQ = "({t}[2, 8, 3] x) => (float[2, 8, 3] y) {{ {c} y = DequantizeLinear {a} (x, s, z) }}"
_EIGHT = "0.1, 0.2, 0.3, 0.4, 0.5, 0.25, 1.0, 2.0"


def _constants(kind: str, zero: int) -> str:
    return f"s = Constant <value = float {{0.037}}> () z = Constant <value = {kind} {{{zero}}}> ()"


def _per_channel(kind: str) -> str:
    return (
        f"s = Constant <value = float[8] {{{_EIGHT}}}> () "
        f"z = Constant <value = {kind}[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()"
    )


def _blocks(kind: str) -> str:
    values = ", ".join(str(0.1 * k + 0.1) for k in range(18))
    zeros = ", ".join(str(k % 4) for k in range(18))
    return (
        f"s = Constant <value = float[2, 3, 3] {{{values}}}> () "
        f"z = Constant <value = {kind}[2, 3, 3] {{{zeros}}}> ()"
    )


_RUN_TIME = (
    "(float[n, 4] x, float s, int8 z) => (int8[n, 4] y) { y = QuantizeLinear (x, s, z) }",
    "(float16[3, 4] x, float16 s, int8 z) => (int8[3, 4] y) { y = QuantizeLinear (x, s, z) }",
)
_SYMMETRIC = f"(float[2] x) => (int8[2] y) {{ {_constants('int8', 0)} y = QuantizeLinear (x, s, z) }}"

_QUANTIZE: list[Sample | str] = [
    _Q.format(t="int8", c=_constants("int8", -7), a=""),
    _Q.format(t="int8", c=_per_channel("int8"), a="<axis = 1>"),
    Sample(_RUN_TIME[0], feeds={"x": (-5, 5), "s": np.float32(0.03), "z": np.int8(9)}),
    Sample(_RUN_TIME[1], 19, feeds={"x": (-5, 5), "s": np.float16(0.03), "z": np.int8(9)}),
    *(
        Sample(_Q.format(t=t, c=_constants(t, z), a=""), opset=21)
        for t, z in (("int16", -300), ("uint16", 500), ("int4", -2), ("uint4", 3))
    ),
    Sample(_Q.format(t="int8", c=_blocks("int8"), a="<axis = 1, block_size = 3>"), opset=21),
    Sample(
        "(float[2, 8] x) => (int16[2, 8] y) { s = Constant <value = float {0.001}> () "
        "y = QuantizeLinear <output_dtype = 5> (x, s) }",
        opset=21,
    ),
]
_UNSIGNED: list[Sample | str] = [
    _Q.format(t="uint8", c=_constants("uint8", 0), a=""),
    _Q.format(t="uint8", c=_constants("uint8", 77), a=""),
    _Q.format(t="uint8", c=_per_channel("uint8"), a="<axis = -2>"),
    "(float[n, 4] x) => (uint8[n, 4] y) { s = Constant <value = float {0.01}> () y = QuantizeLinear (x, s) }",
]
_DEQUANTIZE: list[Sample | str] = [
    _DQ.format(t="int8", c=_constants("int8", -7), a=""),
    _DQ.format(t="int8", c=_per_channel("int8"), a="<axis = 1>"),
    "(int8[n, 4] x, float s, int8 z) => (float[n, 4] y) { y = DequantizeLinear (x, s, z) }",
    "(int32[4] x) => (float[4] y) { s = Constant <value = float {0.01}> () y = DequantizeLinear (x, s) }",
    "(int32[4, 2] x, float[4] s) => (float[4, 2] y) { y = DequantizeLinear <axis = 0> (x, s) }",
    Sample("(int8[4] x, float16 s, int8 z) => (float16[4] y) { y = DequantizeLinear (x, s, z) }", opset=21),
    *(
        Sample(_DQ.format(t=t, c=_constants(t, z), a=""), opset=21)
        for t, z in (("int16", -300), ("uint16", 500), ("int4", -2), ("uint4", 3))
    ),
    Sample(_DQ.format(t="int8", c=_blocks("int8"), a="<axis = 1, block_size = 3>"), opset=21),
]
_UNSIGNED_BACK: list[Sample | str] = [
    _DQ.format(t="uint8", c=_constants("uint8", 0), a=""),
    _DQ.format(t="uint8", c=_per_channel("uint8"), a="<axis = 1>"),
    "(uint8[n, 4] x, float s, uint8 z) => (float[n, 4] y) { y = DequantizeLinear (x, s, z) }",
]


@lowering(
    "quantize-by-arithmetic",
    "QuantizeLinear",
    why="TensorRT quantises to int8, int4 and float8 with a zero point of 0 that is constant, and nothing else.",
    samples=[
        *_QUANTIZE,
        *_UNSIGNED,
        *samples_in(
            "int32",
            "(T[2, 8, 3] x) => (int8[2, 8, 3] y) { s = Constant <value = float {0.037}> () z = "
            "Constant <value = int8 {-7}> () y = QuantizeLinear (x, s, z) }",
        ),
    ],
    near_misses=[
        Sample(
            "(float[2] x, float8e4m3fn z, float s) => (float8e4m3fn[2] y) { y = QuantizeLinear (x, s, z) }",
            21,
        )
    ],
)
def quantize(site: Site, b: Body) -> str:
    """Divide, round half to even, add the zero point, saturate, cast."""
    return _quantize(site, b)


@lowering(
    "quantize-to-unsigned",
    "QuantizeLinear",
    why="TensorRT's parser takes uint8 with a zero point of 0 for int8, which saturates at 127 and not at 255.",
    samples=[
        *_UNSIGNED,
        *samples_in(
            "int32",
            "(T[2, 8, 3] x) => (uint8[2, 8, 3] y) { s = Constant <value = float {0.037}> () z = "
            "Constant <value = uint8 {0}> () y = QuantizeLinear (x, s, z) }",
        ),
    ],
    near_misses=[_SYMMETRIC],
    when="always",
)
def quantize_unsigned(site: Site, b: Body) -> str:
    """As the rule for refused forms, wherever the result has no sign."""
    out = site.out(0).dtype
    if out is None or not out.name.startswith("uint"):
        raise NoMatch(f"the result is {out}")
    return _quantize(site, b)


@lowering(
    "dequantize-by-arithmetic",
    "DequantizeLinear",
    why="TensorRT dequantises int8, int4 and float8 with a zero point of 0 that is constant, and nothing else.",
    samples=[
        *_DEQUANTIZE,
        *_UNSIGNED_BACK,
        *samples_in(
            "uint8", "(T[4] x, float16 s, T z) => (float16[4] y) { y = DequantizeLinear (x, s, z) }", opset=21
        ),
        *samples_in(
            "bfloat16", "(int8[4] x, T s, int8 z) => (T[4] y) { y = DequantizeLinear (x, s, z) }", opset=21
        ),
    ],
    near_misses=[
        Sample("(float8e4m3fn[2] x, float s) => (float[2] y) { y = DequantizeLinear (x, s) }", 21),
        "(int32[2] x, float s, int32 z) => (float[2] y) { y = DequantizeLinear (x, s, z) }",
    ],
)
def dequantize(site: Site, b: Body) -> str:
    """Cast, subtract the zero point, multiply."""
    return _dequantize(site, b)


@lowering(
    "dequantize-from-unsigned",
    "DequantizeLinear",
    why="TensorRT's parser takes uint8 with a zero point of 0 for int8: values above 127 turn negative.",
    samples=_UNSIGNED_BACK,
    near_misses=["(int8[2] x, float s) => (float[2] y) { y = DequantizeLinear (x, s) }"],
    when="always",
)
def dequantize_unsigned(site: Site, b: Body) -> str:
    """As the rule for refused forms, wherever the operand has no sign."""
    if not site.dtype(0).name.startswith("uint"):
        raise NoMatch(f"the operand is {site.dtype(0)}")
    return _dequantize(site, b)


@lowering(
    "dynamic-quantize-by-arithmetic",
    "DynamicQuantizeLinear",
    why="No TensorRT has DynamicQuantizeLinear: scale and zero point come from the data's own range.",
    samples=[
        Sample(
            "(float[3, 4] x) => (uint8[3, 4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear (x) }",
            feeds={"x": feed},
        )
        for feed in ((-3, 5), (1, 4), (-4, -1), np.zeros((3, 4), np.float32))
    ]
    + [
        "(float[n, m] x) => (uint8[n, m] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear (x) }",
        "(float[8] x) => (uint8[8] y) { y, s, z = DynamicQuantizeLinear (x) }",
    ],
    near_misses=["(float[2] x, float s, uint8 z) => (uint8[2] y) { y = QuantizeLinear (x, s, z) }"],
)
def dynamic_quantize(site: Site, b: Body) -> list[str]:
    """The range with zero in it over 255 is the scale; a range of nothing but zero gets a scale of 1."""
    x, zero = site.x(), b.scalar(0)
    low = b.minimum(b.reduce("ReduceMin", x, keepdims=False), zero)
    high = b.maximum(b.reduce("ReduceMax", x, keepdims=False), zero)
    span = b.sub(high, low)
    scale = b.where(b.equal(span, zero), b.scalar(1), quotient(span, b.scalar(255), b))
    start = b.op("Round", b.op("Clip", b.sub(zero, quotient(low, scale, b)), zero, b.scalar(255)))
    value = saturate(quotient(x, scale, b), start, np.dtype(np.uint8), b)
    return [value, scale, b.cast(start, np.uint8)]


# -- products of quantised numbers ------------------------------------------------------------------


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
    if not isinstance(terms, int):
        return _of_halves(left, right, b)
    ranges = chunks(_costs(site, ia, ib, za, zb, terms))
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
