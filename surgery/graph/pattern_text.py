"""Patterns, and what does not match, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.pattern_parts import (
    Absent,
    Attr,
    Constant,
    Either,
    Maybe,
    Op,
    Out,
    Rest,
    Value,
    children,
    ops_of,
    walk,
)

if TYPE_CHECKING:
    from surgery.graph.pattern import Pattern


DEEP = 8
"""Levels of a pattern that its text goes into."""


def pattern_text(pattern: Pattern) -> str:
    """A pattern as text, one output per line; a node at a second place by the name it got at the first."""
    names: dict[int, str] = {}
    uses: dict[int, int] = {}
    for node in walk(pattern.roots):
        for child in children(node):
            uses[id(child)] = uses.get(id(child), 0) + 1
    return "\n".join(_words(root, names, uses, 0) for root in pattern.roots)


def _words(pattern: Any, names: dict[int, str], uses: Mapping[int, int], level: int) -> str:
    if isinstance(pattern, Value):
        return pattern.name
    if isinstance(pattern, Constant):
        if pattern.equals is None:
            return f"constant {pattern.name or ''}".strip()
        return said(np.asarray(pattern.equals)) if np.size(pattern.equals) > 1 else f"{pattern.equals:g}"
    if isinstance(pattern, Absent):
        return "(none)"
    if isinstance(pattern, Rest):
        return f"{pattern.name}..."
    if isinstance(pattern, Maybe):
        return f"[{_words(pattern.pattern, names, uses, level)}]"
    if isinstance(pattern, Out):
        return f"{_words(pattern.node, names, uses, level)}.{pattern.index}"
    if isinstance(pattern, Either):
        return f"({' | '.join(_words(p, names, uses, level) for p in pattern.choices)})"
    return _node_words(pattern, names, uses, level)


def _node_words(pattern: Op, names: dict[int, str], uses: Mapping[int, int], level: int) -> str:
    if id(pattern) in names:
        return names[id(pattern)]
    mark = ""
    if uses.get(id(pattern), 0) > 1:
        names[id(pattern)] = f"n{len(names) + 1}"
        mark = f"{names[id(pattern)]} = "
    kind = "|".join(sorted(pattern.kinds))
    if pattern.domain:
        kind = f"{pattern.domain}.{kind}"
    attributes = ", ".join(f"{k} = {_attribute_words(v)}" for k, v in pattern.attrs.items())
    if level >= DEEP:
        return f"{mark}{kind} (...)"
    inputs = ", ".join(_words(p, names, uses, level + 1) for p in pattern.inputs)
    return f"{mark}{kind}{f' <{attributes}>' if attributes else ''} ({inputs})"


def _attribute_words(value: Any) -> str:
    if isinstance(value, Attr):
        return f"@{value.name}"
    return "..." if callable(value) else str(value)


def said(value: Any) -> str:
    """An argument of a failure's text."""
    if isinstance(value, Out):
        value = value.node
    if isinstance(value, Either):
        return " or ".join(dict.fromkeys(said(p) for p in ops_of(value)))
    if isinstance(value, Op):
        return " or ".join(sorted(value.kinds))
    if isinstance(value, gs.Node):
        return f"{value.op} {value.name!r}" if value.name else str(value.op)
    if isinstance(value, gs.Tensor):
        return repr(value.name)
    if isinstance(value, np.ndarray):
        return str(value.tolist()) if value.size <= 8 else f"an array {list(value.shape)}"
    return str(value)
