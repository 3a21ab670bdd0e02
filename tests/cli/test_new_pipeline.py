"""`surgery new pipeline`: the file runs as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.cli import main
from surgery.config import load_pipeline

DECODER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,2,1,4] h, float[n,2,past,4] k, float[n,1,1,total] mask) => (float[n,2,1,4] y, float[n,2,all,4] k2) {
    k2 = Concat <axis = 2> (k, h) t = Transpose <perm = [0,1,3,2]> (k2) s = MatMul (h, t) b = Add (s, mask)
    p = Softmax (b) y = MatMul (p, k2) }"""


def test_what_is_written_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "models" / "step one.onnx"
    model.parent.mkdir()
    onnx.save(onnx.parser.parse_model(DECODER), model)
    assert main(["new", "pipeline", str(model), "--output", str(tmp_path)]) == 0
    path = tmp_path / "step one.yaml"
    assert str(path) in capsys.readouterr().out
    config = load_pipeline(path)
    assert config.profiles["mask"].opt[3] == config.profiles["k"].opt[2] + 1
    assert "total = past + 1" in path.read_text()
    done = main(
        ["run", str(path), "--stages", "load..substitute,verify,save", "--output", str(tmp_path / "out")]
    )
    assert done == 0
    assert main(["new", "pipeline", str(model), "--output", str(tmp_path)]) == 2
    assert "already" in capsys.readouterr().err


def test_the_target_is_written_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "true.onnx"  # a name that YAML reads as something else
    onnx.save(onnx.parser.parse_model(DECODER), model)
    arguments = ["new", "pipeline", str(model), "--output", str(tmp_path), "--target", "tensorrt-10.16"]
    assert main(arguments) == 0
    config = load_pipeline(tmp_path / "true.yaml")
    assert (config.target, config.name) == ("tensorrt-10.16", "true")
    assert main(["run", str(tmp_path / "true.yaml"), "--output", str(tmp_path / "out")]) == 0
    assert "tensorrt-10.16" in capsys.readouterr().out
    assert (tmp_path / "out" / "true.tensorrt-10.16.onnx").is_file()


def test_a_file_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "step.onnx"
    onnx.save(onnx.parser.parse_model(DECODER), model)
    wanted = tmp_path / "folder" / "y.yaml"
    assert main(["new", "pipeline", str(model), "--output", str(wanted)]) == 0
    assert str(wanted) in capsys.readouterr().out
    assert wanted.is_file()
    config = load_pipeline(wanted)
    assert (config.name, config.model_path()) == ("y", wanted.parent / ".." / "step.onnx")


@pytest.mark.parametrize("mistake", ["target", "output"])
def test_what_no_edit_helps_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    model = tmp_path / "step.onnx"
    onnx.save(onnx.parser.parse_model(DECODER), model)
    output = ["--output", str(tmp_path)]
    options = {"target": [*output, "--target", "tensorflow-2"], "output": ["--output", str(model)]}[mistake]
    before = sorted(tmp_path.iterdir())
    assert main(["new", "pipeline", str(model), *options]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[0].count("error[")) == ("", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_channels_are_no_free_choice(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,c,h,w] x) => (float[n,k,h,w] y) { y = Conv (x, w) }'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 5, 1, 1), np.float32), "w"))
    onnx.save(made, tmp_path / "free.onnx")
    assert main(["new", "pipeline", str(tmp_path / "free.onnx"), "--output", str(tmp_path)]) == 0
    profile = load_pipeline(tmp_path / "free.yaml").profiles["x"]
    assert [profile.min[1], profile.opt[1], profile.max[1]] == [5, 5, 5]
    assert "c is 5, as Conv" in (tmp_path / "free.yaml").read_text()


def test_a_trial_that_fails_leaves_a_file_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3] x) => (float[2, 7] y) {{ {} }}'
    body = "s = Constant <value = int64[2] {2, 7}> () y = Reshape (x, s)"  # seven is no multiple of three
    model = tmp_path / "odd.onnx"
    onnx.save(onnx.parser.parse_model(text.format(body)), model)
    code = main(["new", "pipeline", str(model), "--output", str(tmp_path)])
    assert code == 4
    said = capsys.readouterr()
    assert "run it" not in said.out
    assert "error[profile-impossible]" in said.err
    assert "# The trial ended with" in (tmp_path / "odd.yaml").read_text()
    load_pipeline(tmp_path / "odd.yaml")
