"""Rewrite rules, one module per theme, or a package where a theme is large. Every module is read for rules."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.rules.engine.run import Rule


@lru_cache(maxsize=1)
def shipped_rules() -> tuple[Rule, ...]:
    """All rules that come with the package: special ones before general ones."""
    return tuple(sorted((rule for rule, _ in _found()), key=lambda r: r.rank))


def rules_by_module() -> dict[str, list[Rule]]:
    """The rules by the name of the module, or package, that they are written in."""
    found: dict[str, list[Rule]] = {}
    for rule, theme in _found():
        found.setdefault(theme, []).append(rule)
    return dict(sorted(found.items()))


def _modules() -> Iterator[tuple[str, str]]:
    """Names of each theme and of a module of it."""
    for theme in sorted(f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if m.name != "engine"):
        package = importlib.import_module(theme)
        if not hasattr(package, "__path__"):
            yield theme, theme
            continue
        parts = {m.name for m in pkgutil.iter_modules(package.__path__)}
        if parts != set(package.PARTS):
            raise ValueError(f"{theme} has the modules {sorted(parts)}, and lists {sorted(package.PARTS)}")
        for part in package.PARTS:
            yield theme, f"{theme}.{part}"


@lru_cache(maxsize=1)
def _found() -> tuple[tuple[Rule, str], ...]:
    """Each rule and its theme; a module may import rules of another one."""
    from surgery.rules.engine.pair import Pair, PatternRule
    from surgery.rules.engine.rule import Lowering

    found: dict[str, tuple[Rule, str]] = {}
    for theme, name in _modules():
        for value in vars(importlib.import_module(name)).values():
            if not isinstance(value, (Lowering, Pair, PatternRule)):
                continue
            home = getattr(value.build, "__module__", "")
            if found.setdefault(value.name, (value, theme))[0] is not value:
                raise ValueError(f"two rules are named {value.name!r}")
            if home == name:
                found[value.name] = (value, theme)
    return tuple(found.values())
