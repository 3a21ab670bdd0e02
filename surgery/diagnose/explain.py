"""Explaining a model: every node that a target does not take, why, and what to do, in one go."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surgery.diagnose.catalogue import catalogue
from surgery.diagnose.classify import Finding, classify, compose, finding_of
from surgery.diagnose.facts import Facts, Place
from surgery.diagnose.remedy import PROFILE, Remedy, asked_for, derived_ranges, remedies, versions
from surgery.diagnose.trial import Fate
from surgery.errors import ModelError
from surgery.shape_text import range_text
from surgery.trt.types import ParserMessage

if TYPE_CHECKING:
    from surgery.diagnose.trial import Trial
    from surgery.diagnose.workcopy import WorkCopy
    from surgery.graph.load import LoadedModel
    from surgery.targets import Target
    from surgery.trt.session import Worker
    from surgery.trt.types import BuildOutcome, Outcome

Where = Literal["file", "model", "input", "constant", "parse", "build", "table", "run"]
Shapes = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]

SECONDS = 90.0
"""Time that one model may take."""

TRIAL = 0.6
"""Share of it that trying `surgery run` may take."""

ROUNDS = 200
"""Rounds of cutting and asking again."""

LEFT = "what is left without the nodes above was parsed and not built"

GLOBAL = PROFILE | {
    "workspace-too-small", "no-outputs", "file-truncated", "engine-gpu-mismatch", "bf16-dtype", "opset-too-new",
}  # fmt: skip
"""Classes that are not about one node: nothing is gained by looking for it."""


@dataclass(slots=True)
class Problem:
    """Something that the target does not take.

    Attributes:
        where: Who says so: the file's own check, the parser (about the model, an input, a constant or a node),
            the builder, the table of a target that is not installed, or `surgery run` alone.
        messages: What was said.
        findings: Classes that fit, best first.
        node: Name of the node (or of the input or constant), or None where no single one is to blame.
        op: Its operator.
        domain: Its domain.
        path: The nodes whose bodies or functions it lies in, outermost first.
        evidence: What was seen in the graph.
        operands: Name, kind and origin of each operand.
        remedies: What to do, best first.
        versions: What the tables of other targets say to the operator.
        located: How the node was found where the message does not name it.
        also: Other places with the same node of the same function.
        fate: What `surgery run` does about it, or None if that was not tried.
    """

    where: Where
    messages: tuple[str, ...]
    findings: tuple[Finding, ...]
    node: str | None = None
    op: str | None = None
    domain: str = ""
    path: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    operands: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    remedies: tuple[Remedy, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    located: str | None = None
    also: list[tuple[str, ...]] = field(default_factory=list)
    fate: Fate | None = None

    @property
    def id(self) -> str | None:
        """The class that fits best."""
        return self.findings[0].id if self.findings else None

    def lacking(self, target: str) -> bool:
        """Whether the tables say that a target does not have the operator at all."""
        return self.versions.get(target) == "no"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "where": self.where,
            "node": self.node,
            "op": self.op,
            "domain": self.domain,
            "path": list(self.path),
            "class": self.id,
            "classes": [{"id": f.id, "score": f.score} for f in self.findings],
            "messages": list(self.messages),
            "cause": self.findings[0].cause if self.findings else None,
            "evidence": list(self.evidence),
            "operands": [{"name": n, "kind": k, "from": list(c)} for n, k, c in self.operands],
            "fixes": [{"kind": r.kind, "text": r.text, "command": r.command} for r in self.remedies],
            "versions": {"catalogue": self.findings[0].versions if self.findings else None, **self.versions},
            "located": self.located,
            "also": [list(p) for p in self.also],
            "run": self.fate.to_dict() if self.fate is not None else None,
        }


@dataclass(slots=True)
class Explanation:
    """All that was found about one model.

    Attributes:
        model: Its path or name.
        target: The target's name.
        installed: The version that was asked, or None where only the table was.
        problems: What the target does not take, in order of discovery.
        notes: What is good to know and stops nothing.
        skipped: Nodes that could not be asked about, because nothing could stand for what they read.
        complete: Whether everything was looked at; if not, the last note says why.
        trial: What `surgery run` does with the model, or None if that was not tried.
    """

    model: str
    target: str
    installed: str | None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    complete: bool = True
    trial: Trial | None = None

    @property
    def exit_code(self) -> int:
        """0 nothing found, 3 the file, 4 the parser (or the table), 5 the builder; else that of `surgery run`."""
        kinds = {p.where for p in self.problems}
        if not kinds:
            return 0
        if kinds == {"run"} and self.trial is not None:
            return self.trial.exit_code or 0
        return 3 if "file" in kinds else 5 if kinds <= {"build", "run"} else 4

    @property
    def resolved(self) -> int:
        """Problems that `surgery run` does away with."""
        return sum(p.fate is not None and p.fate.what in ("done", "taken") for p in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "exit_code": self.exit_code,
            "model": self.model,
            "target": self.target,
            "installed": self.installed,
            "complete": self.complete,
            "problems": [p.to_dict() for p in self.problems],
            "notes": self.notes,
            "skipped": self.skipped,
            "run": self.trial.to_dict() if self.trial is not None else None,
        }


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
    _Search(loaded, chosen, result, shapes, workspace_mib, left).run(build)
    if chosen.note and (result.trial is None or chosen.note not in result.trial.warnings):
        result.notes.append(chosen.note)
    return result


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


class _Search:
    """One search through one model."""

    def __init__(
        self,
        source: LoadedModel,
        target: Target,
        result: Explanation,
        shapes: Shapes | None,
        workspace_mib: float | None,
        seconds: float,
    ) -> None:
        self.source = source
        self.target = target
        self.result = result
        self.shapes = shapes
        self.workspace = None if workspace_mib is None else int(workspace_mib * 2**20)
        self.deadline = time.monotonic() + seconds
        self.worker: Worker | None = None
        self._written: dict[tuple[str, str | None], Problem] = {}

    # -- the course of it -------------------------------------------------------------------------------------------

    def run(self, build: bool = True) -> None:
        """Fill the result."""
        from surgery.diagnose.workcopy import WorkCopy
        from surgery.trt.session import give_back, lend

        self.work: WorkCopy = WorkCopy(self.source.proto)
        if not self.target.installed:
            self._by_table(list(self.work.origins))
            self.result.notes.append(
                f"{self.target.name} is not installed here: this is what its table says; the parser was not asked"
            )
            self._failed_run()
            return
        self.worker = lend(self.target.flavour)
        try:
            if self._parse_all() and build:
                self._build_all()
        finally:
            give_back(self.worker)
        self._by_table(self.work.skipped)
        told = {(p.node, p.op) for p in self.result.problems}
        for token in dict.fromkeys(self.work.skipped):
            origin = self.work.origins[token]
            if (origin.name, origin.op) not in told:
                self.result.skipped.append(f"{origin.op} {origin.name!r}")
        self._failed_run()

    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    def _stop(self, why: str) -> None:
        self.result.complete = False
        self.result.notes.append(why)

    # -- the parser -------------------------------------------------------------------------------------------------

    def _parse_all(self) -> bool:
        """Ask the parser until it takes what is left; False if it never did."""
        for _ in range(ROUNDS):
            if self.left() < 1:
                self._stop("the time was over before the parser had seen everything")
                return False
            outcome = self._ask_parser(self.work.model)
            if outcome.ok:
                return True
            before = (len(self.work.cut), len(self.work.skipped), len(self.work.model.graph.input))
            if outcome.aborted or outcome.timed_out or outcome.out_of_memory:
                if not self._parser_died(outcome):
                    return False
            else:
                self._refused(outcome.errors, outcome.last_node)
            if before == (len(self.work.cut), len(self.work.skipped), len(self.work.model.graph.input)):
                if not self.result.problems:
                    self._add("model", [compose(e) for e in outcome.errors], list(outcome.errors), None)
                self._stop("the parser still refuses what is left, and names no node in it")
                return False
        self._stop(f"more than {ROUNDS} rounds")
        return False

    def _ask_parser(self, model: Any) -> Any:
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import Limits

        assert self.worker is not None
        with on_disk(model, self.source) as placed:
            data = placed if isinstance(placed, Path) else placed.SerializeToString()
            return self.worker.parse(data, limits=Limits(max(self.left(), 1.0)))

    def _refused(self, errors: Sequence[ParserMessage], last: str | None) -> None:
        by_node: dict[str, list[ParserMessage]] = {}
        for error in errors:
            tokens = self.work.tokens(error.node_name)
            if tokens:
                by_node.setdefault(tokens[0], []).append(error)
            elif error.function == "importInput":
                self._inputs(error)
            elif "Failed to import initializer: " in error.description:
                self._constant(error)
            else:
                near = self.work.tokens(last or "")
                if error.code == "UNSUPPORTED_GRAPH" and near:
                    near = [self.work.owner(near[0])]
                if near and error.function not in ("parseGraph", "deserializeOnnxModel"):
                    by_node.setdefault(near[0], []).append(error)
                else:
                    self._add("model", [compose(error)], [error], None)
        for token, messages in by_node.items():
            self._add("parse", [compose(m) for m in messages], messages, token)
        self.work.drop(by_node)

    def _inputs(self, error: ParserMessage) -> None:
        from surgery.diagnose.workcopy import TYPES, usable

        for value in list(self.work.model.graph.input):
            kind = self.work.facts.main.kind(value.name)
            if kind.dtype in TYPES and usable(kind):
                continue
            found = classify([replace(error, description=f"input named {value.name}: {error.description}")],
                             model=self.work.facts)  # fmt: skip
            readers = self.work.drop_tensor(value.name)
            if not any(p.where == "input" and p.node == value.name for p in self.result.problems):
                self._tensor("input", value.name, str(kind), error, found, readers)

    def _constant(self, error: ParserMessage) -> None:
        name = error.description.rsplit("Failed to import initializer: ", 1)[1].strip()
        kind = self.work.facts.main.kind(name)
        found = classify([error], model=self.work.facts)
        readers = self.work.drop_tensor(name)
        self._tensor("constant", name, str(kind), error, found, readers)

    def _tensor(
        self,
        where: Where,
        name: str,
        kind: str,
        error: ParserMessage,
        found: list[Finding],
        readers: list[str],
    ) -> None:
        read = [f"{self.work.origins[t].op} {self.work.origins[t].name!r}" for t in readers]
        evidence = [f"{name!r} is {kind}"]
        if read:
            evidence.append(f"read by {', '.join(read[:5])}")
        place = self.work.place(readers[0]) if readers else None
        fate = self._fate(name)
        self.result.problems.append(
            Problem(
                where,
                (compose(error),),
                tuple(self._readable(f) for f in found),
                name,
                None,
                evidence=tuple(evidence),
                remedies=tuple(self._remedies(found, place, fate)),
                fate=fate,
            )
        )

    def _parser_died(self, outcome: Outcome) -> bool:
        how = (
            "ran out of time"
            if outcome.timed_out
            else "used too much memory"
            if outcome.out_of_memory
            else "aborted"
        )
        tokens = self.work.tokens(outcome.last_node or "")
        if not tokens:
            self._add("model", [f"the parser {how} and had announced no node"], [], None)
            self._stop("the parser ended before it announced a node")
            return False
        token = tokens[0]
        confirmed = ""
        top = self.work.index(self.work.owner(token))
        if top is not None and self.left() > 2 and not outcome.timed_out:
            alone = self._ask_parser(self.work.part(top, top + 1))
            same = alone.aborted or alone.out_of_memory
            confirmed = (
                "; it does so with this node alone, too" if same else "; with this node alone it does not"
            )
        text = f"the parser {how} at this node, the last that it announced{confirmed}"
        self._add(
            "parse", [text], [text], token, located="the last node that the parser announced" + confirmed
        )
        self.work.drop([token])
        return True

    # -- the builder ------------------------------------------------------------------------------------------------

    def _profiles(self, model: Any) -> list[Any]:
        from surgery.trt.types import ShapeProfile

        facts = self.work.facts
        made = derived_ranges(facts, model.graph)
        if self.shapes is not None:
            original = {v.name for v in self.source.proto.graph.input}
            present = {v.name for v in model.graph.input}
            made = {n: s for n, s in made.items() if n not in original}
            for name, (low, best, high) in self.shapes.items():
                if name in present:
                    made[name] = (tuple(low), tuple(best), tuple(high))
        return [ShapeProfile(name, *shape) for name, shape in made.items()]

    def _ask_builder(self, model: Any) -> BuildOutcome:
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import BuildOptions, Limits

        assert self.worker is not None
        profiles = self._profiles(model)
        options = BuildOptions(workspace_bytes=self.workspace, tf32=False)
        with on_disk(model, self.source) as placed:
            data = placed if isinstance(placed, Path) else placed.SerializeToString()
            return self.worker.build(
                data, [profiles] if profiles else [], options, limits=Limits(max(self.left(), 1.0))
            )

    def _build_all(self) -> None:
        for _ in range(ROUNDS):
            if (self.work.cut or self.work.skipped) and not self._fixed():
                return
            model = self.work.for_build()
            if not model.graph.output:
                return
            if self.left() < 1:
                self._stop("the time was over before everything was built")
                return
            outcome = self._ask_builder(model)
            if outcome.ok:
                self._note_profile()
                return
            if outcome.parse_errors and self._ends_well():
                return
            if outcome.parse_errors:
                self.result.notes.append(f"{LEFT}: at fixed shapes the parser refuses it")
                return
            if outcome.timed_out:
                self._stop(
                    "the build did not end in the time given (--seconds); up to then nothing was refused"
                )
                return
            if self._only_the_range():
                return
            if not self._build_failed(outcome):
                return
        self._stop(f"more than {ROUNDS} rounds")

    def _ends_well(self) -> bool:
        """Whether `surgery run` builds the model: what could not be built of the cut one is of no interest then."""
        trial = self.result.trial
        return trial is not None and trial.exit_code == 0 and "build" in trial.stages

    def _only_the_range(self) -> bool:
        """Whether a model that does not build over derived ranges does so at fixed shapes; tells which."""
        ranges = derived_ranges(self.work.facts)
        if self.shapes is not None or not ranges or self.work.cut or self.work.skipped:
            return False
        for part in range(2):
            if self.left() < 5:
                return False
            fixed = {n: (r[part], r[part], r[part]) for n, r in ranges.items()}
            for name, shapes in fixed.items():
                batch = tuple(b if low != high else f for low, f, b, high in zip(
                    ranges[name][0], shapes[0], ranges[name][1], ranges[name][2], strict=True))  # fmt: skip
                first = batch[:1] + shapes[0][1:]
                fixed[name] = (first, first, first)
            self.shapes = fixed
            outcome = self._ask_builder(self.work.for_build())
            self.shapes = None
            if outcome.ok:
                listed = "; ".join(f"{n} {'x'.join(map(str, s[0]))}" for n, s in fixed.items())
                self.result.notes.append(
                    f"it builds at fixed shapes ({listed}), not over ranges that were guessed; "
                    "give real ones with --shape"
                )
                return True
        return False

    def _fixed(self) -> bool:
        """Give what is left fixed shapes; False if what stands for a cut node has none."""
        facts = self.work.facts
        best = {n: s[1] for n, s in derived_ranges(facts).items()}
        best.update({n: tuple(s[1]) for n, s in (self.shapes or {}).items() if n in best})
        free = self.work.specialise(best)
        if free and not self._ends_well():
            named = ", ".join(repr(self.work.readable(n)) for n in free[:5])
            self.result.notes.append(f"{LEFT}: the shape of {named} is not known before the model runs")
        return not free

    def _build_failed(self, outcome: BuildOutcome) -> bool:
        """Say what the builder refused and cut it out; False to end the search."""
        messages = list(outcome.errors) or [
            "the builder used too much memory" if outcome.out_of_memory else "the builder aborted"
            if outcome.aborted else "the builder refused the model and gave no reason"
        ]  # fmt: skip
        found = classify([self._spelt(m) for m in messages], model=self.work.facts)
        tokens = [t for m in messages for t in self.work.tokens(m)]
        tokens = [t for t in dict.fromkeys(tokens) if t not in self.work.cut]
        if found and found[0].id in GLOBAL:
            self._add("build", messages, messages, None)
            return False
        if len(tokens) == 1:
            derived = self.shapes is None and any("for profile 0 violate" in m for m in messages)
            how = "with shapes that were derived; give the real ones with --shape" if derived else None
            self._add("build", messages, messages, tokens[0], located=how)
            self.work.drop(tokens)
            return True
        seen = [t for t in self.work.tokens(found[0].node or "") if self._is_there(t)] if found else []
        if not tokens and seen and found[0].evidence:
            self._add(
                "build", messages, messages, seen[0], located="the node that fulfils what the message says"
            )
            self.work.drop(seen)
            return True
        return self._bisect(messages, outcome)

    def _is_there(self, token: str) -> bool:
        return self.work.index(self.work.owner(token)) is not None and token not in self.work.cut

    def _same(self, first: BuildOutcome, other: BuildOutcome, ident: str | None) -> bool:
        if other.ok or other.parse_errors or other.timed_out:
            return False
        if first.aborted or first.out_of_memory:
            return other.aborted or other.out_of_memory
        found = classify([self._spelt(m) for m in other.errors], model=self.work.facts)
        return (found[0].id if found else None) == ident

    def _bisect(self, messages: list[str], outcome: BuildOutcome) -> bool:
        """Find the shortest beginning of the graph that fails alike, then the shortest end of that."""
        found = classify([self._spelt(m) for m in messages], model=self.work.facts)
        ident = found[0].id if found else None
        count, asked = len(self.work.model.graph.node), 0

        def fails(first: int, last: int) -> bool:
            nonlocal asked
            asked += 1
            return self._same(outcome, self._ask_builder(self.work.part(first, last)), ident)

        low, high = 0, count
        while high - low > 1 and self.left() > 2:
            middle = (low + high) // 2
            low, high = (low, middle) if fails(0, middle) else (middle, high)
        sure = high - low <= 1
        start, end = 0, high - 1
        while start < end and self.left() > 2:
            middle = (start + end + 1) // 2
            start, end = (middle, end) if fails(middle, high) else (start, middle - 1)
        nodes = [n.name for n in list(self.work.model.graph.node)[start:high]]
        names = ", ".join(
            f"{self.work.origins[t].op} {self.work.origins[t].name!r}"
            for t in nodes[:6]
            if t in self.work.origins
        )
        more = f" and {len(nodes) - 6} more" if len(nodes) > 6 else ""
        how = f"by building parts of the graph ({asked} builds): {names}{more} fails alone"
        if not asked:
            how = "no other node is left to blame"
        if not sure or start < end:
            self._stop("the time was over before the failing nodes were found")
            how = f"not to the end: somewhere among {len(nodes)} nodes up to here"
        last = nodes[-1] if nodes else None
        if last is None or last not in self.work.origins:
            self._add("build", messages, messages, None)
            return False
        self._add("build", messages, messages, last, located=how)
        if not sure:
            return False
        self.work.drop([last])
        return True

    def _note_profile(self) -> None:
        ranges = derived_ranges(self.work.facts)
        if self.shapes is None and ranges and self._ends_well() and self.result.trial is not None:
            if self.result.trial.ranges:
                text = "inputs with free dims need an optimization profile; --shape gives another than the one above"
                self.result.notes.append(text)
        elif self.shapes is None and ranges:
            listed = "; ".join(f"{n} {range_text(shapes)}" for n, shapes in ranges.items())
            self.result.notes.append(
                f"inputs with free dims need an optimization profile; the one derived here: {listed} (--shape)"
            )

    # -- telling ----------------------------------------------------------------------------------------------------

    def _spelt(self, text: str) -> str:
        """A message with operators in the place of tokens, for signatures."""
        for token in self.work.tokens(text):
            text = text.replace(token, self.work.origins[token].op)
        return text

    def _readable(self, finding: Finding) -> Finding:
        read = self.work.readable
        return replace(
            finding,
            evidence=tuple(read(t) for t in finding.evidence),
            node=read(finding.node) if finding.node else None,
        )

    def _remedies(
        self, found: Sequence[Finding], place: Place | None, fate: Fate | None = None
    ) -> list[Remedy]:
        facts, trial = self.work.facts, self.result.trial
        return remedies(found, place, facts, self.target, self.result.model, trial=trial, fate=fate)

    def _fate(self, name: str, op: str | None = None, path: Sequence[str] = ()) -> Fate | None:
        return self.result.trial.fate(name, op, path) if self.result.trial is not None else None

    def _failed_run(self) -> None:
        """Add why `surgery run` fails, where no problem says so already."""
        trial = self.result.trial
        failure = trial.failure if trial is not None else None
        if trial is None or failure is None or not trial.fails:
            return
        if any(p.fate is not None and p.fate.what == "left" for p in self.result.problems):
            return
        named = re.match(r"\[([\w-]+)\] ", failure.cause or "") or re.search(
            r" \[([\w-]+)\]$", failure.cause or ""
        )
        found = self._known(named[1] if named and named[1] in catalogue() else None)
        said = re.search(r"TensorRT said: (.+)", failure.cause or "", re.DOTALL)
        place = self.work.facts.find(token) if (token := self._token(failure.node)) else None
        fixes = [Remedy("run", failure.fix)] if failure.fix else []
        if failure.stage == "verify":
            fixes = [
                Remedy("run", "the numbers are in verification.graph of the run's report.json", trial.command)
            ]
        if failure.needs_constant:
            fixes = [asked_for(failure.needs_constant, trial.command)]
        fate = Fate("left", f"the run fails at it: {failure.code}")
        self.result.problems.append(
            Problem(
                "run",
                (trial.message, *([said[1]] if said else [])),
                tuple(found),
                failure.node,
                place.node.op_type if place is not None else None,
                place.node.domain if place is not None else "",
                evidence=(failure.cause,) if failure.cause and not found else (),
                operands=self._operands(place) if place is not None else (),
                remedies=tuple(fixes),
                fate=fate,
            )
        )

    def _token(self, name: str | None) -> str | None:
        """The token of a node of the main graph, by its name."""
        return next((t for t, o in self.work.origins.items() if name and o.name == name and not o.path), None)

    def _add(
        self,
        where: Where,
        texts: Sequence[str],
        messages: Sequence[ParserMessage | str],
        token: str | None,
        *,
        located: str | None = None,
        failure: str | None = None,
    ) -> None:
        work, read = self.work, self.work.readable
        origin = work.origins[token] if token is not None else None
        given = [m if isinstance(m, ParserMessage) else self._spelt(m) for m in messages]
        if token is not None and origin is not None:
            given = [
                replace(m, node_name=token, node_op=origin.op)
                if isinstance(m, ParserMessage) and not m.node_name
                else m
                for m in given
            ]
        found = self._known(failure) or classify(
            given, op=origin.op if origin else None, node=token, model=work.facts
        )
        place = work.place(token) if token is not None else None
        if origin is not None:
            first = (origin.written, found[0].id if found else None)
            known = self._written.get(first)
            if known is not None:
                if origin.path != known.path and origin.path not in known.also:
                    known.also.append(origin.path)
                return
        else:
            first = ("", None)
        told = tuple(dict.fromkeys(read(t) for t in texts))
        fate = self._fate(origin.name, origin.op, origin.path) if origin is not None else None
        problem = Problem(
            where,
            told,
            tuple(self._readable(f) for f in found),
            origin.name if origin else None,
            origin.op if origin else None,
            origin.domain if origin else "",
            origin.path if origin else (),
            evidence=tuple(read(t) for t in (found[0].evidence if found else ())),
            operands=self._operands(place) if place is not None else (),
            remedies=tuple(self._remedies(found, place, fate)),
            versions=versions(origin.op, origin.domain) if origin else {},
            located=located,
            fate=fate,
        )
        if origin is not None:
            self._written[first] = problem
        self.result.problems.append(problem)

    def _operands(self, place: Place) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        read, facts = self.work.readable, self.work.facts
        return tuple(
            (read(name), str(place.scope.kind(name)), tuple(read(t) for t in facts.chain(place.scope, name)))
            for name in place.node.input
            if name
        )

    def _by_table(self, tokens: Sequence[str]) -> None:
        """What the target's tables say about nodes that the parser was not asked about."""
        from surgery.diagnose.static import refusals

        wanted = set(tokens)
        for refusal in refusals(self.work.facts, self.target):
            place, reason = refusal.place, refusal.reason
            if place is None:
                if not self.target.installed:
                    text = f"the table of {self.target.table}: {reason}"
                    found, fate = self._known(refusal.failure), self._fate(refusal.name)
                    self.result.problems.append(
                        Problem(
                            "table", (text,), tuple(found), refusal.name,
                            remedies=tuple(self._remedies(found, None, fate)), fate=fate,
                        )
                    )  # fmt: skip
            elif place.node.name in wanted:
                token = place.node.name
                text = f"the table of {self.target.table}: {reason}"
                message: ParserMessage | str = text
                if refusal.kind == "operator":
                    said = f"{text}; No importer registered for op: {refusal.op}"
                    message = as_message(said, token, place.node.op_type)
                self._add("table", [text], [message], token, failure=refusal.failure)

    @staticmethod
    def _known(failure: str | None) -> list[Finding]:
        return [finding_of(catalogue()[failure])] if failure is not None else []


def as_message(text: str, token: str, op: str) -> ParserMessage:
    """What a table says, in the form of a message of the parser."""
    plugin = "Plugin not found, are the plugin name, version, and namespace correct?"
    return ParserMessage(
        "UNSUPPORTED_NODE", f"{text}; {plugin} UNSUPPORTED_NODE: false", token, op, -1, "table", "", 0
    )
