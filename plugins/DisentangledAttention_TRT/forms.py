"""How exporters write DeBERTa's scores: two GatherElements by numbers that only sizes decide."""

from __future__ import annotations

from surgery.errors import ConfigError
from surgery.graph.body import Body
from surgery.plugins.recognise_forms import Form, Lying, Skeleton
from surgery.plugins.successor import call


def skeleton(s: Skeleton, from_zero: bool) -> None:
    """Each of the three scores is divided by the root of a size, the first one before it is multiplied."""
    query, key = s.input("query"), s.input("key")
    content = s.op("MatMul", query, s.op("Div", key, s.number("scale")))
    first = s.op("Div", s.op("GatherElements", s.input("to_position"), s.number()), s.number("first"))
    if from_zero:
        first = s.op("Add", first, s.number())
    turned = s.op("Transpose", s.op("GatherElements", s.input("to_content"), s.number()))
    s.result(s.op("Add", content, s.op("Add", first, s.op("Div", turned, s.number("second")))))


def plugin(b: Body, found: Lying) -> str:
    """The plugin's node, with one factor for the sum."""
    scale = found.number("scale")
    if not scale == found.number("first") == found.number("second"):
        raise ConfigError("the three scores have factors of their own, the plugin has one", code="form")
    if scale < 1:
        raise ConfigError(f"the factor is {1 / scale:g}; the plugin takes at most 1", code="form")
    (y,) = call(
        b,
        found.definition.name,
        [b.op("MatMul", "query", "key"), "to_position", "to_content"],
        version=found.definition.version,
        span=found.size("to_position", 2) // 2,
        factor=1 / scale,
    )
    return y


FORMS = (
    Form(
        "gather-elements",
        "DeBERTa v2 and v3 of Hugging Face",
        (True, False),
        skeleton,
        plugin,
        {n: ({"low": -1.0},) for n in ("query", "key", "to_position", "to_content")},
    ),
)
