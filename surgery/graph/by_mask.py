"""Assignments to what a mask chooses, without the positions: ``data[mask] = value`` is a choice for each entry.

Exporters write such an assignment with NonZero, whose size depends on the mask, and a ScatterND. What is written can
be one value for all, or be read from the same places of another tensor, with arithmetic on each entry in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.convert import is_external, value_of
from surgery.graph.nodes import detach, make_node, put_constant
from surgery.graph.replace import NotThis, made_by, need, replace_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

RULE = "assignment-by-mask"
"""What its nodes are stamped with."""

SPREADING = frozenset(
    {"Reshape", "Expand", "Identity", "Slice", "Unsqueeze", "Squeeze", "Flatten", "Tile", "Transpose"}
)
"""Operators that make nothing but copies of the entries of their first operand."""

MOST_STEPS = 64
"""Nodes that are followed back from what is written."""


def assign_by_mask(graph: gs.Graph, provenance: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Put a choice for each entry in the place of assignments to what a mask chooses, in place.

    Args:
        graph: The graph, in topological order, with types inferred.
        provenance: First output of each new node to the metadata stamped on it.

    Returns:
        Name of each ScatterND that was replaced, and the names of the nodes in its place.
    """
    return replace_nodes(graph, "ScatterND", _assigned, RULE, provenance)


def _assigned(graph: gs.Graph, node: gs.Node) -> list[Any]:
    data, indices, updates = node.inputs[:3]
    need(node.domain in (None, "", "ai.onnx") and node.attrs.get("reduction", "none") == "none")
    mask = _mask(indices)
    need(data.shape is not None and data.dtype is not None and mask.shape is not None)
    _check(mask, data)
    writer = _Writer(graph, node, mask, indices)
    value = writer.value(updates)
    need(value.dtype is not None and np.dtype(value.dtype) == np.dtype(data.dtype))
    return writer.choice(data, value)


def _made_by(tensor: Any, *ops: str) -> gs.Node:
    return made_by(tensor, *ops, past=("Identity",))


def _mask(indices: Any) -> Any:
    """The mask whose true entries are the rows of a tensor of indices."""
    turned = _made_by(indices, "Transpose")
    if list(turned.attrs.get("perm") or [1, 0]) != [1, 0]:
        raise NotThis
    return _made_by(turned.inputs[0], "NonZero").inputs[0]


def _check(mask: Any, data: Any) -> None:
    """The mask has the sizes of the first axes of the data.

    Raises:
        NotThis: that is not known.
    """
    rank = len(mask.shape)
    if not 0 < rank <= len(data.shape):
        raise NotThis
    if not all(_equal(a, b) for a, b in zip(mask.shape, data.shape, strict=False)):
        # Expanded to the shape of a tensor, it has that shape, or the indices would be outside of it.
        wide = _made_by(_made_by(mask, "Expand").inputs[1], "Shape")
        like = wide.inputs[0]
        same = like.name == data.name or (
            like.shape is not None
            and len(like.shape) == len(data.shape)
            and all(_equal(a, b) for a, b in zip(like.shape, data.shape, strict=True))
        )
        part = wide.attrs.get("start", 0) or "end" in wide.attrs
        if part or not same or rank != len(data.shape):
            raise NotThis


def _equal(a: Any, b: Any) -> bool:
    return a is not None and a == b


class _Writer:
    """Writes the choice.

    Args:
        graph: The graph.
        node: The ScatterND.
        mask: The mask.
        indices: Where it is true.
    """

    def __init__(self, graph: gs.Graph, node: gs.Node, mask: Any, indices: Any) -> None:
        self.graph, self.node, self.mask, self.indices = graph, node, mask, indices
        self.made: list[Any] = []
        self.steps = 0
        self.rank = len(node.inputs[0].shape)
        self.known: dict[str, Any] = {}

    def value(self, tensor: Any) -> Any:
        """What is written, in the place where it goes: of the data's sizes, or of one element.

        Raises:
            NotThis: it is neither one value for all nor read from the same places.
        """
        if tensor.name not in self.known:
            single = _single(tensor)
            if single is not None and len(single.shape) > self.rank:
                raise NotThis
            self.known[tensor.name] = single if single is not None else self._computed(tensor)
        return self.known[tensor.name]

    def _computed(self, tensor: Any) -> Any:
        self.steps += 1
        node = _made_by(tensor, "GatherND", "Reshape", *PER_ENTRY)
        if self.steps > MOST_STEPS or len([t for t in node.outputs if t.name]) != 1:
            raise NotThis
        if node.op == "GatherND":
            source, data = node.inputs[0], self.node.inputs[0]
            if node.attrs.get("batch_dims", 0) or _mask(node.inputs[1]).name != self.mask.name:
                raise NotThis
            if source.shape is None or len(source.shape) != self.rank:
                raise NotThis
            if not all(_equal(a, b) for a, b in zip(source.shape, data.shape, strict=True)):
                raise NotThis
            return source
        if node.op == "Reshape":  # of a vector to a vector
            to = node.inputs[1]
            vector = len(self.mask.shape) == self.rank and tuple(to.shape or ()) == (1,)
            if not vector:
                raise NotThis
            return self.value(node.inputs[0])
        operands = [self.value(t) if t.name else t for t in node.inputs]
        return self.emit(node.op, operands, tensor.dtype, dict(node.attrs))

    def emit(self, op: str, operands: list[Any], dtype: Any, attributes: dict[str, Any] | None = None) -> Any:
        """Write a node; its output."""
        import onnx_graphsurgeon as gs

        if dtype is None:
            raise NotThis
        name = f"{self.node.outputs[0].name}/by_mask_{len(self.made)}"
        out = gs.Variable(name, np.dtype(dtype))
        self.made.append((op, name, operands, [out], attributes or {}))
        return out

    def choice(self, data: Any, value: Any) -> list[Any]:
        """Where the mask is true, the value; the data elsewhere."""
        mask = self.mask
        if mask.dtype is None:
            raise NotThis
        if np.dtype(mask.dtype) != np.bool_:
            mask = self.emit("Cast", [mask], np.bool_, {"to": 9})
        behind = list(range(len(self.mask.shape), self.rank))
        if behind and int(self.graph.opset) >= 13:
            axes = put_constant(f"{self.node.outputs[0].name}/by_mask_axes", behind)
            mask = self.emit("Unsqueeze", [mask, axes], np.bool_)
        elif behind:
            mask = self.emit("Unsqueeze", [mask], np.bool_, {"axes": behind})
        output = self.node.outputs[0]
        if np.dtype(data.dtype) == np.bool_:  # ONNX Runtime has no Where of booleans
            here = self.emit("And", [mask, value], np.bool_)
            there = self.emit("And", [self.emit("Not", [mask], np.bool_), data], np.bool_)
            last: tuple[str, list[Any]] = ("Or", [here, there])
        else:
            last = ("Where", [mask, value, data])
        detach([self.node])
        nodes = [make_node(op, name, i, o, a) for op, name, i, o, a in self.made]
        return [*nodes, make_node(last[0], self.node.name, last[1], [output])]


def _single(tensor: Any) -> Any:
    """A tensor of one element that all entries of this one are copies of; None if there is none."""
    import onnx_graphsurgeon as gs

    for _ in range(MOST_STEPS):
        shape = tensor.shape
        if shape is not None and all(d == 1 for d in shape):
            return tensor
        if isinstance(tensor, gs.Constant):
            if is_external(tensor) or 0 in tuple(tensor.shape):
                return None
            value = value_of(tensor)
            first = value.reshape(-1)[:1]
            same = value.tobytes() == first.tobytes() * value.size
            return put_constant(f"{tensor.name}/each", first[0], value.dtype) if same else None
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.domain not in (None, "", "ai.onnx"):
            return None
        if node.op == "ConstantOfShape":
            value = node.attrs.get("value")
            array = value_of(value) if isinstance(value, gs.Constant) else np.asarray(value or 0, np.float32)
            return put_constant(f"{tensor.name}/each", array.reshape(-1)[0], array.dtype)
        if node.op not in SPREADING:
            return None
        tensor = node.inputs[0]
    return None
