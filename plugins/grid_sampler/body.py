"""Body of grid_sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.images import emit_grid_sample
from surgery.plugins.lowered import given

if TYPE_CHECKING:
    import onnx


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    image, grid = given(node, 0).shape, given(node, 1).shape
    if image is None or grid is None:
        return [TensorType("float32", None)]
    return [TensorType("float32", (*image[:2], *grid[1:-1]))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_grid_sample(b, node)])
