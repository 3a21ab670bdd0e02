"""Files that appear whole or not at all.

A file is written without a name (``O_TMPFILE``), flushed to disk, given a temporary name and renamed: a
process killed at any moment leaves either the old file, the new one, or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import ConfigError

FICLONE = 0x40049409
"""Linux's number of the call that lets two files share their blocks."""


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


def _copy(source: Path, path: Path) -> None:
    """Copy a file: by reference where the file system can, else without its holes, by the kernel."""
    with source.open("rb") as one, path.open("wb") as two:
        try:
            import fcntl

            fcntl.ioctl(two.fileno(), FICLONE, one.fileno())
        except (ImportError, OSError):
            try:
                _copy_data(one.fileno(), two.fileno())
            except (AttributeError, OSError):  # another system, or an old kernel between two file systems
                shutil.copyfile(source, path)
        os.fsync(two.fileno())


def _copy_data(one: int, two: int) -> None:
    size = os.fstat(one).st_size
    os.ftruncate(two, size)
    start = 0
    while start < size:
        try:
            start = os.lseek(one, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(one, start, os.SEEK_HOLE)
        while start < end:
            done = os.copy_file_range(one, two, end - start, start, start)
            if not done:
                return
            start += done


class Staged:
    """Files that appear together or not at all.

    Each is written whole, without a name where the file system can, when it is added; :meth:`commit` gives them their
    names, :meth:`discard` leaves the folder as it was.
    """

    def __init__(self) -> None:
        self._files: list[tuple[int | None, Path, Path]] = []
        self._stale: list[Path] = []
        self._made: list[Path] = []

    def add(self, path: Path, data: bytes) -> None:
        """Write the content of a file.

        Raises:
            OSError: the file system refused.
        """
        temporary = self._temporary(path)
        descriptor = _unnamed(path.parent)
        self._files.append((descriptor, temporary, path))
        if descriptor is None:
            _write_named(temporary, data)
            return
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def add_file(self, source: Path, path: Path) -> None:
        """Put a copy of a file beside the others; where the file system can, the two share their blocks.

        It is no hard link: onnx opens no weights that have two names, neither these nor the user's own.

        Raises:
            OSError: the file system refused.
        """
        if path.exists() and path.samefile(source):
            return
        temporary = self._temporary(path)
        self._files.append((None, temporary, path))
        _copy(source, temporary)

    def remove(self, path: Path) -> None:
        """Take a file away together with the appearance of the others."""
        self._stale.append(path)

    def commit(self) -> None:
        """Let the files appear.

        Raises:
            OSError: the file system refused; nothing has appeared.
        """
        try:
            for descriptor, temporary, _ in self._files:
                if descriptor is not None:
                    _give_name(descriptor, temporary)
        except OSError:
            self.discard()
            raise
        for _, temporary, path in self._files:
            os.replace(temporary, path)
        for path in self._stale:
            path.unlink(missing_ok=True)
        for folder in dict.fromkeys(path.parent for _, _, path in self._files):
            _sync_folder(folder)
        self._made.clear()
        self.discard()

    def discard(self) -> None:
        """Leave nothing of what has not appeared."""
        for descriptor, temporary, _ in self._files:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # somebody else's files may be in it by now
                folder.rmdir()
        self._files.clear()
        self._stale.clear()
        self._made.clear()

    def _temporary(self, path: Path) -> Path:
        missing = []
        folder = path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)
        return path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"


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


def dump_json(data: Mapping[str, Any]) -> bytes:
    """The report as written to disk: indented, keys in schema order, a newline at the end."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
