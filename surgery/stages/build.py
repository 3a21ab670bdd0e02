"""build: TensorRT builds the engine, in a child process with limits."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from surgery.errors import BuildError, ConversionError
from surgery.pipeline import StageResult, State


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Build:
    """Build the engine; skipped where that TensorRT is not installed.

    Attributes:
        optimization_level: Builder optimization level 0 to 5; None leaves TensorRT's default.
        workspace_mib: Most workspace memory a layer may use, in MiB; None leaves TensorRT's default.
        tf32: Allow TF32 in float32 layers; off for agreement to 1e-4. An engine for TensorRT-RTX built without
            it has to be run with NVIDIA_TF32_OVERRIDE=0 (see `engine.environment` in the report).
        seconds: Time limit of the build.
        memory_mib: Memory limit of the building process, in MiB; None for none.
    """

    name: ClassVar[str] = "build"
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    workspace_mib: int | None = Field(default=None, gt=0)
    tf32: bool = False
    seconds: float = Field(default=1800.0, gt=0)
    memory_mib: int | None = Field(default=None, gt=0)

    def run(self, state: State) -> StageResult:
        """Build in a child process; the engine stays in memory until it is verified."""
        from surgery.stages.because import because
        from surgery.stages.kept import library_missing
        from surgery.stages.profiles import checked_profiles
        from surgery.stages.substitute import finish
        from surgery.stages.trt_model import handed_over, worker_for
        from surgery.trt.session import engine_environment, engine_runtime
        from surgery.trt.types import BuildOptions, Limits

        if state.target_model is None:
            finish(state)
        assert state.target_model is not None
        state.report.profiles.clear()
        profiles = checked_profiles(state, state.target_model)
        if not state.target.installed:
            return StageResult(False, f"not run: {state.target.name} is not installed")
        lacking = library_missing(state)
        if lacking is not None:
            return StageResult(False, lacking)
        worker = worker_for(state)
        limits = Limits(self.seconds, self.memory_mib << 20 if self.memory_mib else None)
        options = BuildOptions(
            optimization_level=self.optimization_level,
            workspace_bytes=self.workspace_mib << 20 if self.workspace_mib else None,
            tf32=self.tf32,
        )
        with handed_over(state) as model:
            outcome = worker.build(model, [profiles] if profiles else [], options, limits=limits)
        if outcome.ok and outcome.engine:
            state.engine = outcome.engine
            state.report.engine_info = {
                "sha256": hashlib.sha256(outcome.engine).hexdigest(),
                "bytes": len(outcome.engine),
                "flavour": state.target.flavour,
                "version": state.target.installed_version,
                "compute_capability": outcome.compute_capability,
                "inputs": [_spec(t) for t in outcome.inputs],
                "outputs": [_spec(t) for t in outcome.outputs],
            }
            environment = engine_environment(state.target.flavour, self.tf32)
            state.report.engine_info["environment"] = environment
            runtime = engine_runtime(state.target.flavour, outcome.inputs)
            state.report.engine_info["runtime"] = runtime
            needs = [f"{k}={v} in its environment" for k, v in environment.items()]
            needs += [f"{k} = {v} in its IRuntimeConfig" for k, v in runtime.items()]
            if needs:
                state.warn(f"run the engine with {' and '.join(needs)}: docs/gpu.md, 'Running an engine'")
            return StageResult(True, f"engine of {len(outcome.engine) / 2**20:.1f} MiB")
        code, message = _reason(outcome.timed_out, outcome.out_of_memory, outcome.aborted, self.seconds)
        why = because(outcome.errors, state.target_model)
        rewritten = any(getattr(stage, "rules", False) for stage in state.config.stages)
        if code == "build-refused" and why.id is not None and rewritten:
            # The rules have had their turn: part of the graph is not convertible, whichever step says so.
            raise ConversionError(
                f"{state.target.name} takes the model's nodes one by one but does not build it",
                code="not-convertible",
                where=state.source.name,
                node=why.node,
                cause=why.cause,
                fix=why.fix,
            )
        raise BuildError(
            message,
            code=code,
            where=state.source.name,
            cause=why.cause if outcome.errors else None,
            fix="see build.log; raise build.seconds or build.memory_mib if a limit was met",
        )


def _spec(tensor: object) -> dict[str, object]:
    return {k: getattr(tensor, k) for k in ("name", "dtype", "shape")}


def _reason(timed_out: bool, out_of_memory: bool, aborted: bool, seconds: float) -> tuple[str, str]:
    if timed_out:
        return "build-timeout", f"the builder did not finish within {seconds:g} s"
    if out_of_memory:
        return "build-memory", "the builder ran out of memory"
    if aborted:
        return "build-aborted", "the builder aborted"
    return "build-refused", "the builder refused the model"
