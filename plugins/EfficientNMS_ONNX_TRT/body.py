"""Body of EfficientNMS_ONNX_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import EfficientNms, emit_indices
from surgery.plugins.nms_successors import onnx_nms_successors

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.successor import Successor


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    batch = node.batch(1) or node.batch(0)
    rows = batch * node.attributes["max_output_boxes_per_class"] if batch else None
    return [TensorType("int32", (rows, 3))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    parameters = EfficientNms(
        score_threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        output_boxes=a["max_output_boxes_per_class"],
        box_coding=a["center_point_box"],
    )
    return node.function(b, [emit_indices(b, node, parameters)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor | str]:
    """ONNX NonMaxSuppression, for one image."""
    return onnx_nms_successors(node)
