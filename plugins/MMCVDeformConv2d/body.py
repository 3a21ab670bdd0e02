"""Body of MMCVDeformConv2d."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.deformable import MMCV_PLAIN

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    if len(attributes["padding"]) < 2:
        return ["padding has fewer than 2 numbers"]
    return MMCV_PLAIN.problems(attributes, types) if types else []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [MMCV_PLAIN.emit(b, node)])
