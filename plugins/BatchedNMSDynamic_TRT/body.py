"""Body of BatchedNMSDynamic_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.detection_output import batched_problems, emit_batched_nms
from surgery.plugins.nms_successors import batched_successors

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.successor import Successor


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return batched_problems(attributes, types)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    r = emit_batched_nms(b, node)
    return node.function(b, (b.unsqueeze(r.count, 1), r.boxes, r.scores, b.cast(r.classes, np.float32)))


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor | str]:
    """EfficientNMS_TRT where it looks at all candidates."""
    return batched_successors(node, scalar_count=False)
