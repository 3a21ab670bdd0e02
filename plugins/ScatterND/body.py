"""Body of ScatterND."""

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
    known = [t for t in types if t is not None]
    if len(known) < 3:
        return []
    data, indices, updates = known
    found = []
    if data.dtype != updates.dtype:
        found.append(f"data is {data.dtype}, updates are {updates.dtype}")
    depth = indices.shape[-1] if indices.shape else None
    if data.shape is None or updates.shape is None or indices.shape is None or not isinstance(depth, int):
        return found
    if depth > len(data.shape):
        return [*found, f"indices of length {depth} into {len(data.shape)} dims"]
    wanted = (*indices.shape[:-1], *data.shape[depth:])
    pairs = zip(wanted, updates.shape, strict=False)
    if len(wanted) != len(updates.shape) or any(
        isinstance(w, int) and isinstance(u, int) and w != u for w, u in pairs
    ):
        found.append(f"updates have shape {list(updates.shape)}; expected {list(wanted)}")
    return found


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    data, indices, updates = node.input_names
    return node.function(b, [b.op("ScatterND", data, b.cast(indices, np.int64), updates)])
