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
    embedded = packed_types(node, TensorType("int32", ()))[0]
    return [embedded, embedded][: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    results = [b.unsqueeze(v, 2, 3) for v in emit_embeddings(b, node, packed_positions(b, node))]
    if embedding_type(node) == "float16":
        results = [b.cast(v, np.float16) for v in results]
    return node.function(b, results[::-1])
