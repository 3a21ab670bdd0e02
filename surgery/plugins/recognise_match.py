"""Matching an expression against expressions of a graph, and reading off both what their constants are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surgery.plugins.recognise_terms import COMMUTATIVE, Array, Op, Terms, Value

MOST_CHOICES = 256
"""Orders of commuted operands that are tried for one place."""


@dataclass
class Match:
    """How an expression lies in a graph.

    Attributes:
        ops: Its parts by identity to the graph's.
        inputs: Its inputs by name to the graph's values.
        outputs: The graph's value for each of its results; None for those that the graph does not compute.
        swapped: Parts whose operands the graph has in the other order.
        likeness: How much pairs of parts are alike.
        accepts: Whether a value may be an input, by the input's name; None if any may.
    """

    ops: dict[int, Op] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: list[Value | None] = field(default_factory=list)
    swapped: set[int] = field(default_factory=set)
    likeness: dict[tuple[int, int], float | None] = field(default_factory=dict)
    accepts: Callable[[str, Value], bool] | None = None


Pair = tuple[Value, Value]


def find(
    pattern: Sequence[Value],
    graph: Terms,
    by_kind: dict[str, list[Op]],
    root: int,
    place: Op,
    accepts: Callable[[str, Value], bool] | None = None,
) -> Match | None:
    """The match whose output number `root` is made by an expression of the graph, if there is one.

    Args:
        pattern: The results of the expression that is looked for.
        graph: The graph.
        by_kind: Its expressions by operator type.
        root: Which result to begin at.
        place: What would have to make it.
        accepts: Whether a value may be an input, by the input's name; None if any may.
    """
    start = pattern[root]
    made = graph_value(graph, place, start.index)
    if start.op is None or made is None:
        return None
    match = Match(outputs=[None] * len(pattern), accepts=accepts)
    if not _extend(match, [(start, made)]):
        return None
    match.outputs[root] = made
    order = sorted(
        range(len(pattern)), key=lambda i: (pattern[i].op is None or id(pattern[i].op) not in match.ops, i)
    )
    for i in order:
        if i != root:
            match.outputs[i] = _other(match, pattern[i], graph, by_kind)
    return match


def again(
    pattern: Sequence[Value], outputs: Sequence[Value | None], inputs: dict[str, Value]
) -> Match | None:
    """The match with given results and inputs, if there is one."""
    match = Match(inputs=dict(inputs), outputs=list(outputs))
    pairs = [(p, g) for p, g in zip(pattern, outputs, strict=True) if g is not None]
    return match if _extend(match, pairs[::-1]) else None


def _other(match: Match, wanted: Value, graph: Terms, by_kind: dict[str, list[Op]]) -> Value | None:
    """Where the graph computes a further result."""
    if wanted.op is None:
        return None
    known = match.ops.get(id(wanted.op))
    candidates = [known] if known is not None else by_kind.get(wanted.op.kind, [])
    taken = {id(v) for v in match.outputs if v is not None}
    for place in candidates:
        made = graph_value(graph, place, wanted.index)
        if made is not None and id(made) not in taken and _extend(match, [(wanted, made)]):
            return made
    return None


def graph_value(graph: Terms, op: Op, index: int) -> Value | None:
    """An output of a node of the graph, None if it has not that many."""
    name = op.outputs[index] if index < len(op.outputs) else ""
    return graph.values.get(name) if name else None


def _extend(match: Match, goals: list[Pair]) -> bool:
    """Add pairs and all below them to a match; without success it stays as it was."""
    trail: list[tuple[str, Any]] = []
    choices: list[tuple[list[Pair], int, Op]] = []
    tried = 0
    stack = list(goals)
    while True:
        failed = False
        while stack:
            wanted, given = stack.pop()
            step = _step(match, trail, wanted, given)
            if step is None:
                failed = True
                break
            if len(step) == 1:
                stack.extend(step[0])
            elif step:
                assert wanted.op is not None
                choices.append(([*stack, *step[1]], len(trail), wanted.op))
                stack.extend(step[0])
        if not failed:
            return True
        tried += 1
        if not choices or tried > MOST_CHOICES:
            _undo(match, trail, 0)
            return False
        stack, length, op = choices.pop()
        _undo(match, trail, length)
        kind = "straight" if id(op) in match.swapped else "swapped"
        (match.swapped.add if kind == "swapped" else match.swapped.discard)(id(op))
        trail.append((kind, id(op)))


def _undo(match: Match, trail: list[tuple[str, Any]], length: int) -> None:
    while len(trail) > length:
        kind, key = trail.pop()
        if kind == "op":
            del match.ops[key]
        elif kind == "input":
            del match.inputs[key]
        elif kind == "swapped":
            match.swapped.discard(key)
        else:
            match.swapped.add(key)


def _step(match: Match, trail: list[tuple[str, Any]], wanted: Value, given: Value) -> list[list[Pair]] | None:
    """What has to fit below a pair: alternatives of pairs (none for a leaf), or None if the pair does not fit."""
    if wanted.kind == "input":
        known = match.inputs.get(wanted.name)
        if known is None:
            if given.kind in ("empty", "bound") or (given.op is not None and not given.op.nodes):
                return None  # a value inside a body, or none at all
            if match.accepts is not None and not match.accepts(wanted.name, given):
                return None
            match.inputs[wanted.name] = given
            trail.append(("input", wanted.name))
            return []
        return [] if _is_same(known, given) else None
    if wanted.kind != given.kind:
        return None
    if wanted.op is None or given.op is None:
        return [] if _leaf_fits(wanted, given) else None
    known_op = match.ops.get(id(wanted.op))
    if known_op is not None:
        return [] if known_op is given.op and wanted.index == given.index else None
    if wanted.index != given.index or not _op_fits(wanted.op, given.op):
        return None
    match.ops[id(wanted.op)] = given.op
    trail.append(("op", id(wanted.op)))
    return _below(match, trail, wanted.op, given.op)


def _below(match: Match, trail: list[tuple[str, Any]], wanted: Op, given: Op) -> list[list[Pair]] | None:
    inner: list[Pair] = []
    for (_, _, want), (_, _, have) in zip(wanted.bodies, given.bodies, strict=True):
        inner += zip(want, have, strict=True)
    straight = [*inner, *zip(wanted.args, given.args, strict=True)]
    if wanted.kind not in COMMUTATIVE or len(wanted.args) != 2:
        return [straight]
    crossed = [*inner, *zip(wanted.args, given.args[::-1], strict=True)]
    fits = [_likeness_of_args(wanted, way, match.likeness) for way in (given.args, given.args[::-1])]
    if fits[1] is None:
        return None if fits[0] is None else [straight]
    if fits[0] is not None and fits[0] >= fits[1]:
        return [straight, crossed]
    match.swapped.add(id(wanted))
    trail.append(("swapped", id(wanted)))
    return [crossed] if fits[0] is None else [crossed, straight]


def _likeness(wanted: Value, given: Value, known: dict[tuple[int, int], float | None]) -> float | None:
    """How much two expressions are alike, numbers included, from 0 to 1; None if their structure is not the same."""
    if wanted.kind == "input":
        return None if given.kind in ("empty", "bound") else 1.0
    if wanted.kind != given.kind:
        return None
    if wanted.op is None or given.op is None:
        if not _leaf_fits(wanted, given):
            return None
        return 1.0 if wanted.kind != "constant" or equal(wanted.array, given) else 0.0
    if wanted.index != given.index:
        return None
    key = (id(wanted.op), id(given.op))
    if key not in known:
        known[key] = None
        known[key] = _likeness_of_ops(wanted.op, given.op, known)
    return known[key]


def _likeness_of_ops(wanted: Op, given: Op, known: dict[tuple[int, int], float | None]) -> float | None:
    if not _op_fits(wanted, given):
        return None
    found = _likeness_of_args(wanted, given.args, known)
    if len(wanted.args) == 2 and wanted.kind in COMMUTATIVE:
        crossed = _likeness_of_args(wanted, given.args[::-1], known)
        found = crossed if found is None else max(found, crossed or 0.0)
    if found is None:
        return None
    same = all(np.array_equal(v, given.attributes[k]) for k, v in wanted.attributes.items())
    return (found + same) / 2


def _likeness_of_args(
    wanted: Op, args: Sequence[Value], known: dict[tuple[int, int], float | None]
) -> float | None:
    total = 0.0
    for want, have in zip(wanted.args, args, strict=True):
        found = _likeness(want, have, known)
        if found is None:
            return None
        total += found
    return total / len(args) if args else 1.0


def _leaf_fits(wanted: Value, given: Value) -> bool:
    if wanted.kind == "bound":
        return (wanted.depth, wanted.index) == (given.depth, given.index)
    if wanted.kind != "constant":
        return True
    assert wanted.tensor is not None
    assert given.tensor is not None
    return wanted.tensor.data_type == given.tensor.data_type and len(wanted.tensor.dims) == len(
        given.tensor.dims
    )


def _op_fits(wanted: Op, given: Op) -> bool:
    """Whether all but numbers is equal."""
    if (
        wanted.kind != given.kind
        or len(wanted.args) != len(given.args)
        or len(wanted.bodies) != len(given.bodies)
    ):
        return False
    if any(
        w[:2] != g[:2] or len(w[2]) != len(g[2]) for w, g in zip(wanted.bodies, given.bodies, strict=True)
    ):
        return False
    if wanted.attributes.keys() != given.attributes.keys():
        return False
    return all(_attribute_fits(v, given.attributes[k]) for k, v in wanted.attributes.items())


def _attribute_fits(wanted: Any, given: Any) -> bool:
    if type(wanted) is not type(given):
        return False
    if isinstance(wanted, str) or (isinstance(wanted, list) and any(isinstance(i, str) for i in wanted)):
        return bool(wanted == given)
    return not isinstance(wanted, np.ndarray) or wanted.dtype == given.dtype


def _is_same(one: Value, other: Value) -> bool:
    if one is other:
        return True
    if one.kind == "constant" and other.kind == "constant":
        if one.name and one.name == other.name:
            return True
        try:
            a, b = one.array, other.array
        except ValueError:
            return False
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return one.kind == other.kind == "input" and one.name == other.name


# -- constants --------------------------------------------------------------------------------------


def leaves(pattern: Sequence[Value], match: Match) -> list[tuple[Array, Any]]:
    """Numbers of an expression and of its match, in one fixed order: attributes and constants.

    Returns:
        Pairs; the second of a pair is the graph's array, or its `Value` where that is large.
    """
    found: list[tuple[Array, Any]] = []
    seen: set[int] = set()
    pairs: list[Pair] = [(p, g) for p, g in zip(pattern, match.outputs, strict=True) if g is not None][::-1]
    while pairs:
        wanted, given = pairs.pop()
        if wanted.kind == "constant":
            found.append((wanted.array, given))
        if wanted.op is None or given.op is None or id(wanted.op) in seen:
            continue
        seen.add(id(wanted.op))
        for name in sorted(wanted.op.attributes):
            value = wanted.op.attributes[name]
            if not isinstance(value, str):
                found.append((np.asarray(value), np.asarray(given.op.attributes[name])))
        for (_, _, want), (_, _, have) in zip(wanted.op.bodies, given.op.bodies, strict=True):
            pairs += zip(want, have, strict=True)
        args = given.op.args[::-1] if id(wanted.op) in match.swapped else given.op.args
        pairs += zip(wanted.op.args, args, strict=True)
    return found


def content(given: Any) -> Array | None:
    """The array of the second part of a leaf, None where it cannot be read."""
    if isinstance(given, np.ndarray):
        return given
    try:
        array: Array = given.array
    except ValueError:
        return None
    return array


def equal(wanted: Array, given: Any) -> bool:
    """Whether two leaves are the same up to the rounding of float32."""
    have = content(given)
    if have is None or wanted.shape != have.shape or wanted.dtype.kind != have.dtype.kind:
        return False
    if wanted.dtype == have.dtype and wanted.tobytes() == have.tobytes():
        return True
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, have))
    with np.errstate(all="ignore"):
        return bool(np.allclose(have, wanted, rtol=3e-7, atol=1e-30, equal_nan=True))
