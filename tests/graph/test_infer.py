"""Types behind operators that ONNX has no schema of."""

from __future__ import annotations

import onnx.parser

from surgery.graph.convert import import_graph
from surgery.graph.infer import infer_foreign_types


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
