"""The report of a run: everything found, done, checked and written (``report.json``, schema 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx

    from surgery.errors import SurgeryError

SCHEMA = 1
NOT_REQUESTED = "not run: stage not requested"
Status = Literal["ok", "ok-unverified-engine", "prepared", "failed"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed; the same words that the command line prints.

    `evidence` is what was seen in the graph at the node, `next` the command to go on with.
    """

    stage: str | None
    code: str
    node: str | None
    message: str
    cause: str | None
    fix: str | None
    needs_constant: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    next: str | None = None

    @classmethod
    def of(cls, error: SurgeryError) -> Failure:
        """The failure that an error stands for; its place is part of the message."""
        message = f"{error.where}: {error.message}" if error.where else error.message
        return cls(error.stage, error.code, error.node, message, error.cause, error.fix, error.needs_constant)


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One stage that ran: wall time in seconds, whether it changed the graph, one line of what it did."""

    name: str
    seconds: float
    changed: bool
    summary: str


@dataclass(frozen=True, slots=True)
class CutEntry:
    """A cut that was found: its nodes by name, ordered inputs and outputs, and how it was found."""

    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    found_by: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement of nodes by others, and how it was proven.

    `verified` is ``"passed"`` (this application was run before and after in ONNX Runtime), ``"sampled"`` (an
    identical application was) or ``"skipped: <reason>"``. `details` holds what was read off the graph.
    """

    rule: str
    kind: str
    nodes_before: tuple[str, ...]
    nodes_after: tuple[str, ...]
    verified: str
    max_abs_error: float | None = None
    assumptions: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IoChange:
    """A change of the model's contract, with a machine-readable way back.

    `inverse` is a mapping with key ``op``; None where the cut prefix itself (``<model>.pre.onnx``) is what
    connects the two contracts.
    """

    name: str
    what: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    inverse: Mapping[str, Any] | None


@dataclass(slots=True)
class Report:
    """Result of a run. :meth:`to_dict` is what ``report.json`` holds.

    Attributes:
        model: The prepared portable model (``<model>.onnx``), or None if the run did not get that far.
        engine: The serialized engine, or None.
    """

    status: Status = "failed"
    exit_code: int = 70
    seed: int = 0
    warnings: list[str] = field(default_factory=list)
    """What the user should act on."""
    notes: list[str] = field(default_factory=list)
    """What is good to know, and asks nothing of the user."""
    failure: Failure | None = None
    model_info: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    target: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    stages: list[StageEntry] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    cuts: list[CutEntry] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    unsupported: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"before": [], "after": []})
    io_changes: list[IoChange] = field(default_factory=list)
    verification: dict[str, Any] = field(
        default_factory=lambda: {
            "graph": {"status": NOT_REQUESTED, "reason": None, "cases": []},
            "engine": {"status": NOT_REQUESTED, "reason": None, "cases": []},
        }
    )
    engine_info: dict[str, Any] | None = None
    artifacts: dict[str, dict[str, Any] | None] = field(
        default_factory=lambda: dict.fromkeys(
            ("onnx", "onnx_target", "engine", "pre", "inputs", "log", "report_html")
        )
    )
    previous: dict[str, Any] | None = None
    """What an earlier good run left in the output folder and this failed run did not touch."""
    model: onnx.ModelProto | None = None
    engine: bytes | None = None
    misses: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Rules that do not apply to a node that the target refuses: node, operator, rule, why."""

    @property
    def ok(self) -> bool:
        """True if the run did what the pipeline asks (exit code 0)."""
        return self.exit_code == 0

    def not_reached(self, because: str) -> None:
        """Say of the levels of verification that were to come and did not, why.

        Args:
            because: What ended the run before them.
        """
        for level in ("graph", "engine"):
            if self.verification[level]["status"] == NOT_REQUESTED:
                self.verification[level] = {
                    "status": f"not run: not reached, {because}", "reason": because, "cases": []
                }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types, keys in the order of the schema."""
        return {
            "schema": SCHEMA,
            "status": self.status,
            "exit_code": self.exit_code,
            "seed": self.seed,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "failure": plain(asdict(self.failure)) if self.failure else None,
            "model": plain(self.model_info),
            "pipeline": plain(self.pipeline),
            "target": plain(self.target),
            "versions": dict(self.versions),
            "stages": [plain(asdict(s)) for s in self.stages],
            "profiles": plain(self.profiles),
            "cuts": [plain(asdict(c)) for c in self.cuts],
            "edits": [plain(asdict(e)) for e in self.edits],
            "unsupported": plain(self.unsupported),
            "misses": [dict(zip(("node", "op", "rule", "reason"), m, strict=True)) for m in self.misses],
            "io_changes": [plain(asdict(c)) for c in self.io_changes],
            "verification": plain(self.verification),
            "engine": plain(self.engine_info),
            "artifacts": plain(self.artifacts),
            "previous": plain(self.previous),
        }


def plain(value: Any) -> Any:
    """Turn tuples, numpy scalars and arrays into what JSON has; NaN and infinities become strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
