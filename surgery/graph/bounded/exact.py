"""Free sizes of tensors that nothing is padded of, by the sizes that they are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.bounded.dims import ONE, Dim
from surgery.graph.bounded.entries import first_alone
from surgery.graph.bounded.survey import survey

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

DEEPEST = 16
"""Nodes in a row through which a size is traced back."""


def exact_dims(bounds: Bounds, tensor: Any) -> dict[int, Dim]:
    """Axes of a tensor whose size is computed from others, and that size; those that are not known are left out.

    Args:
        bounds: What is known.
        tensor: A tensor that is not padded.
    """
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.domain not in (None, "", "ai.onnx"):
        return {}
    found: dict[int, Dim] | None = None
    if node.op == "ConstantOfShape":
        shape = bounds.elements(node.inputs[0])
        found = None if shape is None else dict(enumerate(shape.reshape(-1)))
    elif node.op == "Range":
        found = _counted(bounds, node)
    elif node.op == "Slice" and len(node.inputs) > 2:
        found = dict.fromkeys(first_alone(bounds, node), ONE)
    elif node.op == "Unsqueeze" or node.op in PER_ENTRY:
        found = _traced(bounds, node, tensor)
    if (
        bounds.depth < DEEPEST
        and tensor.shape is not None
        and (node.op == "Split" or tensor is node.outputs[0])
    ):
        bounds.depth += 1
        try:
            found = {**survey(bounds, node, len(tensor.shape)), **(found or {})}
        finally:
            bounds.depth -= 1
    return {a: d for a, d in (found or {}).items() if d.exact}


def _counted(bounds: Bounds, node: gs.Node) -> dict[int, Dim] | None:
    """A Range from 0 in steps of 1."""
    limit = bounds.elements(node.inputs[1])
    start, step = bounds.number(node.inputs[0]), bounds.number(node.inputs[2])
    if limit is None or start is None or step is None:
        return None
    regular = start.reshape(-1)[0] == 0 and step.reshape(-1)[0] == 1
    return {0: limit.reshape(-1)[0]} if regular else None


def _traced(bounds: Bounds, node: gs.Node, tensor: Any) -> dict[int, Dim] | None:
    """Sizes of operands in the same place."""
    from surgery.graph.bounded.work import No

    if bounds.depth >= DEEPEST:
        return None
    bounds.depth += 1
    try:
        shapes = [bounds.dims(t) for t in node.inputs[: 1 if node.op == "Unsqueeze" else None] if t.name]
    except No:
        return None
    finally:
        bounds.depth -= 1
    rank = len(tensor.shape)
    if node.op == "Unsqueeze":
        axes: Any = node.attrs.get("axes")
        if axes is None:
            axes = bounds.number(node.inputs[1])
        if axes is None:
            return None
        new = {int(a) % rank for a in axes}
        return dict(zip([a for a in range(rank) if a not in new], shapes[0], strict=True))
    found = {}
    for axis in range(rank):
        wide = {d[axis - rank] for d in shapes if len(d) >= rank - axis} - {ONE}
        if len(wide) == 1:
            found[axis] = wide.pop()
    return found
