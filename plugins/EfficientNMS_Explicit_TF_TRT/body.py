"""Body of EfficientNMS_Explicit_TF_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import emit_tf, problems_of_tf, types_of_tf

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return problems_of_tf(attributes)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the four outputs."""
    return types_of_tf(node, 1)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, emit_tf(b, node))
