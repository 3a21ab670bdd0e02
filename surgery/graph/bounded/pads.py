"""Pad by amounts that depend on data, or along an axis that is padded already: by a Gather of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

NONE = Dim(0)


def pad_by_sizes(bounds: Bounds, node: gs.Node) -> bool:
    """Change a Pad whose operand is padded, or whose amounts are sizes.

    Returns:
        Whether something has been written in its place.

    Raises:
        No: it cannot work on what it reads.
    """
    source = node.inputs[0]
    if any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No("a padded operand of Pad other than the first")
    own = bounds.padded.get(source.name, {})
    amounts = pad_amounts(bounds, node)
    if amounts is None:
        if own:
            raise No("the amounts of a Pad are computed from data")
        return False
    dims = bounds.dims(source)
    by_gather: list[int] = []
    rest: list[int] = []
    for axis, (before, after) in sorted(amounts.items()):
        if (before, after) == (NONE, NONE):
            continue
        inexact = axis in own or not before.exact or not after.exact
        (by_gather if inexact else rest).append(axis)
    if not by_gather:
        bounds.pad(node.outputs[0], own)
        return False
    mode = node.attrs.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    if mode not in ("constant", "edge"):
        raise No(f"a Pad with mode {mode} along a padded axis")
    fill = _fill(bounds, node)
    value = source
    after_all = list(dims)
    for axis in by_gather:
        before, after = amounts[axis]
        whole = added(bounds, added(bounds, dims[axis], after), before)
        value = _gathered(bounds, value, axis, dims, (before, whole), fill if mode == "constant" else None)
        after_all[axis] = whole
    if rest:
        pads = [amounts[a][0] if a in rest else NONE for a in range(len(dims))]
        pads += [amounts[a][1] if a in rest else NONE for a in range(len(dims))]
        for axis in rest:
            after_all[axis] = added(bounds, added(bounds, dims[axis], amounts[axis][1]), amounts[axis][0])
        output = bounds.instead(node, "Pad", value, bounds.value(pads), fill, mode=mode)
    else:
        output = bounds.instead(node, "Identity", value)
    bounds.pad(output, dict(enumerate(after_all)))
    return True


def added(bounds: Bounds, a: Dim, b: Dim) -> Dim:
    """The sum of two sizes."""
    if b == NONE:
        return a
    if a == NONE:
        return b
    whole = completed(bounds, a, b)
    if whole is not None:
        return whole
    one, other = sorted((a, b), key=str)
    name = f"add({one},{other})"
    if name not in bounds.sources:
        total = bounds.emit("Add", bounds.scalar(one), bounds.scalar(other))
        bounds.atom(name, total, 0, bounds.exact("Add", bounds.room(one), bounds.room(other)))
    return Dim(1, (name,))


def completed(bounds: Bounds, a: Dim, b: Dim) -> Dim | None:
    """The sum of two sizes, if it follows from the sizes of the inputs: n, and what is missing to a number."""
    if a.exact and b.exact:
        return bounds.exact("Add", a, b)
    for one, other in ((a, b), (b, a)):
        for atom in other.atoms:
            rest = other.over(Dim(1, (atom,)))
            there = one.over(rest) if rest is not None else None
            source = bounds.sources.get(atom)
            if rest is None or there is None or source is None:
                continue
            # The room of a difference is that of what something is taken from: that itself, if it is exact.
            if atom == f"sub({source.room},{there})":
                return rest * source.room
    return None


def pad_amounts(bounds: Bounds, node: gs.Node) -> dict[int, tuple[Dim, Dim]] | None:
    """Axis to what a Pad puts before and behind it; None if it is not made of sizes.

    Raises:
        No: it gives another number of amounts than two for each axis.
    """
    if "pads" in node.attrs:
        found = [Dim(int(v)) for v in node.attrs["pads"]]
    else:
        sizes = bounds.elements(node.inputs[1])
        if sizes is None:
            return None
        found = list(sizes.reshape(-1))
    rank = len(bounds.dims(node.inputs[0]))
    axes = list(range(rank))
    if len(node.inputs) > 3 and node.inputs[3].name:
        given = bounds.number(node.inputs[3])
        if given is None:
            return None
        axes = [int(a) % rank for a in given.reshape(-1)]
    if len(found) != 2 * len(axes):
        raise No(f"{len(found)} amounts for {len(axes)} axes of Pad")
    return {axis: (found[i], found[i + len(axes)]) for i, axis in enumerate(axes)}


def _fill(bounds: Bounds, node: gs.Node) -> Any:
    """What is put around: a tensor of rank 0."""
    dtype = np.dtype(node.inputs[0].dtype)
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return bounds.const(np.asarray(node.attrs.get("value", 0), dtype))
    known = bounds.number(node.inputs[2])
    if known is not None:
        return bounds.const(known.reshape(()))
    return bounds.emit("Reshape", node.inputs[2], np.zeros(0, np.int64), dtype=dtype)


def _gathered(
    bounds: Bounds, value: Any, axis: int, dims: list[Dim], place: tuple[Dim, Dim], fill: Any | None
) -> Any:
    """A tensor with what goes before and behind one axis; its edges if there is no value to fill with.

    Args:
        bounds: What is padded.
        value: The tensor.
        axis: The axis.
        dims: Its true sizes.
        place: What goes before, and the true size in the end.
        fill: What is put there; a tensor of rank 0.
    """
    before, whole = place
    zero = np.asarray(0, np.int64)
    position = bounds.places(bounds.room(whole))
    if before != NONE:
        position = bounds.emit("Sub", position, bounds.scalar(before))
    there = bounds.scalar(dims[axis])
    early = bounds.emit("Less", position, zero, dtype=np.bool_)
    inside = bounds.emit("Less", position, there, dtype=np.bool_)
    if fill is None:
        last = bounds.emit("Sub", there, np.asarray(1, np.int64))
        position = bounds.emit("Where", inside, position, last, dtype=np.int64)
        position = bounds.emit("Where", early, zero, position, dtype=np.int64)
        return bounds.emit("Gather", value, position, axis=axis)
    inside = bounds.emit("And", inside, bounds.emit("Not", early, dtype=np.bool_), dtype=np.bool_)
    position = bounds.emit("Where", inside, position, zero, dtype=np.int64)
    gathered = bounds.emit("Gather", value, position, axis=axis)
    trailing = len(dims) - 1 - axis
    if trailing:
        inside = bounds.emit("Reshape", inside, np.asarray([-1] + [1] * trailing, np.int64), dtype=np.bool_)
    return bounds.emit("Where", inside, gathered, fill, dtype=value.dtype)
