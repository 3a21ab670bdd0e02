"""Body of CoordConvAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.images import coordinate_channels
from surgery.plugins.lowered import given, size

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    shape = types[0].shape if types and types[0] else None
    if shape is not None and 1 in shape[2:]:
        return ["the image has one row or one column; the kernel divides by 0 there"]
    return []


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    x = given(node, 0)
    if x.shape is None:
        return [x]
    batch, channels, *space = x.shape
    return [TensorType(x.dtype, (batch, channels + 2 if isinstance(channels, int) else None, *space))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    channels = coordinate_channels(node.static(0, 2), node.static(0, 3))
    added = b.const(channels[None], np.dtype(given(node, 0).dtype))
    every = b.op("Expand", added, b.concat([size(b, node, 0, 0), b.ints(1, 1, 1)], 0))
    return node.function(b, [b.concat([node.input_names[0], every], 1)])
