"""Body of MMCVMultiScaleDeformableAttention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.deformable import attention_problems, attention_result
from surgery.plugins.lowered import given
from surgery.plugins.successor import Successor, call

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return attention_problems(types)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    value, places = given(node, 0), given(node, 3)
    queries = places.shape[1] if places.shape else None
    if value.shape is None:
        return [TensorType(value.dtype, (None, queries, None))]
    images, _, heads, depth = value.shape
    width = heads * depth if isinstance(heads, int) and isinstance(depth, int) else None
    return [TensorType(value.dtype, (images, queries, width))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [attention_result(b, node, merged=True)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """MultiscaleDeformableAttnPlugin_TRT, whose result has the heads apart."""
    found = []
    for version in ("2", "1"):
        b = Body(node.opset)
        value, shapes, starts, *others = node.input_names
        inputs = [value, b.cast(shapes, np.int32), b.cast(starts, np.int32), *others]
        (y,) = call(b, "MultiscaleDeformableAttnPlugin_TRT", inputs, version=version)
        name = f"MultiscaleDeformableAttnPlugin_TRT version {version}"
        found.append(Successor(name, node.function(b, [b.reshape(y, 0, 0, -1)])))
    return found
