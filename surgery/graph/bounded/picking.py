"""Operators that read or write at given places, behind padded operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import ONE, Dim
from surgery.graph.bounded.handlers import greatest, least, on
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


NEUTRAL: dict[str, Callable[[Any], Any]] = {
    "add": lambda t: 0,
    "mul": lambda t: 1,
    "max": least,
    "min": greatest,
}
"""What changes nothing where it is scattered."""


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


@on("Gather")
def _gather(bounds: Bounds, node: gs.Node) -> bool:
    data, indices = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    along = int(node.attrs.get("axis", 0)) % len(dims)
    found = {a if a < along else a + len(inner) - 1: d for a, d in enumerate(dims) if a != along}
    found.update({along + a: d for a, d in enumerate(inner)})
    node.inputs[1] = _positions(bounds, indices, dims[along])
    bounds.pad(node.outputs[0], found)
    return False


@on("GatherElements")
def _gather_elements(bounds: Bounds, node: gs.Node) -> bool:
    data, indices = node.inputs
    dims, inner = bounds.dims(data), bounds.dims(indices)
    along = int(node.attrs.get("axis", 0)) % len(dims)
    node.inputs[1] = _positions(bounds, indices, dims[along])
    bounds.pad(node.outputs[0], dict(enumerate(inner)))
    return False


@on("GatherND")
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


@on("ScatterND")
def _scatter_nd(bounds: Bounds, node: gs.Node) -> bool:
    """What is padding goes to a row behind the others, which is cut off."""
    data, indices = node.inputs[:2]
    dims, inner = bounds.dims(data), bounds.dims(indices)
    depth = inner[-1].number
    if depth is None:
        raise No("the length of an index depends on data")
    if all(d.exact for d in inner):
        _of_one_length(bounds, node, inner)
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
    _of_one_length(bounds, node, inner)
    bounds.pad(_then_front(bounds, node, 0, rows), dict(enumerate(dims)))
    return True


def _of_one_length(bounds: Bounds, node: gs.Node, inner: list[Dim]) -> None:
    """As many indices as updates: both are cut to the smaller of two rooms.

    The true sizes agree, or the model fails; so what is real has room in both.
    """
    for axis, dim in enumerate(inner[:-1]):
        other = bounds.dims(node.inputs[2])[axis]
        rooms = [bounds.room(d) for d in (dim, other)]
        if rooms[0] == rooms[1]:
            continue
        size = bounds.exact("Min", *rooms)
        start, along = np.asarray([0], np.int64), np.asarray([axis], np.int64)
        for place, room in zip((1, 2), rooms, strict=True):
            if room != size:
                node.inputs[place] = bounds.emit(
                    "Slice", node.inputs[place], start, bounds.value([size]), along
                )
        bounds.told(
            f"{node.name!r} has as many updates as places, as in the model, which fails on other inputs"
        )


@on("ScatterElements", "Scatter")
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
    bounds.pad(_then_front(bounds, node, along, size), dict(enumerate(dims)))
    return True


def _then_front(bounds: Bounds, node: gs.Node, axis: int, size: Dim) -> Any:
    """Write a node, and a Slice that leaves the first entries along an axis of what it makes."""
    start, along = np.asarray([0], np.int64), np.asarray([axis], np.int64)
    return bounds.then(node, "Slice", start, bounds.value([size]), along)


@on("RoiAlign")
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


@on("GridSample")
def _grid_sample(bounds: Bounds, node: gs.Node) -> bool:
    """As many samples as places."""
    image, grid = (bounds.dims(t) for t in node.inputs[:2])
    if set(bounds.padded.get(node.inputs[0].name, {})) - {0, 1}:
        raise No("a GridSample of images with padded sides")
    if image[0] != grid[0]:
        raise No("a GridSample with different numbers of images and grids")
    node.inputs[1] = bounds.masked(node.inputs[1], 0)
    bounds.pad(node.outputs[0], dict(enumerate([*image[:2], *grid[1:-1]])))
    return False


@on("OneHot")
def _one_hot(bounds: Bounds, node: gs.Node) -> bool:
    if any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No("a OneHot of padded depth")
    dims = bounds.dims(node.inputs[0])
    axis = int(node.attrs.get("axis", -1)) % (len(dims) + 1)
    own = bounds.padded[node.inputs[0].name]
    node.inputs[0] = bounds.masked(node.inputs[0], 0)
    bounds.pad(node.outputs[0], {a + (a >= axis): d for a, d in own.items()})
    return False
