"""Conditions that ask whether a tensor has elements at all, and branches of an If for the case that it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.convert import is_external, value_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LAYOUT = frozenset({"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})
"""Operators that leave the one element of a tensor as it is."""

PARTS = LAYOUT | {"Cast", "Gather", "Slice", "ReduceProd", "Mul"}
"""Operators that make sizes, or products of sizes, of sizes."""

MOST_STEPS = 32
"""Nodes in a row through which a condition or a size is traced."""

EMPTY_IF = {
    ("Equal", 0): True,
    ("Less", 1): True,
    ("LessOrEqual", 0): True,
    ("Greater", 0): False,
    ("GreaterOrEqual", 1): False,
}
"""What a comparison of a size, on the left, with a number says of an empty tensor, and of no other."""

TURNED = {
    "Less": "Greater",
    "Greater": "Less",
    "LessOrEqual": "GreaterOrEqual",
    "GreaterOrEqual": "LessOrEqual",
}
"""Comparisons, and those that say the same with their operands exchanged."""


def when_empty(condition: Any, depth: int = MOST_STEPS) -> bool | None:
    """What a condition is for a tensor without elements, if it is the opposite for all others; else None.

    Args:
        condition: bool tensor of one element.
        depth: How many nodes to look back.
    """
    node = condition.inputs[0] if getattr(condition, "inputs", None) else None
    if node is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op == "Not":
        inner = when_empty(node.inputs[0], depth - 1)
        return None if inner is None else not inner
    if node.op == "Cast" and int(node.attrs.get("to", 0)) == 9 and is_size(node.inputs[0]):
        return False  # a number is true unless it is 0
    if node.op in LAYOUT or node.op == "Cast":
        return when_empty(node.inputs[0], depth - 1)
    if len(node.inputs) != 2:
        return None
    (left, right), op = node.inputs, str(node.op)
    if _number(left) is not None:
        left, right, op = right, left, TURNED.get(op, op)
    number = _number(right)
    return EMPTY_IF.get((op, number)) if number is not None and is_size(left) else None


def full_branch(node: gs.Node) -> str | None:
    """The branch of an If that is not empty, where the other one gives constants without elements alone.

    Args:
        node: The If.
    """
    names = ("then_branch", "else_branch")
    empty = [all(_is_empty(t) for t in node.attrs[name].outputs) for name in names]
    return None if empty[0] == empty[1] else names[empty.index(False)]


def guards_nothing(node: gs.Node) -> bool:
    """Whether an If chooses constants without elements where a tensor has none, and computes something elsewhere.

    Args:
        node: The If.
    """
    says = when_empty(node.inputs[0])
    return says is not None and full_branch(node) == ("else_branch" if says else "then_branch")


def is_size(tensor: Any, depth: int = MOST_STEPS) -> bool:
    """Whether a tensor holds sizes of one other tensor, or products of them: 0 only if that one is empty.

    Args:
        tensor: Whole numbers.
        depth: How many nodes to look back.
    """
    node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
    if node is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op in ("Shape", "Size"):
        return True
    if node.op not in PARTS:
        return False
    wanted = node.inputs[: 2 if node.op == "Mul" else 1]
    return all(is_size(t, depth - 1) for t in wanted)


def _constant(tensor: Any) -> gs.Constant | None:
    """The constant that a tensor is, behind nodes that hand it on."""
    import onnx_graphsurgeon as gs

    while not isinstance(tensor, gs.Constant):
        node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
        if node is None or node.op not in ("Identity", "Constant"):
            return None
        tensor = node.inputs[0] if node.op == "Identity" else node.attrs.get("value")
    return tensor


def _number(tensor: Any) -> int | None:
    """The one whole number that a constant holds."""
    constant = _constant(tensor)
    if constant is None or is_external(constant) or list(constant.shape) not in ([], [1]):
        return None
    number = float(value_of(constant).reshape(-1)[0])
    return int(number) if number.is_integer() else None


def _is_empty(tensor: Any) -> bool:
    """Whether the output of a body is a constant without elements."""
    constant = _constant(tensor)
    return constant is not None and 0 in tuple(constant.shape)
