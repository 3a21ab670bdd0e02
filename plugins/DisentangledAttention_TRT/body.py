"""Body of DisentangledAttention_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import mixed_floats, narrow, wide

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = mixed_floats(types, 0, 1, 2)
    width = types[1].shape[2] if len(types) > 1 and types[1] is not None and types[1].shape else None
    if isinstance(width, int) and width != 2 * attributes["span"]:
        found.append(f"data1 and data2 have {width} columns; expected 2 * span = {2 * attributes['span']}")
    return found


def columns(length: int, span: int) -> NDArray[np.int64]:
    """Column of the relative position of each pair (j, k): [length, length], computed in float32 as in the kernel."""
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    middle = span // 2
    low = np.log(np.float32(middle))
    reach = np.log(np.float32(2 * span - 1)) - low
    factor = np.float32(middle - 1) / reach * np.float32(1 - 1e-7)
    far = np.maximum(np.abs(distance), 1).astype(np.float32)
    steps = np.ceil((np.log(far) - low) * factor).astype(np.int64) + middle
    bucket = np.where(np.abs(distance) <= middle, distance, np.sign(distance) * steps)
    return np.clip(bucket + span, 0, 2 * span - 1)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    a = node.attributes
    length, width = node.static(0, 1), 2 * a["span"]
    column = columns(length, a["span"])
    row = np.arange(length) * width
    content, to_position, to_content = (wide(b, node, i) for i in range(3))
    # Entry (j, k) takes row j of data1 and row k of data2, both in the column of j - k.
    first = b.gather(b.reshape(to_position, 0, length * width), b.const(row[:, None] + column, np.int64), 1)
    second = b.gather(b.reshape(to_content, 0, length * width), b.const(row[None] + column, np.int64), 1)
    total = b.mul(b.add(b.add(content, first), second), b.scalar(a["factor"]))
    return node.function(b, [narrow(b, node, total)])
