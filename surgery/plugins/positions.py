"""YAML read with positions, and Pydantic's complaints turned into file:line:column."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from surgery.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def load_yaml(path: Path) -> Any:
    """The file's content; mappings and lists remember where they stood.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    try:
        return YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"not valid YAML: {error.problem}", code="bad-yaml", where=where) from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", code="unreadable", where=str(path)) from error


def validate(model: type[M], data: Any, path: Path) -> M:
    """Validate loaded YAML against a Pydantic model.

    Raises:
        ConfigError: with position, the first complaint as message and the others as cause.
    """
    try:
        return model.model_validate(_plain(data))
    except ValidationError as error:
        texts = [_describe(data, e, path) for e in error.errors()]
        where, message = texts[0]
        rest = "; ".join(f"{w}: {m}" for w, m in texts[1:]) or None
        raise ConfigError(message, code="bad-definition", where=where, cause=rest) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):  # ruamel's scalar classes derive from these
        if isinstance(value, kind):
            return kind(value)
    return value


def _describe(data: Any, error: Any, path: Path) -> tuple[str, str]:
    loc = tuple(error["loc"])
    line, column, siblings = _position(data, loc)
    name = ".".join(str(part) for part in loc) or "the file"
    message = f"{name}: {error['msg']}"
    if error["type"] == "extra_forbidden" and loc:
        known = siblings - {str(loc[-1])}
        near = difflib.get_close_matches(str(loc[-1]), sorted(known | _field_names(error)), n=1)
        message = f"unknown key {loc[-1]!r} in {'.'.join(map(str, loc[:-1])) or 'the file'}"
        if near:
            message += f"; did you mean {near[0]!r}?"
    return f"{path}:{line}:{column}", message


def _field_names(error: Any) -> set[str]:
    return set((error.get("ctx") or {}).get("fields", ()))


def _position(data: Any, loc: tuple[Any, ...]) -> tuple[int, int, set[str]]:
    """1-based line and column of the deepest part of `loc` that exists, and the keys beside it."""
    line, column = 0, 0
    siblings: set[str] = set()
    node = data
    for part in loc:
        marks = getattr(node, "lc", None)
        try:
            if isinstance(node, dict):
                siblings = {str(k) for k in node}
                if marks is not None and part in node:
                    line, column = marks.key(part)
                node = node[part]
            elif isinstance(node, list):
                if marks is not None:
                    line, column = marks.item(part)
                node = node[part]
            else:
                break
        except (KeyError, IndexError, TypeError):
            break
    return line + 1, column + 1, siblings
