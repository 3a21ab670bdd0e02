"""Cuts: convex sets of nodes with ordered inputs and outputs, found by scope or by boundary tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from surgery.errors import ConfigError
from surgery.graph.view import View, body_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Grow = Literal["none", "back", "forward"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A convex set of nodes.

    Attributes:
        name: Name from the pipeline.
        keys: Keys of the nodes in the view it was found in, in topological order.
        inputs: Names of the non-constant tensors it reads from outside, in order of first use.
        outputs: Names of the tensors it makes that are used outside or are graph outputs, in order of
            production.
        found_by: How it was found, for the report.
    """

    name: str
    keys: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    found_by: str

    def nodes(self, view: View) -> list[gs.Node]:
        """The nodes themselves, in topological order."""
        return [view.nodes[k] for k in self.keys]


def make_cut(view: View, name: str, keys: Iterable[int], found_by: str) -> Cut:
    """The cut of a node set, with its inputs and outputs worked out.

    Raises:
        ConfigError: the set is not convex: a path leaves it and comes back, so it cannot become one piece.
    """
    inside = set(keys)
    if not view.is_convex(inside):
        raise ConfigError(
            f"cut {name!r} is not convex: a path leaves it and comes back",
            code="cut-not-convex",
            where=f"cuts.{name}",
            fix="choose boundary tensors that include the nodes between",
        )
    ordered = sorted(inside, key=lambda k: view.order[k])
    inputs: dict[str, None] = {}
    outputs: list[str] = []
    graph_inputs = {t.name for t in view.graph.inputs}
    for key in ordered:
        for tensor_name in view.uses(key):
            made_by = view.producer.get(tensor_name)
            outside = made_by is None and tensor_name in graph_inputs
            if outside or (made_by is not None and made_by not in inside):
                inputs.setdefault(tensor_name)
        for tensor in view.nodes[key].outputs:
            users = view.consumers.get(tensor.name, ())
            if tensor.name in view.outputs or any(u not in inside for u in users):
                outputs.append(tensor.name)
    return Cut(name, tuple(ordered), tuple(inputs), tuple(outputs), found_by)


def cut_by_scope(view: View, name: str, scopes: Sequence[str], *, grow: Grow = "none") -> Cut | None:
    """Collapse a namespace: the convex hull of all nodes that belong to one of the scopes.

    A node belongs to a scope if its name, the name of one of its outputs, or the name of a node in one of
    its bodies starts with it (exporters drop scopes on loops and on nodes they insert, never on tensors).
    ``*`` stands for one path component, ``**`` for any number of leading ones.

    Args:
        view: View of the graph.
        name: Name of the cut.
        scopes: Scope prefixes, e.g. ``Postprocessor`` or ``**/Postprocessor``.
        grow: ``"back"`` takes in nodes before the cut that feed nothing else, ``"forward"`` nodes after it
            that read nothing else.

    Returns:
        The cut, or None if no node belongs to any of the scopes.
    """
    tests = [_scope_pattern(s) for s in scopes]

    def inside(text: str) -> bool:
        return any(t.match(text) for t in tests)

    seeds = [
        key
        for key, node in enumerate(view.nodes)
        if inside(node.name)
        or any(inside(t.name) for t in node.outputs)
        or any(inside(child.name) for child in body_nodes(node))
    ]
    if not seeds:
        return None
    keys = view.between(seeds)
    if grow == "back":
        keys = _grow_back(view, keys)
    elif grow == "forward":
        keys = _grow_forward(view, keys)
    return make_cut(view, name, keys, f"scope {', '.join(scopes)}")


def cut_by_boundary(view: View, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Cut | None:
    """The nodes between two sets of tensors.

    With no `inputs` everything that `outputs` depend on is taken; with no `outputs` everything that depends
    on `inputs`.

    Returns:
        The cut, or None if none of the named tensors is in the graph.

    Raises:
        ConfigError: only some of the tensors exist, or the region reaches back past the inputs.
    """
    known = set(view.producer) | {t.name for t in view.graph.inputs} | set(view.consumers)
    named = [*inputs, *outputs]
    missing = [t for t in named if t not in known]
    if len(missing) == len(named):
        return None
    if missing:
        raise ConfigError(
            f"cut {name!r}: tensor {missing[0]!r} is not in the graph",
            code="cut-tensor-unknown",
            where=f"cuts.{name}",
            fix=f"near names: {', '.join(_near(missing[0], known)) or 'none'}",
        )
    if outputs:
        stop = set(inputs)
        keys: set[int] = set()
        stack = [view.producer[t] for t in outputs if t in view.producer]
        while stack:
            key = stack.pop()
            if key in keys:
                continue
            keys.add(key)
            stack.extend(view.producer[t] for t in view.uses(key) if t not in stop and t in view.producer)
    else:
        keys = view.descendants(k for t in inputs for k in view.consumers.get(t, ()))
    cut = make_cut(view, name, keys, f"boundary {', '.join(inputs) or '*'} -> {', '.join(outputs) or '*'}")
    extra = [t for t in cut.inputs if t not in inputs]
    if inputs and outputs and extra:
        raise ConfigError(
            f"cut {name!r} also depends on {extra[0]!r}, which is not among its inputs",
            code="cut-not-closed",
            where=f"cuts.{name}",
            fix=f"add it: inputs: [{', '.join((*inputs, *extra))}]",
        )
    return cut


def _scope_pattern(scope: str) -> re.Pattern[str]:
    parts = []
    for part in scope.strip("/").split("/"):
        if part == "**":
            parts.append(r"(?:[^/]+/)*")
        else:
            parts.append(re.escape(part).replace(r"\*", "[^/]*") + "/")
    body = "".join(parts)
    # The scope itself may also be the whole name ("ToFloat"), with an output index after it ("ToFloat:0").
    return re.compile(rf"(?:{body})|(?:{body[:-1]}(?::\d+)?$)" if body.endswith("/") else body)


def _grow_back(view: View, keys: set[int]) -> set[int]:
    grown = set(keys)
    stack = list(keys)
    while stack:
        for before in view.predecessors(stack.pop()):
            if before in grown:
                continue
            outputs = [t.name for t in view.nodes[before].outputs]
            if any(o in view.outputs for o in outputs):
                continue
            if all(user in grown for user in view.successors(before)):
                grown.add(before)
                stack.append(before)
    return grown


def _grow_forward(view: View, keys: set[int]) -> set[int]:
    grown = set(keys)
    graph_inputs = {t.name for t in view.graph.inputs}
    stack = list(keys)
    while stack:
        for after in view.successors(stack.pop()):
            if after in grown:
                continue
            uses = view.uses(after)
            if any(u in graph_inputs for u in uses):
                continue
            if all(view.producer[u] in grown for u in uses if u in view.producer):
                grown.add(after)
                stack.append(after)
    return grown


def _near(name: str, known: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, list(known), n=3)
