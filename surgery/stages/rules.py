"""Applying rewrite rules to the graph of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import ConversionError
from surgery.graph.fold import drop_dead, fold_constants

if TYPE_CHECKING:
    from surgery.pipeline import State
    from surgery.rules.engine.run import Outcome, Wanted

ROUNDS = 6
"""Folding can make operands constant that let further rules apply."""

CARRIERS = frozenset(
    {
        "Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Concat", "Gather", "Slice", "Add", "Sub",
        "Mul", "Div", "Neg", "Min", "Max", "Floor", "Ceil", "CastLike", "Shape", "Size",
    }
)  # fmt: skip
"""Operators through which an operand such as axes or a size is traced back to the input it comes from."""


def apply_rules(state: State) -> str:
    """Fold, apply rules, and again until nothing changes; the report gets edits and changes of contract.

    Raises:
        ConversionError: an operand has to be constant, and only the user can know it.
    """
    from surgery.rules import shipped_rules
    from surgery.rules.engine.run import Engine
    from surgery.stages.oracle import Oracle

    engine = Engine(shipped_rules(), Oracle(state).takes, target=state.target.name, seed=state.options.seed)
    counts: dict[str, int] = {}
    outcome: Outcome | None = None
    for _ in range(ROUNDS):
        fold_constants(state.graph)
        state.say("asking the target about each kind of node")
        outcome = engine.run(state.graph, state.provenance)
        drop_dead(state.graph)
        for edit in outcome.edits:
            counts[edit.rule] = counts.get(edit.rule, 0) + 1
            state.report.edits.append(edit)
        if not outcome.edits:
            break
    assert outcome is not None
    _report_misses(state, outcome)
    if outcome.wanted:
        _ask(state, outcome.wanted)
    fold_constants(state.graph)
    return ", ".join(f"{n} x {rule}" for rule, n in sorted(counts.items())) or "no rule applies"


def _report_misses(state: State, outcome: Outcome) -> None:
    for miss in outcome.misses:
        state.warn(f"rule {miss.rule} does not apply to {miss.node!r} ({miss.op}): {miss.reason}")


def _ask(state: State, wanted: list[Wanted]) -> None:
    inputs = {t.name: t for t in state.graph.inputs}
    producers = {t.name: n for n in state.graph.nodes for t in n.outputs if t.name}
    names: dict[str, Wanted] = {}
    for entry in wanted:
        for name in _sources(entry.tensor, inputs, producers):
            names.setdefault(name, entry)
    first = wanted[0]
    if not names:
        raise ConversionError(
            f"{first.op} needs to know {first.tensor!r} when the engine is built: {first.why}",
            code="needs-constant",
            where=state.source.name,
            node=first.node,
            cause="it is computed from data",
            fix="export the model with a fixed value for it",
        )
    listed = tuple(names)
    raise ConversionError(
        f"{', '.join(repr(n) for n in listed)} must be known when the engine is built: {first.why}",
        code="needs-constant",
        where=state.source.name,
        node=first.node,
        cause=f"{first.op} takes it as an input, and the target wants a constant there",
        fix="give it: " + " ".join(f"--constant {n}={_example(inputs[n])}" for n in listed),
        needs_constant=listed,
    )


def _example(tensor: Any) -> str:
    shape = list(tensor.shape or ())
    return "[1]" if shape else "1"


def _sources(name: str, inputs: dict[str, Any], producers: dict[str, Any]) -> list[str]:
    """Graph inputs that a small operand comes from, or nothing if it comes from data."""
    found: dict[str, None] = {}
    stack, seen = [name], set()
    while stack:
        here = stack.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in inputs:
            found[here] = None
        elif here in producers:
            node = producers[here]
            if node.op in ("Shape", "Size"):
                continue
            if node.op not in CARRIERS:
                return []
            stack.extend(t.name for t in node.inputs if t.name)
    return sorted(found)
