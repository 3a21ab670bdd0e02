"""Numbers as TensorRT holds them, and quotients of them that are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch

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
