"""Plugin nodes that the target lacks become their successors there, or standard nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from surgery.report import Edit

if TYPE_CHECKING:
    import onnx

    from surgery.pipeline import State
    from surgery.plugins.migrate import Fate


def migrate_plugins(state: State, *, keep: Collection[str] = ()) -> list[str]:
    """Keep plugin nodes that the target has; the others become what it has in their place.

    The report gets an edit for each node that changes, and a warning for each plugin that stays and is deprecated.

    Args:
        state: The run; its graph changes.
        keep: Names of plugins that the user has a library of.

    Returns:
        One line per plugin, empty if the graph has none.
    """
    from surgery.graph.convert import export_graph, import_graph
    from surgery.plugins.attach import attach_bodies
    from surgery.plugins.definition import PLUGIN_DOMAIN
    from surgery.plugins.migrate import fates, write_out

    if not any(n.domain == PLUGIN_DOMAIN for n in state.graph.nodes):
        return []
    model = attach_bodies(
        export_graph(state.graph, state.header, provenance=state.provenance), state.registry
    )
    found = fates(model, state.registry, state.target, per_sample=state.per_sample_plugins, keep=keep)
    gone = {f.node: f for f in found if not f.kept}
    if gone:
        before = {n.output[0] for n in model.graph.node}

        def choice(node: onnx.NodeProto) -> bool | onnx.FunctionProto:
            fate = gone.get(node.name or node.output[0])
            if fate is None:
                return False
            return fate.successor.successor.function if fate.successor else True

        result = write_out(model, state.registry, choice)
        made: dict[str, list[str]] = {name: [] for name in gone}
        for node in result.graph.node:
            if node.output[0] not in before or node.name.startswith(tuple(f"{n}/" for n in gone)):
                owner = max((n for n in gone if node.name.startswith(f"{n}/")), key=len, default=None)
                if owner is not None:
                    made[owner].append(node.name)
                    state.provenance[node.output[0]] = {"surgery.rule": _rule(gone[owner])}
        state.graph, state.header = import_graph(result)
        state.report.edits.extend(_edit(fate, made[name]) for name, fate in gone.items())
    groups: dict[tuple[str, str], Counter[str]] = {}
    for fate in found:
        groups.setdefault((fate.verb, fate.why.rstrip(".")), Counter())[fate.definition.name] += 1
        if fate.deprecated:
            state.warn(f"plugin {fate.definition.name}: {fate.why}")
    return [
        f"{', '.join(f'{n} x {name}' for name, n in names.items())} {_plural(verb, names)} ({why})"
        for (verb, why), names in groups.items()
    ]


def _plural(verb: str, names: Counter[str]) -> str:
    """The verb after several names."""
    if len(names) == 1:
        return verb
    for one, several in (("is ", "are "), ("becomes ", "become "), ("stays", "stay")):
        if verb.startswith(one):
            return several + verb.removeprefix(one)
    return verb


def _rule(fate: Fate) -> str:
    return "write-out-plugin" if fate.successor is None else "successor-plugin"


def _edit(fate: Fate, made: list[str]) -> Edit:
    details = {"plugin": fate.definition.name, "version": fate.definition.version, "why": fate.why}
    if fate.refused:
        details["not_taken"] = "; ".join(fate.refused)
    proven = fate.successor
    if proven is None:
        return Edit(
            _rule(fate), "native", (fate.node,), tuple(made),
            "skipped: the reference computes with the same body", None, fate.definition.file.unconfirmed, details,
        )  # fmt: skip
    details["successor"] = proven.successor.name
    if proven.cases:
        details["proof_cases"] = str(proven.cases)
    verified = "sampled" if proven.sampled else "passed"
    if not proven.cases:
        verified = "skipped: both versions have the same definition"
    return Edit(
        _rule(fate), "plugin", (fate.node,), tuple(made), verified, proven.max_abs_error,
        proven.successor.assumptions, details,
    )  # fmt: skip
