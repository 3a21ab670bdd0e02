"""The original as a run compares with it: plugin nodes with their bodies, a fixed batch made free where asked for.

A later verification starts from the same file and has to come to the same model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.graph.load import LoadedModel
    from surgery.plugins.registry import Registry
    from surgery.report import Edit, Report


def completed(source: LoadedModel, registry: Registry) -> tuple[LoadedModel, list[str]]:
    """The model with bodies for its plugin nodes, and what was put right in them.

    Args:
        source: The model as it was read, or with a free batch.
        registry: Definitions of plugins.

    Raises:
        ConversionError: a plugin node has no definition, or does not fit it.
        ConfigError: a definition is wrong.
    """
    from surgery.plugins.adopt import adopt_plugins

    adopted, found = adopt_plugins(source.proto, registry)
    return replace(source, proto=adopted), list(dict.fromkeys(a.note for a in found if a.note))


def with_batch(
    source: LoadedModel, registry: Registry, report: Report, seed: int
) -> tuple[LoadedModel, Edit | None]:
    """The model with a free batch, and the entry for the report.

    Where the first dim of an input is free already there is nothing to do, and no entry: the report gets a note.
    Verification compares several batches in either case.

    Args:
        source: The model.
        registry: Definitions of plugins, for ONNX Runtime runs the model.
        report: Gets the note.
        seed: Seed of the samples it is checked on.

    Raises:
        ConversionError: as :func:`surgery.stages.batch.free_batch`, or a plugin node has no definition.
    """
    from surgery.graph.batch_inputs import free_already
    from surgery.plugins.adopt import adopt_plugins
    from surgery.stages.batch import free_batch

    free = free_already(source.proto)
    if free:
        report.notes.append(
            f"batch: dynamic had nothing to do: the first dim of input {free[0]!r} is free already"
        )
        return source, None
    return free_batch(source, lambda proto: adopt_plugins(proto, registry)[0], seed)
