"""Counts that a model itself decides: a Reshape to a fixed shape runs only with as many elements as that has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import Dim, product

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


def learn(bounds: Bounds, node: gs.Node, before: list[Dim], after: list[Dim]) -> bool:
    """Take note of the count that makes two shapes have equally many elements; whether there is one.

    Args:
        bounds: What is known of sizes; gets what was learned, and an assumption in words.
        node: The Reshape.
        before: Sizes of its operand.
        after: Sizes of its result.
    """
    one, other = product(before), product(after)
    for open_side, fixed in ((one, other), (other, one)):
        counts = [a for a in open_side.atoms if not Dim(1, (a,)).exact]
        if len(counts) != 1 or not fixed.exact:
            continue
        rest = open_side.over(Dim(1, (counts[0],)))
        value = fixed.over(rest) if rest is not None else None
        if value is None or value.number == 0:
            continue
        bounds.known[counts[0]] = value
        bounds.told(
            f"the original runs only on inputs for which {node.name!r} gets {value} x {rest} elements"
            f" of {node.inputs[0].name!r}; on others the result means nothing"
        )
        return True
    return False


def settled(bounds: Bounds, dim: Dim) -> Dim:
    """A size with what is known of its counts."""
    if not bounds.known or not any(a in bounds.known for a in dim.atoms):
        return dim
    result = Dim(dim.factor)
    for atom in dim.atoms:
        result = result * bounds.known.get(atom, Dim(1, (atom,)))
    return result


def settle(bounds: Bounds, node: gs.Node) -> None:
    """Let a node read tensors without the padding that is known to be none."""
    if bounds.known:
        for place, tensor in enumerate(node.inputs):
            if tensor.name in bounds.padded:
                node.inputs[place] = _trimmed(bounds, tensor)


def _trimmed(bounds: Bounds, tensor: Any) -> Any:
    own = bounds.padded[tensor.name]
    new = {axis: settled(bounds, dim) for axis, dim in own.items()}
    changed = [axis for axis in own if new[axis] != own[axis]]
    if not changed:
        return tensor
    if tensor.name not in bounds.trimmed:
        ends = bounds.value([new[a] for a in changed], rooms=True)
        starts = np.zeros(len(changed), np.int64)
        shape = tensor.shape
        made = bounds.emit("Slice", tensor, starts, ends, np.asarray(changed, np.int64))
        made.shape = [bounds.room(new[a]).number if a in changed else d for a, d in enumerate(shape)]
        bounds.pad(made, new)
        bounds.trimmed[tensor.name] = made
    return bounds.trimmed[tensor.name]
