"""onnx's shape inference, kept from what ends the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.walk import all_graphs, all_nodes

if TYPE_CHECKING:
    import onnx

FRAGILE = frozenset({"DictVectorizer", "LabelEncoder", "RegexFullMatch"})
"""Operators whose inference reads the type of their operand without looking whether there is one: onnx 1.23 dies of a
segmentation fault there, as behind operators of a domain that it does not know."""

HIDDEN = "surgery.hidden."
"""In front of the domain of nodes that inference must not look at."""


def infer_shapes(
    model: onnx.ModelProto, *, data_prop: bool = False, strict_mode: bool = False
) -> onnx.ModelProto:
    """A copy with the types and shapes that onnx infers, as `onnx.shape_inference.infer_shapes` makes one.

    Nodes of :data:`FRAGILE` operators are passed over as long as the type of an operand of theirs is not known.

    Args:
        model: The model. Not changed.
        data_prop: Compute small values from which shapes follow.
        strict_mode: Raise what onnx finds wrong.

    Raises:
        onnx.shape_inference.InferenceError: with `strict_mode`; onnx raises other types too, none of them documented.
    """
    import onnx

    def inferred(one: onnx.ModelProto) -> onnx.ModelProto:
        return onnx.shape_inference.infer_shapes(one, strict_mode=strict_mode, data_prop=data_prop)

    if not any(n.op_type in FRAGILE for n in _nodes(model)):
        return inferred(model)
    found = type(model)()
    found.CopyFrom(model)
    shown = -1
    while True:
        typed = _typed(found)
        hidden = [
            n for n in _nodes(found) if n.op_type in FRAGILE and not all(i in typed for i in n.input if i)
        ]
        if shown == (shown := len(hidden)):
            return found
        domains = {HIDDEN + n.domain for n in hidden}
        for node in hidden:
            node.domain = HIDDEN + node.domain
        for imports in _imports(found):
            imports.extend(onnx.helper.make_opsetid(d, 1) for d in sorted(domains))
        found = inferred(found)
        for imports in _imports(found):
            kept = [o for o in imports if not o.domain.startswith(HIDDEN)]
            del imports[:]
            imports.extend(kept)
        for node in _nodes(found):
            node.domain = node.domain.removeprefix(HIDDEN)


def _imports(model: onnx.ModelProto) -> list[Any]:
    """The operator sets that the model and its functions import, which can be changed."""
    return [model.opset_import, *(f.opset_import for f in model.functions)]


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All nodes, of bodies and functions too."""
    return list(all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]))


def _typed(model: onnx.ModelProto) -> set[str]:
    """Tensors whose element type is known."""
    found: set[str] = set()
    for graph in all_graphs(model.graph):
        values = (*graph.input, *graph.value_info, *graph.output)
        found.update(v.name for v in values if v.type.tensor_type.elem_type)
        found.update(t.name for t in graph.initializer)
    return found
