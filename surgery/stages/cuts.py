"""Looking up the cuts that a pipeline names."""

from __future__ import annotations

from surgery.errors import ConfigError
from surgery.graph.cut import Cut, cut_by_boundary, cut_by_scope
from surgery.graph.view import View
from surgery.pipeline import State
from surgery.text import did_you_mean


def find_cut(state: State, name: str, *, required: bool | None = None) -> tuple[View, Cut] | None:
    """The cut that the pipeline calls `name`, in the graph as it is now.

    Args:
        state: The run.
        name: Key under ``cuts:`` in the pipeline.
        required: Whether finding nothing is an error; None lets the pipeline's ``required`` decide.

    Returns:
        The view it was found in and the cut, or None if nothing matches and that is allowed.

    Raises:
        ConfigError: the pipeline has no such cut, or nothing matches and it is required.
    """
    known = state.config.cuts
    if name not in known:
        raise ConfigError(
            f"the pipeline has no cut {name!r}",
            code="unknown-cut",
            where=f"cuts.{name}",
            fix=did_you_mean(name, known) or f"cuts: {', '.join(known) or 'none'}",
        )
    spec = known[name]
    view = View(state.graph)
    scopes = tuple(spec.scope)
    if scopes:
        cut = cut_by_scope(view, name, scopes, grow=spec.grow)
        sought = f"scope {', '.join(scopes)}"
    else:
        cut = cut_by_boundary(view, name, spec.inputs, spec.outputs)
        sought = f"boundary {', '.join(spec.inputs) or '*'} -> {', '.join(spec.outputs) or '*'}"
    if cut is None and (spec.required if required is None else required):
        tops = dict.fromkeys(n.name.split("/")[0] for n in view.nodes if "/" in n.name)
        raise ConfigError(
            f"cut {name!r} matches nothing in this model ({sought})",
            code="cut-not-found",
            where=f"cuts.{name}",
            cause=f"scopes in the model: {', '.join(list(tops)[:8]) or 'none; its nodes carry no scopes'}",
            fix="choose the pipeline for this model's family, or set the cut's scope, inputs or outputs in "
            "your own pipeline file",
        )
    return None if cut is None else (view, cut)
