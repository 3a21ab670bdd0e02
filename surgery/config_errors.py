"""Pydantic's complaints in the words of the file: position, key, what was expected, what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from surgery.text import did_you_mean
from surgery.yaml_source import Loc, Problem, YamlSource

T = TypeVar("T")

_EXPECTED = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping of keys and values",
    "an object": "a mapping of keys and values",
    "null": "nothing (null)",
    "None": "nothing (null)",
}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument")


class Checker:
    """Validates parts of a file and collects what is wrong with them.

    Args:
        source: The file.
    """

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def add(self, loc: Loc, message: str, *, key: bool = False) -> None:
        """Note a problem at a place of the file; `key` points at the key rather than at its value."""
        where = self.source.where(loc, key=key)
        if where is not None and where.startswith("--set "):
            message = message.removeprefix(f"{where.removeprefix('--set ')}: ")
        self.problems.append(Problem(where, message))

    def sorted(self) -> list[Problem]:
        """The problems in the order of the file; those of a file that it extends come after."""

        def place(problem: Problem) -> tuple[bool, str, tuple[int, ...]]:
            name, *parts = (problem.where or "").rsplit(":", 2)
            return name != self.source.name, name, tuple(int(p) for p in parts if p.isdigit())

        return sorted(dict.fromkeys(self.problems), key=place)

    def validate(self, adapter: TypeAdapter[T], data: Any, loc: Loc) -> T | None:
        """Validate plain values; None if something is wrong, which is then noted.

        Strict, by JSON's rules: ``"3"`` is not a number, ``1`` is not true, a list fits a tuple.
        """
        try:
            return adapter.validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            schema = adapter.json_schema()
            grouped: dict[Loc, list[Any]] = {}
            for item in error.errors(include_url=False):
                grouped.setdefault(_inside(data, item["loc"]), []).append(item)
            for inner, items in grouped.items():
                self._describe(schema, loc, inner, items)
        return None

    def _describe(self, schema: Mapping[str, Any], outer: Loc, inner: Loc, items: list[Any]) -> None:
        loc = (*outer, *inner)
        kinds = [item["type"] for item in items]
        name = key_path(loc)
        if any(kind in _UNKNOWN for kind in kinds):
            known = allowed_keys(schema, inner[:-1])
            self.add(loc, f"{name}: unknown key; {suggest(str(inner[-1]), known)}", key=True)
        elif all(kind in _MISSING for kind in kinds):
            self.add(loc, f"{name}: missing", key=True)
        else:
            self.add(loc, f"{name}: {_expectation(items)}")


def key_path(loc: Loc) -> str:
    """How to name a place of the file, as ``--set`` does: options of a stage go by the stage's name."""
    parts = loc[2:] if len(loc) > 2 and loc[0] == "stages" else loc
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def suggest(name: str, known: list[str]) -> str:
    """The near name, or all names if none is near."""
    return did_you_mean(name, known) or (f"known keys: {', '.join(known)}" if known else "there are none")


def allowed_keys(schema: Mapping[str, Any], loc: Loc) -> list[str]:
    """The keys that a JSON schema allows at a place."""
    keys: dict[str, None] = {}
    for node in _at(schema, schema, loc):
        keys.update(dict.fromkeys(node.get("properties", ())))
    return list(keys)


def _at(root: Mapping[str, Any], node: Any, loc: Loc) -> Iterator[Mapping[str, Any]]:
    if not isinstance(node, Mapping):
        return
    if "$ref" in node:
        yield from _at(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]], loc)
        return
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from _at(root, choice, loc)
    if not loc:
        yield node
        return
    head, rest = loc[0], loc[1:]
    if isinstance(head, int):
        yield from _at(root, node.get("items"), rest)
    elif head in node.get("properties", {}):
        yield from _at(root, node["properties"][head], rest)
    else:
        yield from _at(root, node.get("additionalProperties"), rest)


def _inside(data: Any, loc: Loc) -> Loc:
    """The parts of a Pydantic location that exist in the data; the rest names choices of a union.

    The last part stays if it names a key that is missing.
    """
    kept: list[str | int] = []
    for i, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (isinstance(data, dict) and i == len(loc) - 1 and isinstance(part, str)):
            continue
        kept.append(part)
    return tuple(kept)


def _expectation(items: list[Any]) -> str:
    texts: dict[str, None] = {}
    others: dict[str, None] = {}
    near = ""
    for item in items:
        message = item["msg"]
        if message.startswith("Input should be "):
            text = message.removeprefix("Input should be ")
            texts[_EXPECTED.get(text, text)] = None
            near = near or _near_choice(item)
        else:
            text = message.removeprefix("Value error, ")
            others[text[:1].lower() + text[1:]] = None
    if not texts:
        return "; ".join(others)
    return f"must be {' or '.join(texts)}, got {show(items[0]['input'])}{near}"


def _near_choice(item: Any) -> str:
    value = item["input"]
    if item["type"] == "literal_error" and isinstance(value, str):
        choices = item["ctx"]["expected"].replace(" or ", ", ").split(", ")
        asked = did_you_mean(value, [c.strip("'") for c in choices])
        return f"; {asked}" if asked else ""
    if item["type"] == "bool_type" and str(value).lower() in ("yes", "no", "on", "off"):
        return f"; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    return ""


def show(value: Any) -> str:
    """A value as the user wrote it, short, with its kind where that is what is wrong."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(repr, value)) or 'no keys'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"the text {value!r}" if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
