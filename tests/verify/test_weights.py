"""Sizes that weights leave no choice about, and ONNX Runtime's reasons in plain words."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.verify.refusal import in_words
from surgery.verify.weights import sizes_from_weights


def sizes(graph: str, **weights: tuple[int, ...]) -> dict[str, int]:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> g {graph}')
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return {key: fixed.size for key, fixed in sizes_from_weights(model).items()}


@pytest.mark.parametrize(
    ("graph", "weights", "found"),
    [
        ("(float[n,c,h,w] x) => (y) { y = Conv (x, w) }", {"w": (8, 3, 3, 3)}, {"c": 3}),
        ("(float[n,c,h,w] x) => (y) { y = Conv <group = 4> (x, w) }", {"w": (8, 3, 3, 3)}, {"c": 12}),
        ("(float[n,c,h,w] x) => (y) { y = ConvTranspose (x, w) }", {"w": (5, 3, 3, 3)}, {"c": 5}),
        (
            "(float[n,h,w,c] x) => (y) { r = Relu (x) t = Transpose <perm = [0,3,1,2]> (r) y = Conv (t, w) }",
            {"w": (8, 3, 3, 3)}, {"c": 3},
        ),
        ("(float[b,s,f] x) => (y) { y = MatMul (x, w) }", {"w": (20, 8)}, {"f": 20}),
        ("(float[b,f] x) => (y) { y = Gemm <transB = 1> (x, w) }", {"w": (20, 8)}, {"f": 8}),
        ("(float[f,b] x) => (y) { y = Gemm <transA = 1> (x, w) }", {"w": (20, 8)}, {"f": 20}),
        ("(float[s,b,f] x) => (y) { y = LSTM <hidden_size = 4> (x, w, r) }",
            {"w": (1, 16, 7), "r": (1, 16, 4)}, {"f": 7}),
        ("(float[b,s,f] x) => (y) { y = Add (x, w) }", {"w": (9,)}, {"f": 9}),
        ("(float[b,s,f] x) => (y) { y = Add (x, w) }", {"w": (1,)}, {}),
        ("(float[?,?] x) => (y) { y = MatMul (x, w) }", {"w": (3, 2)}, {"x[1]": 3}),
        # Two layers that want different sizes cannot both run, whatever the size.
        ("(float[b,f] x) => (y, z) { y = MatMul (x, w) z = MatMul (x, v) }", {"w": (3, 2), "v": (4, 2)}, {}),
        ("(float[b,s] x) => (y) { y = Softmax (x) }", {}, {}),
    ],
)  # fmt: skip
def test_sizes(graph: str, weights: dict[str, tuple[int, ...]], found: dict[str, int]) -> None:
    assert sizes(graph, **weights) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'/m/Add_1' "
            "Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:583 void "
            "onnxruntime::BroadcastIterator::Append(ptrdiff_t, ptrdiff_t) axis == 1 || axis == largest was false. "
            "Attempting to broadcast an axis by a dimension other than 1. 128 by 4000\n",
            "Add '/m/Add_1': Attempting to broadcast an axis by a dimension other than 1. 128 by 4000",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x\n index: 1 Got: 5",
            "Got invalid dimensions for input: x index: 1 Got: 5",
        ),
        ("no such operator", "no such operator"),
    ],
)
def test_reasons(text: str, words: str) -> None:
    assert in_words(text) == words
