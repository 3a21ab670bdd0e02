"""Body of GatherTopk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, Dims, TensorType
from surgery.plugins.roi_sampling import int64

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    x, indices = (None if t is None else t.shape for t in types) if len(types) == 2 else (None, None)
    if x is None or indices is None:
        return []
    if not 1 <= len(indices) <= len(x):
        return [f"indices have {len(indices)} dims and x only {len(x)}"]
    pairs = zip(x, indices[:-1], strict=False)
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        return [f"the batch dims of x {x} and of indices {indices} differ"]
    return []


def _shapes(node: ConfiguredNode) -> tuple[Dims, Dims]:
    shapes = [t.shape for t in node.inputs if t is not None and t.shape is not None]
    if len(shapes) != 2:
        raise node.refuse("the ranks of x and indices are needed")
    return shapes[0], shapes[1]


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    x, indices = _shapes(node)
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else "float32"
    return [TensorType(dtype, (*indices, *x[len(indices) :]))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    x_shape, index_shape = _shapes(node)
    lead = len(index_shape)
    channels = [node.static(0, axis) for axis in range(lead, len(x_shape))]
    b = Body(node.opset)
    x, indices = node.input_names
    keep = [0] * lead
    flat = b.reshape(x, *keep, math.prod(channels))
    index = b.expand(b.unsqueeze(int64(b, indices), lead), *[1] * lead, math.prod(channels))
    found = b.gather_elements(flat, index, lead - 1)
    return node.function(b, [b.reshape(found, *keep, *channels)])
