"""Every counted case of the suite is reached, except those listed with a reason that is the target's."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from surgery.trt.session import installed_flavours
from tests.conformance.harness import Result, run_case
from tests.conformance.suite import counted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.conformance,
    pytest.mark.skipif(
        "tensorrt-rtx" not in installed_flavours(), reason="TensorRT-RTX is not installed here"
    ),
]

SHARDS = 24
UNREACHED: dict[str, str] = (
    YAML(typ="safe").load(Path(__file__).with_name("unreached.yaml").read_text()) or {}
)
"""Case to the property of the target for which it is not reached."""


def results(shard: int) -> list[Result]:
    cases = counted()
    return [run_case(cases[name]) for name in list(cases)[shard::SHARDS]]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_cases_are_reached(shard: int) -> None:
    wrong = [(r.name, r.reason) for r in results(shard) if not r.reached and r.name not in UNREACHED]
    assert not wrong, wrong


def test_what_is_listed_as_unreached_is_a_case_of_the_suite() -> None:
    assert set(UNREACHED) <= set(counted())
    assert all(len(reason) > 20 for reason in UNREACHED.values())


def test_enough_cases_are_counted() -> None:
    """A suite that cannot be collected would make every other test pass."""
    assert len(counted()) > 1200
