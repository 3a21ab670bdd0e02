"""Arithmetic on sizes: what a tensor of sizes becomes behind the operators that exporters compute sizes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.choices import choose_sizes, not_negative, ones_and_zeros
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.spans import known_sum, note, terms_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds, Elements

SIZE_OPS = frozenset(
    {
        "Add", "Cast", "Concat", "Div", "Gather", "Identity", "Max", "Min", "Mul", "ReduceProd", "Reshape", "Slice",
        "Squeeze", "Sub", "Unsqueeze", "Where", "Flatten", "ReduceMin", "ReduceMax", "ReduceSum", "Transpose",
    }
)  # fmt: skip
"""Operators whose results on sizes are sizes."""


def compute_sizes(bounds: Bounds, node: gs.Node) -> Elements | None:
    """The sizes that a node's output stands for; None if its operands are no sizes, or the result is none."""
    if any(t.name in bounds.padded for t in node.inputs):
        return None
    operands = [bounds.elements(t) if t.name else None for t in node.inputs]
    if node.op == "Cast" and node.inputs[0].dtype == np.bool_:
        operands = [ones_and_zeros(bounds, node.inputs[0])]
    if operands[0] is None and node.op != "Where":
        return None
    found = (choose_sizes if node.op == "Where" else _compute)(bounds, node, operands)
    return found if found is not None and all(isinstance(d, Dim) for d in found.reshape(-1)) else None


def _compute(bounds: Bounds, node: gs.Node, operands: list[Elements | None]) -> Elements | None:
    first = operands[0]
    if node.op in ("Cast", "Identity"):
        return first if node.op == "Identity" or int(node.attrs.get("to", 0)) in (6, 7) else None
    if node.op in ("Add", "Sub", "Mul", "Div", "Min", "Max"):
        return _arithmetic(bounds, node, operands)
    if first is None:
        return None
    if node.op in ("Squeeze", "Unsqueeze", "Reshape", "Flatten"):
        return _layout(bounds, node, first)
    if node.op == "Concat":
        if any(o is None for o in operands):
            return None
        return np.concatenate([o for o in operands if o is not None], int(node.attrs["axis"]))
    if node.op == "Gather":
        index = bounds.number(node.inputs[1])
        axis = int(node.attrs.get("axis", 0))
        return None if index is None else _array(np.take(first, index.astype(np.int64), axis))
    if node.op == "Slice":
        return _slice(bounds, node, first)
    if node.op == "Transpose":
        return np.transpose(first, node.attrs.get("perm"))
    if node.op == "ReduceProd":
        result = Dim(1)
        for dim in first.reshape(-1):
            result = result * dim
        return _array(result).reshape([1] * first.ndim if node.attrs.get("keepdims", 1) else [])
    if node.op in ("ReduceMin", "ReduceMax", "ReduceSum") and first.ndim == 1:
        return _reduced(bounds, node, first)
    return None


def _reduced(bounds: Bounds, node: gs.Node, first: Elements) -> Elements | None:
    """The smallest, largest or sum of a vector of sizes."""
    dims = list(first)
    result = dims[0]
    for dim in dims[1:]:
        if node.op == "ReduceMin":
            result = bounds.smaller(result, dim)
        elif result.exact and dim.exact:
            result = bounds.exact("Max" if node.op == "ReduceMax" else "Add", result, dim)
        else:
            return None
    return _array(result).reshape([1] if node.attrs.get("keepdims", 1) else [])


def _array(value: Any) -> Elements:
    if isinstance(value, np.ndarray):
        return value
    result = np.empty((), object)
    result[()] = value
    return result


def _layout(bounds: Bounds, node: gs.Node, first: Elements) -> Elements | None:
    if node.op == "Reshape":
        shape = bounds.number(node.inputs[1])
        return None if shape is None else first.reshape([int(s) for s in shape])
    if node.op == "Flatten":
        return first.reshape(1, -1) if first.ndim < 2 else None
    axes: Any = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = bounds.number(node.inputs[1])
        if axes is None:
            return None
    if node.op == "Squeeze":
        if axes is None:
            return first.squeeze()
        return first.squeeze(tuple(int(a) for a in np.asarray(axes).reshape(-1)))
    return _array(np.expand_dims(first, tuple(int(a) for a in np.asarray(axes).reshape(-1))))


def _slice(bounds: Bounds, node: gs.Node, first: Elements) -> Elements | None:
    parts: list[list[int] | None] = []  # starts, ends, axes, steps
    if "starts" in node.attrs:
        parts = [[int(v) for v in node.attrs[n]] for n in ("starts", "ends", "axes") if n in node.attrs]
    else:
        for tensor in node.inputs[1:]:
            value = bounds.number(tensor) if tensor.name else None
            if tensor.name and value is None:
                return None
            parts.append(None if value is None else [int(v) for v in value.reshape(-1)])
    starts, ends, axes, steps = (*parts, None, None)[:4]
    if starts is None or ends is None:
        return None
    places = [slice(None)] * first.ndim
    for i, axis in enumerate(axes or range(len(starts))):
        places[axis] = slice(starts[i], ends[i], steps[i] if steps else 1)
    return first[tuple(places)]


def _arithmetic(bounds: Bounds, node: gs.Node, operands: list[Elements | None]) -> Elements | None:
    if any(o is None for o in operands):
        return None
    known = [o for o in operands if o is not None]
    arrays = np.broadcast_arrays(*known)
    result = np.empty(arrays[0].shape, object)
    for flat, index in enumerate(np.ndindex(result.shape)):
        dims = [a[index] for a in arrays]
        value = dims[0]
        for other in dims[1:]:
            value = _two(bounds, node, value, other, flat, last=len(dims) == 2)
            if value is None:
                return None
        result[index] = value
    return result


def _two(bounds: Bounds, node: gs.Node, a: Dim, b: Dim, flat: int, *, last: bool) -> Dim | None:
    """One size from two; a new one of a name of its own where it is no product."""
    op = node.op
    if op == "Mul":
        return a * b
    if op == "Div" and b.number == 0:
        return None
    if op in ("Min", "Max") and a == b:
        return a
    if op == "Div" and a.over(b) is not None:
        return a.over(b)
    if (op in ("Add", "Sub") and b.number == 0) or (op == "Div" and b.number == 1):
        return a
    if op == "Add" and a.number == 0:
        return b
    if op == "Min":
        return bounds.smaller(a, b)
    if a.exact and b.exact:
        return bounds.exact(op, a, b)
    terms = _terms(bounds, op, a, b)
    known = known_sum(bounds, terms) if terms is not None else None
    if known is not None and not_negative(bounds, known):
        return known
    if not last or node.outputs[0].dtype is None or (op == "Div" and b.number is None):
        return None
    room = bounds.room(a)
    if op != "Sub" or b.number is not None:
        room = bounds.exact(op, room, bounds.room(b))
    found = bounds.atom(f"{op.lower()}({a},{b})", node.outputs[0], flat, room)
    return found if terms is None else note(bounds, found, terms)


def _terms(bounds: Bounds, op: str, a: Dim, b: Dim) -> sums.Terms | None:
    """What is computed from two sizes as a sum of products; None if it is none."""
    one, other = terms_of(bounds, a), terms_of(bounds, b)
    if op in ("Add", "Sub"):
        return sums.plus(one, other, 1 if op == "Add" else -1)
    if op == "Div" and b.number and b.number > 0 and not_negative(bounds, a):
        return sums.whole_part(one, b.number)
    return None
