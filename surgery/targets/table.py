"""Capability tables and the choice of a target.

A version without a table of its own uses the newest older one of its flavour, and says so; a version older
than all tables uses the oldest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from surgery.errors import ConfigError
from surgery.trt.types import Flavour

EXTRA_TARGETS = ("tensorrt-rtx-1.6", "tensorrt-11.4")
"""Versions that are known to exist and work but have no table of their own."""

NEWER = 1
"""Major versions ahead of the newest known one that may have come out since; what is beyond is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class OperatorEntry:
    """What a target does with an ONNX operator.

    Attributes:
        supported: Whether parser and builder take it at all.
        dtypes: Element types it takes, as the tables name them (FP32, INT64...); empty if unknown.
        restrictions: What else is known, or "".
        refused_at: The step that refuses it where parser and builder differ (``parse``, ``build``).
    """

    supported: bool
    dtypes: tuple[str, ...]
    restrictions: str
    refused_at: str | None = None


@dataclass(frozen=True, slots=True)
class PluginField:
    """An attribute of a plugin: name, type (``int32``, ``float32[4]``), meaning."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """A plugin of TensorRT's own library, for one target.

    Attributes:
        name: Its op_type.
        versions: Plugin versions that the target ships; empty if it ships none.
        interface: Plugin version to C++ interface.
        attributes: Fields that its creator reads.
        inputs: What it reads.
        outputs: What it makes.
        deprecated_in: TensorRT version, or None.
        removed_in: TensorRT version, or None.
        replacement: What to use instead, or None.
        notes: Anything else, or None.
    """

    name: str
    versions: tuple[str, ...]
    interface: Mapping[str, str]
    attributes: tuple[PluginField, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    deprecated_in: str | None
    removed_in: str | None
    replacement: str | None
    notes: str | None

    @property
    def available(self) -> bool:
        """Whether the target ships it."""
        return bool(self.versions)


@dataclass(frozen=True, slots=True)
class Target:
    """A TensorRT that a run is for.

    Attributes:
        name: ``tensorrt-rtx-1.7``, ``tensorrt-10.16``.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        version: Major and minor.
        installed: Whether this very version can be imported here.
        installed_version: The full version that is installed, if it is this one.
        table: Name of the table used.
        table_exact: Whether that table is of this version.
    """

    name: str
    flavour: Flavour
    version: str
    installed: bool
    installed_version: str | None
    table: str
    table_exact: bool
    _operators: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @property
    def note(self) -> str:
        """What to say where the table is of another version; empty where it is not."""
        return (
            ""
            if self.table_exact
            else f"{self.name} has no table of its own; the one of {self.table} is used"
        )

    def operator(self, op_type: str) -> OperatorEntry | None:
        """The entry of an operator of the default domain, or None if the table does not know it."""
        entry = self._operators.get(op_type)
        if entry is None:
            return None
        return OperatorEntry(
            entry["supported"],
            tuple(entry["dtypes"]),
            entry.get("restrictions", ""),
            entry.get("refused_at"),
        )

    def plugin(self, name: str) -> PluginEntry | None:
        """The entry of a plugin of TensorRT's own library, or None if there is none of that name."""
        entry = _plugins().get(name)
        if entry is None:
            return None
        versions: tuple[str, ...] = ()
        if self.flavour == "tensorrt":
            tables = {_numbers(v): names for v, names in entry.get("versions", {}).items()}
            older = [v for v in tables if v <= _numbers(self.version)]
            versions = tuple(tables[max(older)]) if older else ()
        fields = tuple(
            PluginField(a["name"], a["type"], a.get("meaning", "")) for a in entry.get("attributes", ())
        )
        return PluginEntry(
            name,
            versions,
            entry.get("interface", {}),
            fields,
            tuple(entry.get("inputs", ())),
            tuple(entry.get("outputs", ())),
            _text(entry.get("deprecated_in")),
            _text(entry.get("removed_in")),
            entry.get("replacement"),
            entry.get("notes"),
        )

    def plugins(self) -> list[PluginEntry]:
        """The plugins that the target ships, by name."""
        entries = (self.plugin(n) for n in sorted(_plugins()))
        return [e for e in entries if e is not None and e.available]

    def operators(self) -> dict[str, OperatorEntry]:
        """All operators that the table knows."""
        return {n: e for n in sorted(self._operators) if (e := self.operator(n)) is not None}

    def summary(self) -> dict[str, Any]:
        """Counts for an overview."""
        operators = self.operators().values()
        plugins = self.plugins()
        return {
            "name": self.name,
            "installed": self.installed_version if self.installed else None,
            "table": self.table,
            "operators": sum(e.supported for e in operators),
            "restricted": sum(e.supported and bool(e.restrictions) for e in operators),
            "refused": sum(not e.supported for e in operators),
            "plugins": len(plugins),
            "deprecated_plugins": sum(
                p.deprecated_in is not None and _numbers(p.deprecated_in) <= _numbers(self.version)
                for p in plugins
            ),
        }


def _text(value: Any) -> str | None:
    """A version; where plugin versions differ, the one of the last plugin version."""
    if isinstance(value, dict):
        value = next((v for v in reversed(list(value.values())) if v), None)
    return str(value) if value else None


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Any]]:
    text = resources.files("surgery.targets").joinpath("data/operators.json").read_text("utf-8")
    tables: dict[str, dict[str, Any]] = json.loads(text)["tables"]
    return tables


@lru_cache(maxsize=1)
def _plugins() -> dict[str, Any]:
    text = resources.files("surgery.targets").joinpath("data/plugins.json").read_text("utf-8")
    plugins: dict[str, Any] = json.loads(text)["plugins"]
    return plugins


def _numbers(version: str) -> tuple[int, ...]:
    digits = []
    for part in version.split()[0].split("."):
        number = "".join(c for c in part if c.isdigit())
        if not number:
            break
        digits.append(int(number))
    return tuple(digits[:2])


def _split(name: str) -> tuple[Flavour, str] | None:
    for flavour in ("tensorrt-rtx", "tensorrt"):
        if name == flavour:
            return flavour, ""
        if name.startswith(f"{flavour}-"):
            rest = name[len(flavour) + 1 :]
            if rest and all(p.isdigit() for p in rest.split(".")):
                return flavour, rest
    return None


def known_targets() -> list[str]:
    """Targets with a table, those known to work by an older table, and what is installed; sorted."""
    from surgery.trt.session import installed_flavours

    names = {*_tables(), *EXTRA_TARGETS}
    names.update(f"{f}-{_short(v)}" for f, v in installed_flavours().items())
    return sorted(names, key=lambda n: (n.startswith("tensorrt-rtx"), _numbers(n.rsplit("-", 1)[1])))


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _unknown(name: str) -> ConfigError:
    near = likely_targets(name)
    return ConfigError(
        f"unknown target {name!r}",
        code="unknown-target",
        where="--target",
        fix=f"did you mean {' or '.join(near)}? All of them: surgery list targets",
    )


def likely_targets(name: str) -> list[str]:
    """Targets that may have been meant: of the flavour and version in the name, installed and new ones first.

    Args:
        name: What was written: ``trt``, ``rtx-1.7``, ``TensorRT10``.
    """
    from surgery.trt.session import installed_flavours

    here = {f"{f}-{_short(v)}" for f, v in installed_flavours().items()}
    text = name.lower()
    digits = re.findall(r"\d+", text)
    newest = sorted(known_targets(), key=lambda n: _numbers(n.rsplit("-", 1)[1]), reverse=True)
    fits = [n for n in newest if ("rtx" in n) == ("rtx" in text)]
    if "rtx" not in text:
        fits += [n for n in newest if n in here and n not in fits]
    for count in range(len(digits), 0, -1):
        same = [n for n in fits if re.findall(r"\d+", n)[:count] == digits[:count]]
        if same:
            fits = same
            break
    return sorted(fits, key=lambda n: n not in here)[:3]


def resolve_target(name: str | None = None) -> Target:
    """The target of that name.

    Args:
        name: ``FLAVOUR-MAJOR.MINOR``; ``FLAVOUR`` or ``FLAVOUR-MAJOR`` take the installed version if it fits,
            else the newest known. None takes what is installed: ``tensorrt``, else ``tensorrt-rtx``.

    Raises:
        ConfigError: no such target.
    """
    from surgery.trt.session import installed_flavours

    installed = installed_flavours()
    if name is None:
        flavour: Flavour = "tensorrt" if "tensorrt" in installed else "tensorrt-rtx"
        wanted = ""
    else:
        parts = _split(name)
        if parts is None:
            raise _unknown(name)
        flavour, wanted = parts
    have = installed.get(flavour)
    tables = {_numbers(t.rsplit("-", 1)[1]): t for t in _tables() if _split(t) and _split(t)[0] == flavour}  # type: ignore[index]
    if "." not in wanted:
        fits = have is not None and (not wanted or have.split(".")[0] == wanted)
        if fits and have is not None:
            wanted = _short(have)
        else:
            known = [k for k in known_targets() if _split(k) and _split(k)[0] == flavour]  # type: ignore[index]
            same = [k for k in known if not wanted or k.rsplit("-", 1)[1].split(".")[0] == wanted]
            if not same:
                raise _unknown(str(name))
            wanted = same[-1].rsplit("-", 1)[1]
    version = _short(wanted)
    numbers = _numbers(version)
    if numbers[0] > max(*(t[0] for t in tables), _numbers(have)[0] if have else 0) + NEWER:
        raise _unknown(str(name))
    older = [t for t in tables if t <= numbers]
    table = tables[max(older) if older else min(tables)]
    here = have is not None and _numbers(have) == numbers
    return Target(
        name=f"{flavour}-{version}",
        flavour=flavour,
        version=version,
        installed=here,
        installed_version=have if here else None,
        table=table,
        table_exact=numbers in tables,
        _operators=_tables()[table],
    )
