"""Whether a number follows from the sizes of the inputs, so that TensorRT knows it before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.scope import SEQUENCE_OPS
from surgery.graph.taint import SHAPE_ONLY

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.scope import Scope

ARITHMETIC = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Concat", "Div", "Floor", "Gather", "Identity", "Max", "Min", "Mod", "Mul",
        "Neg", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice", "Squeeze", "Sub",
        "Unsqueeze",
    }
)  # fmt: skip
"""Operators on sizes."""

SIZED: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2),
    "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Tile": (1,), "TopK": (1,),
    "Upsample": (1,),
}  # fmt: skip
"""Operators with operands whose numbers decide a size, and which these are."""

UNSIZED = SEQUENCE_OPS | {
    "Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "StringSplit", "Unique",
}  # fmt: skip
"""Operators whose results have a size of their own."""


def from_sizes(tensor: Any, scope: Scope) -> bool:
    """Whether the values of a tensor follow from constants and the sizes of the inputs.

    Args:
        tensor: A tensor.
        scope: Its graph. In a body, what the graphs around it make counts as well, and a body's own inputs do not.
    """
    return _follows([(tensor, True)], scope)


def sizes_by_round(body: gs.Graph, scope: Scope) -> bool:
    """Whether sizes inside the body of a loop may differ from round to round, or depend on data.

    Args:
        body: The body.
        scope: The same, with the graphs around it.
    """
    for node in body.nodes:
        if node.op in UNSIZED:
            return True
        operands = [(t, True) for k, t in enumerate(node.inputs) if k in SIZED.get(node.op, ())]
        if operands and not _follows(operands, scope):
            return True
    return False


def _follows(asked: list[tuple[Any, bool]], scope: Scope) -> bool:
    """Whether tensors follow from sizes, those with True beside them by value, others by shape."""
    import onnx_graphsurgeon as gs

    seen: set[tuple[str, bool]] = set()
    while asked:
        one, value = asked.pop()
        if isinstance(one, gs.Constant) or not one.name or (one.name, value) in seen:
            continue
        seen.add((one.name, value))
        owner = scope.owner(one.name)
        node = owner.producers.get(one.name) if owner is not None else None
        if node is None:
            # What a body is given keeps its shape from round to round: TensorRT carries nothing else.
            if value or owner is None:
                return False
            continue
        more = _asked_of_value(node) if value else _asked_of_shape(node)
        if more is None:
            return False
        asked += more
    return True


def _asked_of_value(node: gs.Node) -> list[tuple[Any, bool]] | None:
    """What the values that a node makes follow from, True beside what has to be known by value; None if from data."""
    if node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op in SHAPE_ONLY:
        return [(node.inputs[0], False)]
    if node.op == "Constant":
        return []
    return [(t, True) for t in node.inputs] if node.op in ARITHMETIC else None


def _asked_of_shape(node: gs.Node) -> list[tuple[Any, bool]] | None:
    """The same for the shapes of what a node makes."""
    if node.op in UNSIZED or node.domain not in (None, "", "ai.onnx"):
        return None
    sizes = SIZED.get(node.op, ())
    return [(t, k in sizes) for k, t in enumerate(node.inputs)]
