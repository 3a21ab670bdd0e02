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
    """

    name: str
    reached: bool
    reason: str
    constants: tuple[str, ...]
    rules: tuple[str, ...]
    seconds: float


def run_case(case: Case, target: str = "tensorrt-rtx") -> Result:
    """Run a case, with constants from its values where surgery asks for them."""
    started = time.perf_counter()
    report = surgery.run("generic", case.model, target=target)
    asked: tuple[str, ...] = ()
    if report.failure is not None and report.failure.needs_constant:
        asked = tuple(report.failure.needs_constant)
        feeds = case.feeds(0)
        report = surgery.run("generic", case.model, target=target, constants={n: feeds[n] for n in asked})
    reason = judge(case, report, asked)
    rules = tuple(dict.fromkeys(e.rule for e in report.edits))
    return Result(case.name, not reason, reason, asked, rules, round(time.perf_counter() - started, 2))


def judge(case: Case, report: Any, asked: tuple[str, ...]) -> str:
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
        inverses = [c.inverse for c in report.io_changes if c.inverse and c.inverse.get("op") != "apply"]
        for number in range(len(case.data)):
            feeds = apply_to_inputs(case.feeds(number), inverses)
            found = apply_inverses(session.run(feeds), inverses)
            wrong = same(case, case.expected(number), found)
            if wrong:
                return f"data set {number}: {wrong}"
    except (EvaluationError, ValueError) as error:
        return f"the result does not run: {error}"
    return ""


def main(arguments: list[str]) -> None:
    """``python -m tests.conformance.harness PATTERN...``: run cases and print one line each."""
    patterns = [a for a in arguments if not a.startswith("-")] or ["*"]
    pool = suite() if "--all" in arguments else counted()
    names = [n for n in pool if any(fnmatch.fnmatch(n, p) for p in patterns)]
    good = 0
    for name in names:
        try:
            result = run_case(pool[name])
        except Exception as error:
            result = Result(name, False, f"CRASH {type(error).__name__}: {error}", (), (), 0.0)
        good += result.reached
        if "--json" in arguments:
            print(json.dumps(asdict(result)), flush=True)
        elif not result.reached or "-v" in arguments:
            print(
                "ok  " if result.reached else "FAIL",
                name,
                result.constants,
                result.rules,
                result.reason[:300],
                flush=True,
            )
    print(f"{good} of {len(names)} reached", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
