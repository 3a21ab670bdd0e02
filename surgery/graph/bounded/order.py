"""Which of two sizes is larger, where that holds for every value of the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import FREE, Dim

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds, Elements

COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
"""Operators that :func:`compare` knows."""

EXACT = 2**24
"""Whole numbers below are the same in float32."""

Span = tuple[int | None, int | None]
"""Lowest and highest value; None where there is none."""


def compared(bounds: Bounds, node: gs.Node) -> Elements | None:
    """True, False or None, where it is not known, for each element of a comparison; None if it is not of sizes."""
    left, right = (_sizes(bounds, t) for t in node.inputs)
    if left is None or right is None:
        return None
    one, other = np.broadcast_arrays(left, right)
    found = np.empty(one.shape, object)
    for index in np.ndindex(found.shape):
        found[index] = compare(bounds, node.op, one[index], other[index])
    return found


def compare(bounds: Bounds, op: str, a: Dim, b: Dim) -> bool | None:
    """Whether a comparison holds, for all values or for none; None otherwise."""
    if op in ("Less", "LessOrEqual"):
        return compare(bounds, "Greater" if op == "Less" else "GreaterOrEqual", b, a)
    if a == b:
        return op == "GreaterOrEqual"
    one, other = span(bounds, a), span(bounds, b)
    strict = int(op == "Greater")
    if one[0] is not None and other[1] is not None and one[0] >= other[1] + strict:
        return True
    if one[1] is not None and other[0] is not None and one[1] < other[0] + strict:
        return False
    return None


def span(bounds: Bounds, dim: Dim) -> Span:
    """What a size lies between."""
    from surgery.graph.bounded.choices import not_negative

    if dim.number is not None:
        return dim.number, dim.number
    if not_negative(bounds, dim):
        return 0, bounds.room(dim).number
    if dim.factor != 1 or len(dim.atoms) != 1:
        return None, None
    (atom,) = dim.atoms
    pair = _taken(bounds, atom)
    if pair is None:
        return None, None
    one, other = span(bounds, pair[0]), span(bounds, pair[1])
    return _minus(one[0], other[1]), _minus(one[1], other[0])


def _minus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a - b


def _taken(bounds: Bounds, atom: str) -> tuple[Dim, Dim] | None:
    """What a difference is a difference of."""
    if atom.startswith(FREE):
        op, a, b = bounds.computed.get(atom, ("", Dim(0), Dim(0)))
        return (a, b) if op == "Sub" else None
    source = bounds.sources.get(atom)
    node = source.tensor.inputs[0] if source is not None and source.tensor.inputs else None
    if source is None or node is None or node.op != "Sub" or not atom.startswith("sub("):
        return None
    found = [bounds.elements(t) for t in node.inputs]
    if found[0] is None or found[1] is None:
        return None
    one, other = np.broadcast_arrays(found[0], found[1])
    return one.reshape(-1)[source.index], other.reshape(-1)[source.index]


def _sizes(bounds: Bounds, tensor: Any) -> Elements | None:
    """Sizes, also where they are compared as floats, which are the same numbers if they are small."""
    if tensor.dtype is None or np.dtype(tensor.dtype).kind != "f":
        return bounds.elements(tensor)
    value = bounds.number(tensor)
    if value is not None:
        if value.size > EXACT or not (np.isfinite(value).all() and (value == np.floor(value)).all()):
            return None
        found = np.empty(value.shape, object)
        for index in np.ndindex(value.shape):
            found[index] = Dim(int(value[index]))
        return found
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != "Cast" or np.dtype(tensor.dtype).itemsize < np.dtype(np.float32).itemsize:
        return None
    inner = bounds.elements(node.inputs[0])
    if inner is None:
        return None
    ends = [end for dim in inner.reshape(-1) for end in span(bounds, dim)]
    return inner if all(e is not None and abs(e) < EXACT for e in ends) else None
