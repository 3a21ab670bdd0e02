"""Body of Region_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    given = types[0] if types else None
    channels = None if given is None or given.shape is None else given.shape[1]
    expected = attributes["num"] * (attributes["coords"] + 1 + attributes["classes"])
    if isinstance(channels, int) and channels != expected:
        return [f"x has {channels} channels; num * (coords + 1 + classes) is {expected}"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    (x,) = node.input_names
    per_box, height, width = 5 + a["classes"], node.static(0, 2), node.static(0, 3)
    boxes = b.reshape(x, 0, a["num"], per_box, height * width)
    centre, size, objectness, classes = (
        b.slice(boxes, 2, lo, hi) for lo, hi in ((0, 2), (2, 4), (4, 5), (5, per_box))
    )
    # Softmax before opset 13 flattens everything behind its axis: the classes go last.
    last = b.op("Softmax", b.transpose(classes, 0, 1, 3, 2), axis=3)
    classes = b.transpose(last, 0, 1, 3, 2)
    parts = [b.op("Sigmoid", centre), size, b.op("Sigmoid", objectness), classes]
    return node.function(b, [b.reshape(b.concat(parts, 2), 0, a["num"] * per_box, height, width)])
