"""Body of ResizeNearest_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.images import emit_nearest, nearest_size
from surgery.plugins.lowered import given

if TYPE_CHECKING:
    import onnx


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    shape = given(node, 0).shape
    if shape is None:
        return [TensorType("float32", None)]
    scale = node.attributes["scale"]
    return [TensorType("float32", (*shape[:2], *(nearest_size(d, scale) for d in shape[2:])))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_nearest(b, node)])
