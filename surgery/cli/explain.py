"""`surgery explain`: which nodes a target does not take, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.options import PluginPathOption, ShapeOption, TargetOption
from surgery.cli.output import print_json, print_text, wrapped
from surgery.diagnose.grouping import LONGEST, STATES, groups, said
from surgery.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from surgery.diagnose.explanation import Explanation, Problem
    from surgery.diagnose.logs import LogProblem
    from surgery.diagnose.trial import Trial

FIXES = 3
"""Ways out that are told."""

NAMES = 6
"""Names of nodes that are listed of one group."""

FEW = 3
"""Operands that are told of a node that is no problem in a run."""

GONE = ("rewrite", "constant-fold")
"""Remedies of nodes that go away whatever they are."""

STEPS = 3
"""Steps back from an operand that are told."""


def explain(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="The ONNX model.")] = None,
    target: TargetOption = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Explain a log of trtexec, Polygraphy, ONNX Runtime or mmdeploy instead; - for stdin.",
        ),
    ] = None,
    shape: ShapeOption = None,
    workspace_mib: Annotated[
        float | None, typer.Option(metavar="MIB", min=0.0, help="Workspace limit of the build.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(metavar="S", min=1.0, help="Time that it may take; what is not looked at then is told."),
    ] = 50.0,
    plugin_path: PluginPathOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say which nodes a target does not take, why, and what to do."""
    if log is not None:
        _log(log, model, json)
        return
    if model is None:
        raise ConfigError(
            "no MODEL given",
            code="no-model",
            where="surgery explain",
            fix="write: surgery explain MODEL.onnx, or surgery explain --log build.log",
        )
    from surgery.cli.execute import _quiet_stdout
    from surgery.cli.values import parse_shapes
    from surgery.diagnose import explain as module

    with _quiet_stdout():
        result = module.explain(
            model,
            target=target,
            shapes=parse_shapes(shape) if shape else None,
            workspace_mib=workspace_mib,
            seconds=seconds,
            plugin_paths=plugin_path or (),
        )
    if json:
        print_json(result.to_dict())
    else:
        print_text("\n".join(_lines(result)))
    raise typer.Exit(result.exit_code)


def _lines(result: Explanation) -> Iterator[str]:
    version = f" ({result.installed})" if result.installed else ""
    yield f"{result.model} for {result.target}{version}: {_head(result)}"
    yield from _run(result.trial)
    for number, group in enumerate(groups(result.problems), 1):
        yield ""
        yield from _problem(number, group, result.target)
    if result.skipped:
        yield ""
        listed = ", ".join(result.skipped[:10]) + (
            f" and {len(result.skipped) - 10} more" if result.skipped[10:] else ""
        )
        yield from wrapped("not looked at, for nothing can stand for what they read: ", listed)
    for note in result.notes:
        yield ""
        yield from wrapped("note: ", note)


def _head(result: Explanation) -> str:
    told = [p for p in result.problems if p.where != "run"]
    asked = result.installed is not None
    if not told:
        if not result.complete:
            return "nothing found so far"
        text = "goes through parser and builder" if asked else "by its table, everything goes through"
        return f"{text} as it is" + (", and yet `surgery run` fails" if result.problems else "")
    text = "1 problem" if len(told) == 1 else f"{len(told)} problems"
    if result.trial is None or result.exit_code == 3:
        return text
    if result.resolved == len(told):
        it = "it" if len(told) == 1 else "all of them"
        return f"{text}; `surgery run` resolves {it}" + (", and fails later" if result.trial.fails else "")
    how = (
        f"resolves {result.resolved} of them"
        if result.resolved
        else "does not resolve " + ("it" if len(told) == 1 else "them")
    )
    return f"{text}; `surgery run` {how}"


def _run(trial: Trial | None) -> Iterator[str]:
    """How `surgery run` ends."""
    if trial is None:
        return
    yield f"$ {trial.command}"
    yield from wrapped("   ", trial.verdict)
    if trial.told:
        yield from wrapped("   edits: ", trial.told)
    for text in trial.warnings[:NAMES]:
        yield from wrapped("   warns: ", text)


def _problem(number: int, group: Sequence[Problem], target: str) -> Iterator[str]:
    problem = group[0]
    yield _title(number, problem, len(group))
    if len(group) > 1:
        named = [" / ".join((*p.path, p.node or "?")) for p in group]
        more = f" and {len(named) - NAMES} more" if named[NAMES:] else ""
        yield from wrapped("   nodes: ", ", ".join(named[:NAMES]) + more)
    elif problem.path:
        yield from wrapped("   in: ", " / ".join(problem.path))
    for path in problem.also[:NAMES]:
        yield from wrapped("   also in: ", " / ".join(path))
    if problem.also[NAMES:]:
        yield f"   and {len(problem.also) - NAMES} more"
    for text in problem.messages[:3]:
        yield from wrapped(f"   {_speaker(problem.where)}: ", said(text)[:LONGEST])
    if problem.located:
        yield from wrapped("   found: ", problem.located)
    if problem.findings:
        yield from wrapped("   cause: ", problem.findings[0].cause)
    for text in problem.evidence:
        yield from wrapped("   seen: ", text)
    most = NAMES if problem.fate is None or problem.fate.what in ("left", "not reached") else FEW
    for name, kind, chain in problem.operands[:most]:
        shown = [*chain[:STEPS], *(["..."] if chain[STEPS:] else [])]
        plain = not chain or chain[0].startswith(("input", "constant"))
        told_from = "" if plain else f", from {' <- '.join(shown)}"
        what = chain[0].split(" ", 1)[0] if chain and not told_from else "operand"
        yield from wrapped(f"   {what} ", f"{name!r}: {kind}{told_from}")
    if problem.operands[most:]:
        yield f"   and {len(problem.operands) - most} more operands"
    yield from _what_to_do(problem, target)


def _title(number: int, problem: Problem, count: int) -> str:
    told = {
        "file": "the file",
        "model": "the model",
        "input": f"input {problem.node!r}",
        "constant": f"constant {problem.node!r}",
        "run": "surgery run",
    }
    head = told.get(problem.where) if problem.op is None else None
    if head is None:
        domain = f"{problem.domain}." if problem.domain else ""
        which = f"x {count}" if count > 1 else repr(problem.node)
        head = (
            f"{domain}{problem.op} {which}"
            if problem.op
            else repr(problem.node)
            if problem.node
            else "the model"
        )
    elif count > 1:
        head = f"{problem.where} x {count}"
    return f"{number}. {head}" + (f"  [{problem.id}]" if problem.id else "")


def _what_to_do(problem: Problem, target: str) -> Iterator[str]:
    """What the run does; advice only where that is not enough."""
    fate = problem.fate
    first = problem.remedies[0] if problem.remedies else None
    gone = fate is not None and fate.what == "taken" and first is not None and bool(first.command)
    gone = gone and first is not None and first.kind in GONE
    if fate is not None and problem.where != "run":
        text = first.text if gone and first is not None else fate.text
        yield from wrapped("   run: ", f"{STATES[fate.what]}: {text}")
    if fate is not None and fate.what in ("done", "taken"):
        if fate.what == "taken" and not gone:
            yield from _fixes([(r.text, None) for r in problem.remedies[:1] if r.command])
        return
    yield from _fixes([(r.text, r.command) for r in problem.remedies])
    if problem.lacking(target):
        taken = [t for t, v in problem.versions.items() if v != "no"]
        text = ", ".join(t + ("*" if problem.versions[t] != "yes" else "") for t in taken)
        stars = "  (* with restrictions: surgery show targets NAME)" if "*" in text else ""
        yield from wrapped("   takes the operator: ", (text or "no version with a table") + stars)
    if problem.findings and not problem.findings[0].versions.startswith("all"):
        yield from wrapped("   concerns: ", problem.findings[0].versions)


def _speaker(where: str) -> str:
    return {"file": "says", "build": "builder", "table": "table", "run": "run"}.get(where, "parser")


def _fixes(fixes: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    word = "fix"
    for text, command in list(fixes)[:FIXES]:
        yield from wrapped(f"   {word}: ", text)
        if command:
            yield f"        $ {command}"
        word = "or"


def _log(path: Path, model: Path | None, as_json: bool) -> None:
    from surgery.diagnose.logs import read_log

    try:
        if str(path) == "-":
            text = typer.get_text_stream("stdin").read()
        else:
            text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            code="bad-log",
            where=str(path),
            fix="give the path of a text file",
        ) from error
    problems = read_log(text, _facts(model))
    if as_json:
        print_json({"schema": 1, "log": str(path), "problems": [p.to_dict() for p in problems]})
        return
    print_text("\n".join(_log_lines(path, problems)))


def _facts(model: Path | None) -> Any:
    if model is None:
        return None
    from surgery.diagnose.facts import Facts
    from surgery.graph.load import load_model

    try:
        return Facts(load_model(model).proto)
    except ModelError as error:
        error.fix = error.fix or "leave MODEL away: the log alone can be explained, too"
        raise


def _log_lines(path: Path, problems: Sequence[LogProblem]) -> Iterator[str]:
    count = len(problems)
    yield f"{path}: " + (
        "no failure found" if not count else "1 failure" if count == 1 else f"{count} failures"
    )
    for number, problem in enumerate(problems, 1):
        yield ""
        first = problem.findings[0] if problem.findings else None
        head = f"{problem.op or 'node'} {problem.node!r}" if problem.node else problem.op or "the model"
        again = f", again {len(problem.lines)} times" if problem.lines else ""
        yield (
            f"{number}. {head}"
            + (f"  [{first.id}]" if first else "")
            + f"  line {problem.line}{again}"
            + (", a warning" if problem.warning else "")
        )
        yield from wrapped("   says: ", problem.text)
        if first is None:
            yield "   cause: not in the catalogue; `surgery explain MODEL.onnx` asks the parser itself"
            continue
        yield from wrapped("   cause: ", first.cause)
        for text in first.evidence:
            yield from wrapped("   seen: ", text)
        yield from _fixes([(f.text, None) for f in first.fixes])
        yield from wrapped("   concerns: ", first.versions)
