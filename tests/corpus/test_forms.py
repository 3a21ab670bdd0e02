"""Plugins in real exports, in the forms that the exporters wrote."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import surgery
from tests.heads.ssd_models import CORPUS

EXPORTED = CORPUS.parent / "exported"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not EXPORTED.is_dir(), reason="the folder of exported models is not here"),
]

ATTENTION = "MultiscaleDeformableAttnPlugin_TRT"

PIPELINE = """\
schema: 1
name: forms
title: Forms
description: Puts plugins in the place of what exporters write.
stages:
  - inspect
  - fold
  - substitute:
      plugins: [{plugin}]
  - verify
"""


def run(plugin: str, model: onnx.ModelProto | Path, folder: Path) -> surgery.Report:
    path = folder / "forms.yaml"
    path.write_text(PIPELINE.format(plugin=plugin))
    return surgery.run(path, model, target="tensorrt-11.4")


@pytest.mark.parametrize(
    ("name", "plugin", "form", "count"),
    [
        ("rt_detr.ts", ATTENTION, "grid-sample", 2),
        ("rt_detr.dynamo", ATTENTION, "grid-sample", 2),
        ("deformable_detr_two_stage.ts", ATTENTION, "grid-sample", 3),
        ("d_fine.ts", ATTENTION, "grid-sample-heads-first", 2),
        ("dcnv2_opset19.ts", "ModulatedDeformConv2d", "DeformConv", 1),
    ],
)
def test_real_exports(name: str, plugin: str, form: str, count: int, tmp_path: Path) -> None:
    report = run(plugin, EXPORTED / f"{name}.onnx", tmp_path)
    assert report.failure is None, report.failure
    edits = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert [e.details["form"] for e in edits] == [form] * count
    assert report.verification["graph"]["status"] == "passed"


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    ("name", "agnostic"), [("ultra_yolov8_nms_opset12.ts", 0), ("ultra_yolo11_nms_agnostic.ts", 1)]
)
def test_suppression_of_ultralytics(name: str, agnostic: int, fixed: bool, tmp_path: Path) -> None:
    """With free sizes, where the exporter wrote down what it did for the first picture, and with fixed ones."""
    model = onnx.load(EXPORTED / f"{name}.onnx")
    if fixed:
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 96, 64), strict=True):
            dim.dim_value = size
    report = run("EfficientNMS_TRT", model, tmp_path)
    assert report.failure is None, report.failure
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert edit.details["form"] == "ultralytics-nms"
    assert edit.details["attributes"]["class_agnostic"] == agnostic
    assert report.verification["graph"]["status"] == "passed"
