"""Pipelines: one YAML file per model family, checked before anything runs.

:class:`PipelineFile` is what the file may say, :class:`PipelineConfig` what a run gets: paths resolved, every
stage built from its options. Whatever is wrong is reported at once, each with file, line and column.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from surgery.config_errors import Checker
from surgery.config_file import Batch, CutSpec, PipelineFile, Profile, Range, profile_problem
from surgery.config_layers import extended, merged, put_all
from surgery.errors import ConfigError
from surgery.pipeline_files import find_pipeline, list_pipelines
from surgery.stages import STAGES
from surgery.text import did_you_mean
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

_LAST = ("parse", "build", "verify", "save")
"""Stages that come once and in this order, after all others."""


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
    return _check(extended(load_yaml(path, go_on=True), path), path, {})


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
    both = _check(merged(base.source, own), path, {})
    return replace(both, name=base.name, title=base.title, description=base.description)


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
    given, more = put_all(data, values, {key: f"--set {key}" for key in values})
    source = replace(
        config.source, data=data, given={**config.source.given, **given}, mistakes=(*mistakes, *more)
    )
    return _check(source, config.path, {**config.overrides, **values})


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
            hint = did_you_mean(name, STAGES) or f"stages: {', '.join(STAGES)}"
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
