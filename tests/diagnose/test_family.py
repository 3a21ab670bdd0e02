"""Families are told by the graph; the shipped pipeline of each exists and says what it is for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import surgery
from surgery.config import load_pipeline
from surgery.diagnose.family import family_of_model
from surgery.pipeline_files import list_pipelines


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> {text}')


CACHE = """g (int64[n,1] ids, float[n,2,past,4] k, float[n,2,past,4] v)
    => (float[n,2,1,4] y, float[n,2,total,4] k2, float[n,2,total,4] v2) <float[9,2,1,4] table> {
    q = Gather (table, ids) c = Constant <value = int64[1] {1}> () h = Squeeze (q, c)
    k2 = Concat <axis = 2> (k, h) v2 = Concat <axis = 2> (v, h) t = Transpose <perm = [0,1,3,2]> (k2)
    s = MatMul (h, t) p = Softmax (s) y = MatMul (p, v2) }"""

KINDS = {
    "classification": "g (float[n,3,8,8] x, float[4,3,1,1] w) => (float[n,4] y) "
    "{ c = Conv (x, w) p = GlobalAveragePool (c) y = Flatten (p) }",
    "segmentation": "g (float[n,3,8,8] x, float[4,3,1,1] w, float[4] s) => (float[n,4,16,16] y) "
    "{ c = Conv (x, w) y = Resize (c, , s) }",
    "rcnn": "g (float[1,3,8,8] x, float[r,4] b, int64[r] i) => (float[r,3,1,1] y) { y = RoiAlign (x, b, i) }",
    "tabular": "g (float[n,3] x) => (float[n,3] y) "
    "{ y = ai.onnx.ml.Scaler <offset = [0.0], scale = [1.0]> (x) }",
    "speech": "g (float[n,1,99] x, float[4,1,5] w) => (float[n,4,95] y) { y = Conv (x, w) }",
    "ocr": "g (float[n,1,8,8] x, float[4,1,8,1] w, float[1,16,4] a, float[1,16,4] r) => (float[8,1,n,4] y) "
    "{ c = Conv (x, w) i = Constant <value = int64[1] {2}> () s = Squeeze (c, i) "
    "t = Transpose <perm = [2,0,1]> (s) y = LSTM <hidden_size = 4> (t, a, r) }",
    "decoder": CACHE.replace("Softmax (s) y", "Softmax (s) y"),
    "encoder": "g (float[n,4,8] x) => (float[n,4,8] y) "
    "{ t = Transpose <perm = [0,2,1]> (x) s = MatMul (x, t) p = Softmax (s) y = MatMul (p, x) }",
    "generic": "g (float[n,4,8] x) => (float[n,4,8] y) { y = Relu (x) }",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_graph_tells_the_family(name: str) -> None:
    found = family_of_model(parsed(KINDS[name]))
    assert found.pipeline == name, found
    assert found.because or name == "generic"


def test_plugin_nodes_are_migrated() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])
    node = helper.make_node("GeluPluginDynamic", ["x"], ["y"])
    assert family_of_model(helper.make_model(helper.make_graph([node], "g", [x], [y]))).pipeline == "migrate"


def test_names_of_nodes_and_files_do_not_count(tmp_path: Path) -> None:
    model = parsed(KINDS["classification"])
    for node in model.graph.node:
        node.name = f"yolo_detr_bert_{node.op_type}"
    path = tmp_path / "llama.onnx"
    onnx.save(model, path)
    report = surgery.run("auto", path, stages="load..fold")
    assert report.failure is None, report.failure
    assert report.pipeline["name"] == "classification"
    assert report.pipeline["chosen_by"] == "auto"
    assert "1 Conv" in report.pipeline["because"]


@pytest.mark.parametrize("name", [p.name for p in list_pipelines()])
def test_every_pipeline_says_what_it_is_for(name: str) -> None:
    config = load_pipeline(name)
    assert config.path is not None
    text = config.path.read_text()
    assert f"surgery run {name} MODEL.onnx" in text
    assert config.title
    assert config.description
    assert [s.name for s in config.stages][-4:] == ["parse", "build", "verify", "save"]
