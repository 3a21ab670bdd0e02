"""Body of BatchedNMS_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.detection_output import batched_problems, emit_batched_nms

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return batched_problems(attributes, types)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    r = emit_batched_nms(b, node)
    return node.function(b, (r.count, r.boxes, r.scores, b.cast(r.classes, np.float32)))
