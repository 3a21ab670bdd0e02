"""Conditions that are decided by others, and branches that make no difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.scope import Scope, known_value

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    Key = tuple[Any, ...]

MOST_STEPS = 64
"""Operators that are followed from a condition to what decides it."""

LAYOUT = frozenset({"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})
"""Operators that leave the one element of a tensor as it is."""

ORDERED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
"""Comparisons, and those that say the same with their operands exchanged."""

SYMMETRIC = frozenset({"Equal", "And", "Or", "Xor", "Add", "Mul", "Min", "Max"})
"""Operators whose operands may be exchanged."""

PLAIN = SYMMETRIC | {"Less", "LessOrEqual", "Sub", "Div", "Mod"}
"""Operators on scalars that are told apart by their operands alone."""


def implied(condition: Any, scope: Scope) -> bool | None:
    """What a condition has to be where it stands, because a condition around it says the same; None if open.

    Conditions say the same if they compare the same sizes or scalars in the same way, whatever the layout of the
    one element on the way.

    Args:
        condition: bool tensor of one element.
        scope: The graph that it belongs to, with what holds there.
    """
    assumed: dict[Key, bool] = {}
    here: Scope | None = scope
    while here is not None and here.parent is not None:
        for name, value in here.assumed.items():
            tensor = _tensor(name, here.parent)
            if tensor is not None:
                key, turned = _stripped(tensor, here.parent)
                assumed.setdefault(key, value != turned)
        here = here.parent
    if not assumed:
        return None
    key, turned = _stripped(condition, scope)
    return assumed[key] != turned if key in assumed else None


def _tensor(name: str, scope: Scope) -> Any:
    owner = scope.owner(name)
    if owner is None:
        return None
    node = owner.producers.get(name)
    return owner.inputs[name] if node is None else next(t for t in node.outputs if t.name == name)


def _stripped(tensor: Any, scope: Scope) -> tuple[Key, bool]:
    """What a condition says, without negations, and whether it says the opposite of it."""
    turned = False
    for _ in range(MOST_STEPS):
        node = _producer(tensor, scope)
        if node is None or node.op not in LAYOUT | {"Not", "Cast"}:
            break
        if node.op == "Cast" and not _from_bool(node, scope):
            break
        turned ^= node.op == "Not"
        tensor = node.inputs[0]
    return _key(tensor, scope, MOST_STEPS), turned


def _from_bool(node: gs.Node, scope: Scope) -> bool:
    source = scope.tensor(node.inputs[0])
    made = _producer(source, scope)
    logic = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Not"}
    known = source.dtype is not None and np.dtype(source.dtype) == np.bool_
    return int(node.attrs.get("to", 0)) == 9 and (known or (made is not None and made.op in logic))


def _producer(tensor: Any, scope: Scope) -> gs.Node | None:
    owner = scope.owner(tensor.name) if tensor.name else None
    node = owner.producers.get(tensor.name) if owner is not None else None
    return node if node is not None and node.domain in (None, "", "ai.onnx") else None


def _number(tensor: Any, scope: Scope) -> Any:
    """The value of a tensor of one element, if it is known."""
    value = known_value(tensor, scope)
    return value.reshape(-1)[0].item() if value is not None and value.size == 1 else None


def _key(tensor: Any, scope: Scope, depth: int) -> Key:
    """The same for tensors of one element that are surely equal."""
    number = _number(tensor, scope)
    if number is not None:
        return ("number", number)
    node = _producer(tensor, scope)
    if node is not None and depth:
        if node.op in LAYOUT:
            return _key(node.inputs[0], scope, depth - 1)
        if node.op == "Gather":
            source, index = _producer(node.inputs[0], scope), _number(node.inputs[1], scope)
            if index is not None and source is not None and source.op == "Shape" and not source.attrs:
                owner = scope.tensor(source.inputs[0])
                rank = len(owner.shape) if owner.shape is not None else None
                return ("size", owner.name, index + rank if index < 0 and rank is not None else index)
        op = ORDERED.get(node.op, node.op)
        if op in PLAIN and len(node.inputs) == 2:
            parts = [_key(t, scope, depth // 2) for t in node.inputs]
            if node.op in ORDERED:
                parts.reverse()
            return (op, *(sorted(parts, key=repr) if op in SYMMETRIC else parts))
    return ("tensor", tensor.name)


def same_branches(node: gs.Node, scope: Scope) -> list[Any] | None:
    """What both branches of an If hand through, where neither computes anything else; None if they differ.

    Args:
        node: The If.
        scope: The graph around it.
    """
    import onnx_graphsurgeon as gs

    found = []
    pairs = zip(node.attrs["then_branch"].outputs, node.attrs["else_branch"].outputs, strict=False)
    for left, right in pairs:
        ends = [
            _end(left, node.attrs["then_branch"], scope), _end(right, node.attrs["else_branch"], scope)
        ]  # fmt: skip
        if not ends[0] or ends[0] != ends[1]:
            return None
        owner = scope.owner(ends[0])
        if owner is None:
            return None
        found.append(scope.tensor(gs.Variable(ends[0])))
    return found


def _end(tensor: Any, body: gs.Graph, scope: Scope) -> str:
    """The name of the outer tensor that a body's output is a copy of, or ""."""
    made = {t.name: n for n in body.nodes for t in n.outputs if t.name}
    name = str(tensor.name)
    while name in made:
        node = made[name]
        if node.op == "Unsqueeze" and (inner := made.get(node.inputs[0].name)) is not None:
            if inner.op != "Squeeze" or not _undone(inner, node, body, scope):
                return ""
            node = inner
        elif node.op != "Identity":
            return ""
        name = str(node.inputs[0].name)
    return name


def _undone(squeeze: gs.Node, unsqueeze: gs.Node, body: gs.Graph, scope: Scope) -> bool:
    """Whether an Unsqueeze puts back the very axes that a Squeeze took, given as numbers from the front."""
    inner = Scope(body, scope)
    axes = [_axes(n, inner) for n in (squeeze, unsqueeze)]
    return axes[0] is not None and axes[0] == axes[1] and all(a >= 0 for a in axes[0])


def _axes(node: gs.Node, scope: Scope) -> list[int] | None:
    if "axes" in node.attrs:
        return sorted(int(a) for a in node.attrs["axes"])
    if len(node.inputs) < 2 or not node.inputs[1].name:
        return None
    value = known_value(node.inputs[1], scope)
    return None if value is None else sorted(int(a) for a in value.reshape(-1))
