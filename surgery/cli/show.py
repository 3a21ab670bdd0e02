"""surgery show: one pipeline, target, plugin, stage or rule."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.listing import NOUNS, Noun, find_rules
from surgery.cli.options import PluginPathOption, RuleFileOption
from surgery.cli.output import columns, print_json, print_text, wrapped
from surgery.errors import ConfigError
from surgery.text import did_you_mean

if TYPE_CHECKING:
    from surgery.plugins.definition import PluginDefinition
    from surgery.rules.engine.run import Rule


NEAR = 6
"""Names that are offered for one that is wrong, at most."""


def show(
    noun: Annotated[Noun, typer.Argument(metavar="NOUN", help=NOUNS)],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name, as `surgery list` has it.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of pipeline files, for editors.")
    ] = False,
    plugin_path: PluginPathOption = None,
    rule_file: RuleFileOption = None,
) -> None:
    """Show one pipeline, target, stage, plugin or rule."""
    if schema:
        if noun is not Noun.pipelines or name is not None:
            raise ConfigError(
                "is the format of all pipelines",
                code="bad-option",
                where="--schema",
                fix="write: surgery show pipelines --schema",
            )
        from surgery.config_schema import pipeline_schema

        print_json(pipeline_schema())
        return
    if name is None:
        raise ConfigError(
            "no NAME given",
            code="no-name",
            where=f"surgery show {noun.value}",
            fix=f"`surgery list {noun.value}` lists the names",
        )
    if noun is Noun.pipelines:
        _pipeline(name)
    elif noun is Noun.targets:
        _target(name)
    elif noun is Noun.stages:
        _stage(name)
    elif noun is Noun.rules:
        _rule(find_rules(rule_file or []), name)
    else:
        from surgery.plugins.registry import Registry

        _plugin(Registry.load(plugin_path or ()).get(name))


def _pipeline(name: str) -> None:
    """The file as it is, checked: what it prints is a pipeline file again."""
    from surgery.config import load_pipeline

    config = load_pipeline(name)
    assert config.path is not None
    print_text(f"# {config.path}")
    print_text(config.path.read_text(encoding="utf-8-sig").rstrip())


def _stage(name: str) -> None:
    from surgery.config_schema import stage_schema
    from surgery.stages import STAGES

    if name not in STAGES:
        raise ConfigError(
            f"no stage named {name!r}",
            code="unknown-stage",
            fix=did_you_mean(name, STAGES) or f"stages: {', '.join(STAGES)}",
        )
    schema = stage_schema(name)
    print_text(f"{name}: {schema.get('description', '')}")
    rows = list(option_rows(schema, schema))
    if rows:
        print_text("options:")
        _print(rows)


def option_rows(schema: dict[str, Any], root: dict[str, Any], prefix: str = "") -> Iterable[list[str]]:
    """Name, type, default and meaning of each option; options of options by their dotted path."""
    required = schema.get("required", ())
    for name, node in schema.get("properties", {}).items():
        default = "required" if name in required else value_text(node.get("default"))
        inner = [root["$defs"][ref.rsplit("/", 1)[1]] for ref in _refs(node)]
        kind = "group" if inner else kind_text(node)
        yield [f"{prefix}{name}", kind, default if not inner else "", node.get("description", "")]
        for group in inner:
            yield from option_rows(group, root, f"{prefix}{name}.")


def _refs(node: dict[str, Any]) -> list[str]:
    return [n["$ref"] for n in (node, *node.get("anyOf", ())) if "$ref" in n]


def kind_text(node: dict[str, Any]) -> str:
    """The type that a JSON schema describes, in a word or two."""
    if "anyOf" in node:
        return " or ".join(kind_text(n) for n in node["anyOf"] if n.get("type") != "null")
    if "const" in node:
        return value_text(node["const"])
    if "enum" in node:
        return " or ".join(map(str, node["enum"]))
    if node.get("type") == "array":
        return f"list of {kind_text(node.get('items', {}))}"
    return {"string": "text", "boolean": "true or false"}.get(
        node.get("type", ""), str(node.get("type", "any"))
    )


def value_text(value: Any) -> str:
    """A default value, as YAML has it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _target(name: str) -> None:
    from surgery.targets import resolve_target

    target = resolve_target(name)
    labels = {
        "installed": "installed here",
        "operators": "operators taken",
        "restricted": "of these restricted",
        "refused": "operators refused",
        "deprecated_plugins": "of these deprecated",
    }
    rows = [[labels.get(k, k), "no" if v is None else str(v)] for k, v in target.summary().items()]
    _print(rows, indent=0)
    operators = target.operators()
    print_text("\noperators:")
    _print(
        [n, "taken" if e.supported else "refused", " ".join(e.dtypes), " ".join(e.restrictions.split())]
        for n, e in operators.items()
    )
    plugins = target.plugins()
    if plugins:
        print_text("\nplugins:")
        _print(
            [p.name, f"version {', '.join(p.versions)}", _age(p.deprecated_in, p.replacement)]
            for p in plugins
        )


def _age(deprecated: str | None, replacement: str | None) -> str:
    if deprecated is None:
        return ""
    if (replacement or "").startswith("none"):  # "none planned"
        return f"deprecated in {deprecated}; no replacement"
    return f"deprecated in {deprecated}" + (f"; use {replacement}" if replacement else "")


def _plugin(plugin: PluginDefinition) -> None:
    from surgery.plugins.schema import version_key

    file = plugin.file
    print_text(f"{plugin.name}: {file.summary}")
    versions = sorted({plugin.version, *file.also_versions}, key=version_key)
    rows = [
        ["version" if len(versions) == 1 else "versions", ", ".join(versions)],
        ["namespace", plugin.namespace or '""'],
    ]
    for flavour, entries in (
        ("tensorrt", file.availability.tensorrt),
        ("tensorrt-rtx", file.availability.tensorrt_rtx),
    ):
        texts = [
            f"version {e.plugin_version} from {e.since}"
            + (f", deprecated in {e.deprecated}" if e.deprecated else "")
            + (f", removed in {e.removed}" if e.removed else "")
            for e in entries
        ]
        rows.append([flavour, "; ".join(texts) or "not shipped"])
    if file.replaced_by:
        rows.append(["replaced by", ", ".join(file.replaced_by)])
    if file.never_emitted:
        rows.append(["never a node", " ".join(file.never_emitted.split())])
    rows.append(["compared", _compared(file.compare)])
    rows.append(["definition", str(plugin.folder)])
    _print(rows)
    print_text("attributes:")
    _print(
        [name, a.type, "required" if a.required else value_text(a.default), a.meaning]
        for name, a in file.attributes.items()
    )
    print_text("inputs:")
    optional = {i.name: " (optional)" if i.optional else "" for i in file.inputs}
    _print(
        [i.name, " or ".join(i.dtypes), " or ".join(map(_shape, i.shapes)) + optional[i.name], i.meaning]
        for i in file.inputs
    )
    print_text("outputs:")
    _print([o.name, _dtype(o.dtype), _output_shape(o.shape, plugin), o.meaning] for o in file.outputs)
    for heading, notes in (("sources", file.sources), ("not confirmed", file.unconfirmed)):
        if notes:
            print_text(f"{heading}:")
            for text in notes:
                print_text("\n".join(wrapped("  - ", text)))


def _dtype(dtype: str) -> str:
    return f"that of {dtype[1:]}" if dtype.startswith("@") else dtype


def _output_shape(dims: tuple[Any, ...], plugin: PluginDefinition) -> str:
    """Dims; those that attributes give by the attribute's name."""
    if not dims and plugin.works_out_types:
        return "worked out from the inputs"
    return _shape(d.removeprefix("@") if isinstance(d, str) else d for d in dims)


def _compared(how: Any) -> str:
    if how.kind == "values" and not how.atol and not how.rtol:
        return "element by element, exactly"
    if how.kind == "values":
        return f"element by element, within {how.atol:g} + {how.rtol:g} of the value"
    if how.kind == "rows":
        return "row by row, in any order"
    return "as sets of detections"


def _near_rules(rules: list[Rule], name: str) -> list[str]:
    """Rules that may be meant: spelled alike, with such a word in their name, or of an operator of that name."""
    wanted = name.lower()
    words = {w for r in rules for w in r.name.split("-")}
    alike = difflib.get_close_matches(wanted, [r.name for r in rules], n=1)
    found = [r.name for r in rules if wanted in r.name]
    # NonMaxSuppression is nms, too.
    found += [r.name for r in rules if any(wanted in (op.lower(), _initials(op)) for op in r.ops)]
    if not alike and not found:
        near = set(difflib.get_close_matches(wanted, sorted(words), n=1))
        found = [r.name for r in rules if near & set(r.name.split("-"))]
    return list(dict.fromkeys([*alike, *found]))[:NEAR]


def _initials(operator: str) -> str:
    return "".join(filter(str.isupper, operator)).lower()


def _rule(rules: list[Rule], name: str) -> None:
    from surgery.rules.engine import describe

    found = {r.name: r for r in rules}
    if name not in found:
        near = _near_rules(rules, name)
        raise ConfigError(
            f"no rule named {name!r}",
            code="unknown-rule",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else "`surgery list rules` lists them",
        )
    rule = found[name]
    print_text(f"{rule.name}: {' '.join(rule.why.split())}")
    _print(
        [
            ["form", rule.form],
            ["operators", describe.operators(rule)],
            ["applies", describe.applies_long(rule)],
            ["opsets", describe.opsets(rule)],
            ["targets", describe.targets(rule)],
        ]
    )
    for title, text in describe.functions(rule):
        print_text(f"{title}:")
        print_text("\n".join(f"  {line}".rstrip() for line in text.splitlines()))
    for title, samples in (("samples", rule.samples), ("left alone", rule.near_misses)):
        if samples:
            print_text(f"{title}:")
            print_text("\n".join(f"  {describe.sample_text(s)}" for s in samples))


def _shape(dims: Iterable[Any]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _print(rows: Iterable[list[str]], indent: int = 2) -> None:
    text = columns(list(rows))
    if text:
        print_text("\n".join(" " * indent + line for line in text.splitlines()))
