"""Running the engine on the cases, where a GPU can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.verify.cases import Case
from surgery.verify.runner import DetectionOutputs, RunError, Verification, verify_with
from surgery.verify.tensors import Tolerance

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import RunOutcome

RunEngine = Callable[[list[dict[str, Any]]], "RunOutcome"]


def verify_engine(
    original: onnx.ModelProto | Path,
    pre: onnx.ModelProto | None,
    run_engine: RunEngine,
    engine_inputs: Sequence[str],
    cases: Sequence[Case],
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    inverses: Sequence[Mapping[str, Any]] = (),
    *,
    empty: bool = False,
) -> Verification:
    """Compare the original in ONNX Runtime with an engine on a GPU.

    Where an engine is further off than the tolerance, the original is moved a little to see whether rounding alone
    does that (:mod:`surgery.verify.sensitivity`).

    Args:
        original: The original model.
        pre: The prefix cut off its front, or None.
        run_engine: Runs the engine on feeds, as :meth:`surgery.trt.session.Worker.run` does.
        engine_inputs: Names of the engine's inputs.
        cases: Inputs of the original.
        detections: Which outputs are detections.
        tolerances: Per plain output.
        inverses: Inverses of changes of contract.
        empty: The original declares every output to be empty.
    """

    def run(feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        wanted = [{n: v for n, v in feed.items() if n in engine_inputs} for feed in feeds]
        outcome = run_engine(wanted)
        if not outcome.ok:
            raise RunError(f"TensorRT: {outcome.error or 'the process ended'}")
        return list(outcome.outputs)

    return verify_with(
        original,
        pre,
        cases,
        run,
        detections,
        tolerances,
        inverses,
        runner="engine",
        empty=empty,
        by_rounding=True,
    )
