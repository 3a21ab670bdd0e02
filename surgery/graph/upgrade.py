"""Conversion of a model to a newer operator set, by onnx's own converter and with what that one gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.spelling import drop_untyped
from surgery.graph.typed import infer_shapes
from surgery.graph.walk import all_graphs

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def upgrade(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in a newer version of the default operator set.

    onnx's converter leaves Upsample and the first Resize (opsets 7 to 10) with the coordinates and the rounding that
    later versions take where nothing is said; both lay pixels by `asymmetric`, and ONNX Runtime rounds down along
    axes that grow and up along axes that shrink.

    Until opset 6, operators on two tensors say along which axes the second one lies. The converter appends too many
    dims to it where that axis is not the first (onnx 1.23), and wants all dims to be fixed: what it does with them
    in that step depends on no size.

    Raises:
        ValueError: a Resize cannot be told in the newer version, or ranks are not known that it takes.
        RuntimeError: the converter has no way for an operator; it raises others too, none of them documented.
    """
    import onnx
    import onnx.version_converter

    before = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), opset)
    if before < 7 <= opset:
        model = _to_opset_7(_broadcast_as_numpy(model))
    converted = onnx.version_converter.convert_version(model, opset)
    for graph in all_graphs(converted.graph):
        drop_untyped(graph)  # the converter declares tensors that it adds without a type
    if before < 11 <= opset:
        for graph in all_graphs(converted.graph):
            values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 1}
            for node in graph.node:
                if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                    values[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
                if node.op_type == "Resize":
                    _say(node, values.get(node.input[2]), grows=before < 10)
    return converted


def _broadcast_as_numpy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which second operands that lie along an axis are unsqueezed, and nothing says so."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    shaped = infer_shapes(model).graph
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in (*shaped.input, *shaped.value_info, *shaped.output)
        if v.type.tensor_type.HasField("shape")
    }
    ranks.update({t.name: len(t.dims) for t in shaped.initializer})
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        said = {a.name: a.i for a in node.attribute if a.name in ("broadcast", "axis")}
        if "broadcast" in said:
            kept = [a for a in node.attribute if a.name not in said]
            if said["broadcast"] and "axis" in said:
                first, second = (ranks.get(name) for name in node.input[:2])
                if first is None or second is None:
                    raise ValueError(f"the ranks of what {node.name or node.output[0]!r} takes are not known")
                axis = said["axis"] % max(first, 1)
                behind = first - axis - second
                if behind > 0:
                    name = f"surgery/along/{len(result.graph.node)}"
                    axes = list(range(second, second + behind))
                    result.graph.node.append(
                        onnx.helper.make_node("Unsqueeze", [node.input[1]], [name], axes=axes)
                    )
                    node.input[1] = name
            kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
            del node.attribute[:]
            node.attribute.extend(kept)
        result.graph.node.append(node)
    return result


def _to_opset_7(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert with ones for free dims, which the converter takes to fit; declarations that have these go."""
    import onnx
    import onnx.version_converter

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    converted = onnx.version_converter.convert_version(fixed, 7)
    del converted.graph.value_info[:]
    for ours, theirs in (
        (model.graph.input, converted.graph.input),
        (model.graph.output, converted.graph.output),
    ):
        declared = {v.name: v for v in ours}
        for value in theirs:
            if value.name in declared:
                value.CopyFrom(declared[value.name])
    return converted


def _say(node: onnx.NodeProto, scales: NDArray[np.float32] | None, *, grows: bool) -> None:
    """Coordinates and rounding of a Resize as they were before opset 11; Upsample has no scales below 1."""
    import onnx

    said = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    linear = any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    if not linear and not grows:
        if scales is None:
            raise ValueError(f"whether {node.name or node.output[0]!r} grows or shrinks is not known")
        if (scales < 1).any():
            if (scales > 1).any():
                raise ValueError(
                    f"{node.name or node.output[0]!r} grows along one axis and shrinks along another"
                )
            said["nearest_mode"] = "ceil"
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in said.items())
