"""Small attentions in float16, computed in float32 from product to product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.infer import is_static

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MOST_SCORES = 2**15
"""Scores up to which an attention is widened: so few that time is not lost."""

BETWEEN = frozenset({"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Sub", "Tanh", "Where"})
"""Operators that exporters write between product, softmax and product."""

STEPS = 8

FLOAT16 = 10
"""ONNX's number of the element type."""


@dataclass(frozen=True)
class Widened:
    """One attention: its nodes, and those that were added around it."""

    nodes: tuple[str, ...]
    made: tuple[str, ...]


def widen_attention(graph: gs.Graph, *, prefix: str = "surgery/widened") -> list[Widened]:
    """Compute small attentions of float16 in float32, in place.

    TensorRT fuses the products and the softmax into a kernel that keeps other roundings than the operators: in
    float16 its results are up to two units in the last place off (measured on an H200). In float32 one rounding is
    left, the last. Larger attentions stay: there the fused kernel is worth its rounding.

    Args:
        graph: The graph, with types inferred.
        prefix: In front of the names of new nodes.
    """
    outputs = {t.name for t in graph.outputs}
    found: list[Widened] = []
    if not any(n.op == "Softmax" and _half(n.outputs[0]) for n in graph.nodes):
        return found
    for node in graph.nodes:
        if node.op == "CastLike" and _half(node.inputs[1]):  # only the dtype of the second operand is used
            node.op = "Cast"
            node.attrs["to"] = FLOAT16
            del node.inputs[1]
    for node in list(graph.nodes):
        region = _region(node, outputs)
        if region is not None:
            found.append(_widen(graph, region, f"{prefix}/{len(found)}"))
    return found


def _half(tensor: Any) -> bool:
    return (
        not isinstance(tensor.dtype, int)
        and tensor.dtype is not None
        and np.dtype(tensor.dtype) == np.float16
    )


def _region(product: gs.Node, outputs: set[str]) -> list[gs.Node] | None:
    """The nodes from the first product to the second, the last one first; None if it is no small attention."""
    if product.op != "MatMul" or not _half(product.outputs[0]):
        return None
    shares = product.inputs[0]
    if not is_static(shares.shape) or int(np.prod(shares.shape, dtype=np.int64)) > MOST_SCORES:
        return None
    back = _path(shares, "Softmax")
    if back is None:
        return None
    scores = _path(back[-1].inputs[0], "MatMul")
    if scores is None:
        return None
    region = [product, *back, *scores]
    for tensor in scores[-1].inputs:
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and maker.op in ("Mul", "Div") and _half(tensor):
            region.append(maker)  # the scale of queries or keys
    inside = {id(n) for n in region}
    for node in region[1:]:
        for tensor in node.outputs:
            if tensor.name in outputs or any(id(u) not in inside for u in tensor.outputs):
                return None
    return region if len(inside) == len(region) else None


def _path(tensor: Any, op: str) -> list[gs.Node] | None:
    """The nodes from what makes a tensor back to an operator."""
    nodes: list[Any] = []
    for _ in range(STEPS):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or not _half(node.outputs[0]) or len([t for t in node.outputs if t.name]) != 1:
            return None
        nodes.append(node)
        if node.op == op:
            return nodes
        if node.op not in BETWEEN:
            return None
        behind = [t for t in node.inputs if t.inputs and _half(t) and _leads(t, op)]
        if len(behind) != 1:
            return None
        tensor = behind[0]
    return None


def _leads(tensor: Any, op: str) -> bool:
    """Whether an operator is behind a tensor."""
    stack = [(tensor, 0)]
    while stack:
        here, depth = stack.pop()
        node = here.inputs[0] if here.inputs else None
        if node is None or depth > STEPS:
            continue
        if node.op == op:
            return True
        if node.op in BETWEEN:
            stack += [(t, depth + 1) for t in node.inputs if _half(t)]
    return False


def _widen(graph: gs.Graph, region: list[gs.Node], prefix: str) -> Widened:
    import onnx
    import onnx_graphsurgeon as gs

    wide = np.dtype(np.float32)
    inside = {id(t) for n in region for t in n.outputs}
    casts: dict[int, Any] = {}
    before: list[Any] = []
    for node in region:
        if node.op == "Cast":
            node.attrs["to"] = onnx.TensorProto.FLOAT
        for i, tensor in enumerate(node.inputs):
            if not tensor.name or not _half(tensor) or id(tensor) in inside:
                continue
            if id(tensor) not in casts:
                name = f"{prefix}/cast_{len(casts)}"
                if isinstance(tensor, gs.Constant) and not is_external(tensor):
                    casts[id(tensor)] = constant(
                        f"{prefix}/{tensor.name}", value_of(tensor).astype(np.float32)
                    )
                else:
                    casts[id(tensor)] = gs.Variable(name, wide, tensor.shape)
                    to = {"to": onnx.TensorProto.FLOAT}
                    before.append(gs.Node("Cast", name, to, [tensor], [casts[id(tensor)]]))
            node.inputs[i] = casts[id(tensor)]
    for node in region[1:]:
        node.outputs[0].dtype = wide
    product = region[0]
    output = product.outputs[0]
    result = gs.Variable(f"{prefix}/product", wide, output.shape)
    product.outputs[0] = result
    after = gs.Node("Cast", f"{prefix}/back", {"to": FLOAT16}, [result], [output])
    nodes = list(graph.nodes)
    first = min(i for i, n in enumerate(nodes) if any(n is r for r in region))
    ready = {id(t) for n in nodes[:first] for t in n.outputs} | {id(t) for t in graph.inputs}
    early = [n for n in before if id(n.inputs[0]) in ready]
    late = {id(n) for n in before} - {id(n) for n in early}
    ordered: list[Any] = [*nodes[:first], *early]
    waiting = [n for n in before if id(n) in late]
    for node in nodes[first:]:
        ordered.append(node)
        made = {id(t) for t in node.outputs}
        ordered += [n for n in waiting if id(n.inputs[0]) in made]
        if node is product:
            ordered.append(after)
    graph.nodes.clear()
    graph.nodes.extend(ordered)
    return Widened(tuple(n.name for n in region[::-1]), tuple(n.name for n in (*before, after)))
