"""Convolutions of quantised numbers that the target takes node by node and does not build.

Measured: TensorRT-RTX 1.6 builds no Conv whose data and weights are both int8 ("cudnn_impl.cpp: CHECK(dtype == ...)
failed"); TensorRT-RTX 1.7 builds them. Products (MatMul, Gemm) it builds. So the builder is asked, with the nodes
that it fuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.infer import infer_types

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State
    from surgery.stages.oracle import Oracle

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

MOVED_PAST = frozenset(
    {"Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that TensorRT moves a DequantizeLinear past."""

SIZE = 64
"""What a free dim of an image counts as where the builder is asked."""


def refused_weights(state: State, oracle: Oracle) -> list[gs.Node]:
    """What quantises and dequantises the weights of convolutions of int8 that the builder does not build.

    Without them the weights are float and the convolution is one of float; what comes in keeps its steps. The run
    gets a warning.

    Args:
        state: The run.
        oracle: Asks the builder, once for all that are alike.
    """
    if not state.target.installed:
        return []
    convolutions = [n for n in state.graph.nodes if n.op in CONVOLUTIONS and len(n.inputs) > 1]
    if not convolutions:
        return []
    infer_types(state.graph)
    producers = {t.name: n for n in state.graph.nodes for t in n.outputs if t.name}
    answers: dict[Any, bool] = {}
    found: dict[int, Any] = {}
    names = []
    for node in convolutions:
        data, weights = _steps(node.inputs[0], producers), _steps(node.inputs[1], producers)
        if not data or not weights or any(n.op in MOVED_PAST for n in weights):
            continue
        key = _key([*data, *weights, node])
        if key not in answers:
            whole = oracle.takes_together([*data, *weights, node], SIZE)
            answers[key] = whole or not oracle.takes_together([*weights, node], SIZE)
        if answers[key]:
            continue
        names.append(node.name or node.outputs[0].name)
        found.update({id(n): n for n in weights})
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        state.warn(
            f"{names[0]!r}{more}: the convolution of int8 is computed in float32 with the same steps, for "
            f"{state.target.name} does not build it"
        )
    return list(found.values())


def _steps(tensor: Any, producers: dict[str, gs.Node]) -> list[gs.Node]:
    """The nodes from a QuantizeLinear, or from int8 constants, to a tensor, in order; none if it is not so made."""
    import onnx_graphsurgeon as gs

    found: list[gs.Node] = []
    node = producers.get(tensor.name)
    while node is not None and node.op in MOVED_PAST:
        found.append(node)
        node = producers.get(node.inputs[0].name)
    if node is None or node.op != "DequantizeLinear":
        return []
    found.append(node)
    stored = node.inputs[0]
    before = producers.get(stored.name)
    if before is not None and before.op == "QuantizeLinear":
        found.append(before)
    elif not isinstance(stored, gs.Constant):
        return []
    return [] if stored.dtype is None or np.dtype(stored.dtype) != np.int8 else found[::-1]


def _key(nodes: list[gs.Node]) -> tuple[Any, ...]:
    """What decides the answer: operators, attributes, and shapes."""
    return tuple(
        (n.op, repr(sorted(n.attrs.items())), tuple(str(t.shape) for t in (*n.inputs, *n.outputs)))
        for n in nodes
    )
