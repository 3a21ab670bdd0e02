"""Data is written as YAML, with comments, and read as JSON, which is quick: both say the same."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from ruamel.yaml import YAML

FILES = (("surgery.diagnose", "parser-errors"), ("surgery.targets", "restrictions"))


@pytest.mark.parametrize(("package", "name"), FILES)
def test_both_forms_say_the_same(package: str, name: str, request: pytest.FixtureRequest) -> None:
    folder = Path(str(resources.files(package))) / "data"
    written = YAML(typ="safe").load((folder / f"{name}.yaml").read_text("utf-8"))
    path = folder / f"{name}.json"
    if request.config.getoption("--update-golden"):
        text = json.dumps(written, separators=(",", ":"), ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    assert json.loads(path.read_text("utf-8")) == written, "run pytest tests/diagnose --update-golden"
