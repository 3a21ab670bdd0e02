"""Body of CustomQKVToContextPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, narrow, type_id_problems
from surgery.plugins.transformer import (
    TYPE_IDS,
    attention_problems,
    emit_batched_attention,
    emit_packed_attention,
)

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    packed = bool(attributes["var_seqlen"])
    found = type_id_problems(attributes, types, TYPE_IDS)
    found += attention_problems(attributes, types, 1 if packed else 2)
    wanted = 1 + attributes["has_mask"] + 2 * packed
    if packed and not attributes["has_mask"]:
        found.append("var_seqlen needs has_mask: the mask's place is taken even if it is not read")
    if packed and attributes["type_id"] == 0:
        found.append("var_seqlen takes float16 only")
    if types and len(types) != wanted:
        found.append(f"{len(types)} inputs given; has_mask and var_seqlen ask for {wanted}")
    rank = len(types[0].shape) if types and types[0] is not None and types[0].shape is not None else None
    if rank is not None and rank != (4 if packed else 5):
        found.append(f"the input has {rank} dims; expected {4 if packed else 5}")
    return found


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    x = given(node, 0)
    lead = 1 if node.attributes["var_seqlen"] else 2
    dims = x.shape[:lead] if x.shape else (None,) * lead
    return [TensorType(x.dtype, (*dims, node.attributes["hidden_size"], 1, 1))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    names = node.input_names
    if node.attributes["var_seqlen"]:
        y = emit_packed_attention(b, node, names[2])
    else:
        y = emit_batched_attention(b, node, names[1] if node.attributes["has_mask"] else None)
    return node.function(b, [narrow(b, node, y)])
