"""Operators whose operands are floats of two kinds, in one kind: ONNX Runtime has few kernels for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.typed import infer_shapes
from surgery.graph.walk import all_graphs

if TYPE_CHECKING:
    import onnx

BITS = {"FLOAT16": 16, "FLOAT": 32, "DOUBLE": 64}
"""Kinds of floats that hold each other's numbers, and how wide they are."""


def in_widest_float(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy in which operators on floats of two kinds compute in the wider one, and the names of these operators.

    Results are rounded to the kind that they have in the model, as those of a kernel for both kinds would be: a
    GridSample of float32 images at float64 places is one in float64 whose result is cast to float32.

    Args:
        model: The model; its weights are in it.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    kinds = _float_kinds(model)
    found: list[str] = []
    for graph in all_graphs(copy.graph):
        nodes = [n for node in graph.node for n in _widened(node, version, kinds, found)]
        del graph.node[:]
        graph.node.extend(nodes)
    return copy, sorted(set(found))


def _float_kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of the float tensors, as far as inference tells them."""
    import onnx

    try:
        inferred = infer_shapes(model)
    except Exception:  # a help; onnx raises many undocumented types
        inferred = model
    kinds: dict[str, int] = {}
    wanted = {int(getattr(onnx.TensorProto, k)) for k in BITS}
    for graph in all_graphs(inferred.graph):
        kinds.update({t.name: t.data_type for t in graph.initializer})
        values = (*graph.input, *graph.value_info, *graph.output)
        kinds.update({v.name: v.type.tensor_type.elem_type for v in values})
    return {name: kind for name, kind in kinds.items() if kind in wanted}


def _widened(
    node: onnx.NodeProto, version: int, kinds: dict[str, int], found: list[str]
) -> list[onnx.NodeProto]:
    """The node, with casts around it if its operands are of two kinds where the operator lets them be."""
    import onnx
    from onnx import helper

    own = {n: kinds[n] for n in node.input if n in kinds}
    if node.domain not in ("", "ai.onnx") or len(set(own.values())) < 2:
        return [node]
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return [node]
    if (
        len(
            {
                schema.inputs[min(i, len(schema.inputs) - 1)].type_str
                for i, n in enumerate(node.input)
                if n in own
            }
        )
        < 2
    ):
        return [node]
    found.append(node.op_type)
    widest = max(own.values(), key=lambda k: BITS[onnx.TensorProto.DataType.Name(k)])
    before, after = [], []
    for place, name in enumerate(node.input):
        if own.get(name, widest) != widest:
            node.input[place] = f"{node.output[0]}/wide/{place}"
            before.append(helper.make_node("Cast", [name], [node.input[place]], to=widest))
    for place, name in enumerate(node.output):
        if kinds.get(name, widest) != widest:
            node.output[place] = f"{name}/wide"
            after.append(helper.make_node("Cast", [node.output[place]], [name], to=kinds[name]))
    return [*before, node, *after]
