"""What to say at the end of a run that failed: what was seen at the node, and the command to go on with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.diagnose.facts import Facts, Place
from surgery.diagnose.static import constant_of
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from surgery.errors import SurgeryError
    from surgery.targets import Target

OPERANDS = 4
"""Operands that are told."""

STEPS = 3
"""Steps back from an operand that are told."""

SHOWN = 8
"""Elements of a constant up to which its value is told."""


@dataclass(frozen=True, slots=True)
class Afterwards:
    """What is added to a failure.

    Attributes:
        evidence: What was seen in the graph at the node, a line each.
        next: The command to go on with, or None.
    """

    evidence: tuple[str, ...] = ()
    next: str | None = None


def afterwards(
    error: SurgeryError,
    *,
    model: onnx.ModelProto | None,
    source: Path | None,
    failed: Path | None,
    pipeline: str,
    target: Target | None,
    plugin_paths: Sequence[Path] = (),
) -> Afterwards:
    """Look at the model once more, after a run has failed.

    Args:
        error: Why it failed.
        model: What the parser got, or how far the run had come; None if it never began.
        source: The user's file, or None.
        failed: Where the failed model is written, or None.
        pipeline: Name of the pipeline.
        target: The target, or None if it was not known yet.
        plugin_paths: Folders with plugins of the user's that the run was given.
    """
    evidence: tuple[str, ...] = ()
    if error.exit_code in (4, 5) and error.node and model is not None and target is not None:
        evidence = _evidence(error, model, target)
    return Afterwards(
        evidence, _plugin(error, model, plugin_paths) or _next(error, source, failed, pipeline, target)
    )


def _plugin(error: SurgeryError, model: onnx.ModelProto | None, plugin_paths: Sequence[Path]) -> str | None:
    """What to go on with where a plugin node is wrong or not known: no parser has anything to add to that."""
    if error.code not in ("plugin-configuration", "plugin-version", "unknown-plugin") or model is None:
        return None
    node = next((n for n in all_nodes(model.graph.node) if error.node in (n.name, *n.output)), None)
    if node is None:
        return None
    name = shlex.quote(node.op_type)
    if error.code == "unknown-plugin":
        return f"surgery new plugin {name}"
    given = "".join(f" --plugin-path {shlex.quote(str(path))}" for path in plugin_paths)
    return f"surgery show plugins {name}{given}"


def _evidence(error: SurgeryError, model: onnx.ModelProto, target: Target) -> tuple[str, ...]:
    from surgery.diagnose.remedy import versions

    facts = Facts(model)
    place = facts.find(error.node or "")
    if place is None:
        return ()
    found = []
    domain = f"{place.node.domain}." if place.node.domain else ""
    lies = f" in {' / '.join(place.path)}" if place.path else ""
    found.append(f"{domain}{place.node.op_type} {place.label!r}{lies}")
    found += _operands(facts, place)
    taken = versions(place.node.op_type, place.node.domain)
    others = [name for name, verdict in taken.items() if verdict != "no" and name != target.name]
    if taken.get(target.name) == "no":
        found.append(f"taken by {', '.join(others) or 'no version with a table'}")
    return tuple(found)


def _operands(facts: Facts, place: Place) -> list[str]:
    found = []
    for name in [n for n in place.node.input if n][:OPERANDS]:
        chain = facts.chain(place.scope, name, STEPS)
        plain = not chain or chain[0].startswith(("input", "constant"))
        origin = "" if plain else f", from {' <- '.join(chain)}"
        what = chain[0].split(" ", 1)[0] if chain and plain else "operand"
        value = constant_of(place, name) if what == "constant" else None
        shown = f" = {value.tolist()}" if value is not None and value.size <= SHOWN else ""
        found.append(f"{what} {name!r}: {place.scope.kind(name)}{shown}{origin}")
    return found


def _next(
    error: SurgeryError, source: Path | None, failed: Path | None, pipeline: str, target: Target | None
) -> str | None:
    if source is None:
        return None
    to = f" --target {target.name}" if target is not None else ""
    model = shlex.quote(str(source))
    left = shlex.quote(str(failed)) if failed is not None else model
    if error.needs_constant:
        values = " ".join(f"--constant {shlex.quote(n)}=VALUE" for n in error.needs_constant)
        return f"surgery run {shlex.quote(pipeline)} {model} {values}"
    if error.exit_code == 3:
        return f"surgery explain {model}" if source.is_file() and source.stat().st_size else None
    if error.exit_code == 4:
        return f"surgery explain {left}{to}"
    if error.exit_code == 5:
        if error.code == "build-timeout":
            return f"surgery run {shlex.quote(pipeline)} {model} --set build.seconds=7200"
        if error.code in ("build-aborted", "build-memory"):
            return f"surgery reduce {left} --while 'build fails'{to}"
        return f"surgery explain {left}{to}"
    if error.exit_code == 6:
        compared = failed is not None and error.code != "run-without-end"
        return f"surgery diff {model} {left}" if compared else f"surgery inspect {model}{to}"
    return None
