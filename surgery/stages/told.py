"""What the stage rewrite did, in one line: counted, and nothing called nothing that was something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.pipeline import State
    from surgery.report import Edit

NOTHING = "nothing has to be rewritten"

MOST = 12
"""Rules that are named; the report has all."""

_INLINED, _RESOLVED, _WRITTEN, _RETYPED = "inline-function", "resolve-structure", "write-out-rounds", "retype"


def told(state: State, edits: Iterable[Edit], converted: int | None = None) -> str:
    """Functions that were inlined, control flow that was resolved, sizes that got bounds, and rules that applied.

    Args:
        state: The run, after the rules.
        edits: What they did.
        converted: The operator set that the model was converted to, if it was.
    """
    edits = list(edits)
    texts = []
    inlined = sum(len(e.nodes_before) for e in state.report.edits if e.rule == _INLINED)
    if inlined:
        texts.append(f"{_count(inlined, 'function')} inlined")
    if converted is not None:
        texts.append(f"converted to opset {converted}")
    texts += _structure(edits)
    retyped = sum(len(e.nodes_before) for e in edits if e.rule == _RETYPED)
    if retyped:
        texts.append(f"{_count(retyped, 'node')} in another dtype")
    counted = Counter(e.rule for e in edits if e.rule not in (_INLINED, _RESOLVED, _WRITTEN, _RETYPED))
    texts += _rules(counted)
    bounded = {c.name for c in state.report.io_changes if (c.inverse or {}).get("op") == "slice_by_count"}
    if bounded:
        texts.append(f"{_count(len(bounded), 'output')} of open size bounded")
    return ", ".join(texts) or NOTHING


def _structure(edits: Iterable[Edit]) -> list[str]:
    resolved: Counter[str] = Counter()
    rounds = 0
    for edit in edits:
        if edit.rule == _RESOLVED:
            found: Mapping[str, int] = edit.details.get("resolved", {})
            resolved.update(found)
        rounds += edit.rule == _WRITTEN
    texts = []
    if resolved:
        texts.append(f"{', '.join(f'{n} {op}' for op, n in sorted(resolved.items()))} resolved")
    if rounds:
        texts.append(f"{_count(rounds, 'loop')} written out round by round")
    return texts


def _rules(counts: Mapping[str, int]) -> list[str]:
    ordered = sorted(counts.items())
    if len(ordered) > MOST:
        kept = {name for name, _ in sorted(ordered, key=lambda entry: (-entry[1], entry[0]))[:MOST]}
        left = [(name, n) for name, n in ordered if name not in kept]
        return [
            *(f"{n} x {name}" for name, n in ordered if name in kept),
            f"{sum(n for _, n in left)} by {_count(len(left), 'more rule')}",
        ]
    return [f"{n} x {name}" for name, n in ordered]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
