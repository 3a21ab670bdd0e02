"""Tensors whose size depends on data, carried at a fixed size: where the padding is behind each node.

A tensor is padded along one axis; a count says how many entries are real. Behind a node the padding stays padding
if each real entry of the result is computed from real entries alone and stands in front of all that is computed
from padding. This module knows for which operators, and along which axis, that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import value_of
from surgery.graph.infer import is_static

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

PER_ENTRY = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitwiseAnd", "BitwiseNot",
        "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear",
        "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
        "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min",
        "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round",
        "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh",
        "ThresholdedRelu", "Where", "Xor",
    }
)  # fmt: skip
"""Operators that compute each entry from the entries in the same place; their operands broadcast."""

PER_SAMPLE = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
        "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth",
    }
)  # fmt: skip
"""Operators that treat the entries along axis 0 of their first operand alike."""

ALONG = frozenset(
    {
        "ArgMax", "ArgMin", "CumSum", "Hardmax", "LogSoftmax", "Softmax", "TopK", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare", "LpNormalization", "Split",
    }
)  # fmt: skip
"""Operators that work along axes, and treat the entries along all others alike."""

REDUCING = frozenset({"ArgMax", "ArgMin"})


@dataclass(frozen=True, slots=True)
class Padded:
    """How a tensor is padded.

    Attributes:
        axis: The axis, not negative.
        count: Name of the tensor with the number of real entries, int64 of rank 0.
    """

    axis: int
    count: str


def padding_behind(node: gs.Node, padded: Mapping[str, Padded]) -> Padded | None:
    """How the outputs of a node are padded, or None if padding does not stay padding.

    Args:
        node: A node with at least one padded operand; shapes of its operands are known as far as they are.
        padded: Padded tensors by name.
    """
    places = [i for i, t in enumerate(node.inputs) if t.name in padded]
    if node.op in PER_ENTRY:
        return _broadcast(node, padded)
    handler = _HANDLERS.get(node.op)
    if handler is None or len(places) != 1:
        return _concat(node, padded) if node.op == "Concat" else None
    operand = node.inputs[places[0]]
    axis = handler(node, places[0], padded[operand.name].axis)
    return None if axis is None else Padded(axis, padded[operand.name].count)


def _rank(tensor: Any) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)


def _broadcast(node: gs.Node, padded: Mapping[str, Padded]) -> Padded | None:
    """Aligned from the back; whoever is not padded has to be the same for all entries."""
    ranks = [_rank(t) for t in node.inputs if t.name]
    if len(ranks) == 1:
        return padded[node.inputs[0].name]
    if any(r is None for r in ranks):
        return None
    total = max(r for r in ranks if r is not None)
    found: set[Padded] = set()
    for tensor in node.inputs:
        if tensor.name in padded:
            here = padded[tensor.name]
            found.add(Padded(here.axis + total - len(tensor.shape), here.count))
    if len(found) != 1:
        return None
    (result,) = found
    for tensor in node.inputs:
        if tensor.name and tensor.name not in padded:
            own = result.axis - (total - len(tensor.shape))
            if own >= 0 and tensor.shape[own] != 1:
                return None
    return result


def _concat(node: gs.Node, padded: Mapping[str, Padded]) -> Padded | None:
    """Side by side: all of the same number of entries."""
    found = {padded.get(t.name) for t in node.inputs}
    rank = _rank(node.inputs[0])
    if len(found) != 1 or None in found or rank is None:
        return None
    (result,) = found
    return result if result is not None and int(node.attrs["axis"]) % rank != result.axis else None


def _transpose(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[0])
    perm = node.attrs.get("perm")
    if perm is None:
        return None if rank is None else rank - 1 - axis
    return list(perm).index(axis)


def _gather(node: gs.Node, place: int, axis: int) -> int | None:
    data, indices = node.inputs[:2]
    rank = _rank(data)
    if rank is None:
        return None
    along = int(node.attrs.get("axis", 0)) % rank
    if place == 1:
        return along + axis  # padded positions are positions too; their entries come out behind the count
    inner = _rank(indices)
    if along == axis or inner is None:
        return None  # whether the indices are below the count is not known
    return axis if axis < along else axis + inner - 1


def _gather_nd(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[1])
    if place != 1 or node.attrs.get("batch_dims", 0) or rank is None or axis == rank - 1:
        return None
    return axis


def _per_sample(node: gs.Node, place: int, axis: int) -> int | None:
    return 0 if place == 0 and axis == 0 and not node.attrs.get("training_mode", 0) else None


def _normalization(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[0])
    if place != 0 or rank is None:
        return None
    return axis if axis < int(node.attrs.get("axis", -1)) % rank else None


def _axes(node: gs.Node, rank: int) -> list[int] | None:
    """Axes that a node works along, by attribute or constant operand."""
    import onnx_graphsurgeon as gs

    given: Any = node.attrs.get("axes", node.attrs.get("axis"))
    if given is None and node.op == "CumSum":
        given = node.inputs[1]
    elif given is None and node.op.startswith(("Reduce", "Squeeze", "Unsqueeze")) and len(node.inputs) > 1:
        given = node.inputs[1] if node.inputs[1].name else None
    if isinstance(given, gs.Variable):
        return None
    if isinstance(given, gs.Constant):
        given = value_of(given)
    if given is None:
        if node.op.startswith("Reduce"):
            return list(range(rank))
        return [0] if node.op in ("Split", *REDUCING) else [rank - 1]
    return [int(a) % rank for a in np.asarray(given).reshape(-1)]


def _along(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[0])
    if place != 0 or rank is None:
        return None
    axes = _axes(node, rank)
    if axes is None or axis in axes:
        return None
    if (node.op.startswith("Reduce") or node.op in REDUCING) and not node.attrs.get("keepdims", 1):
        return axis - sum(a < axis for a in axes)
    return axis


def _squeeze(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[0])
    if rank is None or place != 0:
        return None
    without = len(node.inputs) < 2 and "axes" not in node.attrs
    if without and not is_static(node.inputs[0].shape):
        return None
    axes = [i for i, d in enumerate(node.inputs[0].shape) if d == 1] if without else _axes(node, rank)
    return None if axes is None or axis in axes else axis - sum(a < axis for a in axes)


def _unsqueeze(node: gs.Node, place: int, axis: int) -> int | None:
    import onnx_graphsurgeon as gs

    rank = _rank(node.inputs[0])
    given = node.attrs.get("axes", node.inputs[1] if len(node.inputs) > 1 else None)
    if rank is None or place != 0 or isinstance(given, gs.Variable) or given is None:
        return None
    values = np.asarray(value_of(given) if isinstance(given, gs.Constant) else given).reshape(-1)
    new = {int(a) % (rank + len(values)) for a in values}
    return [i for i in range(rank + len(values)) if i not in new][axis]


def _reshape(node: gs.Node, place: int, axis: int) -> int | None:
    """The entries stay together if all in front of them does: the same number of rows of the same length."""
    source, result = node.inputs[0].shape, node.outputs[0].shape
    if place != 0 or not is_static(source) or not is_static(result):
        return None
    front = int(np.prod(source[:axis], dtype=np.int64))
    for k in range(len(result)):
        if int(np.prod(result[:k], dtype=np.int64)) == front and result[k] == source[axis]:
            return k
    return None


def _flatten(node: gs.Node, place: int, axis: int) -> int | None:
    rank = _rank(node.inputs[0])
    if rank is None:
        return None
    given = int(node.attrs.get("axis", 1))
    return 0 if axis == 0 and (given + rank if given < 0 else given) == 1 else None


def _slice(node: gs.Node, place: int, axis: int) -> int | None:
    import onnx_graphsurgeon as gs

    rank = _rank(node.inputs[0])
    if place != 0 or rank is None:
        return None
    axes: Any = node.attrs.get("axes")
    if len(node.inputs) > 3 and node.inputs[3].name:
        if not isinstance(node.inputs[3], gs.Constant):
            return None
        axes = value_of(node.inputs[3])
    if axes is None:
        return None
    return None if axis in {int(a) % rank for a in np.asarray(axes).reshape(-1)} else axis


def _matmul(node: gs.Node, place: int, axis: int) -> int | None:
    left, right = (_rank(t) for t in node.inputs[:2])
    if left is None or right is None or left < 2 or right < 2:
        return None
    total, own = max(left, right), (left, right)[place]
    if axis == own - (1 if place == 0 else 2):
        return None  # summed over
    if axis >= own - 2:
        return axis + total - own
    other, aligned = node.inputs[1 - place], axis + total - own
    there = aligned - (total - (left, right)[1 - place])
    return aligned if there < 0 or other.shape[there] == 1 else None


def _gemm(node: gs.Node, place: int, axis: int) -> int | None:
    if place == 0 and axis == (1 if node.attrs.get("transA", 0) else 0):
        bias = node.inputs[2].shape if len(node.inputs) > 2 and node.inputs[2].name else []
        return 0 if bias is not None and (len(bias) < 2 or bias[0] == 1) else None
    return None


_HANDLERS: dict[str, Callable[[Any, int, int], int | None]] = {
    "Transpose": _transpose,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "LayerNormalization": _normalization,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(PER_SAMPLE, _per_sample),
    **dict.fromkeys(ALONG, _along),
}
