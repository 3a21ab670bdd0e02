"""Plugin nodes that the target lacks become standard nodes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from surgery.report import Edit

if TYPE_CHECKING:
    from surgery.pipeline import State


def migrate_plugins(state: State, *, keep: Collection[str] = ()) -> list[str]:
    """Keep plugin nodes that the target has; write the others out. The report gets an edit for each of these.

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
        result = write_out(model, state.registry, lambda n: (n.name or n.output[0]) in gone)
        made: dict[str, list[str]] = {name: [] for name in gone}
        for node in result.graph.node:
            if node.output[0] not in before or node.name.startswith(tuple(f"{n}/" for n in gone)):
                owner = max((n for n in gone if node.name.startswith(f"{n}/")), key=len, default=None)
                if owner is not None:
                    made[owner].append(node.name)
                    state.provenance[node.output[0]] = {"surgery.rule": "write-out-plugin"}
        state.graph, state.header = import_graph(result)
        for name, fate in gone.items():
            state.report.edits.append(
                Edit(
                    "write-out-plugin", "native", (name,), tuple(made[name]),
                    "skipped: the reference computes with the same body", None, fate.definition.file.unconfirmed,
                    {"plugin": fate.definition.name, "version": fate.definition.version, "why": fate.why},
                )
            )  # fmt: skip
    lines: dict[str, int] = {}
    for fate in found:
        verb = "stays" if fate.kept else "is written out"
        text = f"{fate.definition.name} {verb} ({fate.why})"
        lines[text] = lines.get(text, 0) + 1
        if fate.kept and "deprecated" in fate.why:
            state.warn(f"plugin {fate.definition.name}: {fate.why}")
    return [f"{n} x {text}" for text, n in lines.items()]
