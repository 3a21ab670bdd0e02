"""Operators that lay out the same entries anew, behind padded operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import ONE, Dim, product, regrouped
from surgery.graph.bounded.equations import learn, settle, settled
from surgery.graph.bounded.handlers import laid_out, on, only_first, whole_numbers
from surgery.graph.bounded.spans import terms_of
from surgery.graph.bounded.work import No, total

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


MOST_GATHERED = 2**22
"""Elements up to which a reshape is done by a Gather; positions above are not exact where division is not."""


@on("Transpose")
def _transpose(bounds: Bounds, node: gs.Node) -> bool:
    rank = len(bounds.dims(node.inputs[0]))
    perm = list(node.attrs.get("perm") or range(rank)[::-1])
    own = bounds.padded[node.inputs[0].name]
    bounds.pad(node.outputs[0], {perm.index(a): d for a, d in own.items()})
    return False


@on("Unsqueeze")
def _unsqueeze(bounds: Bounds, node: gs.Node) -> bool:
    rank = len(bounds.dims(node.inputs[0]))
    axes = whole_numbers(bounds, node, 1, "axes") or []
    new = {a % (rank + len(axes)) for a in axes}
    old = [a for a in range(rank + len(axes)) if a not in new]
    own = only_first(bounds, node)
    bounds.pad(node.outputs[0], {old[a]: d for a, d in own.items()})
    return False


@on("Squeeze")
def _squeeze(bounds: Bounds, node: gs.Node) -> bool:
    dims = bounds.dims(node.inputs[0])
    axes = whole_numbers(bounds, node, 1, "axes")
    gone = {a % len(dims) for a in axes} if axes is not None else {a for a, d in enumerate(dims) if d == ONE}
    own = only_first(bounds, node)
    for axis in sorted(gone & set(own)):  # only a size of 1 can be squeezed, so that is what it is
        node.inputs[0] = narrowed(bounds, node.inputs[0], axis, 1)
        bounds.told(f"{node.name!r} squeezes a size that depends on data: it has to be 1, as in the model")
    left = {a: d for a, d in own.items() if a not in gone}
    bounds.pad(node.outputs[0], {a - sum(g < a for g in gone): d for a, d in left.items()})
    return False


def narrowed(bounds: Bounds, tensor: Any, axis: int, size: int) -> Any:
    """The first entries along a padded axis, of which so many are known to be real."""
    left = {a: d for a, d in bounds.padded[tensor.name].items() if a != axis}
    start, stop, where = (np.asarray([v], np.int64) for v in (0, size, axis))
    if bounds.room(bounds.dims(tensor)[axis]).number != size:
        tensor = bounds.emit("Slice", tensor, start, stop, where)
    else:
        tensor = bounds.emit("Identity", tensor)  # the operand itself stays padded for others
    bounds.pad(tensor, left)
    return tensor


@on("Flatten")
def _flatten(bounds: Bounds, node: gs.Node) -> bool:
    dims = bounds.dims(node.inputs[0])
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(dims) if axis < 0 else axis
    return _reshaped(bounds, node, dims, [product(dims[:axis]), product(dims[axis:])])


@on("Reshape")
def _reshape(bounds: Bounds, node: gs.Node) -> bool:
    after = laid_out(bounds, node)
    dims = bounds.dims(node.inputs[0])
    if None in after:
        given = [d for d in after if d is not None]
        rest = product(given)
        missing = total(dims).over(rest)
        if missing is None and node.inputs[0].name not in bounds.padded and all(d.exact for d in given):
            return False  # nothing is padded: an ordinary Reshape
        if missing is None:
            raise No(f"{total(dims)} elements are not a multiple of {rest}")
        after[after.index(None)] = missing
    final = [d for d in after if d is not None]
    if total(dims) != total(final) and learn(bounds, node, dims, final):
        settle(bounds, node)
        dims, final = bounds.dims(node.inputs[0]), [settled(bounds, d) for d in final]
    return _reshaped(bounds, node, dims, final)


def _reshaped(bounds: Bounds, node: gs.Node, before: list[Dim], after: list[Dim]) -> bool:
    source = node.inputs[0]
    places = regrouped(before, after)
    if places is None:
        if source.name in bounds.padded:
            return _regathered(bounds, node, before, after)
        if any(not d.exact for d in after):
            raise No("a reshape to a size that depends on data")
        places = {}
    output = bounds.instead(node, "Reshape", source, _layout(bounds, after))
    bounds.pad(output, {b: after[b] for b in places.values()})
    return True


def _regathered(bounds: Bounds, node: gs.Node, before: list[Dim], after: list[Dim]) -> bool:
    """A reshape that would leave padding between what is real, by a Gather of true positions.

    The position of an entry among the real ones follows from its place in the result and the true sizes of that; its
    place in the operand follows from that position and the true sizes there.
    """
    source = node.inputs[0]
    rooms = [bounds.room(d) for d in after]
    size = product(rooms).number
    shapes = f"{[*map(str, before)]} to {[*map(str, after)]}"
    same = terms_of(bounds, total(before)) == terms_of(bounds, total(after))
    if not same or size is None or size > MOST_GATHERED:
        raise No(f"a reshape from {shapes} would leave padding between what is real")
    numbers = [r.factor for r in rooms]
    zero = np.asarray(0, np.int64)
    position: Any = bounds.const(np.zeros([1] * len(after), np.int64))
    stride: Any = bounds.const(np.asarray(1, np.int64))
    for axis in reversed(range(len(after))):
        shape = [numbers[axis] if a == axis else 1 for a in range(len(after))]
        place = np.arange(numbers[axis], dtype=np.int64).reshape(shape)
        position = bounds.emit("Add", position, bounds.emit("Mul", bounds.const(place), stride))
        stride = bounds.emit("Mul", stride, bounds.scalar(after[axis]))
    rest, target = position, bounds.const(zero)
    width: Any = bounds.const(np.asarray(1, np.int64))
    for axis in reversed(range(len(before))):
        length = bounds.scalar(before[axis])
        if not before[axis].exact:  # nothing at all is real: any number but 0 will do
            empty = bounds.emit("Less", length, np.asarray(1, np.int64), dtype=np.bool_)
            length = bounds.emit("Where", empty, np.asarray(1, np.int64), length, dtype=np.int64)
        above = bounds.emit("Div", rest, length)
        here = bounds.emit("Sub", rest, bounds.emit("Mul", above, length))
        target = bounds.emit("Add", target, bounds.emit("Mul", here, width))
        width = bounds.emit("Mul", width, bounds.scalar(bounds.room(before[axis])))
        rest = above
    outside = bounds.emit("Less", target, width, dtype=np.bool_)
    target = bounds.emit("Where", outside, target, zero, dtype=np.int64)
    flat = bounds.emit("Reshape", source, np.asarray([-1], np.int64))
    output = bounds.instead(node, "Gather", flat, target, axis=0)
    bounds.pad(output, dict(enumerate(after)))
    return True


def _layout(bounds: Bounds, dims: list[Dim]) -> Any:
    """A shape for Reshape with rooms; one free dim is left to the operator."""
    rooms = [bounds.room(d) for d in dims]
    numbers = [r.number for r in rooms]
    if numbers.count(None) == 1 and 0 not in numbers:
        return np.asarray([-1 if n is None else n for n in numbers], np.int64)
    return bounds.value(rooms)


@on("Expand")
def _expand(bounds: Bounds, node: gs.Node) -> bool:
    wanted = bounds.elements(node.inputs[1])
    if wanted is None:
        if node.inputs[0].name in bounds.padded:
            raise No("the shape of an Expand is computed from data")
        return False
    before, shape = bounds.dims(node.inputs[0]), list(wanted.reshape(-1))
    rank = max(len(before), len(shape))
    before = [ONE] * (rank - len(before)) + before
    shape = [ONE] * (rank - len(shape)) + shape
    after = []
    for a, b in zip(before, shape, strict=True):
        if ONE not in (a, b) and a != b:
            if node.inputs[0].name not in bounds.padded and all(d.exact for d in shape):
                return False  # no rooms anywhere: what the node does with true sizes stands
            raise No(f"sizes {a} and {b} meet in Expand")
        after.append(b if a == ONE else a)
    output = bounds.instead(node, "Expand", node.inputs[0], bounds.value(shape, rooms=True))
    bounds.pad(output, dict(enumerate(after)))
    return True


@on("Tile")
def _tile(bounds: Bounds, node: gs.Node) -> bool:
    repeats = bounds.elements(node.inputs[1])
    if repeats is None:
        raise No("the repeats of a Tile are computed from data")
    own = bounds.padded.get(node.inputs[0].name, {})
    dims = bounds.dims(node.inputs[0])
    after = []
    for axis, (dim, times) in enumerate(zip(dims, repeats.reshape(-1), strict=True)):
        if times != ONE and (axis in own or (not times.exact and dim != ONE)):
            raise No("a Tile would leave padding between what is real")
        after.append(dim * times)
    output = bounds.instead(node, "Tile", node.inputs[0], bounds.value(repeats.reshape(-1), rooms=True))
    bounds.pad(output, dict(enumerate(after)))
    return True
