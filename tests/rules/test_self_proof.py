"""Every rule proves itself on its samples, and leaves its near misses alone."""

from __future__ import annotations

import pytest

from surgery.rules import shipped_rules
from surgery.rules.engine.rule import Lowering, Sample
from surgery.rules.engine.selfproof import apply_to_sample

RULES = shipped_rules()


def cases(kind: str) -> list[object]:
    return [
        pytest.param(rule, sample, id=f"{rule.name}-{number}")
        for rule in RULES
        for number, sample in enumerate(getattr(rule, kind))
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_rule_has_a_reason_samples_and_a_near_miss(rule: Lowering) -> None:
    assert len(rule.why) > 20
    assert rule.samples
    assert rule.near_misses


@pytest.mark.parametrize(("rule", "sample"), cases("samples"))
def test_a_sample_is_replaced_and_computes_the_same(rule: Lowering, sample: Sample) -> None:
    outcome = apply_to_sample([rule], sample).outcome
    assert outcome.edits, [m.reason for m in outcome.misses] + [w.why for w in outcome.wanted]
    for edit in outcome.edits:
        assert edit.rule == rule.name
        assert edit.verified in ("passed", "sampled"), edit.verified


@pytest.mark.parametrize(("rule", "sample"), cases("near_misses"))
def test_a_near_miss_stays(rule: Lowering, sample: Sample) -> None:
    assert apply_to_sample([rule], sample).outcome.edits == []
