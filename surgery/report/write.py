"""Files that appear whole or not at all.

A file is written without a name (``O_TMPFILE``), flushed to disk, given a temporary name and renamed: a
process killed at any moment leaves either the old file, the new one, or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import ConfigError


def check_writable(folder: Path) -> None:
    """Make sure, before any work is done, that files can be put into `folder`; creates nothing that stays.

    Raises:
        ConfigError: the folder is a file, cannot be made, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            "the output path is a file, not a folder",
            code="output-not-a-folder",
            where=str(folder),
            fix="give another --output",
        )
    probe = folder
    while not probe.exists():
        probe = probe.parent
    test = probe / f".surgery-{secrets.token_hex(6)}"
    try:
        test.touch()
        test.unlink()
    except OSError as error:
        raise ConfigError(
            f"the output folder cannot be written: {error.strerror}",
            code="output-not-writable",
            where=str(folder),
            fix="give a folder you may write to with --output",
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all, replacing what was there.

    Raises:
        OSError: the file system refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    descriptor = _unnamed(path.parent)
    if descriptor is None:
        _write_named(temporary, data)
    else:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            _give_name(file.fileno(), temporary)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _unnamed(folder: Path) -> int | None:
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY, 0o644)
    except OSError:  # not every file system has it
        return None


def _give_name(descriptor: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Naming a folder makes Python call linkat with AT_SYMLINK_FOLLOW; plain link() would link the
        # symbolic link in /proc itself, on another file system.
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _write_named(temporary: Path, data: bytes) -> None:
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a weight file beside a written model: a hard link where possible, else a copy; whole or not at all."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def dump_json(data: Mapping[str, Any]) -> bytes:
    """The report as written to disk: indented, keys in schema order, a newline at the end."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
