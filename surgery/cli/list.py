"""surgery list: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from surgery.cli import options

Noun = Literal["pipelines", "targets", "plugins", "stages"]


def list_(
    noun: Annotated[Noun, typer.Argument(metavar="NOUN", help="pipelines, targets, plugins or stages.")],
    plugin_path: options.PluginPath = None,
) -> None:
    """List pipelines, targets, plugins or stages."""
    from surgery.cli.output import print_columns

    if noun == "plugins":
        print_columns(_plugins(plugin_path or []))
    else:
        print_columns({"pipelines": _pipelines, "targets": _targets, "stages": _stages}[noun]())


def _pipelines() -> list[list[str]]:
    from surgery.pipeline_files import list_pipelines

    return [[p.name, p.title] for p in list_pipelines()]


def _targets() -> list[list[str]]:
    from surgery.targets import known_targets, resolve_target

    rows = []
    for name in known_targets():
        target = resolve_target(name)
        here = f"installed: {target.installed_version}" if target.installed else "not installed"
        table = "" if target.table_exact else f"uses the table of {target.table}"
        rows.append([name, here, table])
    return rows


def _plugins(paths: list[Path]) -> list[list[str]]:
    from surgery.plugins.registry import Registry

    return [[p.name, p.version, p.file.summary] for p in Registry.load(paths).definitions()]


def _stages() -> list[list[str]]:
    from surgery.config_schema import stage_schema
    from surgery.stages import STAGES

    return [[name, str(stage_schema(name).get("description", ""))] for name in STAGES]
