"""Body of EfficientNMS_ONNX_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import EfficientNms, emit_indices
from surgery.plugins.fitting import Fitted
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


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """Scores in the layout of ONNX NonMaxSuppression, [B, C, N], which TensorRT's parser turned round."""
    boxes, scores = (t.shape if t else None for t in (*types, None, None)[:2])
    if len(types) != 2 or boxes is None or scores is None or len(scores) != 3 or len(boxes) < 3:
        return None
    number, rows, columns = boxes[1], scores[1], scores[2]
    if not all(isinstance(n, int) for n in (number, rows, columns)) or number == rows or number != columns:
        return None
    kind = types[1]
    assert kind is not None
    turned = TensorType(kind.dtype, (scores[0], columns, rows))
    return Fitted(
        ((names[0], types[0]), (b.transpose(names[1], 0, 2, 1), turned)),
        f"EfficientNMS_ONNX_TRT: scores {list(scores)} are in the layout of ONNX NonMaxSuppression, with {number} "
        "boxes in the last axis; the plugin takes [batch, boxes, classes], so they are transposed in front of it",
    )


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor | str]:
    """ONNX NonMaxSuppression, for one image."""
    return onnx_nms_successors(node)
