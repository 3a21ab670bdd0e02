"""Models without their weights, for shape inference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

SMALL = 4096
"""Bytes of a constant up to which shape inference is shown its value: shapes, axes and sizes are below."""


def skeleton(model: onnx.ModelProto, small: int = SMALL) -> onnx.ModelProto:
    """A copy of the model with large constants declared as inputs, so that their data is not copied.

    Args:
        model: The model; not changed.
        small: Bytes of a constant up to which the copy has its value.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.ir_version = model.ir_version
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    body, graph = copy.graph, model.graph
    body.name = graph.name
    body.node.extend(graph.node)
    body.input.extend(graph.input)
    body.output.extend(graph.output)
    body.value_info.extend(graph.value_info)
    declared = {v.name for v in graph.input}
    for tensor in graph.initializer:
        if _bytes(tensor) <= small and tensor.data_location != onnx.TensorProto.EXTERNAL:
            body.initializer.append(tensor)
        elif tensor.name not in declared:
            body.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return copy


def _bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values, which may have been left out."""
    import onnx

    try:
        return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:  # no element type that ONNX knows
        return tensor.ByteSize()
