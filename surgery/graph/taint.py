"""Which tensors depend on the values of an input, and which only on its shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from surgery.graph.view import View

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SHAPE_ONLY = frozenset({"Shape", "Size"})
"""Operators whose result depends on the shape of their operand, never on its values."""


def tainted_by(view: View, sources: Iterable[str]) -> set[str]:
    """Names of tensors whose values can depend on the values (not only the shapes) of `sources`.

    Exact per output for Loop (an output of the loop is tainted only if the body makes it so); other nodes
    pass taint from any input to all outputs. Data-dependent shapes count as values.
    """
    tainted = set(sources)
    for key in sorted(range(len(view.nodes)), key=lambda k: view.order[k]):
        _visit(view.nodes[key], tainted)
    return tainted


def _visit(node: gs.Node, tainted: set[str]) -> None:
    if node.op in SHAPE_ONLY:
        return
    if node.op == "Loop":
        _visit_loop(node, tainted)
        return
    touched = any(t.name in tainted for t in node.inputs)
    if not touched:
        for sub in node.subgraphs(recursive=True):
            if any(t.name in tainted for child in sub.nodes for t in child.inputs):
                touched = True
    if touched:
        tainted.update(t.name for t in node.outputs if t.name)


def _visit_loop(node: gs.Node, tainted: set[str]) -> None:
    body = next(node.subgraphs())
    trip_tainted = any(t.name in tainted for t in list(node.inputs)[:2])
    carried = len(node.inputs) - 2
    local = set(tainted)
    for inner, outer in zip(list(body.inputs)[2:], list(node.inputs)[2:], strict=False):
        if outer.name in tainted:
            local.add(inner.name)
    while True:
        before = len(local)
        for child in body.nodes:
            _visit(child, local)
        for i in range(carried):
            if body.outputs[1 + i].name in local:
                local.add(body.inputs[2 + i].name)
        if len(local) == before:
            break
    # A condition that depends on values decides how often the body runs, hence every output.
    everything = trip_tainted or body.outputs[0].name in local
    for inner, outer in zip(list(body.outputs)[1:], node.outputs, strict=False):
        if everything or inner.name in local:
            tainted.add(outer.name)
