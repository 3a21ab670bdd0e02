"""Body of VoxelGeneratorPlugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.voxels import Grid, emit_voxels

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    low, high = attributes["point_cloud_range"][:3], attributes["point_cloud_range"][3:]
    if any(p >= q for p, q in zip(low, high, strict=True)):
        return ["point_cloud_range is empty"]
    grid = Grid.of(attributes)
    if not grid.cells:
        return ["voxel_size leaves no pillar"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, emit_voxels(b, node)[: node.outputs])
