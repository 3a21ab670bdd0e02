"""Body of GridPriorsTRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_sampling import numbers

if TYPE_CHECKING:
    import onnx


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    total: int | None = 1
    for given in node.inputs:
        dim = given.shape[0] if given is not None and given.shape else None
        total = total * dim if total is not None and isinstance(dim, int) else None
    return [TensorType("float32", (total, 4))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    anchors, rows, columns = node.input_names

    def shift(x: str, stride: str) -> str:
        step = b.const(float(node.attributes[stride]))
        return b.mul(b.cast(numbers(b, x), np.float32), step)

    # Each axis moves two of the four coordinates.
    to_right = b.mul(b.unsqueeze(shift(columns, "stride_w"), 0, 2, 3), b.const([[[[1, 0, 1, 0]]]]))
    down = b.mul(b.unsqueeze(shift(rows, "stride_h"), 1, 2, 3), b.const([[[[0, 1, 0, 1]]]]))
    moved = b.add(b.add(b.unsqueeze(anchors, 0, 1), to_right), down)
    return node.function(b, [b.reshape(moved, -1, 4)])
