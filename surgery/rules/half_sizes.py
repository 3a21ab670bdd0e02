"""Sizes that pass through float16 on their way, as converters of models to float16 write them."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import op, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample

FLOAT16 = 10
FLOATS = {1: np.float32, 11: np.float64}
WHOLE = {6: np.int32, 7: np.int64}

MOST = 8
"""Most numbers that are taken for sizes."""

EXACT = 2**11
"""Whole numbers up to here are float16 numbers; in each octave above, twice as many share one."""

INFINITE = 65520
"""Whole numbers from here on are infinite in float16."""


@pattern_rule(
    "sizes-through-float16",
    op("Cast", op("Cast", value("x"), attrs={"to": FLOAT16}, keep=True), name="back"),
    why="TensorRT fails to build where a size is computed in float16, such as the limit of a Range in models that "
    "were converted to float16. The rounding is computed in whole numbers.",
    when="always",
    since=11,
    samples=[
        Sample("(int64 x) => (float y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }", feeds={"x": (2000, 5000)}),
        Sample("(int64[1] x) => (float[1] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }",
               feeds={"x": (0, 70000)}),
        Sample("(int32[4] x) => (double[4] y) { h = Cast <to = 10> (x) y = Cast <to = 11> (h) }",
               feeds={"x": np.array([2049, 2051, -4098, -4102], np.int32)}),
        Sample("(int64[8] x) => (int64[8] y) { h = Cast <to = 10> (x) y = Cast <to = 7> (h) }",
               feeds={"x": np.array([65503, 65504, 65519, 32775, 32784, 16396, 8196, 8200])}),
        Sample("(int64[8] x) => (float[8] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }",
               feeds={"x": np.array([65519, 65520, 100000, -65519, -65520, -70000, 0, -1])}),
        Sample("(int32 x) => (int32 y) { h = Cast <to = 10> (x) y = Cast <to = 6> (h) }", feeds={"x": (-9000, 9000)}),
    ],
    near_misses=[
        "(int64[n] x) => (float[n] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }",
        "(float[1] x) => (float[1] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }",
    ],
)  # fmt: skip
def sizes_through_float16(site: CutSite, b: Body) -> str:
    """Rounded to the nearest multiple of the step between float16 numbers of that size; an even one of two."""
    x, to = site.tensor("x"), int(site.node("back").attr("to"))
    if x.dtype is None or x.dtype not in (np.int32, np.int64):
        raise NoMatch("no whole numbers of 32 or 64 bits")
    if to not in (*FLOATS, *WHOLE):
        raise NoMatch("the result is neither a float nor a whole number of 32 or 64 bits")
    if not x.static or int(np.prod(x.dims)) > MOST:
        raise NoMatch("too many numbers to be sizes")

    def number(n: int) -> str:
        return b.const(n, np.int64)

    whole = b.cast(x.name, np.int64)
    negative = b.less(whole, number(0))
    size = b.where(negative, b.sub(number(0), whole), whole)
    step, limit = number(1), EXACT
    while limit < 2**16:
        step = b.where(b.less(size, number(limit)), step, number(2 * limit // EXACT))
        limit *= 2
    times = b.div(size, step)
    rest = b.sub(size, b.mul(times, step))
    odd = b.sub(times, b.mul(b.div(times, number(2)), number(2)))
    up = b.less(step, b.add(b.mul(rest, number(2)), odd))
    rounded = b.mul(b.add(times, b.cast(up, np.int64)), step)
    result = b.where(negative, b.sub(number(0), rounded), rounded)
    if to in WHOLE:
        return b.cast(result, WHOLE[to])
    kind = FLOATS[to]
    infinite = b.where(negative, b.const(-np.inf, kind), b.const(np.inf, kind))
    return b.where(b.less(size, number(INFINITE)), b.cast(result, kind), infinite)
