"""Body of FlattenConcat_TRT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges: the plugin wants all but the channels to be equal."""
    sizes = [t.shape[2:] for t in types if t is not None and t.shape is not None]
    known = {s for s in sizes if all(isinstance(d, int) for d in s)}
    return [f"heights and widths differ: {sorted(known, key=str)}"] if len(known) > 1 else []


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Type of the output."""
    total: int | None = 0
    batch: int | str | None = None
    for given in node.inputs:
        shape = () if given is None or given.shape is None else given.shape
        batch = shape[0] if shape and (batch is None or isinstance(shape[0], int)) else batch
        numbers = [d for d in shape[1:] if isinstance(d, int)]
        total = None if total is None or len(numbers) != 3 else total + numbers[0] * numbers[1] * numbers[2]
    return [TensorType("float32", (batch, total, 1, 1))]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    flat = [b.op("Flatten", name, axis=1) for name in node.input_names]
    return node.function(b, [b.unsqueeze(b.concat(flat, 1), 2, 3)])


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """Feature maps of different sizes: flattened in front, which is what the plugin would do with them.

    The kernel copies each input as it lies in memory; only its checks of dims (getOutputDimensions) refuse them.
    """
    if not check(attributes, types):
        return None
    inputs: list[tuple[str, TensorType | None]] = []
    for name, given in zip(names, types, strict=True):
        shape = () if given is None or given.shape is None else given.shape
        if given is None or len(shape) != 4:
            return None
        numbers = [d for d in shape[1:] if isinstance(d, int)]
        flat = math.prod(numbers) if len(numbers) == 3 else None
        inputs.append((b.reshape(name, 0, -1, 1, 1), TensorType(given.dtype, (shape[0], flat, 1, 1))))
    return Fitted(
        tuple(inputs),
        "FlattenConcat_TRT: heights and widths of its inputs differ, which TensorRT's plugin refuses; they are "
        "flattened in front of it, with the same result",
    )
