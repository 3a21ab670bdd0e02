"""Original and result side by side: ONNX Runtime through Polygraphy's runners, our comparison in its comparator."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.verify.cases import Case
from surgery.verify.detections import (
    DetectionPolicy,
    ImageDetections,
    ImageMatch,
    match_detections,
)
from surgery.verify.inverse import apply_inverses
from surgery.verify.tensors import OutputResult, Tolerance, compare_tensor

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]
Model = "onnx.ModelProto | Path"
Runner = Callable[[Sequence[Arrays]], Sequence[Arrays]]

MIN_EVIDENCE = 3
"""Cases in which something must have been detected; a case without detections proves nothing."""


@dataclass(frozen=True, slots=True)
class DetectionOutputs:
    """Which outputs are detections.

    Attributes:
        boxes: [B, K, 4].
        scores: [B, K].
        classes: [B, K], or None if there is one class.
        count: Number of detections, [B] or [B, 1]; None if all rows count.
        extras: Outputs whose rows go with the detections: [B, K] or [B, K, X].
        policy: How they compare.
    """

    boxes: str
    scores: str
    classes: str | None
    count: str | None
    extras: tuple[str, ...] = ()
    policy: DetectionPolicy = field(default_factory=DetectionPolicy)

    @property
    def names(self) -> tuple[str, ...]:
        """All outputs named here."""
        one = (self.count, self.boxes, self.scores, self.classes)
        return (*(n for n in one if n is not None), *self.extras)

    def to_dict(self) -> dict[str, Any]:
        """For the report, so that a later verification compares alike."""
        p = self.policy
        return {
            "boxes": self.boxes,
            "scores": self.scores,
            "classes": self.classes,
            "count": self.count,
            "extras": list(self.extras),
            "iou_threshold": p.iou_threshold,
            "capacity": p.capacity,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a comparison: ``passed`` or ``failed``, why, and every case."""

    status: str
    reason: str | None
    cases: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Entry of the report."""
        return {"status": self.status, "reason": self.reason, "cases": list(self.cases)}


@dataclass(frozen=True, slots=True)
class _CaseResult:
    """What our comparison hands back through Polygraphy. true if everything agrees."""

    entry: dict[str, Any]
    detected: bool
    reason: str | None

    def __bool__(self) -> bool:
        return self.reason is None


def verify_graph(
    original: onnx.ModelProto | Path,
    result: onnx.ModelProto | Path,
    pre: onnx.ModelProto | None,
    cases: Sequence[Case],
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    inverses: Sequence[Mapping[str, Any]] = (),
) -> Verification:
    """Compare original(x) with result(pre(x)), both in ONNX Runtime.

    Inputs of the result that `pre` does not make are taken from x by name.
    """

    def run(feeds: Sequence[Arrays]) -> Sequence[Arrays]:
        return run_onnx(result, feeds)

    return verify_with(original, pre, cases, run, detections, tolerances, inverses, runner="result")


def verify_with(
    original: onnx.ModelProto | Path,
    pre: onnx.ModelProto | None,
    cases: Sequence[Case],
    run: Runner,
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    inverses: Sequence[Mapping[str, Any]] = (),
    *,
    runner: str,
) -> Verification:
    """Compare original(x) with run(pre(x)); `run` gets all feeds at once."""
    try:
        feeds = [case.feeds for case in cases]
        want = run_onnx(original, feeds)
        made = run_onnx(pre, feeds) if pre is not None else [{} for _ in feeds]
        got = run([{**x, **m} for x, m in zip(feeds, made, strict=True)])
        got = [apply_inverses(g, inverses) for g in got]
    except (RunError, ValueError) as error:
        return Verification("failed", str(error), ())
    results = _compare(cases, want, got, detections, tolerances, runner)
    entries = tuple(r.entry for r in results)
    failed = [r for r in results if not r]
    if failed:
        first = failed[0]
        return Verification("failed", f"case {first.entry['name']}: {first.reason}", entries)
    if len(results) != len(cases) or not results:
        return Verification("failed", "not every case was compared", entries)
    if detections is not None:
        evidence = sum(r.detected for r in results)
        if evidence < min(MIN_EVIDENCE, len(cases)):
            silent = len(cases) - evidence
            return Verification(
                "failed", f"nothing was detected in {silent} of {len(cases)} cases, so they prove nothing", entries
            )
    return Verification("passed", None, entries)


class RunError(Exception):
    """A model did not load or run; the text says which and why."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Polygraphy logs to standard output, which belongs to the user."""
    from polygraphy.logger import G_LOGGER

    before = G_LOGGER.module_severity
    G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        G_LOGGER.module_severity = before


def run_onnx(model: onnx.ModelProto | Path, feeds: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Outputs for each of the feeds; names that the model does not read are left out.

    Raises:
        RunError: ONNX Runtime refuses the model or fails.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    payload = str(model) if isinstance(model, Path) else model.SerializeToString()
    with _quiet():
        from polygraphy.backend.onnxrt import OnnxrtRunner

        try:
            session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
            names = {i.name for i in session.get_inputs()}
            with OnnxrtRunner(lambda: session) as runner:
                outputs = []
                for feed in feeds:
                    wanted = {n: v for n, v in feed.items() if n in names}
                    outputs.append({k: np.array(v) for k, v in runner.infer(wanted).items()})
                return outputs
        except Exception as error:  # ONNX Runtime and Polygraphy raise kinds of their own
            text = str(error).strip() or type(error).__name__
            raise RunError(f"ONNX Runtime: {text.splitlines()[0]}") from error


def _compare(
    cases: Sequence[Case],
    want: Sequence[Arrays],
    got: Sequence[Arrays],
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
    runner: str,
) -> list[_CaseResult]:
    """Let Polygraphy's comparator go through the cases with our comparison."""
    with _quiet():
        from polygraphy.comparator import Comparator, IterationResult, RunResults

        runs = RunResults()
        runs.append(("original", [IterationResult(dict(w), runner_name="original") for w in want]))
        runs.append((runner, [IterationResult(dict(g), runner_name=runner) for g in got]))
        collected: list[_CaseResult] = []

        def compare(one: Any, two: Any) -> dict[str, bool]:
            case = cases[len(collected)]
            outcome = _compare_case(case, dict(one), dict(two), detections, tolerances)
            collected.append(outcome)
            # An empty answer would count as agreement, so there is always one entry.
            return {"case": bool(outcome)}

        Comparator.compare_accuracy(runs, compare_func=compare)
    return collected


def _compare_case(
    case: Case,
    want: Arrays,
    got: Arrays,
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
) -> _CaseResult:
    shapes = {n: list(v.shape) for n, v in case.feeds.items()}
    entry: dict[str, Any] = {"name": case.name, "shapes": shapes, "outputs": []}
    if set(want) != set(got):
        missing = sorted(set(want) - set(got))
        extra = sorted(set(got) - set(want))
        reason = f"outputs differ: missing {missing or 'none'}, new {extra or 'none'}"
        return _CaseResult(entry, False, reason)
    reason = None
    detected = True
    apart: set[str] = set()
    if detections is not None and all(n in want for n in detections.names):
        apart = set(detections.names)
        entry["detections"], entry["unmatched"], results = _compare_detections(
            want, got, detections, tolerances
        )
        detected = all(n > 0 for n in entry["detections"])
        entry["outputs"] += [r.to_dict() for r in results]
        reason = next((f"{r.name}: {r.note}" for r in results if not r), None)
    for name in want:
        if name in apart:
            continue
        outcome = compare_tensor(name, want[name], got[name], tolerances.get(name, Tolerance()))
        entry["outputs"].append(outcome.to_dict())
        if not outcome and reason is None:
            reason = f"{name} differs by {outcome.max_abs:g}" + (f" ({outcome.note})" if outcome.note else "")
    return _CaseResult(entry, detected, reason)


def _compare_detections(
    want: Arrays, got: Arrays, detections: DetectionOutputs, tolerances: Mapping[str, Tolerance]
) -> tuple[list[int], list[dict[str, Any]], list[OutputResult]]:
    for name in detections.names:
        if want[name].shape != got[name].shape or want[name].dtype != got[name].dtype:
            bad = compare_tensor(name, want[name], got[name], Tolerance())
            return [0], [], [bad]
    one, two = _images(want, detections), _images(got, detections)
    matches = [match_detections(a, b, detections.policy) for a, b in zip(one, two, strict=True)]
    unmatched = [
        {"image": i, "side": u.side, "row": u.index, "class": u.klass, "score": u.score, "excuse": u.excuse}
        for i, m in enumerate(matches)
        for u in m.unmatched
    ]
    reason = next((f"image {i}: {m.reason}" for i, m in enumerate(matches) if not m.passed), None)
    box = max((m.max_box_error for m in matches), default=0.0)
    score = max((m.max_score_error for m in matches), default=0.0)
    passed = reason is None
    note = reason or _padding_note(want, got, detections)
    results = [
        OutputResult(detections.boxes, box, 0.0, "detections as sets", passed, note),
        OutputResult(detections.scores, score, 0.0, "detections as sets", passed, note),
    ]
    for name in (detections.classes, detections.count):
        if name is not None:
            worst = 0.0 if passed else float("inf")
            results.append(OutputResult(name, worst, 0.0, "detections as sets", passed, note))
    for name in detections.extras:
        results.append(_compare_rows(name, want, got, matches, tolerances.get(name, Tolerance())))
    return [len(a.scores) for a in one], unmatched, results


def _images(outputs: Arrays, detections: DetectionOutputs) -> list[ImageDetections]:
    boxes, scores = outputs[detections.boxes], outputs[detections.scores]
    classes = outputs[detections.classes] if detections.classes else np.zeros_like(scores)
    images = []
    for i in range(scores.shape[0]):
        count = scores.shape[1]
        if detections.count is not None:
            count = min(count, int(np.asarray(outputs[detections.count]).reshape(-1)[i]))
        images.append(ImageDetections(boxes[i, :count], scores[i, :count], classes[i, :count]))
    return images


def _compare_rows(
    name: str, want: Arrays, got: Arrays, matches: Sequence[ImageMatch], tolerance: Tolerance
) -> OutputResult:
    """Rows of paired detections; the pairing decides which row belongs to which."""
    rows = [(i, a, b) for i, m in enumerate(matches) for a, b in m.pairs]
    if not rows:
        return OutputResult(name, 0.0, 0.0, "rows of paired detections", True, "no detections")
    image, first, second = (np.asarray(c) for c in zip(*rows, strict=True))
    outcome = compare_tensor(name, want[name][image, first], got[name][image, second], tolerance)
    note = outcome.note or (None if outcome else f"rows differ by {outcome.max_abs:g}")
    return OutputResult(
        name, outcome.max_abs, outcome.max_rel, "rows of paired detections", outcome.passed, note
    )


def _padding_note(want: Arrays, got: Arrays, detections: DetectionOutputs) -> str | None:
    """Whether the rows beyond the count are the same too; they are not part of the comparison."""
    if detections.count is None:
        return None
    names = [n for n in detections.names if n != detections.count]
    for i, count in enumerate(np.asarray(want[detections.count]).reshape(-1)):
        tail = slice(int(count), None)
        if any(not np.array_equal(want[n][i, tail], got[n][i, tail]) for n in names):
            return "rows beyond the count differ"
    return None
