"""What is found when a model is explained: the problems, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from surgery.diagnose.classify import Finding
from surgery.diagnose.remedy import Remedy
from surgery.diagnose.trial import Fate

if TYPE_CHECKING:
    from surgery.diagnose.trial import Trial

Where = Literal["file", "model", "input", "constant", "parse", "build", "table", "run"]


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
