"""What holds for every rule that ships: names, reasons, samples, near misses, dtypes, documentation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from surgery.rules import rules_by_module, shipped_rules
from surgery.rules.engine.describe import applies, operators
from surgery.rules.engine.rule import Lowering, Sample
from surgery.rules.engine.run import Engine
from surgery.rules.engine.selfproof import parse_sample

if TYPE_CHECKING:
    from surgery.rules.engine.run import Rule

RULES = shipped_rules()
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "rules.md"
DTYPES = (
    "float", "float16", "double", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip
"""All but bfloat16, which ONNX Runtime neither takes from Python nor computes on CPUs but for a few operators."""


def test_names_are_unique_and_in_kebab_case() -> None:
    names = [r.name for r in RULES]
    assert [n for n, count in Counter(names).items() if count > 1] == []
    assert [n for n in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", n)] == []
    assert sorted(r.name for found in rules_by_module().values() for r in found) == sorted(names)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_rule_says_why_and_shows_where_it_applies_and_where_not(rule: Rule) -> None:
    assert re.fullmatch(r"[A-Z\W].{19,}\.", " ".join(rule.why.split())), rule.why
    assert rule.samples
    assert rule.near_misses
    assert rule.when in ("refused", "always")
    assert rule.since <= (rule.until or rule.since)
    texts = [(" ".join(s.text.split()), s.opset, str(sorted(s.feeds.items()))) for s in rule.samples]
    assert [t for t, count in Counter(texts).items() if count > 1] == [], "the same sample twice"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_samples_are_valid_models_of_opsets_the_rule_is_for(rule: Rule) -> None:
    for sample in rule.samples:
        assert rule.since <= sample.opset <= (rule.until or sample.opset)
        model = parse_sample(sample)
        if all(onnx.defs.has(n.op_type, n.domain) for n in model.graph.node):
            onnx.checker.check_model(model)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_near_miss_is_a_valid_model_and_no_sample(rule: Rule) -> None:
    samples = [parse_sample(s) for s in rule.samples]
    for sample in rule.near_misses:
        model = parse_sample(sample)
        assert model not in samples
        assert model.graph.node


def test_the_documentation_has_one_row_for_each_rule() -> None:
    if not DOCUMENT.is_file():
        pytest.skip("only in a checkout")
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| (.*?) \| (.*?) \| (.*) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE
    )
    tables = [r for r in rows if r[2] in ("always", "where refused", "on request")]
    expected = [
        (r.name, operators(r, short=True), applies(r), " ".join(r.why.split()))
        for found in rules_by_module().values()
        for r in found
    ]
    assert tables == [tuple(cell.replace("|", "\\|") for cell in row) for row in expected]


# -- dtypes -------------------------------------------------------------------------------------------------


def _number(dtype: str) -> int:
    return int(getattr(onnx.TensorProto, dtype.upper()))


def _target(rule: Lowering, model: onnx.ModelProto) -> tuple[onnx.NodeProto, Any] | None:
    """The sample's node that the rule replaces, and its schema."""
    for node in model.graph.node:
        if node.op_type in rule.ops and node.domain == rule.domain:
            version = next(o.version for o in model.opset_import if o.domain == node.domain)
            try:
                return node, onnx.defs.get_schema(node.op_type, version, node.domain)
            except onnx.defs.SchemaError:
                return None  # of ONNX Runtime's own domain
    return None


def _typed(node: onnx.NodeProto, schema: Any) -> dict[str, set[str]]:
    """Type variable of the schema to the tensors of the node that have it."""
    found: dict[str, set[str]] = {}
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for i, name in enumerate(names):
            if name and formal:
                found.setdefault(formal[min(i, len(formal) - 1)].type_str, set()).add(name)
    return found


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    kinds = {v.name: int(v.type.tensor_type.elem_type) for v in values}
    return kinds | {t.name: int(t.data_type) for t in graph.initializer}


def _sampled(rule: Lowering) -> dict[str, set[int]]:
    """Type variable to the dtypes that it has in the rule's samples."""
    found: dict[str, set[int]] = {}
    for sample in rule.samples:
        model = parse_sample(sample)
        target = _target(rule, model)
        if target is not None:
            kinds = _kinds(model)
            for variable, names in _typed(*target).items():
                found.setdefault(variable, set()).update(kinds.get(n, 0) for n in names)
    return found


def _variants(rule: Lowering) -> Iterator[tuple[str, str, Sample, onnx.ModelProto]]:
    """The samples in dtypes that the schema allows and no sample has: variable, dtype, sample, model."""
    sampled = _sampled(rule)
    for sample in rule.samples:
        model = parse_sample(sample)
        target = _target(rule, model)
        if target is None:
            continue
        outside = {v.name for v in (*model.graph.input, *model.graph.output)}
        typed = _typed(*target)
        for constraint in target[1].type_constraints:
            names = typed.get(constraint.type_param_str, set())
            if not names or not names <= outside:
                continue
            for dtype in DTYPES:
                allowed = f"tensor({dtype})" in constraint.allowed_type_strs
                if allowed and _number(dtype) not in sampled[constraint.type_param_str]:
                    yield constraint.type_param_str, dtype, sample, _retyped(model, names, _number(dtype))


def _retyped(model: onnx.ModelProto, names: set[str], kind: int) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        if value.name in names:
            value.type.tensor_type.elem_type = kind
    for tensor in made.graph.initializer:
        if tensor.name in names:
            value = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return made


def _fits(model: onnx.ModelProto, sample: Sample) -> bool:
    """Whether the values that the sample gives can be had in the model's dtypes."""
    for value in model.graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.name in sample.feeds and kind.kind in "iu":
            given = np.asarray(sample.feeds[value.name])
            if (
                not np.isfinite(given).all()
                or given.min() < np.iinfo(kind).min
                or given.max() > np.iinfo(kind).max
            ):
                return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("rule", [r for r in RULES if isinstance(r, Lowering)], ids=lambda r: r.name)
def test_a_dtype_that_a_rule_takes_has_a_sample(rule: Lowering) -> None:
    from surgery.graph.convert import import_graph

    missing: dict[tuple[str, str], str] = {}
    for variable, dtype, sample, model in _variants(rule):
        if (variable, dtype) in missing or not _fits(model, sample):
            continue
        graph, _ = import_graph(model)
        engine = Engine(
            [rule], lambda site, node: site.op not in rule.ops, target="tensorrt-rtx-1.7", feeds=sample.feeds,
            domains=sample.domains,
        )  # fmt: skip
        edits = engine.run(graph, {}).edits
        if edits and all(e.verified == "passed" for e in edits):
            missing[variable, dtype] = sample.text
    assert not missing, f"add samples, see samples_in(): {missing}"
