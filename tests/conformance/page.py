"""Writes docs/conformance.md from results: ``python -m tests.conformance.page CPU.jsonl [GPU.jsonl]``."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.conformance.suite import counted, numeric, suite


def read(path: str) -> dict[str, dict[str, Any]]:
    """Results by case."""
    entries = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {e["name"]: e for e in entries}


def page(
    cpu: dict[str, dict[str, Any]],
    gpu: dict[str, dict[str, Any]],
    reasons: dict[str, str],
    others: dict[str, dict[str, Any]],
) -> str:
    """The page; `others` are cases with other things than tensors of numbers at the boundary."""
    reached = [e for e in cpu.values() if e["reached"]]
    constants = [e for e in reached if e["constants"]]
    raw = sum(bool(e.get("raw")) for e in cpu.values())
    lines = [
        "# Conformance: the ONNX suite of operator cases",
        "",
        "Every case of `onnx.backend.test.case.node` whose inputs and outputs are tensors of numbers or",
        "booleans and which ONNX Runtime runs correctly, in isolation, through `surgery run generic`: a case is",
        "*reached* if an engine is built and the rewritten model gives the suite's expected outputs at the",
        "suite's tolerances, after the inverses in `io_changes` and nothing else. Where surgery asks for a constant,",
        "the case's own value is given.",
        f"Written by `python -m tests.conformance.page`; `tests/conformance` repeats it. onnx {version('onnx')},",
        f"ONNX Runtime {version('onnxruntime')}, TensorRT-RTX {version('tensorrt-rtx')}.",
        "",
        "| | cases |",
        "|---|---|",
        f"| in the suite | {len(suite())} |",
        f"| counted | {len(cpu)} |",
        f"| built by TensorRT-RTX as they are | {raw} |",
        f"| reached without constants | {len(reached) - len(constants)} |",
        f"| reached with constants that surgery asked for | {len(constants)} |",
        f"| **reached** | **{len(reached)}** |",
    ]
    if gpu:
        good = [e for e in gpu.values() if e["reached"]]
        wrong = [e for e in gpu.values() if e.get("engine")]
        lines += [
            f"| counted on the GPU (H200, TensorRT-RTX 1.6.1, TF32 off) | {len(gpu)} |",
            f"| **engine's outputs right on the GPU** | **{len(good)}** |",
            f"| engine saved with wrong outputs | {len(wrong)} |",
        ]
    lines += ["", "## Not reached", "", "| case | reason |", "|---|---|"]
    for name, entry in sorted(cpu.items()):
        if not entry["reached"]:
            lines.append(f"| {name} | {cell(reasons.get(name, entry['reason']))} |")
    lines += ["", "## Strings, sequences and optionals at the boundary", ""]
    lines += ["Not counted: no TensorRT takes or gives anything but tensors of numbers.", ""]
    lines += ["| case | answer |", "|---|---|"]
    lines += [f"| {name} | {cell(entry['reason'])} |" for name, entry in sorted(others.items())]
    if gpu:
        lines += ["", "## Not reached on the GPU", "", "| case | reason |", "|---|---|"]
        for name, entry in sorted(gpu.items()):
            if not entry["reached"]:
                lines.append(f"| {name} | {cell(reasons.get(name, entry['reason']))} |")
    lines += ["", "## With constants", "", "| case | constants |", "|---|---|"]
    lines += [
        f"| {e['name']} | {', '.join(e['constants'])} |" for e in sorted(constants, key=lambda e: e["name"])
    ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """One line without what a table would stumble over."""
    return " ".join(text.replace("|", "/").split())[:300]


if __name__ == "__main__":
    from tests.conformance.test_conformance import UNREACHED

    gpu = read(sys.argv[2]) if len(sys.argv) > 2 else {}
    whole, cases = read(sys.argv[1]), counted()
    others = {n: e for n, e in whole.items() if not numeric(suite()[n])}
    sys.stdout.write(page({n: e for n, e in whole.items() if n in cases}, gpu, UNREACHED, others))
