"""Choices between sizes: which one a Where takes, if that is known for every value of the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import FREE, Dim
from surgery.graph.bounded.order import COMPARISONS, compared
from surgery.graph.bounded.sums import surely_not_negative

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds, Elements

MOST_STEPS = 8
"""Nodes between a comparison of sizes and the choice that it makes."""


def choose_sizes(bounds: Bounds, node: gs.Node, operands: list[Elements | None]) -> Elements | None:
    """The sizes that a Where takes; None if its condition is not known, or it chooses from what are no sizes.

    Args:
        bounds: What is known of sizes.
        node: The Where.
        operands: What its operands stand for; that of the condition is not looked at.
    """
    if operands[1] is None or operands[2] is None:
        return None
    holds = _truth(bounds, node.inputs[0], MOST_STEPS)
    if holds is None:
        return None
    arrays = np.broadcast_arrays(holds, operands[1], operands[2])
    found = np.empty(arrays[0].shape, object)
    for index in np.ndindex(found.shape):
        condition, one, other = (a[index] for a in arrays)
        if condition is None and one != other:
            return None
        found[index] = one if condition or condition is None else other
    return found


def ones_and_zeros(bounds: Bounds, tensor: Any) -> Elements | None:
    """A condition as whole numbers, if it is known."""
    holds = _truth(bounds, tensor, MOST_STEPS)
    if holds is None or any(h is None for h in holds.reshape(-1)):
        return None
    return _each(lambda h: Dim(int(h)), holds)


def _truth(bounds: Bounds, tensor: Any, depth: int) -> Elements | None:
    """True, False or None, where it is not known, for each element of a condition."""
    value = bounds.number(tensor)
    if value is not None:
        return value.astype(object) if value.size <= np.iinfo(np.int16).max else None
    node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
    if node is None or not depth or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op == "Cast" and int(node.attrs.get("to", 0)) == 9 and node.inputs[0].dtype == np.bool_:
        return _truth(bounds, node.inputs[0], depth - 1)
    if node.op == "Not":
        inner = _truth(bounds, node.inputs[0], depth - 1)
        return None if inner is None else _each(lambda a: None if a is None else not a, inner)
    if node.op in COMPARISONS:
        return compared(bounds, node)
    if node.op != "Equal":
        return None
    left, right = (bounds.elements(t) for t in node.inputs)
    return None if left is None or right is None else _each(lambda a, b: _same(bounds, a, b), left, right)


def _each(function: Any, *arrays: Elements) -> Elements:
    wide = np.broadcast_arrays(*arrays)
    found = np.empty(wide[0].shape, object)
    for index in np.ndindex(found.shape):
        found[index] = function(*(a[index] for a in wide))
    return found


def _same(bounds: Bounds, a: Dim, b: Dim) -> bool | None:
    if a == b:
        return True
    if a.number is not None and b.number is not None:
        return False
    for one, other in ((a, b), (b, a)):
        if one.number is not None and one.number < 0 and not_negative(bounds, other):
            return False
    return None


def not_negative(bounds: Bounds, dim: Dim) -> bool:
    """Whether a size is surely one, and not the difference of two that may be below 0."""
    return dim.factor >= 0 and all(_natural(bounds, atom) for atom in dim.atoms)


def _natural(bounds: Bounds, atom: str) -> bool:
    if atom in bounds.terms:
        return surely_not_negative(bounds.terms[atom], bounds.present)
    if atom in bounds.computed:
        op, a, b = bounds.computed[atom]
        return op != "Sub" and not_negative(bounds, a) and not_negative(bounds, b)
    if atom.startswith(("add(", "div(", "max(", "min(")):
        return ",-" not in atom and "(-" not in atom and "sub(" not in atom
    return not atom.startswith(("sub(", f"{FREE}sub("))
