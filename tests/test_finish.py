"""Finishing a run on another machine: everything that can be checked without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from surgery import api
from surgery.finish import restore
from surgery.targets import resolve_target
from surgery.trt.session import Worker
from tests.heads.ssd_models import detector
from tests.stages.test_run import pipeline


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    onnx.save(detector(), folder / "model.onnx")
    report = api.run(pipeline(), folder / "model.onnx", output=folder / "out")
    assert report.failure is None
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_report_survives_being_read_back(finished: Path) -> None:
    data = json.loads((finished / "out" / "report.json").read_text())
    assert restore(data).to_dict() == data


def test_without_a_gpu_nothing_changes(copied: Path) -> None:
    with Worker(resolve_target(None).flavour) as worker:
        if worker.environment().gpu is not None:
            pytest.skip("there is a GPU")
    before = {p.name: p.read_bytes() for p in (copied / "out").iterdir()}
    report = api.verify(copied / "out", copied / "model.onnx")
    assert report.exit_code == 7
    assert report.failure is not None
    assert report.failure.code == "no-gpu"
    assert {p.name: p.read_bytes() for p in (copied / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("break_it", "code", "exit_code"),
    [
        (lambda f: (f / "out" / "report.json").unlink(), "no-report", 2),
        (lambda f: (f / "out" / "report.json").write_text("{"), "bad-report", 2),
        (lambda f: (f / "out" / "report.json").write_text("{}"), "bad-report", 2),
        (lambda f: (f / "out" / "model.engine").write_bytes(b"other"), "artifact-changed", 2),
        (lambda f: (f / "out" / "model.engine").unlink(), "artifact-missing", 2),
        (lambda f: onnx.save(detector(iou=0.4), f / "model.onnx"), "model-changed", 3),
        (lambda f: (f / "model.onnx").unlink(), "model-not-found", 3),
    ],
    ids=["no report", "no json", "no schema", "other engine", "no engine", "other model", "no model"],
)
def test_what_does_not_fit_together(break_it: object, code: str, exit_code: int, copied: Path) -> None:
    break_it(copied)  # type: ignore[operator]
    report = api.verify(copied / "out", copied / "model.onnx")
    assert report.failure is not None
    assert (report.failure.code, report.exit_code) == (code, exit_code)


def test_a_run_without_an_engine(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "model.onnx")
    api.run(pipeline(), tmp_path / "model.onnx", target="tensorrt-10.16", output=tmp_path / "out")
    report = api.verify(tmp_path / "out")
    assert report.failure is not None
    assert report.failure.code == "no-engine"
