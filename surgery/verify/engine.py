"""Running the engine on the cases, where a GPU can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.verify.cases import Case
from surgery.verify.runner import RunError, Verification, verify_with
from surgery.verify.tensors import Tolerance

if TYPE_CHECKING:
    from surgery.pipeline import State


def run_engine_cases(
    state: State, cases: Sequence[Case], tolerances: Mapping[str, Tolerance]
) -> Verification:
    """Compare the original in ONNX Runtime with the engine on the GPU."""
    from surgery.stages.trt_model import on_disk, worker_for

    engine = state.engine
    assert engine is not None
    worker = worker_for(state)
    assert state.report.engine_info is not None
    names = {t["name"] for t in state.report.engine_info["inputs"]}

    def run(feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        wanted = [{n: v for n, v in feed.items() if n in names} for feed in feeds]
        outcome = worker.run(engine, wanted)
        if not outcome.ok:
            raise RunError(f"TensorRT: {outcome.error or 'the process ended'}")
        return list(outcome.outputs)

    inverses = [c.inverse for c in state.report.io_changes if c.inverse and c.inverse.get("op") != "apply"]
    with on_disk(state.reference, state.source) as original:
        return verify_with(
            original, state.pre, cases, run, state.detections, tolerances, inverses, runner="engine"
        )
