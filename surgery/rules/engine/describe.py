"""Rules in words: for `surgery list rules`, `surgery show rules` and the documentation."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from surgery.graph.body import MAX_OPSET
from surgery.graph.pattern_text import pattern_text
from surgery.rules.engine.pair import Pair, PatternRule
from surgery.rules.engine.template import first_opset

if TYPE_CHECKING:
    from surgery.rules.engine.rule import Sample
    from surgery.rules.engine.run import Rule

SHORT = 4
"""Operators that a table names of one rule."""


def first_sentence(text: str) -> str:
    """The first sentence, without its full stop."""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def applies(rule: Rule) -> str:
    """When a rule is applied, in a word or two."""
    if getattr(rule, "optional", False):
        return "on request"
    return "always" if rule.when == "always" else "where refused"


def applies_long(rule: Rule) -> str:
    """When a rule is applied, as a sentence."""
    if getattr(rule, "optional", False):
        return f"where a pipeline asks for it: rewrite.optional_rules: [{rule.name}]"
    if rule.when == "always":
        return "wherever it matches"
    return "where the target does not take " + (
        "a node of what it matches" if rule.form != "lowering" else "the node"
    )


def operators(rule: Rule, *, short: bool = False) -> str:
    """The operators a rule matches; the domain in front, where it is not ONNX's own."""
    if not rule.ops:
        return "any"
    names = sorted(rule.ops) if rule.form == "lowering" else list(rule.ops)
    prefix = f"{rule.domain}: " if rule.domain else ""
    shown = names[:SHORT] if short and len(names) > SHORT + 1 else names
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return prefix + ", ".join(shown) + more


def opsets(rule: Rule) -> str:
    """The opsets a rule is written for."""
    return f"{first_opset(rule)} to {min(rule.until or MAX_OPSET, MAX_OPSET)}"


def targets(rule: Rule) -> str:
    """The targets a rule is for."""
    return ", ".join(f"{t}*" for t in rule.targets) or "all"


def functions(rule: Rule) -> list[tuple[str, str]]:
    """What a rule matches and what it writes: titles and texts."""
    if isinstance(rule, Pair):
        return [("before", _block(rule.before)), ("after", _block(rule.after))]
    matched = [("matches", pattern_text(rule.pattern))] if isinstance(rule, PatternRule) else []
    text = inspect.getdoc(rule.build) or ""
    return [*matched, ("writes", text)] if text else matched


def _block(text: str) -> str:
    """A function's text with one node per line."""
    stripped = inspect.cleandoc(text)
    if "\n" in stripped:
        return stripped
    head, brace, rest = stripped.partition("{")
    nodes = re.sub(r"\)\s+(?=[\w\"]+(?:, *[\w\"]*)* = )", ")\n  ", rest.strip().removesuffix("}").strip())
    return f"{head}{brace}\n  {nodes}\n}}"


def sample_text(sample: Sample) -> str:
    """A sample on one line."""
    more = "".join(f", {d} {v}" for d, v in sample.domains.items())
    return f"opset {sample.opset}{more}: {' '.join(sample.text.split())}"
