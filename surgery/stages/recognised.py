"""Plugins found by structure are put back: in the graph, and in bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.report import Edit

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State
    from surgery.plugins.recognise import Match
    from surgery.plugins.recognise_replace import Placed


def put_back_plugins(state: State, names: Sequence[str], *, everything: bool) -> list[str]:
    """Put plugin nodes back where the graph computes them; one line about each.

    Args:
        state: The run.
        names: Names of plugins to look for.
        everything: Look for all plugins, but for those that are a single standard operator.
    """
    from surgery.graph.fold import lift_constants
    from surgery.graph.infer import infer_types
    from surgery.plugins.attach import ships
    from surgery.plugins.recognise_replace import put_back

    shipped = []
    for name in names:
        versions = state.registry.versions_of(name)
        if any(ships(d, state.target, state.per_sample_plugins) for d in versions):
            shipped.append(name)
        else:
            state.warn(f"{name} is not put back: {state.target.name} does not ship it for an explicit batch")
    if not shipped and not everything:
        return []
    state.say("looking for plugins")
    lift_constants(state.graph)
    infer_types(state.graph)
    misses: dict[str, str] = {}
    texts = []
    bodies = [b for node in state.graph.nodes if node.attrs for b in node.subgraphs(recursive=True)]
    there: set[str] = set()
    for graph in (state.graph, *bodies):
        found = _find(state, graph, shipped, misses, everything=everything)
        there.update(m.plugin.name for m in found)
        placed = put_back(graph, found, state.provenance, root=state.graph)
        texts += [text for one in placed if (text := _report(state, one))]
    for name, why in misses.items():
        if name not in there:
            state.warn(f"{name} is not put back: {why}")
    return texts


def _find(
    state: State, graph: gs.Graph, names: Sequence[str], misses: dict[str, str], *, everything: bool
) -> list[Match]:
    """The plugins in one graph; those that are named go after those that are not."""
    from surgery.graph.convert import export_graph
    from surgery.plugins.recognise import recognise
    from surgery.stages.trt_model import on_disk

    whole = graph is state.graph
    model = export_graph(graph, state.header) if whole else _body_model(graph, state.graph)

    def feeds() -> list[dict[str, Any]]:
        return _feeds(state, model)

    options: dict[str, Any] = {
        "per_sample": state.per_sample_plugins,
        "feeds": feeds if whole else None,
        "opened": lambda ready: on_disk(ready, state.source),
    }
    found: list[Match] = []
    if everything:
        found = recognise(model, state.registry, state.target, **options)
    if names:
        taken = {p for m in found for p in m.places}
        near: dict[str, str] = {}
        named = recognise(model, state.registry, state.target, plugins=names, misses=near, **options)
        found += [m for m in named if not taken & set(m.places)]
        for name, why in near.items():
            misses.setdefault(name, why)
    return found


def _body_model(body: gs.Graph, root: gs.Graph) -> onnx.ModelProto:
    """A body as a model of its own, in which what it reads from outside are inputs."""
    import onnx_graphsurgeon as gs

    from surgery.graph.convert import extract
    from surgery.graph.view import View

    view = View(body)
    read = dict.fromkeys(name for key in range(len(view.nodes)) for name in view.uses(key))
    constants = {n for n, t in body.tensors().items() if isinstance(t, gs.Constant)}
    own = [t.name for t in body.inputs]
    outer = [n for n in read if n not in view.producer and n not in constants and n not in own]
    outputs = [t.name for t in body.outputs if t.name in view.producer]
    model = extract(body, body.nodes, [*own, *outer], outputs)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = int(root.opset)
    return model


def _feeds(state: State, model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Inputs of the model at the sizes that it is for."""
    from surgery.stages.cases import cases_for
    from surgery.stages.profiles import checked_profiles

    if not state.report.profiles:
        checked_profiles(state, model)
    return [case.feeds for case in cases_for(state, model, state.report.profiles, 1)]


def _report(state: State, placed: Placed) -> str | None:
    """An entry in the report about one place, or a warning why it was left alone."""
    match = placed.match
    if placed.refused:
        first = (*match.nodes, *match.outputs)[0]
        state.warn(f"{match.plugin.name} is computed by {first!r} and others: {placed.refused}")
        return None
    details = {
        "plugin": match.plugin.name,
        "version": match.plugin.version,
        "attributes": {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in match.attributes.items()
        },
        "undetermined": list(match.undetermined),
        "inputs": list(match.inputs),
        "outputs": list(match.outputs),
        "kept": list(placed.kept),
        "proof": match.proof,
        "why": match.why,
        **({"form": match.form} if match.form else {}),
        **({"zeros": sorted(match.zeros)} if match.zeros else {}),
    }
    assumed = tuple(" ".join(text.split()) for text in match.plugin.file.unconfirmed)
    state.report.edits.append(
        Edit(
            "recognised-plugin",
            "plugin",
            placed.removed,
            placed.made,
            "passed",
            match.error,
            assumed,
            details,
        )
    )
    what = "nodes" if match.nodes else "constants"
    return f"{len(placed.removed)} {what} -> {match.plugin.name}"
