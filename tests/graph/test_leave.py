"""Products that may be less exact are computed exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model

RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(0, 256, (8, 2, 8)).astype(np.uint8)
SCALES = RNG.uniform(0.01, 0.1, 16).astype(np.float32)


def model(**attributes: int) -> onnx.ModelProto:
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], name="product", domain="com.microsoft", K=32, N=8, bits=4,
        block_size=16, **attributes,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    weights = [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(SCALES, "s")]
    graph = helper.make_graph([node], "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_leave_is_not_taken(level: int) -> None:
    loaded = load_model(model(accuracy_level=level))
    assert len(loaded.mended) == 1
    assert "'product'" in loaded.mended[0]
    x = RNG.standard_normal((5, 32)).astype(np.float32)
    low, high = WEIGHTS & 15, WEIGHTS >> 4
    numbers = np.stack([low, high], -1).reshape(8, 2, 16).astype(np.float32) - 8
    weights = (numbers * SCALES.reshape(8, 2, 1)).reshape(8, 32)
    np.testing.assert_allclose(
        Evaluator(loaded.proto).run({"x": x})["y"], x @ weights.T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("attributes", [{}, {"accuracy_level": 0}, {"accuracy_level": 1}])
def test_what_gives_no_leave_stays(attributes: dict[str, int]) -> None:
    given = model(**attributes)
    loaded = load_model(given)
    assert loaded.mended == ()
    assert loaded.proto == given
