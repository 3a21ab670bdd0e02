"""Stages, the state they pass on, and the loop that runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from surgery.errors import SurgeryError
from surgery.report import CutEntry, Report, StageEntry
from surgery.report.model import NOT_REQUESTED

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    from surgery.config import PipelineConfig
    from surgery.graph.convert import Header
    from surgery.graph.load import LoadedModel
    from surgery.plugins.registry import Registry
    from surgery.report.write import Staged
    from surgery.targets import Target
    from surgery.trt.session import Worker
    from surgery.verify.runner import DetectionOutputs

Require = Literal["graph", "engine"]


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; `index` counts from 1."""

    index: int
    total: int
    name: str


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A stage says what it is doing; `fraction` in 0..1 where it knows."""

    name: str
    message: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended well."""

    name: str
    seconds: float
    changed: bool
    summary: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of TensorRT's log."""

    severity: str
    text: str


Event = StageStarted | StageProgress | StageFinished | LogLine
Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the caller chose beside the pipeline.

    Attributes:
        output: Folder that receives the artifacts, or None to write nothing.
        inputs: Values for the original model's inputs by name, or None for derived ones.
        constants: Values for inputs that become constants.
        shapes: Shapes per input: (minimum, optimum, maximum).
        require: Level of verification without which the run does not succeed.
        seed: Seed of every random choice.
        plugin_paths: Folders with the user's own plugins, beside those that the pipeline names.
    """

    output: Path | None = None
    inputs: Mapping[str, NDArray[Any]] | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )
    require: Require = "graph"
    seed: int = 0
    plugin_paths: tuple[Path, ...] = ()


@dataclass(slots=True)
class State:
    """What stages hand on.

    Attributes:
        source: The original model; never changed.
        graph: The current graph.
        header: What graphsurgeon cannot carry, put back on export.
        target: The TensorRT that the run is for.
        config: The pipeline.
        options: What the caller chose.
        report: The report so far.
        registry: Plugin definitions.
        reference: The model that the result must agree with: the original, or the original with the
            values that the pipeline overrides.
        pre: The prefix that was cut off at the front, or None.
        listener: Receives events.
        provenance: First output name of a new node to the metadata to stamp on it.
        per_sample_plugins: Whether plugins that declare shapes per sample may be emitted.
        detections: Which outputs are detections and how they compare, or None.
        portable: The portable model, once substitute has run.
        target_model: What the target's parser gets.
        engine: The serialized engine.
        log: Lines of TensorRT's log.
        worker: The TensorRT process, once started.
        stage: Name of the running stage.
        staged: Files that are written and have not appeared yet.
        fits: Sizes that were found to fit together, by what was asked and of which inputs.
    """

    source: LoadedModel
    graph: gs.Graph
    header: Header
    target: Target
    config: PipelineConfig
    options: RunOptions
    report: Report
    registry: Registry
    reference: onnx.ModelProto
    listener: Listener
    pre: onnx.ModelProto | None = None
    provenance: dict[str, dict[str, str]] = field(default_factory=dict)
    per_sample_plugins: bool = False
    detections: DetectionOutputs | None = None
    portable: onnx.ModelProto | None = None
    target_model: onnx.ModelProto | None = None
    engine: bytes | None = None
    log: list[LogLine] = field(default_factory=list)
    worker: Worker | None = None
    stage: str = ""
    staged: Staged | None = None
    fits: dict[Any, Any] = field(default_factory=dict)

    def say(self, message: str, fraction: float | None = None) -> None:
        """Tell the listener what the running stage is doing."""
        self.listener(StageProgress(self.stage, message, fraction))

    def warn(self, message: str) -> None:
        """Add a warning to the report, once: what the user should act on."""
        if message not in self.report.warnings:
            self.report.warnings.append(message)

    def note(self, message: str) -> None:
        """Add a note to the report, once: what is good to know, and asks nothing of the user."""
        if message not in self.report.notes:
            self.report.notes.append(message)

    def record_cut(self, entry: CutEntry) -> None:
        """Add a cut to the report; a later find of the same name replaces an earlier one."""
        self.report.cuts[:] = [c for c in self.report.cuts if c.name != entry.name]
        self.report.cuts.append(entry)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage did: whether the graph or the artifacts changed, and one line about it."""

    changed: bool
    summary: str


@runtime_checkable
class Stage(Protocol):
    """One step of a pipeline: a frozen dataclass of its options. A stage never prints."""

    name: ClassVar[str]

    def run(self, state: State) -> StageResult:
        """Work on the state and say what was done; failure is a :class:`SurgeryError`."""
        ...


def run_stages(stages: Sequence[Stage], state: State) -> None:
    """Run the stages in order; the report gets one entry each.

    Raises:
        SurgeryError: what a stage raised, with the stage's name filled in.
    """
    for index, stage in enumerate(stages, 1):
        state.stage = stage.name
        state.listener(StageStarted(index, len(stages), stage.name))
        started = time.perf_counter()
        try:
            result = stage.run(state)
        except SurgeryError as error:
            error.stage = error.stage or stage.name
            if any(later.name == "verify" for later in stages[index - 1 :]):
                judged = state.report.verification["graph"]["status"] != NOT_REQUESTED
                state.report.not_reached(f"{'the graph' if judged else f'the stage {stage.name}'} failed")
            seconds = round(time.perf_counter() - started, 3)
            state.report.stages.append(StageEntry(stage.name, seconds, False, f"failed: {error.message}"))
            raise
        seconds = round(time.perf_counter() - started, 3)
        state.report.stages.append(StageEntry(stage.name, seconds, result.changed, result.summary))
        state.listener(StageFinished(stage.name, seconds, result.changed, result.summary))
