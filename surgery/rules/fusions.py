"""Rules for several nodes at once.

What the target refuses in one node can vanish with its neighbours: sequences and optionals that are taken apart
where they were put together, positions of which only the number is used. Rules that only change the form are
optional: they apply where a pipeline names them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import attr, constant, either, op, optional, rest, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pair, pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample
from surgery.rules.engine.site import Operand
from surgery.rules.indexing.sizes import count_up

# -- sequences ------------------------------------------------------------------------------------------

DEPTH = 6
"""Insertions and removals in a row that are followed back to where a sequence begins."""


def _sequence(level: int = 0) -> Any:
    """A sequence whose entries are known, as nodes that other readers of it may go on using."""
    begins = [
        op("SequenceConstruct", rest(f"parts{level}"), keep=True),
        op(
            "SplitToSequence",
            value(f"whole{level}"),
            optional(constant(f"split{level}")),
            name=f"cut{level}",
            keep=True,
        ),
        op("SequenceEmpty", name=f"empty{level}", keep=True),
    ]
    if level == DEPTH:
        return either(*begins)
    return either(
        *begins,
        op(
            "SequenceInsert",
            _sequence(level + 1),
            value(f"added{level}"),
            optional(constant(f"at{level}")),
            name=f"insert{level}",
            keep=True,
        ),
        op(
            "SequenceErase",
            _sequence(level + 1),
            optional(constant(f"at{level}")),
            name=f"erase{level}",
            keep=True,
        ),
    )


def _entries(site: CutSite, b: Body, level: int = 0) -> list[str]:
    """The entries of the sequence that was matched, in order."""
    if site.given(f"parts{level}"):
        return [p.name for p in site.rest(f"parts{level}")]
    if site.given(f"empty{level}"):
        return []
    if site.given(f"cut{level}"):
        return _split(site, b, level)
    entries = _entries(site, b, level + 1)
    if site.given(f"insert{level}"):
        place = _position(site, level, len(entries), inserting=True)
        entries.insert(place, site.name(f"added{level}"))
    else:
        del entries[_position(site, level, len(entries), inserting=False)]
    return entries


def _position(site: CutSite, level: int, length: int, *, inserting: bool) -> int:
    if not site.given(f"at{level}"):
        return length if inserting else length - 1
    place = int(site.constant(f"at{level}").item())
    if not -length <= place < length + inserting:
        raise NoMatch(f"there is no position {place} in a sequence of {length}")
    return place + length if place < 0 else place


def _split(site: CutSite, b: Body, level: int) -> list[str]:
    whole, node = site.tensor(f"whole{level}"), site.node(f"cut{level}")
    axis = int(node.attr("axis", 0)) % whole.rank
    size = _size(whole, axis)
    single = not site.given(f"split{level}")
    if single:
        lengths = [1] * size
    else:
        split = site.constant(f"split{level}")
        step = int(split.item()) if split.ndim == 0 else 0
        lengths = (
            [min(step, size - at) for at in range(0, size, step)] if step else [int(v) for v in split.ravel()]
        )
    parts, start = [], 0
    for length in lengths:
        part = b.slice(whole.name, axis, start, start + length)
        parts.append(b.squeeze(part, axis) if single and not node.attr("keepdims", 1) else part)
        start += length
    return parts


def _size(operand: Operand, axis: int) -> int:
    size = operand.dim(axis)
    if not isinstance(size, int):
        raise NoMatch(f"the size of axis {axis} of {operand.name} is not known")
    return size


@pattern_rule(
    "join-of-known-parts",
    op(
        "ConcatFromSequence",
        _sequence(),
        attrs={"axis": attr("axis"), "new_axis": attr("new_axis", 0)},
    ),
    why="No TensorRT has sequences. Tensors that are put into one and joined again are joined at once.",
    samples=[
        "(float[2, 3] a, float[2, 5] b) => (float[2, 8] y) "
        "{ s = SequenceConstruct (a, b) y = ConcatFromSequence <axis = 1> (s) }",
        "(int64[n, 3] a, int64[n, 3] b) => (int64[n, 2, 3] y) "
        "{ s = SequenceConstruct (a, b) y = ConcatFromSequence <axis = 1, new_axis = 1> (s) }",
        "(double[2] a) => (double[2, 1] y) "
        "{ s = SequenceConstruct (a) y = ConcatFromSequence <axis = -1, new_axis = 1> (s) }",
        "(int32[4, 3] a) => (int32[1, 12] y) "
        "{ s = SplitToSequence <axis = 0> (a) y = ConcatFromSequence <axis = 1> (s) }",
        "(float[5, n] a) => (float[n, 5] y) "
        "{ s = SplitToSequence <axis = 0, keepdims = 0> (a) y = ConcatFromSequence <axis = -1, new_axis = 1> (s) }",
        "(float[2] a, float[3] b, float[4] c) => (float[6] y) { p = Constant <value_int = 0> () "
        "e = SequenceEmpty () s = SequenceInsert (e, a) t = SequenceInsert (s, b, p) "
        "u = SequenceInsert (t, c) v = SequenceErase (u, p) y = ConcatFromSequence <axis = 0> (v) }",
    ],
    near_misses=[
        "(float[n, 3] a) => (float[1, m] y) "
        "{ s = SplitToSequence <axis = 0> (a) y = ConcatFromSequence <axis = 1> (s) }"
    ],
)
def join_of_known_parts(site: CutSite, b: Body) -> str:
    """Concat, of the tensors themselves or with a dimension of 1 inserted into each."""
    axis, parts = int(site.values["axis"]), _entries(site, b)
    if not parts:
        raise NoMatch("the sequence is empty")
    if site.values["new_axis"]:
        parts = [b.unsqueeze(p, axis) for p in parts]
    return b.op("Concat", *parts, axis=axis)


@pattern_rule(
    "one-of-known-parts",
    op("SequenceAt", _sequence(), constant("position")),
    why="No TensorRT has sequences. An entry at a known position of a sequence that was put together here is the "
    "tensor that was put there.",
    samples=[
        "(float[2, 3] a, float[2, 3] b) => (float[2, 3] y) "
        "{ i = Constant <value_int = 1> () s = SequenceConstruct (a, b) y = SequenceAt (s, i) }",
        "(int64[n] a, int64[n] b) => (int64[n] y) "
        "{ i = Constant <value_int = -2> () s = SequenceConstruct (a, b) y = SequenceAt (s, i) }",
        "(float16[2, 7] a) => (float16[2, 3] y) { i = Constant <value_int = 1> () k = Constant <value_int = 3> () "
        "s = SplitToSequence <axis = -1> (a, k) y = SequenceAt (s, i) }",
        "(int32[6, n] a) => (int32[3, n] y) { i = Constant <value_int = 2> () "
        "k = Constant <value_ints = [1, 2, 3]> () s = SplitToSequence <axis = 0> (a, k) y = SequenceAt (s, i) }",
        "(double[2] a, double[3] b, double[2] c) => (double[2] y) { i = Constant <value_int = 0> () "
        "e = SequenceEmpty <dtype = 11> () s = SequenceInsert (e, a) t = SequenceInsert (s, b, i) "
        "u = SequenceInsert (t, c) v = SequenceErase (u, i) y = SequenceAt (v, i) }",
    ],
    near_misses=[
        "(float[2, 3] a, float[2, 3] b, int64 i) => (float[2, 3] y) "
        "{ s = SequenceConstruct (a, b) y = SequenceAt (s, i) }"
    ],
)
def one_of_known_parts(site: CutSite, b: Body) -> str:
    """The tensor at the position, counted from the end where it is negative."""
    parts, position = _entries(site, b), int(site.constant("position").item())
    if not -len(parts) <= position < len(parts):
        raise NoMatch(f"there is no entry {position} among {len(parts)}")
    return parts[position]


@pattern_rule(
    "number-of-known-parts",
    op("SequenceLength", _sequence()),
    why="No TensorRT has sequences. The length of one that was put together here is known.",
    samples=[
        "(float[2, 3] a, float[2, 3] b) => (int64 y) { s = SequenceConstruct (a, b) y = SequenceLength (s) }",
        "(int64[2] a, int64[2] b) => (int64 y) "
        "{ e = SequenceEmpty <dtype = 7> () s = SequenceInsert (e, a) t = SequenceInsert (s, b) "
        "u = SequenceErase (t) y = SequenceLength (u) }",
    ],
    near_misses=["(float[n, 3] a) => (int64 y) { s = SplitToSequence (a) y = SequenceLength (s) }"],
)
def number_of_known_parts(site: CutSite, b: Body) -> str:
    """A constant."""
    return b.const(len(_entries(site, b)), np.int64)


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


# -- only the form: where a pipeline asks for them ------------------------------------------------------


@pattern_rule(
    "transpose-of-transpose",
    op(
        "Transpose",
        op("Transpose", value("x"), attrs={"perm": attr("first")}),
        attrs={"perm": attr("second")},
    ),
    why="Two permutations in a row are one.",
    optional=True,
    when="always",
    samples=[
        "(float[2, 3, 4] x) => (float[4, 2, 3] y) "
        "{ t = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [2, 1, 0]> (t) }",
        "(int64[n, 3] x) => (int64[n, 3] y) { t = Transpose (x) y = Transpose (t) }",
        "(float16[2, 3, 4] x) => (float16[3, 4, 2] y) "
        "{ t = Transpose <perm = [2, 1, 0]> (x) y = Transpose <perm = [1, 0, 2]> (t) }",
        "(bool[2, 3] x) => (bool[2, 3] y) { t = Transpose <perm = [1, 0]> (x) y = Transpose <perm = [1, 0]> (t) }",
    ],
    near_misses=[
        "(float[2, 3] x) => (float[2, 3] y, float[3, 2] z) { t = Transpose (x) y = Transpose (t) z = Relu (t) }"
    ],
)
def transpose_of_transpose(site: CutSite, b: Body) -> str:
    """One Transpose, or nothing where the two undo each other."""
    rank = site.tensor("x").rank
    backwards = list(range(rank))[::-1]
    first, second = site.values["first"] or backwards, site.values["second"] or backwards
    both = [first[axis] for axis in second]
    if both == list(range(rank)):
        return b.op("Identity", site.name("x"))
    return b.transpose(site.name("x"), *both)


def _lossless(a: np.dtype[Any], c: np.dtype[Any]) -> bool:
    """Whether every value of the first dtype is one of the second, of the same kind."""
    kinds = {a.kind, c.kind}
    return (kinds <= {"f"} or kinds <= {"i", "u"}) and bool(np.can_cast(a, c, "safe"))


@pattern_rule(
    "cast-of-cast",
    op("Cast", op("Cast", value("x"), attrs={"to": attr("between")}), attrs={"to": attr("to")}),
    why="A cast to a wider dtype of the same kind loses nothing, so the next one may start where it started.",
    optional=True,
    when="always",
    samples=[
        "(float16[2, n] x) => (float16[2, n] y) { c = Cast <to = 1> (x) y = Cast <to = 10> (c) }",
        "(float[2, 3] x) => (float16[2, 3] y) { c = Cast <to = 11> (x) y = Cast <to = 10> (c) }",
        "(int32[5] x) => (int32[5] y) { c = Cast <to = 7> (x) y = Cast <to = 6> (c) }",
        "(uint8[5] x) => (int16[5] y) { c = Cast <to = 6> (x) y = Cast <to = 5> (c) }",
    ],
    near_misses=[
        "(float[2, 3] x) => (float[2, 3] y) { c = Cast <to = 10> (x) y = Cast <to = 1> (c) }",
        "(float[2, 3] x) => (float[2, 3] y) { c = Cast <to = 7> (x) y = Cast <to = 1> (c) }",
    ],
)
def cast_of_cast(site: CutSite, b: Body) -> str:
    """One Cast, or nothing where the second undoes the first."""
    import onnx.helper

    x = site.tensor("x")
    between, to = (onnx.helper.tensor_dtype_to_np_dtype(int(site.values[n])) for n in ("between", "to"))
    if x.dtype is None or not _lossless(x.dtype, between) or between.kind not in "fiu":
        raise NoMatch(f"a cast to {between} may change values")
    if {between.kind, to.kind} == {"f"} or {between.kind, to.kind} <= {"i", "u"}:
        return b.op("Identity", x.name) if to == x.dtype else b.cast(x.name, to)
    raise NoMatch(f"{between} and {to} are of different kinds")


def _mean(of: Any) -> Any:
    """ReduceMean with its axes as an attribute, or as an input (from opset 18)."""
    return either(
        op("ReduceMean", of, attrs={"axes": attr("axes"), "keepdims": 1}),
        op("ReduceMean", of, constant("axes"), attrs={"keepdims": 1, "noop_with_empty_axes": 0}),
    )


def _normalized() -> Any:
    """Mean taken off, divided by the deviation, in the spellings that exporters use."""
    off = op("Sub", value("x"), _mean(value("x")))
    square = either(op("Pow", off, constant(equals=2)), op("Mul", off, off))
    deviation = op("Sqrt", op("Add", _mean(square), constant("epsilon")))
    return either(op("Div", off, deviation), op("Mul", off, op("Reciprocal", deviation)))


@pattern_rule(
    "layer-normalization",
    op("Add", op("Mul", _normalized(), value("scale")), value("bias")),
    why="LayerNormalization written out as ten nodes: one node keeps the accumulation in float32, which TensorRT "
    "asks for in half precision.",
    since=17,
    optional=True,
    when="always",
    samples=[
        Sample(
            "(float[2, 3, 8] x, float[8] s, float[8] b) => (float[2, 3, 8] y) "
            "{ two = Constant <value_float = 2.0> () e = Constant <value_float = 1e-5> () "
            "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) q = Pow (d, two) "
            "v = ReduceMean <axes = [-1]> (q) a = Add (v, e) r = Sqrt (a) n = Div (d, r) t = Mul (n, s) "
            "y = Add (t, b) }",
            opset=17,
        ),
        "(float[n, 4, 8] x, float[4, 8] s, float[4, 8] b) => (float[n, 4, 8] y) "
        "{ axes = Constant <value_ints = [1, 2]> () e = Constant <value_float = 1e-3> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (e, v) r = Sqrt (a) i = Reciprocal (r) "
        "n = Mul (d, i) t = Mul (s, n) y = Add (b, t) }",
        "(double[2, 8] x, double[8] s, double[8] b) => (double[2, 8] y) "
        "{ axes = Constant <value_ints = [-1]> () e = Constant <value = double {0.001}> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) }",
    ],
    near_misses=[
        # The mean is taken over another axis than the variance.
        "(float[3, 3] x, float[3] s, float[3] b) => (float[3, 3] y) { first = Constant <value_ints = [0]> () "
        "last = Constant <value_ints = [1]> () e = Constant <value_float = 1e-5> () m = ReduceMean (x, first) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) }",
        # The deviation is read by another node too.
        "(float[2, 3] x, float[3] s, float[3] b) => (float[2, 3] y, float[2, 1] z) "
        "{ axes = Constant <value_ints = [-1]> () e = Constant <value_float = 1e-5> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) z = Exp (r) }",
    ],
)
def layer_normalization(site: CutSite, b: Body) -> str:
    """LayerNormalization over the last axes."""
    x = site.tensor("x")
    given = site.constant("axes").tolist() if "axes" in site.tensors else site.values["axes"]
    axes = [int(a) for a in given or ()]
    normal = sorted(a % x.rank for a in axes)
    if not normal or normal != list(range(normal[0], x.rank)):
        raise NoMatch(f"the mean is taken over the axes {axes}, not over the last ones")
    wanted = None if x.shape is None else x.shape[normal[0] :]
    for name in ("scale", "bias"):
        if site.tensor(name).shape != wanted:
            raise NoMatch(f"{name} has another shape than the axes that are normalized")
    return b.op(
        "LayerNormalization", x.name, site.name("scale"), site.name("bias"),
        axis=normal[0] - x.rank, epsilon=float(site.constant("epsilon").item()),
    )  # fmt: skip


def _gelu() -> Any:
    """Erf form of Gelu, with the factors in any association."""
    x, half = value("x"), constant(equals=0.5)
    scaled = either(
        op("Div", x, constant(equals=2.0**0.5)),
        op("Mul", x, constant(equals=0.5**0.5)),
    )
    bell = op("Add", op("Erf", scaled), constant(equals=1.0))
    return either(
        op("Mul", op("Mul", x, bell), half),
        op("Mul", x, op("Mul", bell, half)),
        op("Mul", op("Mul", x, half), bell),
    )


@pattern_rule(
    "gelu",
    _gelu(),
    why="Gelu written out with Erf as five nodes is one operator from opset 20 on.",
    since=20,
    optional=True,
    when="always",
    samples=[
        Sample(
            "(float[2, n] x) => (float[2, n] y) { r = Constant <value_float = 1.4142135> () "
            "h = Constant <value_float = 0.5> () o = Constant <value_float = 1.0> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (x, p) y = Mul (m, h) }",
            opset=20,
        ),
        Sample(
            "(double[8] x) => (double[8] y) { r = Constant <value = double {0.7071067811865476}> () "
            "h = Constant <value = double {0.5}> () o = Constant <value = double {1.0}> () "
            "a = Mul (r, x) e = Erf (a) p = Add (o, e) m = Mul (h, x) y = Mul (p, m) }",
            opset=20,
        ),
        Sample(  # the text has float16 as bits: the root of 2, 0.5 and 1
            "(float16[8] x) => (float16[8] y) { r = Constant <value = float16 {15784}> () "
            "h = Constant <value = float16 {14336}> () o = Constant <value = float16 {15360}> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (p, h) y = Mul (x, m) }",
            opset=20,
        ),
    ],
    near_misses=[
        Sample(
            "(float[2, 3] x) => (float[2, 3] y) { r = Constant <value_float = 1.4> () "
            "h = Constant <value_float = 0.5> () o = Constant <value_float = 1.0> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (x, p) y = Mul (m, h) }",
            opset=20,
        )
    ],
)
def gelu(site: CutSite, b: Body) -> str:
    """One node."""
    return b.op("Gelu", site.name("x"))
