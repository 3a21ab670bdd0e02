"""Families are told by the graph; the shipped pipeline of each exists and says what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import surgery
from surgery.config import load_pipeline
from surgery.diagnose.family import family_of_model
from surgery.families import family_for
from surgery.pipeline_files import list_pipelines
from tests.diagnose.models import CORPUS

EXPORTED = CORPUS.parent / "exported"


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


TWO_CACHES = """g (int64[n,1] ids, float[n,2,past,4] k, float[n,2,past,4] v, float[n,2,50,4] ck, float[n,2,50,4] cv)
    => (float[n,2,1,4] y, float[n,2,total,4] k2, float[n,2,total,4] v2) <float[9,2,1,4] table> {
    q = Gather (table, ids) c = Constant <value = int64[1] {1}> () h = Squeeze (q, c)
    one = Concat <axis = 2> (k) k2 = Concat <axis = 2> (one, h) v2 = Concat <axis = 2> (v, h)
    t = Transpose <perm = [0,1,3,2]> (k2) s = MatMul (h, t) p = Softmax (s) a = MatMul (p, v2)
    ck2 = Concat <axis = 2> (ck) cv2 = Concat <axis = 2> (cv) t2 = Transpose <perm = [0,1,3,2]> (ck2)
    s2 = MatMul (a, t2) p2 = Softmax (s2) y = MatMul (p2, cv2) }"""

POSITIONS = """g (float[n,3,8,8] x, int64[4] size) => (float[n,4,5] y) <float[5,3,4,4] w, float[1,5,3,3] table> {
    c = Conv <strides = [4,4]> (x, w) r = Resize (table, , , size) e = Add (c, r)
    s = Constant <value = int64[3] {0,5,-1}> () f = Reshape (e, s) t = Transpose <perm = [0,2,1]> (f)
    m = MatMul (t, f) p = Softmax (m) y = MatMul (p, t) }"""

BOXES = """g (uint8[1,h,w,3] x, int64[4] size) => (float[1,m,4] boxes, float[1,m,9] scores, float[1,m,1,4] raw)
    <float[13,3,3,3] k> { f = Cast <to = 1> (x) r = Resize (f, , , size) t = Transpose <perm = [0,3,1,2]> (r)
    c = Conv (t, k) u = Transpose <perm = [0,2,3,1]> (c) s = Constant <value = int64[3] {1,-1,13}> ()
    d = Reshape (u, s) p = Constant <value = int64[2] {4,9}> () boxes, o = Split <axis = 2> (d, p)
    scores = Sigmoid (o) z = Constant <value = int64[1] {2}> () raw = Unsqueeze (boxes, z) }"""

CONV_ALONG_TOKENS = """g (int64[n,s] ids) => (float[OUT] y) <float[9,4] table, float[4,4,3] w> {
    e = Gather (table, ids) u = Transpose <perm = [0,2,1]> (e) c = Conv <pads = [1,1]> (u, w)
    d = Conv <pads = [1,1]> (c, w) t = Transpose <perm = [0,2,1]> (d) m = MatMul (t, d) p = Softmax (m)
    LAST }"""
WORDS = CONV_ALONG_TOKENS.replace("OUT", "b,q,9").replace("<float", "<float[4,9] h, float", 1)
WORDS = WORDS.replace("LAST", "a = MatMul (p, t) y = MatMul (a, h)")
HIDDEN = CONV_ALONG_TOKENS.replace("OUT", "n,s,4").replace("LAST", "y = MatMul (p, t)")
WAVE = CONV_ALONG_TOKENS.replace("OUT", "n,1,samples").replace("<float", "<float[4,1,8] h, float", 1)
WAVE = WAVE.replace("LAST", "a = MatMul (d, p) y = ConvTranspose <strides = [4]> (a, h)")


@pytest.mark.parametrize(
    ("text", "pipeline"),
    [
        ("g (float[1,9] x, int64[1] k) => (float[1,m] v, int64[1,m] i) { v, i = TopK (x, k) }", "generic"),
        ("g (float[1,9] x) => (int64[1,1] i) { i = ArgMax <axis = 1> (x) }", "generic"),
        ("g (float[n,9] x) => (float[n,2] y) <float[9,2] w> { y = MatMul (x, w) }", "tabular"),
        (TWO_CACHES, "seq2seq"),
        (POSITIONS, "classification"),
        (BOXES, "retinanet"),
        (WORDS, "decoder"),
        (HIDDEN, "encoder"),
        (WAVE, "speech"),
    ],
    ids=[
        "topk",
        "argmax",
        "layer",
        "two-caches",
        "positions-resized",
        "picture-resized",
        "words",
        "hidden",
        "wave",
    ],
)
def test_what_looks_like_another_family(text: str, pipeline: str) -> None:
    found = family_of_model(parsed(text))
    assert found.pipeline == pipeline, found


EXPECTED = {
    "transformer-encoder": {"encoder"},
    "decoder-llm": {"decoder"},
    "seq2seq": {"seq2seq"},
    "vision": {"classification"},
    "vision-timm": {"classification"},
    "segmentation": {"segmentation", "detr"},
    "depth": {"segmentation"},
    "unet": {"segmentation"},
    "super-resolution": {"segmentation"},
    "detection": {"detr", "yolo", "centernet"},
    "detection-nms": {"ssd-torch", "yolo"},
    "detection-ultralytics": {"yolo"},
    "detection-ultralytics-nms": {"yolo"},
    "detection-rcnn": {"rcnn"},
    "detection-roi": {"rcnn"},
    "detection-plugin": {"migrate"},
    "sklearn": {"tabular"},
    "state-space": {"state-space"},
    "time-series": {"time-series"},
    "speech": {"speech", "seq2seq"},
    "bev-scatter": {"pointcloud"},
    "control-flow": {"generic"},
}
"""Pipelines that suit the families of the exported models, as their index names them."""


@pytest.mark.slow
@pytest.mark.skipif(not EXPORTED.is_dir(), reason="the folder of exported models is not here")
def test_the_families_of_exported_models() -> None:
    index = json.loads((EXPORTED / "index.json").read_text("utf-8"))
    wrong = {}
    for name, entry in index.items():
        wanted = EXPECTED.get(entry["family"])
        if wanted is not None and (EXPORTED / f"{name}.onnx").is_file():
            found = family_for(EXPORTED / f"{name}.onnx")
            if found.pipeline not in wanted:
                wrong[name] = (entry["family"], found.pipeline, found.because)
    assert not wrong


def test_a_convolution_without_its_weight_is_no_crash() -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Conv", ["x"], ["y"])], "g", [x], [y]))
    assert family_of_model(model).pipeline == "generic"
