"""Operators that make, join, cut and pad, behind padded operands and for sizes that depend on data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import ONE, Dim
from surgery.graph.bounded.handlers import given, on, only_first, whole_numbers
from surgery.graph.bounded.layout import narrowed
from surgery.graph.bounded.pads import completed, pad_by_sizes
from surgery.graph.bounded.spans import known_sum, note, span, terms_of
from surgery.graph.bounded.wanted import whole
from surgery.graph.bounded.work import No, sized

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

INT_MAX = 2**31 - 1
"""An end of a slice at or above it means the end of the axis."""


@on("ConstantOfShape")
def _constant_of_shape(bounds: Bounds, node: gs.Node) -> bool:
    shape = bounds.elements(node.inputs[0])
    if shape is None:
        return False
    attributes = {k: v for k, v in node.attrs.items() if k == "value"}
    output = bounds.instead(
        node, "ConstantOfShape", bounds.value(shape.reshape(-1), rooms=True), **attributes
    )
    bounds.pad(output, dict(enumerate(shape.reshape(-1))))
    return True


@on("Range")
def _range(bounds: Bounds, node: gs.Node) -> bool:
    limit = whole(bounds, node.inputs[1])
    start, step = bounds.number(node.inputs[0]), bounds.number(node.inputs[2])
    if limit is None:
        return False
    (dim,) = limit.reshape(-1)
    if start is None or step is None or start.reshape(-1)[0] != 0 or step.reshape(-1)[0] != 1:
        if dim.exact:
            return False
        raise No("a Range to a size that depends on data, not from 0 in steps of 1")
    places = bounds.places(bounds.room(dim))
    if start.dtype != np.int64:
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(start.dtype)
        places = bounds.emit("Cast", places, dtype=start.dtype, to=kind)
    output = bounds.instead(node, "Identity", places)
    bounds.pad(output, {0: dim})
    return True


@on("Pad")
def _pad(bounds: Bounds, node: gs.Node) -> bool:
    return pad_by_sizes(bounds, node)


@on("Split")
def _split(bounds: Bounds, node: gs.Node) -> bool:
    own = only_first(bounds, node)
    data = node.inputs[0]
    along = int(node.attrs.get("axis", 0)) % len(bounds.dims(data))
    if along in own:
        sizes = bounds.elements(node.inputs[1]) if given(node, 1) else None
        if "split" in node.attrs:
            sizes = sized(Dim(int(v)) for v in node.attrs["split"])
        if sizes is None:
            raise No("a Split of a padded axis into equal parts")
        total = sum(d.factor for d in sizes.reshape(-1))
        room = bounds.room(own[along]).number
        if any(d.number is None for d in sizes.reshape(-1)) or (room is not None and room < total):
            raise No("a Split of a padded axis into sizes that depend on data")
        # The model fails unless the sizes are those of the whole.
        node.inputs[0] = narrowed(bounds, data, along, total)
        bounds.told(
            f"{node.name!r} splits a size that depends on data into parts of fixed size: it has to be {total}, as in "
            "the model, which fails on other inputs"
        )
    rest = {a: d for a, d in own.items() if a != along}
    for tensor in node.outputs:
        bounds.pad(tensor, rest)
    return False


@on("Concat")
def _concat(bounds: Bounds, node: gs.Node) -> bool:
    """Side by side; along a padded axis, what is real is brought together by a Gather."""
    parts = [bounds.dims(t) for t in node.inputs]
    rank = len(parts[0])
    along = int(node.attrs["axis"]) % rank
    found: dict[int, Dim] = {}
    for axis in range(rank):
        if axis == along:
            continue
        here = {p[axis] for p in parts}
        if len(here) > 1 and all(d.exact for d in here):
            continue  # nothing is padded here: they are equal, or the model would not run
        if len(here) > 1:
            raise No(f"sizes {', '.join(sorted(map(str, here)))} meet along axis {axis} of Concat")
        found[axis] = here.pop()
    lengths = [p[along] for p in parts]
    if all(d.exact for d in lengths):
        bounds.pad(node.outputs[0], found)
        return False
    rooms = [bounds.room(d) for d in lengths]
    space = rooms[0]
    for room in rooms[1:]:
        space = bounds.exact("Add", space, room)
    whole: Dim | None = lengths[0]
    for length in lengths[1:]:
        whole = completed(bounds, whole, length) if whole is not None else None
    scalars = [bounds.scalar(d) for d in lengths]
    ends = [scalars[0]]
    for scalar in scalars[1:]:
        ends.append(bounds.emit("Add", ends[-1], scalar))
    if whole is None or not whole.exact:
        known = whole or _summed(bounds, lengths, ends[-1], space)
        found[along] = known
        whole = space
        if all(d.exact for d in lengths[:-1]):
            bounds.pad(node.outputs[0], found)
            return False
    else:
        found[along] = whole
    together = bounds.emit("Concat", *node.inputs, axis=along)
    places = bounds.places(whole)
    zero = np.asarray(0, np.int64)
    base = places
    for room, scalar, end, length in zip(rooms, scalars, ends, lengths[:-1], strict=False):
        if length.exact:
            continue
        behind = bounds.emit("Not", bounds.emit("Less", base, end, dtype=np.bool_))
        gap = bounds.emit("Sub", bounds.scalar(room), scalar)
        places = bounds.emit("Add", places, bounds.emit("Where", behind, gap, zero, dtype=np.int64))
    last = bounds.scalar(bounds.exact("Sub", space, ONE))
    inside = bounds.emit("Less", places, last, dtype=np.bool_)
    places = bounds.emit("Where", inside, places, last, dtype=np.int64)
    output = bounds.instead(node, "Gather", together, places, axis=along)
    bounds.pad(output, found)
    return True


def _summed(bounds: Bounds, lengths: list[Dim], value: Any, room: Dim) -> Dim:
    """The sum of counts, which a tensor holds, as a size."""
    terms: sums.Terms = {}
    for length in lengths:
        terms = sums.plus(terms, terms_of(bounds, length))
    known = known_sum(bounds, terms)
    if known is not None:
        return known
    return note(bounds, bounds.atom("+".join(map(str, lengths)), value, 0, room), terms)


@on("Slice")
def _slice(bounds: Bounds, node: gs.Node) -> bool:
    data = node.inputs[0]
    dims = bounds.dims(data)
    legacy = "starts" in node.attrs
    if legacy:
        starts = sized(Dim(int(v)) for v in node.attrs["starts"])
        ends = sized(Dim(int(v)) for v in node.attrs["ends"])
        axes = [int(a) % len(dims) for a in node.attrs.get("axes", range(len(starts)))]
        steps = [1] * len(axes)
    else:
        found = bounds.elements(node.inputs[1]), bounds.elements(node.inputs[2])
        if found[0] is None or found[1] is None:
            if data.name in bounds.padded:
                raise No("a Slice with bounds from data")
            return False
        starts, ends = found[0].reshape(-1), found[1].reshape(-1)
        axes = [a % len(dims) for a in whole_numbers(bounds, node, 3) or range(len(starts))]
        steps = whole_numbers(bounds, node, 4) or [1] * len(axes)
    data, taken = _spans(bounds, data, list(zip(axes, starts, ends, steps, strict=True)))
    left = [i for i, axis in enumerate(axes) if axis not in taken]
    if taken and not left:
        output = bounds.instead(node, "Identity", data)
        bounds.pad(output, dict(enumerate(bounds.dims(data))))
        return True
    axes, steps = [axes[i] for i in left], [steps[i] for i in left]
    starts, ends = sized(starts[i] for i in left), sized(ends[i] for i in left)
    after = dict(bounds.padded.get(data.name, {}))
    first: list[int] = []
    last: list[Dim] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis not in after and start.exact and end.exact:
            if start.number is None:
                if not bounds.padded.get(data.name):
                    return False  # nothing is padded: an ordinary Slice
                raise No("a Slice that starts at a free dim")
            first.append(start.factor)
            last.append(end)
            continue
        if step != 1 or start.number is None or start.factor < 0:
            raise No("a Slice of a padded axis that does not run forwards from a number")
        after[axis], stop = _cut(bounds, dims[axis], start.factor, end)
        first.append(start.factor)
        last.append(stop)
    values = [np.asarray(first, np.int64), bounds.value(last), np.asarray(axes, np.int64)]
    if legacy:
        if any(d.number is None for d in last):
            raise No("a Slice of a free size")
        node.attrs["ends"] = [d.factor for d in last]
        bounds.pad(node.outputs[0], after)
        return False
    output = bounds.instead(node, "Slice", data, *values, np.asarray(steps, np.int64))
    bounds.pad(output, after)
    return True


def _spans(bounds: Bounds, data: Any, cuts: list[tuple[int, Dim, Dim, int]]) -> tuple[Any, set[int]]:
    """What slices from one count to another leave, and the axes that are done with that."""
    taken = set()
    for axis, start, end, step in cuts:
        counted = not start.exact or (start.number is None and not end.exact)
        part = span(bounds, data, axis, start, end) if counted and step == 1 else None
        if part is not None:
            data = part
            taken.add(axis)
    return data, taken


def _cut(bounds: Bounds, dim: Dim, start: int, end: Dim) -> tuple[Dim, Dim]:
    """Size of what is left of an axis, and where the room for it ends."""
    room = bounds.room(dim)
    if end.number is not None and end.factor >= INT_MAX:
        end = dim
    if end.number is not None and end.factor < 0:
        stop = bounds.exact("Sub", room, Dim(-end.factor))
        left = _shortened(bounds, dim, -end.factor, stop)
    elif end == dim:
        left, stop = dim, room
    else:
        left, stop = bounds.smaller(dim, end), bounds.exact("Min", room, bounds.room(end))
    if start:
        left = _shortened(bounds, left, start, bounds.exact("Sub", stop, Dim(start)))
    return left, stop


def _shortened(bounds: Bounds, dim: Dim, less: int, room: Dim) -> Dim:
    """A count without so many, not below 0."""
    terms = sums.plus(terms_of(bounds, dim), {(): -less})
    known = known_sum(bounds, terms)
    if known is None:
        less_of_it = bounds.emit("Sub", bounds.scalar(dim), np.asarray(less, np.int64))
        known = bounds.atom(f"({dim}-{less})", _not_negative(bounds, less_of_it), 0, room)
        note(bounds, known, terms)
    return known


def _not_negative(bounds: Bounds, value: Any) -> Any:
    zero = np.asarray(0, np.int64)
    return bounds.emit("Where", bounds.emit("Less", value, zero, dtype=np.bool_), zero, value, dtype=np.int64)
