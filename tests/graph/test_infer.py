"""Types behind operators that ONNX has no schema of, and inside bodies."""

from __future__ import annotations

import numpy as np
import onnx.parser

from surgery.graph.convert import import_graph
from surgery.graph.infer import infer_foreign_types, infer_types


def test_a_type_without_a_shape_leaves_the_rank_open() -> None:
    """ONNX Runtime tells [] for a rank that it does not know, as for a scalar."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 1]>
        scaled (float[n, 6] x) => (float[n, 6] y)
        {
            a = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x)
            y = Relu (a)
        }"""
    )
    graph, _ = import_graph(model)
    tensor = graph.tensors()["a"]
    tensor.dtype, tensor.shape = None, None
    infer_foreign_types(graph)
    assert tensor.dtype == "float32"
    assert tensor.shape is None


def test_tensors_inside_bodies_get_their_types() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[2, 3] x, bool c) => (float[p, q] y) <int64 n = {2}>'
        " { z = Transpose (x)"
        " y = Loop (n, c, z) <body = b (int64 i, bool g, float[3, 2] a) => (bool d, float[r, s] o)"
        " { d = Identity (g) k = Cast <to = 10> (a) e = If (d) <then_branch = t () => (float16[u, v] f)"
        " { f = Exp (k) }, else_branch = w () => (float16[u, v] h) { m = Neg (k) h = Abs (m) }>"
        " o = Cast <to = 1> (e) }> }"
    )
    graph, _ = import_graph(model)
    assert infer_types(graph)
    loop = graph.nodes[1]
    inside = {t.name: t for g in loop.subgraphs(recursive=True) for n in g.nodes for t in n.outputs}
    assert {inside[n].dtype for n in ("k", "m", "f")} == {np.dtype(np.float16)}
    assert [inside[n].shape for n in ("k", "m", "f")] == [[3, 2]] * 3
    assert infer_types(graph) == 0


def test_a_loop_without_a_condition_is_no_end_of_inference() -> None:
    """onnx gives up on the whole model where a Loop has fewer than two inputs, an omitted one included."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[4, 3] x, int64 n) => (float[p, q] y, float[r] k)'
        " { z = Transpose (x) k = Loop (n, ) <body = b (int64 i, bool g) => (bool d, float f)"
        " { d = Identity (g) f = Cast <to = 1> (i) }> y = Relu (z) }"
    )
    model.graph.node[1].input[:] = ["n", ""]
    graph, _ = import_graph(model)
    graph.tensors()["z"].shape = None
    assert infer_types(graph)
    assert graph.tensors()["z"].shape == [3, 4]
