"""The SSD family on real exports, for three targets, also with scores that tie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.targets import resolve_target
from tests.heads.ssd_models import CORPUS, quantise_scores

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of exported models is not here"),
]

NAMES = (
    "ssd_inception_v2_coco_300",
    "ssd_inception_v2_nofold_full",
    "ssd_mobilenet_v1_coco_300",
    "ssd_mobilenet_v2_coco_dyn",
    "ssd_mobilenet_v2_combinednms",
    "tf2_ssd_mobilenet_v2_fpnlite_320",
)
FREE_SIZES = ("ssd_mobilenet_v2_coco_dyn", "tf2_ssd_mobilenet_v2_fpnlite_320")
TARGETS = ("tensorrt-rtx", "tensorrt-10.16", "tensorrt-11.4")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_export_reaches_every_target(name: str, target: str, tmp_path: Path) -> None:
    report = surgery.run("ssd", CORPUS / f"{name}.onnx", target=target, output=tmp_path)
    assert report.failure is None, report.failure
    graph = report.verification["graph"]
    assert graph["status"] == "passed"
    assert len(graph["cases"]) >= 3
    for case in graph["cases"]:
        assert all(n >= 20 for n in case["detections"])
        assert all(o["max_abs"] <= 1e-4 for o in case["outputs"])
    if name in FREE_SIZES:
        sizes = {tuple(next(iter(c["shapes"].values()))[1:3]) for c in graph["cases"]}
        assert len(sizes) >= 3
        assert any(h != w for h, w in sizes)
    chosen = resolve_target(target)
    made = onnx.load(next(tmp_path.glob(f"*.{chosen.name}.onnx")))
    assert not made.functions
    if chosen.installed:
        assert report.status == "ok-unverified-engine"
        assert next(tmp_path.glob("*.engine")).stat().st_size > 0
        return
    assert report.status == "prepared"
    assert not list(tmp_path.glob("*.engine"))
    plugins = [n for n in made.graph.node if chosen.operator(n.op_type) is None]
    assert plugins
    for node in plugins:
        entry = chosen.plugin(node.op_type)
        assert entry is not None
        assert entry.available
        fields = {a.name for a in node.attribute} - {"plugin_version", "plugin_namespace"}
        assert fields <= {f.name for f in entry.attributes}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_that_tie(name: str, target: str) -> None:
    model = quantise_scores(onnx.load(CORPUS / f"{name}.onnx"), 64)
    report = surgery.run("ssd", model, target=target, stages="inspect..substitute,verify")
    assert report.failure is None, report.failure
    for case in report.verification["graph"]["cases"]:
        assert not case["unmatched"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_off_the_graph(name: str) -> None:
    report = surgery.run("ssd", CORPUS / f"{name}.onnx", stages="inspect..substitute")
    assert report.failure is None, report.failure
    edits = {e.rule: e for e in report.edits}
    head, anchors = edits["detection-head"].details, edits["anchors"].details
    assert head["num_classes"] == 90
    assert head["iou_threshold"] == pytest.approx(0.6)
    assert head["score_threshold"] == pytest.approx(1e-8)
    assert (head["max_per_class"], head["max_total"]) == (100, 100)
    assert (head["score_conversion"], head["model_classes"], head["background_class"]) == ("sigmoid", 91, 0)
    assert anchors["variances"] == pytest.approx((0.1, 0.1, 0.2, 0.2))
    if "fpnlite" in name:
        assert isinstance(anchors["grid"], str)  # its anchors are no GridAnchor's
        return
    assert anchors["grid"] == {
        "plugin": "GridAnchor_TRT",
        "minSize": 0.2,
        "maxSize": 0.95,
        "aspectRatios": [1.0, 2.0, 0.5, 3.0, 0.3333],
        "variance": [0.1, 0.1, 0.2, 0.2],
        "featureMapShapes": [19, 10, 5, 3, 2, 1],
        "numLayers": 6,
    }


@pytest.mark.parametrize("name", [n for n in NAMES if "fpnlite" not in n])
def test_anchors_from_the_plugin(name: str, tmp_path: Path) -> None:
    report = surgery.run(
        "ssd",
        CORPUS / f"{name}.onnx",
        target="tensorrt-10.16",
        overrides={"substitute.anchors.emit": "plugin"},
        output=tmp_path,
    )
    assert report.failure is None, report.failure
    made = onnx.load(tmp_path / f"{name}.tensorrt-10.16.onnx")
    assert [n.op_type for n in made.graph.node if n.op_type.startswith("GridAnchor")] == ["GridAnchor_TRT"]
    assert any("IPluginV2Ext" in w for w in report.warnings)


def test_soft_suppression_is_refused_with_a_reason(tmp_path: Path) -> None:
    report = surgery.run("ssd", CORPUS / "ssd_mobilenet_v2_classagnostic_softnms.onnx", output=tmp_path)
    assert report.exit_code == 4
    assert report.failure is not None
    assert "soft-NMS" in (report.failure.cause or "")


@pytest.mark.parametrize("name", NAMES)
def test_uint8_input_keeps_the_arithmetic(name: str) -> None:
    report = surgery.run(
        "ssd",
        CORPUS / f"{name}.onnx",
        overrides={"rewrite.cut_input.input": "uint8"},
        stages="inspect..build",
    )
    assert report.failure is None, report.failure
    assert report.engine
    assert report.model is not None
    original = Evaluator(onnx.load(CORPUS / f"{name}.onnx"))
    shape = (1, 260, 380, 3) if name in FREE_SIZES else (1, 300, 300, 3)
    x = {original.input_names[0]: np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)}
    want, got = original.run(x), Evaluator(report.model).run(x)
    for output, value in want.items():
        np.testing.assert_array_equal(value, got[output], err_msg=output)
