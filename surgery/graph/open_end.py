"""Loops whose number of rounds only their values bound: a run of such a model may take any time and memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.taint import SHAPE_ONLY
from surgery.graph.walk import bodies

if TYPE_CHECKING:
    import onnx

MOST_ROUNDS = 1 << 16
"""A constant above is no bound; exporters write "for ever" as the largest number there is."""

FEW = 64
"""Numbers of a constant that is looked at."""

LENGTHS = SHAPE_ONLY | {"SequenceLength"}
"""Operators whose result is as large as a size is, whatever the values are."""

PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Operators whose result holds nothing but numbers of the first operand."""


def has_open_loop(model: onnx.ModelProto) -> bool:
    """Whether a loop of the model, at any depth, has a number of rounds that only values decide.

    What follows from sizes and small constants is a bound. Where that cannot be told, there is none.

    Args:
        model: The model; its functions count, called or not.
    """
    if _among(model.graph.node, _small(model.graph.initializer)):
        return True
    return any(_among(function.node, set()) for function in model.functions)


def _among(nodes: Iterable[onnx.NodeProto], bounded: set[str]) -> bool:
    """Whether one of the nodes or a node in their bodies is such a loop; `bounded` gets what the nodes make."""
    for node in nodes:
        if node.op_type == "Loop" and node.input[0] not in bounded:
            return True
        for body in bodies(node):
            own = bounded - {v.name for v in body.input}
            if _among(body.node, own | _small(body.initializer)):
                return True
        if _is_bounded(node, bounded):
            bounded.update(node.output)
    return False


def _is_bounded(node: onnx.NodeProto, bounded: set[str]) -> bool:
    """Whether the outputs of a node are as small as sizes and constants are."""
    if node.op_type in LENGTHS:
        return True
    if node.op_type == "Constant":
        return _is_small_constant(node)
    given = [name in bounded for name in node.input if name]
    if not given or any(True for _ in bodies(node)):
        return False
    if node.op_type in PICKS:
        return given[0]
    return any(given) if node.op_type == "Min" else all(given)


def _is_small_constant(node: onnx.NodeProto) -> bool:
    import onnx

    for attribute in node.attribute:
        if attribute.name == "value":
            return _is_small(attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            value = np.asarray(onnx.helper.get_attribute_value(attribute))
            return bool(value.size <= FEW and (value <= MOST_ROUNDS).all())
    return False


def _small(tensors: Iterable[onnx.TensorProto]) -> set[str]:
    return {t.name for t in tensors if _is_small(t)}


def _is_small(tensor: onnx.TensorProto) -> bool:
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL or np.prod(tensor.dims, dtype=np.float64) > FEW:
        return False
    value = onnx.numpy_helper.to_array(tensor)
    return value.dtype.kind in "biuf" and bool((value <= MOST_ROUNDS).all())
