"""Body of NMS_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.detection_output import detection_problems, detection_types, emit_detection_output
from surgery.plugins.nms_successors import detection_successors

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.successor import Successor


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return detection_problems(attributes, types)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the two outputs."""
    return detection_types(node)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, emit_detection_output(b, node))


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor | str]:
    """NMSDynamic_TRT, or decoding in standard nodes before EfficientNMS_TRT."""
    return detection_successors(node, per_sample=True)
