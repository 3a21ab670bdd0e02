"""And, or, exclusive or, complement and shifts of whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.bitwise.words import (
    MAX_RANK,
    MAX_RUNS,
    PIECE,
    Word,
    divided,
    in_word,
    out_of_word,
    word_of,
)
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site


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
