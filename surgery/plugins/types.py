"""Types of the tensors of a model that contains plugin nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx

from surgery.graph.skeleton import skeleton
from surgery.graph.typed import infer_shapes
from surgery.plugins.definition import PLUGIN_DOMAIN, TensorType

if TYPE_CHECKING:
    from surgery.plugins.registry import Registry

_SMALL = 1024  # bytes of a constant that shape inference may want to read (shapes, axes, sizes)


def tensor_types(model: onnx.ModelProto, registry: Registry) -> dict[str, TensorType]:
    """Types of all tensors by name, subgraphs included, as far as they can be inferred.

    Plugin nodes are unknown to ONNX's shape inference; their definitions say what they give, and inference
    goes on from there. Weights are not copied: it runs on a skeleton of the model.
    """
    from surgery.plugins.attach import definition_of, plugin_nodes

    bare = _skeleton(model)
    types = _infer(bare)
    pending = list(plugin_nodes(bare.graph))
    while pending:
        later = []
        progress = False
        for node in pending:
            if any(name and name not in types for name in node.input):
                later.append(node)
                continue
            given = [types[name] if name else None for name in node.input]
            found = definition_of(node, registry).output_types(node, given)
            for name, known in zip(node.output, found, strict=False):
                if name:
                    types[name] = known
                    _declare(bare.graph, name, known)
            progress = True
        if not progress:
            break
        pending = later
        inferred = _infer(bare)
        types = {**inferred, **types} if not pending else {**types, **inferred}
    return types


def _infer(model: onnx.ModelProto) -> dict[str, TensorType]:
    try:
        inferred = infer_shapes(model, data_prop=True)
    except Exception:  # it raises many types, none documented; what is declared still counts
        inferred = model
    types: dict[str, TensorType] = {}
    _collect(inferred.graph, types)
    return types


def _collect(graph: onnx.GraphProto, types: dict[str, TensorType]) -> None:
    for tensor in graph.initializer:
        types[tensor.name] = TensorType(_dtype(tensor.data_type), tuple(tensor.dims))
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = _from_proto(value.type.tensor_type)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                _collect(inner, types)


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _from_proto(tensor: onnx.TypeProto.Tensor) -> TensorType:
    if not tensor.HasField("shape"):
        return TensorType(_dtype(tensor.elem_type), None)
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return TensorType(_dtype(tensor.elem_type), tuple(dims))


def _dtype(element: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(element))


def _declare(graph: onnx.GraphProto, name: str, known: TensorType) -> None:
    import numpy as np

    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
    for value in graph.output:
        if value.name == name:
            return
    graph.value_info.append(onnx.helper.make_tensor_value_info(name, element, known.shape))


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without large weights and without the functions that are bodies of plugins."""
    result = skeleton(model, _SMALL)
    result.ir_version = max(model.ir_version, 4)
    if PLUGIN_DOMAIN not in {o.domain for o in model.opset_import}:
        result.opset_import.add(domain=PLUGIN_DOMAIN, version=1)
    del result.functions[:]
    result.functions.extend(f for f in model.functions if f.domain != PLUGIN_DOMAIN)
    return result
