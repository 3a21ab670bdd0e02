"""Writing nodes, and taking them out of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body_types import BOOL, element_type
from surgery.graph.convert import constant
from surgery.graph.view import body_nodes, graph_and_bodies

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def detach(nodes: Iterable[gs.Node]) -> None:
    """Take nodes, and those in their bodies, out of the lists of the tensors they touch."""
    gone: dict[int, Any] = {}
    touched: dict[int, Any] = {}
    for node in nodes:
        for one in (node, *body_nodes(node)):
            gone[id(one)] = one
            touched.update({id(t): t for t in (*one.inputs, *one.outputs)})
    # By identity and in bulk: graphsurgeon's lists compare nodes by content, one at a time.
    for tensor in touched.values():
        for users in (tensor.outputs, tensor.inputs):
            list.__setitem__(users, slice(None), [u for u in users if id(u) not in gone])


def put_constant(name: str, value: Any, dtype: Any = np.int64) -> gs.Constant:
    """A constant tensor."""
    return constant(name, np.asarray(value, dtype))


def make_node(
    op: str,
    name: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    attributes: Mapping[str, Any] | None = None,
) -> gs.Node:
    """A node that makes these tensors, whatever made them before."""
    import onnx_graphsurgeon as gs

    for tensor in outputs:
        list.clear(tensor.inputs)
    return gs.Node(op, name, dict(attributes or {}), list(inputs), list(outputs))


def squeeze_like(op: str, graph: gs.Graph, name: str, tensor: Any, axis: int, output: Any) -> gs.Node:
    """Squeeze or Unsqueeze of one axis, as the graph's opset writes it."""
    if int(graph.opset) >= 13:
        axes = put_constant(f"{name}/axes", [axis])
        return make_node(op, name, [tensor, axes], [output])
    return make_node(op, name, [tensor], [output], {"axes": [axis]})


def choose(
    fresh: Callable[[str], str], condition: Any, left: Any, right: Any, output: Any, name: str
) -> list[gs.Node]:
    """`left` where the condition holds, else `right`; ONNX Runtime has no Where of booleans."""
    import onnx_graphsurgeon as gs

    if output.dtype is None or element_type(output.dtype) != BOOL:
        return [make_node("Where", name, [condition, left, right], [output])]
    no, one, other = (
        gs.Variable(fresh(f"{name}/{part}"), np.dtype(np.bool_)) for part in ("not", "then", "else")
    )
    return [
        make_node("Not", no.name, [condition], [no]),
        make_node("And", one.name, [condition, left], [one]),
        make_node("And", other.name, [no, right], [other]),
        make_node("Or", name, [one, other], [output]),
    ]


def needed(nodes: Sequence[gs.Node], wanted: Iterable[Any]) -> list[gs.Node]:
    """The nodes that tensors depend on, in the order given; the others are detached."""
    asked = {id(t) for t in wanted}
    found: list[gs.Node] = []
    for node in reversed(nodes):
        if any(id(t) in asked for t in node.outputs):
            asked.update(id(t) for t in node.inputs)
            found.append(node)
    kept = {id(n) for n in found}
    detach(n for n in nodes if id(n) not in kept)
    return found[::-1]


def forget_optionals(graph: gs.Graph) -> None:
    """Drop declarations of inner values that graphsurgeon cannot write: those of optional types."""
    for one in graph_and_bodies(graph):
        boundary = () if one is graph else (*one.inputs, *one.outputs)
        for tensor in (*boundary, *(t for n in one.nodes for t in (*n.inputs, *n.outputs))):
            if getattr(tensor, "type", "") == "optional_type":
                tensor.dtype = tensor.shape = None
