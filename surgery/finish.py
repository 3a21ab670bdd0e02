"""Finishing a run elsewhere: verifying an engine from its report alone."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from surgery.errors import ConfigError, MissingEnvironmentError, ModelError, SurgeryError, VerificationError
from surgery.pipeline import Listener, StageFinished, StageProgress, StageStarted
from surgery.report import CutEntry, Edit, Failure, IoChange, Report, StageEntry


def verify_directory(folder: Path, model: Path | None, listener: Listener) -> Report:
    """See :func:`surgery.api.verify`."""
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
        summary = _verify(folder, model, data, report, listener)
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


def _verify(
    folder: Path, model: Path | None, data: dict[str, Any], report: Report, listener: Listener
) -> str:
    import onnx

    from surgery.graph.load import load_model
    from surgery.heads.overrides import override_model
    from surgery.stages.trt_model import on_disk
    from surgery.stages.verify import conditions
    from surgery.targets import resolve_target
    from surgery.trt.session import Worker
    from surgery.verify.cases import make_cases
    from surgery.verify.detections import DetectionPolicy
    from surgery.verify.engine import verify_engine
    from surgery.verify.runner import DetectionOutputs
    from surgery.verify.search import Search
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
    path = model or (Path(report.model_info["path"]) if report.model_info.get("path") else None)
    if path is None:
        raise ConfigError(
            "the report names no original model",
            code="no-model",
            where=str(folder),
            fix="give it: --model PATH",
        )
    source = load_model(path)
    if source.sha256 != report.model_info["sha256"]:
        raise ModelError(
            "this is not the model that the engine was made from",
            code="model-changed",
            where=str(path),
            cause=f"sha256 {source.sha256}, the report says {report.model_info['sha256']}",
        )
    if any(e.rule == "dynamic-batch" for e in report.edits):
        from surgery.plugins.adopt import adopt_plugins
        from surgery.plugins.registry import Registry
        from surgery.stages.batch import free_batch

        registry = Registry.load([])
        source, _ = free_batch(source, lambda proto: adopt_plugins(proto, registry)[0], report.seed)
    reference = source.proto
    for edit in report.edits:
        overridden = edit.details.get("overridden") or {}
        if overridden:
            reference = override_model(reference, overridden)
    target = resolve_target(report.target["name"])
    if not target.installed:
        raise MissingEnvironmentError(
            f"the engine was built with {target.name}, which is not installed here",
            code="target-not-installed",
            fix=f"install that version ({report.engine_info['version']})",
        )
    plan = report.verification.get("plan") or {"cases": 2, "atol": 1e-4, "rtol": 1e-4, "detections": None}
    known = plan["detections"]
    detections = None
    if known:
        policy = DetectionPolicy(
            score_atol=plan["atol"],
            box_atol=plan["atol"],
            iou_threshold=known["iou_threshold"],
            capacity=known["capacity"],
        )
        detections = DetectionOutputs(
            known["boxes"], known["scores"], known["classes"], known["count"], tuple(known["extras"]), policy
        )
    with on_disk(source.proto, source) as whole:
        cases = make_cases(
            source.proto,
            portable,
            report.profiles,
            per_point=plan["cases"],
            seed=report.seed,
            constants=plan.get("constants"),
            search=Search(source.proto, whole),
        )
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
            detections,
            tolerances,
            [c.inverse for c in report.io_changes if c.inverse and c.inverse.get("op") != "apply"],
        )
        report.verification["engine"] = {**outcome.to_dict(), **conditions(worker)}
    if outcome.status != "passed":
        raise VerificationError(
            f"the engine does not compute what the original computes: {outcome.reason}",
            where=str(folder),
            fix="see verification.engine in report.json; do not use this engine",
        )
    return f"engine passed on {len(cases)} inputs"


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
