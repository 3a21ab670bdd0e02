"""Real exports through `auto`: a part of them, another one each day (SURGERY_PART=all for all)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import surgery
from surgery.families import family_for
from tests.heads.ssd_models import CORPUS
from tests.rotation import part

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of exported models is not here"),
]

PARTS = 20


def recorded() -> dict[str, str]:
    """Model to pipeline, for those that the page says are reached."""
    text = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text().partition("## Reached")[2]
    return dict(re.findall(r"^\| ([\w.-]+) \| ([a-z0-9-]+) \|", text, re.MULTILINE))


def found(name: str) -> Path:
    places = [CORPUS / f"{name}.onnx", CORPUS.parent / "exported" / f"{name}.onnx"]
    return next(p for p in places if p.is_file())


def expected() -> dict[str, dict[str, int]]:
    """Model to how often each rule and plugin applies."""
    text = (Path(__file__).parent / "expectations.yaml").read_text()
    return dict(YAML(typ="safe").load(text))


EXPECTED = expected()
RECORDED = {name: pipeline for name, pipeline in recorded().items() if name not in ("model", "---")}


@pytest.mark.parametrize("name", part(sorted(RECORDED), PARTS))
def test_what_was_reached_still_is(name: str) -> None:
    report = surgery.run("auto", found(name))
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.pipeline["name"] == RECORDED[name]
    assert Counter(e.rule for e in report.edits) == EXPECTED[name]


def test_every_model_that_was_reached_has_its_expectation() -> None:
    assert set(EXPECTED) == set(RECORDED)


@pytest.mark.parametrize("name", part(sorted(RECORDED), 4))
def test_the_family_is_the_recorded_one(name: str) -> None:
    assert family_for(found(name)).pipeline == RECORDED[name]
