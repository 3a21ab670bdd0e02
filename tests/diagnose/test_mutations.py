"""Damaged models end with a message and one of five exit codes: no traceback, no crash, no hang, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.diagnose.mutations import mutated
from tests.installed import real
from tests.rotation import part

ROOT = Path(__file__).parents[2]
CODES = (0, 3, 4, 5, 6)
COUNT = 500
SECONDS = 60.0
MEMORY = 1500
"""MB, of a process that has seen all of its models."""

pytestmark = real


def outcomes(numbers: list[int]) -> list[dict[str, Any]]:
    """In a process of their own: what dies there is seen here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.diagnose.mutations", *map(str, numbers)],
        capture_output=True, text=True, cwd=ROOT, timeout=SECONDS * len(numbers), check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the process ended with {done.returncode} at {done.stderr[-600:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(numbers: list[int]) -> None:
    found = outcomes(numbers)
    assert len(found) == 3 * len(numbers)
    wrong = [e for e in found if e["code"] not in CODES or e["traceback"] or e["seconds"] > SECONDS]
    assert not wrong, wrong
    assert max(e["memory"] for e in found) < MEMORY
    for entry in found:
        failed_run = entry["command"] != "explain" and entry["code"] != 0
        assert entry["errors"] == (1 if failed_run else 0), entry
        assert entry["printed"] or failed_run, entry


def test_a_few() -> None:
    check(list(range(16)))


@pytest.mark.slow
def test_a_part_of_500() -> None:
    check(part(range(COUNT), 10))


def test_what_is_done_to_a_model_is_always_the_same() -> None:
    assert mutated(7) == mutated(7)
    assert len({mutated(n)[1] for n in range(40)}) > 30
    assert len({mutated(n)[0].split(",")[0] for n in range(40)}) > 12
