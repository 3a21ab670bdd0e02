"""What depends on constants alone is folded in the bodies of If and Loop too."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants

HEAD = '<ir_version: 8, opset_import: ["" : 18]> g '

BRANCH = """(bool c, float[4, n] x) => (float[k, n] y) <int64 zero = {0}, int64[1] two = {2}> {
  y = If (c) <
    then_branch = a () => (float[k, n] p) {
      at = Constant <value_ints = [0]> () axis = Unsqueeze (zero, at) start = Constant <value_ints = [1]> ()
      end = Add (start, two) p = Slice (x, start, end, axis) },
    else_branch = b () => (float[k, n] q) {
      none = Constant <value_ints = [0]> () q = Slice (x, none, two, none) }
  >
}"""

NESTED = """(int64 n, bool c, float[3] x) => (float[3] y) <float[1] one = {1.0}> {
  go = Constant <value = bool {1}> ()
  y = Loop (n, go, x) <
    body = l (int64 i, bool t, float[3] v) => (bool on, float[3] w) {
      half = Constant <value_float = 0.5> () step = Mul (half, one) on = Identity (t)
      w = If (c) <
        then_branch = a () => (float[3] p) { two = Add (step, step) more = Add (two, step) p = Add (v, more) },
        else_branch = b () => (float[3] q) { q = Sub (v, step) }
      >
    }
  >
}"""


def folded(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    before = parser.parse_model(HEAD + text)
    graph, header = import_graph(before)
    removed = fold_constants(graph).removed
    return before, export_graph(graph, header), removed


def operators(model: onnx.ModelProto) -> list[str]:
    def walk(graph: onnx.GraphProto) -> list[str]:
        found = []
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    found += walk(attribute.g)
        return sorted(found)

    return walk(model.graph)


def test_the_axis_of_a_slice_in_a_branch() -> None:
    before, after, removed = folded(BRANCH)
    assert removed >= 4
    assert operators(after) == ["Constant", "If", "Slice", "Slice"]
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for choice in (True, False):
        feeds = {"c": np.array(choice), "x": x}
        np.testing.assert_array_equal(Evaluator(after).run(feeds)["y"], Evaluator(before).run(feeds)["y"])


def test_a_branch_in_a_loop_that_reads_what_the_loop_folds() -> None:
    before, after, _ = folded(NESTED)
    assert not {"Mul", "Constant"} & set(operators(after))
    assert operators(after).count("Add") == 1
    for choice in (True, False):
        feeds = {"n": np.array(3), "c": np.array(choice), "x": np.array([1, 2, 3], np.float32)}
        np.testing.assert_array_equal(Evaluator(after).run(feeds)["y"], Evaluator(before).run(feeds)["y"])


def test_a_second_time_changes_nothing() -> None:
    graph, header = import_graph(parser.parse_model(HEAD + NESTED))
    fold_constants(graph)
    first = export_graph(graph, header).SerializeToString(deterministic=True)
    assert fold_constants(graph).removed == 0
    assert export_graph(graph, header).SerializeToString(deterministic=True) == first
