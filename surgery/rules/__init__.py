"""Rewrite rules, one file per theme. Every module of this package is read for rules."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.rules.engine.run import Rule


@lru_cache(maxsize=1)
def shipped_rules() -> tuple[Rule, ...]:
    """All rules that come with the package: special ones before general ones."""
    from surgery.rules.engine.pair import Pair, PatternRule
    from surgery.rules.engine.rule import Lowering

    found: dict[str, Rule] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            if not isinstance(value, (Lowering, Pair, PatternRule)):
                continue
            if found.setdefault(value.name, value) is not value:
                raise ValueError(f"two rules are named {value.name!r}")
    return tuple(sorted(found.values(), key=lambda r: r.rank))
