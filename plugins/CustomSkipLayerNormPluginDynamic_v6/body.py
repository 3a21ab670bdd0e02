"""Body of CustomSkipLayerNormPluginDynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.lowered import mixed_floats, type_id_problems
from surgery.plugins.transformer import TYPE_IDS, emit_skip, skip_problems

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    found = skip_problems(attributes, int(np.asarray(attributes["gamma"]).size))
    return found + type_id_problems(attributes, types, TYPE_IDS) + mixed_floats(types, 0, 1)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_skip(b, node)])
