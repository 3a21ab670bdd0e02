"""Shapes that onnx finds only in newer operator sets are found for older ones too."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from surgery.graph.convert import import_graph
from surgery.graph.infer import infer_types
from surgery.graph.newer import write_newer


def parse(text: str, opset: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["" : {opset}]> g {text}')


RESHAPED = """(float[n, 6, h, w] x) => (y) <int64 first = {0}, int64[2] rest = {6, -1}>
    { s = Shape (x) b = Gather (s, first) u = Unsqueeze <axes = [0]> (b) t = Concat <axis = 0> (u, rest)
      r = Reshape (x, t) y = Sigmoid (r) }"""


@pytest.mark.parametrize("opset", [11, 12])
def test_a_reshape_to_sizes_that_are_computed_has_a_rank(opset: int) -> None:
    graph, _ = import_graph(parse(RESHAPED, opset))
    infer_types(graph)
    shape = graph.outputs[0].shape
    assert shape is not None
    assert (len(shape), shape[1]) == (3, 6)


def test_nodes_stay_where_they_are_and_the_model_is_valid() -> None:
    text = """(float[1, 1, 4] x, bool c) => (float[4] z, float[1, 1] s, float[1, 1, 2] a, float[1, 1, 2] d)
    { w = If (c) <then_branch = t () => (float[1, 4] y) { y = Squeeze <axes = [0]> (x) },
                  else_branch = e () => (float[1, 4] y) { y = ReduceSum <axes = [0], keepdims = 0> (x) }>
      z = Squeeze (w) s = ReduceSum <axes = [-1], keepdims = 0> (x) a, d = Split <axis = 2, split = [2, 2]> (x)
      o = Dropout <ratio = 0.5> (x) }"""
    model = parse(text, 11)
    before = [n.op_type for n in model.graph.node]
    assert write_newer(model)
    assert [n.op_type for n in model.graph.node] == before
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", [9, 14, 18])
def test_other_operator_sets_are_left_alone(opset: int) -> None:
    model = parse("(float[2] x) => (float[2] y) { y = Relu (x) }", opset)
    before = model.SerializeToString()
    assert not write_newer(model)
    assert model.SerializeToString() == before
