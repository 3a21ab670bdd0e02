"""Asking TensorRT about a working copy of a model, as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.diagnose.remedy import derived_ranges

if TYPE_CHECKING:
    import onnx

    from surgery.diagnose.workcopy import WorkCopy
    from surgery.graph.load import LoadedModel
    from surgery.trt.session import Worker
    from surgery.trt.types import BuildOutcome, ParseOutcome

Shapes = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]

ROUNDS = 200
"""Rounds of cutting and asking again."""


class Asking:
    """A TensorRT process, and the time that is left.

    Args:
        worker: The process.
        source: The model, for weights that lie outside of it.
        work: The copy that is asked about.
        workspace_mib: Workspace limit of builds in MiB, or None.
        ends: When the time is over, on the monotonic clock.
    """

    def __init__(
        self, worker: Worker, source: LoadedModel, work: WorkCopy, workspace_mib: float | None, ends: float
    ) -> None:
        self.worker = worker
        self.source = source
        self.work = work
        self.workspace = None if workspace_mib is None else int(workspace_mib * 2**20)
        self.ends = ends

    def left(self) -> float:
        """Seconds left."""
        return self.ends - time.monotonic()

    def parse(self, model: onnx.ModelProto) -> ParseOutcome:
        """What the parser says to a model."""
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import Limits

        with on_disk(model, self.source) as placed:
            data = placed if isinstance(placed, Path) else placed.SerializeToString()
            return self.worker.parse(data, limits=Limits(max(self.left(), 1.0)))

    def build(self, model: onnx.ModelProto, shapes: Shapes | None) -> BuildOutcome:
        """What the builder says to a model.

        Args:
            model: The working copy or a part of it.
            shapes: Per input (minimum, optimum, maximum) shape; None derives them.
        """
        from surgery.stages.trt_model import on_disk
        from surgery.trt.types import BuildOptions, Limits

        profiles = self._profiles(model, shapes)
        options = BuildOptions(workspace_bytes=self.workspace, tf32=False)
        with on_disk(model, self.source) as placed:
            data = placed if isinstance(placed, Path) else placed.SerializeToString()
            return self.worker.build(
                data, [profiles] if profiles else [], options, limits=Limits(max(self.left(), 1.0))
            )

    def _profiles(self, model: onnx.ModelProto, shapes: Shapes | None) -> list[Any]:
        from surgery.trt.types import ShapeProfile

        facts = self.work.facts
        made = derived_ranges(facts, model.graph)
        if shapes is not None:
            original = {v.name for v in self.source.proto.graph.input}
            present = {v.name for v in model.graph.input}
            made = {n: s for n, s in made.items() if n not in original}
            for name, (low, best, high) in shapes.items():
                if name in present:
                    made[name] = (tuple(low), tuple(best), tuple(high))
        return [ShapeProfile(name, *shape) for name, shape in made.items()]
