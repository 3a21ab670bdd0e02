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


def test_weights_are_linked_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w" * 100)
    for _ in range(2):  # the second time changes nothing
        staged = Staged()
        staged.add_file(source, tmp_path / "out" / "weights.bin")
        staged.commit()
    assert (tmp_path / "out" / "weights.bin").stat().st_ino == source.stat().st_ino
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"w" * 100


def test_a_report_is_plain_json() -> None:
    report = Report(failure=Failure("parse", "code", None, "message", None, "fix", ("axes",)))
    text = dump_json(report.to_dict())
    assert text.endswith(b"}\n")
    assert list(report.to_dict())[:4] == ["schema", "status", "exit_code", "seed"]
    assert plain({"x": (1, float("nan"), float("inf"))}) == {"x": [1, "nan", "inf"]}
