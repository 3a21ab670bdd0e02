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
    return tuple(sorted((rule for rule, _ in _found()), key=lambda r: r.rank))


def rules_by_module() -> dict[str, list[Rule]]:
    """The rules by the name of the module that they are written in."""
    found: dict[str, list[Rule]] = {}
    for rule, module in _found():
        found.setdefault(module, []).append(rule)
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def _found() -> tuple[tuple[Rule, str], ...]:
    """Each rule and its module; a module may import rules of another one."""
    from surgery.rules.engine.pair import Pair, PatternRule
    from surgery.rules.engine.rule import Lowering

    found: dict[str, tuple[Rule, str]] = {}
    for name in sorted(f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if not m.ispkg):
        for value in vars(importlib.import_module(name)).values():
            if not isinstance(value, (Lowering, Pair, PatternRule)):
                continue
            home = getattr(value.build, "__module__", "")
            if found.setdefault(value.name, (value, name))[0] is not value:
                raise ValueError(f"two rules are named {value.name!r}")
            if home == name:
                found[value.name] = (value, name)
    return tuple(found.values())
