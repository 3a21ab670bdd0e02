"""Every shipped pipeline on a small model of its family, which `models/build.py` makes."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest

import surgery
from surgery.families import family_for
from surgery.targets import resolve_target

ROOT = Path(__file__).parents[2]


def load_builders() -> ModuleType:
    """The file is no part of the package: it is found by its path, as a user runs it."""
    spec = importlib.util.spec_from_file_location("surgery_models_build", ROOT / "models" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = load_builders().BUILDERS
NOT_BUILT = {"auto", "ssd"}
"""The one that chooses, and the one whose models ship as files."""

QUICK = ("classification", "generic", "tabular")


def some(names: tuple[str, ...] = QUICK) -> list[object]:
    """All families, those that take seconds marked as slow."""
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in BUILDERS]


def test_every_shipped_pipeline_has_a_model() -> None:
    assert {p.stem for p in (ROOT / "pipelines").glob("*.yaml")} == set(BUILDERS) | NOT_BUILT


@pytest.mark.parametrize("name", BUILDERS)
def test_the_family_is_found(name: str) -> None:
    assert family_for(BUILDERS[name]()).pipeline == name


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_is_the_same_every_time(name: str) -> None:
    assert BUILDERS[name]().SerializeToString() == BUILDERS[name]().SerializeToString()


@pytest.mark.parametrize("name", some())
def test_the_pipeline_ends_with_what_is_expected_of_it(name: str, golden: Callable[[str, str], None]) -> None:
    """Another count of a rule or a plugin is a change that has to be looked at."""
    report = surgery.run(name, BUILDERS[name](), target="tensorrt-rtx-1.7")
    assert report.exit_code == 0, report.failure
    assert report.verification["graph"]["status"] == "passed"
    if resolve_target(
        "tensorrt-rtx-1.7"
    ).installed:  # else a table alone decides, which says less than the parser
        counts = Counter(e.rule for e in report.edits)
        golden(name, "".join(f"{rule}: {counts[rule]}\n" for rule in sorted(counts)))
