"""The body of the plugins that cut a tensor into pieces.

Source: plugin/splitPlugin of NVIDIA/TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given

if TYPE_CHECKING:
    import onnx


def piece_problems(a: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems that the lengths have with the input."""
    shape = types[0].shape if types and types[0] is not None else None
    if shape is None:
        return []
    axis, lengths = a["axis"], a["output_lengths"]
    if axis >= len(shape):
        return [f"axis {axis} is outside of {len(shape)} dims"]
    whole = shape[axis]
    if isinstance(whole, int) and sum(lengths) != whole:
        return [f"output_lengths add up to {sum(lengths)}, but the axis has {whole} entries"]
    return []


def piece_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the pieces."""
    x = given(node, 0)
    found = []
    for length in node.attributes["output_lengths"]:
        dims = list(x.shape) if x.shape is not None else None
        if dims is not None:
            dims[node.attributes["axis"]] = length
        found.append(TensorType(x.dtype, tuple(dims) if dims is not None else None))
    return found[: node.outputs]


def emit_pieces(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node: one slice per piece."""
    b = Body(node.opset)
    pieces, start = [], 0
    for length in node.attributes["output_lengths"]:
        pieces.append(b.slice(node.input_names[0], node.attributes["axis"], start, start + length))
        start += length
    return node.function(b, pieces[: node.outputs])
