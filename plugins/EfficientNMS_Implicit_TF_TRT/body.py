"""Body of EfficientNMS_Implicit_TF_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import EfficientNms, emit
from surgery.plugins.nms_successors import implicit_tf_successors

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.successor import Successor


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    if attributes["max_output_size_per_class"] == 0:
        return ["max_output_size_per_class is 0, so that nothing would ever be written"]
    return []


def _rows(node: ConfiguredNode) -> int:
    a = node.attributes
    per_class: int = a["max_output_size_per_class"]
    total: int = a["max_total_size"]
    return min(total, per_class * node.static(1, 2)) if a["pad_per_class"] and per_class > 0 else total


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the four outputs."""
    scores = node.inputs[1]
    batch = scores.shape[0] if scores is not None and scores.shape else None
    k = _rows(node)
    types = [
        TensorType("int32", (batch,)),
        TensorType("float32", (batch, k, 4)),
        TensorType("float32", (batch, k)),
        TensorType("int32", (batch, k)),
    ]
    return types[: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    parameters = EfficientNms(
        score_threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        output_boxes=_rows(node),
        output_boxes_per_class=a["max_output_size_per_class"],
        clip_boxes=bool(a["clip_boxes"]),
    )
    count, *others = emit(b, node, parameters)
    return node.function(b, [b.squeeze(count, 1), *others])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """EfficientNMS_Explicit_TF_TRT."""
    return implicit_tf_successors(node)
