"""Body of GenerateDetection_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins import region_proposals as proposals
from surgery.plugins.definition import ConfiguredNode, TensorType

if TYPE_CHECKING:
    import onnx

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""What the deltas are divided by, a constant of the plugin."""


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return proposals.class_problems(attributes, types)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    deltas, _, roi = node.input_names
    _, height, width = node.attributes["image_size"]
    offsets = b.reshape(deltas, 0, node.static(1, 1), node.attributes["num_classes"], 4)
    boxes = proposals.decode_pixels(b, b.unsqueeze(roi, 2), offsets, WEIGHTS, height, width)
    return node.function(b, [proposals.emit_detections(b, node, boxes, first_class=1)])
