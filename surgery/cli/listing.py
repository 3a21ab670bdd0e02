"""`surgery list`: what there is."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.options import PluginPathOption, RuleFileOption
from surgery.cli.output import columns, print_json, print_text

if TYPE_CHECKING:
    from surgery.rules.engine.run import Rule


NOUNS = "pipelines, targets, stages, plugins or rules."


class Noun(str, Enum):
    """What can be listed and shown."""

    pipelines = "pipelines"
    targets = "targets"
    stages = "stages"
    plugins = "plugins"
    rules = "rules"


def list_(
    noun: Annotated[Noun, typer.Argument(metavar="NOUN", help=NOUNS)],
    plugin_path: PluginPathOption = None,
    rule_file: RuleFileOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List pipelines, targets, stages, plugins or rules."""
    rows = _LISTS[noun]((rule_file if noun is Noun.rules else plugin_path) or [])
    if json:
        print_json(rows)
    elif rows:
        header = [key.replace("_", " ") for key in rows[0]]
        print_text(columns([[_cell(v) for v in row.values()] for row in rows], header))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


def _pipelines(_: list[Path]) -> list[dict[str, Any]]:
    from surgery.pipeline_files import list_pipelines

    return [{"name": p.name, "title": p.title} for p in list_pipelines()]


def _targets(_: list[Path]) -> list[dict[str, Any]]:
    from surgery.targets import known_targets, resolve_target

    return [resolve_target(name).summary() for name in known_targets()]


def _stages(_: list[Path]) -> list[dict[str, Any]]:
    from surgery.config_schema import stage_schema
    from surgery.stages import STAGES

    return [{"name": name, "does": stage_schema(name).get("description", "")} for name in STAGES]


def _plugins(paths: list[Path]) -> list[dict[str, Any]]:
    from surgery.plugins.registry import Registry

    found = Registry.load(paths).definitions()
    return [{"name": d.name, "version": d.version, "summary": d.file.summary} for d in found]


def _rules(paths: list[Path]) -> list[dict[str, Any]]:
    from surgery.rules.engine.describe import applies, first_sentence, operators

    return [
        {
            "name": rule.name,
            "form": rule.form,
            "applies": applies(rule),
            "operators": operators(rule, short=True),
            "why": first_sentence(rule.why),
        }
        for rule in sorted(find_rules(paths), key=lambda r: r.name)
    ]


def find_rules(paths: list[Path]) -> list[Rule]:
    """Rules that come with the package, or those of some files instead."""
    from surgery.rules import shipped_rules

    if not paths:
        return list(shipped_rules())
    from surgery.rules.engine.user_rules import load_rules

    return list(load_rules(paths, shipped_rules()))


_LISTS: dict[Noun, Callable[[list[Path]], list[dict[str, Any]]]] = {
    Noun.pipelines: _pipelines,
    Noun.targets: _targets,
    Noun.stages: _stages,
    Noun.plugins: _plugins,
    Noun.rules: _rules,
}
