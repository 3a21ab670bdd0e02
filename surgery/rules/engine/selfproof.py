"""Running a rule on its samples: what it replaces has to compute the same, and what it must not match stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx.parser

from surgery.rules.engine.rule import Sample

if TYPE_CHECKING:
    from surgery.rules.engine.run import Outcome, Rule


@dataclass(frozen=True)
class Proof:
    """Outcome of one sample: the model after the rule, and what the engine did."""

    model: onnx.ModelProto
    outcome: Outcome


def parse_sample(sample: Sample) -> onnx.ModelProto:
    """The sample's model."""
    imports = "".join(f', "{d}" : {v}' for d, v in sample.domains.items())
    text = f'<ir_version: 10, opset_import: ["" : {sample.opset}{imports}]> sample {sample.text}'
    return onnx.parser.parse_model(text)


def apply_to_sample(rules: Sequence[Rule], sample: Sample, *, target: str = "tensorrt-rtx-1.7") -> Proof:
    """Apply rules to a sample as if the target refused every node that its first rule is for."""
    from surgery.graph.convert import export_graph, import_graph
    from surgery.rules.engine.run import Engine

    model = parse_sample(sample)
    graph, header = import_graph(model)
    first = rules[0]
    engine = Engine(
        rules,
        lambda site, node: bool(first.ops) and site.op not in first.ops,
        target=target,
        feeds=sample.feeds,
        domains=sample.domains,
        optional=[r.name for r in rules],
    )
    provenance: dict[str, dict[str, str]] = {}
    outcome = engine.run(graph, provenance)
    return Proof(export_graph(graph, header, provenance=provenance), outcome)
