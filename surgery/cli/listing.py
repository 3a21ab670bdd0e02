"""`surgery list`: what there is."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.options import PluginPathOption, RuleFileOption, TargetOption
from surgery.cli.output import columns, print_json, print_text, shortened
from surgery.errors import ConfigError
from surgery.text import WIDTH

if TYPE_CHECKING:
    from surgery.rules.engine.run import Rule


NOUNS = "pipelines, targets, stages, plugins or rules."

MOST_OPERATORS = 24
"""Characters of the operators of a rule in the list, so that room is left for why it is there."""


class Noun(str, Enum):
    """What can be listed and shown."""

    pipelines = "pipelines"
    targets = "targets"
    stages = "stages"
    plugins = "plugins"
    rules = "rules"


def list_(
    noun: Annotated[Noun, typer.Argument(metavar="NOUN", help=NOUNS)],
    target: TargetOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="With plugins: what becomes of this model's plugin nodes on TARGET.",
        ),
    ] = None,
    plugin_path: PluginPathOption = None,
    rule_file: RuleFileOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List pipelines, targets, stages, plugins or rules.

    With --target, plugins are listed with what the target has of them; with --model, the plugin nodes of a model
    with what becomes of them there.
    """
    if noun is not Noun.plugins and (target is not None or model is not None):
        raise ConfigError(
            f"says nothing about {noun.value}",
            code="bad-option",
            where="--target" if target is not None else "--model",
            fix="write: surgery list plugins --target TARGET",
        )
    if model is not None:
        rows = _advice(model, target, plugin_path or [])
    elif target is not None:
        rows = _standings(target, plugin_path or [])
    else:
        rows = _LISTS[noun]((rule_file if noun is Noun.rules else plugin_path) or [])
    if json:
        print_json(rows)
    elif model is not None and not rows:
        print_text("no plugin nodes")
    elif noun is Noun.rules and rows:
        print_text(_rule_table(rows))
    elif rows:
        header = [key.replace("_", " ") for key in rows[0]]
        print_text(columns([[_cell(v) for v in row.values()] for row in rows], header))


def _rule_table(rows: list[dict[str, Any]]) -> str:
    """What fits a terminal: `surgery show rules NAME` and --json have the rest."""
    header = ["name", "applies", "operators", "why"]
    cells = [[r["name"], r["applies"], shortened(r["operators"], MOST_OPERATORS), r["why"]] for r in rows]
    return columns(cells, header, WIDTH)


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


def _standings(target: str, paths: list[Path]) -> list[dict[str, Any]]:
    from surgery.plugins.advise import standing
    from surgery.plugins.registry import Registry
    from surgery.targets import resolve_target

    registry, chosen = Registry.load(paths), resolve_target(target)
    found = [standing(d, registry, chosen) for d in registry.definitions()]
    return [
        {
            "name": s.definition.name,
            "version": s.definition.version,
            "state": s.state,
            "why": s.why,
            "instead": ", ".join(s.instead),
        }
        for s in found
    ]


def _advice(model: Path, target: str | None, paths: list[Path]) -> list[dict[str, Any]]:
    from surgery.graph.load import load_model
    from surgery.plugins.advise import advise
    from surgery.plugins.registry import Registry
    from surgery.targets import resolve_target

    found = advise(load_model(model).proto, Registry.load(paths), resolve_target(target))
    return [
        {"node": a.node, "plugin": a.plugin, "version": a.version, "becomes": a.fate, "why": a.why}
        for a in found
    ]


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
