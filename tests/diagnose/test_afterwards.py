"""How failing runs end: what was seen at the node, why, what to do, and the command to go on with."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest

import surgery
from surgery.cli import main
from surgery.diagnose.explain import explain
from surgery.plugins.skeleton import write_skeleton
from tests.diagnose.models import parsed
from tests.installed import real

pytestmark = real


def saved(folder: Path, text: str) -> Path:
    path = folder / "m.onnx"
    onnx.save(parsed(text), path)
    return path


SLOPE = "g (float[1, 3, 4, 4] x) => (float[] y) <float[3] s = {1, 2, 3}> { [r] z = Relu (x) [p] y = PRelu (z, s) }"


def test_a_node_that_the_parser_refuses(tmp_path: Path) -> None:
    report = surgery.run("generic", saved(tmp_path, SLOPE), target="tensorrt-rtx", output=tmp_path / "out")
    failure = report.failure
    assert failure is not None
    assert (report.exit_code, failure.node) == (4, "p")
    assert failure.evidence == (
        "PRelu 'p'",
        "operand 'z': float32[1, 3, 4, 4], from Relu 'r' <- input 'x' float32[1, 3, 4, 4]",
        "constant 's': float32[3] = [1.0, 2.0, 3.0]",
    )
    assert failure.cause is not None
    assert failure.cause.startswith("[prelu-slope-broadcast]")
    assert "cudaError" not in failure.cause
    assert failure.fix
    assert failure.next is not None
    assert failure.next.startswith(f"surgery explain {tmp_path}/out/m.failed.onnx --target tensorrt-rtx-")


def test_the_command_to_go_on_with_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, SLOPE)
    assert main(["run", "generic", str(path), "--output", str(tmp_path / "out")]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("next: surgery explain ")
    assert main(shlex.split(lines[-1].removeprefix("next: surgery "))) == 4
    assert "[prelu-slope-broadcast]" in capsys.readouterr().out


def test_a_constant_that_is_needed(tmp_path: Path) -> None:
    text = "g (float[2, 3] x, int64[1] axes) => (float[] y) { [s] y = ReduceSum (x, axes) }"
    report = surgery.run("generic", saved(tmp_path, text), target="tensorrt-rtx")
    if report.failure is None:  # a rule does without
        return
    assert report.failure.next == f"surgery run generic {tmp_path}/m.onnx --constant axes=VALUE"


def test_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(parsed(SLOPE).SerializeToString()[:-9])
    report = surgery.run("generic", path)
    assert report.failure is not None
    assert (report.exit_code, report.failure.next) == (3, f"surgery explain {path}")
    assert surgery.run("generic", tmp_path / "none.onnx").failure.next is None  # type: ignore[union-attr]


def test_a_tensor_larger_than_any_engine_takes(tmp_path: Path) -> None:
    text = "g (float[1] x) => (float[] y) <int64[2] s = {65536, 65536}> { [e] y = Expand (x, s) }"
    report = surgery.run("generic", saved(tmp_path, text))
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "tensor-volume-limit")


def test_a_plugin_node_that_contradicts_itself(tmp_path: Path) -> None:
    """What is wrong with a plugin node is told once, with what to look at, and no command leads round in a circle."""
    text = (
        "g (float[1, 20, 4] boxes, float[1, 21, 3] scores) => (int32[] n, float[] b, float[] s, int32[] c) "
        "{ [nms] n, b, s, c = EfficientNMS_TRT <score_threshold = 0.25, iou_threshold = 0.5, max_output_boxes = 10, "
        "background_class = -1, score_activation = 0, box_coding = 0> (boxes, scores) }"
    )
    path, out = saved(tmp_path, text), tmp_path / "out"
    report = surgery.run("migrate", path, output=out)
    failure = report.failure
    assert failure is not None
    assert (report.exit_code, failure.code, failure.node) == (4, "plugin-configuration", "nms")
    assert failure.fix is not None
    assert failure.next == "surgery show plugins EfficientNMS_TRT"
    assert failure.evidence
    assert sorted(p.name for p in out.iterdir()) == ["m.failed.onnx", "report.json"]
    assert onnx.load(out / "m.failed.onnx").graph.node[0].op_type == "EfficientNMS_TRT"
    problem = explain(path).problems[0]
    assert problem.fate is not None
    assert (problem.node, problem.fate.what) == ("nms", "left")
    assert problem.remedies[0].text == failure.fix
    assert not any("surgery run migrate" in (r.command or "") for r in problem.remedies)


def test_the_command_to_go_on_with_finds_a_plugin_of_the_users(tmp_path: Path) -> None:
    folder = tmp_path / "my plugins"
    write_skeleton("Scaled", folder)
    path = saved(tmp_path, "g (float[2] x) => (float[2] y) { [s] y = Scaled (x) }")
    failure = surgery.run("migrate", path, output=None, plugin_paths=[folder]).failure
    assert failure is not None
    assert failure.code == "plugin-configuration"
    assert failure.next is not None
    assert failure.fix == f"{failure.next} lists its attributes"
    assert main(shlex.split(failure.next)[1:]) == 0


def test_a_plugin_without_a_definition(tmp_path: Path) -> None:
    text = 'g (float[2] x) => (float[2] y) { [p] y = Mystery <plugin_version = "1"> (x) }'
    report = surgery.run("migrate", saved(tmp_path, text), output=tmp_path / "out")
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (4, "unknown-plugin")
    assert report.failure.next == "surgery new plugin Mystery"
    assert (tmp_path / "out" / "m.failed.onnx").is_file()
