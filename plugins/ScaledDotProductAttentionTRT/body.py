"""Body of ScaledDotProductAttentionTRT."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode

if TYPE_CHECKING:
    import onnx


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    query, key, value, *mask = node.input_names
    scores = b.op("MatMul", query, b.transpose(key, 0, 2, 1))
    scores = b.mul(scores, b.scalar(1.0 / math.sqrt(node.static(0, 2))))
    if mask and node.inputs[3] is not None:
        scores = b.add(scores, mask[0])
    shares = b.op("Softmax", scores, axis=-1)
    return node.function(b, [b.op("MatMul", shares, value), shares][: node.outputs])
