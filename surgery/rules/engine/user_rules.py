"""Rules of the user's own, from YAML and Python files that a pipeline names."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter

from surgery.config_errors import Checker
from surgery.errors import ConfigError
from surgery.rules.engine.pair import Pair, PatternRule, RuleTextError
from surgery.rules.engine.rule import Bounded, Lowering, NeedsConstant, NoMatch, Sample
from surgery.rules.engine.template import Unproven
from surgery.user_code import call_theirs, wrong_result
from surgery.yaml_source import ConfigProblemsError, Loc, YamlSource, load_yaml

if TYPE_CHECKING:
    from surgery.config import PipelineConfig
    from surgery.rules.engine.run import Rule

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Opset = Annotated[int, Field(gt=0)]


class SampleEntry(BaseModel):
    """A model on which a rule is tried.

    Attributes:
        text: Signature and nodes, in ONNX's text syntax.
        opset: Version of the default domain.
        feeds: Values by input, where random ones do not fit: numbers, or {low, high} for random ones.
        domains: Further operator sets, domain to version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    opset: Opset = 18
    feeds: dict[str, Any] = Field(default_factory=dict)
    domains: dict[str, int] = Field(default_factory=dict)


def _with_text(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


Entry = Annotated[SampleEntry, BeforeValidator(_with_text, json_schema_input_type=str | SampleEntry)]


class RuleEntry(BaseModel):
    """A pair of functions, as YAML has it.

    Attributes:
        name: Name, in lower case with dashes.
        why: What the replacement is good for.
        before: The function to match, in ONNX's text syntax.
        after: The function to put in its place; inputs, outputs and attributes are those of `before`.
        when: `always`, or `refused`, which is only where the target does not take a node of what is matched.
        since: First opset that both functions are right in.
        until: Last opset.
        targets: Beginnings of the names of targets that it is for; all without it.
        samples: Models in which the rule applies.
        near_misses: Models in which it must not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    why: str
    before: str
    after: str
    when: Literal["always", "refused"] = "always"
    since: Opset = 1
    until: Opset | None = None
    targets: tuple[str, ...] = ()
    samples: tuple[Entry, ...] = ()
    near_misses: tuple[Entry, ...] = ()


class RuleFile(BaseModel):
    """Several rules in one file.

    Attributes:
        rules: The rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[RuleEntry, ...] = Field(min_length=1)


def load_rules(paths: Sequence[Path], known: Sequence[Rule] = ()) -> tuple[Rule, ...]:
    """The rules of some files, in order.

    Args:
        paths: YAML and Python files. Python files are run.
        known: Rules that there are already; their names are taken.

    Raises:
        ConfigError: a file cannot be read, is wrong, holds no rule, or a name is taken; with line and column.
    """
    places: dict[str, str] = {r.name: "the rules that come with surgery" for r in known}
    found: list[Rule] = []
    for path in paths:
        if path.suffix in (".yaml", ".yml"):
            loaded = _from_yaml(path)
        elif path.suffix == ".py":
            loaded = _from_python(path)
        else:
            raise ConfigError(
                "is neither YAML nor Python", code="bad-rules", where=str(path), fix="name it *.yaml or *.py"
            )
        for rule, where in loaded:
            if rule.name in places:
                raise ConfigError(
                    f"a rule named {rule.name!r} is already in {places[rule.name]}",
                    code="bad-rules",
                    where=where,
                    fix="give it another name",
                )
            places[rule.name] = str(path)
            found.append(rule)
    return tuple(found)


def choose_rules(
    config: PipelineConfig, *, shipped: bool, files: Sequence[str], optional: Sequence[str]
) -> tuple[tuple[Rule, ...], tuple[Rule, ...], list[str]]:
    """The rules that a pipeline asks for, those of the user first.

    Args:
        config: The pipeline; files are relative to it.
        shipped: Whether the rules that come with the package are among them.
        files: Files with rules of the user's own.
        optional: Names of rules that apply only where they are asked for.

    Returns:
        All rules, the user's among them, and the names of the optional ones.

    Raises:
        ConfigError: a file or a name is wrong, with its place.
    """
    from surgery.rules import shipped_rules

    folder = config.path.parent if config.path is not None else Path()
    known = shipped_rules()
    paths = []
    for i, name in enumerate(files):
        path = folder / name
        if not path.is_file():
            raise ConfigError(
                "no such file", code="no-rules", where=_where(config, "rule_files", i) or str(path)
            )
        paths.append(path)
    own = load_rules(paths, known)
    rules: dict[str, Rule] = {r.name: r for r in (*own, *known)}
    for i, name in enumerate(optional):
        if name not in rules or not getattr(rules[name], "optional", False):
            some = sorted(n for n, r in rules.items() if getattr(r, "optional", False))
            near = difflib.get_close_matches(name, some, n=1)
            raise ConfigError(
                f"the rule {name!r} is not optional" if name in rules else f"no rule is named {name!r}",
                code="unknown-rule",
                where=_where(config, "optional_rules", i),
                fix=f"did you mean {near[0]!r}?" if near else f"optional rules: {', '.join(some)}",
            )
    wanted = known if shipped else tuple(r for r in known if r.name in optional)
    return (*own, *wanted), own, [*optional, *(r.name for r in own)]


def _where(config: PipelineConfig, option: str, index: int) -> str | None:
    """Place of an item of an option of the stage that rewrites."""
    for i, entry in enumerate(config.source.data.get("stages", ())):
        options = entry.get("rewrite") if isinstance(entry, Mapping) else None
        if isinstance(options, Mapping) and option in options:
            return config.source.where(("stages", i, "rewrite", option, index))
    return None


# -- YAML -----------------------------------------------------------------------------------------------


def _from_yaml(path: Path) -> list[tuple[Rule, str]]:
    source = load_yaml(path)
    checker = Checker(source)
    entries: list[tuple[Loc, RuleEntry]] = []
    if "rules" in source.data:
        file = checker.validate(TypeAdapter(RuleFile), source.data, ())
        entries = [(("rules", i), e) for i, e in enumerate(file.rules)] if file else []
    else:
        entry = checker.validate(TypeAdapter(RuleEntry), source.data, ())
        entries = [((), entry)] if entry else []
    found: list[tuple[Rule, str]] = []
    for loc, entry in entries:
        rule = _rule(entry)
        try:
            assert rule.pattern is not None
        except RuleTextError as error:
            _complain(checker, path, (*loc, error.part), error)
            continue
        _check_samples(checker, loc, rule)
        found.append((rule, source.where((*loc, "name")) or str(path)))
    if checker.problems:
        raise ConfigProblemsError(checker.sorted(), code="bad-rules")
    return found


def _rule(entry: RuleEntry) -> Pair:
    return Pair(
        name=entry.name,
        before=entry.before,
        after=entry.after,
        why=entry.why,
        samples=tuple(map(_sample, entry.samples)),
        near_misses=tuple(map(_sample, entry.near_misses)),
        when=entry.when,
        since=entry.since,
        until=entry.until,
        targets=entry.targets,
    )


def _sample(entry: SampleEntry) -> Sample:
    return Sample(entry.text, entry.opset, {n: _feed(v) for n, v in entry.feeds.items()}, entry.domains)


def _feed(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"low", "high"}:
        return (value["low"], value["high"])
    return value


def _check_samples(checker: Checker, loc: Loc, rule: Pair) -> None:
    import onnx.parser

    from surgery.rules.engine.selfproof import parse_sample

    for kind, samples in (("samples", rule.samples), ("near_misses", rule.near_misses)):
        for i, sample in enumerate(samples):
            try:
                parse_sample(sample)
            except onnx.parser.ParseError as error:
                given = error.args[0]
                text = given.decode() if isinstance(given, bytes) else str(given)
                checker.add((*loc, kind, i), f"{kind}[{i}]: {text.splitlines()[-1]}")


def _complain(checker: Checker, path: Path, loc: Loc, error: RuleTextError) -> None:
    """Say what is wrong with a function, at the place in the file where it is wrong."""
    from surgery.yaml_source import Problem

    place = _inside(checker.source, path, loc, error.line, error.column)
    if place is None:
        checker.add(loc, f"{error.part}: {error.message}")
    else:
        checker.problems.append(Problem(place, f"{error.part}: {error.message}"))


def _inside(source: YamlSource, path: Path, loc: Loc, line: int | None, column: int | None) -> str | None:
    """Place of a line and column of a text, where it is written as a block (``|``)."""
    start = source.values.get(loc)
    if start is None or line is None or column is None:
        return None
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines[start[0] - 1][start[1] - 1 :].startswith("|"):
        return None
    first = next((text for text in lines[start[0] :] if text.strip()), "")
    indent = len(first) - len(first.lstrip())
    return f"{source.name}:{start[0] + line}:{indent + column}"


# -- Python ---------------------------------------------------------------------------------------------


def _from_python(path: Path) -> list[tuple[Rule, str]]:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"surgery_user_rules_{digest}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError("cannot be read", code="bad-rules", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{path}:{error.lineno or 1}:{error.offset or 1}"
        raise ConfigError(f"not valid Python: {error.msg}", code="bad-rules", where=where) from error
    except Exception as error:  # whatever the user's file does
        message = f"{type(error).__name__}: {error}" if not isinstance(error, RuleTextError) else str(error)
        raise ConfigError(message, code="bad-rules", where=_line(path, error)) from error
    found: dict[int, Rule] = {}
    for value in vars(module).values():
        if isinstance(value, (Lowering, Pair, PatternRule)):
            found[id(value)] = value if isinstance(value, Pair) else _guarded(value, path)
    if not found:
        raise ConfigError(
            "holds no rule",
            code="bad-rules",
            where=str(path),
            fix="make one with lowering, pair or pattern_rule, see docs/rules.md",
        )
    return [(rule, str(path)) for rule in found.values()]


def _guarded(rule: Lowering | PatternRule, path: Path) -> Rule:
    """The rule with a function whose mistakes are told with their place in the file."""

    @functools.wraps(rule.build)
    def build(*arguments: Any) -> Any:
        made = call_theirs(
            rule.build,
            *arguments,
            place=path,
            what=f"rule {rule.name}",
            code="bad-rules",
            passing=(NoMatch, NeedsConstant, Unproven),
        )
        results = made if isinstance(made, (list, tuple)) else (made,)
        if not all(value is None or isinstance(value, (str, Bounded)) for value in results):
            told = f"rule {rule.name} gives {made!r}; it has to give the names of the values that replace the outputs"
            raise wrong_result(rule.build, path, told, "bad-rules")
        return made

    return replace(rule, build=build)


def _line(path: Path, error: Exception) -> str:
    """The last line of the file itself that an exception went through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{path}:{lines[-1]}:1" if lines and lines[-1] else str(path)
