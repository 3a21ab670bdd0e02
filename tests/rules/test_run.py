"""How the engine applies rules: proof before anything changes, order, classes, bodies, provenance, determinism."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.graph.body import Body
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.rules import shipped_rules
from surgery.rules.engine.rule import Bounded, Lowering, NeedsConstant, NoMatch, Sample, lowering
from surgery.rules.engine.run import MAX_DEPTH, Engine, Outcome
from surgery.rules.engine.site import Site
from tests.hash_seeds import printed_under_two_seeds

WHY = "for a test"
RELU = "(float[3] x) => (float[3] y) { [r] y = Relu (x) }"


def parse(text: str, opset: int = 18) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')


def rule(name: str, op: str, build: Callable[[Site, Body], Any], **options: Any) -> Lowering:
    return lowering(name, op, why=WHY, samples=[], **options)(build)


def apply(
    model: onnx.ModelProto,
    rules: Sequence[Any],
    refused: Sequence[str] | None = None,
    target: str = "tensorrt-rtx-1.7",
    **options: Any,
) -> tuple[onnx.ModelProto, Outcome]:
    """Apply rules for a target that refuses some operators; all, if none are named."""
    graph, header = import_graph(model)
    provenance: dict[str, dict[str, str]] = {}
    engine = Engine(
        rules, lambda site, node: refused is not None and site.op not in refused, target=target, **options
    )
    outcome = engine.run(graph, provenance)
    made = export_graph(graph, header, provenance=provenance)
    onnx.checker.check_model(made)
    return made, outcome


def same(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    want, got = Evaluator(before, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
    assert set(want) == set(got)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def by_max(site: Site, b: Body) -> str:
    return b.maximum(site.x(), b.const(0, site.dtype()))


GOOD = rule("relu-by-max", "Relu", by_max)

# -- a replacement is proven before anything changes --------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Site, Body], Any], str]] = {
    "values": (lambda s, b: b.add(s.x(), b.const(0.01)), "output 0 is off by"),
    "dtype": (lambda s, b: b.cast(by_max(s, b), np.float64), "output 0 is float64[3], was float32[3]"),
    "shape": (lambda s, b: b.unsqueeze(by_max(s, b), 0), "output 0 is float32[1, 3], was float32[3]"),
    "infinite": (lambda s, b: b.div(by_max(s, b), b.const(0.0)), "differs where it is not finite"),
    "does not run": (
        lambda s, b: b.op("MatMul", s.x(), b.const([1.0, 2.0])),
        "the replacement does not run: ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_replacement_that_computes_something_else_is_dropped_and_told(case: str) -> None:
    build, reason = WRONG[case]
    before = parse(RELU)
    after, outcome = apply(before, [rule("wrong", "Relu", build)])
    assert outcome.edits == []
    assert after.graph == before.graph
    (miss,) = outcome.misses
    assert (miss.node, miss.op, miss.rule) == ("r", "Relu", "wrong")
    assert reason in miss.reason


def test_after_a_wrong_rule_the_next_one_is_tried() -> None:
    after, outcome = apply(parse(RELU), [rule("wrong", "Relu", WRONG["values"][0]), GOOD])
    assert [(e.rule, e.verified) for e in outcome.edits] == [("relu-by-max", "passed")]
    assert [op for op in ops(after) if op != "Constant"] == ["Max"]
    same(parse(RELU), after, {"x": np.array([-1, 0, 2], np.float32)})


def test_a_node_that_does_not_run_alone_is_told_as_unproven() -> None:
    model = parse("(float[3] x, int64[1] s) => (float[p] y) { y = Reshape (x, s) }")
    build = lambda s, b: b.op("Reshape", b.op("Identity", s.x()), s.x(1))  # noqa: E731
    _, outcome = apply(model, [rule("again", "Reshape", build)], feeds={"s": np.array([7])})
    assert [e.verified[:8] for e in outcome.edits[:1]] == ["skipped:"]
    assert outcome.edits[0].max_abs_error is None


def test_an_output_that_the_rule_does_not_make_stops_it() -> None:
    model = parse(
        "(float[2, 4] x) => (float[2, 2] v, int64[2, 2] i) <int64[1] k = {2}> { v, i = TopK (x, k) }"
    )
    _, outcome = apply(model, [rule("half", "TopK", lambda s, b: [b.op("Identity", s.x()), None])])
    assert [m.reason for m in outcome.misses] == ["output 1 is used, and the rule does not make it"]


# -- what a rule says when it does not apply ----------------------------------------------------------------


def no(site: Site, b: Body) -> str:
    raise NoMatch("not today")


def needs(site: Site, b: Body) -> str:
    site.need(1, "what it decides")
    return b.op("Identity", site.x())


def test_reasons_and_wants_name_node_and_tensor() -> None:
    _, outcome = apply(parse(RELU), [rule("shy", "Relu", no)])
    assert [(m.node, m.rule, m.reason) for m in outcome.misses] == [("r", "shy", "not today")]
    model = parse("(float[3] x, int64 a) => (float[3] y) { [c] y = CumSum (x, a) }")
    _, outcome = apply(model, [rule("needs", "CumSum", needs), rule("shy", "CumSum", no)])
    assert [(w.node, w.op, w.tensor, w.why) for w in outcome.wanted] == [
        ("c", "CumSum", "a", "what it decides")
    ]
    assert outcome.misses == [], "an answer is there: give the value"


def test_another_rule_without_the_wish_goes_first() -> None:
    model = parse("(float[3] x, int64 a) => (float[3] y) { y = CumSum (x, a) }")
    plain = rule("plain", "CumSum", lambda s, b: b.op("CumSum", b.op("Identity", s.x()), s.x(1)))
    _, outcome = apply(model, [rule("needs", "CumSum", needs), plain])
    assert outcome.edits[0].rule == "plain"


def test_needs_constant_keeps_what_it_is_about() -> None:
    error = NeedsConstant(2, "the size")
    assert (error.operand, error.why, str(error)) == (2, "the size", "the size")


# -- where a rule is for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "refused", "opset", "applied"),
    [
        ({}, ["Relu"], 18, True),
        ({}, [], 18, False),
        ({"when": "always"}, [], 18, True),
        ({"since": 19}, ["Relu"], 18, False),
        ({"since": 18, "until": 18}, ["Relu"], 18, True),
        ({"until": 17}, ["Relu"], 18, False),
        ({"targets": ["tensorrt-rtx"]}, ["Relu"], 18, True),
        ({"targets": ["tensorrt-10"]}, ["Relu"], 18, False),
        ({"domain": "my.own"}, ["Relu"], 18, False),
    ],
)  # fmt: skip
def test_where_a_rule_is_for(options: dict[str, Any], refused: list[str], opset: int, applied: bool) -> None:
    _, outcome = apply(parse(RELU, opset), [rule("relu-by-max", "Relu", by_max, **options)], refused)
    assert bool(outcome.edits) is applied


def test_the_first_rule_wins() -> None:
    other = rule(
        "relu-by-where", "Relu", lambda s, b: b.where(b.greater(s.x(), b.const(0.0)), s.x(), b.const(0.0))
    )
    for first, second in ((GOOD, other), (other, GOOD)):
        assert [e.rule for e in apply(parse(RELU), [first, second], ["Relu"])[1].edits] == [first.name]


def test_rules_apply_to_what_rules_wrote_but_not_forever() -> None:
    chain = [
        rule("gelu", "HardSwish", lambda s, b: b.mul(s.x(), b.op("HardSigmoid", s.x(), alpha=1 / 6, beta=0.5))),
        rule(
            "hard", "HardSigmoid",
            lambda s, b: b.minimum(
                b.op("Relu", b.add(b.mul(s.x(), b.const(s.attr("alpha"))), b.const(s.attr("beta")))), b.const(1.0)
            ),
        ),
        GOOD,
    ]  # fmt: skip
    before = parse("(float[5] x) => (float[5] y) { [h] y = HardSwish (x) }")
    after, outcome = apply(before, chain, ["HardSwish", "HardSigmoid", "Relu"])
    assert [e.rule for e in outcome.edits] == ["gelu", "hard", "relu-by-max"]
    same(before, after, {"x": np.linspace(-4, 4, 5, dtype=np.float32)})
    forever = rule("again", "Relu", lambda s, b: b.op("Relu", s.x()))
    _, outcome = apply(parse(RELU), [forever])
    assert 1 <= len(outcome.edits) <= 2 * (MAX_DEPTH + 1)


# -- classes of equal nodes ---------------------------------------------------------------------------------


def test_equal_nodes_are_written_and_proven_once() -> None:
    calls = []

    def counting(site: Site, b: Body) -> str:
        calls.append(site)
        return by_max(site, b)

    text = (
        "(float[3] x, float[4] z) => (float[3] y, float[4] w)"
        " { a = Relu (x) c = Neg (a) y = Relu (c) w = Relu (z) }"
    )
    after, outcome = apply(parse(text), [rule("counted", "Relu", counting)], ["Relu"])
    assert len(calls) == 2, "one for each shape"
    assert [e.verified for e in outcome.edits] == ["passed", "sampled", "passed"]
    feeds = {"x": np.array([-1, 0, 2], np.float32), "z": np.array([-1, 0, 2, -3], np.float32)}
    same(parse(text), after, feeds)


def test_the_values_of_weights_are_part_of_the_class() -> None:
    text = "(float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] c = {3, 4}> { m = Mul (x, a) y = Mul (m, c) }"

    def product(site: Site, b: Body) -> str:
        return b.div(site.x(), b.const(1 / site.const(1), np.float32))

    after, outcome = apply(parse(text), [rule("product", "Mul", product)], ["Mul"])
    assert len(outcome.edits) == 2
    same(parse(text), after, {"x": np.array([1, -2], np.float32)})


# -- bodies -------------------------------------------------------------------------------------------------

BODIES = {
    "If": "(float[3] x, bool c) => (float[3] y) { n = Neg (x) y = If (c) <then_branch = t () => (float[3] o)"
    " { [in_then] o = Relu (n) }, else_branch = e () => (float[3] q) { k = Relu (x) q = Exp (k) }> }",
    "Loop": "(float[3] x, bool c) => (float[3] y) <int64 n = {3}> { y = Loop (n, c, x) <body = b (int64 i, bool g,"
    " float[3] a) => (bool d, float[3] o) { d = Identity (g) r = Relu (a) o = Sub (r, x) }> }",
    "Scan": "(float[4, 3] x, float[3] s) => (float[3] f, float[4, 3] y) { f, y = Scan <num_scan_inputs = 1,"
    " body = b (float[3] a, float[3] e) => (float[3] o, float[3] p)"
    " { t = Sub (e, a) o = Relu (t) p = Neg (o) }> (s, x) }",
    "nested": "(float[3] x, bool c) => (float[3] y) { y = If (c) <then_branch = t () => (float[3] o)"
    " { o = If (c) <then_branch = u () => (float[3] v) { v = Relu (x) }, else_branch = w () => (float[3] z)"
    " { z = Exp (x) }> }, else_branch = e () => (float[3] q) { q = Identity (x) }> }",
}


def everywhere(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [n for node in graph.node for a in node.attribute if a.HasField("g") for n in everywhere(a.g)]
    return [*graph.node, *inner]


@pytest.mark.parametrize("kind", BODIES)
def test_rules_reach_into_bodies(kind: str) -> None:
    before = parse(BODIES[kind])
    after, outcome = apply(before, [GOOD], ["Relu"])
    assert len(outcome.edits) == (2 if kind == "If" else 1)
    assert "Relu" not in {n.op_type for n in everywhere(after.graph)}
    for condition in (True, False):
        feeds = {"x": np.linspace(-2, 3, 12, dtype=np.float32).reshape(4, 3)[: 4 if kind == "Scan" else 1]}
        feeds["x"] = feeds["x"] if kind == "Scan" else feeds["x"][0]
        feeds |= {"c": np.array(condition)} if kind != "Scan" else {"s": np.ones(3, np.float32)}
        same(before, after, feeds)
    told = [n for n in everywhere(after.graph) if any(p.key == "surgery.rule" for p in n.metadata_props)]
    assert len(told) >= len(outcome.edits)


# -- provenance ---------------------------------------------------------------------------------------------


def test_every_new_node_says_where_it_comes_from_and_no_old_one_does() -> None:
    before = parse(
        "(float[3] x) => (float[3] y) { [first] a = Exp (x) [second] c = Relu (a) [third] y = Neg (c) }"
    )
    after, outcome = apply(before, [GOOD], ["Relu"])
    (edit,) = outcome.edits
    told = {n.name: {p.key: p.value for p in n.metadata_props} for n in after.graph.node}
    for name, entries in told.items():
        if name in ("first", "third"):
            assert not entries
        else:
            assert entries == {"surgery.rule": "relu-by-max", "surgery.from": "second"}
            assert name in edit.nodes_after
    assert edit.nodes_before == ("second",)


def test_names_of_new_nodes_and_tensors_are_unique() -> None:
    chain = " ".join(f"a{i + 1} = Relu (a{i})" for i in range(8))
    after, _ = apply(parse(f"(float[3] a0) => (float[3] y) {{ {chain} y = Neg (a8) }}"), [GOOD], ["Relu"])
    names = [n.name for n in after.graph.node]
    tensors = [o for n in after.graph.node for o in n.output]
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)


# -- sizes that data decides --------------------------------------------------------------------------------


def positive(site: Site, b: Body) -> Bounded:
    """Compress by a sort: what is chosen comes first."""
    chosen = b.cast(site.x(1), np.int64)
    size = site.input(0).dims[0]
    _, order = b.topk(b.mul(b.cast(chosen, np.float32), b.const(np.arange(size, 0, -1), np.float32)), size)
    return Bounded(b.gather(site.x(), order, 0), 0, b.reduce("ReduceSum", chosen, keepdims=False))


def test_padded_outputs_are_told_with_axis_and_count() -> None:
    text = "(float[4] x, bool[4] c) => (float[k] y) { y = Compress <axis = 0> (x, c) }"
    graph, _ = import_graph(parse(text))
    outcome = Engine([rule("sorted", "Compress", positive)], lambda s, n: s.op != "Compress").run(graph, {})
    assert [e.verified for e in outcome.edits] == ["passed"]
    axis, count = outcome.bounded["y"]
    assert axis == 0
    assert count in graph.tensors()


def test_a_wrong_count_is_seen() -> None:
    def short(site: Site, b: Body) -> Bounded:
        made = positive(site, b)
        return Bounded(made.value, 0, b.sub(made.count, b.const(1, np.int64)))

    text = "(float[4] x, bool[4] c) => (float[k] y) { y = Compress <axis = 0> (x, c) }"
    _, outcome = apply(parse(text), [rule("short", "Compress", short)], ["Compress"])
    assert outcome.edits == []
    assert "output 0 is " in outcome.misses[0].reason or "does not run" in outcome.misses[0].reason


# -- the same again -----------------------------------------------------------------------------------------

MIXED = (
    "(float[3, 3] x, int32[4] i, bool c) => (float y, int32[4] j, float[3, 3] z) {"
    " a = Celu <alpha = 0.5> (x) y = Det (a) k = BitwiseNot (i) j = BitwiseXor (k, i)"
    " z = If (c) <then_branch = t () => (float[3, 3] o) { o = Mish (a) }, else_branch = e () => (float[3, 3] q)"
    " { q = HardSwish (a) }> }"
)
REFUSED = ("Celu", "Det", "BitwiseNot", "BitwiseXor", "Mish", "HardSwish")


def fingerprint() -> str:
    """Of the rewritten model and what was done."""
    after, outcome = apply(parse(MIXED), shipped_rules(), REFUSED)
    text = after.SerializeToString(deterministic=True) + repr((outcome.edits, outcome.misses)).encode()
    return hashlib.sha256(text).hexdigest()


def test_two_runs_do_the_same() -> None:
    assert fingerprint() == fingerprint()
    _, outcome = apply(parse(MIXED), shipped_rules(), REFUSED)
    assert len(outcome.edits) >= 6
    assert [m for m in outcome.misses if m.refused] == []


def test_the_order_of_hashes_changes_nothing() -> None:
    code = "from tests.rules.test_run import fingerprint; print(fingerprint())"
    assert printed_under_two_seeds(code).strip() == fingerprint()


UNARY = ("Celu", "Mish", "HardSwish", "Relu", "Exp", "Tanh", "Softsign", "Neg")


@settings(max_examples=15, deadline=None)
@given(chain=st.lists(st.sampled_from(UNARY), min_size=1, max_size=6), size=st.integers(1, 5))
def test_a_rewritten_model_computes_the_same_and_is_not_rewritten_again(chain: list[str], size: int) -> None:
    lines = " ".join(f"a{i + 1} = {op} (a{i})" for i, op in enumerate(["Tanh", *chain]))
    before = parse(f"(float[n, {size}] a0) => (float[n, {size}] a{len(chain) + 1}) {{ {lines} }}")
    refused = ("Celu", "Mish", "HardSwish")
    after, outcome = apply(before, shipped_rules(), refused)
    assert len(outcome.edits) >= sum(op in refused for op in chain)
    assert not set(ops(after)) & set(refused)
    rng = np.random.default_rng(size)
    same(before, after, {"a0": rng.normal(size=(3, size)).astype(np.float32)})
    again, nothing = apply(after, shipped_rules(), refused)
    assert nothing.edits == []
    assert again == after


def test_samples_are_proven_on_the_values_they_name() -> None:
    """A replacement that is right on the given values alone passes there, and nowhere else."""
    special = rule("identity", "Relu", lambda s, b: b.op("Identity", s.x()))
    sample = Sample(RELU, feeds={"x": (1.0, 2.0)})
    _, outcome = apply(parse(sample.text), [special], ["Relu"], feeds=sample.feeds)
    assert [e.verified for e in outcome.edits] == ["passed"]
    _, outcome = apply(parse(sample.text), [special], ["Relu"])
    assert outcome.edits == []
