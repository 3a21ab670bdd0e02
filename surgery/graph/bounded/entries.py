"""Which tensors surely have entries, where sizes are free: the inputs of a model have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.bounded.dims import FREE

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

SCATTERING = frozenset({"ScatterElements", "ScatterND", "Scatter"})
"""Operators that make a tensor like their first operand."""

LIVELY = PER_ENTRY | SCATTERING | {
    "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "MatMul", "Gemm", "Softmax", "LogSoftmax", "Shape",
    "LayerNormalization", "RMSNormalization", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "Gather",
}  # fmt: skip
"""Operators that make something of something: no entries come from none alone."""

MOST_STEPS = 256
"""Nodes that are looked at to see whether a tensor has entries."""


def has_entries(bounds: Bounds, tensor: Any) -> bool:
    """Whether a tensor surely has entries."""
    stack, seen = [tensor], set()
    while stack:
        here = stack.pop()
        if here.name in seen or not here.name:
            continue
        seen.add(here.name)
        if len(seen) > MOST_STEPS or here.name in bounds.padded:
            return False
        follows = _follows_from(bounds, here)
        if follows is None:
            return False
        stack += follows
    return True


def _follows_from(bounds: Bounds, tensor: Any) -> list[Any] | None:
    """Tensors such that this one has entries if they have; None if that cannot be told."""
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        return None if 0 in tuple(tensor.shape) else []
    if tensor.shape is not None:
        made = bool(tensor.inputs) and tensor.inputs[0].op == "ConstantOfShape"
        exact = bounds.exact_dims(tensor) if made else bounds.known_dims(tensor)
        behind = [_behind(bounds, dim, exact.get(axis)) for axis, dim in enumerate(tensor.shape)]
        if all(b is not None for b in behind):
            return [t for b in behind for t in b or ()]
    if not tensor.inputs:
        return []  # an input
    node = tensor.inputs[0]
    if node.op == "ConstantOfShape" and node.inputs[0].inputs and node.inputs[0].inputs[0].op == "Shape":
        return [node.inputs[0].inputs[0].inputs[0]]
    if node.op not in LIVELY or node.domain not in (None, "", "ai.onnx"):
        return None
    return list(node.inputs[:1] if node.op in SCATTERING else node.inputs)


def _behind(bounds: Bounds, dim: Any, exact: Any) -> list[Any] | None:
    """Tensors such that a size is not 0 if they have entries; None if that cannot be told."""
    if isinstance(dim, int):
        return [] if dim else None
    if isinstance(dim, str) and dim in bounds.named:
        return []
    if exact is None or not exact.factor:
        return None
    found = []
    for atom in exact.atoms:
        if atom.removeprefix(FREE) in bounds.named:
            continue
        if atom not in bounds.frees:
            return None
        found.append(bounds.frees[atom][0])
    return found


def first_alone(bounds: Bounds, node: gs.Node) -> list[int]:
    """Axes along which a Slice takes the first entry, and there is one."""
    given = [bounds.number(t) if t.name else None for t in node.inputs[1:5]]
    if any(v is None and t.name for v, t in zip(given, node.inputs[1:5], strict=True)):
        return []
    starts, ends, axes, steps = (*given, None, None)[:4]
    data = node.inputs[0]
    if starts is None or ends is None or data.shape is None or not has_entries(bounds, data):
        return []
    places = np.arange(len(starts)) if axes is None else axes
    strides = np.ones(len(starts), np.int64) if steps is None else steps
    rows = zip(places, starts, ends, strides, strict=True)
    return [int(a) % len(data.shape) for a, start, end, step in rows if start == 0 and end == 1 and step > 0]
