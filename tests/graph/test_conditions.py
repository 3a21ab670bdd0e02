"""Conditions decided by conditions around them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.graph.control_flow import resolve_control_flow
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator

SQUEEZED = """
(float[b, 3] x) => (float[c, 3] y) {
   s = Shape(x)
   zero = Constant<value_int = 0>()
   one = Constant<value_int = 1>()
   n = Gather(s, zero)
   p = Equal(n, one)
   y = If (p) <
     then_branch = a () => (float[d, 3] t) {
       zeros = Constant<value_ints = [0]>()
       ones = Constant<value_ints = [1]>()
       s2 = Shape(x)
       n2 = Gather(s2, zeros)
       p2 = INNER
       u = If (p2) <
         then_branch = aa () => (float[3] v) { v = Squeeze(x, zeros) },
         else_branch = ab () => (float[b, 3] w) { w = Identity(x) }
       >
       t = Unsqueeze(u, zeros)
     },
     else_branch = bb () => (float[e, 3] r) { r = REST(x) }
   >
}
"""


def resolve(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    graph, header = import_graph(model)
    unresolved: list = []
    resolve_control_flow(graph, unresolved=unresolved)
    return model, export_graph(graph, header), len(unresolved)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("rest", "ifs"), [("Identity", 0), ("Neg", 1)])
def test_a_size_compared_again_is_known_inside(rest: str, ifs: int, batch: int) -> None:
    text = SQUEEZED.replace("INNER", "Equal(ones, n2)").replace("REST", rest)
    model, after, _ = resolve(text)
    nodes = list(after.graph.node)
    nodes += [n for m in after.graph.node for a in m.attribute if a.HasField("g") for n in a.g.node]
    assert sum(n.op_type == "If" for n in nodes) == ifs
    feeds = {"x": np.random.default_rng(0).normal(size=(batch, 3)).astype(np.float32)}
    expected, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
    assert np.array_equal(expected["y"], got["y"])


@pytest.mark.parametrize("inner", ["Less(n2, ones)", "Equal(n2, zeros)"])
def test_another_comparison_is_not_taken_for_it(inner: str) -> None:
    _, after, unresolved = resolve(SQUEEZED.replace("INNER", inner).replace("REST", "Neg"))
    outer = next(n for n in after.graph.node if n.op_type == "If")
    assert any(n.op_type == "If" for a in outer.attribute for n in a.g.node)
    assert unresolved


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_a_negated_condition_is_the_opposite(value: float) -> None:
    text = """
    (float x, float z) => (float y) {
       p = Less(x, z)
       y = If (p) <
         then_branch = a () => (float t) {
           q = Greater(z, x)
           r = Not(q)
           t = If (r) <
             then_branch = aa () => (float v) { v = Neg(x) },
             else_branch = ab () => (float w) { w = Exp(x) }
           >
         },
         else_branch = b () => (float u) { u = Abs(x) }
       >
    }
    """
    model, after, _ = resolve(text)
    outer = next(n for n in after.graph.node if n.op_type == "If")
    inner = [n.op_type for a in outer.attribute for n in a.g.node]
    assert "If" not in inner
    assert "Exp" in inner
    feeds = {"x": np.asarray(0.5, np.float32), "z": np.asarray(value, np.float32)}
    expected, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
    assert expected["y"] == got["y"]
