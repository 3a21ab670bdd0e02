"""Lists that a loop appends to, one entry a round, as what the loop stacks.

Exporters write `rows.append(row)` in a loop as a sequence that is carried and has an entry inserted each round. No
TensorRT has sequences. A loop has outputs of its own for this: what a round makes, stacked along a new axis. Who
reads the list then reads the stack. A loop over the rows of a batch often takes a slice of one row: that is a gather,
whose size no number decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.cloner import Cloner, prefix_of
from surgery.graph.infer import infer_types
from surgery.graph.nodes import detach, make_node, put_constant, squeeze_like
from surgery.graph.scope import Scope, known_value
from surgery.graph.unroll import may_end_early
from surgery.graph.view import body_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

READERS = frozenset({"ConcatFromSequence", "SequenceAt", "SequenceLength"})
"""What may read the list."""


def stack_lists(graph: gs.Graph) -> list[str]:
    """Let loops of the outermost graph stack what they append to lists, in place.

    A list that is read in another way, or that has anything inserted but one entry behind the others in each round,
    stays. Entries are taken to have one shape, as those of a stack must have; the run fails on others.

    Args:
        graph: The graph, in topological order.

    Returns:
        Names of the loops.
    """
    loops = [n for n in graph.nodes if n.op == "Loop" and len(n.inputs) > 2]
    if not loops or not any(n.op == "SequenceInsert" for loop in loops for n in loop.attrs["body"].nodes):
        return []
    infer_types(graph)
    found: list[str] = []
    for loop in loops:
        name = loop.name or loop.outputs[0].name
        made = [_stack(graph, loop, place) for place in reversed(range(len(loop.inputs) - 2))]
        if any(made):
            take_rows(graph, loop)
            found.append(name)
    return found


def _stack(graph: gs.Graph, loop: gs.Node, place: int) -> bool:
    """Let a loop stack what it appends to the list in one of its states; whether it was one."""
    import onnx_graphsurgeon as gs

    body = loop.attrs["body"]
    start = _entries(loop.inputs[2 + place])
    insert = _insert(body, place)
    if start is None or insert is None or place >= len(loop.outputs):
        return False
    value, before, after = insert.inputs[1], loop.outputs[place], body.outputs[1 + place]
    readers = list(_readers(graph, before.name))
    if before in graph.outputs or any(r.op not in READERS for _, r in readers):
        return False
    if value.shape is None and any(r.op == "ConcatFromSequence" for _, r in readers):
        return False
    cloner, prefix = Cloner(graph), prefix_of(loop)
    dtype = value.dtype
    entry = gs.Variable(cloner.fresh(f"{prefix}entry"), dtype)
    shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    entry.shape = shape
    body.nodes[_index(body, insert)] = make_node("Identity", entry.name, [value], [entry])
    detach([insert])
    body.outputs[:] = [t for t in body.outputs if t is not after] + [entry]
    body.inputs.pop(2 + place)
    stack = gs.Variable(cloner.fresh(f"{prefix}stack"), dtype, None if shape is None else [None, *shape])
    loop.inputs.pop(2 + place)
    loop.outputs.pop(place)
    loop.outputs.append(stack)
    rounds = None if may_end_early(body, Scope(graph), _value(loop.inputs[1], graph)) else loop.inputs[0]
    if start:
        stack = _with_start(graph, loop, stack, start, cloner, prefix)
    for owner, reader in readers:
        _read(owner, reader, stack, cloner, (rounds, len(start)))
    return True


def _value(tensor: Any, graph: gs.Graph) -> Any:
    """The value of a condition before the first round: it holds where none is given."""
    return known_value(tensor, Scope(graph)) if tensor.name else np.asarray(True)


def _entries(tensor: Any) -> list[Any] | None:
    """The entries of a list before the first round."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op not in ("SequenceEmpty", "SequenceConstruct"):
        return None
    return list(node.inputs) if node.op == "SequenceConstruct" else []


def _insert(body: gs.Graph, place: int) -> gs.Node | None:
    """The node that appends to a list, if that is all that a round does with it."""
    before, after = body.inputs[2 + place], body.outputs[1 + place]
    node = after.inputs[0] if after.inputs else None
    if node is None or node.op != "SequenceInsert" or node.inputs[0].name != before.name:
        return None
    if len(node.inputs) > 2 and node.inputs[2].name:
        return None
    uses = [
        m
        for n in body.nodes
        for m in (n, *body_nodes(n))
        for t in m.inputs
        if t.name in (before.name, after.name)
    ]
    made = [t for t in body.outputs if t.name in (before.name, after.name)]
    return node if len(uses) == len(made) == 1 and any(n is node for n in body.nodes) else None


def _readers(graph: gs.Graph, name: str) -> Iterator[tuple[gs.Graph, gs.Node]]:
    """Nodes that read a tensor as their operand, and the graphs they are in."""
    for node in graph.nodes:
        if any(t.name == name for t in node.inputs):
            yield graph, node
        for inner in node.subgraphs():
            yield from _readers(inner, name)


def _index(graph: gs.Graph, node: gs.Node) -> int:
    return next(i for i, n in enumerate(graph.nodes) if n is node)


def _with_start(
    graph: gs.Graph, loop: gs.Node, stack: Any, start: list[Any], cloner: Cloner, prefix: str
) -> Any:
    """The stack behind the entries that were there before the first round."""
    import onnx_graphsurgeon as gs

    made, parts = [], []
    for tensor in start:
        part = gs.Variable(cloner.fresh(f"{prefix}start"), tensor.dtype)
        made.append(squeeze_like("Unsqueeze", graph, part.name, tensor, 0, part))
        parts.append(part)
    whole = gs.Variable(cloner.fresh(f"{prefix}whole"), stack.dtype)
    whole.shape = stack.shape
    made.append(make_node("Concat", whole.name, [*parts, stack], [whole], {"axis": 0}))
    place = _index(graph, loop) + 1
    graph.nodes[place:place] = made
    return whole


def _read(graph: gs.Graph, reader: gs.Node, stack: Any, cloner: Cloner, length: tuple[Any, int]) -> None:
    """Let a node that read the list read the stack; its length is the rounds, if these are known, and some more."""
    import onnx_graphsurgeon as gs

    output, attributes, inputs = reader.outputs[0], dict(reader.attrs), list(reader.inputs)
    prefix = prefix_of(reader)
    place = _index(graph, reader)
    detach([reader])
    made: list[Any] = []

    def emit(op: str, *operands: Any, dtype: Any = stack.dtype, to: Any = None, **own: Any) -> Any:
        result = gs.Variable(cloner.fresh(f"{prefix}{op.lower()}"), dtype) if to is None else to
        made.append(make_node(op, result.name, operands, [result], own))
        return result

    def whole(*values: int) -> Any:
        return put_constant(cloner.fresh(f"{prefix}constant"), np.asarray(values, np.int64))

    if reader.op == "SequenceAt":
        emit("Gather", stack, inputs[1], to=output, axis=0)
    elif reader.op == "SequenceLength":
        rounds, more = length
        if rounds is None or not rounds.name:
            zero = put_constant(cloner.fresh(f"{prefix}constant"), 0)
            emit("Gather", emit("Shape", stack, dtype=np.dtype(np.int64)), zero, to=output, axis=0)
        else:
            none = put_constant(cloner.fresh(f"{prefix}constant"), np.asarray([], np.int64))
            count = emit("Reshape", rounds, none, dtype=np.dtype(np.int64))
            emit("Add", count, put_constant(cloner.fresh(f"{prefix}constant"), more), to=output)
    else:
        rank = len(stack.shape)
        new = bool(attributes.get("new_axis", 0))
        axis = int(attributes["axis"]) % (rank if new else rank - 1)
        order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        if new:
            emit("Transpose", stack, to=output, perm=order)
        else:
            laid = emit("Transpose", stack, perm=order)
            shape = emit("Shape", laid, dtype=np.dtype(np.int64))
            parts = [
                emit("Slice", shape, whole(first), whole(last), whole(0), dtype=np.dtype(np.int64))
                for first, last in ((0, axis), (axis + 2, rank))
                if first < last
            ]
            parts.insert(int(axis > 0), whole(-1))
            target = emit("Concat", *parts, dtype=np.dtype(np.int64), axis=0)
            emit("Reshape", laid, target, to=output)
    graph.nodes[place : place + 1] = made


def take_rows(graph: gs.Graph, loop: gs.Node) -> None:
    """Slices of one row, that of the round, of a tensor that has a row for each, as gathers; in place.

    Args:
        graph: The outermost graph.
        loop: A loop in it.
    """
    from surgery.graph.bounded.work import Bounds, No

    body = loop.attrs["body"]
    bounds = Bounds({}, opset=int(graph.opset))
    scope = Scope(body, Scope(graph))
    try:
        rounds = bounds.elements(loop.inputs[0]) if loop.inputs[0].name else None
    except No:
        return
    if rounds is None or rounds.size != 1:
        return
    for node in [n for n in body.nodes if n.op == "Slice" and len(n.inputs) > 3]:
        axes = known_value(node.inputs[3], scope)
        step = (
            known_value(node.inputs[4], scope) if len(node.inputs) > 4 and node.inputs[4].name else np.ones(1)
        )
        source = node.inputs[0]
        if axes is None or step is None or axes.size != 1 or step.reshape(-1)[0] != 1 or source.shape is None:
            continue
        if (
            _past_the_round(node.inputs[1], body, scope) != 0
            or _past_the_round(node.inputs[2], body, scope) != 1
        ):
            continue
        axis = int(axes.reshape(-1)[0]) % len(source.shape)
        try:
            size = bounds.dims(source)[axis]
        except No:
            continue
        if scope.owner(source.name) is scope or size != rounds.reshape(-1)[0]:
            continue
        start = node.inputs[1]
        node.op, node.attrs = "Gather", {"axis": axis}
        node.inputs = [source, start]


def _past_the_round(tensor: Any, body: gs.Graph, scope: Scope) -> int | None:
    """How much a number is more than that of the round; None if that is not known."""
    more = 0
    while tensor.name != body.inputs[0].name:
        node = scope.producers.get(tensor.name)
        if node is None or node.op not in (
            "Add",
            "Cast",
            "Identity",
            "Mul",
            "Reshape",
            "Squeeze",
            "Unsqueeze",
        ):
            return None
        others = [known_value(t, scope) for t in node.inputs[:2]] if node.op in ("Add", "Mul") else []
        if not others:
            tensor = node.inputs[0]
            continue
        if sum(o is not None and o.size == 1 for o in others) != 1:
            return None
        known = next(k for k, o in enumerate(others) if o is not None)
        number = int(np.asarray(others[known]).reshape(-1)[0])
        if node.op == "Mul" and number != 1:
            return None
        more += number if node.op == "Add" else 0
        tensor = node.inputs[1 - known]
    return more
