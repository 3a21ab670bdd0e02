"""Body of CustomQKVToContextPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, narrow, type_id_problems
from surgery.plugins.transformer import TYPE_IDS, attention_problems, emit_batched_attention

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = type_id_problems(attributes, types, TYPE_IDS) + attention_problems(attributes, types, 2)
    if types and (len(types) > 1) != bool(attributes["has_mask"]):
        found.append(f"has_mask is {attributes['has_mask']}, but there are {len(types)} inputs")
    return found


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    x = given(node, 0)
    length, batch = x.shape[:2] if x.shape else (None, None)
    return [TensorType(x.dtype, (length, batch, node.attributes["hidden_size"], 1, 1))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    mask = node.input_names[1] if node.attributes["has_mask"] else None
    return node.function(b, [narrow(b, node, emit_batched_attention(b, node, mask))])
