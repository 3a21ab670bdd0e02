"""Sizes that come from data: the numbers that decide them are counts, if something says how large they can be.

What says so is the model (a number of entries that something holds for, what is clipped, the place of a largest
entry), or the user, for numbers that nothing in the model bounds (durations).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import Dim

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Slice": 2, "Tile": 1}
"""Operators, and the operand that says the shape, or the end, of what they make."""

CARRYING = frozenset(
    {
        "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Identity", "Max", "Min", "Mul", "ReduceProd",
        "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators through which a shape is followed back to the numbers that it is computed from."""

FIRST_ALONE = frozenset(
    {"Cast", "Flatten", "Gather", "Identity", "ReduceProd", "Reshape", "Slice", "Squeeze", "Unsqueeze"}
)
"""Those of them whose further operands only say how."""

LAYOUT_ALONE = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that keep all entries in their order."""

PICKING = LAYOUT_ALONE | {"Cast", "Gather", "Slice", "Split"}
"""Operators whose results are entries of the first operand."""

SAME_ALONE = LAYOUT_ALONE | {"ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd"}
"""Operators that make of a tensor of one element one of the same number."""

MOST_STEPS = 64
"""Tensors that are looked at."""

MOST_NUMBERS = 16
"""Elements of a tensor of numbers that can be sizes."""


def shape_from_data(bounds: Bounds, node: gs.Node) -> bool:
    """Whether the shape that a node wants comes from data and is bounded; its numbers are sizes from then on."""
    place = SHAPES.get(node.op)
    if place is None or node.domain not in (None, "", "ai.onnx") or len(node.inputs) <= place:
        return False
    shape = node.inputs[place]
    if bounds.elements(shape) is not None or (node.op == "Slice" and not _forwards(bounds, node)):
        return False
    leaves: dict[str, Any] = {}
    path: list[str] = []
    if not _follow_back(bounds, shape, leaves, path) or not leaves:
        return False
    limits = {name: limit_of(bounds, leaf, node) for name, leaf in leaves.items()}
    if any(limit is None for limit in limits.values()):
        return False
    for name, leaf in leaves.items():
        count(bounds, leaf, limits[name] or Dim(0))
    bounds.opaque.difference_update(path)
    return bounds.elements(shape) is not None


def _forwards(bounds: Bounds, node: gs.Node) -> bool:
    """Whether a Slice runs from numbers that are not below 0 in steps of 1."""
    steps = bounds.number(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4].name else np.ones(1)
    starts = bounds.number(node.inputs[1])
    return starts is not None and bool((starts >= 0).all()) and steps is not None and bool((steps == 1).all())


def limit_of(bounds: Bounds, tensor: Any, node: gs.Node) -> Dim | None:
    """The largest that numbers from data can be; what nothing bounds is noted, with the node that wants it."""
    from surgery.graph.bounded.values import largest_value

    found = largest_value(bounds, tensor)
    if found is not None:
        return found
    if tensor.name in bounds.given:
        return Dim(bounds.given[tensor.name])
    if not _read_off_an_input(tensor) and node.op != "Slice" and bounds.refuses(node):
        bounds.open[tensor.name] = (tensor, node)
    return None


def _read_off_an_input(tensor: Any) -> bool:
    """Whether numbers are entries of inputs of whole numbers, which are asked for by their names."""
    stack, steps = [tensor], 0
    while stack:
        here = stack.pop()
        steps += 1
        if not here.inputs:
            if here.dtype is None or np.dtype(here.dtype).kind not in "iu":
                return False
            continue
        node = here.inputs[0]
        if steps > MOST_STEPS or node.op not in PICKING:
            return False
        stack.append(node.inputs[0])
    return True


def count(bounds: Bounds, tensor: Any, limit: Dim) -> None:
    """Take the numbers of a tensor for sizes that are at most so large."""
    found = np.empty(tuple(int(d) for d in tensor.shape), object)
    for flat, index in enumerate(np.ndindex(found.shape)):
        name = same_number(bounds, tensor) if found.size == 1 else f"{tensor.name}[{flat}]"
        found[index] = bounds.atom(name, tensor, flat, limit)
        if tensor.name in bounds.given and limit.number == bounds.given[tensor.name]:
            bounds.limited.setdefault(name, limit.number)
    bounds.sizes[tensor.name] = found


def _follow_back(bounds: Bounds, tensor: Any, leaves: dict[str, Any], path: list[str]) -> bool:
    """Collect the numbers from data behind a shape; False if it does not come from a few whole numbers."""
    stack = [tensor]
    while stack:
        here = stack.pop()
        if here.name in path or bounds.elements(here) is not None:
            continue
        path.append(here.name)
        if len(path) > MOST_STEPS or here.name in bounds.padded:
            return False
        if here.dtype is None or np.dtype(here.dtype).kind not in "iu":
            return False
        node = here.inputs[0] if here.inputs else None
        if node is not None and node.op in CARRYING and _whole(node):
            operands = node.inputs[:1] if node.op in FIRST_ALONE else node.inputs
            stack += [t for t in operands[1 if node.op == "Where" else 0 :] if t.name]
            continue
        static = here.shape is not None and all(isinstance(d, int) for d in here.shape)
        if not static or not 0 < int(np.prod(here.shape)) <= MOST_NUMBERS:
            return False
        leaves[here.name] = here
    return True


def _whole(node: gs.Node) -> bool:
    """Whether a node computes few whole numbers from few whole numbers."""
    operands = node.inputs[:1] if node.op in FIRST_ALONE else node.inputs[1 if node.op == "Where" else 0 :]
    for tensor in operands:
        if tensor.dtype is None or np.dtype(tensor.dtype).kind not in "iu" or tensor.shape is None:
            return False
        if not all(isinstance(d, int) for d in tensor.shape) or int(np.prod(tensor.shape)) > MOST_NUMBERS:
            return False
    return True


def whole(bounds: Bounds, tensor: Any) -> Any:
    """The sizes that a tensor stands for, also as floats; None if it is not made of sizes."""
    found = bounds.elements(tensor)
    node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
    if found is None and node is not None and node.op == "Cast":
        return bounds.elements(node.inputs[0])
    return found


def same_number(bounds: Bounds, tensor: Any) -> str:
    """A name for a number from data: the same for tensors that surely hold the same number.

    Args:
        bounds: What is known of sizes.
        tensor: A tensor of one element.
    """
    node = _default(tensor)
    if node is not None and _one(bounds, node.inputs[0] if node.inputs else None):
        if node.op in SAME_ALONE or (node.op == "Cast" and _exact_cast(node)):
            return same_number(bounds, node.inputs[0])
    elif node is not None and node.op == "ReduceSum":
        return f"sum({_same_entries(bounds, node.inputs[0])})"
    return str(tensor.name)


def _same_entries(bounds: Bounds, tensor: Any) -> str:
    """A name for the entries of a tensor, in any order and shape."""
    node = _default(tensor)
    if node is None:
        return str(tensor.name)
    if node.op in LAYOUT_ALONE | {"Transpose"} or (node.op == "Cast" and _exact_cast(node)):
        return _same_entries(bounds, node.inputs[0])
    if node.op == "Split" and len(node.outputs) == 1:
        return _same_entries(bounds, node.inputs[0])
    if node.op == "Expand" and _like(bounds, tensor, node.inputs[0]):
        return _same_entries(bounds, node.inputs[0])
    if node.op == "Where" and all(_like(bounds, tensor, t) for t in node.inputs[1:]):
        one, other = (_same_entries(bounds, t) for t in node.inputs[1:])
        if one == other:
            return one
    return str(tensor.name)


def _default(tensor: Any) -> Any:
    node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
    return node if node is not None and node.domain in (None, "", "ai.onnx") else None


def _one(bounds: Bounds, tensor: Any) -> bool:
    """Whether a tensor has one element."""
    from surgery.graph.bounded.work import No

    try:
        return tensor is not None and all(d.number == 1 for d in bounds.dims(tensor))
    except No:
        return False


def _like(bounds: Bounds, one: Any, other: Any) -> bool:
    """Whether two tensors have the same sizes."""
    from surgery.graph.bounded.work import No

    try:
        return bounds.dims(one) == bounds.dims(other)
    except No:
        return False


def _exact_cast(node: gs.Node) -> bool:
    """Whether a Cast leaves whole numbers as they are."""
    dtype = node.inputs[0].dtype
    return (
        dtype is not None and np.dtype(dtype) in (np.bool_, np.int32, np.int64) and int(node.attrs["to"]) == 7
    )
