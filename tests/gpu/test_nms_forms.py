"""Both native suppressions on a real GPU against the same model in ONNX Runtime: ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper

from surgery.plugins.native_nms import OUTPUTS, Form, NmsSpec, nms_function
from surgery.trt.session import Worker

# What makes the inputs lives beside the tests of the forms.
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
from nms_reference import make_inputs
from runtime import run

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SPECS = {
    "one class": NmsSpec(60, 1, 20, 20, 0.5, 0.3),
    "many boxes": NmsSpec(3000, 1, 100, 100, 0.5, 0.3),
    "one list of all classes": NmsSpec(60, 4, 20, 20, 0.5, 0.3, class_agnostic=True),
    "classes": NmsSpec(120, 30, 50, 20, 0.6, 0.2, background_class=0),
}


def model_of(spec: NmsSpec, form: Form, batch: int) -> onnx.ModelProto:
    function = nms_function(spec, domain="test", name="Nms", opset=17, form=form)
    n, c, k, value = spec.num_boxes, spec.num_classes, spec.max_total, helper.make_tensor_value_info
    kinds = TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT32
    shapes = [batch], [batch, k, 4], [batch, k], [batch, k], [batch, k]
    graph = helper.make_graph(
        [helper.make_node("Nms", ["in_boxes", "in_scores"], OUTPUTS, domain="test")],
        "nms",
        [
            value("in_boxes", TensorProto.FLOAT, [batch, n, 4]),
            value("in_scores", TensorProto.FLOAT, [batch, n, c]),
        ],
        [value(*entry) for entry in zip(OUTPUTS, kinds, shapes, strict=True)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("test", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    return onnx.inliner.inline_local_functions(model)


@pytest.mark.parametrize("duplicates", [False, True], ids=["distinct", "duplicates"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("form", ["select", "fixpoint"])
@pytest.mark.parametrize("name", SPECS)
def test_engine_equals_onnx_runtime(
    name: str, form: Form, batch: int, duplicates: bool, worker: Worker
) -> None:
    spec = SPECS[name]
    boxes, scores = make_inputs(np.random.default_rng(1), spec, batch, duplicates=duplicates)
    model = model_of(spec, form, batch)
    wanted = run(model, [boxes, scores])
    built = worker.build(model.SerializeToString())
    assert built.engine is not None, built.errors
    ran = worker.run(built.engine, [{"in_boxes": boxes, "in_scores": scores}])
    assert ran.ok, ran.error
    for output, want in zip(OUTPUTS, wanted, strict=True):
        np.testing.assert_array_equal(ran.outputs[0][output], want, err_msg=output)
