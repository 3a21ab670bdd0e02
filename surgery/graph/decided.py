"""What conditions are whatever the data, as far as the numbers and sizes that they compare are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.graph.scope import Scope, known_value

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.dims import Dim
    from surgery.graph.bounded.work import Bounds

    Range = tuple[int | None, int | None]

THROUGH = frozenset({"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Cast"})
"""Operators that leave it open whether the one element of a tensor is 0 or not."""

COMPARED = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"})
"""Comparisons of whole numbers."""

DEEPEST = 64
"""Nodes in a row through which a condition is traced."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of one graph.

    Attributes:
        bounds: What is known of sizes.
    """

    bounds: Bounds

    def decided(self, tensor: Any, scope: Scope, depth: int = DEEPEST) -> bool | None:
        """What a condition is whatever the data; None if that depends on it.

        Args:
            tensor: bool tensor of one element, or one that becomes one.
            scope: The graph it belongs to, with what is known there.
            depth: How many nodes to look back.
        """
        known = known_value(tensor, scope)
        if known is not None:
            return bool(known.reshape(-1)[0]) if known.size == 1 else None
        owner = scope.owner(tensor.name) if tensor.name else None
        node = None if owner is None else owner.producers.get(tensor.name)
        if node is None or owner is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
            return None
        if node.op in THROUGH:
            return self.decided(node.inputs[0], owner, depth - 1)
        if node.op in COMPARED:
            one, other = (self._range(t, owner, depth - 1) for t in node.inputs)
            return _compared(str(node.op), one, other)
        if node.op == "If":
            return self._of_branches(node, tensor, owner, depth)
        if node.op not in ("Not", "And", "Or", "Where"):
            return None
        values = [self.decided(t, owner, depth - 1) for t in node.inputs]
        if node.op == "Not":
            return None if values[0] is None else not values[0]
        if node.op == "Where":
            return _either(values[0], values[1], values[2])
        decisive = bool(node.op == "Or")
        if decisive in values:
            return decisive
        return None if None in values else not decisive

    def _of_branches(self, node: gs.Node, tensor: Any, scope: Scope, depth: int) -> bool | None:
        """What the branches of an If say."""
        place = next(i for i, t in enumerate(node.outputs) if t.name == tensor.name)
        found = []
        for name in ("then_branch", "else_branch"):
            branch = node.attrs[name]
            found.append(self.decided(branch.outputs[place], Scope(branch, scope), depth - 1))
        return _either(self.decided(node.inputs[0], scope, depth - 1), *found)

    def _range(self, tensor: Any, scope: Scope, depth: int) -> Range:
        """Least and greatest whole number that a tensor of one element can be; None for those that are open."""
        known = known_value(tensor, scope)
        if known is not None:
            number = int(known.reshape(-1)[0]) if known.size == 1 and known.dtype.kind in "iu" else None
            return number, number
        elements = self.bounds.elements(scope.tensor(tensor))
        if elements is not None and elements.size == 1:
            number = self._counted(elements.reshape(-1)[0], scope)
            if number is not None:
                return number, number
        owner = scope.owner(tensor.name) if tensor.name else None
        node = None if owner is None else owner.producers.get(tensor.name)
        if node is None or owner is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
            return None, None
        if node.op in THROUGH - {"Cast"}:
            return self._range(node.inputs[0], owner, depth - 1)
        if node.op not in ("Min", "Max", "Clip"):
            return None, None
        ranges = [self._range(t, owner, depth - 1) if t.name else (None, None) for t in node.inputs]
        if node.op == "Clip":
            low = _most(max, *(r[0] for r in ranges[:2]))
            return (low if len(ranges) < 3 else None), _most(
                min, *(r[1] for r in (*ranges[:1], *ranges[2:3]))
            )
        if node.op == "Min":
            return _all(min, *(r[0] for r in ranges)), _most(min, *(r[1] for r in ranges))
        return _most(max, *(r[0] for r in ranges)), _all(max, *(r[1] for r in ranges))

    def _counted(self, dim: Dim, scope: Scope) -> int | None:
        """A size that is made of numbers and of counts that are known."""
        result = dim.factor
        for atom in dim.atoms:
            source = self.bounds.sources.get(atom)
            value = None if source is None else known_value(source.tensor, scope)
            if source is None or value is None:
                return None
            result *= int(value.reshape(-1)[source.index])
        return result


def _compared(op: str, one: Range, other: Range) -> bool | None:
    """What a comparison of two numbers says, as far as their ranges decide it."""
    if op in ("Greater", "GreaterOrEqual"):
        one, other, op = other, one, op.replace("Greater", "Less")
    if op == "Equal":
        if None not in one and one == other and one[0] == one[1]:
            return True
        return False if _compared("Less", one, other) or _compared("Less", other, one) else None
    gap = 1 if op == "Less" else 0
    if one[1] is not None and other[0] is not None and one[1] + gap <= other[0]:
        return True
    if one[0] is not None and other[1] is not None and one[0] + gap > other[1]:
        return False
    return None


def _most(choose: Callable[..., int], *numbers: int | None) -> int | None:
    """The strictest of bounds, each of which holds."""
    known = [n for n in numbers if n is not None]
    return choose(known) if known else None


def _all(choose: Callable[..., int], *numbers: int | None) -> int | None:
    """The widest of bounds, one of which holds."""
    known = [n for n in numbers if n is not None]
    return choose(known) if len(known) == len(numbers) else None


def _either(condition: bool | None, one: bool | None, other: bool | None) -> bool | None:
    """A choice between two values, as far as it is known."""
    if condition is None:
        return one if one == other else None
    return one if condition else other
