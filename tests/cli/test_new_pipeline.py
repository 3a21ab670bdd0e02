"""`surgery new pipeline`: the file runs as it is."""

from __future__ import annotations

from pathlib import Path

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


def test_a_trial_that_fails_leaves_a_file_that_says_so(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3] x) => (float[2, 7] y) {{ {} }}'
    body = "s = Constant <value = int64[2] {2, 7}> () y = Reshape (x, s)"  # seven is no multiple of three
    model = tmp_path / "odd.onnx"
    onnx.save(onnx.parser.parse_model(text.format(body)), model)
    code = main(["new", "pipeline", str(model), "--output", str(tmp_path)])
    assert code == 4
    assert "# The trial ended with" in (tmp_path / "odd.yaml").read_text()
    load_pipeline(tmp_path / "odd.yaml")
