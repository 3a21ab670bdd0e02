"""Body of GroupNormalizationPlugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.norms import emit_group_norm

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    shape = types[0].shape if types and types[0] else None
    channels = shape[1] if shape else None
    if isinstance(channels, int) and channels % attributes["num_groups"]:
        return [f"{channels} channels are not a multiple of num_groups {attributes['num_groups']}"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_group_norm(b, node)])
