"""Loops that repeat each row of a tensor a number of times of its own, as gathers.

Exporters write this with sequences: the rows and the numbers are split, a loop over both expands each row, and what
it has put together is joined. Where row i stands follows from the sums of the numbers in front of it, so a Gather
does it at once; the size of the result is the sum of the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import is_external, value_of
from surgery.graph.nodes import detach, make_node, put_constant, squeeze_like
from surgery.graph.replace import made_by, need, replace_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

RULE = "repeat-by-gather"
"""What its nodes are stamped with."""


def resolve_repeats(graph: gs.Graph, provenance: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Put gathers in the place of loops that repeat rows, in place.

    Args:
        graph: The outermost graph, in topological order, with types inferred and constants folded.
        provenance: First output of each new node to the metadata stamped on it.

    Returns:
        Name of each loop, and the names of the nodes in its place.
    """
    return replace_nodes(graph, "ConcatFromSequence", _repeated, RULE, provenance)


def _repeated(graph: gs.Graph, node: gs.Node) -> list[Any]:
    rows, repeats, axis = _read(made_by(node.inputs[0], "Loop"))
    need(not node.attrs.get("new_axis", 0) and int(node.attrs["axis"]) in (axis, axis - len(rows.shape)))
    return _written(graph, node, rows, repeats, axis)


def _value(tensor: Any) -> Any:
    """The value of a constant; None if it is none."""
    import onnx_graphsurgeon as gs

    node = tensor.inputs[0] if getattr(tensor, "inputs", None) else None
    if node is not None and node.op == "Constant":
        numbers = node.attrs.get("value_ints", node.attrs.get("value_int"))
        if numbers is not None:
            return np.asarray(numbers, np.int64)
        tensor = node.attrs.get("value")
    if node is not None and node.op in ("Identity", "Cast"):
        return _value(node.inputs[0])
    return value_of(tensor) if isinstance(tensor, gs.Constant) and not is_external(tensor) else None


def _read(loop: gs.Node) -> tuple[Any, Any, int]:
    """Rows, how often each is repeated, and the axis that the rows lie along.

    Raises:
        NotThis: the loop does something else.
    """
    body = loop.attrs["body"]
    need(len(loop.inputs) == 3 and len(body.inputs) == 3 and len(body.outputs) == 2)
    made_by(loop.inputs[2], "SequenceEmpty")
    start = loop.inputs[1]
    need(not start.name or (_value(start) is not None and bool(_value(start).reshape(-1)[0])))
    goes_on = body.outputs[0]
    while goes_on.inputs and goes_on.inputs[0].op == "Identity":
        goes_on = goes_on.inputs[0].inputs[0]
    stays = _value(goes_on)
    need((stays is not None and bool(stays.reshape(-1)[0])) or goes_on.name == body.inputs[1].name)
    insert = made_by(body.outputs[1], "SequenceInsert")
    need(insert.inputs[0].name == body.inputs[2].name)
    need(len(insert.inputs) < 3 or not insert.inputs[2].name)
    reshape = made_by(insert.inputs[1], "Reshape")
    expand = made_by(reshape.inputs[0], "Expand")
    unsqueeze = made_by(expand.inputs[0], "Unsqueeze")
    counter = body.inputs[0].name
    rows, axis = _entry(unsqueeze.inputs[0], counter)
    need(rows.shape is not None)
    dims = list(rows.shape)
    axis %= len(dims)
    repeats = _factor(expand, unsqueeze, dims, axis, counter)
    target = _value(reshape.inputs[1])
    need(target is not None and len(target) == len(dims) and not reshape.attrs.get("allowzero", 0))
    for place, (wanted, dim) in enumerate(zip(target.tolist(), dims, strict=True)):
        need(wanted == -1 if place == axis else wanted == dim)
    need(_rounds(loop.inputs[0], rows, axis))
    return rows, repeats, axis


def _entry(tensor: Any, counter: str) -> tuple[Any, int]:
    """The tensor that a body reads one entry of in each round, with that axis kept; and the axis."""
    at = made_by(tensor, "SequenceAt")
    need(at.inputs[1].name == counter)
    split = made_by(at.inputs[0], "SplitToSequence")
    need(split.attrs.get("keepdims", 1) or len(split.inputs) > 1)
    if len(split.inputs) > 1 and split.inputs[1].name:
        sizes = _value(split.inputs[1])
        if sizes is None:
            filled = made_by(split.inputs[1], "ConstantOfShape").attrs.get("value")
            sizes = None if filled is None else value_of(filled)
        need(sizes is not None and (sizes == 1).all())
    return split.inputs[0], int(split.attrs.get("axis", 0))


def _factor(expand: gs.Node, unsqueeze: gs.Node, dims: list[Any], axis: int, counter: str) -> Any:
    """The numbers of which a row is expanded by one in each round.

    Raises:
        NotThis: the row is expanded otherwise, or not along its own place.
    """
    axes = unsqueeze.attrs.get("axes")
    if axes is None:
        axes = _value(unsqueeze.inputs[1])
    need(axes is not None and len(axes) == 1)
    new = int(axes[0]) % (len(dims) + 1)
    need(new in (axis, axis + 1))
    concat = _shape_of(expand.inputs[1])
    wide = [*dims[:axis], 1, 1, *dims[axis + 1 :]]
    place, found = 0, None
    for part in concat.inputs:
        value = _value(part)
        if value is None:
            need(found is None and place in (axis, axis + 1))
            found, along = _entry(part, counter)
            need(along == 0 and found.shape is not None and len(found.shape) == 1)
            place += 1
            continue
        for wanted in value.reshape(-1).tolist():
            need(place < len(wide) and wanted in (1, -1, wide[place]))
            place += 1
    need(found is not None and place == len(wide))
    return found


def _shape_of(tensor: Any) -> gs.Node:
    """The Concat of a shape, also where -1 is replaced by 1 in it."""
    node = made_by(tensor, "Concat", "Where")
    if node.op == "Where":
        equal = made_by(node.inputs[0], "Equal")
        shape = node.inputs[2]
        need(shape.name in {t.name for t in equal.inputs})
        node = made_by(shape, "Concat")
    return node


def _rounds(tensor: Any, rows: Any, axis: int) -> bool:
    """Whether a number is surely that of the rows."""
    value = _value(tensor)
    if value is not None:
        return isinstance(rows.shape[axis], int) and int(value.reshape(-1)[0]) == rows.shape[axis]
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and node.op in ("Identity", "Unsqueeze", "Squeeze", "Reshape", "Cast"):
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if node is None or node.op != "Gather":
        return False
    shape, index = node.inputs[0].inputs[0] if node.inputs[0].inputs else None, _value(node.inputs[1])
    if shape is None or shape.op != "Shape" or shape.attrs or index is None or index.size != 1:
        return False
    place = int(index.reshape(-1)[0]) % len(rows.shape)
    return bool(shape.inputs[0].name == rows.name and place == axis)


def _written(graph: gs.Graph, node: gs.Node, rows: Any, repeats: Any, axis: int) -> list[Any]:
    """Row i goes where the numbers in front of it end: a place belongs to the row that so many sums do not exceed."""
    import onnx_graphsurgeon as gs

    output = node.outputs[0]
    base = f"{output.name}/repeat"
    modern = int(graph.opset) >= 13
    made: list[Any] = []

    def new(part: str, dtype: Any) -> Any:
        return gs.Variable(f"{base}/{part}", np.dtype(dtype))

    def emit(op: str, part: str, inputs: list[Any], dtype: Any = np.int64, **attributes: Any) -> Any:
        out = new(part, dtype)
        made.append(make_node(op, out.name, inputs, [out], attributes))
        return out

    def number(part: str, value: Any) -> Any:
        return put_constant(f"{base}/{part}", value)

    def summed(part: str, tensor: Any, along: int) -> Any:
        if modern:
            return emit("ReduceSum", part, [tensor, number(f"{part}_axes", [along])], keepdims=0)
        return emit("ReduceSum", part, [tensor], keepdims=0, axes=[along])

    if np.dtype(repeats.dtype) != np.int64:
        repeats = emit("Cast", "numbers", [repeats], to=7)
    ends = emit("CumSum", "ends", [repeats, number("axis", 0)])
    total = summed("total", repeats, 0)
    places = emit("Range", "places", [number("zero", 0), total, number("one", 1)])
    column, line = new("column", np.int64), new("line", np.int64)
    made.append(squeeze_like("Unsqueeze", graph, column.name, places, 1, column))
    made.append(squeeze_like("Unsqueeze", graph, line.name, ends, 0, line))
    before = emit("Less", "before", [column, line], np.bool_)
    passed = emit("Cast", "passed", [emit("Not", "behind", [before], np.bool_)], to=7)
    row = summed("row", passed, 1)
    detach([node])
    made.append(make_node("Gather", node.name, [rows, row], [output], {"axis": axis}))
    return made
