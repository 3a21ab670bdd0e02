"""Small models that TensorRT-RTX 1.7.1 refuses: the class, the node and the operator, whatever things are called."""

from __future__ import annotations

import json
import time
from typing import Any

import onnx
import pytest

from surgery.diagnose.explain import Explanation, explain
from tests.diagnose.models import CORPUS, renamed
from tests.installed import real_17
from tests.rotation import part

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the folder of failing models is not here"),
    real_17,
]

INDEX: dict[str, dict[str, Any]] = (
    json.loads((CORPUS / "index.json").read_text("utf-8")) if CORPUS.is_dir() else {}
)
REFUSED = [
    n for n, e in INDEX.items() if e["raw_rtx_1_7"] in ("parse_rejected", "build_rejected", "needs_profile")
]
SECONDS = 60.0


def asked(name: str, model: Any, names: dict[str, str]) -> Explanation:
    """As the index asked: with its profile, and where the builder had no workspace, with none."""
    profile = {
        names.get(n, n): tuple(map(tuple, shapes))
        for n, shapes in (INDEX[name]["profile"] or {}).items()
        if not n.startswith("$")
    }
    started = time.monotonic()
    workspace = 0.001 if INDEX[name]["failure_class"] == "workspace-too-small" else None
    result = explain(model, target="tensorrt-rtx", shapes=profile or None, workspace_mib=workspace)  # type: ignore[arg-type]
    assert time.monotonic() - started < SECONDS
    return result


def missed(name: str, result: Explanation, names: dict[str, str]) -> str | None:
    entry = INDEX[name]
    node = entry["node"]
    if node is not None:
        wanted = (names.get(f"node {node}", node), entry["operator"])
        assert wanted in [(p.node, p.op) for p in result.problems], name
    found = result.problems[0].id if result.problems else None
    return None if found in entry["accepted_classes"] else f"{name}: {found}"


def test_the_first_class_is_right() -> None:
    misses = [m for n in REFUSED if (m := missed(n, asked(n, CORPUS / f"{n}.onnx", {}), {}))]
    assert len(misses) <= 0.05 * len(REFUSED), misses


def test_whatever_things_are_called() -> None:
    """Other names and another order each day."""
    misses, count = [], 0
    seed = part(range(1000), 1000)[0]
    for name in REFUSED:
        try:
            model, names = renamed(onnx.load(CORPUS / f"{name}.onnx", load_external_data=False), seed)
        except Exception:  # damaged on purpose
            continue
        if not model.graph.node or INDEX[name]["failure_class"].startswith("external-data"):
            continue
        count += 1
        miss = missed(name, asked(name, model.SerializeToString(), names), names)
        misses += [miss] if miss else []
    assert count > 70
    assert len(misses) <= 0.05 * count, misses


@pytest.mark.parametrize("name", part([n for n in INDEX if n not in REFUSED], 3))
def test_what_builds_is_not_called_refused(name: str) -> None:
    """Except files that are not valid ONNX, and those that need values of a shape input."""
    result = asked(name, CORPUS / f"{name}.onnx", {})
    profile = INDEX[name]["profile"] or {}
    if result.exit_code == 3 or any(n.startswith("$") for n in profile):
        return
    assert [p for p in result.problems if p.where != "run"] == []
