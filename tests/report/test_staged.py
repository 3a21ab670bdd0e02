"""Files that appear together or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from surgery.report import write
from surgery.report.write import Staged


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture(params=["without names", "with names"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that can write a file without a name, and others."""
    if request.param == "with names":
        monkeypatch.setattr(write, "_unnamed", lambda folder: None)


@pytest.mark.usefixtures("_kind")
def test_they_appear_together(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    (tmp_path / "weights").write_bytes(b"w")
    staged = Staged()
    staged.add(out / "one", b"1")
    staged.add_file(tmp_path / "weights", out / "weights")
    staged.remove(out / "stale")
    assert not [n for n in names(tmp_path) if n.endswith(("one", "b/weights"))]
    (out / "stale").write_bytes(b"")
    staged.commit()
    staged.discard()
    assert names(tmp_path) == ["a", "a/b", "a/b/one", "a/b/weights", "weights"]
    assert (out / "one").read_bytes() == b"1"


@pytest.mark.usefixtures("_kind")
def test_nothing_is_left_of_what_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "one").write_bytes(b"old")
    staged = Staged()
    staged.add(tmp_path / "kept" / "one", b"new")
    staged.add(tmp_path / "new" / "deep" / "two", b"2")
    staged.remove(tmp_path / "kept" / "one")
    staged.discard()
    assert names(tmp_path) == ["kept", "kept/one"]
    assert (tmp_path / "kept" / "one").read_bytes() == b"old"


def test_a_refusal_at_the_last_moment_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    staged = Staged()
    staged.add(tmp_path / "out" / "one", b"1")
    monkeypatch.setattr(write, "_give_name", refuse)
    with pytest.raises(OSError, match="space"):
        staged.commit()
    assert names(tmp_path) == []
