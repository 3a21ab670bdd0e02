"""Nodes that compute the same become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import is_external, value_of
from surgery.graph.fold import RANDOM
from surgery.graph.tidy import drop_dead, replace_uses
from surgery.graph.view import View

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SMALL = 256
"""Elements up to which constants are compared by value; larger ones are the same only if they are one tensor."""


def merge_equal(graph: gs.Graph) -> int:
    """Let one node stand for all that have the same operator, attributes and operands, in place.

    Nodes with bodies, random ones and those that make a graph output stay.

    Returns:
        How many nodes were dropped.
    """
    import onnx_graphsurgeon as gs

    view = View(graph)
    first: dict[Any, Any] = {}
    same: dict[str, str] = {}
    for key in sorted(range(len(view.nodes)), key=lambda k: view.order[k]):
        node = view.nodes[key]
        if node.op in RANDOM or any(True for _ in node.subgraphs()):
            continue
        operands = tuple(_key(t, same) for t in node.inputs)
        attributes = tuple(sorted((k, plain(v)) for k, v in node.attrs.items()))
        place = (node.domain or "", node.op, attributes, operands, tuple(bool(t.name) for t in node.outputs))
        known = first.setdefault(place, node)
        if known is node or any(t.name in view.outputs for t in node.outputs):
            continue
        for old, new in zip(node.outputs, known.outputs, strict=True):
            if old.name and isinstance(new, gs.Variable):
                same[old.name] = new.name
                replace_uses(view, old.name, new)
    return drop_dead(graph) if same else 0


def _key(tensor: Any, same: dict[str, str]) -> Any:
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant) and not is_external(tensor) and int(np.prod(tensor.shape)) <= SMALL:
        value = value_of(tensor)
        return (value.dtype.str, value.shape, value.tobytes())
    return same.get(tensor.name, tensor.name)


def plain(value: Any) -> Any:
    """An attribute's value in a form that can be compared and hashed."""
    import onnx_graphsurgeon as gs

    if isinstance(value, gs.Constant):
        return _key(value, {})
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return repr(value)
