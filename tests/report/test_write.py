from __future__ import annotations

import os
from pathlib import Path

import pytest

from surgery.errors import ConfigError
from surgery.report.model import Failure, Report, plain
from surgery.report.write import Staged, check_writable, dump_json, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    write_whole(path, b"one")
    with path.open("rb") as reader:
        write_whole(path, b"two, longer")
        assert reader.read() == b"one"  # who has the old file open keeps it
    assert path.read_bytes() == b"two, longer"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_without_unnamed_files_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    write_whole(tmp_path / "file.bin", b"data")
    assert (tmp_path / "file.bin").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_output_folder_that_does_not_exist_yet_is_fine_and_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a file, not a folder"):
        check_writable(tmp_path / "file")


def test_weights_are_copied_with_their_holes_and_have_one_name(tmp_path: Path) -> None:
    """onnx opens no weights that have two names in the file system."""
    source = tmp_path / "weights.bin"
    with source.open("wb") as file:
        file.write(b"w" * 100)
        file.seek(1 << 24)
        file.write(b"v" * 5000)
        file.truncate(1 << 25)
    for _ in range(2):
        staged = Staged()
        staged.add_file(source, tmp_path / "out" / "weights.bin")
        staged.commit()
    copied = tmp_path / "out" / "weights.bin"
    assert copied.read_bytes() == source.read_bytes()
    assert copied.stat().st_nlink == source.stat().st_nlink == 1
    assert copied.stat().st_blocks <= source.stat().st_blocks + 16


def test_weights_that_lie_in_the_folder_already_stay(tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w")
    staged = Staged()
    staged.add_file(source, tmp_path / "weights.bin")
    staged.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]
    assert source.read_bytes() == b"w"


def test_a_report_is_plain_json() -> None:
    report = Report(failure=Failure("parse", "code", None, "message", None, "fix", ("axes",)))
    text = dump_json(report.to_dict())
    assert text.endswith(b"}\n")
    assert list(report.to_dict())[:4] == ["schema", "status", "exit_code", "seed"]
    assert plain({"x": (1, float("nan"), float("inf"))}) == {"x": [1, "nan", "inf"]}
