"""What the target takes: the table's word, and the real builder's where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx.parser
import pytest

from surgery.begin import begin
from surgery.config import load_pipeline
from surgery.graph.infer import infer_types
from surgery.pipeline import RunOptions, State
from surgery.pipeline_files import find_pipeline
from surgery.report import Report
from surgery.rules.engine.run import Engine
from surgery.stages.oracle import Oracle
from surgery.targets import resolve_target
from surgery.trt.session import give_back
from tests.installed import installed

OTHER = "tensorrt-10.16"


@contextmanager
def state_of(text: str, target: str | None = None, opset: int = 18, imports: str = "") -> Iterator[State]:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{imports}]> g {text}')
    config = load_pipeline(find_pipeline("generic"))
    state = begin(config, model, target, RunOptions(), Report(), lambda event: None, lambda begun: None)
    infer_types(state.graph)
    try:
        yield state
    finally:
        if state.worker is not None:
            give_back(state.worker)


def refused(text: str, target: str | None = None, opset: int = 18, imports: str = "") -> list[str]:
    """Operators of the nodes that the target refuses as they stand."""
    with state_of(text, target, opset, imports) as state:
        refuses = Engine((), Oracle(state).takes, target=state.target.name).refuses(state.graph)
        return [n.op for n in state.graph.nodes if refuses(n)]


# -- from the table alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[2, 3] x) => (float[2, 3] y) { a = Relu (x) y = Exp (a) }", []),
        ("(float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }", []),
        ("(float[2, 2] x) => (float[] y) { a = Exp (x) y = Det (a) }", ["Det"]),
        ("(int32[2] x, int32[2] z) => (int32[2] y) { a = BitwiseAnd (x, z) y = Neg (a) }", ["BitwiseAnd"]),
        ("(double[2] x) => (double[2] y) { y = Exp (x) }", ["Exp"]),
        ("(float[2] x) => (uint8[2] y) { a = Cast <to = 2> (x) y = Identity (a) }", ["Cast"]),
    ],
)  # fmt: skip
def test_a_target_that_is_not_installed_is_answered_for_by_its_table(text: str, expected: list[str]) -> None:
    assert not resolve_target(OTHER).installed
    found = refused(text, OTHER)
    assert found[: len(expected)] == expected
    assert bool(found) == bool(expected)


def test_foreign_operators_are_taken_where_there_is_a_plugin() -> None:
    imports = ', "com.microsoft" : 1'
    assert refused("(float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }", OTHER, imports=imports) == [
        "Gelu"
    ]


# -- from the builder ---------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[2, 3] x) => (float[2, 3] y) { y = Softmax (x) }", []),
        # A parser narrows doubles without a word, and takes bytes alone that it refuses inside a graph.
        ("(double[2] x) => (double[2] y) { y = Exp (x) }", ["Exp"]),
        ("(float[2] x) => (float[2] y) { a = Cast <to = 2> (x) y = Cast <to = 1> (a) }", ["Cast"]),
        # The table has it; only the builder knows which configurations.
        ("(float[3, 4] x, int64 a) => (float[3, 4] y) { y = CumSum (x, a) }", ["CumSum"]),
        ("(float[3, 4] x) => (float[3, 4] y) <int64 a = {1}> { y = CumSum (x, a) }", []),
        ("(float[n, 4] x, int64[1] k) => (float[n, p] v, int64[n, p] i) { v, i = TopK (x, k) }", ["TopK"]),
        ("(float[n, 4] x) => (float[n, 2] v, int64[n, 2] i) <int64[1] k = {2}> { v, i = TopK (x, k) }", []),
        # What follows from shapes is computed on the host, and cannot be given to a node alone.
        ("(float[n, 4] x) => (float[p] y) <int64[1] z = {0}>"
         " { s = Size (x) u = Unsqueeze (s, z) y = Reshape (x, u) }", []),
        # A matrix is none of these.
        ("(float[n, 4] x) => (float[n, n] y) { s = Shape (x) z = ConstantOfShape (s)"
         ' y = Einsum <equation = "NF,MF->NM"> (z, z) }', ["Einsum"]),
        # Free dims count as sizes that go with the rest of the node.
        ("(float[n, r, s] x) => (float[n, r, 11] y) { w = Constant <value = float[1, 1, 1] {2.0}> ()"
         " t = Constant <value = int64[2] {13, 11}> () e = Expand (w, t) y = MatMul (x, e) }", []),
        ("(float[n, r, s, t] x, float[b, 4, 8, l] w) => (float[n, r, s, l] y) { y = MatMul (x, w) }", []),
        ("(float[n, r] x) => (float[n, 3] y, float[n, 9] z) <int64[2] t = {3, 9}>"
         " { y, z = Split <axis = 1> (x, t) }", []),
        ("(float[n, r] x) => (float[o, 7, 3] y) <int64[3] t = {-1, 7, 3}> { y = Reshape (x, t) }", []),
        ("(float[n, r] x) => (float[n, 9] y) <int64[1] k = {5000}, int64[1] one = {1}>"
         " { s = Identity (x) v, i = TopK (s, k) y = Slice (v, one, k, one) }", ["TopK"]),
    ],
)  # fmt: skip
def test_an_installed_target_is_asked(text: str, expected: list[str]) -> None:
    assert refused(text) == expected


@installed
def test_what_the_builder_said_is_kept_but_not_logged() -> None:
    with state_of("(float[3, 4] x, int64 a) => (float[3, 4] y) { y = CumSum (x, a) }") as state:
        oracle = Oracle(state)
        (node,) = state.graph.nodes
        before = len(state.log)
        assert Engine((), oracle.takes, target=state.target.name).refuses(state.graph)(node)
        assert list(oracle.said) == ["CumSum"]
        assert oracle.said["CumSum"]
        assert len(state.log) == before


@installed
def test_equal_nodes_are_asked_about_once() -> None:
    text = "(float[3] x) => (float[3] y) { a = Exp (x) b = Exp (a) c = Exp (b) y = Neg (c) }"
    asked: list[str] = []
    with state_of(text) as state:
        oracle = Oracle(state)

        def takes(site: object, node: onnx.NodeProto) -> bool:
            asked.append(node.op_type)
            return oracle.takes(site, node)  # type: ignore[arg-type]

        refuses = Engine((), takes, target=state.target.name).refuses(state.graph)
        assert [n.op for n in state.graph.nodes if refuses(n)] == []
    assert asked == ["Exp", "Neg"]


@installed
@pytest.mark.parametrize(
    ("body", "taken"),
    [
        ("h = Exp (a) o = Add (h, x)", True),
        ("k = NonZero (a) f = Cast <to = 1> (k) h = ReduceSum <keepdims = 0> (f) o = Add (h, x)", False),
    ],
)  # fmt: skip
def test_bodies_are_asked_about_with_what_they_capture(body: str, taken: bool) -> None:
    text = (
        "(float[2] x) => (float[2] y) <int64 n = {3}, bool g = {1}> { y = Loop (n, g, x)"
        f" <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] o) {{ d = Identity (c) {body} }}> }}"
    )
    with state_of(text) as state:
        (node,) = state.graph.nodes
        assert Oracle(state).takes_body(node) is taken
