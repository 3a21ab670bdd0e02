"""Body of TRTInstanceNormalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, narrow, wide
from surgery.plugins.norms import instance_norm

if TYPE_CHECKING:
    import onnx


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    return [given(node, 0)]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    _, scale, bias = node.input_names
    y = instance_norm(b, wide(b, node, 0), scale, bias, node.attributes["epsilon"])
    return node.function(b, [narrow(b, node, y)])
