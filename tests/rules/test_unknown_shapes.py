"""A rule says why it does not apply where shapes are not known, or writes what needs none; it never crashes."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.rules import shipped_rules
from surgery.rules.engine import run, template
from surgery.rules.engine.rule import Lowering
from surgery.rules.engine.selfproof import parse_sample

RULES = [r for r in shipped_rules() if isinstance(r, Lowering)]


@pytest.mark.parametrize("known", ["nothing", "the rank"])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_rule_meets_shapes_that_are_not_known(
    rule: Lowering, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx_graphsurgeon as gs

    from surgery.graph.convert import import_graph

    monkeypatch.setattr(run, "infer_types", lambda graph: 0)  # as if inference found nothing either
    # Nothing is run: values of shapes that nobody knows would say nothing.
    monkeypatch.setattr(template, "prove", lambda *given, **named: ("skipped: shapes", None))
    for sample in rule.samples:
        graph, _ = import_graph(parse_sample(sample))
        for tensor in graph.tensors().values():
            if isinstance(tensor, gs.Variable):
                rank = None if tensor.shape is None or known == "nothing" else len(tensor.shape)
                shape: list[Any] | None = (
                    None if rank is None else [f"{tensor.name}_{i}" for i in range(rank)]
                )
                tensor.shape = shape
        engine = run.Engine(
            [rule], lambda site, node: site.op not in rule.ops, target="tensorrt-rtx-1.7", feeds=sample.feeds,
            domains=sample.domains,
        )  # fmt: skip
        for edit in engine.run(graph, {}).edits:
            assert edit.rule == rule.name
