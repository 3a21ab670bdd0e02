"""Body of TRTBicubicInterpolate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.images import emit_bicubic
from surgery.plugins.lowered import given

if TYPE_CHECKING:
    import onnx


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    shape = given(node, 0).shape
    if shape is None:
        return [TensorType("float32", None)]
    pairs = zip(shape[2:], node.attributes["scale_factor"], strict=True)
    space = (d * int(s) if isinstance(d, int) else None for d, s in pairs)
    return [TensorType("float32", (*shape[:2], *space))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_bicubic(b, node)])
