"""Real exported models on a GPU: `python benchmarks/corpus_gpu.py FOLDER... --lines gpu.jsonl --keep DIR`.

Each model goes through `auto`, and its engine is run and compared with the original; the model as it is is built
with the same shapes and options, run on the same inputs and compared too. Then both engines are timed in turns, one
pair of engines at a time. Everything is written as a line of JSON when it is known, so that what is cut off loses
nothing, and what stands in --lines is not done again. Without a GPU everything but running is done.

Models run in child processes that may die. `--page` of benchmarks/corpus.py makes the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import numpy as np
from pool import Line, Pool, Tell, serve

if TYPE_CHECKING:
    from surgery.trt.session import Worker
    from surgery.trt.types import BuildOutcome

SECONDS = 0.6
"""For one race; each pair of engines runs two of them in a turn."""

# --- in the child -----------------------------------------------------------------------------------------------


class Kept:
    """The inputs that a run of surgery verified on: asked for where it makes them, so that they are made once."""

    def __init__(self) -> None:
        from surgery.stages import cases

        self.cases: list[Any] = []
        self.state: Any = None
        made = cases.cases_for

        def keep(state: Any, *rest: Any) -> list[Any]:
            self.state, self.cases = state, made(state, *rest)
            return self.cases

        cases.cases_for = keep

    def clear(self) -> None:
        """Before the next model."""
        self.state, self.cases = None, []


def check(path: Path, options: argparse.Namespace, kept: Kept, tell: Tell) -> None:
    """One model: surgery's engine, the raw one, and what is needed to time both."""
    import surgery

    kept.clear()
    started = time.perf_counter()
    report = surgery.run(options.pipeline, path, target=options.target)
    said = report.to_dict()
    engine = said["verification"].get("engine") or {}
    failure = said["failure"] or {}
    tell(
        {
            "model": path.name,
            "what": "surgery",
            "status": said["status"],
            "pipeline": said["pipeline"].get("name"),
            "seconds": round(time.perf_counter() - started, 1),
            "stages": {s["name"]: round(s["seconds"], 2) for s in said["stages"]},
            "graph": said["verification"].get("graph", {}).get("status"),
            "engine": engine.get("status"),
            "reason": engine.get("reason"),
            "max_abs": _largest(engine),
            "cases": len(engine.get("cases", ())),
            "gpu": engine.get("gpu"),
            "versions": {k: v for k, v in said["versions"].items() if k.startswith(("tensorrt", "onnxr"))},
            "bytes": said["engine"]["bytes"] if said["engine"] else None,
            "failure": {k: failure[k] for k in ("stage", "code", "node", "message")} if failure else None,
        }
    )
    folder = options.keep / path.name
    raw = _raw(path, options, said["profiles"], kept, tell)
    if report.engine is None or raw is None or not kept.cases:
        return
    from surgery.verify.inverse import apply_to_inputs

    folder.mkdir(parents=True, exist_ok=True)
    feeds = dict(kept.cases[0].feeds)
    inverses = [c.inverse for c in report.io_changes if c.inverse and c.inverse.get("op") != "apply"]
    for name, content, values in (
        ("surgery", report.engine, apply_to_inputs(feeds, inverses)),
        ("raw", raw, feeds),
    ):
        (folder / f"{name}.engine").write_bytes(content)
        np.savez(folder / f"{name}.npz", **values)


def _largest(verification: Mapping[str, Any]) -> float | None:
    outputs = [o for c in verification.get("cases", ()) for o in c["outputs"]]
    return max((o["max_abs"] for o in outputs if o["max_abs"] is not None), default=None)


def _raw(
    path: Path, options: argparse.Namespace, profiles: Sequence[Mapping[str, Any]], kept: Kept, tell: Tell
) -> bytes | None:
    """Build the model as it is, and run it where that is possible; its engine."""
    from raw_build import build, why_not

    from surgery.targets import resolve_target
    from surgery.trt.session import give_back, lend

    worker = lend(resolve_target(options.target).flavour)
    try:
        built = build(worker, path, profiles)
        line: Line = {"model": path.name, "what": "raw", "ok": built.ok, "right": None}
        line["build_seconds"] = round(built.seconds, 2)
        if built.engine is None:
            line["reason"] = why_not(built)
        else:
            line["bytes"] = len(built.engine)
            if kept.cases:
                line.update(_compared(path, built, worker, kept))
    finally:
        give_back(worker)
    tell(line)
    return built.engine


def _compared(path: Path, built: BuildOutcome, worker: Worker, kept: Kept) -> Line:
    """The raw engine against the original on the inputs of surgery's verification."""
    from surgery.verify.engine import verify_engine
    from surgery.verify.tensors import Tolerance

    found = worker.environment()
    if found.gpu is None:
        return {"reason": f"not run: {found.reason_no_gpu}"}
    assert built.engine is not None
    engine = built.engine
    plan = kept.state.report.verification.get("plan") or {"atol": 1e-4, "rtol": 1e-4}
    outcome = verify_engine(
        path,
        None,
        lambda feeds: worker.run(engine, feeds),
        [t.name for t in built.inputs],
        kept.cases,
        kept.state.detections,
        {t.name: Tolerance(plan["atol"], plan["rtol"]) for t in built.outputs},
    )
    said = outcome.to_dict()
    return {"right": outcome.status == "passed", "reason": said["reason"], "max_abs": _largest(said)}


def time_both(path: Path, options: argparse.Namespace, tell: Tell) -> None:
    """Both engines of a model in turns, one model at a time."""
    from engine_race import NotTimedError, race

    folder = options.keep / path.name
    line: Line = {"model": path.name, "what": "race"}
    entries = [
        ((folder / f"{n}.engine").read_bytes(), dict(np.load(folder / f"{n}.npz")))
        for n in ("surgery", "raw")
    ]
    # One and the same engine is measured too: it shows what the measurement adds.
    line["same"] = entries[0][0] == entries[1][0]
    try:
        # Each is loaded first once: what that costs an engine is no property of it.
        times = [
            race(order, alone=_alone(options.keep / "lock"), seconds=SECONDS)
            for order in (entries, entries[::-1])
        ]
        ours, raw = (geometric_mean(pair) for pair in zip(times[0], times[1][::-1], strict=True))
        line.update(surgery_ms=round(ours, 4), raw_ms=round(raw, 4), ratio=round(ours / raw, 4))
    except (NotTimedError, OSError) as error:
        line["reason"] = str(error)
    except Exception as error:  # CUDA and Polygraphy raise kinds of their own
        line["reason"] = f"{type(error).__name__}: {error}"[:300]
    tell(line)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def child(options: argparse.Namespace) -> None:
    """One of the two kinds of children."""
    if options.work == "race":
        serve(options.child, lambda path, tell: time_both(path, options, tell))
    else:
        kept = Kept()
        serve(options.child, lambda path, tell: check(path, options, kept, tell))


# --- in the parent ----------------------------------------------------------------------------------------------


def ordered(paths: Sequence[Path], known: Path | None) -> list[Path]:
    """Light ones first: by the seconds that an earlier run took, else by the size of the file."""
    seconds: dict[str, float] = {}
    if known is not None:
        seconds = {r["model"]: float(r["seconds"]) for r in json.loads(known.read_text())}
    per_byte = 1e-6  # about what a model without record takes beside those with one
    return sorted(paths, key=lambda p: (seconds.get(p.name, p.stat().st_size * per_byte), p.name))


def read_lines(path: Path | None) -> list[Line]:
    """What is known; a line that was cut off in the middle is left out."""
    lines: list[Line] = []
    if path is not None and path.is_file():
        for text in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines


def work_through(options: argparse.Namespace) -> None:
    """Both parts, in the time that there is."""
    started = time.monotonic()
    options.keep.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    done = {(line["model"], line["what"]) for line in read_lines(options.lines)}
    with options.lines.open("a") as file:

        def tell(line: Line) -> None:
            with lock:
                line = {**line, "at": round(time.monotonic() - started, 1)}
                file.write(json.dumps(line) + "\n")
                file.flush()
                said = {k: v for k, v in line.items() if v is not None and k not in ("stages", "versions")}
                print(json.dumps(said)[:240], flush=True)

        models = [m for p in options.paths for m in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]
        models = [m.resolve() for m in ordered(models, options.order)]
        first = started + options.seconds * options.share
        waiting = [m for m in models if (m.name, "surgery") not in done]
        pool("check", options, tell).run(waiting, first, first + options.seconds * 0.1)
        pairs = [m for m in models if (options.keep / m.name / "raw.npz").is_file()]
        last = started + options.seconds
        known = Counter(line["model"] for line in read_lines(options.lines) if line["what"] == "race")
        for turn in range(options.races):
            # A turn over all of them in new processes each: kernels are compiled anew, not always to the same.
            waiting = [m for m in pairs if known[m.name] <= turn]
            pool("race", options, tell).run(waiting, last - 5, last)


def pool(work: str, options: argparse.Namespace, tell: Tell) -> Pool:
    """Children for one of the two parts."""
    command = [sys.executable, __file__, "--work", work, "--keep", str(options.keep)]
    command += ["--pipeline", options.pipeline, "--target", options.target, "--child"]
    environment = {"OMP_NUM_THREADS": "1"}
    if work == "race":
        # What surgery's worker sets too: an engine built without TF32 loads only so.
        environment["NVIDIA_TF32_OVERRIDE"] = "0"

    def failed(path: Path, why: str, told: list[Line]) -> None:
        what = "race" if work == "race" else "raw" if told else "surgery"
        tell({"model": path.name, "what": what, "ok": False, "status": why, "reason": why})

    return Pool(command, environment, count=options.processes, limit=options.limit, tell=tell, failed=failed)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="models, or folders with models")
    parser.add_argument("--pipeline", default="auto")
    parser.add_argument("--target", default="tensorrt-rtx")
    parser.add_argument("--lines", type=Path, default=Path("gpu.jsonl"), help="where results are added")
    parser.add_argument(
        "--keep", type=Path, default=Path("gpu-engines"), help="folder for engines and inputs"
    )
    parser.add_argument(
        "--order", type=Path, help="results of benchmarks/corpus.py: what took little goes first"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all of it")
    parser.add_argument("--share", type=float, default=0.6, help="part of it in which models are begun")
    parser.add_argument("--races", type=int, default=2, help="how often each pair of engines is timed")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one model")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("check", "race"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options)
    else:
        work_through(options)


if __name__ == "__main__":
    main()
