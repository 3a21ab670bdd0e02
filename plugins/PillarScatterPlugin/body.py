"""Body of PillarScatterPlugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_sampling import int64, size_of

if TYPE_CHECKING:
    import onnx

FEATURES = 64
"""Features of a pillar, which the kernel has as a constant."""


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    given, (height, width) = node.inputs[0], node.attributes["dense_shape"]
    batch = given.shape[0] if given is not None and given.shape else None
    return [TensorType("float32", (batch, FEATURES, height, width))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    height, width = node.attributes["dense_shape"]
    cells, number = height * width, node.static(0, 1)
    b = Body(node.opset)
    voxels, coordinates, count = node.input_names
    places = int64(b, coordinates)
    y, x = (b.squeeze(b.slice(places, 2, i, i + 1), 2) for i in (2, 3))
    cell = b.add(b.mul(y, b.const(width, np.int64)), x)
    counted = b.less(b.const(np.arange(number).reshape(1, -1)), b.unsqueeze(b.cast(count, np.float32), 1))
    # Pillars that do not count go to a cell of their own behind the last one.
    cell = b.where(counted, cell, b.const(cells, np.int64))
    # TensorRT takes no more updates than there are rows to write.
    rows = max(cells + 1, number)
    shape = b.concat([size_of(b, voxels, 0), b.ints(rows, FEATURES)], 0)
    empty = b.op("Expand", b.scalar(0.0), shape)
    index = b.expand(b.unsqueeze(cell, 2), 1, 1, FEATURES)
    filled = b.op("ScatterElements", empty, index, voxels, axis=1)
    view = b.transpose(b.slice(filled, 1, 0, cells), 0, 2, 1)
    return node.function(b, [b.reshape(view, 0, FEATURES, height, width)])
