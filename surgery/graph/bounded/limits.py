"""The largest that numbers of a graph can be, whatever the sizes of its inputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.bounded.dims import Dim

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

SAME = frozenset(
    {
        "Cast",
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Flatten",
        "Gather",
        "Slice",
        "ReduceMax",
        "Transpose",
    }
)
"""Operators whose results are numbers of the first operand."""

MOST_STEPS = 32
"""Nodes in a row that are looked at."""


def sorts_more(graph: gs.Graph, limit: int) -> list[gs.Node]:
    """TopK nodes of a graph that may take more entries than so many: as many as a free axis has.

    Args:
        graph: The graph.
        limit: The number of entries.
    """
    from surgery.graph.bounded.work import Bounds

    nodes = [n for n in graph.nodes if n.op == "TopK" and n.domain in (None, "", "ai.onnx")]
    bounds = Bounds({})
    found = []
    for node in nodes:
        if len(node.inputs) < 2 or bounds.number(node.inputs[1]) is not None:
            continue
        shape, axis = node.inputs[0].shape, int(node.attrs.get("axis", -1))
        if shape is not None and isinstance(shape[axis], int) and shape[axis] <= limit:
            continue
        most = at_most(bounds, node.inputs[1])
        if most is None or most > limit:
            found.append(node)
    return found


def at_most(bounds: Bounds, tensor: Any, steps: int = MOST_STEPS) -> int | None:
    """What no number of a tensor exceeds; None if that depends on the sizes of the inputs, or is not known."""
    value = bounds.number(tensor)
    if value is not None:
        return int(value.max()) if value.size else None
    sizes = bounds.elements(tensor)
    if sizes is not None and sizes.size:
        return _most([_size_at_most(bounds, d) for d in sizes.reshape(-1)])
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or not steps or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op == "Where" and not _is_minimum(node):
        return _most([at_most(bounds, t, steps - 1) for t in node.inputs[1:]])
    operands = node.inputs[1:] if node.op == "Where" else node.inputs
    if node.op == "ReduceMin" and node.inputs[0].inputs and node.inputs[0].inputs[0].op == "Concat":
        operands = node.inputs[0].inputs[0].inputs
    if node.op in ("Min", "Where", "ReduceMin"):
        return _least([at_most(bounds, t, steps - 1) for t in operands])
    if node.op in ("Max", "Concat"):
        return _most([at_most(bounds, t, steps - 1) for t in operands])
    return at_most(bounds, node.inputs[0], steps - 1) if node.op in SAME else None


def _size_at_most(bounds: Bounds, dim: Dim) -> int | None:
    room = bounds.room(dim)
    if room.number is not None or room.factor != 1 or len(room.atoms) != 1:
        return room.number
    op, a, b = bounds.computed.get(room.atoms[0], ("", room, room))
    if op not in ("Min", "Max"):
        return None
    return (_least if op == "Min" else _most)([_size_at_most(bounds, a), _size_at_most(bounds, b)])


def _is_minimum(node: gs.Node) -> bool:
    """Whether a Where takes the smaller one of two."""
    test = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if test is None or test.op not in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        return False
    one, other = test.inputs if test.op.startswith("Less") else test.inputs[::-1]
    return one is node.inputs[1] and other is node.inputs[2]


def _most(known: list[int | None]) -> int | None:
    found = [k for k in known if k is not None]
    return max(found) if found and len(found) == len(known) else None


def _least(known: list[int | None]) -> int | None:
    return min((k for k in known if k is not None), default=None)
