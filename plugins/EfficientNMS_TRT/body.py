"""Body of EfficientNMS_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import EfficientNms, emit

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    if attributes["score_activation"] and attributes["score_threshold"] >= 1:
        return ["score_threshold is 1 or more, which no sigmoid reaches"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    parameters = EfficientNms(
        score_threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        output_boxes=a["max_output_boxes"],
        background_class=a["background_class"],
        score_activation=bool(a["score_activation"]),
        box_coding=a["box_coding"],
        class_agnostic=bool(a["class_agnostic"]),
    )
    return node.function(b, emit(b, node, parameters))
