"""Operators on bits, and powers and remainders of whole numbers, by arithmetic that is exact.

Numbers are taken as TensorRT holds them: int32 for up to 16 bits, int64 for 32 and 64 bits (a uint64 above 2**63 is
the negative int64 of the same bits). What TensorRT computes exactly at any size is sums, differences, products and
comparisons. Its quotients and remainders of whole numbers are those of float32 (NVIDIA/TensorRT issue 4702:
18542495 % 32 is -1, for int64 too): they are exact below 2**24 and corrected by what is left over above it.
The lowest number is never an operand: it has no negative, which an optimizer that turns a - b around may not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site

MAX_RANK = 8
"""Dims that a TensorRT tensor may have."""

MAX_RUNS = 4
"""A mask of so many runs of ones is applied by remainders, one with more bit by bit."""

SURE = 22
"""Bits of a quotient that hold, whatever it is computed in: float32 has 24, and may be off by some units."""

PIECE = 16
"""Numbers of so many bits are taken apart into bits at once: all quotients among them are exact in float32."""


@dataclass(frozen=True)
class Word:
    """A whole-number dtype: bits, sign, and the dtype to compute in."""

    bits: int
    signed: bool
    work: Any

    @property
    def low(self) -> int:
        """How many bits stand for themselves: all but the one that makes a number of `work` negative."""
        return self.bits - 1 if self.signed or self.bits == 64 else self.bits

    @property
    def has_sign(self) -> bool:
        """Whether numbers of `work` may be negative."""
        return self.low < self.bits


def word_of(dtype: np.dtype[Any]) -> Word:
    """The dtype's word; NoMatch for other dtypes than those of 8 to 64 bits."""
    if dtype.kind not in "iu" or not dtype.isbuiltin:
        raise NoMatch(f"{dtype} is not a whole number of 8 to 64 bits")
    bits = dtype.itemsize * 8
    return Word(bits, dtype.kind == "i", np.int64 if bits >= 32 else np.int32)


def in_word(name: str, dtype: np.dtype[Any], word: Word, b: Body) -> str:
    """The value in the dtype to compute in."""
    return name if dtype == word.work else b.cast(name, word.work)


def out_of_word(value: str, dtype: np.dtype[Any], word: Word, b: Body) -> str:
    """The result in the dtype of the operands."""
    return value if dtype == word.work else b.cast(value, dtype)


def divided(x: str, divisor: str, places: int, bits: int, work: Any, b: Body) -> tuple[str, str]:
    """Quotient and remainder of numbers from 0 to below 2**bits, exact also where Div is one of float32.

    Args:
        x: The numbers.
        divisor: A power of two.
        places: Its exponent, or the lowest it may have.
        bits: Bits of the numbers, at most 63.
        work: Dtype of both.
        b: Where to write.
    """
    quotient, rest = "", x
    while True:
        part = b.div(rest, divisor)
        rest = b.sub(rest, b.mul(part, divisor))
        quotient = b.add(quotient, part) if quotient else part
        if bits <= SURE + places:
            break
        bits -= SURE - 1  # what is left is as large as the error was
    one = b.const(1, work)
    low, high = b.less(rest, b.const(0, work)), b.greater_equal(rest, divisor)
    quotient = b.where(low, b.sub(quotient, one), b.where(high, b.add(quotient, one), quotient))
    rest = b.where(low, b.add(rest, divisor), b.where(high, b.sub(rest, divisor), rest))
    return quotient, rest


def _without_sign(value: str, word: Word, b: Body) -> tuple[str, str]:
    """A number from 0 on: the value, or if that is negative all its bits turned; and whether it is negative."""
    if not word.has_sign:
        return value, ""
    negative = b.less(value, b.const(0, word.work))
    return b.where(negative, b.sub(b.const(-1, word.work), value), value), negative


def _both(x: str, y: str, word: Word, b: Body) -> str:
    """Bitwise and of any two numbers."""
    (low_x, sign_x), (low_y, sign_y) = _without_sign(x, word, b), _without_sign(y, word, b)
    common = _both_low(low_x, low_y, word.low, word.work, b)
    if not word.has_sign:
        return common
    # With ~ for all bits turned: ~a & b is b - (a & b), and ~a & ~b is -1 - (a | b).
    only_x, only_y = b.sub(low_x, common), b.sub(low_y, common)
    neither = b.sub(b.const(-1, word.work), b.add(low_x, only_y))
    return b.where(sign_x, b.where(sign_y, neither, only_y), b.where(sign_y, only_x, common))


def _both_low(x: str, y: str, bits: int, work: Any, b: Body) -> str:
    """Bitwise and without sign: the product of the bits, side by side on a new last axis, summed with their weights.

    Piece by piece, so that no sum is above 2**16: ONNX Runtime adds int64 up in double.
    """
    if bits > PIECE:
        places = 2 * PIECE if bits > 2 * PIECE else PIECE
        half = b.const(1 << places, work)
        (high_x, rest_x), (high_y, rest_y) = (divided(v, half, places, bits, work, b) for v in (x, y))
        high = _both_low(high_x, high_y, bits - places, work, b)
        return b.add(b.mul(high, half), _both_low(rest_x, rest_y, places, work, b))
    weights, two = b.const([1 << k for k in range(bits)], work), b.const(2, work)
    ones_x, ones_y = (b.op("Mod", b.div(b.unsqueeze(v, -1), weights), two) for v in (x, y))
    return b.reduce("ReduceSum", b.mul(b.mul(ones_x, ones_y), weights), -1, keepdims=False)


def _runs(mask: int, bits: int) -> list[tuple[int, int]]:
    """Where the mask has ones: (first, behind the last) of each run."""
    found: list[tuple[int, int]] = []
    for k in range(bits):
        if mask >> k & 1:
            if found and found[-1][1] == k:
                found[-1] = (found[-1][0], k + 1)
            else:
                found.append((k, k + 1))
    return found


def _masked(x: str, mask: int, word: Word, b: Body) -> str | None:
    """Bitwise and with one known number, by remainders of powers of two; None if it has too many runs."""
    runs = _runs(mask, word.low)
    if len(runs) > MAX_RUNS:
        return None
    low, negative = _without_sign(x, word, b)
    result = ""

    def below(k: int) -> str:
        return (
            low if k == word.low else divided(low, b.const(1 << k, word.work), k, word.low, word.work, b)[1]
        )

    for start, end in runs:
        part = b.sub(below(end), below(start)) if start else below(end)
        result = b.add(result, part) if result else part
    if not result:
        result = b.mul(low, b.const(0, word.work))
    if not negative:
        return result
    # All bits of x were turned: those of the mask that are set now are those that x does not have.
    whole = mask if not mask >> (word.bits - 1) & 1 else (mask & ((1 << word.low) - 1)) - (1 << word.low)
    return b.where(negative, b.sub(b.const(whole, word.work), result), result)


def _known_mask(site: Site, i: int) -> int | None:
    """Input `i` if it is one known number that does not add dims."""
    operand, other = site.input(i), site.input(1 - i)
    value = operand.value
    if value is None or value.size != 1 or (value.ndim and value.ndim > other.rank):
        return None
    return int(value.reshape(()))


def _common(site: Site, b: Body) -> tuple[str, str, str, Word]:
    """Both operands and their common bits, in the dtype to compute in."""
    dtype = site.dtype(0)
    word = word_of(dtype)
    x, y = in_word(site.x(0), dtype, word, b), in_word(site.x(1), dtype, word, b)
    for i, other in ((1, x), (0, y)):
        mask = _known_mask(site, i)
        if mask is not None:
            found = _masked(other, mask, word, b)
            if found is not None:
                return x, y, found, word
    if any(site.input(i).shape is not None and site.input(i).rank >= MAX_RANK for i in (0, 1)):
        raise NoMatch(f"an operand has {MAX_RANK} dims, and the bits need one more")
    return x, y, _both(x, y, word, b), word


_ALL = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def _binary_samples(op: str) -> list[Sample | str]:
    found: list[Sample | str] = [
        f"({t}[3, 4] x, {t}[4] w) => ({t}[3, 4] y) {{ y = {op} (x, w) }}" for t in _ALL
    ]
    edges = {
        "int32": [-(1 << 31), (1 << 31) - 1, -1, 0, 1, -123456789, 987654321, 65535],
        "int64": [-(1 << 63), (1 << 63) - 1, -1, 0, 1, -(1 << 40) + 5, 1 << 62, 12345678901234567],
        "uint64": [(1 << 64) - 1, 1 << 63, 0, 1, 5, (1 << 63) - 1, 12345678901234567890, 77],
        "uint32": [(1 << 32) - 1, 1 << 31, 0, 1, 5, (1 << 31) - 1, 3123456789, 77],
        "int8": [-128, 127, -1, 0, 1, 85, -86, 15],
    }
    for t, values in edges.items():
        array = np.array(values, np.dtype(t))
        feeds = {"x": array.reshape(8, 1), "w": array}
        found.append(Sample(f"({t}[8, 1] x, {t}[8] w) => ({t}[8, 8] y) {{ y = {op} (x, w) }}", feeds=feeds))
    for t, mask in (
        ("int32", 255),
        ("int32", -16),
        ("uint8", 60),
        ("int64", 0x5555555),
        ("int64", 0),
        ("uint8", 255),
    ):
        text = (
            f"({t}[n, 4] x) => ({t}[n, 4] y) {{ w = Constant <value = {t} {{{mask}}}> () y = {op} (x, w) }}"
        )
        found.append(text)
    return found


_LOGICAL = "(bool[3] x, bool[3] w) => (bool[3] y) { y = And (x, w) }"


@lowering(
    "bitwise-and",
    "BitwiseAnd",
    why="No TensorRT has bitwise operators: bits by division and remainder, a mask of few runs by remainders alone.",
    samples=_binary_samples("BitwiseAnd"),
    near_misses=[_LOGICAL],
)
def bitwise_and(site: Site, b: Body) -> str:
    """The common bits."""
    _, _, common, word = _common(site, b)
    return out_of_word(common, site.dtype(0), word, b)


@lowering(
    "bitwise-or",
    "BitwiseOr",
    why="No TensorRT has bitwise operators: one operand plus the bits that only the other has.",
    samples=_binary_samples("BitwiseOr"),
    near_misses=[_LOGICAL],
)
def bitwise_or(site: Site, b: Body) -> str:
    """The sum x + (y - (x & y)), no part of which overflows."""
    x, y, common, word = _common(site, b)
    return out_of_word(b.add(x, b.sub(y, common)), site.dtype(0), word, b)


@lowering(
    "bitwise-xor",
    "BitwiseXor",
    why="No TensorRT has bitwise operators: the bits that one operand alone has, added.",
    samples=_binary_samples("BitwiseXor"),
    near_misses=[_LOGICAL],
)
def bitwise_xor(site: Site, b: Body) -> str:
    """The sum (x - (x & y)) + (y - (x & y)), no part of which overflows."""
    x, y, common, word = _common(site, b)
    return out_of_word(b.add(b.sub(x, common), b.sub(y, common)), site.dtype(0), word, b)


@lowering(
    "bitwise-not",
    "BitwiseNot",
    why="No TensorRT has bitwise operators: the highest number minus x without a sign, -1 - x with one.",
    samples=[f"({t}[n, 4] x) => ({t}[n, 4] y) {{ y = BitwiseNot (x) }}" for t in _ALL],
    near_misses=["(bool[3] x) => (bool[3] y) { y = Not (x) }"],
)
def bitwise_not(site: Site, b: Body) -> str:
    """All ones minus x."""
    dtype = site.dtype(0)
    word = word_of(dtype)
    ones = b.const(-1 if word.has_sign else (1 << word.bits) - 1, word.work)
    return out_of_word(b.sub(ones, in_word(site.x(), dtype, word, b)), dtype, word, b)


# -- BitShift ---------------------------------------------------------------------------------------


def _wrapped(value: int) -> int:
    """The int64 of the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _table(values: list[int], places: str, b: Body) -> str:
    return b.gather(b.const([_wrapped(v) for v in values], np.int64), places, axis=0)


def _shift_right(x: str, places: str, word: Word, b: Body) -> str:
    """Division by a power of two, towards minus infinity; without a sign the sign bit moves too."""
    powers = _table([1 << min(k, 62) for k in range(word.bits + 1)], places, b)

    def moved(value: str) -> str:
        result = divided(value, powers, 0, min(word.bits, 63), np.int64, b)[0]
        if word.bits < 64:
            return result
        return b.where(b.less(places, b.const(63, np.int64)), result, b.const(0, np.int64))

    if not word.has_sign:
        return moved(x)
    negative = b.less(x, b.const(0, np.int64))
    quotient = moved(b.where(negative, b.sub(b.const(-1, np.int64), x), x))
    # All bits of a negative number were turned, and are turned back: as many as the sign leaves ones.
    ones = b.const(-1, np.int64)
    if not word.signed:
        ones = _table([((1 << 64) - 1) >> k for k in range(65)], places, b)
    return b.where(negative, b.sub(ones, quotient), quotient)


def _shift_left(x: str, places: str, word: Word, b: Body) -> str:
    """Multiplication by a power of two of the bits that stay within the width."""
    if word.bits == 64:
        first = _table([1 << min(k, 62) for k in range(65)], places, b)
        return b.mul(b.mul(x, first), _table([1 << max(k - 62, 0) for k in range(64)] + [0], places, b))
    period = b.const(1 << word.bits, np.int64)
    value = b.where(b.less(x, b.const(0, np.int64)), b.add(x, period), x) if word.signed else x
    room = _table([1 << (word.bits - k) for k in range(word.bits + 1)], places, b)
    value = divided(value, room, 0, word.bits, np.int64, b)[1]
    value = b.mul(value, _table([1 << k for k in range(word.bits + 1)], places, b))
    if not word.signed:
        return value
    high = b.greater_equal(value, b.const(1 << (word.bits - 1), np.int64))
    return b.where(high, b.sub(value, period), value)


_SHIFT = '({t}[3, 4] x, {t}[4] w) => ({t}[3, 4] y) {{ y = BitShift <direction = "{d}"> (x, w) }}'


def _shift_samples() -> list[Sample | str]:
    found: list[Sample | str] = []
    for direction in ("LEFT", "RIGHT"):
        for t in ("uint8", "uint16", "uint32", "uint64"):
            bits = np.dtype(t).itemsize * 8
            values = [(1 << bits) - 1, 1 << (bits - 1), 5, 1, 0, 3, 1 << (bits // 2), 7, 8, 9, 10, 11]
            feeds = {"x": np.array(values, np.dtype(t)).reshape(3, 4), "w": (0, bits)}
            found.append(Sample(_SHIFT.format(t=t, d=direction), feeds=feeds))
        for t in ("int8", "int16", "int32", "int64"):
            top = 1 << (np.dtype(t).itemsize * 8 - 1)
            values = [-top, top - 1, -1, -5, 0, 3, 64, 7, -8, 9, -100, 11]
            feeds = {"x": np.array(values, np.dtype(t)).reshape(3, 4), "w": (-3, 80)}
            found.append(Sample(_SHIFT.format(t=t, d=direction), opset=28, feeds=feeds))
    return found


@lowering(
    "bit-shift",
    "BitShift",
    why="No TensorRT has BitShift: products and quotients by powers of two from a table, in int64.",
    samples=_shift_samples(),
    near_misses=["(int32[3] x, int32[3] w) => (int32[3] y) { y = Mul (x, w) }"],
)
def bit_shift(site: Site, b: Body) -> str:
    """As ONNX defines it from opset 28: shifts below zero or past the width leave nothing but the sign."""
    dtype = site.dtype(0)
    word = word_of(dtype)
    x = b.cast(site.x(0), np.int64) if dtype != np.int64 else site.x(0)
    y = b.cast(site.x(1), np.int64) if dtype != np.int64 else site.x(1)
    beyond = b.const(word.bits, np.int64)
    inside = b.logical_and(b.less(y, beyond), b.logical_not(b.less(y, b.const(0, np.int64))))
    places = b.where(inside, y, beyond)
    shifted = (_shift_left if site.attr("direction") == "LEFT" else _shift_right)(x, places, word, b)
    return shifted if dtype == np.int64 else b.cast(shifted, dtype)


# -- BitCast ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A float's bits: fraction and exponent; and the whole-number dtype of the same size."""

    fraction: int
    exponent: int
    number: Any

    @property
    def bias(self) -> int:
        """What the exponent is stored with."""
        return (1 << (self.exponent - 1)) - 1


LAYOUTS = {
    "float32": Layout(23, 8, np.int32),
    "float16": Layout(10, 5, np.int16),
    "bfloat16": Layout(7, 8, np.int16),
}


def _other_sign(x: str, source: np.dtype[Any], target: np.dtype[Any], b: Body) -> str:
    """A whole number with or without a sign: a period is added or taken off."""
    if source == target:
        return b.op("Identity", x)
    bits = source.itemsize * 8
    if bits == 64 or source.kind == "b" or target.kind == "b":
        return b.cast(x, target)
    wide = np.int64 if bits == 32 else np.int32
    value = b.cast(x, wide)
    period = 1 << bits
    if target.kind == "u":
        moved = b.where(b.less(value, b.const(0, wide)), b.add(value, b.const(period, wide)), value)
    else:
        edge = b.const(1 << (bits - 1), wide)
        moved = b.where(b.less(value, edge), value, b.sub(value, b.const(period, wide)))
    return b.cast(moved, target)


def _bits_of(x: str, layout: Layout, b: Body) -> str:
    """The bits of a float as int32, for every value but the payload of a NaN."""
    value = b.cast(x, np.float32)
    zero, one = b.scalar(0), b.scalar(1)
    size = b.op("Abs", value)
    minus_zero = b.less(b.div(one, value), zero)
    negative = b.logical_or(b.less(value, zero), b.logical_and(b.equal(value, zero), minus_zero))
    scale, places = 1 << layout.fraction, layout.fraction
    lowest = float(2.0 ** (1 - layout.bias))
    finite = b.less(size, b.scalar(np.inf))
    mantissa = b.where(finite, size, one)
    exponent = b.const(layout.bias, np.int32)
    for step in (64, 32, 16, 8, 4, 2, 1):
        large = b.greater_equal(mantissa, b.scalar(2.0**step))
        mantissa = b.where(large, b.mul(mantissa, b.scalar(2.0**-step)), mantissa)
        exponent = b.where(large, b.add(exponent, b.const(step, np.int32)), exponent)
        small = b.less(mantissa, b.scalar(2.0 ** (1 - step)))
        mantissa = b.where(small, b.mul(mantissa, b.scalar(2.0**step)), mantissa)
        exponent = b.where(small, b.sub(exponent, b.const(step, np.int32)), exponent)
    fraction = b.cast(b.mul(b.sub(mantissa, one), b.scalar(scale)), np.int32)
    normal = b.add(b.mul(exponent, b.const(scale, np.int32)), fraction)
    tiny = b.cast(b.mul(b.mul(size, b.scalar(2.0 ** (layout.bias - 1))), b.scalar(2.0**places)), np.int32)
    whole = b.where(b.less(size, b.scalar(lowest)), tiny, normal)
    infinite = b.const(((1 << layout.exponent) - 1) << places, np.int32)
    quiet = b.const((((1 << layout.exponent) - 1) << places) | (1 << (places - 1)), np.int32)
    special = b.where(b.op("IsNaN", value), quiet, infinite)
    result = b.where(finite, whole, special)
    lowest_number = b.const(-(1 << (places + layout.exponent)), np.int32)
    return b.where(negative, b.add(result, lowest_number), result)


def _float_of(bits: str, layout: Layout, dtype: np.dtype[Any], b: Body) -> str:
    """The float of bits that are given as int64 with a sign.

    The exponent is read by comparisons from its highest bit down, and each bit of it doubles the value so many
    times: no quotient, and no factor or product that is out of range or less exact than a normal float32.
    """
    places = layout.fraction
    zero = b.const(0, np.int64)
    negative = b.less(bits, zero)
    whole = b.where(negative, b.add(bits, b.const(1 << (places + layout.exponent), np.int64)), bits)
    one = b.const(1 << places, np.int64)
    normal = b.greater_equal(whole, one)
    rest = b.where(normal, b.sub(whole, one), whole)
    factors: list[tuple[str, float]] = []
    for step in (1 << k for k in reversed(range(layout.exponent))):
        unit = b.const(step << places, np.int64)
        set_here = b.greater_equal(rest, unit)
        rest = b.where(set_here, b.sub(rest, unit), rest)
        factors += [(set_here, 2.0 ** min(step, 64))] * max(step // 64, 1)
    fraction = b.mul(b.cast(rest, np.float32), b.scalar(2.0**-places))
    size = b.mul(b.where(normal, b.add(fraction, b.scalar(1)), fraction), b.scalar(2.0 ** (1 - layout.bias)))
    for set_here, factor in factors:
        size = b.where(set_here, b.mul(size, b.scalar(factor)), size)
    infinite = b.const(((1 << layout.exponent) - 1) << places, np.int64)
    # Infinity by overflow and NaN as infinity times 0: neither is a constant that could leak into other values.
    size = b.mul(size, b.where(b.greater_equal(whole, infinite), b.scalar(2.0**127), b.scalar(1)))
    size = b.mul(size, b.where(b.greater(whole, infinite), b.scalar(0), b.scalar(1)))
    # A product has a sign for zero too; ONNX Runtime's Where has not.
    value = b.mul(size, b.where(negative, b.scalar(-1), b.scalar(1)))
    return value if dtype == np.float32 else b.cast(value, dtype)


_SPECIAL = np.array(
    [1, -2.5, 0, -0.0, np.inf, -np.inf, 3.4028235e38, -1.1754944e-38, 1e-40, 65504, 6e-5, 1e-7]
)
_PATTERNS = np.array(
    [0, 1, -1 << 31, 0x3F800000, -0x40800000, 0x7F800000, -0x800000, 0x7F7FFFFF, 0x00800000, 77]
)


@lowering(
    "bit-cast",
    "BitCast",
    why="No TensorRT has BitCast: exponent and fraction by comparisons with powers of two; NaNs all become one.",
    samples=[
        Sample(
            "(float[12] x) => (int32[12] y) { y = BitCast <to = 6> (x) }",
            opset=26,
            feeds={"x": _SPECIAL.astype(np.float32)},
        ),
        Sample("(float[n, 4] x) => (uint32[n, 4] y) { y = BitCast <to = 12> (x) }", opset=26),
        Sample(
            "(int32[10] x) => (float[10] y) { y = BitCast <to = 1> (x) }",
            opset=26,
            feeds={"x": _PATTERNS.astype(np.int32)},
        ),
        Sample(
            "(uint32[4] x) => (float[4] y) { y = BitCast <to = 1> (x) }",
            opset=26,
            feeds={"x": np.array([0x80000000, 0xC0490FDB, 0x40490FDB, 0xFF800000], np.uint32)},
        ),
        Sample(
            "(float16[12] x) => (int16[12] y) { y = BitCast <to = 5> (x) }",
            opset=26,
            feeds={"x": np.clip(_SPECIAL, -65504, 65504).astype(np.float16)},
        ),
        Sample("(uint16[4] x) => (float16[4] y) { y = BitCast <to = 10> (x) }", opset=26, feeds={"x": (0, 31743)}),
        Sample("(float16[4] x) => (uint16[4] y) { y = BitCast <to = 4> (x) }", opset=26),
        *(
            Sample(f"({s}[3, 4] x) => ({t}[3, 4] y) {{ y = BitCast <to = {k}> (x) }}", opset=26)
            for s, t, k in (
                ("int8", "uint8", 2), ("uint8", "int8", 3), ("int16", "uint16", 4), ("uint16", "int16", 5),
                ("int32", "uint32", 12), ("uint32", "int32", 6), ("int64", "uint64", 13), ("uint64", "int64", 7),
                ("int32", "int32", 6), ("bool", "uint8", 2),
            )
        ),
    ],
    near_misses=[
        Sample("(double[3] x) => (int64[3] y) { y = BitCast <to = 7> (x) }", opset=26),
        Sample("(float[3] x) => (int32[3] y) { y = Cast <to = 6> (x) }", opset=26),
    ],
)  # fmt: skip
def bit_cast(site: Site, b: Body) -> str:
    """Whole numbers by a period, floats by exponent and fraction."""
    source, target = site.dtype(0), site.out(0).dtype
    if target is None:
        raise NoMatch("the dtype of the output is not known")
    if "float64" in (source.name, target.name):
        raise NoMatch("TensorRT has no double, and its bits in float32 are others")
    whole = all(d.kind in "iub" and d.isbuiltin for d in (source, target))
    if whole:
        return _other_sign(site.x(), source, target, b)
    if source.name in LAYOUTS and target.kind in "iu":
        layout = LAYOUTS[source.name]
        bits = _bits_of(site.x(), layout, b)
        if target == np.int32:
            return bits
        number = np.dtype(layout.number)
        return _other_sign(b.cast(bits, number), number, target, b)
    if target.name in LAYOUTS and source.kind in "iu":
        layout = LAYOUTS[target.name]
        number = np.dtype(layout.number)
        signed = site.x() if source == number else _other_sign(site.x(), source, number, b)
        return _float_of(b.cast(signed, np.int64), layout, target, b)
    raise NoMatch(f"from {source} to {target}")


# -- remainders and powers --------------------------------------------------------------------------


@lowering(
    "mod-of-floats",
    "Mod",
    why="TensorRT takes floats with fmod = 1 only; the floored remainder differs from it by the divisor where the "
    "signs differ.",
    samples=[
        Sample("(float[3, 4] x, float[4] w) => (float[3, 4] y) { y = Mod (x, w) }", opset=28),
        Sample("(float[n, 4] x, float w) => (float[n, 4] y) { y = Mod (x, w) }", opset=28),
        Sample("(float16[3, 4] x, float16[4] w) => (float16[3, 4] y) { y = Mod (x, w) }", opset=28),
        *samples_in("double bfloat16", "(T[3, 4] x, T[4] w) => (T[3, 4] y) { y = Mod (x, w) }", opset=28),
    ],
    near_misses=[
        "(int32[3, 4] x, int32[4] w) => (int32[3, 4] y) { y = Mod (x, w) }",
        "(float[3, 4] x, float[4] w) => (float[3, 4] y) { y = Mod <fmod = 1> (x, w) }",
    ],
)
def mod_of_floats(site: Site, b: Body) -> str:
    """The truncated remainder, plus the divisor where it has the other sign."""
    if site.kind() != "f" or int(site.attr("fmod", 0)):
        raise NoMatch("not a floored remainder of floats")
    dtype = site.dtype(0)
    narrow = dtype.itemsize < 4
    x, y = ((b.cast(site.x(i), np.float32) if narrow else site.x(i)) for i in (0, 1))
    zero = b.const(0, np.float32 if narrow else dtype)
    rest = b.op("Mod", x, y, fmod=1)
    other = b.op("Xor", b.less(rest, zero), b.less(y, zero))
    wrong = b.logical_and(other, b.logical_not(b.equal(rest, zero)))
    result = b.where(wrong, b.add(rest, y), rest)
    return b.cast(result, dtype) if narrow else result


@lowering(
    "mod-in-float32",
    "Mod",
    why="TensorRT computes a - trunc(a / b) * b, which in 16 bits rounds the quotient before it is cut.",
    samples=[
        *[
            Sample(
                f"({t}[3, 4] x, {t}[4] w) => ({t}[3, 4] y) {{ y = Mod <fmod = 1> (x, w) }}",
                feeds={"x": (-3000, 3000), "w": (1, 9)},
            )
            for t in ("float16",)
        ],
        *samples_in(
            "bfloat16",
            "(T[3, 4] x, T[4] w) => (T[3, 4] y) { y = Mod <fmod = 1> (x, w) }",
            feeds={"x": (-3000, 3000), "w": (1, 9)},
        ),
    ],
    near_misses=["(float[3, 4] x, float[4] w) => (float[3, 4] y) { y = Mod <fmod = 1> (x, w) }"],
    when="always",
)
def mod_in_float32(site: Site, b: Body) -> str:
    """The same in float32."""
    dtype = site.dtype(0)
    if site.kind() != "f" or dtype.itemsize != 2 or not int(site.attr("fmod", 0)):
        raise NoMatch("not a truncated remainder of 16-bit floats")
    x, y = (b.cast(site.x(i), np.float32) for i in (0, 1))
    return b.cast(b.op("Mod", x, y, fmod=1), dtype)


def _power(x: str, exponent: int, b: Body) -> str:
    """By squaring; the exponent is 1 at least."""
    result, square = "", x
    while True:
        if exponent & 1:
            result = b.mul(result, square) if result else square
        exponent >>= 1
        if not exponent:
            return result
        square = b.mul(square, square)


def _power_at_run_time(x: str, y: str, dtype: np.dtype[Any], b: Body) -> str:
    """By squaring, bit by bit of an exponent that is whole; below zero only 1 and -1 have a power."""
    one, two, zero = (b.const(k, dtype) for k in (1, 2, 0))
    # Above 63 the power of anything but -1, 0 and 1 is out of range: an exponent of equal parity does for these.
    beyond = b.op("Abs", y)
    rest = b.where(
        b.less(beyond, b.const(64, dtype)), beyond, b.add(b.const(62, dtype), b.op("Mod", beyond, two))
    )
    result, square = "", x
    for step in range(6):
        factor = b.where(b.equal(b.op("Mod", rest, two), one), square, one)
        result = b.mul(result, factor) if result else factor
        if step < 5:
            rest = b.div(rest, two)
            square = b.mul(square, square)
    unit = b.equal(b.op("Abs", x), one)
    return b.where(b.logical_and(b.less(y, zero), b.logical_not(unit)), zero, result)


def _in_range(result: str, x: str, y: str, dtype: np.dtype[Any], b: Body) -> str:
    """The lowest number where the power is out of range: what ONNX Runtime's conversion from double gives on x86."""
    size = b.op("Pow", b.op("Abs", b.cast(x, np.float32)), b.cast(y, np.float32))
    info = np.iinfo(dtype)
    return b.where(b.greater_equal(size, b.scalar(float(info.max) + 1)), b.const(info.min, dtype), result)


@lowering(
    "integer-pow",
    "Pow",
    why="TensorRT takes powers of whole numbers in float32, where 3**2 may be 8.9999 and end up as 8.",
    samples=[
        Sample(
            f"({t}[3, 4] x, {u}[4] w) => ({t}[3, 4] y) {{ y = Pow (x, w) }}", feeds={"x": (-6, 7), "w": (0, 7)}
        )
        for t, u in (("int32", "int32"), ("int64", "int64"), ("int32", "int64"), ("int64", "int32"))
    ]
    + [
        f"({t}[n] x) => ({t}[n] y) {{ w = Constant <value = {u} {{{k}}}> () y = Pow (x, w) }}"
        for t, u, k in (
            ("int32", "int32", 2),
            ("int32", "int64", 9), ("int64", "float", 3.0), ("int64", "int64", 0), ("int32", "float", 1.0),
        )
    ]
    + [
        "(int32[40] x, int32[40] w) => (int32[40] y) { y = Pow (x, w) }",
        Sample(
            "(int32[8] x, float w) => (int32[8] y) { y = Pow (x, w) }",
            feeds={"x": np.array([0, 1, 4, 9, 16, 25, 36, 10000]), "w": np.float32(0.5)},
        ),
        Sample(
            "(int64[8] x, int64[8] w) => (int64[8] y) { y = Pow (x, w) }",
            feeds={"x": np.array([1, -1, -1, 2, 1, -1, 5, -3]), "w": np.array([-1, -1, -2, -1, 99, 101, -3, 3])},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 float16 double",
            "(int32[3, 4] x, T[4] w) => (int32[3, 4] y) { y = Pow (x, w) }",
            feeds={"x": (-6, 7), "w": (0, 7)},
        ),
    ],
    near_misses=["(float[3, 4] x, int32[4] w) => (float[3, 4] y) { y = Pow (x, w) }"],
    when="always",
)  # fmt: skip
def integer_pow(site: Site, b: Body) -> str:
    """Products of whole numbers; for exponents that are not whole, a root in float32, snapped where it is whole."""
    dtype = site.dtype(0)
    if dtype.kind not in "iu":
        raise NoMatch(f"a power of {dtype}")
    known = site.input(1).value
    if known is not None and known.size == 1 and known.ndim <= site.input(0).rank:
        exponent = float(known.reshape(()))
        if exponent == 0:
            return b.add(b.mul(site.x(), b.const(0, dtype)), b.const(1, dtype))
        if exponent.is_integer() and 0 < exponent < 64:
            if exponent == 1:
                return b.op("Identity", site.x())
            return _in_range(_power(site.x(), int(exponent), b), site.x(), site.x(1), dtype, b)
    if site.kind(1) in "iu":
        wide = b.cast(site.x(1), dtype) if site.dtype(1) != dtype else site.x(1)
        return _in_range(_power_at_run_time(site.x(), wide, dtype, b), site.x(), wide, dtype, b)
    power = b.op("Pow", b.cast(site.x(), np.float32), b.cast(site.x(1), np.float32))
    whole = b.op("Round", power)
    off = b.op("Abs", b.sub(power, whole))
    near = b.less(off, b.mul(b.op("Abs", whole), b.scalar(1e-6)))
    return b.cast(b.where(near, whole, power), dtype)
