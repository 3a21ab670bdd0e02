"""Replacing nodes of one operator in place, each by the nodes that another function writes for it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class NotThis(Exception):  # noqa: N818 - an answer
    """A node is not what it was looked at for."""


def need(holds: Any) -> None:
    """Go on only if something holds.

    Raises:
        NotThis: it does not.
    """
    if not holds:
        raise NotThis


def made_by(tensor: Any, *ops: str, past: Collection[str] = ()) -> gs.Node:
    """The node of one of these operators of the default domain that makes a tensor.

    Args:
        tensor: The tensor.
        ops: The operators.
        past: Other operators that may stand in between; their first operand is looked at instead.

    Raises:
        NotThis: another node makes it, or none.
    """
    node = _producer(tensor)
    while node is not None and node.op in past and node.op not in ops:
        node = _producer(node.inputs[0])
    if node is None or node.op not in ops or node.domain not in (None, "", "ai.onnx"):
        raise NotThis
    return node


def _producer(tensor: Any) -> Any:
    return tensor.inputs[0] if getattr(tensor, "inputs", None) else None


def replace_nodes(
    graph: gs.Graph,
    op: str,
    write: Callable[[gs.Graph, gs.Node], list[Any]],
    rule: str,
    provenance: dict[str, dict[str, str]],
) -> list[tuple[str, list[str]]]:
    """Put other nodes in the place of those of one operator, in place.

    Args:
        graph: The graph, in topological order.
        op: The operator.
        write: What stands in the place of a node, in topological order; raises :class:`NotThis` if the node stays.
        rule: What new nodes are stamped with.
        provenance: First output of each new node to the metadata stamped on it.

    Returns:
        Name of each node that was replaced, and the names of the nodes in its place.
    """
    done = []
    nodes: list[Any] = []
    for node in graph.nodes:
        try:
            need(node.op == op)
            made = write(graph, node)
        except NotThis:
            nodes.append(node)
            continue
        for one in made:
            provenance[one.outputs[0].name] = {"surgery.rule": rule}
        nodes += made
        done.append((node.name, [n.name for n in made]))
    if done:
        graph.nodes.clear()
        graph.nodes.extend(nodes)
    return done
