"""Real exported models through a pipeline: `python benchmarks/corpus.py FOLDER... --json results.json`.

Every model is run in a process of its own with a time limit, so that one that hangs or kills its process costs only
itself. Nothing beside the model file is read: shapes and inputs are derived. `--raw` also builds each model as it is,
with the profiles that the run derived, and `--page` writes docs/corpus.md from results that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def run_model(
    path: Path, pipeline: str, target: str, raw: bool, overrides: Mapping[str, Any] | None = None
) -> Result:
    """Run one model in this process.

    Args:
        path: The model.
        pipeline: Pipeline to run it through.
        target: Target to build for.
        raw: Also build the model as it is.
        overrides: Options of the pipeline.
    """
    import surgery

    started = time.perf_counter()
    report = surgery.run(pipeline, path, target=target, overrides=overrides)
    seconds = time.perf_counter() - started
    said = report.to_dict()
    failure = said["failure"]
    graph = said["verification"]["graph"]
    errors = [o["max_abs"] for c in graph.get("cases", ()) for o in c["outputs"] if o["max_abs"] is not None]
    stages = {s["name"]: s["seconds"] for s in said["stages"]}
    result: Result = {
        "model": path.name,
        "pipeline": said["pipeline"].get("name"),
        "status": said["status"],
        "exit_code": said["exit_code"],
        "seconds": round(seconds, 1),
        "build_seconds": stages.get("build"),
        "nodes": said["model"].get("nodes"),
        "nodes_after": len(report.model.graph.node) if report.model is not None else None,
        "max_abs": max(errors, default=None),
        "bytes": said["engine"]["bytes"] if said["engine"] else None,
        "failure": {k: failure[k] for k in ("stage", "code", "node", "message", "cause", "fix")}
        if failure
        else None,
        "profiles": said["profiles"],
        "family": said["pipeline"].get("family"),
        "rules": _counts(e["rule"] for e in said["edits"]),
        "ort": onnxruntime_verdict(path),
    }
    if raw:
        result["raw"] = raw_verdict(path, target, said["profiles"])
    return result


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def onnxruntime_verdict(path: Path) -> str | None:
    """Why ONNX Runtime does not load the model as it is, or None if it does."""
    from surgery.graph.evaluate import EvaluationError, Evaluator

    try:
        Evaluator(path)
    except EvaluationError as error:
        return str(error)[:300]
    return None


def raw_verdict(path: Path, target: str, profiles: Sequence[Mapping[str, Any]]) -> Result:
    """The builder's verdict on the model as it is, with the same shapes."""
    from surgery import api

    shapes = {p["input"]: (p["min"], p["opt"], p["max"]) for p in profiles}
    started = time.perf_counter()
    report = api.build(path, target=target, shapes=shapes)
    built = [s.seconds for s in report.stages if s.name == "build"]
    return {
        "ok": report.engine is not None,
        "seconds": round(time.perf_counter() - started, 1),
        "build_seconds": built[0] if built else None,
        "bytes": report.engine_info["bytes"] if report.engine_info else None,
        "message": (report.failure.cause or report.failure.message)[:300] if report.failure else None,
    }


def run_apart(path: Path, options: argparse.Namespace) -> Result:
    """Run one model in a process group of its own."""
    command = [sys.executable, __file__, "--one", str(path), "--pipeline", options.pipeline]
    command += ["--target", options.target, *(["--raw"] if options.raw else [])]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        out, err = process.communicate(timeout=options.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"model": path.name, "status": "timeout", "seconds": options.seconds}
    lines = [line for line in out.splitlines() if line.startswith('{"model"')]
    if lines:
        return dict(json.loads(lines[-1]))
    seconds = round(time.perf_counter() - started, 1)
    tail = err.strip().splitlines()[-3:]
    return {"model": path.name, "status": f"ended with {process.returncode}", "seconds": seconds, "log": tail}


WHY = {
    "control-flow": "A Loop that a condition ends, with a tensor that grows: TensorRT's loops keep shapes. A "
    "largest number of rounds, given by the user, would let it be padded.",
    "data-dependent-shape": "Sizes that follow from data, in front of an operator that padding does not go through. "
    "Each such operator needs a rule for padded tensors of its own.",
    "needs-constant": "A shape that is computed from data. As above.",
    "head-not-recognised": "A suppression that is none of those that surgery can prove equal (soft suppression). It "
    "needs a form in standard operators.",
    "plugin-configuration": "The plugin node contradicts itself (ONNX Runtime cannot run it either): inputs or "
    "attributes that the kernel refuses.",
    "parser-refused": "An operator for which there is no rule at a free size.",
    "not-convertible": "TensorRT takes every node and fails on the whole: an error of its compiler, or branches of "
    "different ranks.",
    "profile-impossible": "ONNX Runtime refuses the model at every size: the file is not valid.",
    "verification-failed": "ONNX Runtime has no kernel for the original, so there is nothing to compare with.",
}
"""What lies behind a code, and what it would take."""


def page(results: Sequence[Result]) -> str:
    """docs/corpus.md."""
    runs = [r for r in results if r.get("ort") is None]
    good = [r for r in results if str(r["status"]).startswith("ok")]
    reached = [r for r in runs if str(r["status"]).startswith("ok")]
    lines = [
        "# Real exported models",
        "",
        "What `surgery run auto MODEL --target tensorrt-rtx` makes of real exports with random weights.",
        "Written by `python benchmarks/corpus.py FOLDER... --json results.json`, then `--page docs/corpus.md`.",
        "Shapes and inputs are derived; the engine is built, and the graph that it is built from is compared",
        "with the original in ONNX Runtime. No GPU has run these engines here.",
        "",
        f"{len(results)} models; ONNX Runtime loads {len(runs)} of them, and {len(reached)} of those "
        f"({100 * len(reached) / max(1, len(runs)):.1f} %) end with an engine; {len(good)} of all.",
        "",
        "## Not reached",
        "",
        "| model | ends with | where | cause |",
        "| --- | --- | --- | --- |",
    ]
    for r in results:
        if r in good:
            continue
        failure = r.get("failure") or {}
        said = str(failure.get("message") or r["status"]).replace("|", "/").partition(": ")
        text = (said[2] or said[0])[:160]
        lines.append(
            f"| {_stem(r)} | {failure.get('code') or r['status']} | `{failure.get('node') or ''}` | {text} |"
        )
    codes = {(r.get("failure") or {}).get("code") for r in results if r not in good}
    lines += ["", "What is behind them, and what it would take:", ""]
    lines += [f"- `{code}`: {WHY[code]}" for code in WHY if code in codes]
    lines += [
        "",
        "## Reached",
        "",
        "| model | pipeline | nodes | after | largest difference | engine | build |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in good:
        difference = "" if r["max_abs"] is None else f"{r['max_abs']:.1e}"
        lines.append(
            f"| {_stem(r)} | {r['pipeline']} | {r['nodes']} | {r['nodes_after']} | {difference} | "
            f"{r['bytes'] / 2**20:.1f} MiB | {r['build_seconds']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def _stem(result: Result) -> str:
    return str(result["model"]).removesuffix(".onnx")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="models, or folders with models")
    parser.add_argument("--pipeline", default="auto")
    parser.add_argument("--target", default="tensorrt-rtx")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit of one model")
    parser.add_argument("--raw", action="store_true", help="also build each model as it is")
    parser.add_argument("--json", type=Path, help="where results are kept; models in it are not run again")
    parser.add_argument("--again", default="", help="run models of these names (parts, by comma) again")
    parser.add_argument(
        "--page", type=Path, help="write the page from the results of --json, and run nothing"
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run_model(options.one, options.pipeline, options.target, options.raw)), flush=True)
        return
    if options.page is not None:
        options.page.write_text(page(json.loads(options.json.read_text())))
        return
    models = [m for p in options.paths for m in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]
    known: dict[str, Result] = {}
    if options.json and options.json.is_file():
        known = {r["model"]: r for r in json.loads(options.json.read_text())}
    again = [a for a in options.again.split(",") if a]
    for path in models:
        if path.name in known and not any(a in path.name for a in again):
            continue
        result = run_apart(path, options)
        known[path.name] = result
        failure = result.get("failure") or {}
        said = f"{failure.get('code', '')} {failure.get('message', '')}"[:200]
        print(path.name, result["status"], result["seconds"], said, flush=True)
        if options.json:
            options.json.write_text(json.dumps([known[k] for k in sorted(known)], indent=1))


if __name__ == "__main__":
    main()
