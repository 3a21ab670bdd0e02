"""Body of Reorg_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    given, s = types[0] if types else None, attributes["stride"]
    shape = () if given is None or given.shape is None else given.shape
    multiples = ((1, "channels", s * s), (2, "height", s), (3, "width", s))
    dims = [(shape[axis], name, of) for axis, name, of in multiples if shape]
    return [f"{name} is {d}; it has to be a multiple of {of}" for d, name, of in dims if _remains(d, of)]


def _remains(dim: int | str | None, of: int) -> bool:
    return isinstance(dim, int) and dim % of != 0


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    given, s = node.inputs[0], node.attributes["stride"]
    if given is None or given.shape is None:
        return [TensorType("float32", (None, None, None, None))]
    batch, channels, height, width = given.shape
    return [
        TensorType(
            "float32",
            (
                batch,
                channels * s * s if isinstance(channels, int) else None,
                height // s if isinstance(height, int) else None,
                width // s if isinstance(width, int) else None,
            ),
        )
    ]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    s = node.attributes["stride"]
    channels, height, width = (node.static(0, axis) for axis in (1, 2, 3))
    b = Body(node.opset)
    (x,) = node.input_names
    # Darknet reads the same memory as fewer channels of a larger image.
    larger = b.reshape(x, 0, channels // (s * s), height, s, width, s)
    turned = b.transpose(larger, 0, 3, 5, 1, 2, 4)
    return node.function(b, [b.reshape(turned, 0, channels * s * s, height // s, width // s)])
