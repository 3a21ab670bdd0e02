"""What the user chose for reducing a model, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from surgery.diagnose.checks import Answer

While = Literal["parse fails", "build fails", "engine differs"]
WHILE: tuple[While, ...] = ("parse fails", "build fails", "engine differs")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose.

    Attributes:
        while_: What TensorRT has to go on doing, or None with a command.
        command: The user's command, or None.
        match: Pattern that the output of a failing command has to have.
        fail_code: Exit code of a failing model where it has another meaning otherwise.
        target: TensorRT flavour and version; None takes what is installed.
        shapes: Shapes of inputs for builds.
        inputs: Values of the model's inputs, or None for made-up ones.
        random_weights: Replace weights by random numbers.
        seconds: Time of one check.
        memory_mib: Memory of one check of TensorRT, or None.
        tolerance: From which difference on an engine differs.
        most_checks: Checks after which the smallest model found so far is taken.
        jobs: Checks side by side; 0 takes one a core, at most :data:`JOBS`.
        canary: Whether a command is tried on a model with nothing in it, which has to pass.
        seed: Of random numbers.
    """

    while_: While | None = None
    command: str | None = None
    match: str | None = None
    fail_code: int | None = None
    target: str | None = None
    shapes: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] | None = None
    random_weights: bool = False
    seconds: float = 120.0
    memory_mib: int | None = None
    tolerance: float = 1e-2
    most_checks: int = 500
    jobs: int = 0
    canary: bool = True
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What answers depend on; a journal of other options is not gone on with."""
        told = asdict(self)
        for key in ("jobs", "inputs", "canary", "most_checks"):
            told.pop(key)
        told["shapes"] = {k: [list(s) for s in v] for k, v in sorted((self.shapes or {}).items())}
        told["inputs"] = sorted(self.inputs or ())
        return told


@dataclass(slots=True)
class Reduction:
    """What came of it.

    Attributes:
        folder: The report folder.
        nodes_before: Nodes of the model and its bodies, functions expanded and without Constant nodes.
        nodes_after: Nodes that are left, those of bodies too.
        nodes: Their labels and operators.
        failure: How the model fails.
        checks: How many models were asked about, by kind of answer; ``known`` were in the journal.
        seconds: Wall time.
        notes: What is good to know.
    """

    folder: Path
    nodes_before: int
    nodes_after: int
    nodes: list[tuple[str, str]]
    failure: Answer
    checks: dict[str, int]
    seconds: float
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "folder": str(self.folder),
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "nodes": [{"name": n, "op": o} for n, o in self.nodes],
            "failure": {"kind": self.failure.kind, "mark": self.failure.mark, "text": self.failure.text},
            "checks": self.checks,
            "seconds": round(self.seconds, 1),
            "notes": self.notes,
        }
