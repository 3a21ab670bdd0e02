"""Body of BatchTilePlugin_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.lowered import size

if TYPE_CHECKING:
    import onnx


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    shape = b.concat([size(b, node, 0, 0), b.ints(1, 1, 1)], 0)
    return node.function(b, [b.op("Expand", node.input_names[1], shape)])
