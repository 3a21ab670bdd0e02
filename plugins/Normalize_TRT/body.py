"""Body of Normalize_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    count, given = len(attributes["weights"]), types[0] if types else None
    if attributes["channelShared"]:
        return [] if count == 1 else [f"weights has {count} entries; channelShared takes 1"]
    channels = None if given is None or given.shape is None else given.shape[1]
    if isinstance(channels, int) and channels != count:
        return [f"weights has {count} entries for {channels} channels"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    (x,) = node.input_names
    axes = (1, 2, 3) if a["acrossSpatial"] else (1,)
    total = b.add(b.reduce("ReduceSum", b.mul(x, x), *axes), b.scalar(a["eps"]))
    normal = b.div(x, b.op("Sqrt", total))
    scale = b.const(np.array(a["weights"]).reshape(1, -1, 1, 1))
    divides = a["acrossSpatial"] and not a["channelShared"]
    return node.function(b, [b.div(normal, scale) if divides else b.mul(normal, scale)])


def repair(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """NbWeights is the number of weight tensors, which is 1; exporters also write the number of their values."""
    given, weights = attributes.get("nbWeights", 1), attributes.get("weights")
    if given == 1 or not isinstance(weights, list) or given != len(weights):
        return {}, ""
    return {"nbWeights": 1}, (
        f"Normalize_TRT: nbWeights is {given}, the number of values in weights; it is read as 1 "
        "(TensorRT refuses others, and computes with weights alone)"
    )
