"""Loops and scans of known length, written out round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body_types import body_types, take_type
from surgery.graph.cloner import Cloner, prefix_of
from surgery.graph.from_sizes import from_sizes, sizes_by_round
from surgery.graph.nodes import detach, make_node, put_constant, squeeze_like
from surgery.graph.scope import SEQUENCE_OPS, Scope, any_used, known_value
from surgery.graph.unresolved import Unresolved, missed
from surgery.graph.view import body_nodes, captured_names

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.control_flow import Resolver

SMALL = 64
"""Rounds up to which every loop of known length is unrolled."""

SMALL_NODES = 4096
"""Nodes up to which a loop is unrolled without need."""

MOST = 1024
"""Rounds up to which a loop is unrolled that TensorRT cannot run."""

MOST_NODES = 50_000
"""Nodes that one loop may become."""

SCANNED = "loop-scan-output-no-trip"
"""Class of loops whose number of rounds decides the size of what they put together."""


def resolve_loop(resolver: Resolver, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
    """What stands in the place of a Loop; why it stays; or None if it may stay as it is."""
    body = node.attrs["body"]
    has_trips = bool(node.inputs) and bool(node.inputs[0].name)
    has_condition = len(node.inputs) > 1 and bool(node.inputs[1].name)
    trips = known_value(node.inputs[0], scope) if has_trips else None
    start = known_value(node.inputs[1], scope) if has_condition else np.asarray(True)
    needed = _needed(node, body, scope)
    limit = MOST if needed else resolver.small
    nodes = MOST_NODES if needed else SMALL_NODES
    size = max(1, len(body.nodes))
    rounds = int(trips.reshape(-1)[0]) if trips is not None else None
    if start is not None and not bool(start.reshape(-1)[0]):
        rounds = 0
    if start is not None and (rounds is not None or not has_trips):
        made = _unrolled(resolver.cloner, node, body, scope, rounds, min(limit, nodes // size))
        if made is not None:
            return made
    scanned = any_used(node.outputs[len(body.inputs) - 2 :], scope)
    if needed:
        what = (
            "is not known" if rounds is None else f"({rounds}) is too large to unroll it, or its end is open"
        )
        return missed(
            node,
            f"it carries {needed}, and the number of rounds {what}",
            0 if has_trips and rounds is None else None,
            "loop-state-shape-changes",
        )
    if scanned and has_trips and trips is None and not _steady(node, body, scope):
        if start is None:
            resolver.remaining.append(missed(node, "whether it runs at all decides a shape", 1, SCANNED))
        return missed(node, "the number of rounds decides a shape", 0, SCANNED)
    if scanned and may_end_early(body, scope, start):
        operand = 1 if has_condition and start is None else None
        return missed(node, "its condition, computed while it runs, decides a shape", operand, SCANNED)
    if not has_condition and body.inputs[1].name in set(captured_names(body)):
        return _closed(resolver.cloner, node, body, scope)
    return None


def _closed(cloner: Cloner, node: gs.Node, body: gs.Graph, scope: Scope) -> list[gs.Node]:
    """A counted loop whose body does not read the condition that it was not given."""
    import onnx_graphsurgeon as gs

    prefix = prefix_of(node)
    true = gs.Variable(cloner.fresh(f"{prefix}always"), np.dtype(np.bool_), [])
    value = put_constant(cloner.fresh(f"{prefix}true"), True, np.bool_)
    names: dict[str, Any] = {body.inputs[1].name: true}
    inputs = [cloner.output(t, names, prefix) for t in (body.inputs[0], *body.inputs[2:])]
    ignored = gs.Variable(cloner.fresh(f"{prefix}ignored"), np.dtype(np.bool_), [])
    nodes = [make_node("Constant", f"{prefix}always", [], [true], {"value": value})]
    nodes += cloner.nodes(body, names, scope, prefix)
    new = gs.Graph(
        nodes,
        [inputs[0], ignored, *inputs[1:]],
        [cloner.tensor(t, names, scope, prefix) for t in body.outputs],
        name=body.name,
        opset=body.opset,
        import_domains=body.import_domains,
    )
    outputs = list(node.outputs)
    return [make_node("Loop", node.name, list(node.inputs), outputs, {**node.attrs, "body": new})]


def _steady(node: gs.Node, body: gs.Graph, scope: Scope) -> bool:
    """Whether sizes alone decide the number of rounds, and none differs from round to round: TensorRT stacks then."""
    return from_sizes(node.inputs[0], scope) and not sizes_by_round(body, Scope(body, scope))


def may_end_early(body: gs.Graph, scope: Scope, start: Any) -> bool:
    """Whether the condition can become false after a number of rounds that is not known.

    Args:
        body: Of a loop.
        scope: The graph around it.
        start: The condition before the first round, if it is known.
    """
    if start is None:
        return True
    inner = Scope(body, scope, {body.inputs[1].name: True})
    value = known_value(body.outputs[0], inner)
    return value is None or not bool(value.reshape(-1)[0])


def _needed(node: gs.Node, body: gs.Graph, scope: Scope) -> str:
    """What TensorRT cannot carry from round to round, or ""."""
    from surgery.graph.rounds import changes_size

    if any(n.op in SEQUENCE_OPS for n in (*body.nodes, *(m for k in body.nodes for m in body_nodes(k)))):
        return "sequences"
    starts = [scope.tensor(t) for t in node.inputs[2:]]
    if any(getattr(t, "type", "tensor_type") != "tensor_type" for t in starts):
        return "sequences"
    bound = {inner.name: t for inner, t in zip(body.inputs[2:], starts, strict=False)}
    after = body_types(body, scope, bound)[1 : 1 + len(starts)]
    for start, (_, dims) in zip(starts, after, strict=False):
        if start.shape is None or dims is None:
            continue
        if len(start.shape) != len(dims) or any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(start.shape, dims, strict=True)
        ):
            return "a tensor whose shape changes"
    if any(changes_size(body, a, b) for a, b in zip(body.inputs[2:], body.outputs[1:], strict=False)):
        return "a tensor whose shape changes"
    return ""


def _unrolled(
    cloner: Cloner, node: gs.Node, body: gs.Graph, scope: Scope, rounds: int | None, most: int
) -> list[gs.Node] | None:
    """Every round written out; None if the end does not come, or cannot be told, within `most` rounds."""
    if rounds is not None and rounds > most and not may_end_early(body, scope, np.asarray(True)):
        return None
    prefix = prefix_of(node)
    carried = [scope.tensor(t) for t in node.inputs[2:]]
    count = len(carried)
    made: list[gs.Node] = []
    scanned: list[list[Any]] = [[] for _ in body.outputs[1 + count :]]
    true = put_constant(cloner.fresh(f"{prefix}true"), True, np.bool_)
    done = rounds == 0
    k = 0
    while not done:
        if k >= most:
            detach(made)
            return None
        names: dict[str, Any] = {
            body.inputs[0].name: put_constant(cloner.fresh(f"{prefix}{k}/round"), k),
            body.inputs[1].name: true,
            **{inner.name: t for inner, t in zip(body.inputs[2:], carried, strict=True)},
        }
        new = cloner.nodes(body, names, scope, f"{prefix}{k}/", shapes=False)
        for one in new:
            scope.add(one)
        made += new
        results = [cloner.tensor(t, names, scope, f"{prefix}{k}/") for t in body.outputs]
        goes_on = known_value(results[0], scope)
        if goes_on is None:
            detach(made)
            return None
        carried = results[1 : 1 + count]
        for values, value in zip(scanned, results[1 + count :], strict=True):
            values.append(value)
        k += 1
        done = not bool(goes_on.reshape(-1)[0]) or k == rounds
    made += _ended(carried, node.outputs[:count], prefix)
    ends = [(v, t) for v, t in zip(scanned, node.outputs[count:], strict=False) if t.name]
    if not k and any_used([t for _, t in ends], scope):
        return None  # a tensor of no elements; no TensorRT has them
    for values, target in ends:
        made += _stacked(cloner, values, target, 0, scope, prefix)
    return made


def _ended(carried: Sequence[Any], targets: Sequence[Any], prefix: str) -> list[gs.Node]:
    """What the last round hands on, under the names of the node's outputs."""
    made = []
    for value, target in zip(carried, targets, strict=False):
        if target.name:
            take_type(target, value)
            made.append(make_node("Identity", f"{prefix}{target.name}", [value], [target]))
    return made


def _stacked(
    cloner: Cloner, values: Sequence[Any], target: Any, axis: int, scope: Scope, prefix: str
) -> list[gs.Node]:
    """What the rounds gave, along a new axis."""
    import onnx_graphsurgeon as gs

    made, parts = [], []
    for k, value in enumerate(values):
        part = gs.Variable(cloner.fresh(f"{prefix}{k}/{target.name}"), value.dtype)
        made.append(squeeze_like("Unsqueeze", scope.graph, part.name, value, axis, part))
        parts.append(part)
    if parts:
        made.append(make_node("Concat", f"{prefix}{target.name}", parts, [target], {"axis": axis}))
    return made


def resolve_scan(resolver: Resolver, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
    """The same of a Scan."""
    if not resolver.scans or int(scope.graph.opset) < 9:
        return None
    import onnx_graphsurgeon as gs

    body, sources = node.attrs["body"], [scope.tensor(t) for t in node.inputs]
    scans = int(node.attrs["num_scan_inputs"])
    count = len(sources) - scans
    axes = list(node.attrs.get("scan_input_axes") or [0] * scans)
    backwards = list(node.attrs.get("scan_input_directions") or [0] * scans)
    lengths = [
        t.shape[a] for t, a in zip(sources[count:], axes, strict=True)
        if t.shape is not None and isinstance(t.shape[a], int)
    ]  # fmt: skip
    if not lengths:
        return missed(node, "the number of steps is not known")
    length = int(lengths[0])
    if length < 1 or length > MOST or length * len(body.nodes) > MOST_NODES:
        return missed(node, f"{length} steps are too many to unroll")
    cloner, prefix = resolver.cloner, prefix_of(node)
    made: list[gs.Node] = []
    carried = sources[:count]
    outputs: list[list[Any]] = [[] for _ in body.outputs[count:]]
    for k in range(length):
        names = {inner.name: t for inner, t in zip(body.inputs, carried, strict=False)}
        for inner, source, axis, back in zip(
            body.inputs[count:], sources[count:], axes, backwards, strict=True
        ):
            step = put_constant(cloner.fresh(f"{prefix}{k}/step"), length - 1 - k if back else k)
            part = gs.Variable(cloner.fresh(f"{prefix}{k}/{inner.name}"), source.dtype)
            made.append(make_node("Gather", part.name, [source, step], [part], {"axis": axis}))
            names[inner.name] = part
        made += cloner.nodes(body, names, scope, f"{prefix}{k}/")
        results = [cloner.tensor(t, names, scope, f"{prefix}{k}/") for t in body.outputs]
        carried = results[:count]
        for values, value in zip(outputs, results[count:], strict=True):
            values.append(value)
    made += _ended(carried, node.outputs[:count], prefix)
    out_axes = list(node.attrs.get("scan_output_axes") or [0] * len(outputs))
    out_back = list(node.attrs.get("scan_output_directions") or [0] * len(outputs))
    for values, target, axis, back in zip(outputs, node.outputs[count:], out_axes, out_back, strict=False):
        if target.name:
            made += _stacked(cloner, values[::-1] if back else values, target, axis, scope, prefix)
    return made
