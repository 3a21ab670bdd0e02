"""The journal of a reduction: what was asked and answered, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from surgery.diagnose.checks import Answer

JOURNAL = "checks.jsonl"


class Journal:
    """Answers by key, in memory and, once it is open, in a file as they come.

    Args:
        folder: Where the file lies.
        header: What the answers depend on; a journal with another one is not gone on with.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self._path = folder / JOURNAL
        self._header = dict(header)
        self._answers: dict[str, Answer] = {}
        self._file: IO[str] | None = None

    def read(self) -> int:
        """Take over what an earlier run has asked; how many answers those are."""
        if not self._path.is_file():
            return 0
        lines = self._path.read_text("utf-8").splitlines()
        try:
            if json.loads(lines[0]) != self._header:
                return 0
        except (IndexError, ValueError):
            return 0
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                key = entry.pop("key")
                entry.pop("nodes")
                self._answers[key] = Answer(**entry)
            except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
                continue
        return len(self._answers)

    def open(self) -> None:
        """Begin the file, with what is known already."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(self._header) + "\n")
        for key, answer in self._answers.items():
            self._write(key, 0, answer)
        self._file.flush()

    def get(self, key: str) -> Answer | None:
        """The answer that is known, or None."""
        return self._answers.get(key)

    def add(self, key: str, nodes: int, answer: Answer) -> None:
        """Note an answer about a model of so many nodes."""
        self._answers[key] = answer
        if self._file is not None:
            self._write(key, nodes, answer)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, key: str, nodes: int, answer: Answer) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"key": key, "nodes": nodes, **asdict(answer)}) + "\n")
