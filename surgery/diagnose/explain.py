"""Explaining a model: every node that a target does not take, why, and what to do, in one go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.diagnose.asking import Asking, Shapes
from surgery.diagnose.building import Building
from surgery.diagnose.classify import classify
from surgery.diagnose.explanation import Explanation, Problem
from surgery.diagnose.facts import Facts, Place
from surgery.diagnose.parsing import Parsing
from surgery.diagnose.remedy import Remedy
from surgery.diagnose.telling import Telling
from surgery.errors import ModelError
from surgery.trt.types import ParserMessage

if TYPE_CHECKING:
    from surgery.graph.load import LoadedModel
    from surgery.targets import Target

__all__ = ["Explanation", "Problem", "explain"]

SECONDS = 90.0
"""Time that one model may take."""

TRIAL = 0.6
"""Share of it that trying `surgery run` may take."""


def explain(
    model: str | Path | bytes,
    *,
    target: str | None = None,
    shapes: Shapes | None = None,
    workspace_mib: float | None = None,
    seconds: float = SECONDS,
    build: bool = True,
    run: bool = True,
    plugin_paths: Sequence[str | Path] = (),
) -> Explanation:
    """Find every node that a target does not take, and say why, what `surgery run` does about it, and what to do.

    The parser is asked; each node that it refuses is cut out, typed inputs take the place of what it makes, and
    the parser is asked again until it takes the rest, which is then built. What `surgery run` does with the model is
    found by doing it, without writing anything.

    Args:
        model: Path of an ``.onnx`` file, or its bytes.
        target: Name of a TensorRT flavour and version; None takes what is installed.
        shapes: Per input (minimum, optimum, maximum) shape for the build, exactly these; None derives them.
        workspace_mib: Workspace limit of the build in MiB.
        seconds: Time that it may take; what is not looked at then is told.
        build: Whether what the parser takes is built, too.
        run: Whether `surgery run` is tried, too.
        plugin_paths: Folders with the user's own plugin definitions, for the run.

    Raises:
        ConfigError: no such target; a definition of the user's is wrong.
        MissingEnvironmentError: that TensorRT is installed and does not load.
    """
    from surgery.graph.load import load_model
    from surgery.plugins.registry import Registry
    from surgery.targets import resolve_target

    chosen = resolve_target(target)
    Registry.load([Path(p) for p in plugin_paths])  # what is wrong in one is told before anything else
    name = "<bytes>" if isinstance(model, bytes) else str(model)
    result = Explanation(name, chosen.name, chosen.installed_version)
    try:
        loaded = load_model(model)
    except ModelError as error:
        result.problems.append(_file_problem(error, model))
        return result
    ends = time.monotonic() + seconds
    if run:
        from surgery.diagnose.family import family_of_model
        from surgery.diagnose.trial import attempt

        family = family_of_model(loaded.proto)
        result.trial = attempt(
            model, target=chosen, pipeline=family.pipeline, name=name, last="verify" if build else "parse",
            seconds=TRIAL * seconds, shapes=shapes, workspace_mib=workspace_mib, plugin_paths=plugin_paths,
        )  # fmt: skip
    left = max(ends - time.monotonic(), (1 - TRIAL) * seconds)  # whatever the run took, the parser is asked
    _ask(loaded, chosen, result, shapes, workspace_mib, left, build)
    if chosen.note and (result.trial is None or chosen.note not in result.trial.warnings):
        result.notes.append(chosen.note)
    return result


def _ask(
    source: LoadedModel,
    target: Target,
    result: Explanation,
    shapes: Shapes | None,
    workspace_mib: float | None,
    seconds: float,
    build: bool,
) -> None:
    """Let the target, or its table where it is not installed, say what it does not take."""
    from surgery.diagnose.workcopy import WorkCopy
    from surgery.trt.session import give_back, lend

    ends = time.monotonic() + seconds
    work = WorkCopy(source.proto)
    telling = Telling(result, work, target)
    if not target.installed:
        telling.by_table(list(work.origins))
        result.notes.append(
            f"{target.name} is not installed here: this is what its table says; the parser was not asked"
        )
        telling.failed_run()
        return
    worker = lend(target.flavour)
    try:
        asking = Asking(worker, source, work, workspace_mib, ends)
        if Parsing(asking, telling).run() and build:
            Building(asking, telling, shapes).run()
    finally:
        give_back(worker)
    telling.by_table(work.skipped)
    told = {(p.node, p.op) for p in result.problems}
    for token in dict.fromkeys(work.skipped):
        origin = work.origins[token]
        if (origin.name, origin.op) not in told:
            result.skipped.append(f"{origin.op} {origin.name!r}")
    telling.failed_run()


def _file_problem(error: ModelError, source: str | Path | bytes) -> Problem:
    import onnx

    from surgery.diagnose.evidence import TESTS, Case

    text = error.message + (f": {error.cause}" if error.cause else "")
    facts = None
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
        if proto.graph.node:
            facts = Facts(proto)
    except Exception:  # whatever is wrong with the file is told already
        facts = None
    place: Place | None = None
    for candidate in facts.places if facts is not None else ():
        case = Case(text, candidate.node.op_type, candidate.node.domain, candidate, None, facts)
        if any(TESTS[t](case, candidate)[0] for t in ("undefined-input", "missing-attribute")):
            place = candidate
            break
    findings = classify([text], model=facts)
    if place is not None:
        named = ParserMessage("INVALID_GRAPH", text, place.node.name, place.node.op_type, -1, "check", "", 0)
        findings = sorted(
            [*findings, *(f for f in classify([named], model=facts) if f.id not in {g.id for g in findings})],
            key=lambda f: -f.score,
        )
    tried = [Remedy("file", error.fix)] if error.fix else []
    return Problem(
        "file",
        (text,),
        tuple(findings),
        place.label if place is not None else error.node,
        place.node.op_type if place is not None else None,
        evidence=findings[0].evidence if findings else (),
        path=place.path if place is not None else (),
        remedies=(*tried, *(Remedy(f.kind, f.text) for f in (findings[0].fixes if findings else ()))),
    )
