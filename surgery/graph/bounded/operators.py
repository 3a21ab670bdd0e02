"""What each operator becomes behind a padded operand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.bounded import entrywise, joining, layout, picking, reducing, resizing  # noqa: F401 - they register their functions
from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.bounded.entrywise import per_entry
from surgery.graph.bounded.handlers import HANDLERS, given, lowest, on
from surgery.graph.bounded.sizes import SIZE_OPS, compute_sizes
from surgery.graph.bounded.work import No, sized, total

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


def handle(bounds: Bounds, node: gs.Node) -> bool:
    """Change a node that reads padded tensors or sizes.

    Returns:
        Whether something has been written in its place; if not, the node is to be written as it now is.

    Raises:
        No: it cannot work on what it reads.
    """
    if node.domain not in (None, "", "ai.onnx"):
        if any(t.name in bounds.padded for t in node.inputs):
            raise No(f"{node.domain}.{node.op} is not known to")
        return False
    found = compute_sizes(bounds, node) if node.op in SIZE_OPS else None
    if found is not None:
        bounds.sizes[node.outputs[0].name] = found
        return False
    handler = HANDLERS.get(node.op)
    if handler is not None:
        return handler(bounds, node)
    if not any(t.name in bounds.padded for t in node.inputs):
        return False  # true sizes as numbers like any other
    if node.op in PER_ENTRY:
        return per_entry(bounds, node)
    raise No(f"{node.op} cannot work on a padded tensor")


def prepare(bounds: Bounds, node: gs.Node) -> bool:
    """Mask the operands of a node whose own output size depends on data."""
    if node.op == "NonZero":
        node.inputs[0] = bounds.masked(node.inputs[0], 0)
    elif node.op == "Compress":
        data = node.inputs[0]
        along = int(node.attrs.get("axis", 0)) % max(1, len(bounds.dims(data)))
        if set(bounds.padded.get(data.name, {})) - {along} or (
            "axis" not in node.attrs and len(data.shape) > 1
        ):
            raise No("a Compress of a tensor that is padded along another axis")
        node.inputs[0] = bounds.masked(data, 0)
        node.inputs[1] = bounds.masked(node.inputs[1], 0)
    elif node.op == "NonMaxSuppression":
        _prepare_nms(bounds, node)
    elif any(t.name in bounds.padded for t in node.inputs):
        raise No(f"{node.op} cannot work on a padded tensor")
    return False


@on("Shape", "Size")
def _shape(bounds: Bounds, node: gs.Node) -> bool:
    """True sizes."""
    dims = bounds.dims(node.inputs[0])
    if node.op == "Size":
        found = sized([total(dims)])
        output = bounds.instead(node, "Identity", bounds.scalar(found[0]))
        bounds.sizes[output.name] = found.reshape(())
        return True
    part = dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
    output = bounds.instead(node, "Identity", bounds.value(part))
    bounds.sizes[output.name] = sized(part)
    return True


@on("If", "Loop", "Scan")
def _body(bounds: Bounds, node: gs.Node) -> bool:
    if any(t.name in bounds.padded for t in node.inputs):
        raise No(f"{node.op} cannot work on a padded tensor")
    return False


def _prepare_nms(bounds: Bounds, node: gs.Node) -> bool:
    """Boxes that are padding get a score that is below every threshold."""
    boxes, scores = node.inputs[:2]
    own = bounds.padded.get(scores.name, {})
    if set(own) - {2} or set(bounds.padded.get(boxes.name, {})) - {1}:
        raise No("a NonMaxSuppression of padded images or classes")
    if bounds.dims(boxes)[1] != bounds.dims(scores)[2]:
        raise No("a NonMaxSuppression of different numbers of boxes and scores")
    if own:
        node.inputs[0] = bounds.masked(boxes, 0)
        node.inputs[1] = bounds.masked(scores, lowest(scores))
        import onnx_graphsurgeon as gs

        while len(node.inputs) < 5:
            node.inputs.append(gs.Variable.empty())
        if not node.inputs[4].name:
            node.inputs[4] = bounds.const(np.asarray([lowest(scores)], np.float32))
    if given(node, 2) and bounds.number(node.inputs[2]) is None:
        most = bounds.elements(node.inputs[2])
        limit = None if most is None else bounds.room(most.reshape(-1)[0]).number
        if limit is not None:
            node.inputs[2] = bounds.const(np.asarray([limit], np.int64))
    return False
