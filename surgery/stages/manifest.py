"""Plugin nodes in the places that a manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import ConfigError
from surgery.report import Edit

if TYPE_CHECKING:
    from surgery.pipeline import State


def put_in(state: State, manifest: str) -> list[str]:
    """Apply a manifest of Polygraphy's `plugin match`; the report gets an edit for each place.

    Args:
        state: The run; its graph changes.
        manifest: The file, from the folder of the pipeline file or from the working directory.

    Returns:
        One line per plugin.

    Raises:
        ConfigError: there is no such file, or it is wrong in itself.
        ConversionError: it does not fit the graph.
    """
    from surgery.graph.infer import infer_types
    from surgery.plugins.manifest import apply_manifest, read_manifest

    entries = read_manifest(_found(state, manifest), state.registry)
    infer_types(state.graph)
    proto = state.source.proto.graph
    original = {n for node in proto.node for n in (*node.input, *node.output)}
    placed = apply_manifest(
        state.graph,
        entries,
        state.registry,
        state.provenance,
        opset=int(state.graph.opset),
        original=frozenset(original),
    )
    infer_types(state.graph)
    counts: dict[str, int] = {}
    for one in placed:
        definition = one.entry.definition
        text = definition.name if one.before else f"{definition.name} that is there already"
        counts[text] = counts.get(text, 0) + 1
        if one.before:
            details = {
                "plugin": definition.name,
                "version": definition.version,
                "entry": one.entry.label,
                "attributes": dict(one.entry.attributes),
            }
            state.report.edits.append(
                Edit("manifest", "plugin", one.before, (one.node,), one.proof, one.max_abs_error, (), details)
            )
    return [f"manifest: {n} x {text}" for text, n in counts.items()] or ["manifest: no places"]


def _found(state: State, manifest: str) -> Path:
    folder = state.config.path.parent if state.config.path is not None else Path()
    for path in (folder / manifest, Path(manifest)):
        if path.is_file():
            return path
    raise ConfigError("no such file", code="bad-manifest", where=manifest)
