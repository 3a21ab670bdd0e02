"""The tables' verdict beside the real one: ``python -m tests.diagnose.agreement`` writes docs/agreement.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.diagnose.facts import Facts
from surgery.diagnose.static import refusals
from surgery.targets import Target, resolve_target
from surgery.trt.session import Worker
from surgery.trt.types import BuildOptions, Limits, ShapeProfile
from tests.conformance.suite import Case, suite

PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"


@dataclass(frozen=True)
class Verdict:
    """What tables and parser (with the builder) say to a case; None where nothing is refused."""

    name: str
    table: str | None
    real: str | None

    @property
    def agree(self) -> bool:
        return (self.table is None) == (self.real is None)


def by_table(case: Case, target: Target) -> str | None:
    """The first thing that the tables say against a case."""
    first = next(refusals(Facts(case.model), target), None)
    return None if first is None else f"{first.op or first.name}: {first.reason}"


def really(case: Case, worker: Worker) -> str | None:
    """What parser or builder say against a case as it is; free dims get the case's own sizes."""
    profile = []
    feeds: dict[str, Any] = {}
    if all(v.type.HasField("tensor_type") for v in case.model.graph.input):
        feeds = case.feeds(0)
    for value in case.model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in feeds and any(not d.HasField("dim_value") for d in dims):
            shape = tuple(feeds[value.name].shape)
            profile.append(ShapeProfile(value.name, shape, shape, shape))
    data = case.model.SerializeToString()
    outcome = worker.build(data, [profile] if profile else [], BuildOptions(tf32=False), limits=Limits(60))
    if outcome.ok:
        return None
    first = outcome.parse_errors[0] if outcome.parse_errors else None
    text = f"{first.node_op}: {first.description}" if first else (outcome.errors or ("aborted",))[0]
    return " ".join(text.split())


def verdicts(names: list[str], target: Target, worker: Worker) -> list[Verdict]:
    """Both verdicts of the named cases."""
    cases = suite()
    return [Verdict(n, by_table(cases[n], target), really(cases[n], worker)) for n in names]


def page(found: list[Verdict], version: str) -> str:
    """The page of disagreements."""
    apart = [v for v in found if not v.agree]
    share = 100 * (len(found) - len(apart)) / len(found)
    lines = [
        "# Tables and the real parser",
        "",
        "`surgery inspect` answers from tables (`surgery/targets/data`): operators, and restrictions that can be",
        "seen in the graph. Here is how that compares with what parser and builder really say, over every case of",
        "the ONNX suite of operator cases (`onnx.backend.test.case.node`), as it is: no rule applied, free dims at",
        "the case's own sizes, no ranges for the values of inputs. Written by `python -m tests.diagnose.agreement`;",
        "`tests/diagnose` repeats a part of it each day.",
        "",
        f"TensorRT-RTX {version}: {len(found)} cases, {len(found) - len(apart)} alike ({share:.1f} %).",
        f"Both refuse {sum(v.agree and v.real is not None for v in found)} of them and take "
        f"{sum(v.agree and v.real is None for v in found)}.",
        "",
        "## Where they differ",
        "",
        "| case | tables | parser and builder |",
        "|---|---|---|",
    ]
    lines += [f"| {v.name} | {_cell(v.table)} | {_cell(v.real)} |" for v in apart]
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return "takes it" if text is None else text.replace("|", "/")[:200]


if __name__ == "__main__":
    target = resolve_target("tensorrt-rtx")
    with Worker("tensorrt-rtx") as worker:
        found = verdicts(list(suite()), target, worker)
    PAGE.write_text(page(found, target.installed_version or "?"), encoding="utf-8")
    sys.stdout.write("\n".join(f"{v.name}: {v.table} / {v.real}" for v in found if not v.agree) + "\n")
