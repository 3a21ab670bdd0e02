"""Optionals whose value is known to be there, and positions of which only the number is used."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import attr, constant, either, op, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pair, pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample
from surgery.rules.sizes import count_up

# -- optionals ------------------------------------------------------------------------------------------

value_of_optional = pair(
    "value-of-optional",
    why="No TensorRT has optionals. What an optional holds is what was put into it.",
    before="(x) => (y) { o = Optional (x) y = OptionalGetElement (o) }",
    after="(x) => (y) { y = Identity (x) }",
    since=15,
    samples=[
        "(float[2, n] x) => (float[2, n] y) { o = Optional (x) y = OptionalGetElement (o) }",
        "(int64[3] x) => (int64[3] y) { o = Optional (x) y = OptionalGetElement (o) }",
    ],
    near_misses=["(float[2] x) => (float[2] y) { y = OptionalGetElement (x) }"],
)


presence_of_optional = pair(
    "presence-of-optional",
    why="No TensorRT has optionals. One that something was put into is not empty.",
    before="(x) => (y) { o = Optional (x) y = OptionalHasElement (o) }",
    after="(x) => (y) { y = Constant <value = bool {1}> () }",
    since=15,
    samples=["(float[2, n] x) => (bool y) { o = Optional (x) y = OptionalHasElement (o) }"],
    near_misses=["(float[2] x) => (bool y) { y = OptionalHasElement (x) }"],
)


# -- positions of which only the number is used ---------------------------------------------------------


@pattern_rule(
    "count-of-nonzero",
    op("Shape", op("NonZero", value("x"), keep=True), name="shape"),
    why="No TensorRT has NonZero. The shape of its result is the rank and the number of elements that are not zero, "
    "which a sum gives without any positions.",
    since=13,
    samples=[
        "(float[2, 3] x) => (int64[2] y) { p = NonZero (x) y = Shape (p) }",
        "(bool[n, 4, 2] x) => (int64[1] y) { p = NonZero (x) y = Shape <start = 1> (p) }",
        "(int64[5] x) => (int64[1] y) { p = NonZero (x) y = Shape <start = -1> (p) }",
        "(int32[2, 2] x) => (int64[1] y) { p = NonZero (x) y = Shape <end = 1> (p) }",
        "(uint8[7] x) => (int64[2] y) { p = NonZero (x) y = Shape (p) }",
    ],
    near_misses=["(float[2, 3] x) => (int64[2, n] p) { p = NonZero (x) }"],
)
def count_of_nonzero(site: CutSite, b: Body) -> str:
    """Rank and sum of what is not zero, as Shape's start and end want them."""
    x, node = site.tensor("x"), site.node("shape")
    if x.dtype is None:
        raise NoMatch("the dtype is not known")
    ones = b.cast(b.cast(x.name, np.bool_), np.int64)
    whole = b.reshape(b.reduce("ReduceSum", ones, keepdims=False), 1)
    parts = [b.ints(x.rank), whole]
    chosen = parts[slice(node.attr("start", 0), node.attr("end"))]
    if not chosen:
        raise NoMatch("an empty part of the shape")
    return b.concat(chosen, 0)


@pattern_rule(
    "nonzero-of-a-filled-tensor",
    op(
        "NonZero",
        either(
            op("ConstantOfShape", value("shape"), attrs={"value": attr("fill")}, keep=True),
            op("Expand", constant("fill"), value("shape"), keep=True),
        ),
    ),
    why="No TensorRT has NonZero. A tensor filled with a number that is not zero has all positions in the result: "
    "how many they are follows from its shape. PyTorch's exporter counts up that way.",
    since=13,
    samples=[
        Sample(
            "(int64[1] s) => (int64[1, k] y) { f = ConstantOfShape <value = int64[1] {1}> (s) y = NonZero (f) }",
            feeds={"s": (5, 9)},
        ),
        Sample(
            "(int64[3] s) => (int64[3, k] y) { f = ConstantOfShape <value = float[1] {2.0}> (s) y = NonZero (f) }",
            feeds={"s": (2, 5)},
        ),
        Sample(
            "(int64[2] s) => (int64[2, k] y) { one = Constant <value = bool[3] {1, 1, 1}> () f = Expand (one, s) "
            "y = NonZero (f) }",
            feeds={"s": np.array([4, 3])},
        ),
    ],
    near_misses=[
        Sample(
            "(int64[1] s) => (int64[1, k] y) { f = ConstantOfShape (s) y = NonZero (f) }", feeds={"s": (5, 9)}
        ),
        Sample(
            "(int64[1] s) => (int64[1, k] y) { c = Constant <value = int64[3] {1, 0, 1}> () f = Expand (c, s) "
            "y = NonZero (f) }",
            feeds={"s": np.array([3])},
        ),
    ],
)
def nonzero_of_a_filled_tensor(site: CutSite, b: Body) -> str:
    """Flat positions counted up, taken apart into coordinates."""
    shape, rank = site.name("shape"), (site.tensor("shape").shape or (None,))[0]
    if "fill" in site.values:
        fill = np.asarray(site.values["fill"])
    else:
        fill = site.constant("fill")
        shape = b.op("Shape", b.op("Expand", site.name("fill"), shape))
        rank = max(rank, fill.ndim) if isinstance(rank, int) else None
    if not fill.all():
        raise NoMatch("it is filled with zeros")
    if not isinstance(rank, int) or rank == 0:
        raise NoMatch("the rank of what is filled is not known")
    rest_of, rows = count_up(b, b.reduce("ReduceProd", shape, 0)), []
    for axis in reversed(range(1, rank)):
        size = b.slice(shape, 0, axis, axis + 1)
        above = b.div(rest_of, size)
        rows.append(b.sub(rest_of, b.mul(above, size)))
        rest_of = above
    rows.append(rest_of)
    return b.concat([b.unsqueeze(r, 0) for r in reversed(rows)], 0)
