"""Quantised operators that become float arithmetic: said once, with what to export to stay in int8."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State

STEPS = ("QuantizeLinear", "DequantizeLinear")

WHOLE = frozenset(
    {
        "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
        "MatMulIntegerToFloat", "QAttention", "QGemm",
    }
)  # fmt: skip
"""Operators on quantised numbers that no TensorRT has, beside those whose names begin with QLinear."""

FIX = (
    "quantise the float model again in QDQ form with signed numbers and zero points of 0 (ONNX Runtime: "
    "quant_format=QuantFormat.QDQ, activation_type=weight_type=QuantType.QInt8, "
    "extra_options={'ActivationSymmetric': True, 'WeightSymmetric': True}; docs/precision.md)"
)


HARMLESS = ("int8", "int32")
"""What is no loss: int8 as TensorRT has it is made float only where the builder does not take it, which is said
elsewhere; int32 is a bias, which TensorRT wants in float."""


def quantised(graph: gs.Graph) -> dict[str, str]:
    """Quantised operators by the name of their node, or of its first result, and what may be wrong with each."""
    producers = {t.name: n for n in graph.nodes for t in n.outputs}
    found = {}
    for node in graph.nodes:
        if node.outputs and (node.op in STEPS or _whole(node.op)):
            found[node.name or node.outputs[0].name] = _kind(node, producers)
    return found


def _whole(kind: str) -> bool:
    """Whether that is an operator; others are types."""
    return kind in WHOLE or kind.startswith("QLinear")


def _kind(node: gs.Node, producers: dict[str, gs.Node]) -> str:
    if node.op not in STEPS:
        return str(node.op)
    zero = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    tensor = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
    dtype = zero.dtype if zero is not None and zero.dtype is not None else tensor.dtype
    if dtype is None and zero is not None and zero.name in producers:
        dtype = _value_type(producers[zero.name])
    # Without a zero point, QuantizeLinear makes uint8.
    name = _name(dtype) if dtype is not None else "uint8" if node.op == "QuantizeLinear" else "?"
    value = _value(zero, producers)
    if zero is None or (value is not None and not np.any(value)):
        return name
    return f"{name} with a zero point that is {'not 0' if value is not None else 'computed'}"


def _name(dtype: Any) -> str:
    """A dtype as it is called; one that NumPy lacks (8-bit floats, halves of bytes) stands as ONNX's number."""
    import onnx

    if isinstance(dtype, int):
        return str(onnx.TensorProto.DataType.Name(dtype)).lower()
    return str(np.dtype(dtype).name)


def _value(tensor: Any, producers: dict[str, gs.Node]) -> Any:
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        return tensor.values
    maker = producers.get(tensor.name) if tensor is not None else None
    made = maker.attrs.get("value") if maker is not None and maker.op == "Constant" else None
    return getattr(made, "values", None)


def _value_type(node: gs.Node) -> Any:
    return getattr(node.attrs.get("value"), "dtype", None) if node.op == "Constant" else None


def tell(state: State, known: dict[str, str], first: int) -> None:
    """Warn of what is computed in float, and note it among the assumptions of its edits.

    Args:
        state: The run, after the rules.
        known: What :func:`quantised` found before them.
        first: Index of the first edit of the rules.
    """
    gone: dict[str, str] = {}
    for index in range(first, len(state.report.edits)):
        edit = state.report.edits[index]
        here = {
            n: known[n]
            for n in edit.nodes_before
            if known.get(n, HARMLESS[0]) not in HARMLESS and ("quantize" in edit.rule or _whole(known[n]))
        }
        if not here:
            continue
        gone.update(here)
        said = f"computed in float32, not in int8: {', '.join(dict.fromkeys(here.values()))}"
        state.report.edits[index] = replace(edit, assumptions=(*edit.assumptions, said))
    if not gone:
        return
    counts = Counter(gone.values())
    kinds = ", ".join(
        f"{kind} ({count})" for kind, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    )
    total = sum(kind not in HARMLESS or kind == "int8" for kind in known.values())
    state.warn(
        f"{len(gone)} of {total} quantised operators are computed in float32, not in int8: {kinds}. "
        f"{state.target.name} has int8 with a constant zero point of 0 alone. The engine may be larger and slower "
        f"than that of the float model. To stay in int8, {FIX}"
    )
