"""Real exported models through a pipeline: `python benchmarks/corpus.py FOLDER... --json results.json`.

Models run in child processes with a time limit, so that one that hangs or kills its process costs only itself.
Nothing beside the model file is read: shapes and inputs are derived. `--raw` also builds each model as it is, with
the profiles that the run derived. `--given` is another run, which takes shapes and inputs from the index.json beside
the models; it is kept in a file of its own. `--page` writes docs/corpus.md from results that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pool import Line, Pool, Tell, serve

if TYPE_CHECKING:
    from surgery.trt.session import Worker
    from surgery.trt.types import BuildOutcome

Result = dict[str, Any]


class Given:
    """What an index.json beside a model says about it: profiles, and a file of inputs.

    Attributes:
        shapes: Smallest, usual and largest shape of each input that has a free dim.
        inputs: Values of the inputs.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        index = path.parent / "index.json"
        known = json.loads(index.read_text()) if index.is_file() else {}
        entry = known.get(path.name.removesuffix(".onnx"), {})
        free = set(entry.get("dynamic_axes") or ())
        self.shapes = {n: tuple(map(tuple, p)) for n, p in (entry.get("profile") or {}).items() if n in free}
        file = path.parent / str(entry.get("inputs_file"))
        self.inputs = dict(np.load(file)) if entry.get("inputs_file") and file.is_file() else None


def run_model(path: Path, options: argparse.Namespace) -> Result | None:
    """Run one model in this process; None if only given shapes are wanted and there are none."""
    import surgery

    given = Given(path) if options.given else None
    if given is not None and given.inputs is None:
        return None
    started = time.perf_counter()
    report = surgery.run(
        options.pipeline,
        path,
        target=options.target,
        shapes=given.shapes if given else None,
        inputs=given.inputs if given else None,
    )
    seconds = time.perf_counter() - started
    said = report.to_dict()
    failure = said["failure"]
    graph = said["verification"].get("graph", {})
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
    if options.raw:
        result["raw"] = raw_verdict(path, options, said["profiles"])
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


class Prepared:
    """The model that TensorRT got in the last run, looked at where the run builds it."""

    def __init__(self) -> None:
        from surgery.trt.session import Worker

        self.build: tuple[Any, ...] | None = None
        build = Worker.build

        def watch(worker: Worker, *job: Any, **limits: Any) -> BuildOutcome:
            content, *rest = job
            if isinstance(content, Path):
                content = content.read_bytes()  # gone after the run; no model here has weights beside it
            self.build = (content, *rest)
            return build(worker, *job, **limits)

        Worker.build = watch  # type: ignore[method-assign]


PREPARED: list[Prepared] = []


def raw_verdict(path: Path, options: argparse.Namespace, profiles: Sequence[Mapping[str, Any]]) -> Result:
    """The builder's verdict on the model as it is, and what surgery's takes in the same warm process.

    Which of the two is built first changes from model to model, as the first one may pay for the second.
    """
    from raw_build import build, why_not

    from surgery.targets import resolve_target
    from surgery.trt.session import give_back, lend

    prepared = PREPARED[0].build
    worker = lend(resolve_target(options.target).flavour)
    ours: BuildOutcome | None = None
    try:
        first = bool(zlib.crc32(path.name.encode()) & 1)
        if prepared and first:
            ours = worker.build(*prepared)
        raw = build(worker, path, profiles)
        if prepared and not first and raw.ok:
            ours = worker.build(*prepared)
    finally:
        give_back(worker)
        PREPARED[0].build = None
    return {
        "ok": raw.ok,
        "as_given": prepared is not None and _is(prepared[0], path),
        "build_seconds": round(raw.seconds, 3),
        "bytes": len(raw.engine) if raw.engine else None,
        "message": None if raw.ok else why_not(raw),
        "surgery_seconds": round(ours.seconds, 3) if ours and ours.ok else None,
        "surgery_bytes": len(ours.engine) if ours and ours.engine else None,
    }


def _is(content: bytes, path: Path) -> bool:
    """Whether TensorRT got the file's own model."""
    import onnx

    return bool(onnx.ModelProto.FromString(content) == onnx.load(path, load_external_data=False))


def child(options: argparse.Namespace) -> None:
    """Do models one after the other."""
    if options.raw:
        PREPARED.append(Prepared())

    def work(path: Path, tell: Tell) -> None:
        result = run_model(path, options)
        if result is not None:
            tell(result)

    serve(options.child, work)


def run_all(options: argparse.Namespace) -> None:
    """Run what is not known yet."""
    models = [m for p in options.paths for m in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]
    known: dict[str, Result] = {}
    if options.json and options.json.is_file():
        known = {r["model"]: r for r in json.loads(options.json.read_text())}
    again = [a for a in options.again.split(",") if a]
    waiting = [m.resolve() for m in models if m.name not in known or any(a in m.name for a in again)]

    def tell(result: Line) -> None:
        known[result["model"]] = result
        failure = result.get("failure") or {}
        said = f"{failure.get('code', '')} {failure.get('message', '')}"[:200]
        print(result["model"], result["status"], result["seconds"], said, flush=True)
        if options.json:
            options.json.write_text(json.dumps([known[k] for k in sorted(known)], indent=1))

    def failed(path: Path, why: str, _: list[Line]) -> None:
        tell({"model": path.name, "status": why, "seconds": options.seconds})

    command = [sys.executable, __file__, "--pipeline", options.pipeline, "--target", options.target]
    command += [f"--{name}" for name in ("raw", "given") if getattr(options, name)]
    pool = Pool(
        [*command, "--child"], {}, count=options.processes, limit=options.seconds, tell=tell, failed=failed
    )
    pool.run(waiting)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="models, or folders with models")
    parser.add_argument("--pipeline", default="auto")
    parser.add_argument("--target", default="tensorrt-rtx")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit of one model")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--raw", action="store_true", help="also build each model as it is")
    parser.add_argument(
        "--given", action="store_true", help="shapes and inputs of index.json, not derived ones"
    )
    parser.add_argument("--json", type=Path, help="where results are kept; models in it are not run again")
    parser.add_argument("--again", default="", help="run models of these names (parts, by comma) again")
    parser.add_argument(
        "--page", type=Path, help="write the page from the results of --json, and run nothing"
    )
    parser.add_argument("--expectations", type=Path, help="write what tests/corpus expects, and run nothing")
    parser.add_argument("--given-json", type=Path, help="results of --given, for the page")
    parser.add_argument("--gpu-lines", type=Path, help="results of benchmarks/corpus_gpu.py, for the page")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options)
    elif options.expectations is not None:
        from corpus_page import expectations

        options.expectations.write_text(expectations(json.loads(options.json.read_text())))
    elif options.page is not None:
        from corpus_page import page, read

        options.page.write_text(page(*read(options.json, options.given_json, options.gpu_lines)))
    else:
        run_all(options)


if __name__ == "__main__":
    main()
