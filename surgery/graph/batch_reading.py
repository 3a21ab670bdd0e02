"""Where the batch goes in operators that read or write at given places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph import batch_index as by_index
from surgery.graph.batch_handlers import handles
from surgery.graph.batch_inputs import MixingError, NoBatchError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.graph.batch_way import Way


@handles("Gather")
def _gather(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Read by index along the batch, or beside it."""
    along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(way.dims(node.input[0]))
    if held == [1]:
        way.made(node, along + way.axes[node.input[1]])
        return
    axis = way.axes[node.input[0]]
    index = way.value(node.input[1])
    if along != axis:
        if len(held) > 1:
            raise NoBatchError("both what is read and where it is read depend on the sample")
        way.made(node, axis if axis < along else axis - 1 + len(way.dims(node.input[1])))
        return
    if index is not None and index.ndim == 0 and way.dims(node.input[0])[axis] == 1 and way.hide(node):
        return
    if index is not None and _from_each(way, node, index):
        return
    if way.size != 1 or not by_index.gather(way, node, along):
        raise MixingError("one sample is taken out of the batch")


def _from_each(way: Way, node: onnx.NodeProto, index: NDArray[Any]) -> bool:
    """A Gather from one sample's numbers in a row, as attention masks are read: from each sample, then."""
    dims = way.dims(node.input[0])
    if way.size != 1 or way.axes[node.input[0]] != 0 or index.ndim == 0 or index.shape[0] != 1:
        return False
    if not way.static:
        return False
    data = way.emit("Reshape", [node.input[0], way.ints([-1, *dims])])
    each = way.emit("Gather", [data, node.input[1]], axis=1)
    shape = way.ints([-1, *index.shape[1:], *dims[1:]])
    way.finish(node, "Reshape", [each, shape])
    return True


@handles("GatherElements", "ScatterElements")
def _gather_elements(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Read or write entry by entry, along the batch or beside it."""
    along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(way.dims(node.input[0]))
    places = {way.axes[node.input[i]] for i in held}
    if along in places:
        if way.size != 1 or not by_index.elements(way, node, held, along):
            raise NoBatchError("it reads along the batch")
        return
    if len(places) != 1:
        raise NoBatchError("the batches of its operands are in different axes")
    axis = places.pop()
    way.spread_others(node, held, axis)
    way.made(node, axis)


@handles("GatherND")
def _gather_nd(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Read by lists of indices."""
    shared = next((a.i for a in node.attribute if a.name == "batch_dims"), 0)
    if shared == 0 and held == [1] and way.axes[node.input[1]] < len(way.dims(node.input[1])) - 1:
        way.made(node, way.axes[node.input[1]])
        return
    if shared == 0 and held == [0] and _of_the_only_sample(way, node):
        # The first number of each index is that of the only sample.
        rank = len(way.dims(node.input[1]))
        rest = way.emit("Slice", [node.input[1], *(way.ints([v]) for v in (1, 1 << 30, -1))])
        way.finish(node, "GatherND", [node.input[0], way.spread_like(rest, rank)], batch_dims=1)
        return
    if shared == 0:
        if way.size != 1 or not by_index.nd(way, node, held):
            raise NoBatchError("its indices choose samples")
        return
    if any(way.axes[node.input[i]] >= shared for i in held):
        raise NoBatchError("its indices choose samples")
    axis = way.axes[node.input[held[0]]]
    way.spread_others(node, held, axis)
    way.made(node, axis)


def _of_the_only_sample(way: Way, node: onnx.NodeProto) -> bool:
    """Whether constant indices, one set of them, name sample 0 and then something in it."""
    index = way.value(node.input[1])
    if way.size != 1 or index is None or way.axes[node.input[0]] != 0:
        return False
    return index.shape[0] == 1 and index.ndim > 1 and index.shape[-1] > 1 and not np.any(index[..., 0])


@handles("ScatterND")
def _scatter_nd(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """Write by lists of indices."""
    if way.size != 1 or not by_index.nd(way, node, held):
        raise NoBatchError("its indices choose samples")
