"""What lies on top of what: a pipeline file on those that it extends, ``set`` and ``--set`` on both."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.config_file import PipelineFile
from surgery.errors import ConfigError
from surgery.pipeline_files import find_pipeline
from surgery.stages import STAGES
from surgery.text import did_you_mean
from surgery.yaml_source import Loc, YamlSource, load_yaml

_OWN = ("name", "title", "description", "extends", "set", "choose")
"""Keys that a pipeline does not hand on to one that extends it."""


def extended(source: YamlSource, path: Path, below: tuple[Path, ...] = ()) -> YamlSource:
    """The file with the pipelines that it extends underneath; what is wrong with those is among its mistakes.

    Args:
        source: The file as it was read.
        path: Where it lies.
        below: Files that are being read because one extends the other, down to this one.
    """
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
        base = extended(load_yaml(base_path, go_on=True), base_path, chain)
    return _with_set(merged(base, source))


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


def merged(base: YamlSource, own: YamlSource) -> YamlSource:
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
    given, mistakes = put_all(data, values, labels)
    mistakes = [*source.mistakes, *mistakes]
    if not known:  # which is complained about where the file is checked
        return replace(source, mistakes=tuple(mistakes))
    return replace(source, data=data, given={**source.given, **given}, mistakes=tuple(mistakes))


def put_all(
    data: dict[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> tuple[dict[Loc, str], list[ConfigError]]:
    """Put values at their keys' places, in place; where they are now, and what cannot be put anywhere.

    Args:
        data: What the file says.
        values: Key, as ``--set`` takes it, to value.
        labels: Key to where it was said, for errors.
    """
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
        hint = (
            did_you_mean(head, [*STAGES, *known]) or f"stages: {', '.join(STAGES)}; keys: {', '.join(known)}"
        )
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
