"""Rules for several nodes at once.

What the target refuses in one node can vanish with its neighbours: sequences and optionals that are taken apart
where they were put together, positions of which only the number is used. Rules that only change the form are
optional: they apply where a pipeline names them.
"""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.graph.pattern import attr, constant, op, rest
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch

# -- sequences and optionals ----------------------------------------------------------------------------


@pattern_rule(
    "join-of-listed-parts",
    op(
        "ConcatFromSequence",
        op("SequenceConstruct", rest("parts", least=1), keep=True),
        attrs={"axis": attr("axis"), "new_axis": attr("new_axis", 0)},
    ),
    why="No TensorRT has sequences. Tensors that are put into one and joined again are joined at once.",
    samples=[
        "(float[2, 3] a, float[2, 5] b) => (float[2, 8] y) "
        "{ s = SequenceConstruct (a, b) y = ConcatFromSequence <axis = 1> (s) }",
        "(int64[n, 3] a, int64[n, 3] b) => (int64[n, 2, 3] y) "
        "{ s = SequenceConstruct (a, b) y = ConcatFromSequence <axis = 1, new_axis = 1> (s) }",
        "(float16[2] a) => (float16[2, 1] y) "
        "{ s = SequenceConstruct (a) y = ConcatFromSequence <axis = -1, new_axis = 1> (s) }",
    ],
    near_misses=[
        "(float[4, 3] a) => (float[4, 3] y) "
        "{ s = SplitToSequence <axis = 0> (a) y = ConcatFromSequence <axis = 0> (s) }"
    ],
)
def join_of_listed_parts(site: CutSite, b: Body) -> str:
    """Concat, of the tensors themselves or with a dimension of 1 inserted into each."""
    axis, parts = int(site.values["axis"]), [p.name for p in site.rest("parts")]
    if site.values["new_axis"]:
        parts = [b.unsqueeze(p, axis) for p in parts]
    return b.op("Concat", *parts, axis=axis)


@pattern_rule(
    "one-of-listed-parts",
    op("SequenceAt", op("SequenceConstruct", rest("parts", least=1), keep=True), constant("position")),
    why="No TensorRT has sequences. An entry at a known position of a sequence that was put together here is the "
    "tensor that was put there.",
    samples=[
        "(float[2, 3] a, float[2, 3] b) => (float[2, 3] y) "
        "{ i = Constant <value_int = 1> () s = SequenceConstruct (a, b) y = SequenceAt (s, i) }",
        "(int64[n] a, int64[n] b) => (int64[n] y) "
        "{ i = Constant <value_int = -2> () s = SequenceConstruct (a, b) y = SequenceAt (s, i) }",
    ],
    near_misses=[
        "(float[2, 3] a, float[2, 3] b, int64 i) => (float[2, 3] y) "
        "{ s = SequenceConstruct (a, b) y = SequenceAt (s, i) }"
    ],
)
def one_of_listed_parts(site: CutSite, b: Body) -> str:
    """The tensor at the position, counted from the end where it is negative."""
    parts, position = site.rest("parts"), int(site.constant("position").item())
    if not -len(parts) <= position < len(parts):
        raise NoMatch(f"there is no entry {position} among {len(parts)}")
    return parts[position].name
