"""Pipelines: one YAML file per model family, checked before anything runs.

:class:`PipelineFile` is what the file may say, :class:`PipelineConfig` what a run gets: paths resolved, every
stage built from its options. Whatever is wrong is reported at once, each with file, line and column.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from surgery.config_errors import Checker
from surgery.errors import ConfigError
from surgery.pipeline_files import find_pipeline, list_pipelines
from surgery.stages import STAGES
from surgery.yaml_source import ConfigProblemsError, Loc, Problem, YamlSource, load_yaml, parse_scalar

if TYPE_CHECKING:
    from surgery.pipeline import Stage

__all__ = [
    "CutSpec",
    "PipelineConfig",
    "PipelineFile",
    "Profile",
    "Range",
    "apply_overrides",
    "based_on",
    "find_pipeline",
    "list_pipelines",
    "load_pipeline",
    "profile_problem",
    "stage_adapter",
]

M = TypeVar("M", bound=BaseModel)

_OWN = ("name", "title", "description", "extends", "set", "choose")
"""Keys that a pipeline does not hand on to one that extends it."""

_LAST = ("parse", "build", "verify", "save")
"""Stages that come once and in this order, after all others."""


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names, json_schema_input_type=str | list[str])]
Dim = Annotated[int, Field(gt=0)]
Batch = Literal["as-exported", "dynamic"]
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""A shape range: minimum, optimum, maximum."""


class CutSpec(BaseModel):
    """Where a part of the graph begins and ends: by scope, or by boundary tensors.

    Attributes:
        scope: Scopes (`Postprocessor`, or `**/Postprocessor` at any depth); nodes inside one are the cut, and
            what lies between them.
        grow: With scope: also take nodes before it that feed nothing else (`back`), or after it that read
            nothing else (`forward`).
        inputs: Names of the tensors where the cut begins.
        outputs: Names of the tensors where the cut ends.
        required: Finding nothing is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Names = ()
    grow: Literal["none", "back", "forward"] = "none"
    inputs: Names = ()
    outputs: Names = ()
    required: bool = True


class Profile(BaseModel):
    """Range of shapes of one input.

    Attributes:
        min: Smallest shape.
        opt: Shape to optimize for.
        max: Largest shape.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: tuple[Dim, ...]
    opt: tuple[Dim, ...]
    max: tuple[Dim, ...]

    @property
    def range(self) -> Range:
        """Minimum, optimum, maximum."""
        return self.min, self.opt, self.max


class PipelineFile(BaseModel):
    """A pipeline file.

    Attributes:
        schema: Version of this format.
        name: Name of the pipeline; the file's name without it.
        title: One line about it.
        description: What it is for, and what it does not do.
        extends: Pipeline that this one starts from: a shipped name, or a path relative to this file. What this file
            says goes before it; cuts and profiles by name, anything else as a whole.
        set: Options of the stages that it takes over, by STAGE.OPTION, as with `--set`.
        choose: Start from the pipeline of the model's family, found by looking at the graph.
        batch: `dynamic` makes a fixed batch free; `as-exported` leaves it.
        model: The ONNX model, relative to this file; the command line may give another.
        target: The TensorRT to prepare for (`tensorrt-rtx-1.7`); what is installed without it.
        plugin_path: Folders with plugins of your own, relative to this file.
        cuts: Parts of the graph that stages refer to by name.
        profiles: Shape ranges by input; derived from the model without them.
        stages: What to do, in order: a stage's name, or its name with options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str | None = None
    title: str = ""
    description: str = ""
    extends: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    choose: bool = False
    batch: Batch = "as-exported"
    model: str | None = None
    target: str | None = None
    plugin_path: Names = ()
    cuts: dict[str, CutSpec] = Field(default_factory=dict)
    profiles: dict[str, Profile] = Field(default_factory=dict)
    stages: list[str | dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class PipelineConfig:
    """A checked pipeline.

    Attributes:
        name: Its name.
        title: One line about it.
        description: More about it.
        choose: Whether it starts from the pipeline of the model's family.
        batch: Whether a fixed batch is made free.
        model: Path of the model as the file gives it, or None.
        target: Name of the target that the file names, or None.
        plugin_path: Folders with the user's plugins, as the file gives them.
        cuts: Cuts by name.
        profiles: Shape ranges by input.
        stages: The stages, built from their options.
        path: The file, or None if the pipeline did not come from one.
        sha256: Of the file's bytes (of the mapping as JSON, if there is no file), and of the overrides if
            there are any.
        overrides: What `--set` changed, by key.
        source: The text it came from.
    """

    name: str
    title: str
    description: str
    choose: bool
    batch: Batch
    model: str | None
    target: str | None
    plugin_path: tuple[str, ...]
    cuts: Mapping[str, CutSpec]
    profiles: Mapping[str, Profile]
    stages: tuple[Stage, ...]
    path: Path | None
    sha256: str
    overrides: Mapping[str, Any]
    source: YamlSource = field(repr=False, compare=False)

    @classmethod
    def model_validate(cls, data: Mapping[str, Any]) -> PipelineConfig:
        """The pipeline that a mapping describes, as the YAML would; paths start at the working folder.

        Raises:
            ConfigError: something in it is wrong; all problems at once.
        """
        plain = json.loads(json.dumps(data))
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        return _check(YamlSource(None, plain, digest), None, {})

    def build_stages(self) -> list[Stage]:
        """The stages, in order."""
        return list(self.stages)

    def model_path(self) -> Path | None:
        """Path of the model that the pipeline names, from the working directory; or None."""
        return None if self.model is None else self._folder / self.model

    def plugin_folders(self) -> list[Path]:
        """Folders with the user's plugins, from the working directory."""
        return [self._folder / p for p in self.plugin_path]

    @property
    def _folder(self) -> Path:
        return self.path.parent if self.path is not None else Path()


def load_pipeline(name_or_path: str | Path) -> PipelineConfig:
    """Read and check a pipeline file.

    Args:
        name_or_path: A shipped name (``ssd``), or the path of a YAML file.

    Raises:
        ConfigError: there is no such pipeline, it cannot be read, is not YAML, or something in it is wrong;
            all problems at once.
    """
    path = find_pipeline(name_or_path)
    return _check(_extended(load_yaml(path, go_on=True), path, ()), path, {})


def based_on(config: PipelineConfig, name: str) -> PipelineConfig:
    """A pipeline with another shipped one underneath: what the file itself says goes before that.

    Args:
        config: A pipeline that leaves the choice of its base open (``choose: true``).
        name: The shipped pipeline.
    """
    base = load_pipeline(name)
    kept = ("cuts", "profiles", "target", "model", "plugin_path", "batch")
    over = {k: v for k, v in config.source.data.items() if k in kept}
    if not over:
        return base
    own = YamlSource(
        config.source.name,
        over,
        config.source.sha256,
        config.source.keys,
        config.source.values,
        config.source.given,
    )
    path = config.path or base.path
    merged = _check(_merged(base.source, own), path, {})
    return replace(merged, name=base.name, title=base.title, description=base.description)


def _extended(source: YamlSource, path: Path, below: tuple[Path, ...]) -> YamlSource:
    """The file with the pipelines that it extends underneath."""
    wanted = source.data.get("extends")
    if not isinstance(wanted, str):
        return _with_set(source)
    where = source.where(("extends",))
    chain = (*below, path.resolve())
    try:
        base_path = _base_path(path, wanted, chain)
    except ConfigError as error:
        mistake = ConfigError(f"extends: {error.message}", code=error.code, where=where, fix=error.fix)
        base = replace(_every_stage(), mistakes=(mistake,))
    else:
        base = _extended(load_yaml(base_path, go_on=True), base_path, chain)
    return _with_set(_merged(base, source))


def _base_path(path: Path, wanted: str, chain: tuple[Path, ...]) -> Path:
    """The file that another one extends; that one and those above it are the chain."""
    beside = path.parent / wanted
    found = beside if beside.is_file() else find_pipeline(wanted)
    if found.resolve() in chain:
        circle = " -> ".join(p.name for p in (*chain[chain.index(found.resolve()) :], found))
        raise ConfigError(
            f"{wanted!r} extends this file in turn ({circle})",
            code="pipeline-cycle",
            fix="let one of them extend a shipped pipeline: `surgery list pipelines`",
        )
    return found


def _every_stage() -> YamlSource:
    """What stands for stages that are not known, so that the rest of the file can be checked."""
    return YamlSource(None, {"stages": list(STAGES)})


def _merged(base: YamlSource, own: YamlSource) -> YamlSource:
    """What the file says on top of what its base says; places that come from the base point into its file."""
    data = {k: copy.deepcopy(v) for k, v in base.data.items() if k not in _OWN}
    given = {
        loc: f"{base.name}:{line}:{column}"
        for places in (base.values, base.keys)
        for loc, (line, column) in places.items()
        if loc and loc[0] not in _OWN
    }
    given.update({loc: label for loc, label in base.given.items() if loc and loc[0] not in _OWN})
    for key, value in own.data.items():
        named = key in ("cuts", "profiles") and isinstance(value, dict) and isinstance(data.get(key), dict)
        if named:
            data[key] = {**data[key], **value}
        else:
            data[key] = value
        replaced = {(key, name) for name in value} if named else {(key,)}
        given = {loc: label for loc, label in given.items() if not any(loc[: len(r)] == r for r in replaced)}
        if named:
            given.pop((key,), None)
    given.update(own.given)
    digest = hashlib.sha256(f"{base.sha256} {own.sha256}".encode()).hexdigest()
    mistakes = (*base.mistakes, *own.mistakes)
    return YamlSource(own.name, data, digest, own.keys, own.values, given, mistakes)


def _with_set(source: YamlSource) -> YamlSource:
    """The file with what its ``set`` says put into the options of the stages."""
    wanted = source.data.get("set")
    if not isinstance(wanted, dict) or not wanted:
        return source
    known = isinstance(source.data.get("stages"), list)
    data = copy.deepcopy(source.data if known else _every_stage().data)
    labels = {str(key): source.where(("set", key), key=True) or "set" for key in wanted}
    values = {str(key): value for key, value in wanted.items()}
    given, mistakes = _put_all(data, values, labels)
    mistakes = [*source.mistakes, *mistakes]
    if not known:  # which is complained about where the file is checked
        return replace(source, mistakes=tuple(mistakes))
    return replace(source, data=data, given={**source.given, **given}, mistakes=tuple(mistakes))


def _put_all(
    data: dict[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> tuple[dict[Loc, str], list[ConfigError]]:
    """Put values at their keys' places, in place; where they are now, and what cannot be put anywhere."""
    given: dict[Loc, str] = {}
    mistakes = []
    for key, value in values.items():
        try:
            for loc in _override_places(data, key, labels[key]):
                made = _put(data, loc, value, labels[key])
                given.update(dict.fromkeys((loc, made), labels[key]))
        except ConfigError as error:
            mistakes.append(error)
    return given, mistakes


def apply_overrides(config: PipelineConfig, overrides: Mapping[str, Any]) -> PipelineConfig:
    """The pipeline with values changed by key.

    Args:
        config: The pipeline.
        overrides: Key (``build.optimization_level``, ``target``, ``cuts.head.scope``) to value; text is
            read as YAML, as on the command line.

    Raises:
        ConfigError: a key does not exist, or the changed pipeline is not valid.
    """
    if not overrides:
        return config
    data = copy.deepcopy(config.source.data)
    values: dict[str, Any] = {}
    mistakes: list[ConfigError] = []
    for key, raw in overrides.items():
        try:
            values[key] = parse_scalar(raw) if isinstance(raw, str) else raw
        except ConfigError as error:
            mistakes.append(
                ConfigError(
                    error.message,
                    code="bad-override",
                    where=f"--set {key}",
                    fix="put text with : or # in quotes",
                )
            )
    given, more = _put_all(data, values, {key: f"--set {key}" for key in values})
    source = replace(
        config.source, data=data, given={**config.source.given, **given}, mistakes=(*mistakes, *more)
    )
    return _check(source, config.path, {**config.overrides, **values})


def profile_problem(profile: Range) -> tuple[str, int | None, str] | None:
    """What is wrong with a shape range: which of min, opt, max, which axis, and why; or None."""
    low, best, high = profile
    for key, shape in (("opt", best), ("max", high)):
        if len(shape) != len(low):
            return key, None, f"has rank {len(shape)}, but min has rank {len(low)}"
    for axis, (a, b, c) in enumerate(zip(low, best, high, strict=True)):
        if a < 1:
            return "min", axis, f"min {a} is below 1 in dimension {axis}"
        if a > b:
            return "min", axis, f"min {a} is greater than opt {b} in dimension {axis}"
        if b > c:
            return "opt", axis, f"opt {b} is greater than max {c} in dimension {axis}"
    return None


# -- stages ---------------------------------------------------------------------------------------------


@cache
def stage_adapter(name: str) -> TypeAdapter[Stage]:
    """What validates the options of a stage.

    Raises:
        KeyError: there is no such stage.
    """
    module, _, attribute = STAGES[name].partition(":")
    return TypeAdapter(getattr(importlib.import_module(module), attribute))


def _check(source: YamlSource, path: Path | None, overrides: Mapping[str, Any]) -> PipelineConfig:
    checker = Checker(source)
    file = checker.validate(TypeAdapter(PipelineFile), source.data, ())
    stages = _stages(checker, source.data.get("stages"))
    _check_cuts(checker, _sound(CutSpec, source.data.get("cuts")))
    _check_profiles(checker, _sound(Profile, source.data.get("profiles")), source.data.get("profiles"))
    if len(source.mistakes) == 1 and not checker.problems:
        raise source.mistakes[0]
    codes = {"bad-pipeline"} if checker.problems else {error.code for error in source.mistakes}
    checker.problems += [Problem.of(error) for error in source.mistakes]
    if checker.problems or file is None:
        code = codes.pop() if len(codes) == 1 else "bad-pipeline"
        raise ConfigProblemsError(checker.sorted(), code=code)
    return PipelineConfig(
        name=file.name or (path.stem if path else "pipeline"),
        title=file.title,
        description=file.description,
        choose=file.choose,
        batch=file.batch,
        model=file.model,
        target=file.target,
        plugin_path=file.plugin_path,
        cuts=file.cuts,
        profiles=file.profiles,
        stages=tuple(stages),
        path=path,
        sha256=_digest(source.sha256, overrides),
        overrides=overrides,
        source=source,
    )


def _digest(source: str, overrides: Mapping[str, Any]) -> str:
    """Runs with different overrides are runs of different pipelines."""
    if not overrides:
        return source
    return hashlib.sha256(f"{source} {json.dumps(overrides, sort_keys=True)}".encode()).hexdigest()


def _stages(checker: Checker, entries: Any) -> list[Stage]:
    """Build the stages; entries of the wrong kind have been complained about by the file's own model."""
    stages: list[Stage] = []
    seen: list[str] = []
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        loc: Loc = ("stages", i)
        options: Any
        if isinstance(entry, str):
            name, options = entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            name, options = next(iter(entry.items()))
            loc = (*loc, name)
        elif isinstance(entry, dict):
            found = ", ".join(map(repr, entry)) or "nothing"
            checker.add(
                loc, f"each item of stages names one stage, this one has {found}; indent the options below it"
            )
            continue
        else:
            continue
        if name not in STAGES:
            hint = _near(name, STAGES) or f"stages: {', '.join(STAGES)}"
            checker.add(loc, f"unknown stage {name!r}; {hint}", key=True)
            continue
        _check_order(checker, loc, name, seen)
        seen.append(name)
        stage = checker.validate(stage_adapter(name), {} if options is None else options, loc)
        if stage is not None:
            stages.append(stage)
    return stages


def _check_order(checker: Checker, loc: Loc, name: str, seen: Sequence[str]) -> None:
    rank = _LAST.index(name) if name in _LAST else -1
    for earlier in seen:
        if earlier in _LAST and _LAST.index(earlier) >= rank:
            text = "is here twice" if earlier == name else f"must come before {earlier!r}"
            checker.add(loc[:2], f"the stage {name!r} {text}")
            return


def _sound(model: type[M], entries: Any) -> dict[str, M]:
    """The entries of a mapping that are valid by themselves; the others have been complained about."""
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        with contextlib.suppress(ValidationError):
            found[name] = model.model_validate_json(json.dumps(entry), strict=True)
    return found


def _check_cuts(checker: Checker, cuts: Mapping[str, CutSpec]) -> None:
    for name, cut in cuts.items():
        boundary = bool(cut.inputs or cut.outputs)
        if boundary == bool(cut.scope):
            found = "has both" if boundary else "has neither"
            checker.add(
                ("cuts", name),
                f"cuts.{name}: a cut is given by scope or by boundary (inputs and outputs); this one {found}",
                key=True,
            )
        elif boundary and cut.grow != "none":
            checker.add(("cuts", name, "grow"), f"cuts.{name}.grow: goes with scope only", key=True)


def _check_profiles(checker: Checker, profiles: Mapping[str, Profile], entries: Any) -> None:
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if name in profiles or not isinstance(entry, dict):
            continue
        # Something in it is wrong, and has been complained about; its ranks can be compared all the same.
        lists = {key: entry[key] for key in ("min", "opt", "max") if isinstance(entry.get(key), list)}
        ranks = {len(value) for value in lists.values()}
        if len(ranks) > 1:
            said = ", ".join(f"{key} has rank {len(value)}" for key, value in lists.items())
            checker.add(("profiles", name), f"profiles.{name}: {said}; give all three one rank", key=True)
    for name, profile in profiles.items():
        found = profile_problem(profile.range)
        if found is not None:
            key, axis, message = found
            loc: Loc = ("profiles", name, key) if axis is None else ("profiles", name, key, axis)
            checker.add(loc, f"profiles.{name}.{key}: {message}")


# -- overrides ------------------------------------------------------------------------------------------


def _override_places(data: dict[str, Any], key: str, label: str) -> list[Loc]:
    """Where a key of --set lies in the file: one place, or one for each stage of that name."""
    head, *rest = key.split(".")
    if not head or not all(rest):
        raise ConfigError(
            f"not a key: {key!r}", code="bad-override", where=label, fix="write STAGE.OPTION: build.tf32"
        )
    if head not in STAGES:
        known = [f.alias or n for n, f in PipelineFile.model_fields.items()]
        if head in known:
            return [(head, *rest)]
        hint = _near(head, [*STAGES, *known]) or f"stages: {', '.join(STAGES)}; keys: {', '.join(known)}"
        raise ConfigError(f"neither a stage nor a key: {head!r}", code="bad-override", where=label, fix=hint)
    if not rest:
        raise ConfigError(
            f"{head!r} is a stage; name an option of it",
            code="bad-override",
            where=label,
            fix=f"`surgery show stages {head}` lists them",
        )
    places: list[Loc] = []
    for i, entry in enumerate(data["stages"]):
        if entry == head:
            data["stages"][i] = {head: {}}
        if isinstance(data["stages"][i], dict) and head in data["stages"][i]:
            places.append(("stages", i, head, *rest))
    if not places:
        found = [next(iter(e)) if isinstance(e, dict) and e else str(e) for e in data["stages"]]
        raise ConfigError(
            f"this pipeline has no stage {head!r}",
            code="bad-override",
            where=label,
            fix=f"its stages: {', '.join(found)}",
        )
    return places


def _put(data: dict[str, Any], loc: Loc, value: Any, label: str) -> Loc:
    """Put a value at a place; the place of the outermost mapping that had to be made for it, or the value's own."""
    node: Any = data
    made: Loc = loc
    for depth, part in enumerate(loc[:-1], 1):
        if isinstance(node, dict) and node.get(str(part)) is None:
            node[str(part)] = {}
            made = min(made, loc[:depth], key=len)
        node = node[part]
        if not isinstance(node, (dict, list)):
            raise ConfigError(
                f"{part!r} has no keys below it", code="bad-override", where=label, fix=f"set {part!r} itself"
            )
    if not isinstance(node, dict):
        raise ConfigError(
            f"{loc[-2]!r} is a list; set it as a whole",
            code="bad-override",
            where=label,
            fix=f"write it below its own key, {loc[0]}:, in a pipeline file",
        )
    node[str(loc[-1])] = value
    return made


def _near(name: str, known: Sequence[str] | Mapping[str, Any]) -> str | None:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {found[0]!r}?" if found else None
