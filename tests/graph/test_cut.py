"""Cuts: properties that hold for every graph, and the two ways of finding them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import ConfigError
from surgery.graph.convert import export_graph, extract, import_graph
from surgery.graph.cut import cut_by_boundary, cut_by_scope, make_cut
from surgery.graph.evaluate import Evaluator
from surgery.graph.view import View


@st.composite
def graphs(draw: st.DrawFn) -> gs.Graph:
    """A random acyclic graph of unary and binary float nodes over two inputs."""
    count = draw(st.integers(2, 14))
    inputs = [gs.Variable(f"x{i}", dtype=np.float32, shape=[2]) for i in range(2)]
    tensors = list(inputs)
    nodes = []
    for i in range(count):
        op = draw(st.sampled_from(["Relu", "Neg", "Add", "Mul", "Sub"]))
        arity = 1 if op in ("Relu", "Neg") else 2
        operands = [tensors[draw(st.integers(0, len(tensors) - 1))] for _ in range(arity)]
        out = gs.Variable(f"t{i}", dtype=np.float32, shape=[2])
        nodes.append(gs.Node(op, f"n{i}", {}, operands, [out]))
        tensors.append(out)
    loose = [t for t in tensors[2:] if not t.outputs] or tensors[-1:]
    order = draw(st.permutations(range(count)))
    return gs.Graph([nodes[i] for i in order], inputs, loose, opset=17, ir_version=8)


@given(graphs(), st.data())
@settings(max_examples=150, deadline=None)
def test_the_hull_is_convex_and_smallest(graph: gs.Graph, data: st.DataObject) -> None:
    view = View(graph)
    seeds = data.draw(st.sets(st.integers(0, len(view.nodes) - 1), min_size=1))
    hull = view.between(seeds)
    assert seeds <= hull
    assert view.is_convex(hull)
    for key in hull - seeds:  # every added node is needed: it lies between two seeds
        assert view.ancestors([key]) & seeds
        assert view.descendants([key]) & seeds


@given(graphs(), st.data())
@settings(max_examples=150, deadline=None)
def test_convexity_agrees_with_its_definition(graph: gs.Graph, data: st.DataObject) -> None:
    view = View(graph)
    keys = data.draw(st.sets(st.integers(0, len(view.nodes) - 1), min_size=1))
    outside = set(range(len(view.nodes))) - keys
    leaves_and_returns = any(
        (view.ancestors([k]) - {k}) & keys and (view.descendants([k]) - {k}) & keys for k in outside
    )
    assert view.is_convex(keys) == (not leaves_and_returns)


@given(graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_cut_computes_what_it_computed_in_the_graph(graph: gs.Graph, data: st.DataObject) -> None:
    view = View(graph)
    hull = view.between(data.draw(st.sets(st.integers(0, len(view.nodes) - 1), min_size=1)))
    cut = make_cut(view, "piece", hull, "test")
    names = [t.name for n in view.nodes for t in n.outputs]
    ordered = sorted(range(len(view.nodes)), key=lambda k: view.order[k])
    whole = extract(graph, [view.nodes[k] for k in ordered], ["x0", "x1"], names)
    feeds = {"x0": np.asarray([1.5, -2], np.float32), "x1": np.asarray([0.5, 3], np.float32)}
    values = {**feeds, **Evaluator(whole).run(feeds)}
    piece = extract(graph, cut.nodes(view), cut.inputs, cut.outputs)
    got = Evaluator(piece).run({n: values[n] for n in cut.inputs})
    assert list(got) == list(cut.outputs)
    for name, value in got.items():
        np.testing.assert_array_equal(value, values[name])


@given(graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_inputs_and_outputs_are_in_order_whatever_the_order_of_the_nodes(
    graph: gs.Graph, data: st.DataObject
) -> None:
    view = View(graph)
    seeds = data.draw(st.sets(st.sampled_from([n.name for n in view.nodes]), min_size=1))

    def cut_of(v: View) -> tuple[set[str], tuple[str, ...], tuple[str, ...]]:
        keys = v.between(k for k, n in enumerate(v.nodes) if n.name in seeds)
        cut = make_cut(v, "c", keys, "test")
        return {n.name for n in cut.nodes(v)}, cut.inputs, cut.outputs

    nodes, inputs, outputs = cut_of(view)
    produced = {t.name for n in view.nodes if n.name in nodes for t in n.outputs}
    assert not set(inputs) & produced
    assert len(set(inputs)) == len(inputs)
    assert len(set(outputs)) == len(outputs)
    assert cut_of(View(graph)) == (nodes, inputs, outputs)


def scoped() -> gs.Graph:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2] image) => (float[1, 2] out) {
        ["ToFloat"] "ToFloat:0" = Identity (image)
        ["Preprocessor/mul"] "Preprocessor/mul:0" = Neg ("ToFloat:0")
        ["helper__7"] h = Abs ("Preprocessor/mul:0")
        ["Preprocessor/sub"] "Preprocessor/sub:0" = Neg (h)
        ["Net/a"] a = Relu ("Preprocessor/sub:0")
        ["Net/Preprocessor_like"] b = Relu (a)
        ["Postprocessor/x"] c = Neg (b)
        ["add"] out = Abs (c)
    }
    """
    graph, _ = import_graph(onnx.parser.parse_model(text))
    return graph


def names(view: View, cut: object) -> list[str]:
    return [n.name for n in cut.nodes(view)]  # type: ignore[attr-defined]


def test_a_scope_takes_in_what_lies_between() -> None:
    view = View(scoped())
    cut = cut_by_scope(view, "pre", ["Preprocessor"])
    assert cut is not None
    assert names(view, cut) == ["Preprocessor/mul", "helper__7", "Preprocessor/sub"]
    assert cut.inputs == ("ToFloat:0",)
    assert cut.outputs == ("Preprocessor/sub:0",)


def test_growing_back_and_forward() -> None:
    view = View(scoped())
    back = cut_by_scope(view, "pre", ["Preprocessor"], grow="back")
    forward = cut_by_scope(view, "post", ["Postprocessor"], grow="forward")
    assert back is not None
    assert forward is not None
    assert names(view, back)[0] == "ToFloat"
    assert back.inputs == ("image",)
    assert names(view, forward) == ["Postprocessor/x", "add"]
    assert forward.outputs == ("out",)


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ("ToFloat", ["ToFloat"]),
        ("**/a", ["Net/a"]),
        ("Net", ["Net/a", "Net/Preprocessor_like"]),
        ("Pre", []),
        ("*/sub", ["Preprocessor/sub"]),
    ],
)
def test_scope_patterns(scope: str, found: list[str]) -> None:
    view = View(scoped())
    cut = cut_by_scope(view, "c", [scope])
    assert (names(view, cut) if cut else []) == found


def test_boundary_tensors() -> None:
    view = View(scoped())
    cut = cut_by_boundary(view, "c", ["Preprocessor/sub:0"], ["c"])
    assert cut is not None
    assert names(view, cut) == ["Net/a", "Net/Preprocessor_like", "Postprocessor/x"]
    open_end = cut_by_boundary(view, "c", ["b"], [])
    assert open_end is not None
    assert names(view, open_end) == ["Postprocessor/x", "add"]
    assert cut_by_boundary(view, "c", ["nowhere"], ["nothing"]) is None


def test_a_boundary_with_one_wrong_name_says_which() -> None:
    with pytest.raises(ConfigError, match="'Preprocessor/sub:1'") as caught:
        cut_by_boundary(View(scoped()), "c", ["Preprocessor/sub:1"], ["c"])
    assert caught.value.fix is not None
    assert "Preprocessor/sub:0" in caught.value.fix


def test_a_boundary_that_does_not_close() -> None:
    graph = scoped()
    view = View(graph)
    text = view.nodes[0]
    extra = gs.Node("Add", "both", {}, [view.nodes[-1].outputs[0], text.outputs[0]], [gs.Variable("d")])
    graph.nodes.append(extra)
    graph.outputs = [extra.outputs[0]]
    with pytest.raises(ConfigError, match=r"not convex|also depends on"):
        cut_by_boundary(View(graph), "c", ["b"], ["d"])


def test_a_set_that_is_not_convex_is_refused() -> None:
    view = View(scoped())
    with pytest.raises(ConfigError, match="not convex"):
        make_cut(view, "c", [1, 3], "test")


def test_a_loop_belongs_to_the_scope_of_its_body() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x, int64 n) => (float[2] y) {
        t = Constant <value = bool {1}> ()
        ["generic_loop"] y = Loop (n, t, x) <body = b (int64 i, bool c, float[2] s) => (bool c2, float[2] r) {
            c2 = Identity (c)
            ["Pre/while/add"] r = Add (s, s)
        }>
    }
    """
    graph, _ = import_graph(onnx.parser.parse_model(text))
    view = View(graph)
    cut = cut_by_scope(view, "c", ["Pre"])
    assert cut is not None
    assert names(view, cut) == ["generic_loop"]
    assert export_graph(graph).graph.node[-1].op_type == "Loop"
