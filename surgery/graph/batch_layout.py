"""Where the batch goes in operators that lay out, join, cut or repeat what they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.batch_handlers import handles
from surgery.graph.batch_inputs import MixingError, NoBatchError
from surgery.graph.batch_way import identity

if TYPE_CHECKING:
    import onnx

    from surgery.graph.batch_way import Way


@handles("Reshape")
def _reshape(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch goes where what is in front of it stays; constant sizes follow."""
    if 0 not in held:
        raise NoBatchError("its shape depends on the values of samples")
    axis, old, new = way.axes[node.input[0]], way.dims(node.input[0]), way.dims(node.output[0])
    place = way.choose(node, axis, old, new)
    if not way.natural(axis, old, place, new):
        way.moved(node, node.input[0], axis, place)
        return
    target = way.value(node.input[1]) if len(node.input) > 1 else None
    if target is not None:
        written = [int(v) for v in target.reshape(-1)]
        attributes = {a.name: a.i for a in node.attribute}
        copies = written[place] == 0 and not attributes.get("allowzero", 0) and place == axis
        if not copies and written[place] != -1:
            if way.static or -1 not in written:
                full = [d if w == -1 else w for w, d in zip(written, new, strict=True)]
                full[place] = -1
                node.input[1] = way.ints(full)
            else:
                node.input[1] = way.sizes([*written[:place], new[place], *written[place + 1 :]], place)
    way.made(node, place)


@handles("Flatten")
def _flatten(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """As a Reshape to two axes."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if way.axes[node.input[0]] == 0 and axis != 0:
        way.made(node, 0)
        return
    if not way.static or way.size != 1:
        raise NoBatchError("the batch is joined with other axes")
    old, new = way.dims(node.input[0]), way.dims(node.output[0])
    way.moved(
        node,
        node.input[0],
        way.axes[node.input[0]],
        way.choose(node, way.axes[node.input[0]], old, new),
    )


@handles("Transpose")
def _transpose(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch moves with its axis."""
    rank = len(way.dims(node.input[0]))
    perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
    way.made(node, perm.index(way.axes[node.input[0]]))


@handles("Squeeze")
def _squeeze(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch loses axes in front of it, or its own."""
    axis, dims = way.axes[node.input[0]], way.dims(node.input[0])
    wanted = way.axes_of(node)
    gone = (
        [a % len(dims) for a in wanted] if wanted is not None else [i for i, d in enumerate(dims) if d == 1]
    )
    if gone == [axis] and way.hide(node):
        return
    if axis in gone:
        raise MixingError("the axis of the batch is taken away: there is room for one sample only")
    way.made(node, axis - sum(g < axis for g in gone))


@handles("Unsqueeze")
def _unsqueeze(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch gets axes in front of it."""
    wanted = way.axes_of(node)
    if wanted is None:
        raise NoBatchError("its axes are not constant")
    rank = len(way.dims(node.input[0])) + len(wanted)
    new = {a % rank for a in wanted}
    old = [i for i in range(rank) if i not in new]
    way.made(node, old[way.axes[node.input[0]]])


@handles("Concat")
def _concat(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Joined along another axis; what is the same for all samples is repeated."""
    if len(node.input) == 1:
        way.made(node, way.axes[node.input[0]])
        return
    places = {way.axes[node.input[i]] for i in held}
    along = next(a.i for a in node.attribute if a.name == "axis") % len(way.dims(node.output[0]))
    if len(places) != 1 or along in places:
        raise NoBatchError("samples are joined along the batch")
    axis = places.pop()
    way.spread_others(node, held, axis)
    way.made(node, axis)


@handles("Expand")
def _expand(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Constant sizes leave the batch as it is."""
    rank = len(way.dims(node.output[0]))
    axis = way.axes[node.input[0]] + rank - len(way.dims(node.input[0]))
    target = way.value(node.input[1])
    if target is not None:
        written = [int(v) for v in target.reshape(-1)]
        at = axis - (rank - len(written))
        if at >= 0 and written[at] != 1:
            written[at] = 1  # stays as long as it is
            node.input[1] = way.ints(written)
    way.made(node, axis)


def _kept(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Operators along an axis, or with sizes by axis, that must leave the batch alone."""
    axis = way.axes[node.input[0]] if 0 in held else -1
    along = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if axis < 0:
        raise NoBatchError("what it reads from is the same for all samples, and where it reads is not")
    if along % len(way.dims(node.input[0])) == axis:
        raise NoBatchError("samples are taken apart along the batch")
    way.made(node, axis)


@handles("Split")
def _split(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Not along the batch, unless into one."""
    if len(node.output) == 1:
        way.made(node, way.axes[node.input[0]])
        way.nodes.append(identity(node))
        return
    _kept(way, node, held)


@handles("Slice")
def _slice(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch is taken whole."""
    axis, dims = way.axes[node.input[0]], way.dims(node.input[0])
    attributes = {a.name: list(a.ints) for a in node.attribute}

    def operand(place: int, name: str) -> list[int] | None:
        if len(node.input) > place and node.input[place]:
            value = way.value(node.input[place])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        return attributes.get(name)

    starts, ends, axes = operand(1, "starts"), operand(2, "ends"), operand(3, "axes")
    count = len(starts or ends or [])
    where = [a % len(dims) for a in axes] if axes is not None else list(range(count))
    if axis in where:
        k = where.index(axis)
        if starts is None or ends is None or starts[k] != 0 or ends[k] < dims[axis]:
            raise NoBatchError("samples are cut out of the batch")
        if ends[k] < 1 << 30:
            ends[k] = 1 << 62
            if len(node.input) > 2:
                node.input[2] = way.ints(ends)
            else:
                next(a for a in node.attribute if a.name == "ends").ints[:] = [
                    min(e, (1 << 31) - 1) for e in ends
                ]
    way.made(node, axis)


@handles("Resize", "Upsample")
def _resize(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Constant sizes follow the batch."""
    axis = way.axes[node.input[0]]
    has_axes = any(a.name == "axes" for a in node.attribute)
    if len(node.input) > 3 and node.input[3] and not has_axes:
        dims = way.dims(node.output[0])
        if way.value(node.input[3]) is not None:
            node.input[3] = way.sizes(dims, axis)
    way.made(node, axis)


@handles("OneHot")
def _one_hot(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """One more axis."""
    if held != [0]:
        raise NoBatchError("what it makes depends on the sample")
    rank = len(way.dims(node.output[0]))
    along = next((a.i for a in node.attribute if a.name == "axis"), -1) % rank
    axis = way.axes[node.input[0]]
    way.made(node, axis if axis < along else axis + 1)
