"""What targets do not take although their tables have the operator: conditions on the graph, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Restriction:
    """One condition under which an operator is refused.

    Attributes:
        ops: Operators of the default domain; ``*`` for all.
        but: Operators that ``*`` does not mean.
        since: Flavour to the first version concerned.
        step: The step that refuses it.
        when: What has to hold; the keys are told at the head of ``data/restrictions.yaml``.
        reason: Why, in plain words.
        failure: The class of failures in the catalogue, or None.
    """

    ops: tuple[str, ...]
    but: tuple[str, ...]
    since: Mapping[str, str]
    step: Literal["parse", "build"]
    when: Mapping[str, Any]
    reason: str
    failure: str | None

    def concerns(self, flavour: str, version: str) -> bool:
        """Whether it holds for a version of a flavour."""
        first = self.since.get(flavour)
        return first is not None and _numbers(first) <= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(p) for p in version.split(".") if p.isdigit())


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What the file says.

    Attributes:
        entries: All restrictions, in order.
        shape_operands: Operator to the positions of operands whose values decide shapes.
        network_types: Flavour to the element types that inputs and constants of a network can have.
    """

    entries: tuple[Restriction, ...]
    shape_operands: Mapping[str, tuple[int, ...]]
    network_types: Mapping[str, frozenset[str]]


@lru_cache(maxsize=1)
def restrictions() -> Restrictions:
    """The file, read on first use: ``restrictions.yaml``, as JSON, which takes a hundredth of the time to read.

    A test compares the two, and writes the second anew with ``--update-golden``.
    """
    text = resources.files("surgery.targets").joinpath("data/restrictions.json").read_text("utf-8")
    raw = json.loads(text)
    entries = tuple(
        Restriction(
            tuple(r["ops"]),
            tuple(r.get("except", ())),
            dict(r["targets"]),
            r["step"],
            dict(r["when"]),
            r["reason"],
            r.get("class"),
        )
        for r in raw["restrictions"]
    )
    return Restrictions(
        entries,
        {op: tuple(positions) for op, positions in raw["shape_operands"].items()},
        {flavour: frozenset(types) for flavour, types in raw["network_types"].items()},
    )


@lru_cache(maxsize=4096)
def restrictions_of(flavour: str, version: str, op: str) -> tuple[Restriction, ...]:
    """Restrictions of an operator for one target, in the order of the file."""
    return tuple(
        r
        for r in restrictions().entries
        if (op in r.ops or ("*" in r.ops and op not in r.but)) and r.concerns(flavour, version)
    )
