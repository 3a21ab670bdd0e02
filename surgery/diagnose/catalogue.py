"""The catalogue of failures: package data, read on first use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Fix:
    """One way out.

    Attributes:
        kind: ``rewrite``, ``constant-fold``, ``dtype-cast``, ``shape-specialize``, ``plugin``, ``builder-option``,
            ``export-flag`` or ``upgrade``.
        text: What to do.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What has to be seen in the graph for a class to be the cause; empty members ask for nothing.

    Attributes:
        ops: Patterns of operators.
        domains: Patterns of operator domains.
        dtypes: Element types, one of which an operand of the node (or the tensor named) has.
        not_constant: Positions of operands, one of which is computed at run time.
        from_values: Positions of operands, one of which depends on values of inputs, not on shapes alone.
        constant: Positions of operands that are all constant.
        test: Name of a further test, or None.
    """

    ops: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    not_constant: tuple[int, ...] = ()
    from_values: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    test: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One class of failures.

    Attributes:
        id: Its name, in kebab-case.
        stage: The step at which it shows: ``check``, ``load``, ``parse``, ``build``, ``run`` or ``verify``.
        signatures: Patterns of messages.
        evidence: What has to be seen in the graph.
        cause: Why it happens, in plain words.
        look_at: What to look at in the graph by hand.
        fixes: Ways out, best first.
        versions: Versions of TensorRT that are concerned.
    """

    id: str
    stage: str
    signatures: tuple[re.Pattern[str], ...]
    evidence: Evidence
    cause: str
    look_at: str
    fixes: tuple[Fix, ...]
    versions: str


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Entry]:
    """All classes by id, in the order of the file.

    They are written in ``parser-errors.yaml``; read is the same as JSON, which takes a hundredth of the time. A test
    compares the two, and writes the second anew with ``--update-golden``.
    """
    text = resources.files("surgery.diagnose").joinpath("data/parser-errors.json").read_text("utf-8")
    entries = json.loads(text)["entries"]
    return {e["id"]: _entry(e) for e in entries}


def _entry(raw: Mapping[str, Any]) -> Entry:
    found: dict[str, Any] = {
        k: v if isinstance(v, str) else tuple(v) for k, v in raw.get("evidence", {}).items()
    }
    return Entry(
        raw["id"],
        raw["stage"],
        tuple(re.compile(s) for s in raw["signatures"]),
        Evidence(**found),
        raw["cause"],
        raw["look_at"],
        tuple(Fix(f["kind"], f["text"]) for f in raw["fixes"]),
        raw["versions"],
    )
