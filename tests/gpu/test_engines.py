"""Engines on a real GPU against the original models in ONNX Runtime.

Run where a GPU is that the installed TensorRT flavour supports: ``pytest -m gpu tests/gpu``. The folder of
further models may be given in SURGERY_CORPUS.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import surgery

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("worker")]

SHIPPED = Path(__file__).parents[2] / "models"
CORPUS = Path(os.environ.get("SURGERY_CORPUS", Path(__file__).parents[3] / "shared" / "corpus" / "tfssd"))
NAMES = (
    "ssd_inception_v2_coco_300",
    "ssd_inception_v2_nofold_full",
    "ssd_mobilenet_v1_coco_300",
    "ssd_mobilenet_v2_coco_dyn",
    "ssd_mobilenet_v2_combinednms",
    "tf2_ssd_mobilenet_v2_fpnlite_320",
)


def find(name: str) -> Path:
    for folder in (CORPUS, SHIPPED):
        if (folder / f"{name}.onnx").is_file():
            return folder / f"{name}.onnx"
    pytest.skip(f"{name}.onnx is not here")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["normalized", "uint8"])
def test_engine_agrees_with_the_original(name: str, mode: str, tmp_path: Path) -> None:
    report = surgery.run(
        "ssd",
        find(name),
        output=tmp_path / name,
        require="engine",
        overrides={"rewrite.cut_input.input": mode, "verify.cases": 3},
    )
    assert report.failure is None, report.failure
    assert report.status == "ok"
    engine = report.verification["engine"]
    assert engine["status"] == "passed"
    assert len(engine["cases"]) >= 3
    for case in engine["cases"]:
        assert all(n >= 20 for n in case["detections"]), case["detections"]
    out = os.environ.get("OUT")
    if out:  # figures for docs/gpu.md
        worst = {
            o["name"]: max(
                c2["max_abs"] for c in engine["cases"] for c2 in c["outputs"] if c2["name"] == o["name"]
            )
            for o in engine["cases"][0]["outputs"]
        }
        unmatched = sum(len(c.get("unmatched", ())) for c in engine["cases"])
        with Path(out, "engines.jsonl").open("a") as file:
            entry = {"model": name, "input": mode, "cases": len(engine["cases"]), "unmatched": unmatched}
            file.write(json.dumps({**entry, "versions": report.versions, "max_abs": worst}) + "\n")
        if mode == "normalized":
            Path("/tmp/engines").mkdir(exist_ok=True)
            (tmp_path / name / f"{name}.engine").rename(Path("/tmp/engines", f"{name}.engine"))
