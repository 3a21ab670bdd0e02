"""The commands that find out what is wrong: what they print, read as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.cli.app import main
from tests.diagnose.models import parsed
from tests.installed import real


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


SLOPE = "g (float[1, 3, 4, 4] x) => (float[] y) <float[3] s = {1, 2, 3}> { [r] z = Relu (x) [p] y = PRelu (z, s) }"


@real
def test_reduce_shows_what_is_about_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = tmp_path / "m.onnx", tmp_path / "out"
    model.write_bytes(parsed(SLOPE).SerializeToString())
    assert main(["reduce", str(model), "--while", "parse fails", "--output", str(folder)]) == 0
    told = capsys.readouterr()
    written = "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".md", ".json", ".jsonl"))
    assert "slope tensor must be unidirectional broadcastable" in " ".join(told.out.split())
    assert "slope tensor must be unidirectional broadcastable" in written
    assert "cuda" not in (told.out + told.err + written).lower()


@real
def test_reduce_of_a_build_that_never_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(parsed(SLOPE).SerializeToString())
    assert main(["reduce", str(model), "--while", "build fails"]) == 2
    error = capsys.readouterr().err
    assert "cause: Invalid Node" in error
    assert "fix: surgery reduce MODEL --while 'parse fails'" in error
    assert "cuda" not in error.lower()


@real
@pytest.mark.parametrize("command", ["inspect", "explain"])
def test_lines_are_short_and_equal_causes_told_once(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = " ".join(f"[some_scope_with_a_long_name_n{i}] y{i} = Mystery (x{i})" for i in range(9))
    inputs = ", ".join(f"float[2] x{i}" for i in range(9))
    text = f"g ({inputs}) => ({', '.join(f'float[2] y{i}' for i in range(9))}) {{ {body} }}"
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(parsed(text).SerializeToString())
    main([command, "m.onnx"])
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 120
    assert told.count("cause:" if command == "explain" else "why:") == 1
    assert "Mystery x 9" in told
    assert "some_scope_with_a_long_name_n5" in told
    assert "and 3 more" in told
