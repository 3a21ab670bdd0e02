"""Remainders and powers."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site


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
