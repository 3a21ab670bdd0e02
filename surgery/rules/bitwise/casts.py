"""BitCast: the same bits as another type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site


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
