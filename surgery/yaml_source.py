"""YAML read into plain values, with the line and column of every key and value."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from surgery.errors import ConfigError

Loc = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""

_TAG = "tag:yaml.org,2002:"
_MAX_VALUES = 100_000  # aliases can make a small file expand without end


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file or an option, and where."""

    where: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    @classmethod
    def of(cls, error: ConfigError) -> Problem:
        """What an error says, with what to do about it."""
        return cls(error.where, f"{error.message}; {error.fix}" if error.fix else error.message)


class ConfigProblemsError(ConfigError):
    """Everything found wrong at once; the first problem is the error's place and message."""

    def __init__(self, problems: Iterable[Problem], *, code: str, fix: str | None = None) -> None:
        self.problems = tuple(problems)
        first, *rest = self.problems
        message = "\n".join([first.message, *map(str, rest)])
        super().__init__(message, code=code, where=first.where, fix=fix)


@dataclass(frozen=True)
class YamlSource:
    """A mapping read from YAML, or given by a program.

    Attributes:
        name: The file as the user knows it, or None if the mapping did not come from a file.
        data: Plain values: dict with text keys, list, str, int, float, bool, None.
        sha256: Of the file's bytes.
        keys: Position (line and column, from 1) of each key.
        values: Position of each value.
        given: Places that hold a value from elsewhere (an option), and what to call it.
        mistakes: What was found wrong while it was put together; checking goes on, so that all is said at once.
    """

    name: str | None
    data: dict[str, Any]
    sha256: str = ""
    keys: Mapping[Loc, tuple[int, int]] = field(default_factory=dict)
    values: Mapping[Loc, tuple[int, int]] = field(default_factory=dict)
    given: Mapping[Loc, str] = field(default_factory=dict)
    mistakes: tuple[ConfigError, ...] = ()

    def where(self, loc: Loc, *, key: bool = False) -> str | None:
        """``FILE:LINE:COLUMN`` of a value, or of the nearest thing around it that the file has.

        Args:
            loc: The value's place.
            key: Prefer the position of its key.
        """
        places = [loc[:end] for end in range(len(loc), 0, -1)]
        for place in places:
            if place in self.given:
                return self.given[place]
        for place in places:
            if place in self.keys or place in self.values:
                break
            for other, label in self.given.items():
                if other[: len(place)] == place:
                    return label
        if self.name is None:
            return None
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        for end in range(len(loc), 0, -1):
            position = first.get(loc[:end]) or second.get(loc[:end])
            if position:
                return f"{self.name}:{position[0]}:{position[1]}"
            # Something is missing in what follows: its key says where.
            first, second = self.keys, self.values
        return f"{self.name}:1:1"


def load_yaml(path: Path, *, go_on: bool = False) -> YamlSource:
    """Read a YAML file that holds one mapping.

    Args:
        path: The file.
        go_on: Keys that are there twice and values that are not plain data are left to the caller, as mistakes of
            what is returned.

    Raises:
        ConfigError: it cannot be read, is not YAML 1.2, is empty, holds something else than a mapping, has
            a key twice, or a value that is not plain data; with line and column.
    """
    name = str(path)
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"not UTF-8 text (byte {error.start} cannot be read)", code="yaml-unreadable", where=name
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", code="yaml-unreadable", where=name) from error
    root = _compose(text, name)
    if root is None:
        raise ConfigError("the file is empty", code="yaml-empty", where=f"{name}:1:1")
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else f"the text {root.value!r}"
        raise ConfigError(
            f"must hold keys and values, but holds {kind}",
            code="yaml-not-a-mapping",
            where=f"{name}:{_place(root.start_mark)}",
        )
    reader = _Reader(name)
    data = reader.mapping(root, (), ())
    if reader.problems and not go_on:
        raise ConfigProblemsError(reader.problems, code="yaml-invalid")
    mistakes = tuple(ConfigError(p.message, code="yaml-invalid", where=p.where) for p in reader.problems)
    digest = hashlib.sha256(raw).hexdigest()
    return YamlSource(name, data, digest, reader.keys, reader.values, mistakes=mistakes)


def parse_scalar(text: str) -> Any:
    """A value written on the command line, read as YAML: ``3``, ``1e-4``, ``true``, ``[1, 3]``, ``text``.

    Raises:
        ConfigError: it is not YAML, or not plain data.
    """
    root = _compose(text, None)
    if root is None:
        return None
    reader = _Reader(None)
    value = reader.value(root, (), ())
    if reader.problems:
        raise ConfigProblemsError(reader.problems, code="yaml-invalid")
    return value


def _compose(text: str, name: str | None) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{_place(mark)}" if name and mark else name
        message = error.problem or error.context or "cannot be parsed"
        hint = None
        if "cannot start any token" in message and "\\t" in message:
            hint = "indent with spaces"
        elif "mapping values are not allowed" in message:
            hint = "put text that contains ': ' in quotes, or check the indentation"
        raise ConfigError(f"not valid YAML: {message}", code="yaml-syntax", where=place, fix=hint) from error
    except YAMLError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"not valid YAML: {first}", code="yaml-syntax", where=name) from error
    return node


def _place(mark: StringMark) -> str:
    return f"{mark.line + 1}:{mark.column + 1}"


class _Reader:
    """Turns composed nodes into plain values and collects positions and problems."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.keys: dict[Loc, tuple[int, int]] = {}
        self.values: dict[Loc, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._scalars = YAML(typ="safe", pure=True).constructor

    def complain(self, mark: StringMark, message: str) -> None:
        place = f"{self.name}:{_place(mark)}" if self.name else None
        self.problems.append(Problem(place, message))

    def value(self, node: Node, loc: Loc, parents: tuple[int, ...]) -> Any:
        self.values[loc] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._count += 1
        if self._count > _MAX_VALUES:
            raise ConfigError(
                f"has more than {_MAX_VALUES} values once its aliases are expanded",
                code="yaml-too-large",
                where=self.name,
            )
        if id(node) in parents:
            self.complain(node.start_mark, "an alias that contains itself")
            return None
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self.mapping(node, loc, parents)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            inner = (*parents, id(node))
            return [self.value(child, (*loc, i), inner) for i, child in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        self.complain(node.start_mark, f"the tag {node.tag!r} is not allowed here")
        return None

    def scalar(self, node: ScalarNode) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        if kind in ("str", "timestamp", "merge"):
            return str(node.value)
        if kind in ("int", "float", "bool", "null"):
            try:
                return self._scalars.construct_object(node)
            except ValueError:
                self.complain(node.start_mark, f"{node.value!r} is not a valid {kind}")
                return None
        self.complain(node.start_mark, f"the tag {node.tag!r} is not allowed here")
        return None

    def mapping(self, node: MappingNode, loc: Loc, parents: tuple[int, ...]) -> dict[str, Any]:
        if not loc:
            self.values[loc] = (node.start_mark.line + 1, node.start_mark.column + 1)
        inner = (*parents, id(node))
        result: dict[str, Any] = {}
        merged: list[Node] = []
        for key, child in node.value:
            if not isinstance(key, ScalarNode):
                self.complain(key.start_mark, "a key must be text")
                continue
            if key.tag == f"{_TAG}merge":
                merged += child.value if isinstance(child, SequenceNode) else [child]
                continue
            name = str(key.value)  # as written: tensor names may look like numbers
            place = (*loc, name)
            if name in result:
                line, column = self.keys[place]
                self.complain(key.start_mark, f"the key {name!r} is here twice; first at {line}:{column}")
                continue
            self.keys[place] = (key.start_mark.line + 1, key.start_mark.column + 1)
            result[name] = self.value(child, place, inner)
        for base in merged:
            if not isinstance(base, MappingNode) or id(base) in inner:
                self.complain(base.start_mark, "only keys and values of another mapping can be merged (<<)")
                continue
            kept_keys, kept_values = dict(self.keys), dict(self.values)
            for name, value in self.mapping(base, (*loc, "<<"), inner).items():
                if name not in result:
                    result[name] = value
                    self._graft(loc, name, kept_keys, kept_values)
            self.keys, self.values = kept_keys, kept_values
        return result

    def _graft(
        self,
        loc: Loc,
        name: str,
        keys: dict[Loc, tuple[int, int]],
        values: dict[Loc, tuple[int, int]],
    ) -> None:
        """Positions of a merged key, found while reading its source, become those of the merged place."""
        prefix = (*loc, "<<", name)
        for source, target in ((self.keys, keys), (self.values, values)):
            for place, position in source.items():
                if place[: len(prefix)] == prefix:
                    moved = (*loc, name, *place[len(prefix) :])
                    target[moved] = position
