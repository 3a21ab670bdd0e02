"""Sequences that are taken apart where they were put together."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import attr, constant, either, op, optional, rest, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Operand

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
