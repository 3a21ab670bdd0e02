"""Thresholds that the user gives in place of the graph's, in the graph and in what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import constant
from surgery.graph.view import body_nodes
from surgery.heads.taps import nms_nodes
from surgery.pipeline import State

if TYPE_CHECKING:
    import onnx

_OPERANDS = {
    "max_per_class": (2, np.int64),
    "iou_threshold": (3, np.float32),
    "score_threshold": (4, np.float32),
}


def override_nms(state: State, values: Mapping[str, Any]) -> None:
    """Set operands of all NonMaxSuppression nodes, in the current graph and in the reference model.

    Args:
        state: The run; its reference is replaced by a copy with the same values.
        values: Any of max_per_class, iou_threshold, score_threshold.
    """
    state.warn(
        "the pipeline overrides values of the graph: "
        + ", ".join(f"{k}={v}" for k, v in values.items())
        + "; verification compares with the original model that has these values"
    )
    state.reference = override_model(state.reference, values)
    for key, value in values.items():
        position, dtype = _OPERANDS[key]
        replacement = constant(f"surgery_override_{key}", np.asarray(value, dtype))
        for node in list(state.graph.nodes):
            for inner in (node, *body_nodes(node)):
                if inner.op != "NonMaxSuppression":
                    continue
                while len(inner.inputs) <= position:
                    inner.inputs.append(_default(len(inner.inputs)))
                inner.inputs[position] = replacement


def override_model(model: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """A copy of the model whose NonMaxSuppression nodes, those in bodies too, have these operands."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for key, value in values.items():
        position, dtype = _OPERANDS[key]
        name = f"surgery_override_{key}"
        changed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        for node in nms_nodes(changed.graph):
            while len(node.input) <= position:
                node.input.append("")
            node.input[position] = name
    return changed


def _default(position: int) -> Any:
    """What NonMaxSuppression takes for an operand that is left out (ONNX operator, opset 11)."""
    defaults: dict[int, Any] = {
        2: np.asarray(0, np.int64),
        3: np.asarray(0, np.float32),
        4: np.asarray(-3.0e38, np.float32),
    }
    return constant(f"surgery_default_{position}", defaults[position])
