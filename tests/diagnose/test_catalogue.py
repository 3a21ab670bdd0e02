"""The catalogue is well-formed, and its signatures match what the real parser and builder said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgery.diagnose.catalogue import catalogue
from surgery.diagnose.classify import classify
from surgery.diagnose.evidence import TESTS
from surgery.trt.types import ParserMessage

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))
"""First message about a model and its class, as TensorRT-RTX 1.7.1 gave it."""

STAGES = {"check", "load", "parse", "build", "run", "verify"}
KINDS = {"rewrite", "constant-fold", "dtype-cast", "shape-specialize", "plugin", "builder-option"}
KINDS |= {"export-flag", "upgrade"}


def message(row: dict[str, Any]) -> ParserMessage | str:
    said = row["message"]
    if isinstance(said, str):
        return said
    return ParserMessage(**{**said, "local_functions": tuple(said["local_functions"]), "file": "", "line": 0})


@pytest.mark.parametrize("name", catalogue())
def test_every_entry_says_what_why_and_what_to_do(name: str) -> None:
    entry = catalogue()[name]
    assert entry.id == name
    assert entry.stage in STAGES
    assert entry.signatures
    assert entry.cause
    assert entry.versions
    assert entry.fixes
    assert {f.kind for f in entry.fixes} <= KINDS
    assert entry.evidence.test is None or entry.evidence.test in TESTS


def test_every_test_is_used() -> None:
    assert {e.evidence.test for e in catalogue().values()} >= set(TESTS)


@pytest.mark.parametrize("row", RECORDED, ids=lambda r: r["class"])
def test_messages_of_the_real_parser_are_recognised(row: dict[str, Any]) -> None:
    """Without the model: its class is among those that fit."""
    assert row["class"] in [f.id for f in classify([message(row)])]


def test_it_is_read_on_first_use_only() -> None:
    code = "import sys, surgery.diagnose.classify; sys.exit('ruamel.yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
