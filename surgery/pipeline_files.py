"""Finding pipeline files: the shipped ones by name, others by path."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from surgery._data_dirs import shipped_dir
from surgery.errors import ConfigError
from surgery.text import did_you_mean

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ShippedPipeline:
    """A pipeline that comes with the package."""

    name: str
    title: str
    path: Path


def list_pipelines() -> list[ShippedPipeline]:
    """The shipped pipelines, sorted by name. Reads their titles, and checks nothing else.

    Raises:
        ConfigError: a shipped file is not YAML.
    """
    from surgery.yaml_source import load_yaml

    return [ShippedPipeline(p.stem, str(load_yaml(p).data.get("title", "")), p) for p in _shipped()]


def find_pipeline(name_or_path: str | Path) -> Path:
    """The file of a pipeline.

    Args:
        name_or_path: A shipped name (``ssd``), or the path of a YAML file. A bare word is a name first.

    Raises:
        ConfigError: there is none; near names are suggested.
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    is_word = os.sep not in text and (os.altsep or os.sep) not in text and path.suffix not in _ENDINGS
    shipped = {p.stem: p for p in _shipped()}
    if is_word and text in shipped:
        return shipped[text]
    if path.is_file():
        if path.suffix in (".onnx", ".pb"):
            raise ConfigError(
                "a model, not a pipeline",
                code="pipeline-not-found",
                where=text,
                fix=f"name a pipeline first: surgery run auto {shlex.quote(text)}",
            )
        return path
    if path.is_dir():
        there = [str(p) for p in _yaml_files(path)]
        raise ConfigError(
            "a folder, not a pipeline file",
            code="pipeline-not-found",
            where=text,
            fix=f"pipeline files in it: {', '.join(there)}" if there else "see `surgery list pipelines`",
        )
    if is_word:
        raise ConfigError(
            f"no pipeline named {text!r}",
            code="pipeline-not-found",
            fix=did_you_mean(text, shipped)
            or f"shipped pipelines: {', '.join(shipped) or 'none'}; or give the path of a YAML file",
        )
    beside = [p.name for p in _yaml_files(path.parent)] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    raise ConfigError(
        "no such pipeline file",
        code="pipeline-not-found",
        where=text,
        fix=f"did you mean {str(path.parent / close[0])!r}?" if close else None,
    )


def _shipped() -> list[Path]:
    return _yaml_files(shipped_dir("pipelines"))


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in _ENDINGS and p.is_file())
