"""What is left to tidy when a graph has changed: who reads what, dead nodes, outputs that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from surgery.graph.view import View

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def replace_uses(view: View, name: str, new: Any) -> None:
    """Let every consumer of tensor `name`, bodies of subgraphs included, read `new` instead."""

    def swap(node: gs.Node) -> None:
        for i, tensor in enumerate(node.inputs):
            if tensor.name == name and tensor is not new:
                node.inputs[i] = new
        for sub in node.subgraphs():
            for child in sub.nodes:
                swap(child)
            for i, tensor in enumerate(sub.outputs):
                if tensor.name == name:
                    sub.outputs[i] = new

    for key in view.consumers.get(name, ()):
        swap(view.nodes[key])


def drop_dead(graph: gs.Graph) -> int:
    """Remove nodes that no graph output depends on, and give the rest a stable topological order.

    Inputs of the graph are kept even if nothing reads them: they are the user's contract.

    Returns:
        How many nodes were removed.
    """
    view = View(graph)
    used = {*view.consumers, *view.outputs}
    if view.is_sorted and all(any(t.name in used for t in node.outputs) for node in view.nodes):
        return 0
    keep = view.ancestors(view.producer[n] for n in view.outputs if n in view.producer)
    dead = [view.nodes[k] for k in range(len(view.nodes)) if k not in keep]
    ordered: Iterable[int] = sorted(keep, key=lambda k: view.order[k])
    graph.nodes.clear()
    graph.nodes.extend(view.nodes[k] for k in ordered)
    gone = {id(node) for node in dead}
    touched = {id(t): t for node in dead for t in node.inputs}
    for tensor in touched.values():
        # Detach by identity and in bulk: graphsurgeon's own lists compare nodes by content, one at a time.
        list.__setitem__(tensor.outputs, slice(None), [u for u in tensor.outputs if id(u) not in gone])
    return len(dead)


def drop_unused_outputs(graph: gs.Graph) -> int:
    """Leave out trailing outputs that nothing reads, where the operator's schema makes them optional, in place.

    Parsers refuse a second output that is named, whether it is read or not. BatchNormalization before opset 14 is
    left alone: there, more than one output means that it is in training.

    Returns:
        How many outputs were left out.
    """
    import onnx

    several = [n for n in graph.nodes if len(n.outputs) > 1 and n.domain in (None, "", "ai.onnx")]
    if not several:
        return 0
    view = View(graph)
    used = {*view.consumers, *view.outputs}
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    opset, count = int(graph.opset), 0
    for node in several:
        if node.outputs[-1].name in used or (node.op == "BatchNormalization" and opset < 14):
            continue
        try:
            formal = onnx.defs.get_schema(node.op, opset).outputs
        except onnx.defs.SchemaError:
            continue
        while node.outputs and node.outputs[-1].name not in used:
            place = len(node.outputs) - 1
            if formal[min(place, len(formal) - 1)].option != optional:
                break
            del node.outputs[place]
            count += 1
    return count
