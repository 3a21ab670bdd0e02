"""Body of GridAnchor_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins import grid_anchor
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.from_numbers import FromNumbers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return grid_anchor.problems(attributes, rectangular=False)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the outputs, one per feature map."""
    return grid_anchor.output_types(node, rectangular=False)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, grid_anchor.emit(b, node, rectangular=False))


def from_numbers(arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]) -> list[FromNumbers]:
    """Constants of a graph that look like the outputs of one node."""
    return grid_anchor.from_numbers(arrays, rectangular=False)


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """No inputs: converters wire feature maps in, which the plugin does not read."""
    return grid_anchor.without_inputs("GridAnchor_TRT", types)
