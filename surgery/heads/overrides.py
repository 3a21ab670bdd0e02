"""Thresholds that the user gives in place of the graph's, in the graph and in what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from surgery.graph.convert import constant
from surgery.graph.view import body_nodes
from surgery.heads.taps import nms_nodes
from surgery.pipeline import State

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
    import onnx

    state.warn(
        "the pipeline overrides values of the graph: "
        + ", ".join(f"{k}={v}" for k, v in values.items())
        + "; verification compares with the original model that has these values"
    )
    reference = onnx.ModelProto()
    reference.CopyFrom(state.reference)
    for key, value in values.items():
        position, dtype = _OPERANDS[key]
        name = f"surgery_override_{key}"
        array = np.asarray(value, dtype)
        reference.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        for node in nms_nodes(reference.graph):
            while len(node.input) <= position:
                node.input.append("")
            node.input[position] = name
        replacement = constant(name, array)
        for node in list(state.graph.nodes):
            for inner in (node, *body_nodes(node)):
                if inner.op != "NonMaxSuppression":
                    continue
                while len(inner.inputs) <= position:
                    inner.inputs.append(constant(f"{name}_empty", np.asarray(0, dtype)))
                inner.inputs[position] = replacement
    state.reference = reference
