"""Finishing a run on another machine: everything that can be checked without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery import api
from surgery.finish import find_original, repeated_cases, restore
from surgery.graph.load import load_model
from surgery.stages.save import packed
from surgery.targets import resolve_target
from surgery.trt.session import Worker
from surgery.verify.inputs import check_given
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


def moved(finished: Path, tmp_path: Path, folder: str = "out", name: str = "model.onnx") -> Path:
    """The results as another machine has them: copied, and the recorded path of the model leads nowhere."""
    shutil.copytree(finished / "out", tmp_path / folder)
    written = tmp_path / folder / "report.json"
    data = json.loads(written.read_text())
    data["model"]["path"] = str(tmp_path / "gone" / name)
    written.write_text(json.dumps(data))
    return tmp_path / folder


@pytest.mark.parametrize("place", ["beside", "in the folder", "working directory", "another name"])
def test_the_original_is_found_by_its_hash(
    place: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = moved(finished, tmp_path, "deep/out")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    at = {
        "beside": folder.parent / "model.onnx",
        "in the folder": folder / "original.onnx",
        "working directory": tmp_path / "here" / "model.onnx",
        "another name": folder.parent / "renamed.onnx",
    }[place]
    shutil.copy(finished / "model.onnx", at)
    onnx.save(detector(iou=0.4), folder.parent / "another.onnx")  # must not be taken
    report = restore(json.loads((folder / "report.json").read_text()))
    assert find_original(folder, None, report).resolve() == at


def test_another_model_of_that_name_is_said_to_be_another(finished: Path, tmp_path: Path) -> None:
    folder = moved(finished, tmp_path)
    onnx.save(detector(iou=0.4), tmp_path / "model.onnx")
    report = api.verify(folder)
    assert report.failure is not None
    assert (report.failure.code, report.exit_code) == ("model-changed", 3)
    assert report.model_info["sha256"] in (report.failure.cause or "")
    assert str(tmp_path / "model.onnx") in report.failure.message


def test_no_original_anywhere(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = moved(finished, tmp_path)
    monkeypatch.chdir(tmp_path)
    report = api.verify(folder)
    assert report.failure is not None
    assert (report.failure.code, report.exit_code) == ("model-not-found", 3)
    assert "--model PATH" in (report.failure.fix or "")


def test_the_report_stands_for_its_folder(finished: Path, tmp_path: Path) -> None:
    folder = moved(finished, tmp_path)
    (folder / "model.engine").unlink()
    report = api.verify(folder / "report.json")
    assert report.failure is not None
    assert report.failure.code == "artifact-missing"


def test_given_values_are_repeated(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "model.onnx")
    values = {"image": np.random.default_rng(7).random((1, 4, 4, 3), np.float32)}
    ran = api.run(pipeline(), tmp_path / "model.onnx", output=tmp_path / "out", inputs=values)
    assert ran.failure is None
    report = restore(json.loads((tmp_path / "out" / "report.json").read_text()))
    entry = report.artifacts["inputs"]
    assert entry is not None
    assert Path(entry["path"]).name == "model.inputs.npz"
    with np.load(tmp_path / "out" / "model.inputs.npz") as kept:
        np.testing.assert_array_equal(kept["image"], values["image"])
    again = {"image": 1 - values["image"]}
    cases = repeated_cases(
        tmp_path / "out",
        report,
        load_model(tmp_path / "model.onnx"),
        onnx.load(tmp_path / "out" / "model.onnx"),
        again,
    )
    assert [c.name for c in cases[:-1]] == [c["name"] for c in report.verification["graph"]["cases"]]
    np.testing.assert_array_equal(cases[-2].feeds["image"], values["image"])
    np.testing.assert_array_equal(cases[-1].feeds["image"], again["image"])


def test_kept_values_keep_their_bytes(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = {"file": np.arange(3), "a/b:0": np.arange(4).astype(ml_dtypes.bfloat16)}
    (tmp_path / "x.npz").write_bytes(packed(arrays))
    with np.load(tmp_path / "x.npz") as kept:
        found = check_given(dict(kept), {"file": (np.int64, None), "a/b:0": (ml_dtypes.bfloat16, None)})
    assert found["a/b:0"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["a/b:0"], arrays["a/b:0"])
    np.testing.assert_array_equal(found["file"], arrays["file"])
    assert packed(arrays) == packed(arrays)


def test_a_run_without_an_engine(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "model.onnx")
    api.run(pipeline(), tmp_path / "model.onnx", target="tensorrt-10.16", output=tmp_path / "out")
    report = api.verify(tmp_path / "out")
    assert report.failure is not None
    assert report.failure.code == "no-engine"
