"""What is installed, and what can be done with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.cli import main
from surgery.diagnose.doctor import (
    CAPABILITIES,
    Diagnosis,
    abilities,
    diagnose,
    driver_in,
    numbers,
    runs_on,
)
from surgery.trt.session import installed_flavours


def test_what_is_here() -> None:
    found = diagnose()
    assert found.packages["onnx"] is not None
    assert set(found.flavours) == set(installed_flavours())
    assert "CPUExecutionProvider" in found.providers
    for name, entry in found.flavours.items():
        assert entry["version"] == installed_flavours()[name]  # type: ignore[index]
        assert entry["loads"] or entry["why"]
        assert entry["runs"] or entry["why_not"]
    json.dumps(found.to_dict())


def of(flavours: dict[str, dict[str, Any]], problems: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    found = Diagnosis("3.12", flavours=flavours, gpu={"name": "a GPU"}, problems=list(problems))
    return {a.command: a.can for a in abilities(found)}


def test_abilities() -> None:
    loads = {"version": "1.7.1", "loads": True, "runs": False, "why": None, "why_not": "no GPU"}
    assert of({})["build"] == "no"
    assert of({})["inspect"] == "yes"
    assert of({})["run"] == "partly"
    assert of({"tensorrt-rtx": loads})["build"] == "yes"
    assert of({"tensorrt-rtx": loads})["verify"] == "no"
    assert of({"tensorrt-rtx": loads})["reduce"] == "partly"
    assert set(of({"tensorrt-rtx": {**loads, "runs": True, "why_not": None}}).values()) == {"yes"}
    assert set(of({}, (("onnx cannot be imported: no", "install it"),)).values()) == {"no"}


@pytest.mark.parametrize(
    ("flavour", "version", "capability", "wanted"),
    [
        ("tensorrt-rtx", "1.6.1.120", "9.0", True),
        ("tensorrt-rtx", "1.7.1.116", "9.0", False),
        ("tensorrt-rtx", "1.7.1.116", "12.0", True),
        ("tensorrt", "10.16.1", "9.0", True),
        ("tensorrt", "11.4.0", "7.0", False),
        ("tensorrt", "8.6.1", "7.0", True),
    ],
)
def test_which_gpus_a_version_is_for(flavour: str, version: str, capability: str, wanted: bool) -> None:
    assert runs_on(flavour, version, capability) is wanted


def test_versions_are_in_order() -> None:
    for entries in CAPABILITIES.values():
        firsts = [numbers(first) for first, _ in entries]
        assert firsts == sorted(firsts)
    assert numbers("1.7.1rc2") == (1, 7, 1)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for command in ("inspect", "explain", "run", "build", "verify", "reduce", "diff"):
        assert f"\n{command} " in text
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root)\n",
            "580.65.06",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n",
            "535.183.01",
        ),
        ("something else\n", None),
    ],
)
def test_the_version_of_the_driver(text: str, wanted: str | None) -> None:
    assert driver_in(text) == wanted
