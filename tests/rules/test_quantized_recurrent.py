"""An LSTM of ONNX Runtime's dynamic quantizer computes the same as what is written for it, in whole batches."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.graph.convert import export_graph, import_graph
from surgery.rules import shipped_rules
from surgery.rules.engine.run import Engine
from surgery.verify.runner import run_onnx

RULES = [r for r in shipped_rules() if r.name == "ms-dynamic-quantize-lstm"]


def lstm(batch: int, *, columns: bool, direction: str) -> onnx.ModelProto:
    """A node with 3 features and 8 hidden units, its weights constant as the quantizer leaves them."""
    rng = np.random.default_rng(7)
    count = 2 if direction == "bidirectional" else 1
    size = (count, 32) if columns else (count,)
    constants = {
        "w": rng.integers(-127, 128, (count, 3, 32)).astype(np.int8),
        "r": rng.integers(-127, 128, (count, 8, 32)).astype(np.int8),
        "b": rng.standard_normal((count, 64)).astype(np.float32),
        "ws": rng.uniform(0.002, 0.01, size).astype(np.float32),
        "rs": rng.uniform(0.002, 0.01, size).astype(np.float32),
        "z": np.zeros(size, np.int8),
    }
    node = onnx.helper.make_node(
        "DynamicQuantizeLSTM", ["x", "w", "r", "b", "", "", "", "", "ws", "z", "rs", "z"], ["y", "h", "c"],
        domain="com.microsoft", hidden_size=8, direction=direction,
    )  # fmt: skip
    shapes = {"x": [5, batch, 3], "y": [5, count, batch, 8], "h": [count, batch, 8], "c": [count, batch, 8]}
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()]
    graph = onnx.helper.make_graph(
        [node], "g", infos[:1], infos[1:], [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=9)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 6])
def test_it_computes_the_same_as_onnx_runtime(batch: int, columns: bool, direction: str) -> None:
    model = lstm(batch, columns=columns, direction=direction)
    graph, header = import_graph(model)
    engine = Engine(RULES, lambda *_: False, target="tensorrt-rtx-1.7", domains={"com.microsoft": 1})
    assert [(e.rule, e.verified) for e in engine.run(graph, {}).edits] == [(RULES[0].name, "passed")]
    written = export_graph(graph, header)
    assert "DynamicQuantizeLSTM" not in {n.op_type for n in written.graph.node}
    feeds = [
        {"x": np.random.default_rng(k).standard_normal((5, batch, 3)).astype(np.float32)} for k in range(8)
    ]
    # A step whose state is off by one of 255 shows as 1e-4 at least.
    for want, got in zip(run_onnx(model, feeds, "the original"), run_onnx(written, feeds, "it"), strict=True):
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=2e-6)
