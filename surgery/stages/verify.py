"""verify: the original against the result, and against the engine where a GPU can run it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from surgery.errors import VerificationError
from surgery.pipeline import StageResult, State

if TYPE_CHECKING:
    from surgery.trt.session import Worker
    from surgery.verify.cases import Case


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Verify:
    """Compare the original with the result on seeded inputs.

    Attributes:
        cases: Inputs per profile point (minimum, optimum, maximum); at least three in all.
        atol: Absolute tolerance of plain float outputs, and of scores and boxes of detections.
        rtol: Relative tolerance of plain float outputs.
    """

    name: ClassVar[str] = "verify"
    cases: int = Field(default=2, ge=1)
    atol: float = Field(default=1e-4, ge=0)
    rtol: float = Field(default=1e-4, ge=0)

    def run(self, state: State) -> StageResult:
        """Fill ``verification``; a difference is an error, and no engine is written."""
        from surgery.graph.infer import declares_empty
        from surgery.stages.cases import cases_for
        from surgery.stages.profiles import checked_profiles
        from surgery.stages.substitute import finish
        from surgery.stages.trt_model import on_disk
        from surgery.verify.runner import verify_graph
        from surgery.verify.tensors import Tolerance

        if state.portable is None:
            finish(state)
        assert state.portable is not None
        if not state.report.profiles:
            checked_profiles(state, state.portable)
        cases = cases_for(state, state.portable, state.report.profiles, self.cases)
        tolerances = {o.name: Tolerance(atol=self.atol, rtol=self.rtol) for o in state.portable.graph.output}
        if state.detections is not None:
            policy = replace(state.detections.policy, score_atol=self.atol, box_atol=self.atol)
            state.detections = replace(state.detections, policy=policy)
        state.report.verification["plan"] = self.plan(state)
        state.say(f"comparing original and result on {len(cases)} inputs in ONNX Runtime")
        with (
            on_disk(state.reference, state.source) as original,
            on_disk(state.portable, state.source) as result,
        ):
            outcome = verify_graph(
                original,
                result,
                state.pre,
                cases,
                state.detections,
                tolerances,
                [c.inverse for c in state.report.io_changes if c.inverse and c.inverse.get("op") != "apply"],
                empty=declares_empty(state.source.proto),
                say=state.say,
            )
        state.report.verification["graph"] = outcome.to_dict()
        for note in outcome.notes:
            state.note(note)
        if outcome.status != "passed":
            raise VerificationError(
                f"the result does not compute what the original computes: {outcome.reason}",
                where=state.source.name,
                fix="see verification.graph in report.json; no engine was written",
            )
        text = f"graph passed on {len(cases)} inputs"
        return StageResult(False, f"{text}; {self._engine(state, cases, tolerances)}")

    def plan(self, state: State) -> dict[str, Any]:
        """What a later verification needs to compare as this one does."""
        return {
            "cases": self.cases,
            "atol": self.atol,
            "rtol": self.rtol,
            "detections": state.detections.to_dict() if state.detections else None,
            "constants": {k: np.asarray(v).tolist() for k, v in state.options.constants.items()},
            "plugin_paths": [
                str(p.resolve()) for p in (*state.config.plugin_folders(), *state.options.plugin_paths)
            ],
        }

    def _engine(self, state: State, cases: list[Case], tolerances: dict[str, Any]) -> str:
        from surgery.graph.infer import declares_empty
        from surgery.stages.trt_model import on_disk, worker_for
        from surgery.verify.engine import verify_engine

        reason = None
        if state.engine is None:
            reason = "no engine was built"
        else:
            found = worker_for(state).environment()
            if found.gpu is None:
                reason = found.reason_no_gpu or "no GPU"
        if reason is not None:
            state.report.verification["engine"] = {
                "status": f"not run: {reason}", "reason": reason, "cases": []
            }  # fmt: skip
            return f"engine not run: {reason}"
        assert state.engine is not None
        assert state.report.engine_info is not None
        engine, worker = state.engine, worker_for(state)
        with on_disk(state.reference, state.source) as original:
            outcome = verify_engine(
                original,
                state.pre,
                lambda feeds: worker.run(engine, feeds),
                [t["name"] for t in state.report.engine_info["inputs"]],
                cases,
                state.detections,
                tolerances,
                [c.inverse for c in state.report.io_changes if c.inverse and c.inverse.get("op") != "apply"],
                empty=declares_empty(state.source.proto),
            )
        state.report.verification["engine"] = {**outcome.to_dict(), **conditions(worker)}
        if outcome.status != "passed":
            state.engine = None
            raise VerificationError(
                f"the engine does not compute what the original computes: {outcome.reason}",
                where=state.source.name,
                fix="see verification.engine in report.json; no engine was written",
            )
        return f"engine passed on {len(cases)} inputs"


def conditions(worker: Worker) -> dict[str, Any]:
    """Under what the engine ran: GPU, and whether TF32 was allowed."""
    gpu = worker.environment().gpu
    return {
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.compute_capability if gpu else None,
        "tf32": worker.tf32,
    }
