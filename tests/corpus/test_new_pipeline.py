"""As a new user would: a file for a model, nothing edited, and the run succeeds. Ten models of ten families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.cli import main
from tests.corpus.test_auto import found
from tests.heads.ssd_models import CORPUS

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of exported models is not here"),
]

MODELS = {
    "resnet.dynamo": "classification",
    "ssd_mobilenet_v1_coco_300": "ssd",
    "torch_dynamo_ssd300_static": "ssd-torch",
    "yolov10_topk.ts": "yolo",
    "yolos.ts": "detr",
    "segformer_opset12.ts": "segmentation",
    "albert.ts": "encoder",
    "llama_kv.ts": "decoder",
    "bart_decoder_nocache.ts": "seq2seq",
    "stft_mel.ts": "speech",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_runs_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = found(name)
    assert main(["new", "pipeline", str(model), "--output", str(tmp_path)]) == 0, capsys.readouterr().err
    path = tmp_path / f"{name}.yaml"
    assert f"extends: {MODELS[name]}" in path.read_text()
    folder = tmp_path / "result"
    assert main(["run", str(path), str(model), "--output", str(folder)]) == 0, capsys.readouterr().err
    report = json.loads((folder / "report.json").read_text())
    assert report["verification"]["graph"]["status"] == "passed"
    assert report["artifacts"]["engine"]["sha256"]
