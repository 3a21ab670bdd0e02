"""Largest values of numbers from data that decide sizes, where nothing in the model bounds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.convert import extract
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.view import View

if TYPE_CHECKING:
    from surgery.pipeline import State

MARGIN = 2
"""Times the largest number seen that there is room for."""

STEP = 16
"""Limits that are measured are multiples of it."""

CASES = 2
"""Inputs for each point of the profiles."""


def limits_for(state: State, wanted: Mapping[str, Any], given: Mapping[str, int]) -> dict[str, int]:
    """A limit for each of some tensors: the user's, or what derived inputs show, with room to spare.

    Where it is not the user's, the report warns: inputs that need more are told by a count above the room, and by
    nothing else.

    Args:
        state: The run; its graph makes the tensors.
        wanted: Name of a tensor of whole numbers to the node whose output's size it decides.
        given: Limits that the user gives.

    Raises:
        ConversionError: a limit is not given, and the graph in front of the tensor cannot be run.
    """
    found = {name: given[name] for name in wanted if name in given}
    rest = [name for name in wanted if name not in given]
    if not rest:
        return found
    try:
        seen = _seen(state, rest)
    except (ConversionError, EvaluationError, KeyError) as error:
        raise _needed(state, rest[0], wanted[rest[0]], str(error)) from error
    for name in rest:
        limit = -(-max(1, seen[name]) * MARGIN // STEP) * STEP
        found[name] = limit
        state.warn(
            f"nothing in the model bounds {name!r}, which decides the size of what {wanted[name].name!r} makes: "
            f"there is room for {limit}, {MARGIN} x what derived inputs need or more; an output whose count is above "
            f"its room is not valid. Set it with --set 'rewrite.limits={{\"{name}\": {limit}}}'"
        )
    return found


def _seen(state: State, names: list[str]) -> dict[str, int]:
    """The largest value of each tensor on derived inputs at all points of the profiles."""
    from surgery.stages.cases import cases_for
    from surgery.stages.profiles import checked_profiles

    kept = list(state.report.profiles)
    state.report.profiles.clear()
    try:
        checked_profiles(state, state.source.proto)
        cases = cases_for(state, state.source.proto, state.report.profiles, CASES)
    finally:
        state.report.profiles[:] = kept
    view = View(state.graph)
    keys = view.ancestors({view.producer[n] for n in names})
    nodes = [view.nodes[k] for k in sorted(keys, key=lambda k: view.order[k])]
    read = {name for key in keys for name in view.uses(key)}
    inputs = [t.name for t in state.graph.inputs if t.name in read]
    model = extract(state.graph, nodes, inputs, names, shapes=dict.fromkeys(names))
    session = Evaluator(model, threads=1)
    seen = dict.fromkeys(names, 0)
    for case in cases:
        values = session.run({n: case.feeds[n] for n in inputs})
        for name in names:
            if np.asarray(values[name]).size:
                seen[name] = max(seen[name], int(np.max(values[name])))
    return seen


def _needed(state: State, name: str, node: Any, why: str) -> ConversionError:
    return ConversionError(
        f"{node.op} makes something as long as {name!r} says, which is computed from data and bounded by nothing",
        code="needs-limit",
        where=state.source.name,
        node=node.name or None,
        cause=f"TensorRT needs to know how large a tensor can be; derived inputs do not show it: {why}",
        fix=f"say how large it can be: --set 'rewrite.limits={{\"{name}\": N}}'",
    )
