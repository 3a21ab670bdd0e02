"""Body of TopkLastDim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, type_id_problems

LIMIT = 3840
"""Largest k of TensorRT's own TopK."""

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = type_id_problems(attributes, types, {0: "float32", 1: "float16", 3: "int32"})
    shape = types[0].shape if types and types[0] is not None else None
    if shape is not None:
        axis = attributes["axis"]
        if not -len(shape) <= axis < len(shape):
            found.append(f"axis {axis} is outside of {len(shape)} dims")
        elif isinstance(count := shape[axis], int) and attributes["k"] > count:
            found.append(f"k is {attributes['k']}, but the axis has {count} entries")
    return found


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of values and positions."""
    x = given(node, 0)
    if x.shape is None:
        return [x, TensorType("int32", None)][: node.outputs]
    dims = list(x.shape)
    dims[node.attributes["axis"]] = node.attributes["k"]
    return [TensorType(x.dtype, tuple(dims)), TensorType("int32", tuple(dims))][: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    if a["k"] > LIMIT:
        raise node.refuse(f"k is {a['k']}; TensorRT's TopK goes up to {LIMIT}")
    b = Body(node.opset)
    attributes = {"axis": a["axis"], "largest": a["is_largest"], "sorted": 1}
    values, places = b.node("TopK", [node.input_names[0], b.ints(a["k"])], outputs=2, attributes=attributes)
    return node.function(b, [values, b.cast(places, np.int32)])
