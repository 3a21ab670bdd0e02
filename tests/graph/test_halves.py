from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.halves import widen_attention
from surgery.graph.infer import infer_types

ATTENTION = """{ qs = Mul (q, c) ks = Mul (k, c) s = MatMul (qs, ks) t = Add (s, m)
    p = Softmax (t) w = Cast <to = 10> (p) y = MatMul (w, v) }"""


def widened(text: str) -> tuple[int, onnx.ModelProto, onnx.ModelProto]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    graph, header = import_graph(model)
    infer_types(graph)
    found = widen_attention(graph)
    after = export_graph(graph, header)
    onnx.checker.check_model(after)
    return len(found), model, after


def run(model: onnx.ModelProto) -> np.ndarray:
    rng = np.random.default_rng(3)
    feeds = {
        v.name: rng.normal(0, 1, [d.dim_value or 2 for d in v.type.tensor_type.shape.dim]).astype(np.float16)
        for v in model.graph.input
    }
    return Evaluator(model, threads=1).run(feeds)["y"]


def test_a_small_attention_is_computed_in_float32() -> None:
    count, model, after = widened(
        "(float16[2, 4, 8] q, float16[2, 8, 4] k, float16[4, 4] m, float16 c, float16[2, 4, 6] v) "
        f"=> (float16[2, 4, 6] y) {ATTENTION}"
    )
    assert count == 1
    kinds = {v.name: v.type.tensor_type.elem_type for v in after.graph.value_info}
    assert kinds["s"] == kinds["p"] == onnx.TensorProto.FLOAT
    one, two = run(model), run(after)
    assert two.dtype == np.float16
    np.testing.assert_allclose(one, two, rtol=4e-3, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "(float16[12, 256, 8] q, float16[12, 8, 256] k, float16[256] m, float16 c, "
        "float16[12, 256, 6] v) => (float16 y) " + ATTENTION,
        "(float16[n, 4, 8] q, float16[n, 8, 4] k, float16[4, 4] m, float16 c, float16[n, 4, 6] v) => (float16 y) "
        + ATTENTION,
        "(float[2, 4, 8] q, float[2, 8, 4] k, float[2, 4, 6] v) => (float y) "
        "{ s = MatMul (q, k) p = Softmax (s) y = MatMul (p, v) }",
        "(float16[2, 4, 4] s, float16[2, 4, 6] v) => (float16 y) { p = Softmax (s) y = MatMul (p, v) }",
        "(float16[2, 4, 8] q, float16[2, 8, 4] k, float16[2, 4, 6] v) => (float16 y, float16 s) "
        "{ s = MatMul (q, k) p = Softmax (s) y = MatMul (p, v) }",
    ],
    ids=["large", "of free size", "no halves", "no first product", "scores are an output"],
)
def test_others_stay(text: str) -> None:
    count, model, after = widened(text)
    assert count == 0
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in after.graph.node]
