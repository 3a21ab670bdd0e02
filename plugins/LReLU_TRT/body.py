"""Body of LReLU_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode

if TYPE_CHECKING:
    import onnx


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(
        b, [b.op("LeakyRelu", node.input_names[0], alpha=float(node.attributes["negSlope"]))]
    )
