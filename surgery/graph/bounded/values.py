"""Whole numbers computed from data that have a largest value: how many of so many entries something holds for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.choices import not_negative
from surgery.graph.bounded.dims import ONE, Dim, product
from surgery.graph.bounded.wanted import count, limit_of, shape_from_data, whole
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

MOST_STEPS = 32
"""Nodes in a row that are looked at."""

EXACT = 2**24
"""Whole numbers up to here are the same in all types of floats but the small ones."""

SAME = frozenset({"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Gather", "Slice"})
"""Operators whose results are numbers of the first operand."""


def limited(bounds: Bounds, node: gs.Node) -> bool:
    """Whether a node makes something as long as a number from data, which is bounded; that is a size from then on."""
    if node.op != "Range" or node.domain not in (None, "", "ai.onnx"):
        return shape_from_data(bounds, node)
    start, limit, step = node.inputs
    floats = limit.dtype is not None and np.dtype(limit.dtype).kind == "f"
    if floats and (known := whole(bounds, limit)) is not None:
        return not known.reshape(-1)[0].exact
    if limit.dtype is None or np.dtype(limit.dtype).kind not in "iu" or bounds.elements(limit) is not None:
        return False
    first, by = bounds.number(start), bounds.number(step)
    if first is None or by is None or first.reshape(-1)[0] != 0 or by.reshape(-1)[0] != 1:
        return False
    largest = limit_of(bounds, limit, node)
    if largest is None:
        return False
    count(bounds, limit, largest)
    return True


def largest_value(bounds: Bounds, tensor: Any, steps: int = MOST_STEPS) -> Dim | None:
    """What no number of a tensor exceeds, if none is below 0: it follows from the sizes of the inputs.

    Args:
        bounds: What is known of sizes.
        tensor: The tensor; one of bool counts as 0 and 1.
        steps: Nodes in a row to look at.
    """
    if tensor.dtype is not None and np.dtype(tensor.dtype) == np.bool_:
        return ONE
    value = bounds.number(tensor)
    if value is not None:
        whole = value.size and (value >= 0).all() and (value == np.floor(value)).all()
        return Dim(int(value.max())) if whole else None
    sizes = bounds.elements(tensor)
    if sizes is not None:
        known = [bounds.room(d) if not_negative(bounds, d) else None for d in sizes.reshape(-1)]
        return _most(known)
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or not steps or node.domain not in (None, "", "ai.onnx"):
        return None
    return _behind(bounds, node, steps - 1)


def _behind(bounds: Bounds, node: gs.Node, steps: int) -> Dim | None:
    def of(place: int) -> Dim | None:
        return largest_value(bounds, node.inputs[place], steps)

    if node.op in SAME:
        return of(0)
    if node.op == "Cast":
        return _cast(of(0), int(node.attrs["to"]))
    if node.op == "Where":
        return _most([of(1), of(2)])
    if node.op in ("Max", "Concat"):
        return _most([of(i) for i in range(len(node.inputs))])
    if node.op == "Min":
        known = [of(i) for i in range(len(node.inputs))]
        return None if None in known else _least(bounds, [k for k in known if k is not None])
    chosen = _select(node) if node.op == "Add" else None
    if chosen is not None:
        return _most([largest_value(bounds, t, steps) for t in chosen])
    if node.op in ("Add", "Mul") and np.dtype(node.outputs[0].dtype or np.float32).kind in "iu":
        one, other = of(0), of(1)
        if one is None or other is None:
            return None
        return one * other if node.op == "Mul" else bounds.exact("Add", one, other)
    if node.op in ("ReduceMax", "ReduceMin"):
        return of(0)
    if node.op == "Clip":
        return _clipped(bounds, node, of(0))
    if node.op in ("ArgMax", "ArgMin"):
        return _last_place(bounds, node)
    if node.op == "ReduceSum" and np.dtype(node.inputs[0].dtype or np.float32).kind in "iu":
        return _sum(bounds, node, of(0))
    return None


def _select(node: gs.Node) -> list[Any] | None:
    """The two numbers that one is chosen from, where that is written as the sum of products with 1 and 0."""
    parts = []
    for tensor in node.inputs:
        product_of = tensor.inputs[0] if tensor.inputs else None
        if product_of is None or product_of.op != "Mul":
            return None
        for one, other in (product_of.inputs, product_of.inputs[::-1]):
            cast = one.inputs[0] if one.inputs else None
            if cast is not None and cast.op == "Cast" and cast.inputs[0].dtype == np.bool_:
                parts.append((cast.inputs[0], other))
                break
    if len(parts) != 2:
        return None
    (first, one), (second, other) = parts
    for a, b in ((first, second), (second, first)):
        if b.inputs and b.inputs[0].op == "Not" and b.inputs[0].inputs[0] is a:
            return [one, other]
    return None


def _clipped(bounds: Bounds, node: gs.Node, found: Dim | None) -> Dim | None:
    """Numbers that are clipped to 0 or more, and to a largest one."""
    ends = []
    for place, name in ((1, "min"), (2, "max")):
        value = (
            bounds.number(node.inputs[place])
            if len(node.inputs) > place and node.inputs[place].name
            else None
        )
        ends.append(node.attrs.get(name) if value is None else float(value.reshape(-1)[0]))
    low, high = ends
    if found is None and (low is None or low < 0):
        return None
    if high is not None and 0 <= high < EXACT:
        top = Dim(int(np.ceil(high)))
        found = top if found is None else bounds.exact("Min", found, top)
    if found is not None and low is not None and low > 0:
        return bounds.exact("Max", found, Dim(int(np.ceil(low))))
    return found


def _last_place(bounds: Bounds, node: gs.Node) -> Dim | None:
    """What is behind the last place along an axis."""
    try:
        dims = bounds.dims(node.inputs[0])
    except No:
        return None
    return bounds.room(dims[int(node.attrs.get("axis", 0)) % len(dims)])


def _cast(found: Dim | None, to: int) -> Dim | None:
    """Numbers in another type: small ones are the same in all of them."""
    import onnx

    if found is None or found == ONE or to in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
        return found
    exact = to in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return found if exact and found.number is not None and found.number < EXACT else None


def _sum(bounds: Bounds, node: gs.Node, each: Dim | None) -> Dim | None:
    axes: Any = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        axes = bounds.number(node.inputs[1])
        if axes is None:
            return None
    try:
        dims = [bounds.room(d) for d in bounds.dims(node.inputs[0])]
    except No:
        return None
    if each is None:
        return None
    if axes is None or not np.asarray(axes).size:
        return None if node.attrs.get("noop_with_empty_axes", 0) else each * product(dims)
    return each * product([dims[int(a)] for a in np.asarray(axes).reshape(-1)])


def _most(known: list[Dim | None]) -> Dim | None:
    """The largest of some, if it is known which one that is."""
    found = [k for k in known if k is not None]
    if len(found) != len(known) or not found:
        return None
    numbers = [d.number for d in found if d.number is not None]
    if len(numbers) == len(found):
        return Dim(max(numbers))
    return found[0] if all(d == found[0] for d in found) else None


def _least(bounds: Bounds, known: list[Dim]) -> Dim:
    result = known[0]
    for dim in known[1:]:
        result = bounds.exact("Min", result, dim)
    return result
