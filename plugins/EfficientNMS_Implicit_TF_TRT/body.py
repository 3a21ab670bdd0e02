"""Body of EfficientNMS_Implicit_TF_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.efficient_nms import emit_tf, problems_of_tf, types_of_tf
from surgery.plugins.nms_successors import implicit_tf_successors

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.successor import Successor


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return problems_of_tf(attributes)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the four outputs."""
    return types_of_tf(node)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    count, *others = emit_tf(b, node)
    return node.function(b, [b.squeeze(count, 1), *others])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """EfficientNMS_Explicit_TF_TRT."""
    return implicit_tf_successors(node)
