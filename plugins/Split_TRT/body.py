"""Body of Split_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.pieces import emit_pieces, piece_problems, piece_types

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return piece_problems(attributes, types)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the pieces."""
    return piece_types(node)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    return emit_pieces(node)
