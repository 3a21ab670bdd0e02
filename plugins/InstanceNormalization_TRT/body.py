"""Body of InstanceNormalization_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, narrow, wide
from surgery.plugins.norms import instance_norm

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = []
    count = len(attributes["scales"])
    if len(attributes["bias"]) != count:
        found.append(f"bias has {len(attributes['bias'])} values, scales {count}")
    shape = types[0].shape if types and types[0] else None
    channels = shape[1] if shape else None
    if isinstance(channels, int) and channels != count:
        found.append(f"scales has {count} values for {channels} channels")
    return found


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    return [given(node, 0)]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    a = node.attributes
    scale, bias = b.floats(*a["scales"]), b.floats(*a["bias"])
    y = instance_norm(b, wide(b, node, 0), scale, bias, a["epsilon"])
    if a["relu"] > 0:
        y = b.op("LeakyRelu", y, alpha=float(a["alpha"]))
    return node.function(b, [narrow(b, node, y)])
