"""Body of Clip_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.lowered import given

if TYPE_CHECKING:
    import onnx


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    x = node.input_names[0]
    low, high = (node.attributes[n] for n in ("clipMin", "clipMax"))
    dtype = np.dtype(given(node, 0).dtype)
    if dtype != np.int32 and low > high:  # TensorRT's own Clip gives the lower limit then
        return node.function(b, [b.minimum(b.maximum(x, b.const(low, dtype)), b.const(high, dtype))])
    if dtype != np.int32:
        return node.function(b, [b.op("Clip", x, b.const(low, dtype), b.const(high, dtype))])
    # Limits lose their fraction, as in the kernel. Clip takes integers from opset 12 on only.
    least, most = b.const(int(low), dtype), b.const(int(high), dtype)
    raised = b.where(b.greater(x, least), x, least)
    return node.function(b, [b.where(b.less(raised, most), raised, most)])
