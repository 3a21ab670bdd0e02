"""One case through surgery: rewritten, built, and the rewritten model run against the suite's values."""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import surgery
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.targets import resolve_target
from surgery.trt.session import give_back, lend
from surgery.trt.types import BuildOptions, Limits
from surgery.verify.inverse import apply_inverses, apply_to_inputs
from tests.conformance.suite import Case, counted, same, suite


@dataclass(frozen=True)
class Result:
    """What came out of a case.

    Attributes:
        name: Of the case.
        reached: Built, and the rewritten model gives the expected outputs.
        reason: Why not.
        constants: Inputs that were given as constants because surgery asked for them.
        rules: Rules that were applied.
        seconds: Wall time.
        raw: Whether TensorRT builds the case as it is; None if not asked.
        engine: Why the engine is wrong, "" if it is right; None if it was not run.
    """

    name: str
    reached: bool
    reason: str
    constants: tuple[str, ...]
    rules: tuple[str, ...]
    seconds: float
    raw: bool | None = None
    engine: str | None = None


def run_case(case: Case, *, engine: bool = False, raw: bool = False) -> Result:
    """Run a case, with constants from its values where surgery asks for them.

    Args:
        case: The case.
        engine: Also run the engine on a GPU, against the suite's values.
        raw: Also ask the builder about the case as it is.
    """
    started = time.perf_counter()
    level: Any = "engine" if engine else "graph"
    report = surgery.run("generic", case.model, require=level)
    asked: tuple[str, ...] = ()
    for _ in range(3):  # what comes behind an operand is seen once it is known
        if report.failure is None or not report.failure.needs_constant:
            break
        asked += tuple(report.failure.needs_constant)
        feeds = case.feeds(0)
        report = surgery.run(
            "generic", case.model, constants={n: feeds[n] for n in asked if n in feeds}, require=level
        )
    reason = judge(case, report)
    ran = None
    if engine and report.engine:
        ran = judge_engine(case, report)
        reason = reason or ran
    rules = tuple(dict.fromkeys(e.rule for e in report.edits))
    seconds = round(time.perf_counter() - started, 2)
    return Result(case.name, not reason, reason, asked, rules, seconds, builds(case) if raw else None, ran)


def builds(case: Case) -> bool:
    """Whether TensorRT builds the case as it is."""
    flavour = resolve_target(None).flavour
    worker = lend(flavour)
    try:
        return worker.build(
            case.model.SerializeToString(), [], BuildOptions(tf32=False), limits=Limits(60)
        ).ok
    finally:
        give_back(worker)


def judge(case: Case, report: Any) -> str:
    """Why the case is not reached; "" if it is."""
    if report.failure is not None:
        failure = report.failure
        return " | ".join(str(t) for t in (failure.stage, failure.message, failure.cause) if t)
    if not report.engine:
        return "no engine"
    if len(case.model.graph.input) > 0 and not report.model.graph.input:
        return "no data input is left"
    try:
        session = Evaluator(report.model, threads=1)
    except EvaluationError as error:
        return f"the result does not load: {error}"
    return against_suite(case, report, lambda feeds: session.run(feeds))


def judge_engine(case: Case, report: Any) -> str:
    """Why the engine is wrong on the suite's values; "" if it is right."""
    names = [i["name"] for i in report.engine_info["inputs"]]
    worker = lend(resolve_target(None).flavour)
    try:

        def run(feeds: dict[str, Any]) -> dict[str, Any]:
            outcome = worker.run(report.engine, [{n: feeds[n] for n in names}])
            if not outcome.ok:
                raise ValueError(f"engine: {outcome.error or 'the process ended'}")
            return dict(outcome.outputs[0])

        text = against_suite(case, report, run)
        return f"engine: {text}" if text else ""
    finally:
        give_back(worker)


def against_suite(case: Case, report: Any, run: Any) -> str:
    """The first difference from the suite's values, after the inverses of io_changes and nothing else."""
    inverses = [c.inverse for c in report.io_changes if c.inverse and c.inverse.get("op") != "apply"]
    try:
        for number in range(len(case.data)):
            found = apply_inverses(run(apply_to_inputs(case.feeds(number), inverses)), inverses)
            wrong = same(case, case.expected(number), found)
            if wrong:
                return f"data set {number}: {wrong}"
    except (EvaluationError, ValueError, KeyError) as error:
        return f"the result does not run: {error}"
    return ""


def main(arguments: list[str]) -> None:
    """``python -m tests.conformance.harness [-v] [--json] [--all] [--raw] [--engine] [--shard=K/N] PATTERN...``."""
    patterns = [a for a in arguments if not a.startswith("-")] or ["*"]
    pool = suite() if "--all" in arguments else counted()
    names = [n for n in pool if any(fnmatch.fnmatch(n, p) for p in patterns)]
    for argument in arguments:
        if argument.startswith("--shard="):
            k, n = map(int, argument.removeprefix("--shard=").split("/"))
            names = names[k::n]
    good = 0
    for name in names:
        try:
            result = run_case(pool[name], engine="--engine" in arguments, raw="--raw" in arguments)
        except Exception as error:
            result = Result(name, False, f"CRASH {type(error).__name__}: {error}", (), (), 0.0, None, None)
        good += result.reached
        if "--json" in arguments:
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
        elif not result.reached or "-v" in arguments:
            mark = "ok  " if result.reached else "FAIL"
            sys.stdout.write(f"{mark} {name} {result.constants} {result.rules} {result.reason[:300]}\n")
        sys.stdout.flush()
    sys.stderr.write(f"{good} of {len(names)} reached\n")


if __name__ == "__main__":
    main(sys.argv[1:])
