"""Outputs that nothing reads are left out, where that changes nothing."""

from __future__ import annotations

import onnx.parser
import pytest

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.tidy import drop_unused_outputs

NORM = "float[3] s, float[3] c, float[3] m, float[3] v"


@pytest.mark.parametrize(
    ("opset", "text", "left"),
    [
        (18, "(float[2, 4] x, float[4] s) => (float[2, 4] y) { y, m, d = LayerNormalization (x, s) }", ["y"]),
        (
            18,
            "(float[2, 4] x, float[4] s) => (float[2, 1] d) { y, m, d = LayerNormalization (x, s) }",
            ["y", "m", "d"],
        ),
        (18, "(float[2, 4] x) => (float[2, 1] v) <int64[1] k = {1}> { v, i = TopK (x, k) }", ["v", "i"]),
        (13, "(float[4] x) => (float[2] a) { a, b = Split (x) }", ["a", "b"]),
        (
            13,
            f"(float[2, 3] x, {NORM}) => (float[2, 3] y) {{ y, a, b, d, e = BatchNormalization (x, s, c, m, v) }}",
            ["y", "a", "b", "d", "e"],
        ),
    ],
)
def test_what_is_optional_and_not_read_is_left_out(opset: int, text: str, left: list[str]) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> unused {text}')
    graph, header = import_graph(model)
    drop_unused_outputs(graph)
    found = export_graph(graph, header)
    assert list(found.graph.node[-1].output) == left


def test_an_output_that_only_a_body_reads_stays() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        unused (float[2, 4] x, float[4] s, bool t) => (float[2, 4] y, float[2, 1] z)
        {
            y, m = LayerNormalization (x, s)
            z = If (t) <
                then_branch = one () => (float[2, 1] a) { a = Neg (m) },
                else_branch = two () => (float[2, 1] b) { b = Abs (m) }
            >
        }"""
    )
    graph, _ = import_graph(model)
    assert drop_unused_outputs(graph) == 0
