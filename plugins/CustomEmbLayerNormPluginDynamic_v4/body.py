"""Body of CustomEmbLayerNormPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.transformer import (
    embedding_problems,
    embedding_type,
    emit_embeddings,
    packed_positions,
    packed_types,
)

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return embedding_problems(attributes)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the outputs."""
    return packed_types(node, TensorType("int32", ()))


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    _, normal = emit_embeddings(b, node, packed_positions(b, node))
    embedded = b.unsqueeze(normal, 2, 3)
    if embedding_type(node) == "float16":
        embedded = b.cast(embedded, np.float16)
    return node.function(b, [embedded, b.const(0, np.int32)])
