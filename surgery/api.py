"""The Python interface: run a pipeline, build a model, verify a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.begin import Begun, begin
from surgery.errors import ConfigError, MissingEnvironmentError, SurgeryError
from surgery.graph.collection import no_collection
from surgery.pipeline import Event, Listener, Require, RunOptions, Stage, State, run_stages
from surgery.report import Failure, Report
from surgery.shape_text import as_range
from surgery.text import did_you_mean

if TYPE_CHECKING:
    import onnx

    from surgery.config import PipelineConfig

Shapes = Mapping[str, "str | Sequence[int] | tuple[Sequence[int], Sequence[int], Sequence[int]]"]


@no_collection()
def run(
    pipeline: str | Path | PipelineConfig,
    model: str | Path | bytes | onnx.ModelProto | None = None,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
    overrides: Mapping[str, Any] | None = None,
    require: Require = "graph",
    stages: str | None = None,
    plugin_paths: Sequence[str | Path] = (),
    seed: int = 0,
    listener: Listener | None = None,
) -> Report:
    """Run a pipeline on a model.

    A model that cannot be converted is a result, not an exception: see ``exit_code`` and ``failure``.

    Args:
        pipeline: A YAML file, the name of a shipped pipeline, or a loaded one.
        model: Path, bytes or ModelProto; None takes ``model:`` from the YAML.
        target: Name of a TensorRT flavour and version (``tensorrt-rtx-1.7``, ``tensorrt-10.16``); None takes
            the pipeline's, else what is installed.
        output: Folder that receives the artifacts; None writes nothing.
        inputs: Values for the original model's inputs, used as one more case of verification.
        constants: Values for inputs that become constants.
        shapes: Per input of the network (minimum, optimum, maximum) shape, or one shape for all three; as texts, too
            (``"1x3x224x224"``).
        overrides: Options of the pipeline by ``stage.option``.
        require: ``graph``, or ``engine`` to succeed only if a GPU has run the engine.
        stages: ``FIRST..LAST`` to run a part of the pipeline; further names may follow after commas.
        plugin_paths: Folders with the user's own plugin definitions.
        seed: Seed of every random choice.
        listener: Called with every event of the run.

    Returns:
        The report; ``report.model`` is the portable ModelProto, ``report.engine`` the engine's bytes.
    """
    report = Report(seed=seed)
    state: State | None = None
    begun: Begun | None = None
    folder = Path(output) if output is not None else None
    try:
        ranges = {name: as_range(name, value) for name, value in (shapes or {}).items()}
    except SurgeryError as error:
        _fail(report, None, error)
        return report
    options = RunOptions(
        output=folder,
        inputs=inputs,
        constants=dict(constants or {}),
        shapes=ranges,
        require=require,
        seed=seed,
        plugin_paths=tuple(map(Path, plugin_paths)),
    )

    def hold(entry: Begun) -> None:
        nonlocal begun
        begun = entry

    def attempt(config: PipelineConfig, chosen: list[Stage], why: Mapping[str, str]) -> None:
        nonlocal state
        report.pipeline = {"name": config.name, "sha256": config.sha256, **why}
        if folder is not None:
            from surgery.report.write import check_writable

            check_writable(folder)
        state = begin(config, model, target, options, report, listener or _silent, hold)
        if require == "engine":
            _need_gpu(state)
        run_stages(chosen, state)
        _conclude(state)

    try:
        config, chosen, why = _configure(pipeline, overrides, stages, model)
        try:
            attempt(config, chosen, why)
        except SurgeryError as error:
            other = _without_parts(pipeline, overrides, stages, config, error)
            if other is None:
                raise
            _give_back(state)
            report = _second_report(seed, config, error)
            try:
                attempt(*other, {**why, "instead_of": config.name, "not_taken": _both(error)})
            except SurgeryError as second:
                raise _neither(config, error, second) from second
    except SurgeryError as error:
        _fail(report, state, error)
        _look_back(report, state, begun, error, pipeline, model, folder, options.plugin_paths)
    else:
        _finish(report, state, folder)
    finally:
        _give_back(state)
    known = state or begun
    if folder is not None and known is not None and report.exit_code in (4, 5, 6):
        from surgery.written import write_failure

        write_failure(report, state, known.source, folder)
    return report


def _finish(report: Report, state: State | None, folder: Path | None) -> None:
    """Let what a good run has written appear; where there is no room for it, the run has failed."""
    from surgery.written import appear

    if state is None or folder is None:
        return
    try:
        appear(report, state, folder)
    except SurgeryError as error:
        _fail(report, state, error)


def build(
    model: str | Path | bytes | onnx.ModelProto,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    shapes: Shapes | None = None,
    overrides: Mapping[str, Any] | None = None,
    plugin_paths: Sequence[str | Path] = (),
    listener: Listener | None = None,
) -> Report:
    """Parse and build a model as it is: the stages parse, build and save alone, nothing verified."""
    from surgery.config import PipelineConfig

    config = PipelineConfig.model_validate(
        {"schema": 1, "name": "build", "stages": ["parse", "build", "save"]}
    )
    return run(
        config,
        model,
        target=target,
        output=output,
        shapes=shapes,
        overrides=overrides,
        plugin_paths=plugin_paths,
        listener=listener,
    )


def verify(
    directory: str | Path,
    model: str | Path | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    plugin_paths: Sequence[str | Path] = (),
    listener: Listener | None = None,
) -> Report:
    """Finish a run on a machine with a GPU: run its engine on the cases of its report.

    Args:
        directory: Folder of a finished run with report.json and the engine, or its report.json.
        model: The original model; None looks for a file with the report's sha256 at the path in the report,
            beside the folder, in it, and in the working directory.
        inputs: Values for the original model's inputs, one more case than the run had.
        plugin_paths: Folders with the user's own plugin definitions; those of the run are found where they were.
        listener: Called with every event.

    Returns:
        The report, with ``verification.engine`` filled in; report.json is written anew.
    """
    from surgery.finish import verify_directory

    return verify_directory(
        Path(directory),
        Path(model) if model else None,
        listener or _silent,
        inputs=inputs,
        plugin_paths=tuple(map(Path, plugin_paths)),
    )


PARTS = frozenset(
    {
        "cut-not-found", "cut-not-convex", "cut-tensor-unknown", "cut-not-closed", "cut-not-at-front",
        "cut-takes-all", "cut-does-not-run", "head-not-recognised", "anchors-not-found", "image-loop",
        "image-size", "unproven",
    }
)  # fmt: skip
"""Failures to find, read or prove a part of the model that a family's pipeline is about: rules may still do it."""


def _without_parts(
    pipeline: str | Path | PipelineConfig,
    overrides: Mapping[str, Any] | None,
    stages: str | None,
    config: PipelineConfig,
    error: SurgeryError,
) -> tuple[PipelineConfig, list[Stage]] | None:
    """The pipeline of rules alone, where the choice was left open and the family's failed at a part of its own."""
    from surgery.config import PipelineConfig, load_pipeline
    from surgery.families import rules_alone

    if error.code not in PARTS or overrides or config.name == "generic":
        return None
    asked = pipeline if isinstance(pipeline, PipelineConfig) else load_pipeline(pipeline)
    if not asked.choose or asked.cuts:
        return None  # cuts that somebody wrote down are meant
    other = rules_alone(asked)
    chosen = other.build_stages()
    return other, _select(chosen, stages) if stages else chosen


def _second_report(seed: int, config: PipelineConfig, error: SurgeryError) -> Report:
    report = Report(seed=seed)
    report.warnings.append(f"{config.title or config.name} was not taken, but rules alone: {_both(error)}")
    return report


def _both(error: SurgeryError) -> str:
    return f"{error.message} ({error.cause})" if error.cause else error.message


def _neither(config: PipelineConfig, first: SurgeryError, second: SurgeryError) -> SurgeryError:
    """The second failure, with the first one beside it."""
    text = f"the pipeline {config.name} failed before: {_both(first)}"
    second.cause = f"{second.cause}; {text}" if second.cause else text
    return second


def _give_back(state: State | None) -> None:
    """Let go of what a run holds: its TensorRT process, and files that have not appeared."""
    if state is not None and state.staged is not None:
        state.staged.discard()
        state.staged = None
    if state is not None and state.worker is not None:
        from surgery.trt.session import give_back

        give_back(state.worker)
        state.worker = None


def _silent(event: Event) -> None:
    pass


def _configure(
    pipeline: str | Path | PipelineConfig,
    overrides: Mapping[str, Any] | None,
    stages: str | None,
    model: str | Path | bytes | onnx.ModelProto | None,
) -> tuple[PipelineConfig, list[Stage], dict[str, str]]:
    """The pipeline, its stages that are to run, and why it is this one where it was left to choose."""
    from surgery.config import PipelineConfig, apply_overrides, load_pipeline

    config = pipeline if isinstance(pipeline, PipelineConfig) else load_pipeline(pipeline)
    why: dict[str, str] = {}
    given = model if model is not None else config.model_path()
    if isinstance(given, (str, Path)) and Path(given).suffix in (".yaml", ".yml"):
        raise ConfigError(
            "a pipeline, not a model",
            code="model-is-a-pipeline",
            where=str(given),
            fix=f"name the pipeline first: surgery run {given} MODEL",
        )
    if config.choose and given is not None:
        from surgery.families import chosen_pipeline

        config, why = chosen_pipeline(config, given)
    if overrides:
        config = apply_overrides(config, overrides)
    chosen = config.build_stages()
    return config, _select(chosen, stages) if stages else chosen, why


def _select(stages: list[Stage], wanted: str) -> list[Stage]:
    """The part of the pipeline that ``FIRST..LAST,NAME`` names; ``load`` stands for the beginning."""
    from surgery.stages import STAGES

    order = ["load", *STAGES]
    names: set[str] = set()
    for part in wanted.split(","):
        first, dots, last = part.strip().partition("..")
        first = first or "load"
        last = (last or order[-1]) if dots else first
        for name in (first, last):
            if name not in order:
                raise ConfigError(
                    f"unknown stage {name!r} in --stages",
                    code="unknown-stage",
                    where=f"--stages {wanted}",
                    fix=f"{did_you_mean(name, order)} stages: {', '.join(STAGES)}".lstrip(),
                )
        if order.index(first) > order.index(last):
            raise ConfigError(
                f"{first} comes after {last}",
                code="stage-order",
                where=f"--stages {wanted}",
                fix=f"stages in order: {', '.join(STAGES)}",
            )
        names.update(order[order.index(first) : order.index(last) + 1])
    return [s for s in stages if s.name in names]


def _need_gpu(state: State) -> None:
    if not state.target.installed:
        raise MissingEnvironmentError(
            f"--require engine needs {state.target.name}, which is not installed",
            code="target-not-installed",
            fix="install it, or drop --require engine to prepare the ONNX",
        )
    from surgery.stages.trt_model import worker_for

    found = worker_for(state).environment()
    if found.gpu is None:
        raise MissingEnvironmentError(
            "--require engine needs a GPU that can run the engine",
            code="no-gpu",
            cause=found.reason_no_gpu,
            fix="run on a GPU machine, or drop --require engine and run `surgery verify DIR` there later",
        )


def _conclude(state: State) -> None:
    from surgery.stages.verify import Verify

    report = state.report
    if "plan" not in report.verification:
        report.verification["plan"] = Verify().plan(state)
    report.engine = state.engine
    report.model = state.portable
    report.exit_code = 0
    if state.engine is None:
        report.status = "prepared"
    elif report.verification["engine"]["status"] == "passed":
        report.status = "ok"
    else:
        report.status = "ok-unverified-engine"
    if report.status == "prepared" and not state.target.installed:
        state.note(f"no engine was built: {state.target.name} is not installed here")


def _fail(report: Report, state: State | None, error: SurgeryError) -> None:
    report.status, report.exit_code = "failed", error.exit_code
    report.failure = Failure.of(error)
    if not report.stages:
        report.not_reached("the run ended before its first stage")
    report.engine = report.engine_info = None
    if state is not None:
        report.model = state.portable


def _look_back(
    report: Report,
    state: State | None,
    begun: Begun | None,
    error: SurgeryError,
    pipeline: str | Path | PipelineConfig,
    model: Any,
    folder: Path | None,
    plugin_paths: tuple[Path, ...],
) -> None:
    """Add to the failure what is seen at its node, and the command to go on with."""
    if error.exit_code not in (3, 4, 5, 6) or report.failure is None:
        return
    if begun is None and error.code in ("model-not-found", "model-unreadable"):
        return  # there is nothing to look at
    from surgery.diagnose.afterwards import afterwards

    known = state or begun
    source = known.source.path if known is not None else None
    if source is None and isinstance(model, (str, Path)):
        source = Path(model)
    target = known.target if known is not None else None
    made = (state.target_model or state.portable) if state is not None else None
    proto = made if made is not None or known is None else known.source.proto
    written = (
        folder / f"{known.source.name}.failed.onnx" if folder is not None and known is not None else None
    )
    name = pipeline if isinstance(pipeline, (str, Path)) else report.pipeline.get("name", pipeline.name)
    found = afterwards(
        error, model=proto, source=source, failed=written, pipeline=str(name), target=target,
        plugin_paths=plugin_paths,
    )  # fmt: skip
    report.failure = replace(report.failure, evidence=found.evidence, next=found.next)
