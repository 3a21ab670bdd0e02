"""Finishing a run elsewhere: verifying an engine from its report alone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import (
    ConfigError,
    ConversionError,
    MissingEnvironmentError,
    ModelError,
    SurgeryError,
    VerificationError,
)
from surgery.pipeline import Listener, StageFinished, StageProgress, StageStarted
from surgery.report import CutEntry, Edit, Failure, IoChange, Report, StageEntry

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel
    from surgery.verify.cases import Case
    from surgery.verify.runner import DetectionOutputs


@dataclass(frozen=True, slots=True)
class _Given:
    """What the caller adds to what the folder has."""

    model: Path | None
    inputs: Mapping[str, Any] | None
    plugin_paths: tuple[Path, ...]


def verify_directory(
    folder: Path,
    model: Path | None,
    listener: Listener,
    *,
    inputs: Mapping[str, Any] | None = None,
    plugin_paths: tuple[Path, ...] = (),
) -> Report:
    """See :func:`surgery.api.verify`."""
    folder = output_folder(folder)
    given = _Given(model, inputs, plugin_paths)
    try:
        data = _read(folder)
        report = restore(data)
    except SurgeryError as error:
        report = Report(exit_code=error.exit_code)
        report.failure = Failure.of(error)
        return report
    listener(StageStarted(1, 1, "verify"))
    started = time.perf_counter()
    try:
        summary = _verify(folder, given, report, listener)
    except SurgeryError as error:
        error.stage = error.stage or "verify"
        report.status, report.exit_code = "failed", error.exit_code
        report.failure = Failure.of(error)
        if error.exit_code == VerificationError.exit_code:
            _write(folder, report)
        return report
    report.status, report.exit_code, report.failure = "ok", 0, None
    _write(folder, report)
    listener(StageFinished("verify", round(time.perf_counter() - started, 3), False, summary))
    return report


def output_folder(path: Path) -> Path:
    """The folder of a run, whether it or its report.json is given."""
    return path.parent if path.name == "report.json" and not path.is_dir() else path


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no report.json in this folder",
            code="no-report",
            where=str(folder),
            fix="give the output folder of a finished `surgery run`",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            "report.json cannot be read", code="bad-report", where=str(path), cause=str(error)
        ) from error
    if data.get("schema") != 1 or not isinstance(data.get("artifacts"), dict):
        raise ConfigError("report.json is not a report of schema 1", code="bad-report", where=str(path))
    return data


def restore(data: dict[str, Any]) -> Report:
    """The report that a dictionary of schema 1 stands for; model and engine are not in it."""
    report = Report(status=data["status"], exit_code=data["exit_code"], seed=data["seed"])
    report.warnings, report.notes = list(data["warnings"]), list(data.get("notes", ()))
    report.misses = [(m["node"], m["op"], m["rule"], m["reason"]) for m in data.get("misses", ())]
    report.failure = Failure(**data["failure"]) if data["failure"] else None
    report.model_info, report.pipeline, report.target = data["model"], data["pipeline"], data["target"]
    report.versions, report.profiles = data["versions"], data["profiles"]
    report.stages = [StageEntry(**s) for s in data["stages"]]
    report.cuts = [CutEntry(**c) for c in data["cuts"]]
    report.edits = [Edit(**e) for e in data["edits"]]
    report.unsupported = data["unsupported"]
    report.io_changes = [IoChange(**c) for c in data["io_changes"]]
    report.verification, report.engine_info = data["verification"], data["engine"]
    report.artifacts, report.previous = data["artifacts"], data["previous"]
    return report


def _verify(folder: Path, given: _Given, report: Report, listener: Listener) -> str:
    import onnx

    from surgery.graph.infer import declares_empty
    from surgery.stages.trt_model import on_disk
    from surgery.stages.verify import conditions
    from surgery.targets import resolve_target
    from surgery.trt.session import Worker
    from surgery.verify.engine import verify_engine
    from surgery.verify.tensors import Tolerance

    if not report.artifacts.get("engine") or not report.engine_info:
        raise ConfigError(
            "this run has no engine to verify",
            code="no-engine",
            where=str(folder),
            fix=f"build it first; the run ended with status {report.status!r}",
        )
    engine = _artifact(folder, report, "engine")
    portable = onnx.ModelProto.FromString(_artifact(folder, report, "onnx"))
    pre = (
        onnx.ModelProto.FromString(_artifact(folder, report, "pre")) if report.artifacts.get("pre") else None
    )
    source, reference = _original(folder, given, report)
    target = resolve_target(report.target["name"])
    if not target.installed:
        raise MissingEnvironmentError(
            f"the engine was built with {target.name}, which is not installed here",
            code="target-not-installed",
            fix=f"install that version ({report.engine_info['version']})",
        )
    cases = repeated_cases(folder, report, source, portable, given.inputs)
    plan = plan_of(report)
    tf32 = "NVIDIA_TF32_OVERRIDE" not in (report.engine_info.get("environment") or {})
    tolerances = {o.name: Tolerance(plan["atol"], plan["rtol"]) for o in portable.graph.output}
    with Worker(target.flavour, tf32=tf32) as worker, on_disk(reference, source) as original:
        found = worker.environment()
        if found.gpu is None:
            raise MissingEnvironmentError(
                "verifying an engine needs a GPU", code="no-gpu", cause=found.reason_no_gpu,
                fix="copy the folder and the model to a machine with a GPU and run `surgery verify` there",
            )  # fmt: skip
        listener(StageProgress("verify", f"running the engine on {len(cases)} inputs on {found.gpu.name}"))
        outcome = verify_engine(
            original,
            pre,
            lambda feeds: worker.run(engine, feeds),
            [t["name"] for t in report.engine_info["inputs"]],
            cases,
            _detections(plan),
            tolerances,
            [c.inverse for c in report.io_changes if c.inverse and c.inverse.get("op") != "apply"],
            empty=declares_empty(source.proto),
        )
        report.verification["engine"] = {**outcome.to_dict(), **conditions(worker)}
    if outcome.status != "passed":
        raise VerificationError(
            f"the engine does not compute what the original computes: {outcome.reason}",
            where=str(folder),
            fix="see verification.engine in report.json; do not use this engine",
        )
    return f"engine passed on {len(cases)} inputs"


def plan_of(report: Report) -> dict[str, Any]:
    """How the run compared, or how runs do by default."""
    default = {"cases": 2, "atol": 1e-4, "rtol": 1e-4, "detections": None}
    return {**default, **(report.verification.get("plan") or {})}


def repeated_cases(
    folder: Path,
    report: Report,
    source: LoadedModel,
    portable: onnx.ModelProto,
    inputs: Mapping[str, Any] | None = None,
) -> list[Case]:
    """The inputs that the run compared on, values that its user gave among them.

    Args:
        folder: Of the run.
        report: Of the run.
        source: The original, as :func:`completed <surgery.stages.original.completed>` makes it.
        portable: The prepared model.
        inputs: Values of the original's inputs for one more case.

    Raises:
        ConfigError: the values do not fit the model, or the file with those of the run is not the one of the report.
    """
    import io

    import numpy as np

    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import Case, make_cases, specs_of
    from surgery.verify.inputs import check_given
    from surgery.verify.search import Search

    plan = plan_of(report)
    kept = None
    if report.artifacts.get("inputs"):
        with np.load(io.BytesIO(_artifact(folder, report, "inputs")), allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
    constants = plan.get("constants")
    with on_disk(source.proto, source) as whole:
        cases = make_cases(
            source.proto,
            portable,
            report.profiles,
            per_point=plan["cases"],
            seed=report.seed,
            given=kept,
            constants=constants,
            search=Search(source.proto, whole, kept),
        )
    if inputs is not None:
        values = check_given({**(constants or {}), **inputs}, specs_of(source.proto))
        cases.append(Case("inputs given now", values))
    return cases


def _original(folder: Path, given: _Given, report: Report) -> tuple[LoadedModel, onnx.ModelProto]:
    """The original as the run had it, and what the result has to agree with."""
    from surgery.graph.load import load_model
    from surgery.heads.overrides import override_model
    from surgery.plugins.registry import Registry
    from surgery.stages.original import completed, with_batch

    source = load_model(find_original(folder, given.model, report))
    recorded = [Path(p) for p in plan_of(report).get("plugin_paths", ())]
    registry = Registry.load([*(p for p in recorded if p.is_dir()), *given.plugin_paths])
    try:
        if any(e.rule == "dynamic-batch" for e in report.edits):
            source, _ = with_batch(source, registry, report, report.seed)
        source, _ = completed(source, registry)
    except ConversionError as error:
        gone = [str(p) for p in recorded if not p.is_dir()]
        if gone:
            error.cause = "; ".join(filter(None, [error.cause, f"the run had plugins in {', '.join(gone)}"]))
            error.fix = "give the folder with the plugins: --plugin-path DIR"
        raise
    reference = source.proto
    for edit in report.edits:
        overridden = edit.details.get("overridden") or {}
        if overridden:
            reference = override_model(reference, overridden)
    return source, reference


def find_original(folder: Path, model: Path | None, report: Report) -> Path:
    """The file of the model that a run was made from, told by its sha256.

    Without `model` it is looked for at the path of the report, beside the folder, in it, and where the process runs.

    Args:
        folder: Output folder of the run.
        model: Where it is, if that was said.
        report: Of the run.

    Raises:
        ModelError: there is no such file, or the one there is another model.
    """
    from surgery.graph.load import reading

    wanted = report.model_info["sha256"]
    recorded = report.model_info.get("path")
    places = [model] if model is not None else _places(folder, Path(recorded) if recorded else None)
    others: list[tuple[Path, str]] = []
    for path in places:
        if model is None and not path.is_file():
            continue
        with reading(path):
            found = _hash(path)
        if found == wanted:
            return path
        others.append((path, found))
    name = Path(recorded).name if recorded else None
    fix = "give the model that the run was made from: --model PATH"
    for path, found in others:
        if model is not None or (path.name == name and path.resolve().parent != folder.resolve()):
            raise ModelError(
                "this is not the model that the engine was made from",
                code="model-changed",
                where=str(path),
                cause=f"its sha256 is {found}, the report says {wanted}",
                fix=fix,
            )
    raise ModelError(
        "the original model is not here" if recorded else "the report names no file of the original model",
        code="model-not-found",
        where=recorded or str(folder),
        cause=f"no .onnx file there, beside {folder}, in it or in the working directory has its sha256 {wanted}",
        fix=fix,
    )


def _hash(path: Path) -> str:
    """The sha256 of a file that may be larger than memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _places(folder: Path, recorded: Path | None) -> list[Path]:
    """Files that may be the original, likely ones first: the one of the report, those of its name, other models."""
    folders = list(dict.fromkeys(p.resolve() for p in (folder.resolve().parent, folder, Path())))
    named = [] if recorded is None else [recorded, *(f / recorded.name for f in folders)]
    others = [p for f in folders if f.is_dir() for p in sorted(f.glob("*.onnx"))]
    return list(dict.fromkeys([*named, *others]))


def _detections(plan: Mapping[str, Any]) -> DetectionOutputs | None:
    """Which outputs are detections, and how they compare."""
    from surgery.verify.detections import DetectionPolicy
    from surgery.verify.runner import DetectionOutputs

    known = plan["detections"]
    if not known:
        return None
    policy = DetectionPolicy(
        score_atol=plan["atol"],
        box_atol=plan["atol"],
        iou_threshold=known["iou_threshold"],
        capacity=known["capacity"],
    )
    return DetectionOutputs(
        known["boxes"], known["scores"], known["classes"], known["count"], tuple(known["extras"]), policy
    )


def _artifact(folder: Path, report: Report, key: str) -> bytes:
    entry = report.artifacts[key]
    assert entry is not None
    path = folder / Path(entry["path"]).name  # the folder may have been copied here
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path.name}: {error.strerror}", code="artifact-missing", where=str(folder)
        ) from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ConfigError(
            f"{path.name} is not the file that the report describes",
            code="artifact-changed",
            where=str(path),
            fix="run the pipeline again",
        )
    return content


def _write(folder: Path, report: Report) -> None:
    from surgery.report.write import dump_json, write_whole

    write_whole(folder / "report.json", dump_json(report.to_dict()))
