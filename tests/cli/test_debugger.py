"""The commands that find out what is wrong: what they print, read as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.cli.app import main
from tests.diagnose.models import parsed


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("trt", "tensorrt-11.4"),
        ("rtx", "tensorrt-rtx-1.7"),
        ("TensorRT10", "tensorrt-10.16"),
        ("tensorrt-99.0", "tensorrt-11.4"),
    ],
)
@pytest.mark.parametrize("command", ["run", "inspect", "explain", "reduce"])
def test_all_commands_say_the_same_of_an_unknown_target(
    command: str, name: str, likely: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(parsed("g (float[2] x) => (float[2] y) { y = Relu (x) }").SerializeToString())
    arguments = {
        "run": ["run", "generic", str(model)],
        "reduce": ["reduce", str(model), "--while", "parse fails"],
    }
    code = main([*arguments.get(command, [command, str(model)]), "--target", name])
    error = capsys.readouterr().err
    assert code == 2
    assert f"error[unknown-target]: --target: unknown target {name!r}\nfix: did you mean " in error
    assert likely in error
