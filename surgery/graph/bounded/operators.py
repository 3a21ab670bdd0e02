"""What each operator becomes behind a padded operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.by_entry import PER_ENTRY, PER_SAMPLE
from surgery.graph.bounded.dims import ONE, Dim, product, regrouped
from surgery.graph.bounded.equations import learn, settle, settled
from surgery.graph.bounded.pads import completed, pad_by_sizes
from surgery.graph.bounded.sizes import SIZE_OPS, compute_sizes
from surgery.graph.bounded.spans import known_sum, note, span, terms_of
from surgery.graph.bounded.wanted import whole
from surgery.graph.bounded.windows import WINDOWED, windows
from surgery.graph.bounded.work import No, sized, total

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

    Handler = Callable[["Bounds", Any], bool]

INT_MAX = 2**31 - 1
"""An end of a slice at or above it means the end of the axis."""

_HANDLERS: dict[str, Handler] = {}


def handle(bounds: Bounds, node: gs.Node) -> bool:
    """Change a node that reads padded tensors or sizes.

    Returns:
        Whether something has been written in its place; if not, the node is to be written as it now is.

    Raises:
        No: it cannot work on what it reads.
    """
    if node.domain not in (None, "", "ai.onnx"):
        if any(t.name in bounds.padded for t in node.inputs):
            raise No(f"{node.domain}.{node.op} is not known to")
        return False
    found = compute_sizes(bounds, node) if node.op in SIZE_OPS else None
    if found is not None:
        bounds.sizes[node.outputs[0].name] = found
        return False
    handler = _HANDLERS.get(node.op)
    if handler is not None:
        return handler(bounds, node)
    if not any(t.name in bounds.padded for t in node.inputs):
        return False  # true sizes as numbers like any other
    if node.op in PER_ENTRY:
        return _per_entry(bounds, node)
    raise No(f"{node.op} cannot work on a padded tensor")


def prepare(bounds: Bounds, node: gs.Node) -> bool:
    """Mask the operands of a node whose own output size depends on data."""
    if node.op == "NonZero":
        node.inputs[0] = bounds.masked(node.inputs[0], 0)
    elif node.op == "Compress":
        data = node.inputs[0]
        along = int(node.attrs.get("axis", 0)) % max(1, len(bounds.dims(data)))
        if set(bounds.padded.get(data.name, {})) - {along} or (
            "axis" not in node.attrs and len(data.shape) > 1
        ):
            raise No("a Compress of a tensor that is padded along another axis")
        node.inputs[0] = bounds.masked(data, 0)
        node.inputs[1] = bounds.masked(node.inputs[1], 0)
    elif node.op == "NonMaxSuppression":
        _prepare_nms(bounds, node)
    elif any(t.name in bounds.padded for t in node.inputs):
        raise No(f"{node.op} cannot work on a padded tensor")
    return False


def _on(*ops: str) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(ops, handler))
        return handler

    return keep


def _lowest(tensor: Any) -> Any:
    dtype = np.dtype(tensor.dtype)
    return np.iinfo(dtype).min if dtype.kind in "iu" else np.finfo(dtype).min


def _highest(tensor: Any) -> Any:
    dtype = np.dtype(tensor.dtype)
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.finfo(dtype).max


def _numbers(bounds: Bounds, node: gs.Node, place: int, attribute: str = "") -> list[int] | None:
    """Whole numbers given as a constant operand or an attribute; None if there are none.

    Raises:
        No: the operand is not constant.
    """
    if attribute and attribute in node.attrs:
        return [int(v) for v in np.asarray(node.attrs[attribute]).reshape(-1)]
    if len(node.inputs) <= place or not node.inputs[place].name:
        return None
    value = bounds.number(node.inputs[place])
    if value is None:
        raise No(f"operand {place} of {node.op} is not constant")
    return [int(v) for v in value.reshape(-1)]


def _given(node: gs.Node, place: int) -> bool:
    return len(node.inputs) > place and bool(node.inputs[place].name)


def _only_first(bounds: Bounds, node: gs.Node) -> dict[int, Dim]:
    """Padded axes of the first operand.

    Raises:
        No: another operand is padded.
    """
    if any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No(f"a padded operand of {node.op} other than the first")
    return bounds.padded.get(node.inputs[0].name, {})


# -- entries by themselves ------------------------------------------------------------------------------


def _per_entry(bounds: Bounds, node: gs.Node) -> bool:
    """Operands broadcast from the back; who is padded along an axis is so by the same size, or has size 1 there."""
    shapes = [(t, bounds.dims(t)) for t in node.inputs if t.name]
    rank = max(len(d) for _, d in shapes)
    found: dict[int, Dim] = {}
    for axis in range(rank):
        here = [d[axis - rank + len(d)] for _, d in shapes if axis - rank + len(d) >= 0]
        wide = {d for d in here if d != ONE}
        if len(wide) > 1 and all(d.exact for d in wide):
            continue  # nothing is padded here, whichever it is
        if len(wide) > 1:
            raise No(f"sizes {', '.join(sorted(map(str, wide)))} meet along axis {axis} of {node.op}")
        found[axis] = next(iter(wide), ONE)
    for tensor in node.outputs:
        if tensor.name:
            bounds.pad(tensor, found)
    return False


@_on("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def _random(bounds: Bounds, node: gs.Node) -> bool:
    """Each entry is drawn by itself, padding too."""
    bounds.pad(node.outputs[0], _only_first(bounds, node))
    return False


@_on(*PER_SAMPLE)
def _per_sample(bounds: Bounds, node: gs.Node) -> bool:
    own = _only_first(bounds, node)
    if node.op in WINDOWED and set(own) != {0}:
        return windows(bounds, node)
    if node.op == "BatchNormalization" and 1 not in own and not node.attrs.get("training_mode", 0):
        bounds.pad(node.outputs[0], own)
        return False
    if set(own) != {0} or node.attrs.get("training_mode", 0):
        raise No(f"{node.op} works along a padded axis")
    bounds.pad(node.outputs[0], own)
    return False


@_on("LayerNormalization", "RMSNormalization")
def _normalization(bounds: Bounds, node: gs.Node) -> bool:
    own = _only_first(bounds, node)
    rank = len(bounds.dims(node.inputs[0]))
    if any(a >= int(node.attrs.get("axis", -1)) % rank for a in own):
        raise No(f"{node.op} works along a padded axis")
    bounds.pad(node.outputs[0], own)
    return False


# -- layout ---------------------------------------------------------------------------------------------


@_on("Transpose")
def _transpose(bounds: Bounds, node: gs.Node) -> bool:
    rank = len(bounds.dims(node.inputs[0]))
    perm = list(node.attrs.get("perm") or range(rank)[::-1])
    own = bounds.padded[node.inputs[0].name]
    bounds.pad(node.outputs[0], {perm.index(a): d for a, d in own.items()})
    return False


@_on("Unsqueeze")
def _unsqueeze(bounds: Bounds, node: gs.Node) -> bool:
    rank = len(bounds.dims(node.inputs[0]))
    axes = _numbers(bounds, node, 1, "axes") or []
    new = {a % (rank + len(axes)) for a in axes}
    old = [a for a in range(rank + len(axes)) if a not in new]
    own = _only_first(bounds, node)
    bounds.pad(node.outputs[0], {old[a]: d for a, d in own.items()})
    return False


@_on("Squeeze")
def _squeeze(bounds: Bounds, node: gs.Node) -> bool:
    dims = bounds.dims(node.inputs[0])
    axes = _numbers(bounds, node, 1, "axes")
    gone = {a % len(dims) for a in axes} if axes is not None else {a for a, d in enumerate(dims) if d == ONE}
    own = _only_first(bounds, node)
    for axis in sorted(gone & set(own)):  # only a size of 1 can be squeezed, so that is what it is
        node.inputs[0] = _narrowed(bounds, node.inputs[0], axis, 1)
        bounds.told(f"{node.name!r} squeezes a size that depends on data: it has to be 1, as in the model")
    left = {a: d for a, d in own.items() if a not in gone}
    bounds.pad(node.outputs[0], {a - sum(g < a for g in gone): d for a, d in left.items()})
    return False


def _narrowed(bounds: Bounds, tensor: Any, axis: int, size: int) -> Any:
    """The first entries along a padded axis, of which so many are known to be real."""
    left = {a: d for a, d in bounds.padded[tensor.name].items() if a != axis}
    start, stop, where = (np.asarray([v], np.int64) for v in (0, size, axis))
    if bounds.room(bounds.dims(tensor)[axis]).number != size:
        tensor = bounds.emit("Slice", tensor, start, stop, where)
    else:
        tensor = bounds.emit("Identity", tensor)  # the operand itself stays padded for others
    bounds.pad(tensor, left)
    return tensor


@_on("Flatten")
def _flatten(bounds: Bounds, node: gs.Node) -> bool:
    dims = bounds.dims(node.inputs[0])
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(dims) if axis < 0 else axis
    return _reshaped(bounds, node, dims, [product(dims[:axis]), product(dims[axis:])])


@_on("Reshape")
def _reshape(bounds: Bounds, node: gs.Node) -> bool:
    wanted = bounds.elements(node.inputs[1])
    if wanted is None:
        raise No("the shape of a reshape is computed from data")
    dims = bounds.dims(node.inputs[0])
    after: list[Dim | None] = []
    for axis, dim in enumerate(wanted.reshape(-1)):
        if dim.number == 0 and not node.attrs.get("allowzero", 0):
            after.append(dims[axis])
        else:
            after.append(None if dim.number == -1 else dim)
    if None in after:
        rest = product([d for d in after if d is not None])
        missing = total(dims).over(rest)
        if missing is None and node.inputs[0].name not in bounds.padded and all(d.exact for d in wanted.flat):
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
    bounds.instead(node, "Reshape", source, _layout(bounds, after))
    output = bounds._out[-1].outputs[0]
    bounds.pad(output, {b: after[b] for b in places.values()})
    return True


MOST_GATHERED = 2**22
"""Elements up to which a reshape is done by a Gather; positions above are not exact where division is not."""


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
    bounds.instead(node, "Gather", flat, target, axis=0)
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(after)))
    return True


def _layout(bounds: Bounds, dims: list[Dim]) -> Any:
    """A shape for Reshape with rooms; one free dim is left to the operator."""
    rooms = [bounds.room(d) for d in dims]
    numbers = [r.number for r in rooms]
    if numbers.count(None) == 1 and 0 not in numbers:
        return np.asarray([-1 if n is None else n for n in numbers], np.int64)
    return bounds.value(rooms)


@_on("Expand")
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
    bounds.instead(node, "Expand", node.inputs[0], bounds.value(shape, rooms=True))
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(after)))
    return True


@_on("Tile")
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
    bounds.instead(node, "Tile", node.inputs[0], bounds.value(repeats.reshape(-1), rooms=True))
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(after)))
    return True


@_on("ConstantOfShape")
def _constant_of_shape(bounds: Bounds, node: gs.Node) -> bool:
    shape = bounds.elements(node.inputs[0])
    if shape is None:
        return False
    attributes = {k: v for k, v in node.attrs.items() if k == "value"}
    bounds.instead(node, "ConstantOfShape", bounds.value(shape.reshape(-1), rooms=True), **attributes)
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(shape.reshape(-1))))
    return True


@_on("Range")
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
    bounds.instead(node, "Identity", places)
    bounds.pad(bounds._out[-1].outputs[0], {0: dim})
    return True


@_on("Pad")
def _pad(bounds: Bounds, node: gs.Node) -> bool:
    return pad_by_sizes(bounds, node)


@_on("Split")
def _split(bounds: Bounds, node: gs.Node) -> bool:
    own = _only_first(bounds, node)
    data = node.inputs[0]
    along = int(node.attrs.get("axis", 0)) % len(bounds.dims(data))
    if along in own:
        sizes = bounds.elements(node.inputs[1]) if _given(node, 1) else None
        if "split" in node.attrs:
            sizes = sized(Dim(int(v)) for v in node.attrs["split"])
        if sizes is None:
            raise No("a Split of a padded axis into equal parts")
        total = sum(d.factor for d in sizes.reshape(-1))
        room = bounds.room(own[along]).number
        if any(d.number is None for d in sizes.reshape(-1)) or (room is not None and room < total):
            raise No("a Split of a padded axis into sizes that depend on data")
        # The model fails unless the sizes are those of the whole.
        node.inputs[0] = _narrowed(bounds, data, along, total)
        bounds.told(
            f"{node.name!r} splits a size that depends on data into parts of fixed size: it has to be {total}, as in "
            "the model, which fails on other inputs"
        )
    rest = {a: d for a, d in own.items() if a != along}
    for tensor in node.outputs:
        bounds.pad(tensor, rest)
    return False


@_on("Concat")
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
    bounds.instead(node, "Gather", together, places, axis=along)
    bounds.pad(bounds._out[-1].outputs[0], found)
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


# -- along axes -----------------------------------------------------------------------------------------


@_on("Slice")
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
        axes = [a % len(dims) for a in _numbers(bounds, node, 3) or range(len(starts))]
        steps = _numbers(bounds, node, 4) or [1] * len(axes)
    data, taken = _spans(bounds, data, list(zip(axes, starts, ends, steps, strict=True)))
    left = [i for i, axis in enumerate(axes) if axis not in taken]
    if taken and not left:
        bounds.instead(node, "Identity", data)
        bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(bounds.dims(data))))
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
    bounds.instead(node, "Slice", data, *values, np.asarray(steps, np.int64))
    bounds.pad(bounds._out[-1].outputs[0], after)
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


REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    "ReduceSum": lambda t: 0,
    "ReduceL1": lambda t: 0,
    "ReduceL2": lambda t: 0,
    "ReduceSumSquare": lambda t: 0,
    "ReduceLogSum": lambda t: 0,
    "ReduceProd": lambda t: 1,
    "ReduceMax": _lowest,
    "ReduceLogSumExp": _lowest,
    "ReduceMin": _highest,
    "ReduceMean": lambda t: 0,
}
"""What padding becomes so that it does not count."""


@_on(*REDUCTIONS)
def _reduce(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    dims = bounds.dims(source)
    given = _numbers(bounds, node, 1, "axes")
    if given is None and node.attrs.get("noop_with_empty_axes", 0):
        return _per_entry(bounds, node)
    axes = {a % len(dims) for a in given} if given else set(range(len(dims)))
    own = _only_first(bounds, node)
    keep = bool(node.attrs.get("keepdims", 1))
    left = {a if keep else a - sum(x < a for x in axes): d for a, d in own.items() if a not in axes}
    inside = axes & set(own)
    if inside:
        node.inputs[0] = bounds.masked(source, REDUCTIONS[node.op](source), inside)
    if inside and node.op == "ReduceMean":
        node.op = "ReduceSum"
        if bounds._opset >= 13 and "axes" in node.attrs:
            node.inputs.append(bounds.const(np.asarray(node.attrs.pop("axes"), np.int64)))
        count = bounds.scalar(product([dims[a] for a in sorted(axes)]))
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(source.dtype))
        divisor = bounds.emit("Cast", count, dtype=source.dtype, to=kind)
        _then(bounds, node, "Div", divisor)
        bounds.pad(bounds._out[-1].outputs[0], left)
        return True
    bounds.pad(node.outputs[0], left)
    return False


def _then(bounds: Bounds, node: gs.Node, op: str, operand: Any) -> None:
    """Write a node, and another behind it that makes its output from what it made."""
    import onnx_graphsurgeon as gs

    output = node.outputs[0]
    bounds._count += 1
    between = gs.Variable(f"surgery/sizes/before_{bounds._count}", output.dtype)
    node.outputs.clear()
    node.outputs.append(between)
    bounds.write(node)
    bounds._done.add(between.name)
    last = gs.Node(op, between.name + "/then", {}, [between, operand], [output])
    bounds.provenance[output.name] = {"surgery.rule": "keep-sizes"}
    bounds.write(last)


@_on("ArgMax", "ArgMin")
def _arg(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    axis = int(node.attrs.get("axis", 0)) % len(bounds.dims(source))
    own = bounds.padded[source.name]
    if axis in own:
        fill = _lowest(source) if node.op == "ArgMax" else _highest(source)
        node.inputs[0] = bounds.masked(source, fill, [axis])
    keep = bool(node.attrs.get("keepdims", 1))
    bounds.pad(node.outputs[0], {a if keep or a < axis else a - 1: d for a, d in own.items() if a != axis})
    return False


@_on("Softmax", "LogSoftmax", "Hardmax")
def _softmax(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    rank = len(bounds.dims(source))
    own = bounds.padded[source.name]
    if bounds._opset < 13:
        start = int(node.attrs.get("axis", 1)) % rank
        axes = [a for a in own if a >= start]
    else:
        axes = [a for a in own if a == int(node.attrs.get("axis", -1)) % rank]
    if axes:
        node.inputs[0] = bounds.masked(source, _lowest(source), axes)
    bounds.pad(node.outputs[0], own)
    return False


@_on("CumSum")
def _cumsum(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    own = _only_first(bounds, node)
    axis = _numbers(bounds, node, 1)
    if axis is None or (node.attrs.get("reverse", 0) and axis[0] % len(bounds.dims(source)) in own):
        node.inputs[0] = bounds.masked(source, 0)
    bounds.pad(node.outputs[0], own)
    return False


@_on("TopK")
def _topk(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    dims = bounds.dims(source)
    axis = int(node.attrs.get("axis", -1)) % len(dims)
    own = dict(bounds.padded.get(source.name, {}))
    wanted = bounds.elements(node.inputs[1])
    if wanted is None:
        raise No("k of a TopK is computed from data")
    k = wanted.reshape(-1)[0]
    if axis in own:
        fill = _lowest(source) if node.attrs.get("largest", 1) else _highest(source)
        node.inputs[0] = bounds.masked(source, fill, [axis])
    if not k.exact:
        most = bounds.exact("Min", bounds.room(k), bounds.room(dims[axis]))
        node.inputs[1] = bounds.value([most])
    own[axis] = k
    for tensor in node.outputs:
        if tensor.name:
            bounds.pad(tensor, own)
    return False


@_on("MatMul")
def _matmul(bounds: Bounds, node: gs.Node) -> bool:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    if len(left) < 2 or len(right) < 2:
        raise No("a MatMul with a vector")
    if not left[-1].exact or not right[-2].exact:
        node.inputs[0] = bounds.masked(node.inputs[0], 0, [len(left) - 1])
        node.inputs[1] = bounds.masked(node.inputs[1], 0, [len(right) - 2])
    rank = max(len(left), len(right))
    found: dict[int, Dim] = {rank - 2: left[-2], rank - 1: right[-1]}
    for axis in range(rank - 2):
        here = {d[axis - rank + len(d)] for d in (left, right) if axis - rank + len(d) >= 0} - {ONE}
        if len(here) > 1:
            raise No("sizes meet in a MatMul")
        found[axis] = next(iter(here), ONE)
    bounds.pad(node.outputs[0], found)
    return False


@_on("Gemm")
def _gemm(bounds: Bounds, node: gs.Node) -> bool:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    turned = bool(node.attrs.get("transA", 0)), bool(node.attrs.get("transB", 0))
    inner = (0 if turned[0] else 1), (1 if turned[1] else 0)
    if not left[inner[0]].exact or not right[inner[1]].exact:
        node.inputs[0] = bounds.masked(node.inputs[0], 0, [inner[0]])
        node.inputs[1] = bounds.masked(node.inputs[1], 0, [inner[1]])
    bounds.pad(node.outputs[0], {0: left[1 - inner[0]], 1: right[1 - inner[1]]})
    return False


@_on("Einsum")
def _einsum(bounds: Bounds, node: gs.Node) -> bool:
    """Along what is summed over, padding counts as 0."""
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    if "->" not in text or "." in text:
        raise No("an Einsum whose equation leaves axes out")
    left, result = text.split("->")
    known: dict[str, Dim] = {}
    for place, letters in enumerate(left.split(",")):
        dims = bounds.dims(node.inputs[place])
        if len(set(letters)) != len(letters):
            raise No("an Einsum of a diagonal")
        for letter, dim in zip(letters, dims, strict=True):
            if known.setdefault(letter, dim) != dim and ONE not in (known[letter], dim):
                raise No(f"sizes {known[letter]} and {dim} meet in an Einsum")
            known[letter] = dim if known[letter] == ONE else known[letter]
        inside = [a for a, letter in enumerate(letters) if letter not in result]
        node.inputs[place] = bounds.masked(node.inputs[place], 0, inside)
    bounds.pad(node.outputs[0], {a: known[letter] for a, letter in enumerate(result)})
    return False


# -- positions ------------------------------------------------------------------------------------------


def _positions(bounds: Bounds, indices: Any, dim: Dim) -> Any:
    """Indices along an axis that may be padded: none beyond the room, those from the end from the true one."""
    indices = bounds.masked(indices, 0)
    value = bounds.number(indices)
    if value is not None and (value >= 0).all():
        return indices
    if dim.exact and value is not None:
        return indices
    if np.dtype(indices.dtype) != np.int64:
        indices = bounds.emit("Cast", indices, dtype=np.int64, to=7)
    if dim.exact:
        return indices
    zero = np.asarray(0, np.int64)
    behind = bounds.emit("Less", indices, zero, dtype=np.bool_)
    return bounds.emit(
        "Where", behind, bounds.emit("Add", indices, bounds.scalar(dim)), indices, dtype=np.int64
    )


@_on("Gather")
def _gather(bounds: Bounds, node: gs.Node) -> bool:
    data, indices = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    along = int(node.attrs.get("axis", 0)) % len(dims)
    found = {a if a < along else a + len(inner) - 1: d for a, d in enumerate(dims) if a != along}
    found.update({along + a: d for a, d in enumerate(inner)})
    node.inputs[1] = _positions(bounds, indices, dims[along])
    bounds.pad(node.outputs[0], found)
    return False


@_on("GatherElements")
def _gather_elements(bounds: Bounds, node: gs.Node) -> bool:
    data, indices = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    along = int(node.attrs.get("axis", 0)) % len(dims)
    node.inputs[1] = _positions(bounds, indices, dims[along])
    bounds.pad(node.outputs[0], dict(enumerate(inner)))
    return False


@_on("GatherND")
def _gather_nd(bounds: Bounds, node: gs.Node) -> bool:
    data, indices = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    batch, depth = int(node.attrs.get("batch_dims", 0)), inner[-1].number
    if depth is None:
        raise No("the length of an index depends on data")
    value = bounds.number(indices)
    if any(not d.exact for d in dims[batch : batch + depth]) and value is not None and (value < 0).any():
        raise No("indices from the end of a padded axis")
    node.inputs[1] = bounds.masked(indices, 0)
    found = [*inner[:-1], *dims[batch + depth :]]
    bounds.pad(node.outputs[0], dict(enumerate(found)))
    return False


@_on("ScatterND")
def _scatter_nd(bounds: Bounds, node: gs.Node) -> bool:
    """What is padding goes to a row behind the others, which is cut off."""
    data, indices = node.inputs[:2]
    dims, inner = bounds.dims(data), bounds.dims(indices)
    depth = inner[-1].number
    if depth is None:
        raise No("the length of an index depends on data")
    if all(d.exact for d in inner):
        bounds.pad(node.outputs[0], dict(enumerate(dims)))
        return False
    rows = bounds.room(dims[0])
    spare = np.zeros([1] * len(dims), np.dtype(data.dtype))
    shape = bounds.value([ONE, *dims[1:]], rooms=True)
    spare = bounds.emit("Expand", spare, shape, dtype=data.dtype)
    outside = bounds.emit("Reshape", bounds.scalar(rows), np.asarray([1] * len(inner), np.int64))
    if np.dtype(indices.dtype) != np.int64:
        raise No("a ScatterND with indices that are not int64")
    if depth > 1:
        rest = np.zeros([1] * (len(inner) - 1) + [depth - 1], np.int64)
        outside = bounds.emit("Concat", outside, rest, axis=-1)
    where: Any = indices
    for axis, dim in enumerate(inner[:-1]):
        if not dim.exact:
            real = bounds.mask(dim, len(inner) - 1 - axis)
            where = bounds.emit("Where", real, where, outside, dtype=indices.dtype)
    node.inputs[0] = bounds.emit("Concat", data, spare, axis=0)
    node.inputs[1] = where
    _then_slice(bounds, node, np.asarray([0], np.int64), bounds.value([rows]))
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(dims)))
    return True


NEUTRAL: dict[str, Callable[[Any], Any]] = {
    "add": lambda t: 0,
    "mul": lambda t: 1,
    "max": lambda t: -np.inf if np.dtype(t.dtype).kind == "f" else _lowest(t),
    "min": lambda t: np.inf if np.dtype(t.dtype).kind == "f" else _highest(t),
}
"""What changes nothing where it is scattered."""


@_on("ScatterElements", "Scatter")
def _scatter_elements(bounds: Bounds, node: gs.Node) -> bool:
    """What is padding changes nothing, or goes to a place behind the others, which is cut off."""
    data, indices, updates = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    along = int(node.attrs.get("axis", 0)) % len(dims)
    if bounds.dims(updates) != inner:
        raise No(f"indices and updates of {node.op} of different sizes")
    if any(a != along and not d.exact and d != dims[a] for a, d in enumerate(inner)):
        raise No(f"{node.op} of a padded axis into another")
    reduction = str(node.attrs.get("reduction", "none"))
    padded = [a for a, d in enumerate(inner) if not d.exact]
    size = bounds.room(dims[along])
    if not padded:
        node.inputs[1] = _positions(bounds, indices, dims[along])
        bounds.pad(node.outputs[0], dict(enumerate(dims)))
        return False
    spread: Any = bounds.scalar(size)
    if reduction != "none":
        # Spread out: many updates of one place are slow.
        place = bounds.places(bounds.room(inner[padded[0]]))
        rest = bounds.emit("Mul", bounds.emit("Div", place, spread), spread)
        shape = [-1] + [1] * (len(inner) - 1 - padded[0])
        spread = bounds.emit("Reshape", bounds.emit("Sub", place, rest), np.asarray(shape, np.int64))
    where = indices
    if np.dtype(where.dtype) != np.int64:
        where = bounds.emit("Cast", where, dtype=np.int64, to=7)
    zero = np.asarray(0, np.int64)
    behind = bounds.emit("Less", where, zero, dtype=np.bool_)
    forward = bounds.emit("Add", where, bounds.scalar(dims[along]))
    where = bounds.emit("Where", behind, forward, where, dtype=np.int64)
    for axis in padded:
        real = bounds.mask(inner[axis], len(inner) - 1 - axis)
        where = bounds.emit("Where", real, where, spread, dtype=np.int64)
    node.inputs[1] = where
    if reduction != "none":
        node.inputs[2] = bounds.masked(updates, NEUTRAL[reduction](updates))
        bounds.pad(node.outputs[0], dict(enumerate(dims)))
        return False
    spare = np.zeros([1] * len(dims), np.dtype(data.dtype))
    shape = bounds.value([ONE if a == along else d for a, d in enumerate(dims)], rooms=True)
    spare = bounds.emit("Expand", spare, shape, dtype=data.dtype)
    node.inputs[0] = bounds.emit("Concat", data, spare, axis=along)
    _then_slice(bounds, node, np.asarray([0], np.int64), bounds.value([size]), along)
    bounds.pad(bounds._out[-1].outputs[0], dict(enumerate(dims)))
    return True


def _then_slice(bounds: Bounds, node: gs.Node, start: Any, end: Any, axis: int = 0) -> None:
    import onnx_graphsurgeon as gs

    output = node.outputs[0]
    bounds._count += 1
    between = gs.Variable(f"surgery/sizes/whole_{bounds._count}", output.dtype)
    node.outputs.clear()
    node.outputs.append(between)
    bounds.write(node)
    bounds._done.add(between.name)
    operands = [between, bounds.const(start), end, bounds.const(np.asarray([axis], np.int64))]
    bounds.provenance[output.name] = {"surgery.rule": "keep-sizes"}
    bounds.write(gs.Node("Slice", between.name + "/then", {}, operands, [output]))


@_on("RoiAlign")
def _roi_align(bounds: Bounds, node: gs.Node) -> bool:
    if node.inputs[0].name in bounds.padded:
        raise No("a RoiAlign of padded images")
    dim = bounds.dims(node.inputs[1])[0]
    if bounds.dims(node.inputs[2])[0] != dim:
        raise No("a RoiAlign with different numbers of boxes and images")
    node.inputs[1] = bounds.masked(node.inputs[1], 0)
    node.inputs[2] = bounds.masked(node.inputs[2], 0)
    bounds.pad(node.outputs[0], {0: dim})
    return False


@_on("GridSample")
def _grid_sample(bounds: Bounds, node: gs.Node) -> bool:
    """As many samples as places."""
    image, grid = (bounds.dims(t) for t in node.inputs[:2])
    if node.inputs[0].name in bounds.padded:
        raise No("a GridSample of padded images")
    if image[0] != grid[0]:
        raise No("a GridSample with different numbers of images and grids")
    node.inputs[1] = bounds.masked(node.inputs[1], 0)
    bounds.pad(node.outputs[0], dict(enumerate([*image[:2], *grid[1:-1]])))
    return False


@_on("OneHot")
def _one_hot(bounds: Bounds, node: gs.Node) -> bool:
    if any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No("a OneHot of padded depth")
    dims = bounds.dims(node.inputs[0])
    axis = int(node.attrs.get("axis", -1)) % (len(dims) + 1)
    own = bounds.padded[node.inputs[0].name]
    node.inputs[0] = bounds.masked(node.inputs[0], 0)
    bounds.pad(node.outputs[0], {a + (a >= axis): d for a, d in own.items()})
    return False


@_on("Shape", "Size")
def _shape(bounds: Bounds, node: gs.Node) -> bool:
    """True sizes."""
    dims = bounds.dims(node.inputs[0])
    if node.op == "Size":
        found = sized([total(dims)])
        bounds.instead(node, "Identity", bounds.scalar(found[0]))
        bounds.sizes[bounds._out[-1].outputs[0].name] = found.reshape(())
        return True
    part = dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
    bounds.instead(node, "Identity", bounds.value(part))
    bounds.sizes[bounds._out[-1].outputs[0].name] = sized(part)
    return True


@_on("If", "Loop", "Scan")
def _body(bounds: Bounds, node: gs.Node) -> bool:
    if any(t.name in bounds.padded for t in node.inputs):
        raise No(f"{node.op} cannot work on a padded tensor")
    return False


def _prepare_nms(bounds: Bounds, node: gs.Node) -> bool:
    """Boxes that are padding get a score that is below every threshold."""
    boxes, scores = node.inputs[:2]
    own = bounds.padded.get(scores.name, {})
    if set(own) - {2} or set(bounds.padded.get(boxes.name, {})) - {1}:
        raise No("a NonMaxSuppression of padded images or classes")
    if bounds.dims(boxes)[1] != bounds.dims(scores)[2]:
        raise No("a NonMaxSuppression of different numbers of boxes and scores")
    if own:
        node.inputs[0] = bounds.masked(boxes, 0)
        node.inputs[1] = bounds.masked(scores, _lowest(scores))
        import onnx_graphsurgeon as gs

        while len(node.inputs) < 5:
            node.inputs.append(gs.Variable.empty())
        if not node.inputs[4].name:
            node.inputs[4] = bounds.const(np.asarray([_lowest(scores)], np.float32))
    if _given(node, 2) and bounds.number(node.inputs[2]) is None:
        most = bounds.elements(node.inputs[2])
        limit = None if most is None else bounds.room(most.reshape(-1)[0]).number
        if limit is not None:
            node.inputs[2] = bounds.const(np.asarray([limit], np.int64))
    return False
