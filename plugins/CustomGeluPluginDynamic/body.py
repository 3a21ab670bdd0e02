"""Body of CustomGeluPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import narrow, same_shape, type_id_problems, weights, wide
from surgery.plugins.transformer import TYPE_IDS, emit_gelu

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return type_id_problems(attributes, types, TYPE_IDS)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    x = wide(b, node, 0)
    bias = node.attributes["bias"]
    if bias is not None:
        values = weights(bias, -1)
        x = same_shape(b, b.add(b.reshape(x, -1, values.size), b.const(values)), node.input_names[0])
    return node.function(b, [narrow(b, node, emit_gelu(b, x))])
