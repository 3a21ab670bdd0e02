"""Body of BatchedNMSDynamic_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.detection_output import emit_ssd_nms, ssd_problems

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    problems = ssd_problems(attributes)
    if len(types) != 2 or types[0] is None or types[1] is None:
        return problems
    boxes, scores = types[0].shape, types[1].shape
    if boxes is not None and isinstance(boxes[2], int):
        expected = 1 if attributes["shareLocation"] else attributes["numClasses"]
        if boxes[2] != expected:
            problems.append(
                f"shareLocation is {attributes['shareLocation']}, but dimension 2 of boxes is {boxes[2]}, "
                f"not {expected}"
            )
    if scores is not None and isinstance(scores[2], int) and scores[2] != attributes["numClasses"]:
        problems.append(f"numClasses is {attributes['numClasses']}, but the scores have {scores[2]} columns")
    return problems


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    number, classes, shared = node.static(1, 1), node.static(1, 2), bool(a["shareLocation"])
    b = Body(node.opset)
    boxes, scores = node.input_names
    r = emit_ssd_nms(
        b,
        node,
        b.reshape(boxes, 0, number, 4) if shared else boxes,
        b.reshape(scores, 0, number, classes),
        number=number,
        classes=classes,
        shared=shared,
        clip=bool(a["clipBoxes"]),
        score_threshold=a["scoreThreshold"],
        iou_threshold=a["iouThreshold"],
        batch=node.batch(1),
    )
    return node.function(b, (b.unsqueeze(r.count, 1), r.boxes, r.scores, b.cast(r.classes, np.float32)))
