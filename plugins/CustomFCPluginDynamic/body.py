"""Body of CustomFCPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import narrow, type_id_problems, weights, wide
from surgery.plugins.transformer import TYPE_IDS

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = type_id_problems(attributes, types, TYPE_IDS)
    count, wanted = np.asarray(attributes["W"]).size, attributes["out_dims"]
    depth = types[0].shape[2] if types and types[0] is not None and types[0].shape else None
    if count % wanted or (isinstance(depth, int) and count != depth * wanted):
        found.append(f"W has {count} values; expected {depth if isinstance(depth, int) else 'K'} * {wanted}")
    return found


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    matrix = b.const(weights(node.attributes["W"], -1, node.attributes["out_dims"]))
    y = b.op("MatMul", b.squeeze(wide(b, node, 0), 3, 4), matrix)
    return node.function(b, [narrow(b, node, b.unsqueeze(y, 3, 4))])
