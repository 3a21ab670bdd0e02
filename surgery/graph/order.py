"""Nodes in the order that ONNX asks for: each behind what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators with graphs of their own."""


def put_in_order(graph: onnx.GraphProto) -> bool:
    """Sort the nodes of a graph and of its bodies, where they are not in order and can be.

    Converters (to float16, for example) append nodes at the end; ONNX Runtime and TensorRT take such models. The
    order of nodes that do not depend on each other stays. A graph with a cycle stays as it is.

    Args:
        graph: Changed in place.

    Returns:
        Whether anything was moved.
    """
    moved, sorted_already = False, True
    read: set[str] = set()
    for node in graph.node:
        if node.op_type in BODIES:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    moved |= put_in_order(attribute.g)
            read.update(_reads(node))
        else:
            read.update(node.input)
        sorted_already = sorted_already and (read.isdisjoint(node.output) or set(node.output) & read == {""})
    if sorted_already:
        return moved
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [sorted({makers[n] for n in _reads(node) if n in makers}) for node in graph.node]
    order = _sorted(needs)
    if order is None:
        return moved
    nodes = list(graph.node)
    copies = [type(nodes[i])() for i in order]
    for copy, i in zip(copies, order, strict=True):
        copy.CopyFrom(nodes[i])
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, in its bodies too."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from _reads(inner)
            yield from (v.name for v in attribute.g.output)


def _sorted(needs: list[list[int]]) -> list[int] | None:
    """Indices, each behind what it needs, as early as its own place and its needs allow; None if there is a cycle."""
    done: set[int] = set()
    open_ones: set[int] = set()
    order: list[int] = []
    for start in range(len(needs)):
        stack = [start]
        while stack:
            here = stack[-1]
            if here in done:
                stack.pop()
                continue
            open_ones.add(here)
            missing = [n for n in needs[here] if n not in done]
            if any(n in open_ones for n in missing):
                return None
            if missing:
                stack += reversed(missing)
            else:
                stack.pop()
                open_ones.discard(here)
                done.add(here)
                order.append(here)
    return order
