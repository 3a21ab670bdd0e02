from __future__ import annotations

from typing import Any

from onnx import parser

from surgery.graph.convert import import_graph
from surgery.graph.measure import measure


def measured(text: str) -> tuple[bool, dict[str, Any]]:
    graph, _ = import_graph(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}'))
    tensors = [t for n in graph.nodes for t in n.outputs]
    return measure(graph, tensors), {t.name: t.shape for t in tensors}


def test_dims_that_stay_the_same_become_numbers() -> None:
    changed, found = measured(
        "(float[n, 3, h, w] x) => (float y) <int64[3] s = {0, 3, -1}> { r = Reshape (x, s)"
        " t = Transpose <perm = [1, 0, 2]> (r)"
        " y = ReduceMax (t) }"
    )
    assert changed
    assert found["r"] == ["n", 3, None]
    assert found["t"] == [3, "n", None]


def test_whole_numbers_that_may_be_sizes_are_not_guessed() -> None:
    changed, found = measured("(float[2, 3] x, int64[2] s) => (float y) { r = Expand (x, s) y = Exp (r) }")
    assert not changed
    assert found["r"] is None


def test_a_model_that_does_not_run_shows_nothing() -> None:
    changed, _ = measured(
        "(float[n, 5] x) => (float y) <int64[2] s = {7, 11}> { r = Reshape (x, s) y = Exp (r) }"
    )
    assert not changed


def test_steps_of_256_pixels_are_seen() -> None:
    changed, found = measured(
        "(float[n, 3, h, w] x) => (float y) { r = AveragePool <kernel_shape = [256, 256], strides = [256, 256],"
        " ceil_mode = 1> (x) s = Shape (r) y = Reshape (r, s) }"
    )
    assert not changed or found["r"][2:] != [2, 2]
    assert not isinstance(found["y"][2] if found["y"] else None, int)
