"""Body of ScatterElements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import WholeNumberBody, given, lowered
from surgery.rules.indexing.scatter import scatter_elements

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    known = [t for t in types if t is not None]
    if len(known) < 3:
        return []
    data, indices, updates = known
    found = []
    if data.dtype != updates.dtype:
        found.append(f"data is {data.dtype}, updates are {updates.dtype}")
    axis = attributes["axis"]
    if data.shape is None or indices.shape is None:
        return found
    rank = len(data.shape)
    if not -rank <= axis < rank:
        return [*found, f"axis {axis} is outside of {rank} dims"]
    if len(indices.shape) != rank:
        return [*found, f"the indices have {len(indices.shape)} dims, data {rank}"]
    for k, (there, here) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if k != axis % rank and isinstance(there, int) and isinstance(here, int) and there != here:
            found.append(
                f"dimension {k} of data is {there}, of the indices {here}; the kernel addresses other "
                "elements then"
            )
    return found


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = WholeNumberBody(node.opset)
    a = node.attributes
    # The kernel's mean is a sum: it never divides by the number of updates.
    attributes = {"axis": a["axis"], "reduction": "add" if a["reduction"] == "mean" else a["reduction"]}
    operands = [(name, given(node, i)) for i, name in enumerate(node.input_names)]
    return node.function(b, [lowered(b, node, scatter_elements, "ScatterElements", operands, attributes)])
