"""Pairs of functions and patterns with builders, applied: what is written, proven, rolled back, and told."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.pattern import Pattern, constant, op, rest, value
from surgery.graph.tidy import drop_dead
from surgery.rules.engine.pair import Pair, PatternRule, RuleTextError, pair, pattern_rule
from surgery.rules.engine.rule import Lowering, NoMatch, Sample, lowering
from surgery.rules.engine.run import Engine, Outcome

WHY = "only in these tests"


def made(before: str, after: str, **options: Any) -> Pair:
    options.setdefault("when", "always")
    return pair("rule", before=before, after=after, why=WHY, samples=["() => () {}"], **options)


def apply(
    text: str, *rules: Any, opset: int = 18, takes: Any = lambda *_: True, prove: bool = True
) -> tuple[onnx.ModelProto, Outcome]:
    """Apply rules; the result computes what the model computed."""
    domains = ', "com.microsoft" : 1' if "com.microsoft" in text else ""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{domains}]> g {text}')
    graph, header = import_graph(model)
    engine = Engine(rules, takes, optional=[r.name for r in rules])
    provenance: dict[str, dict[str, str]] = {}
    outcome = engine.run(graph, provenance)
    drop_dead(graph)
    result = export_graph(graph, header, provenance=provenance)
    if prove:
        same(model, result)
    return result, outcome


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    rng = np.random.default_rng(0)
    feeds = {}
    for value_info in before.graph.input:
        tensor = value_info.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        feeds[value_info.name] = rng.normal(size=[d.dim_value or 3 for d in tensor.shape.dim]).astype(dtype)
    expected, found = Evaluator(before).run(feeds), Evaluator(after).run(feeds)
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


SQUARE = made(
    "(x) => (y) { two = Constant <value_float = 2.0> () y = Pow (x, two) }", "(x) => (y) { y = Mul (x, x) }"
)

# -- pairs ----------------------------------------------------------------------------------------------


def test_one_function_takes_the_place_of_the_other() -> None:
    model, outcome = apply(
        "(float[n, 2] x) => (float[n, 2] y) { c = Constant <value_float = 2.0> () "
        "r = Relu (x) p = Pow (r, c) y = Neg (p) }",
        SQUARE,
    )
    assert kinds(model) == ["Relu", "Mul", "Neg"]
    (edit,) = outcome.edits
    assert (edit.rule, edit.kind, edit.verified) == ("rule", "pair", "passed")
    metadata = {p.key: p.value for p in model.graph.node[1].metadata_props}
    assert metadata["surgery.rule"] == "rule"


def test_constants_match_in_other_dtypes_and_are_written_in_the_operands() -> None:
    halves = made(
        "(x) => (y) { h = Constant <value_float = 0.5> () y = Mul (x, h) }",
        "(x) => (y) { t = Constant <value_float = 2.0> () l = CastLike (t, x) y = Div (x, l) }",
    )
    model, outcome = apply(
        "(double[2] x) => (double[2] y) { h = Constant <value = double {0.5}> () y = Mul (h, x) }", halves
    )
    assert kinds(model) == ["Div"]
    assert model.graph.initializer[0].data_type == onnx.TensorProto.DOUBLE
    assert outcome.edits[0].verified == "passed"


def test_attributes_are_captured_and_bound() -> None:
    leaky = made(
        "<alpha: float> (x) => (y) { y = LeakyRelu <alpha: float = @alpha> (x) }",
        "<alpha: float> (x) => (y) { a = Constant <value_float: float = @alpha> () "
        "p = Relu (x) n = Neg (x) m = Relu (n) s = Mul (m, a) y = Sub (p, s) }",
    )
    _, outcome = apply("(float[4] x) => (float[4] y) { y = LeakyRelu <alpha = 0.25> (x) }", leaky)
    assert outcome.edits[0].verified == "passed"
    _, outcome = apply("(float[4] x) => (float[4] y) { y = LeakyRelu (x) }", leaky)  # the schema's default
    assert outcome.edits[0].verified == "passed"


def test_values_of_constants_are_captured_as_attributes() -> None:
    norm = made(
        "<eps: float> (x, s, b) => (y) { axes = Constant <value_ints = [-1]> () "
        "e = Constant <value_float: float = @eps> () "
        "m = ReduceMean (x, axes) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (v, e) "
        "r = Sqrt (a) n = Div (d, r) t = Mul (n, s) y = Add (t, b) }",
        "<eps: float> (x, s, b) => (y) { y = LayerNormalization <epsilon: float = @eps> (x, s, b) }",
    )
    model, _ = apply(
        "(float[2, 4] x, float[4] s, float[4] b) => (float[2, 4] y) { axes = Constant <value_ints = [-1]> () "
        "e = Constant <value_float = 0.25> () m = ReduceMean (x, axes) d = Sub (x, m) q = Mul (d, d) "
        "v = ReduceMean (q, axes) a = Add (e, v) r = Sqrt (a) n = Div (d, r) t = Mul (s, n) y = Add (b, t) }",
        norm,
    )
    assert kinds(model) == ["LayerNormalization"]
    assert onnx.helper.get_node_attr_value(model.graph.node[0], "epsilon") == 0.25


def test_an_attribute_that_the_rule_does_not_know_is_a_miss() -> None:
    soft = made("(x) => (y) { y = Softmax (x) }", "(x) => (y) { l = LogSoftmax (x) y = Exp (l) }")
    text = "(float[2, 3] x) => (float[2, 3] y) {{ y = Softmax {} (x) }}"
    assert apply(text.format(""), soft)[1].edits
    _, outcome = apply(text.format("<axis = 0>"), soft)
    assert not outcome.edits
    assert "attribute axis is 0, which the pattern does not have" in outcome.nearest["rule"]


def test_two_outputs() -> None:
    both = made(
        "(x) => (s, c) { e = Exp (x) s = Neg (e) c = Sqrt (e) }",
        "(x) => (s, c) { e = Exp (x) z = Identity (e) s = Neg (z) c = Sqrt (z) }",
    )
    # Relu reads one of the outputs and stands before the node that makes the other.
    model, outcome = apply(
        "(float[3] x) => (float[3] a, float[3] c) { e = Exp (x) s = Neg (e) a = Relu (s) c = Sqrt (e) }", both
    )
    assert outcome.edits[0].nodes_after
    assert "Identity" in kinds(model)


def test_domains_of_others() -> None:
    quick = made(
        "<alpha: float = 1.702> (x) => (y) { y = com.microsoft.QuickGelu <alpha: float = @alpha> (x) }",
        "<alpha: float = 1.702> (x) => (y) { a = Constant <value_float: float = @alpha> () l = CastLike (a, x) "
        "m = Mul (x, l) s = Sigmoid (m) y = Mul (x, s) }",
    )
    model, outcome = apply("(float[n, 3] x) => (float[n, 3] y) { y = com.microsoft.QuickGelu (x) }", quick)
    assert kinds(model) == ["Mul", "Sigmoid", "Mul"]
    assert outcome.edits[0].verified == "passed"


@pytest.mark.parametrize(
    ("before", "after", "part", "message"),
    [
        ("(x) => (y) { y = Add (x x) }", "(x) => (y) { y = Neg (x) }", "before", "Expected character )"),
        ("(x) => (y) { y = Neg (x) }", "(x, z) => (y) { y = Neg (x) }", "after", "inputs x, z, before has x"),
        ("(x) => (y) { y = Neg (x) }", "(x) => (z) { z = Neg (x) }", "after", "outputs z, before has y"),
        ("(x, z) => (y) { y = Neg (x) }", "(x, z) => (y) { y = Neg (x) }", "before", "reads the input 'z'"),
        ("(x) => (y) { y = Neg (x) e = Exp (x) }", "(x) => (y) { y = Neg (x) }", "before", "depends on 'e'"),
        ("(x) => (y) { y = Neg (q) }", "(x) => (y) { y = Neg (x) }", "before", "'q', which nothing makes"),
        ("(x) => (y) { }", "(x) => (y) { y = Neg (x) }", "before", "no node makes the output 'y'"),
        (
            "(x) => (y) { y = Neg (x) }",
            "<a: float> (x) => (y) { y = LeakyRelu <alpha: float = @a> (x) }",
            "after",
            "attribute 'a' is not one of before",
        ),
        (
            "<a: float> (x) => (y) { y = Neg (x) }",
            "(x) => (y) { y = Neg (x) }",
            "before",
            "no node has the attribute 'a'",
        ),
    ],
)
def test_functions_that_are_wrong(before: str, after: str, part: str, message: str) -> None:
    with pytest.raises(RuleTextError) as caught:
        made(before, after)
    assert caught.value.part == part
    assert message in str(caught.value)


def test_where_the_text_is_wrong() -> None:
    with pytest.raises(RuleTextError) as caught:
        made("\n(x) => (y) {\n  y = Add (x x)\n}\n", "(x) => (y) { y = Neg (x) }")
    assert (caught.value.line, caught.value.column) == (3, 14)


# -- patterns with builders -----------------------------------------------------------------------------


@pattern_rule(
    "wide-concat",
    op("Concat", op("Concat", rest("inner"), name="first"), rest("outer"), name="second"),
    why=WHY,
    samples=["() => () {}"],
    when="always",
)
def wide_concat(site: Any, b: Any) -> str:
    """One Concat of all parts."""
    axes = [site.node(n).attr("axis") for n in ("first", "second")]
    if axes[0] != axes[1]:
        raise NoMatch(f"the axes are {axes[0]} and {axes[1]}")
    return b.op("Concat", *(p.name for p in (*site.rest("inner"), *site.rest("outer"))), axis=axes[0])


def test_a_builder_sees_nodes_and_lists() -> None:
    text = (
        "(float[1, 3] a, float[1, 3] b, float[{0}] c) => (float[n, m] y) "
        "{{ f = Concat <axis = 0> (a, b) y = Concat <axis = {1}> (f, c) }}"
    )
    model, outcome = apply(text.format("4, 3", 0), wide_concat)
    assert kinds(model) == ["Concat"]
    assert len(model.graph.node[0].input) == 3
    assert outcome.edits[0].kind == "pattern"
    _, outcome = apply(text.format("2, 4", 1), wide_concat)
    assert not outcome.edits
    assert "the axes are 0 and 1" in outcome.nearest["wide-concat"]


def test_rules_are_applied_to_what_rules_made() -> None:
    text = (
        "(float[1, 3] a) => (float[5, 3] y) { f = Concat <axis = 0> (a, a) g = Concat <axis = 0> (f, a) "
        "h = Concat <axis = 0> (g, a) y = Concat <axis = 0> (h, a) }"
    )
    model, outcome = apply(text, wide_concat)
    assert kinds(model) == ["Concat"]
    assert len(outcome.edits) == 3


def test_the_larger_of_two_cuts_is_taken() -> None:
    small = made("(x) => (y) { y = Sigmoid (x) }", "(x) => (y) { h = Neg (x) g = Neg (h) y = Sigmoid (g) }")
    large = pair(
        "large",
        before="(x) => (y) { s = Sigmoid (x) y = Mul (x, s) }",
        after="(x) => (y) { e = Tanh (x) z = Identity (x) s = Sigmoid (z) y = Mul (s, z) }",
        why=WHY, samples=["() => () {}"], when="always", optional=True,
    )  # fmt: skip
    _, outcome = apply("(float[3] x) => (float[3] y) { s = Sigmoid (x) y = Mul (x, s) }", small, large)
    assert outcome.edits[0].rule == "large"


# -- transactions ---------------------------------------------------------------------------------------


def test_a_replacement_that_computes_something_else_is_not_kept() -> None:
    wrong = made("(x) => (y) { y = Relu (x) }", "(x) => (y) { y = Abs (x) }")
    model, outcome = apply("(float[8] x) => (float[8] y) { [here] y = Relu (x) }", wrong)
    assert kinds(model) == ["Relu"]
    assert not outcome.edits
    (miss,) = outcome.misses
    assert (miss.node, miss.op, miss.rule) == ("here", "Relu", "rule")
    assert "output 0 is off by" in miss.reason


def test_a_replacement_that_does_not_run_is_not_kept() -> None:
    wrong = made(
        "(x) => (y) { y = Relu (x) }", "(x) => (y) { o = Constant <value_int = 0> () y = Max (x, o) }"
    )
    _, outcome = apply("(float[8] x) => (float[8] y) { y = Relu (x) }", wrong)
    assert "the replacement does not run" in outcome.misses[0].reason


def test_identical_cuts_are_proven_once_and_others_again() -> None:
    text = (
        "(float[2, 3] x, float[5] z) => (float[2, 3] a, float[2, 3] b, float[5] c) "
        "{ two = Constant <value_float = 2.0> () a = Pow (x, two) e = Exp (x) b = Pow (e, two) c = Pow (z, two) }"
    )
    _, outcome = apply(text, SQUARE)
    assert sorted(e.verified for e in outcome.edits) == ["passed", "passed", "sampled"]


def test_weights_that_no_rule_reads_do_not_split_classes() -> None:
    swap = made(
        "(x, w, b) => (y) { m = MatMul (x, w) y = Add (m, b) }", "(x, w, b) => (y) { y = Gemm (x, w, b) }"
    )
    layers = " ".join(
        f"w{i} = Constant <value = float[2, 2] {{{i}.0, 2.0, 3.0, 4.0}}> () "
        f"b{i} = Constant <value_floats = [{i}.5, 1.0]> () "
        f"m{i} = MatMul (x{i}, w{i}) x{i + 1} = Add (m{i}, b{i})"
        for i in range(5)
    )
    text = f"(float[3, 2] x0) => (float[3, 2] y) {{ {layers} y = Relu (x5) }}"
    model, outcome = apply(text, swap)
    assert kinds(model) == ["Gemm"] * 5 + ["Relu"]
    assert [e.verified for e in outcome.edits] == ["passed"] + ["sampled"] * 4


def test_weights_that_a_rule_reads_do() -> None:
    @pattern_rule("scale", op("Mul", value("x"), value("w")), why=WHY, samples=["() => () {}"], when="always")
    def scale(site: Any, b: Any) -> str:
        """Division by the reciprocals."""
        w = site.constant("w")
        return str(b.div(site.name("x"), b.const(1 / w, w.dtype)))

    weights = ["[1.0, 2.0]", "[4.0, 2.0]", "[1.0, 2.0]"]
    nodes = " ".join(
        f"w{i} = Constant <value_floats = {w}> () x{i + 1} = Mul (x{i}, w{i})" for i, w in enumerate(weights)
    )
    text = f"(float[3, 2] x0) => (float[3, 2] y) {{ {nodes} y = Relu (x3) }}"
    _, outcome = apply(text, scale)
    assert sorted(e.verified for e in outcome.edits) == ["passed", "passed", "sampled"]


def test_nothing_is_changed_where_the_target_takes_all_nodes() -> None:
    refused = made(SQUARE.before, SQUARE.after, when="refused")
    text = "(float[2] x) => (float[2] y) { c = Constant <value_float = 2.0> () y = Pow (x, c) }"
    assert not apply(text, refused)[1].edits
    assert apply(text, refused, takes=lambda site, _: site.op != "Pow")[1].edits


def test_opsets_and_targets_that_a_rule_is_not_for() -> None:
    text = "(float[2] x) => (float[2] y) { c = Constant <value_float = 2.0> () y = Pow (x, c) }"
    assert not apply(text, made(SQUARE.before, SQUARE.after, since=19))[1].edits
    assert not apply(text, made(SQUARE.before, SQUARE.after, until=17))[1].edits
    assert apply(text, made(SQUARE.before, SQUARE.after, since=17, until=18))[1].edits
    assert not apply(text, made(SQUARE.before, SQUARE.after, targets=["tensorrt-10"]))[1].edits


def test_a_rule_is_not_applied_to_what_it_wrote() -> None:
    more = made("(x) => (y) { y = Relu (x) }", "(x) => (y) { m = Neg (x) n = Relu (m) y = Add (x, n) }")
    assert len(apply("(float[2] x) => (float[2] y) { y = Relu (x) }", more)[1].edits) == 1
    there = pair(
        "there",
        before="(x) => (y) { y = Relu (x) }",
        after="(x) => (y) { z = Sub (x, x) y = Max (x, z) }",
        why=WHY, samples=["() => () {}"], when="always",
    )  # fmt: skip
    back = pair(
        "back",
        before="(x) => (y) { z = Sub (x, x) y = Max (x, z) }",
        after="(x) => (y) { y = Relu (x) }",
        why=WHY, samples=["() => () {}"], when="always",
    )  # fmt: skip
    _, outcome = apply("(float[2] x) => (float[2] y) { y = Relu (x) }", there, back)
    assert [e.rule for e in outcome.edits] == ["there", "back"]


def test_an_optional_rule_waits_to_be_asked_for() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    rule = made(
        "(x) => (y) { y = Relu (x) }", "(x) => (y) { m = Neg (x) n = Relu (m) y = Add (x, n) }", optional=True
    )
    for names, edits in (((), 0), (("rule",), 1)):
        graph, _ = import_graph(onnx.parser.parse_model(text))
        assert len(Engine([rule], lambda *_: True, optional=names).run(graph, {}).edits) == edits


# -- bodies ---------------------------------------------------------------------------------------------


def test_rules_reach_into_bodies() -> None:
    text = (
        "(float[3] x, bool c) => (float[3] z) { "
        "z = If (c) <then_branch = t () => (float[3] a) { two = Constant <value_float = 2.0> () a = Pow (x, two) }, "
        "else_branch = e () => (float[3] b) { b = Exp (x) }> }"
    )
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')
    graph, header = import_graph(model)
    outcome = Engine([SQUARE], lambda *_: True).run(graph, {})
    result = export_graph(graph, header)
    assert len(outcome.edits) == 1
    branch = onnx.helper.get_node_attr_value(result.graph.node[0], "then_branch")
    assert [n.op_type for n in branch.node] == ["Mul"]
    x = np.array([1, -2, 3], np.float32)
    for condition in (True, False):
        feeds = {"x": x, "c": np.array(condition)}
        expected, found = Evaluator(model).run(feeds), Evaluator(result).run(feeds)
        np.testing.assert_allclose(found["z"], expected["z"])


def test_a_cut_with_a_body_inside_is_left_alone() -> None:
    rule = PatternRule(
        name="branch",
        pattern=Pattern(op("If", value("c"))),
        why=WHY,
        build=lambda site, b: site.name("c"),
        samples=(Sample(""),),
        when="always",
    )
    text = (
        "(bool c) => (bool z) { z = If (c) <then_branch = t () => (bool a) { a = Identity (c) }, "
        "else_branch = e () => (bool b) { b = Not (c) }> }"
    )
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')
    graph, _ = import_graph(model)
    assert not Engine([rule], lambda *_: True).run(graph, {}).edits


# -- with rules for one operator ------------------------------------------------------------------------


@lowering("exp-by-pow", "Exp", why=WHY, samples=["() => () {}"], when="always")
def exp_by_pow(site: Any, b: Any) -> str:
    """A power of e, as Sqrt of its square."""
    return str(
        b.op("Sqrt", b.op("Pow", b.const(np.e, np.float32), b.mul(site.x(), b.const(2.0, np.float32))))
    )


def test_cuts_come_before_single_nodes_and_after_what_these_make() -> None:
    assert isinstance(exp_by_pow, Lowering)
    both = made(
        "(x) => (y) { e = Exp (x) y = Neg (e) }",
        "(x) => (y) { t = Tanh (x) e = Exp (x) n = Neg (e) z = Sub (n, t) y = Add (z, t) }",
    )
    _, outcome = apply("(float[3] x) => (float[3] y) { e = Exp (x) y = Neg (e) }", exp_by_pow, both)
    assert outcome.edits[0].rule == "rule"
    roots = pair(
        "root-of-power",
        before="(x, p) => (y) { q = Pow (x, p) y = Sqrt (q) }",
        after="(x, p) => (y) { h = Constant <value_float = 0.5> () q = Mul (p, h) y = Pow (x, q) }",
        why=WHY, samples=["() => () {}"], when="always",
    )  # fmt: skip
    model, outcome = apply("(float[3] x) => (float[3] y) { y = Exp (x) }", exp_by_pow, roots)
    assert [e.rule for e in outcome.edits] == ["exp-by-pow", "root-of-power"]
    assert kinds(model) == ["Mul", "Mul", "Pow"]


def test_the_result_is_the_same_every_time() -> None:
    text = (
        "(float[2, 3] x) => (float[2, 3] a, float[2, 3] b) { two = Constant <value_float = 2.0> () "
        "e = Exp (x) a = Pow (e, two) s = Sigmoid (x) b = Pow (s, two) }"
    )
    first, second = (
        apply(text, SQUARE, exp_by_pow)[0].SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def test_a_constant_may_be_put_in_place_of_an_output() -> None:
    ones = made(
        "(x) => (y) { z = Sub (x, x) c = Cos (z) y = Cast <to = 9> (c) }",
        "(x) => (y) { y = Constant <value = bool {1}> () }",
    )
    _, outcome = apply("(float x) => (bool y) { z = Sub (x, x) c = Cos (z) y = Cast <to = 9> (c) }", ones)
    assert outcome.edits[0].verified == "passed"


def test_constants_are_no_part_of_a_cut() -> None:
    # The constant is read outside too.
    text = (
        "(float[2] x) => (float[2] y, float[2] z) "
        "{ two = Constant <value_float = 2.0> () y = Pow (x, two) z = Add (x, two) }"
    )
    assert apply(text, SQUARE)[1].edits
    assert constant("c").name == "c"
