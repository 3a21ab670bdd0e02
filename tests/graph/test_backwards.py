from __future__ import annotations

from onnx import parser

from surgery.graph.backwards import bind_declared, infer_backwards
from surgery.graph.convert import import_graph
from surgery.graph.infer import infer_types


def shapes(text: str) -> tuple[int, dict[str, object]]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    graph, _ = import_graph(model)
    infer_types(graph)
    count = infer_backwards(graph)
    return count, {t.name: t.shape for n in graph.nodes for t in n.outputs}


def test_a_declared_length_reaches_what_is_computed_from_scalars() -> None:
    count, found = shapes(
        "(float a, float z, float d) => (float[4] y) { r = Range (a, z, d) s = Mul (r, d) y = Cos (s) }"
    )
    assert count == 2
    assert found["r"] == found["s"] == [4]


def test_two_operands_that_may_broadcast_stay_open() -> None:
    count, found = shapes(
        "(float a, float z, float d) => (float[4] y) { r = Range (a, z, d) s = Range (z, a, d) y = Mul (r, s) }"
    )
    assert count == 0
    assert found["r"] != [4]


def test_operators_that_change_the_shape_stop_it() -> None:
    count, _ = shapes(
        "(float[n] x, int64[1] s) => (float[4] y) { r = Reshape (x, s) e = Exp (r) y = Concat <axis = 0> (e) }"
    )
    assert count == 0


def test_a_declared_length_is_that_of_all_that_is_made_from_it() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float a, float z, float d) => (float[4] y)'
        " { r = Range (a, z, d) s = Cos (r) t = Mul (r, d) y = Add (s, t) }"
    )
    graph, _ = import_graph(model)
    infer_types(graph)
    assert infer_backwards(graph) == 0  # either of two operands may be the one that is repeated
    assert bind_declared(graph) == 1
    assert graph.nodes[0].outputs[0].shape == [4]


def test_an_output_of_free_size_binds_nothing() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float a, float z, float d) => (float[n] y)'
        " { r = Range (a, z, d) y = Cos (r) }"
    )
    graph, _ = import_graph(model)
    infer_types(graph)
    assert bind_declared(graph) == 0
