"""Reading and writing by index where several samples share the axis: each sample keeps to its own entries.

A model for one sample counts places within the sample. With all samples one after the other along that axis, the
places of a sample start where the entries of those before it end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from surgery.graph.batch_way import Way


def own_places(way: Way, index: str, at: int, data: str, axis: int, column: int | None = None) -> str:
    """Indices along an axis of the batch, moved to the entries of the sample that each of them is for.

    Args:
        way: What is written to; its batch is one.
        index: The indices, whole numbers; negative ones count from the end of a sample.
        at: The axis of the indices' own batch.
        data: What is indexed.
        axis: The axis of its batch.
        column: For indices with a number for each axis in the last one: the number that counts.

    Returns:
        The indices as int64.
    """
    import onnx

    rank, own = len(way.dims(index)), way.dims(index)[at]
    each = way.ints([way.dims(data)[axis]]) if way.static else way.length(data, axis)
    whole = way.emit("Cast", [index], to=onnx.TensorProto.INT64)
    parts = [whole]
    if column is not None:
        parts = [
            _columns(way, whole, s, e) for s, e in ((0, column), (column, column + 1), (column + 1, 1 << 30))
        ]
        if column == 0:
            parts = parts[1:]
        if column == way.dims(index)[-1] - 1:
            parts = parts[:-1]
    scalar = way.ints([])
    zero, one = (way.emit("Reshape", [way.ints([n]), scalar]) for n in (0, 1))
    order = way.emit("Range", [zero, way.emit("Reshape", [way.samples, scalar]), one])
    start = way.emit("Mul", [order, each])
    if own > 1:
        column_of = way.emit("Reshape", [start, way.ints([-1, 1])])
        start = way.emit("Expand", [column_of, way.ints([1, own])])
    start = way.emit("Reshape", [start, way.ints([-1 if a == at else 1 for a in range(rank)])])
    middle = 0 if column is None or column == 0 else 1
    parts[middle] = way.emit("Add", [way.emit("Mod", [parts[middle], each]), start])
    return parts[0] if len(parts) == 1 else way.emit("Concat", parts, axis=-1)


def _columns(way: Way, name: str, start: int, end: int) -> str:
    return way.emit("Slice", [name, way.ints([start]), way.ints([end]), way.ints([-1])])


def gather(way: Way, node: onnx.NodeProto, along: int) -> bool:
    """A Gather along the axis of the batch."""
    data, index = node.input[:2]
    at = way.axes.get(index, 0)
    if not way.dims(index):
        if index in way.axes:
            return False
        index = way.emit("Reshape", [index, way.ints([1])])
        way.shapes[index] = (1,)
        every = own_places(way, _spread(way, index, 0), 0, data, along)
        if along:
            return False
        way.replace(node, "Gather", [data, every], axis=0)
        way.hidden[node.output[0]] = f"Gather {node.name!r}"
        return True
    if index not in way.axes:
        index = _spread(way, index, 0)
    way.replace(node, "Gather", [data, own_places(way, index, at, data, along)], axis=along)
    way.made(node, along + at)
    return True


def elements(way: Way, node: onnx.NodeProto, held: list[int], along: int) -> bool:
    """GatherElements or ScatterElements along the axis of the batch."""
    if any(way.axes[node.input[i]] != along for i in held):
        return False
    inputs = [n if i in held else _spread(way, n, along) for i, n in enumerate(node.input)]
    inputs[1] = own_places(way, inputs[1], along, inputs[0], along)
    node.input[:] = inputs
    way.made(node, along)
    return True


def nd(way: Way, node: onnx.NodeProto, held: list[int]) -> bool:
    """GatherND or ScatterND, without axes of their own for a batch."""
    data, index = node.input[:2]
    width, rank = way.dims(index)[-1], len(way.dims(index))
    axis = way.axes.get(data, 0)
    at = way.axes.get(index, 0)
    if axis >= width:  # the batch is in what is read or written whole
        return _whole(way, node, held, rank - 1 + axis - width)
    if rank < 2 or at >= rank - 1:
        return False
    inputs = list(node.input)
    if 1 not in held:
        inputs[1] = _spread(way, index, 0)
    if 0 not in held:
        if node.op_type == "GatherND":
            way.made(node, at)
            return True
        inputs[0] = _spread(way, data, 0)
    if len(inputs) > 2:
        if 2 not in held:
            inputs[2] = _spread(way, inputs[2], at)
        elif way.axes[inputs[2]] != at:
            return False
    inputs[1] = own_places(way, inputs[1], at, inputs[0], axis, axis)
    node.input[:] = inputs
    way.made(node, at if node.op_type == "GatherND" else axis)
    return True


def _whole(way: Way, node: onnx.NodeProto, held: list[int], place: int) -> bool:
    if 1 in held:
        return False
    if node.op_type == "GatherND":
        way.made(node, place)
        return True
    if 2 not in held:
        node.input[2] = _spread(way, node.input[2], place)
    elif way.axes[node.input[2]] != place:
        return False
    way.made(node, way.axes[node.input[0]])
    return True


def _spread(way: Way, name: str, axis: int) -> str:
    """As often as there are samples; the sizes of one sample stay known under the new name."""
    made = way.spread(name, axis)
    way.shapes[made] = tuple(way.dims(name))
    return made
