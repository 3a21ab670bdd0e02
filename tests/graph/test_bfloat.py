"""bfloat16 in ONNX Runtime, which has no kernels for it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from surgery.graph.bfloat import has_bfloat16, in_float32
from surgery.graph.evaluate import Evaluator

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,3] x) => (float[2,2] y) {
    w = Constant <value = float[3,2] {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}> ()
    a = Cast <to = 16> (x) b = Cast <to = 16> (w)
    m = MatMul (a, b) s = Add (m, m) y = Cast <to = 1> (s)
}"""


def test_results_are_rounded_where_the_model_rounds() -> None:
    model = onnx.parser.parse_model(MODEL)
    assert has_bfloat16(model)
    x = np.random.default_rng(0).normal(0, 1, (2, 3)).astype(np.float32)
    got = Evaluator(model).run({"x": x})["y"]

    def rounded(values: np.ndarray) -> np.ndarray:
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)

    w = rounded(np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32))
    product = rounded(rounded(x) @ w)
    np.testing.assert_array_equal(got, rounded(product + product))
    assert not np.array_equal(got, (x @ w) * 2)


def test_other_models_stay_as_they_are() -> None:
    model = onnx.parser.parse_model(MODEL.replace("to = 16", "to = 10"))
    assert not has_bfloat16(model)
    same = in_float32(model)
    assert same.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("op", ["Relu", "Softmax", "Sqrt"])
def test_values_between_nodes_stay_bfloat16(op: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x) => (bfloat16[2,3] y) {{ a = Cast <to = 16> (x) y = {op} (a) }}"""
    wide = in_float32(onnx.parser.parse_model(text))
    assert [n.op_type for n in wide.graph.node] == ["Cast", "Cast", op, "Cast"]
    onnx.checker.check_model(wide, full_check=True)
