"""What is in a model, and what a target will not take: told from headers and tables, without weights or running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surgery.diagnose.facts import Facts, Place, dtype_name, kind_of
from surgery.diagnose.family import Family, family_of
from surgery.diagnose.grouping import WRONG, said
from surgery.diagnose.header import Header, read_header

if TYPE_CHECKING:
    import onnx

    from surgery.diagnose.classify import Finding
    from surgery.diagnose.explanation import Explanation
    from surgery.diagnose.remedy import Remedy
    from surgery.diagnose.static import Refusal
    from surgery.diagnose.trial import Fate, Trial
    from surgery.plugins.registry import Registry
    from surgery.targets import Target

SMALL_NODES, SMALL_BYTES = 2000, 64 << 20
"""Nodes and bytes up to which the real parser is asked, and `surgery run` is tried, without being told to."""

TRIAL = 0.4
"""Share of the time that trying `surgery run` may take."""

CONTROL = ("If", "Loop", "Scan")
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
)  # fmt: skip

Ask = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that will not go through, all for one reason.

    Attributes:
        op: Their operator, with the domain where it is not the default one; None for inputs and constants.
        kind: As :class:`surgery.diagnose.static.Refusal` has it, or ``plugin``: its definition refuses the node.
        step: The step that refuses them.
        reason: Why.
        failure: The class of failures, or None.
        names: The nodes, with the nodes that they lie in: ``If 'a' then_branch / b``.
        remedies: What to do, best first.
        fates: What `surgery run` does about them, with how many of them; empty if that was not tried.
    """

    op: str | None
    kind: str
    step: str
    reason: str
    failure: str | None
    names: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    fates: tuple[tuple[Fate, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "op": self.op,
            "kind": self.kind,
            "step": self.step,
            "reason": self.reason,
            "class": self.failure,
            "nodes": list(self.names),
            "fixes": [{"kind": r.kind, "text": r.text, "command": r.command} for r in self.remedies],
            "run": [{**f.to_dict(), "nodes": n} for f, n in self.fates],
        }


@dataclass(slots=True)
class Inspection:
    """What was found.

    Attributes:
        model: Path or name.
        target: The target's name.
        facts: What is in the model: the keys of ``model`` in the JSON form.
        family: What kind of network it is.
        groups: What will not go through, by cause, the most nodes first.
        parser: ``agrees``, ``differs`` or ``not asked: why``.
        only_table: Nodes that the tables refuse and the parser takes.
        only_parser: Nodes that the parser refuses and the tables take.
        notes: Anything else.
        trial: What `surgery run` does with the model as far as the parser, or None if that was not tried.
    """

    model: str
    target: str
    facts: dict[str, Any]
    family: Family
    groups: list[Group] = field(default_factory=list)
    parser: str = ""
    only_table: list[str] = field(default_factory=list)
    only_parser: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trial: Trial | None = None

    @property
    def count(self) -> int:
        """Nodes, inputs and constants that will not go through, by the table."""
        return sum(len(g.names) for g in self.groups if g.kind != WRONG)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "path": self.model,
            "model": self.facts,
            "family": {
                "name": self.family.name, "because": self.family.because, "pipeline": self.family.pipeline
            },
            "target": self.target,
            "refused": [g.to_dict() for g in self.groups],
            "parser": {
                "verdict": self.parser, "only_table": self.only_table, "only_parser": self.only_parser
            },
            "run": self.trial.to_dict() if self.trial is not None else None,
            "notes": self.notes,
        }  # fmt: skip


def inspect(
    model: str | Path | bytes,
    *,
    target: str | None = None,
    ask: Ask = "auto",
    seconds: float = 50.0,
    plugin_paths: Sequence[str | Path] = (),
) -> Inspection:
    """Say what is in a model, and what a target will not take of it.

    Args:
        model: Path of an ``.onnx`` file, or its bytes. Weights are not read, unless the real parser is asked.
        target: Name of a TensorRT flavour and version; None takes what is installed.
        ask: Whether the real parser is asked, where that TensorRT is installed, and `surgery run` is tried, without
            writing anything; ``auto`` does so with small models.
        seconds: Time that both may take.
        plugin_paths: Folders with the user's own plugin definitions.

    Raises:
        ModelError: the model cannot be read or is not valid ONNX.
        ConfigError: no such target; a definition of the user's is wrong.
    """
    from surgery.plugins.registry import Registry
    from surgery.targets import resolve_target

    chosen = resolve_target(target)
    registry = Registry.load([Path(p) for p in plugin_paths])
    header = read_header(model)
    name = "<bytes>" if isinstance(model, bytes) else str(model)
    facts, origins = _facts(header.proto)
    told = _describe(header, facts)
    family = family_of(facts, told["operators"], sum(told["plugins"].values()))
    result = Inspection(name, chosen.name, told, family)
    found = _refusals(facts, chosen)
    why_not = _large(result, header, ask)
    if why_not is None:
        from surgery.diagnose.trial import attempt

        result.trial = attempt(
            model, target=chosen, pipeline=family.pipeline, name=name, last="parse", seconds=TRIAL * seconds,
            plugin_paths=plugin_paths,
        )  # fmt: skip
    result.groups = _groups(found, facts, chosen, name, origins, result.trial, family.pipeline)
    wrong = _wrong_plugin(header.proto, registry, result.trial)
    told_of = {name for group in result.groups for name in group.names} if result.trial is not None else ()
    if wrong is not None and wrong.names[0] not in told_of:
        result.groups.insert(0, wrong)
    if chosen.note:
        result.notes.append(chosen.note)
    _ask(result, model, chosen, found, why_not, seconds * (1 - TRIAL), origins)
    return result


class _Origins:
    """Labels of nodes: as the model has them, whatever they are called in the copy with functions expanded."""

    def __init__(self, work: Any = None) -> None:
        self._work = work

    def label(self, place: Place) -> tuple[str, tuple[str, ...]]:
        """The node's own label, and the nodes that it lies in."""
        if self._work is not None and place.node.name in self._work.origins:
            origin = self._work.origins[place.node.name]
            return origin.name, origin.path
        return place.label, place.path

    def readable(self, text: str) -> str:
        """A text with the model's own names in it."""
        return text if self._work is None else str(self._work.readable(text))


def _facts(proto: onnx.ModelProto) -> tuple[Facts, _Origins]:
    if not proto.functions:
        return Facts(proto), _Origins()
    from surgery.diagnose.workcopy import WorkCopy

    work = WorkCopy(proto)
    return work.facts, _Origins(work)


# -- what is in it ----------------------------------------------------------------------------------------


def _describe(header: Header, facts: Facts) -> dict[str, Any]:
    import onnx

    proto, graph = header.proto, header.proto.graph
    initial = {t.name for t in graph.initializer}
    nodes = list(_nodes(graph))
    operators = Counter(_operator(n) for n, _ in nodes)
    functions = {(f.domain, f.name): f for f in proto.functions}
    inner = Counter((n.domain, n.op_type) for f in proto.functions for n in f.node)
    calls = Counter((n.domain, n.op_type) for n, _ in nodes) + inner
    called = {f"{d}.{n}" if d else n for d, n in functions}
    plugins: Counter[str] = Counter()
    foreign: dict[str, Counter[str]] = {}
    for node, _ in nodes:
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain in ("", "ai.onnx"):
            if not onnx.defs.has(node.op_type):
                plugins[node.op_type] += 1
        else:
            foreign.setdefault(node.domain, Counter())[node.op_type] += 1
    return {
        "bytes": header.size,
        "ir_version": proto.ir_version,
        "producer": " ".join(t for t in (proto.producer_name, proto.producer_version) if t),
        "opsets": dict(sorted(facts.opsets.items())),
        "inputs": [{"name": v.name, **_kind(v)} for v in graph.input if v.name not in initial],
        "outputs": [{"name": v.name, **_kind(v)} for v in graph.output],
        "nodes": len(graph.node),
        "nodes_with_bodies": len(nodes),
        "operators": {o: n for o, n in operators.most_common() if o not in called},
        "control_flow": {
            **{op: operators[op] for op in CONTROL if operators[op]},
            "depth": max((depth for _, depth in nodes), default=0),
        },
        "functions": [
            {"name": f.name, "domain": f.domain, "nodes": len(f.node), "calls": calls[f.domain, f.name]}
            for f in proto.functions
        ],
        "weights": _weights(proto, header.path),
        "quantization": {op: operators[op] for op in QUANTIZED if operators[op]},
        "plugins": dict(plugins.most_common()),
        "foreign_domains": {d: dict(c.most_common()) for d, c in sorted(foreign.items())},
        "scopes": _scopes(n.name for n, depth in nodes if not depth),
    }


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _nodes(graph: onnx.GraphProto, depth: int = 0) -> Iterable[tuple[onnx.NodeProto, int]]:
    for node in graph.node:
        yield node, depth
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g, depth + 1)


def _kind(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = kind_of(value)
    return {"dtype": kind.dtype, "shape": None if kind.dims is None else list(kind.dims)}


BITS = {"bool": 8, "bfloat16": 16, "string": 0, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4e2m1": 4,
        "complex64": 64, "complex128": 128}  # fmt: skip


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    if dtype.startswith("float8"):
        return 8
    digits = "".join(c for c in dtype if c.isdigit())
    return int(digits) if digits else 0


def _weights(proto: onnx.ModelProto, path: Path | None) -> dict[str, Any]:
    import onnx

    from surgery.graph.load import tensors_of

    sizes: Counter[str] = Counter()
    files: dict[str, int] = {}
    tensors = 0
    for tensor in tensors_of(proto.graph):
        dtype = dtype_name(tensor.data_type) or "unknown"
        elements = 1
        for dim in tensor.dims:
            elements *= max(dim, 0)
        sizes[dtype] += (elements * _bits(dtype) + 7) // 8
        tensors += 1
        if tensor.data_location == onnx.TensorProto.EXTERNAL and path is not None:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            if location not in files:
                files[location] = (path.parent / location).stat().st_size
    return {"tensors": tensors, "bytes": sum(sizes.values()), "by_dtype": dict(sizes.most_common()),
            "external": files}  # fmt: skip


def _scopes(names: Iterable[str], most: int = 12) -> dict[str, int]:
    """How many nodes there are under each first part of a name; where all share it, under the second, and so on."""
    parts = [tuple(p for p in name.split("/") if p) for name in names]
    parts = [p for p in parts if len(p) > 1]
    while parts and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts if len(p) > 2]
    return dict(Counter(p[0] for p in parts).most_common(most))


# -- what will not go through ----------------------------------------------------------------------------


def _refusals(facts: Facts, target: Target) -> list[Refusal]:
    from surgery.diagnose.static import refusals

    return list(refusals(facts, target))


def _groups(
    found: Sequence[Refusal],
    facts: Facts,
    target: Target,
    model: str,
    origins: _Origins,
    trial: Trial | None,
    pipeline: str,
) -> list[Group]:
    from surgery.diagnose.remedy import remedies

    together: dict[tuple[str, str | None, str], list[Refusal]] = {}
    for refusal in found:
        domain = refusal.place.node.domain if refusal.place is not None else ""
        op = f"{domain}.{refusal.op}" if domain not in ("", "ai.onnx") else refusal.op
        reason = refusal.reason if refusal.kind != "values" else "values"
        together.setdefault((refusal.kind, op, reason), []).append(refusal)
    groups = []
    for (kind, op, _), members in together.items():
        first = members[0]
        found_class = _class_of(first, facts)
        findings = [found_class] if found_class is not None else []
        fates = _fates(members, trial, origins)
        worst = next(
            (f for f, _ in fates if f.what in ("left", "not reached")), fates[0][0] if fates else None
        )
        groups.append(
            Group(
                op,
                kind,
                first.step,
                origins.readable(first.reason),
                found_class.id if found_class is not None else None,
                tuple(dict.fromkeys(_name(r, origins) for r in members)),
                tuple(
                    remedies(
                        findings,
                        first.place,
                        facts,
                        target,
                        model,
                        trial=trial,
                        fate=worst,
                        pipeline=pipeline,
                    )
                ),
                fates,
            )
        )
    return sorted(groups, key=lambda g: -len(g.names))


def _wrong_plugin(proto: onnx.ModelProto, registry: Registry, trial: Trial | None) -> Group | None:
    """The plugin node at which a run fails before it begins, as a group of its own."""
    from surgery.diagnose.remedy import Remedy
    from surgery.graph.walk import all_nodes
    from surgery.plugins.advise import NODE_CODES, wrong_node

    failure = trial.failure if trial is not None else wrong_node(proto, registry)
    if failure is None or failure.code not in NODE_CODES or failure.node is None:
        return None
    name = failure.node
    op = next((n.op_type for n in all_nodes(proto.graph.node) if name in (n.name, *n.output)), None)
    remedies = (Remedy("plugin", failure.fix),) if failure.fix else ()
    fates = ((trial.fate(name, op), 1),) if trial is not None else ()
    return Group(op, WRONG, "load", failure.message, None, (name,), remedies, fates)


def _fates(
    members: Sequence[Refusal], trial: Trial | None, origins: _Origins
) -> tuple[tuple[Fate, int], ...]:
    if trial is None:
        return ()
    counts: Counter[Fate] = Counter()
    for refusal in members:
        name, path = origins.label(refusal.place) if refusal.place is not None else (refusal.name, ())
        counts[trial.fate(name, refusal.op, path)] += 1
    return tuple(counts.most_common())


def _name(refusal: Refusal, origins: _Origins) -> str:
    if refusal.place is None:
        return refusal.name
    label, path = origins.label(refusal.place)
    return " / ".join((*path, label))


def _class_of(refusal: Refusal, facts: Facts) -> Finding | None:
    from surgery.diagnose.catalogue import catalogue
    from surgery.diagnose.classify import classify, finding_of

    if refusal.failure is not None:
        return finding_of(catalogue()[refusal.failure])
    if refusal.kind != "operator" or refusal.place is None:
        return None
    from surgery.diagnose.telling import as_message

    message = as_message(refusal.reason, refusal.place.node.name, refusal.place.node.op_type)
    found = classify([message], op=refusal.op, node=refusal.place.node.name, model=facts)
    return found[0] if found else None


# -- the real parser -----------------------------------------------------------------------------------


def _large(result: Inspection, header: Header, ask: Ask) -> str | None:
    """Why neither the parser is asked nor a run is tried; None if they are."""
    nodes, size = (
        result.facts["nodes_with_bodies"],
        header.size + sum(result.facts["weights"]["external"].values()),
    )
    if ask == "never":
        return ""
    if ask == "auto" and (nodes > SMALL_NODES or size > SMALL_BYTES):
        return f"{nodes} nodes, {size >> 20} MB; --parser asks it"
    return None


def _ask(
    result: Inspection, model: str | Path | bytes, target: Target, found: Sequence[Refusal], why_not: str | None,
    seconds: float, origins: _Origins,
) -> None:  # fmt: skip
    if not target.installed:
        result.parser = f"not asked: {target.name} is not installed here"
        return
    if why_not is not None:
        result.parser = f"not asked: {why_not}" if why_not else "not asked"
        return
    from surgery.diagnose.explain import explain

    real = explain(model, target=target.name, seconds=seconds, build=False, run=False)
    _compare(result, found, real, origins)


def _compare(result: Inspection, found: Sequence[Refusal], real: Explanation, origins: _Origins) -> None:
    by_table = {}
    for refusal in found:
        if refusal.step == "parse" and refusal.kind != "values":
            label = origins.label(refusal.place)[0] if refusal.place is not None else refusal.name
            by_table[label, refusal.op] = _name(refusal, origins)
    by_parser = {}
    not_asked = {(p.node, p.op) for p in real.problems if p.where == "table"}
    for problem in real.problems:
        if problem.where in ("parse", "input", "constant"):
            name = " / ".join((*problem.path, problem.node or "?"))
            told = said(problem.messages[0]) if problem.messages else ""
            by_parser[problem.node, problem.op] = f"{name} ({problem.op or problem.where}): {told}"
    skipped = set(real.skipped)
    result.only_table = [
        f"{name} ({op})"
        for (label, op), name in by_table.items()
        if (label, op) not in by_parser and (label, op) not in not_asked and f"{op} {label!r}" not in skipped
    ]
    result.only_parser = [text for key, text in by_parser.items() if key not in by_table]
    result.only_parser += [said(p.messages[0]) for p in real.problems if p.where == "model" and p.messages]
    if not real.complete:
        result.notes += real.notes
    differs = result.only_table or result.only_parser
    result.parser = "differs" if differs else "agrees" if real.complete else "agrees as far as it was asked"
