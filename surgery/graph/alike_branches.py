"""Ifs whose branches are the same program on other numbers: one of them on chosen numbers does for both.

TensorFlow's resizing to a range of sizes is one: the branches differ in the size that the shorter or the longer side
gets. TensorRT-RTX 1.6 on an H200 builds that with free sizes, and fails when it runs ("applyGenericCopy").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.infer import is_static
from surgery.graph.merge import plain
from surgery.graph.scope import Scope, known_value

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SMALL = 256
"""Elements of a number that may differ, at most."""

MOST_STEPS = 64
"""Nodes that are looked at to see what a condition depends on."""

ENTRYWISE = frozenset(
    {
        "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual",
        "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Round", "Sub",
        "Where", "Xor",
    }
)  # fmt: skip
"""Operators of which each operand may be computed when the engine runs."""

OF_SIZES = {
    "Reshape": (1,), "Expand": (1,), "Resize": (2, 3), "Slice": (1, 2), "Tile": (1,), "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
}  # fmt: skip
"""Operators whose results are as large as these operands say, which may be computed from sizes."""


def alike(node: gs.Node, scope: Scope) -> dict[str, tuple[Any, Any]] | None:
    """Where the branches of an If read other numbers, if that is all in which they differ.

    Args:
        node: The If.
        scope: The graph around it.

    Returns:
        Name of a tensor of the first branch to that tensor and the one of the second branch that stands for it;
        both are read or computed there. None if the branches differ in more.
    """
    branches = node.attrs["then_branch"], node.attrs["else_branch"]
    if any(t.name for t in (*branches[0].inputs, *branches[1].inputs)):
        return None
    pairing = _Pairing(
        Scope(branches[0], scope), Scope(branches[1], scope), _from_sizes(node.inputs[0], scope)
    )
    if all(
        pairing.same(a, b, None, 0) for a, b in zip(branches[0].outputs, branches[1].outputs, strict=True)
    ):
        return pairing.choices
    return None


class _Pairing:
    """Goes through two branches side by side, from their outputs.

    Args:
        left: The first branch.
        right: The second.
        sizes: Whether the condition depends on sizes alone, so that what it chooses may be a size.
    """

    def __init__(self, left: Scope, right: Scope, sizes: bool) -> None:
        self.left, self.right, self.sizes = left, right, sizes
        self.choices: dict[str, tuple[Any, Any]] = {}
        self._pairs: dict[str, str] = {}

    def same(self, one: Any, two: Any, reader: gs.Node | None, index: int) -> bool:
        """Whether two tensors are computed alike; operand `index` of `reader` is the first one."""
        if not one.name or not two.name:
            return not one.name and not two.name
        if one.name in self._pairs:
            return self._pairs[one.name] == str(two.name)
        known = dict(self._pairs), dict(self.choices)
        found = self._same(one, two, reader, index)
        size = self.sizes and reader is not None and index in OF_SIZES.get(reader.op, ())
        if size and (not found or len(self.choices) > len(known[1])) and self._whole_sizes(one, two):
            # Sizes are chosen as whole numbers: TensorRT-RTX refuses to choose the floats that they come from.
            self._pairs, self.choices = known
            self.choices[one.name] = (one, two)
            found = True
        self._pairs[one.name] = str(two.name)
        return found

    def _same(self, one: Any, two: Any, reader: gs.Node | None, index: int) -> bool:
        makers = self.left.producers.get(one.name), self.right.producers.get(two.name)
        made = [m is not None and m.op != "Constant" for m in makers]
        if made[0] != made[1]:
            return False
        if made[0]:
            return self._same_nodes(makers[0], makers[1], one, two)
        if self._equal(one, two):
            return True
        if reader is None or not (reader.op in ENTRYWISE or index in OF_SIZES.get(reader.op, ())):
            return False
        if not self._one_small_type(one, two):
            return False
        self.choices[one.name] = (one, two)
        return True

    def _whole_sizes(self, one: Any, two: Any) -> bool:
        """Whether two tensors are whole numbers that follow from sizes."""
        ends = ((one, self.left), (two, self.right))
        return self._one_small_type(one, two, "iu") and all(_from_sizes(t, s) for t, s in ends)

    def _same_nodes(self, one: Any, two: Any, output: Any, other: Any) -> bool:
        if (one.op, one.domain or "") != (two.op, two.domain or "") or len(one.inputs) != len(two.inputs):
            return False
        if any(True for _ in one.subgraphs()) or (not self.sizes and one.op in OF_SIZES):
            return False
        places = [
            next(k for k, t in enumerate(n.outputs) if t.name == o.name)
            for n, o in ((one, output), (two, other))
        ]
        attributes = [{k: plain(v) for k, v in n.attrs.items()} for n in (one, two)]
        if places[0] != places[1] or attributes[0] != attributes[1]:
            return False
        return all(
            self.same(a, b, one, k) for k, (a, b) in enumerate(zip(one.inputs, two.inputs, strict=True))
        )

    def _equal(self, one: Any, two: Any) -> bool:
        """Whether two tensors that the branches do not make are the same."""
        import onnx_graphsurgeon as gs

        values = known_value(one, self.left), known_value(two, self.right)
        if values[0] is not None and values[1] is not None:
            return values[0].dtype == values[1].dtype and bool(np.array_equal(values[0], values[1]))
        outside = not any(isinstance(t, gs.Constant) for t in (one, two))
        return outside and one.name == two.name and values[0] is values[1]

    def _one_small_type(self, one: Any, two: Any, kinds: str = "biuf") -> bool:
        """Whether two tensors are of one dtype, of one of the kinds, and of one small static shape."""
        types = []
        for tensor, scope in ((one, self.left), (two, self.right)):
            value = known_value(tensor, scope)
            known = scope.tensor(tensor) if value is None else value
            if known.dtype is None or known.shape is None or not is_static(known.shape):
                return False
            types.append((np.dtype(known.dtype), tuple(known.shape)))
        return (
            types[0] == types[1]
            and types[0][0].kind in kinds
            and int(np.prod(types[0][1], dtype=np.int64)) <= SMALL
        )


def _from_sizes(condition: Any, scope: Scope) -> bool:
    """Whether a tensor follows from constants and sizes alone."""
    import onnx_graphsurgeon as gs

    stack, seen = [condition], 0
    while stack:
        tensor = stack.pop()
        if not tensor.name or isinstance(tensor, gs.Constant):
            continue
        owner = scope.owner(tensor.name)
        node = owner.producers.get(tensor.name) if owner is not None else None
        seen += 1
        if node is None or seen > MOST_STEPS or any(True for _ in node.subgraphs()):
            return False
        if node.op not in ("Shape", "Size", "Constant"):
            stack.extend(node.inputs)
    return True
