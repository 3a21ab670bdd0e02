"""What to do about a node: shipped rules, constants, profiles, and which versions take it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from surgery.diagnose.classify import Finding
from surgery.diagnose.facts import Facts, Place, dtype_name
from surgery.plugins.skeleton import defined_text, is_defined
from surgery.shape_text import range_text

if TYPE_CHECKING:
    from surgery.diagnose.trial import Fate, Trial
    from surgery.rules.engine.rule import Lowering
    from surgery.targets import Target

PROFILE = frozenset(
    {"no-optimization-profile", "profile-missing-input", "profile-conflicts-static-dim", "named-dims-differ"}
)
"""Classes whose remedy is a range for each free dim."""

BATCH = (1, 2, 4)
"""Range of a free leading dim: with more than one at the optimum, a batch that is baked in shows."""

LACKING = frozenset({"uint16", "uint32", "uint64", "int16", "float64"})
"""Element types that `surgery run` carries in others."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to do.

    Attributes:
        kind: As in the catalogue, or ``rule``.
        text: What it does.
        command: What to type, or a piece of YAML; None where there is nothing to type.
    """

    kind: str
    text: str
    command: str | None = None


@lru_cache(maxsize=1)
def _rules() -> dict[tuple[str, str], list[Lowering]]:
    from surgery.rules import shipped_rules
    from surgery.rules.engine.rule import Lowering

    found: dict[tuple[str, str], list[Lowering]] = {}
    for rule in shipped_rules():
        if not isinstance(rule, Lowering):
            continue
        for op in rule.ops:
            found.setdefault((rule.domain, op), []).append(rule)
    return found


def rules_for(op: str, domain: str, target: str, opset: int | None = None) -> list[str]:
    """Names of the shipped rules for an operator, as far as they are for the target and the opset."""
    domain = "" if domain == "ai.onnx" else domain
    return [
        r.name
        for r in _rules().get((domain, op), [])
        if (not r.targets or any(target.startswith(t) for t in r.targets))
        and (opset is None or r.since <= opset <= (r.until or opset))
    ]


def remedies(
    findings: Sequence[Finding],
    place: Place | None,
    facts: Facts,
    target: Target,
    model: str,
    *,
    trial: Trial | None = None,
    fate: Fate | None = None,
    pipeline: str = "generic",
) -> list[Remedy]:
    """What to do, best first: what surgery does by itself, what it needs to be told, then the catalogue's advice.

    Args:
        findings: Classes that fit, best first.
        place: The node, or None.
        facts: The model.
        target: The target.
        model: Its path, for commands.
        trial: What `surgery run` did with the model, or None if it was not tried.
        fate: What it did about this node, or None.
        pipeline: That of the model's family, for commands where no run was tried.
    """
    from surgery.diagnose.trial import run_command

    run = trial.command if trial is not None else run_command(pipeline, model, target)
    found: list[Remedy] = []
    ids = {f.id for f in findings[:1]}
    if trial is not None and fate is not None:
        found += _by_trial(findings, place, facts, trial, fate)
    elif place is not None:
        found += _for_node(place, facts, target, run)
    if ((not found and ids & PROFILE) or "hardcoded-batch-reshape" in ids) and (
        fate is None or fate.what != "done"
    ):
        shapes = profile_options(facts)
        if shapes:
            found.append(
                Remedy("builder-option", "give each free dim a range, or one fixed size", f"{run} {shapes}")
            )
    if "workspace-too-small" in ids:
        text = "give the builder more workspace, or leave the limit away"
        found.append(Remedy("builder-option", text, f"{run} --set build.workspace_mib=4096"))
    for finding in findings[:2]:
        for fix in finding.fixes:
            remedy = Remedy(fix.kind, fix.text)
            tried = trial is not None and place is not None and fix.text == defined_text(place.node.op_type)
            if not tried and remedy.text not in (r.text for r in found):
                found.append(remedy)
    return found


def _by_trial(
    findings: Sequence[Finding], place: Place | None, facts: Facts, trial: Trial, fate: Fate
) -> list[Remedy]:
    """What the run does, or asks for; nothing where it does nothing."""
    if fate.what == "done":
        return [Remedy("rule", fate.text, trial.command)]
    if fate.what == "taken":
        return [plain] if place is not None and (plain := _plain(place, facts, trial.command)) else []
    if fate.what == "left" and trial.failure is not None:
        if trial.failure.needs_constant:
            return [asked_for(trial.failure.needs_constant, trial.command)]
        fix = trial.failure.fix if fate.at else None
        known = [f.text for finding in findings for f in finding.fixes]
        if fix and "surgery explain" not in fix and not any(text in fix for text in known):
            return [Remedy("run", fix)]
    elif fate.what == "left" and place is not None:
        return _constants(place, facts, trial.command)
    return []


def asked_for(wanted: Sequence[str], run: str) -> Remedy:
    """Giving the inputs that have to be known when the engine is built."""
    values = " ".join(f"--constant {shlex.quote(n)}=VALUE" for n in wanted)
    text = f"give the value of {', '.join(map(repr, wanted))}, if it is always the same"
    return Remedy("shape-specialize", text, f"{run} {values}")


def _constants(place: Place, facts: Facts, run: str) -> list[Remedy]:
    wanted = small_inputs(place, facts)
    return [asked_for(wanted, run)] if wanted else []


def _plain(place: Place, facts: Facts, run: str) -> Remedy | None:
    """The remedy of nodes that go away whatever they are: nothing depends on them, or they are constant."""
    if not facts.alive(place):
        return Remedy("rewrite", "no output depends on it: nodes like it are left out", run)
    if not any(facts.sources(place.scope, n, through_shapes=True) for n in place.node.input if n):
        return Remedy("constant-fold", "all its operands are constant: it is computed once and stored", run)
    return None


def _for_node(place: Place, facts: Facts, target: Target, run: str) -> list[Remedy]:
    """What there is for a node where no run was tried: which rules exist, not whether they apply."""
    node = place.node
    if plain := _plain(place, facts, run):
        return [plain]
    found = []
    rules = rules_for(node.op_type, node.domain, target.name, facts.opsets.get(node.domain))
    if rules:
        named = ", ".join(rules[:3])
        more = f" and {len(rules) - 3} more" if rules[3:] else ""
        text = f"there are rules for {node.op_type} ({named}{more}); the run tells whether one applies here"
        found.append(Remedy("rule", text, run))
    if is_defined(node.op_type):
        found.append(Remedy("plugin", defined_text(node.op_type), _migrating(run)))
    found += _constants(place, facts, run)
    kinds = {place.scope.kind(n).dtype for n in (*node.input, *node.output) if n}
    kinds |= {dtype_name(a.i) for a in node.attribute if a.name == "to"}
    lacking = sorted(k for k in kinds if k in LACKING)
    if lacking and not found:
        found.append(
            Remedy("dtype-cast", f"{', '.join(lacking)} is carried in a type that the target has", run)
        )
    return found


def _migrating(run: str) -> str:
    """The command with the pipeline that is about plugin nodes."""
    return re.sub(r"^surgery run \S+", "surgery run migrate", run)


def small_inputs(place: Place, facts: Facts) -> list[str]:
    """Inputs of the model that give an operand such as axes, sizes or a depth its value."""
    inputs = {v.name for v in facts.model.graph.input} - set(facts.main.constants)
    found: dict[str, None] = {}
    for position, name in enumerate(place.node.input):
        if not name or (position == 0 and place.node.op_type not in ("Range", "ConstantOfShape")):
            continue
        kind = place.scope.kind(name)
        size = 1
        for dim in kind.dims or ():
            size *= dim if isinstance(dim, int) else 1
        if (
            kind.dtype not in ("int64", "int32", "float32", "bool")
            or kind.dims is None
            or size > 16
            or len(kind.dims) > 1
        ):
            continue
        for source in facts.sources(place.scope, name):
            dims = facts.main.kind(source).dims
            if source in inputs and dims is not None and len(dims) <= 1:
                found[source] = None
    return list(found)


def profile_options(facts: Facts) -> str:
    """``--shape`` options for the inputs with free dims, with ranges to start from."""
    parts = []
    for name, ranges in derived_ranges(facts).items():
        parts.append(f"--shape {shlex.quote(f'{name}={range_text(ranges)}')}")
    return " ".join(parts)


Shape = tuple[int, ...]


def _range(axis: int, rank: int) -> tuple[int, int, int]:
    from surgery.stages.profiles import DERIVED_OTHER, DERIVED_SIZE

    return BATCH if axis == 0 else DERIVED_SIZE if rank == 4 else DERIVED_OTHER


def derived_ranges(facts: Facts, graph: object = None) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Minimum, optimum and maximum of each input with free dims; one name of a dim has one range."""
    from surgery.diagnose.facts import kind_of

    source = facts.model.graph if graph is None else graph
    found = {}
    named: dict[str, tuple[int, int, int]] = {}
    images_first = sorted(source.input, key=lambda v: len(kind_of(v).dims or ()) != 4)  # type: ignore[attr-defined]
    for value in images_first:
        for axis, dim in enumerate(kind_of(value).dims or ()):
            if isinstance(dim, str):
                named.setdefault(dim, _range(axis, len(kind_of(value).dims or ())))
    for value in source.input:  # type: ignore[attr-defined]
        dims = kind_of(value).dims
        if value.name in facts.main.constants or dims is None or all(isinstance(d, int) for d in dims):
            continue
        ranges = [
            (d, d, d) if isinstance(d, int) else named[d] if isinstance(d, str) else _range(axis, len(dims))
            for axis, d in enumerate(dims)
        ]
        low, best, high = (tuple(r[i] for r in ranges) for i in range(3))
        found[value.name] = (low, best, high)
    return found


def versions(op: str, domain: str) -> dict[str, str]:
    """What each target with a table says to an operator: ``yes``, ``restricted: ...`` or ``no``."""
    from surgery.targets import known_targets, resolve_target

    told: dict[str, str] = {}
    for name in known_targets():
        target = resolve_target(name)
        if not target.table_exact:
            continue
        entry = target.operator(op) if domain in ("", "ai.onnx") else None
        plugin = target.plugin(op)
        if entry is not None and entry.supported:
            text = " ".join(entry.restrictions.split())
            told[name] = f"restricted: {text}" if text else "yes"
        elif plugin is not None and plugin.available:
            told[name] = f"plugin, version {', '.join(plugin.versions)}"
        else:
            told[name] = "no"
    return told
