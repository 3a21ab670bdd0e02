"""QuantizeLinear and DequantizeLinear, and the steps before them that must stay exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import op, optional, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.quantization.common import INTEGERS, as_float, centred, is_zero, limits

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    return b.cast(within(scaled, zero, out, b), out)


def within(scaled: str, zero: str, out: np.dtype[Any], b: Body) -> str:
    """The same, and left in float32."""
    whole = b.op("Round", scaled)
    if zero:
        whole = b.add(whole, zero)
    low, high = limits(out)
    return b.op("Clip", whole, b.scalar(low), b.scalar(high))


def _dequantize(site: Site, b: Body) -> str:
    dtype, out = site.dtype(0), site.out(0).dtype
    if dtype.name not in INTEGERS:
        raise NoMatch(f"dequantises {dtype}")
    if dtype == np.int32 and not is_zero(site, 2):
        raise NoMatch("int32 with a zero point")
    numbers = _numbers(site)
    if numbers is not None:
        place = b.cast(site.x(), np.int32)
        low = limits(dtype)[0]
        return b.op(
            "Gather", b.const(numbers, np.float32), b.sub(place, b.const(low, np.int32)) if low else place
        )
    like = "" if is_zero(site, 2) else _spread(site, 2, b)
    value = b.mul(centred(site, 0, 2, b, like), _spread(site, 1, b))
    return value if out is None or out == np.float32 else b.cast(value, out)


def _numbers(site: Site) -> NDArray[np.float32] | None:
    """What each of the few numbers of an activation in 8 bits stands for; None if that is not known, or not one.

    TensorRT's builder fuses arithmetic along a chain of quantisations, in a time that grows with the number of ways
    through it: five of them and a mean took it more than 150 s. It fuses nothing across a lookup.
    """
    dtype, step = site.dtype(0), site.input(1)
    if (
        dtype not in (np.uint8, np.int8)
        or site.input(0).value is not None
        or site.out(0).dtype not in (None, np.float32)
    ):
        return None
    if step.dtype != np.float32 or step.value is None or step.value.size != 1:
        return None
    zero = site.input(2).value if site.has(2) else np.zeros(1, np.float32)
    if zero is None or zero.size != 1:
        return None
    low, high = limits(dtype)
    every = np.arange(low, high + 1, dtype=np.float32) - zero.reshape(-1)[0].astype(np.float32)
    return np.asarray(every * step.value.reshape(-1)[0], np.float32)


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
    """Cast, subtract the zero point, multiply; what 8 bits stand for where that is known is looked up."""
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
    """The steps of the input's range, as uint8."""
    value, scale, start = eight_bit_steps(site.x(), b)
    return [b.cast(value, np.uint8), scale, b.cast(start, np.uint8)]


def eight_bit_steps(x: str, b: Body) -> tuple[str, str, str]:
    """Whole numbers from 0 to 255 for float32 numbers, the scale and the zero point of their range; all in float32.

    The range with zero in it over 255 is the scale; a range of nothing but zero gets a scale of 1.
    """
    zero = b.scalar(0)
    low = b.minimum(b.reduce("ReduceMin", x, keepdims=False), zero)
    high = b.maximum(b.reduce("ReduceMax", x, keepdims=False), zero)
    span = b.sub(high, low)
    scale = b.where(b.equal(span, zero), b.scalar(1), quotient(span, b.scalar(255), b))
    start = b.op("Round", b.op("Clip", b.sub(zero, quotient(low, scale, b)), zero, b.scalar(255)))
    return within(quotient(x, scale, b), start, np.dtype(np.uint8), b), scale, start
