"""Matching patterns of several nodes: what matches, what must not, and what a failure says."""

from __future__ import annotations

import onnx.parser
import pytest

from surgery.graph.convert import import_graph
from surgery.graph.fold import lift_constants
from surgery.graph.matching import Match, Mismatch, Scope
from surgery.graph.pattern import (
    Pattern,
    absent,
    attr,
    constant,
    either,
    op,
    optional,
    rest,
    value,
)

SIGMOID = op("Mul", value("x"), op("Sigmoid", value("x")))


def find(text: str, pattern: Pattern | object, *, opset: int = 18, at: str | None = None) -> Match | Mismatch:
    """Match at the node that makes `at`, or the graph's first output."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    graph, _ = import_graph(model)
    lift_constants(graph)
    name = at or graph.outputs[0].name
    node = next(n for n in graph.nodes if any(t.name == name for t in n.outputs))
    whole = pattern if isinstance(pattern, Pattern) else Pattern(pattern)  # type: ignore[arg-type]
    return whole.match(node, Scope(graph, opset))


def matched(text: str, pattern: Pattern | object, **options: object) -> Match:
    found = find(text, pattern, **options)  # type: ignore[arg-type]
    assert isinstance(found, Match), str(found)
    return found


def failed(text: str, pattern: Pattern | object, **options: object) -> str:
    found = find(text, pattern, **options)  # type: ignore[arg-type]
    assert isinstance(found, Mismatch)
    return str(found)


# -- what matches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("operands", ["x, s", "s, x"])
def test_operands_of_commutative_operators_match_in_any_order(operands: str) -> None:
    found = matched(f"(float[2] x) => (float[2] y) {{ s = Sigmoid (x) y = Mul ({operands}) }}", SIGMOID)
    assert [n.op for n in found.nodes] == ["Mul", "Sigmoid"]
    assert found.tensors["x"].name == "x"
    assert [t.name for t in found.outputs] == ["y"]


def test_operands_of_others_do_not() -> None:
    text = "(float[2] x) => (float[2] y) { s = Sigmoid (x) y = Sub (s, x) }"
    assert "is made by no node here" in failed(text, op("Sub", value("x"), op("Sigmoid", value("x"))))


def test_every_assignment_of_three_operands_is_tried() -> None:
    pattern = op("Sum", op("Relu", value("a")), op("Exp", value("b")), value("c"))
    for order in ("r, e, z", "z, r, e", "e, z, r"):
        found = matched(
            f"(float[2] x, float[2] z) => (float[2] y) {{ r = Relu (x) e = Exp (x) y = Sum ({order}) }}",
            pattern,
        )
        assert found.tensors["c"].name == "z"


def test_a_wrong_first_choice_is_taken_back() -> None:
    # Either operand is a Mul; only with the second as `first` does the rest fit.
    pattern = op("Add", op("Mul", value("a"), constant(equals=2)), op("Mul", value("a"), value("b")))
    text = (
        "(float[2] x, float[2] z) => (float[2] y) "
        "{ two = Constant <value_float = 2.0> () p = Mul (x, z) q = Mul (two, x) y = Add (p, q) }"
    )
    found = matched(text, pattern)
    assert (found.tensors["a"].name, found.tensors["b"].name) == ("x", "z")


def test_one_object_at_two_places_is_one_node() -> None:
    shared = op("Exp", value("x"))
    pattern = op("Div", shared, op("Add", shared, constant(equals=1)))
    one = "{ c = Constant <value_float = 1.0> () e = Exp (x) a = Add (e, c) y = Div (e, a) }"
    two = "{ c = Constant <value_float = 1.0> () e = Exp (x) f = Exp (x) a = Add (f, c) y = Div (e, a) }"
    assert len(matched(f"(float[2] x) => (float[2] y) {one}", pattern).nodes) == 3
    assert "is not Exp" in failed(f"(float[2] x) => (float[2] y) {two}", pattern)


@pytest.mark.parametrize("kind", ["Relu", "Elu"])
def test_alternatives(kind: str) -> None:
    text = f"(float[2] x) => (float[2] y) {{ r = {kind} (x) y = Exp (r) }}"
    assert matched(text, op("Exp", op(("Relu", "Elu"), value("x"))))
    assert matched(text, op("Exp", either(op("Relu", value("x")), op("Elu", value("x")))))
    wrong = failed(text, op("Exp", either(op("Tanh", value("x")), op("Selu", value("x")))))
    assert f"is made by {kind}, not by Tanh" in wrong


def test_alternatives_of_the_first_node() -> None:
    pattern = Pattern(either(op("Relu", op("Exp", value("x"))), op("Tanh", op("Log", value("x")))))
    assert pattern.heads == {("", "Relu"), ("", "Tanh")}
    assert pattern.ops == ("Relu", "Exp", "Tanh", "Log")
    assert matched("(float[2] x) => (float[2] y) { l = Log (x) y = Tanh (l) }", pattern)
    assert failed("(float[2] x) => (float[2] y) { l = Exp (x) y = Tanh (l) }", pattern)


@pytest.mark.parametrize(
    ("operands", "low", "high"), [("x, a, b", 1, 1), ("x, a", 1, 0), ("x, , b", 0, 1), ("x", 0, 0)]
)
def test_optional_inputs(operands: str, low: int, high: int) -> None:
    text = (
        "(float[2] x) => (float[2] y) { a = Constant <value_float = 0.0> () b = Constant <value_float = 6.0> () "
        f"y = Clip ({operands}) }}"
    )
    found = matched(text, op("Clip", value("x"), optional(constant("low")), optional(constant("high"))))
    assert ("low" in found.tensors, "high" in found.tensors) == (bool(low), bool(high))


def test_inputs_that_have_to_be_absent() -> None:
    text = "(float[2] x, float a) => (float[2] y) {{ y = Clip ({}) }}"
    pattern = op("Clip", value("x"), absent(), optional(value("high")))
    assert matched(text.format("x, , a"), pattern)
    assert "input 1 is given" in failed(text.format("x, a"), pattern)
    assert "has 2 inputs, not 1" in failed(text.format("x, a"), op("Clip", value("x")))
    assert "input 1 is left out" in failed(text.format("x"), op("Clip", value("x"), value("low")))


def test_any_number_of_inputs() -> None:
    text = "(float[2] a, float[2] b, float[2] c) => (float[6] y) { y = Concat <axis = 0> (a, b, c) }"
    found = matched(text, op("Concat", value("first"), rest("others"), attrs={"axis": attr("axis")}))
    assert [t.name for t in found.lists["others"]] == ["b", "c"]
    assert found.attributes["axis"] == 0
    assert "not at least 4" in failed(text, op("Concat", rest("all", least=4)))


# -- constants and attributes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("literal", "wanted", "fits"),
    [
        ("value_float = 2.0", 2, True),
        ("value_float = 2.0", 2.1, False),
        ("value_int = 2", 2.0, True),
        ("value_float = 0.7978846", 0.7978845608028654, True),
        ("value_float = 0.79788", 0.7978845608028654, False),
        ("value = float[1, 1] {2.0}", 2, True),
        ("value = float[2] {1.0, 2.0}", [1, 2], True),
        ("value = float[2] {1.0, 2.0}", [[1, 2]], False),
        ("value = float16 {14336}", 0.5, True),
    ],
)
def test_constants_match_by_value(literal: str, wanted: object, fits: bool) -> None:
    text = f"(float[2] x) => (float[2] y) {{ c = Constant <{literal}> () y = Mul (x, c) }}"
    found = find(text, op("Mul", value("x"), constant("c", equals=wanted)))
    assert isinstance(found, Match) == fits


def test_predicates() -> None:
    def positive(tensor: object) -> bool:
        return bool((tensor.value > 0).all())  # type: ignore[attr-defined]

    text = "(float[2] x) => (float[2] y) {{ c = Constant <value_floats = [{}, 1.0]> () y = Pow (x, c) }}"
    pattern = op("Pow", value("x", where=lambda t: t.shape == (2,)), constant("c", where=positive))
    assert matched(text.format("2.0"), pattern)
    assert "is not the constant it has to be" in failed(text.format("-2.0"), pattern)
    narrow = op("Pow", value("x", where=lambda t: t.shape == (3,)), constant())
    assert "is not what x has to be" in failed(text.format("2.0"), narrow)


def test_what_is_not_constant() -> None:
    text = "(float[2] x, float[2] z) => (float[2] y) { y = Pow (x, z) }"
    assert "input 1 ('z') is not constant" in failed(text, op("Pow", value("x"), constant("c")))


def test_attributes_and_their_defaults() -> None:
    text = "(float[2, 3] x) => (float[2, 3] y) {{ y = Softmax {} (x) }}"
    last = op("Softmax", value("x"), attrs={"axis": -1})
    assert matched(text.format("<axis = -1>"), last)
    assert matched(text.format(""), last)  # the schema's default
    assert "attribute axis is 0, not -1" in failed(text.format("<axis = 0>"), last)
    assert matched(text.format("<axis = 0>"), op("Softmax", value("x")))
    exact = op("Softmax", value("x"), exact=True)
    assert matched(text.format("<axis = -1>"), exact)
    assert "attribute axis is 0, which the pattern does not have" in failed(text.format("<axis = 0>"), exact)
    assert matched(text.format(""), op("Softmax", value("x"), attrs={"axis": lambda a: a < 0}))


def test_an_attribute_captured_twice_is_the_same() -> None:
    pattern = op("Softmax", op("Softmax", value("x"), attrs={"axis": attr("a")}), attrs={"axis": attr("a")})
    text = "(float[2, 3] x) => (float[2, 3] y) {{ s = Softmax <axis = {}> (x) y = Softmax <axis = 1> (s) }}"
    assert matched(text.format(1), pattern).attributes == {"a": 1}
    assert "attribute axis is 0, not 1" in failed(text.format(0), pattern)


def test_equal_constants_are_one_operand() -> None:
    text = (
        "(float[2] x) => (float[2] y) {{ a = Constant <value_float = 3.0> () b = Constant <value_float = {}> () "
        "p = Mul (x, a) y = Sub (p, b) }}"
    )
    pattern = op("Sub", op("Mul", value("x"), value("c")), value("c"))
    assert matched(text.format("3.0"), pattern)
    assert "input 1 is 'b', not 'a' as before" in failed(text.format("4.0"), pattern)


# -- several outputs ------------------------------------------------------------------------------------


def test_two_outputs_of_one_node() -> None:
    top = op("TopK", op("Neg", value("x")), constant("k"))
    text = (
        "(float[5] x) => (float[2] v, int64[2] i) "
        "{ k = Constant <value_ints = [2]> () n = Neg (x) v, i = TopK (n, k) }"
    )
    found = matched(text, Pattern(top, top.out(1)))
    assert [t.name for t in found.outputs] == ["v", "i"]
    # With one output alone, the other one is a value inside that is an output of the graph.
    assert "'i' is inside of the match and an output of the graph" in failed(text, top)


def test_outputs_of_several_nodes() -> None:
    text = "(float[5] x) => (float[5] y, float[5] z) { e = Exp (x) o = Relu (x) y = Neg (e) z = Sqrt (e) }"
    shared = op("Exp", value("x"))
    found = matched(text, Pattern(op("Neg", shared), op("Sqrt", shared)))
    assert [t.name for t in found.outputs] == ["y", "z"]
    assert failed(text, Pattern(op("Neg", shared), op("Tanh", shared)))


def test_an_output_that_has_to_be_unused() -> None:
    text = (
        "(float[5, 2] x) => (float y{}) {{ k = Constant <value_ints = [2]> () v, i = TopK (x, k) "
        "y = ReduceMax <keepdims = 0> (v) {} }}"
    )
    pattern = op("ReduceMax", op("TopK", value("x"), constant("k"), unused=[1]))
    assert matched(text.format("", ""), pattern)
    assert "output 1 ('i') is used" in failed(text.format(", int64[5, 2] z", "z = Identity (i)"), pattern)


# -- legality -------------------------------------------------------------------------------------------


def test_a_value_inside_must_not_be_read_outside() -> None:
    text = "(float[2] x) => (float[2] y, float[2] z) { s = Sigmoid (x) y = Mul (x, s) [other] z = Exp (s) }"
    assert failed(text, SIGMOID).endswith("'s' is inside of the match and read by Exp 'other' outside")


def test_a_value_inside_must_not_be_an_output() -> None:
    text = "(float[2] x) => (float[2] y, float[2] s) { s = Sigmoid (x) y = Mul (x, s) }"
    assert failed(text, SIGMOID).endswith("'s' is inside of the match and an output of the graph")


def test_a_value_inside_must_not_be_read_by_a_body() -> None:
    text = (
        "(float[2] x, bool c) => (float[2] y, float[2] z) { s = Sigmoid (x) y = Mul (x, s) "
        "[branch] z = If (c) <then_branch = t () => (float[2] a) { a = Neg (s) }, "
        "else_branch = e () => (float[2] b) { b = Exp (x) }> }"
    )
    assert failed(text, SIGMOID).endswith("read by If 'branch' outside")


def test_a_node_that_stays_may_be_read() -> None:
    text = "(float[2] x) => (float[2] y, float[2] z) { s = Sigmoid (x) y = Mul (x, s) z = Exp (s) }"
    found = matched(text, op("Mul", value("x"), op("Sigmoid", value("x"), keep=True)))
    assert [n.op for n in found.nodes] == ["Mul"]
    assert [n.op for n in found.kept] == ["Sigmoid"]


def test_a_cut_must_not_contain_a_path_through_the_outside() -> None:
    # y is made from e by way of Tanh, which is not in the pattern: one node for both would need its own result.
    text = "(float[2] x) => (float[2] y) { e = Exp (x) z = Neg (e) t = Tanh (z) y = Mul (e, t) }"
    shared = op("Exp", value("x"))
    pattern = Pattern(op("Mul", shared, value("t")), op("Neg", shared))
    assert "a path leaves the match and comes back through Tanh" in failed(text, pattern)
    fine = "(float[2] x, float[2] t) => (float[2] y, float[2] z) { e = Exp (x) z = Neg (e) y = Mul (e, t) }"
    assert matched(fine, pattern)


def test_a_match_stays_in_its_graph() -> None:
    text = (
        "(float[2] x, bool c) => (float[2] z) { s = Sigmoid (x) "
        "z = If (c) <then_branch = t () => (float[2] a) { a = Mul (x, s) }, "
        "else_branch = e () => (float[2] b) { b = Exp (x) }> }"
    )
    graph, _ = import_graph(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}'))
    branch = graph.nodes[1].attrs["then_branch"]
    found = Pattern(SIGMOID).match(branch.nodes[0], Scope(branch, 18))
    assert isinstance(found, Mismatch)
    assert "no input is made by Sigmoid" in str(found)


def test_domains_differ() -> None:
    text = "(float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g {text}'
    )
    graph, _ = import_graph(model)
    scope = Scope(graph, 20)
    assert isinstance(Pattern(op("Gelu", value("x"))).match(graph.nodes[0], scope), Mismatch)
    assert isinstance(
        Pattern(op("Gelu", value("x"), domain="com.microsoft")).match(graph.nodes[0], scope), Match
    )


def test_the_failure_that_came_furthest_is_told() -> None:
    text = (
        "(float[2] x) => (float[2] y) { c = Constant <value_float = 3.0> () "
        "[inner] a = Add (x, c) s = Sigmoid (a) y = Mul (x, s) }"
    )
    pattern = op("Mul", value("x"), op("Sigmoid", op("Add", value("x"), constant(equals=1))))
    assert failed(text, pattern) == "at inner (Add): input 1 is 3.0, not 1"


def test_a_pattern_without_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one output"):
        Pattern()
