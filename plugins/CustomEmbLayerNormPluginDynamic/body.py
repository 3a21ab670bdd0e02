"""Body of CustomEmbLayerNormPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import given, numbers, size
from surgery.plugins.transformer import (
    embedding_problems,
    embedding_type,
    emit_embeddings,
    hidden_size,
    position_table,
)

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return embedding_problems(attributes)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the outputs."""
    length, batch = given(node, 0).shape or (None, None)
    embedded = TensorType(embedding_type(node), (length, batch, hidden_size(node.attributes), 1, 1))
    return [embedded, TensorType("int32", (batch, 1))][: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    place = numbers(b, size(b, node, 0, 0))
    position = b.unsqueeze(b.gather(position_table(b, node), place, 0), 1)
    _, normal = emit_embeddings(b, node, position)
    embedded = b.unsqueeze(normal, 3, 4)
    if embedding_type(node) == "float16":
        embedded = b.cast(embedded, np.float16)
    masked = b.equal(node.input_names[2], b.const(0, np.int32))
    first = b.where(masked, b.unsqueeze(place, 1), size(b, node, 0, 0))
    lengths = b.cast(b.reduce("ReduceMin", first, 0), np.int32)
    return node.function(b, [embedded, b.transpose(lengths, 1, 0)])
