"""Comparing all outputs of one case: detections as sets, everything else as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.verify.detections import DetectionPolicy, ImageDetections, ImageMatch, match_detections
from surgery.verify.tensors import OutputResult, Tolerance, compare_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]

AS_SETS = "detections as sets"
AS_ROWS = "rows of paired detections"


@dataclass(frozen=True, slots=True)
class DetectionOutputs:
    """Which outputs are detections. Without a batch axis (one image) B is left out everywhere.

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
    def columns(self) -> tuple[str, ...]:
        """The outputs that have a row for each detection."""
        return (self.boxes, self.scores, *([self.classes] if self.classes else []), *self.extras)

    @property
    def names(self) -> tuple[str, ...]:
        """All outputs named here."""
        return (*([self.count] if self.count else []), *self.columns)

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
class CaseResult:
    """Outcome of one case; true if everything agrees.

    Attributes:
        name: Of the case.
        shapes: Of its inputs.
        outputs: One for each output.
        detections: Number of detections the original found, per image; None if it is not asked for any.
        unmatched: Detections without a partner, as they stand in the report.
        reason: Why it failed, or None.
        empty: Whether no output holds a value.
    """

    name: str
    shapes: dict[str, list[int]]
    outputs: tuple[OutputResult, ...] = ()
    detections: tuple[int, ...] | None = None
    unmatched: tuple[dict[str, Any], ...] = ()
    reason: str | None = None
    empty: bool = False

    def __bool__(self) -> bool:
        return self.reason is None

    @property
    def evidence(self) -> bool:
        """Whether the case can prove anything."""
        return sum(self.detections) > 0 if self.detections is not None else not self.empty

    def to_dict(self) -> dict[str, Any]:
        """Entry of the report."""
        entry: dict[str, Any] = {"name": self.name, "shapes": self.shapes}
        if self.detections is not None:
            entry["detections"] = list(self.detections)
            entry["unmatched"] = list(self.unmatched)
        return {**entry, "outputs": [o.to_dict() for o in self.outputs]}


def compare_case(
    name: str,
    shapes: Mapping[str, Sequence[int]],
    expected: Arrays,
    actual: Arrays,
    detections: DetectionOutputs | None,
    tolerances: Mapping[str, Tolerance],
) -> CaseResult:
    """Compare what original and result make of one input.

    Args:
        name: Of the case.
        shapes: Of its inputs, for the report.
        expected: The original's outputs.
        actual: The result's outputs.
        detections: Which of them are detections.
        tolerances: For plain outputs and for float extras; 1e-4 for those that are not in it.
    """
    sizes = {n: list(s) for n, s in shapes.items()}
    if set(expected) != set(actual):
        missing = sorted(set(expected) - set(actual))
        extra = sorted(set(actual) - set(expected))
        return CaseResult(
            name, sizes, reason=f"outputs differ: missing {missing or 'none'}, new {extra or 'none'}"
        )
    outputs: list[OutputResult] = []
    counts: tuple[int, ...] | None = None
    unmatched: list[dict[str, Any]] = []
    apart: tuple[str, ...] = ()
    if detections is not None:
        unfit = _unfit(expected, actual, detections)
        if unfit is not None:
            return CaseResult(name, sizes, detections=(), reason=unfit)
        apart = detections.names
        counts, unmatched, outputs = _compare_detections(expected, actual, detections, tolerances)
    outputs += [
        compare_tensor(n, expected[n], actual[n], tolerances.get(n, Tolerance()))
        for n in expected
        if n not in apart
    ]
    bad = next((o for o in outputs if not o.passed), None)
    return CaseResult(
        name,
        sizes,
        tuple(outputs),
        counts,
        tuple(unmatched),
        None if bad is None else _failure(bad),
        empty=not any(v.size for v in expected.values()),
    )


def _failure(bad: OutputResult) -> str:
    if bad.compare == AS_SETS or not np.isfinite(bad.max_abs):
        return f"{bad.name}: {bad.note or 'differs'}"
    return f"{bad.name} differs by {bad.max_abs:.4g}" + (f" ({bad.note})" if bad.note else "")


def _unfit(expected: Arrays, actual: Arrays, detections: DetectionOutputs) -> str | None:
    """Why the outputs cannot be compared as detections at all, or None."""
    absent = next((n for n in detections.names if n not in expected), None)
    if absent is not None:
        return f"{absent} should hold detections, but there is no such output"
    # Without a count the number of rows is the number of detections, which the pairing judges.
    free = expected[detections.scores].ndim - 1 if detections.count is None else None
    for n in detections.names:
        one, two = expected[n], actual[n]
        if one.dtype != two.dtype:
            return f"{n}: dtype {two.dtype} instead of {one.dtype}"
        if one.dtype.kind not in "fiu":
            return f"{n}: detections cannot be of dtype {one.dtype}"
        if one.ndim != two.ndim or any(
            a != b and axis != free for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True))
        ):
            return f"{n}: shape {list(two.shape)} instead of {list(one.shape)}"
    for outputs in (expected, actual):
        unfit = _misshapen(outputs, detections)
        if unfit is not None:
            return unfit
    return None


def _misshapen(outputs: Arrays, detections: DetectionOutputs) -> str | None:
    scores = outputs[detections.scores]
    if scores.ndim not in (1, 2):
        return f"{detections.scores}: scores of shape {list(scores.shape)} instead of [B, K]"
    if outputs[detections.boxes].shape != (*scores.shape, 4):
        return (
            f"{detections.boxes}: boxes of shape {list(outputs[detections.boxes].shape)} instead of [B, K, 4]"
        )
    for n in detections.columns:
        if outputs[n].shape[: scores.ndim] != scores.shape:
            return f"{n}: shape {list(outputs[n].shape)} does not go with {list(scores.shape)} scores"
    if detections.count is not None:
        counts = np.asarray(outputs[detections.count]).reshape(-1)
        images = scores.shape[0] if scores.ndim == 2 else 1
        if len(counts) != images:
            return f"{detections.count}: {len(counts)} counts for {images} images"
        for count in counts.tolist():
            if not 0 <= count <= scores.shape[-1] or count != int(count):
                return f"{detections.count}: {count} is not a number of rows from 0 to {scores.shape[-1]}"
    return None


def _compare_detections(
    expected: Arrays, actual: Arrays, detections: DetectionOutputs, tolerances: Mapping[str, Tolerance]
) -> tuple[tuple[int, ...], list[dict[str, Any]], list[OutputResult]]:
    """Counts of the original, unmatched detections, and a result for each output that holds detections."""
    one, two = _images(expected, detections), _images(actual, detections)
    matches = [match_detections(a, b, detections.policy) for a, b in zip(one, two, strict=True)]
    unmatched = [
        {
            "image": i,
            "side": u.side,
            "row": u.index,
            "class": u.klass,
            "score": u.score,
            "excuse": u.excuse,
        }
        for i, m in enumerate(matches)
        for u in m.unmatched
    ]
    reason = next((f"image {i}: {m.reason}" for i, m in enumerate(matches) if not m.passed), None)
    passed = reason is None
    note = reason or _padding_note(expected, actual, detections)
    worst = {
        detections.boxes: max((m.max_box_error for m in matches), default=0.0),
        detections.scores: max((m.max_score_error for m in matches), default=0.0),
    }
    if detections.classes is not None:
        worst[detections.classes] = 0.0  # of paired rows, as all numbers here
    if detections.count is not None:
        worst[detections.count] = float(
            max((abs(len(a) - len(b)) for a, b in zip(one, two, strict=True)), default=0)
        )
    results = [OutputResult(n, e, 0.0, AS_SETS, passed, note) for n, e in worst.items()]
    results += [
        _compare_rows(k, n, one, two, matches, tolerances.get(n, Tolerance()))
        for k, n in enumerate(detections.extras)
    ]
    scores = expected[detections.scores]
    if detections.count is None:  # rows that pad are not told apart, but they prove nothing
        counts = tuple(int(np.count_nonzero(s > 0)) for s in scores.reshape(-1, scores.shape[-1]))
    else:
        counts = tuple(len(a) for a in one)
    return counts, unmatched, results


def _images(outputs: Arrays, detections: DetectionOutputs) -> list[ImageDetections]:
    scores = outputs[detections.scores]
    single = scores.ndim == 1
    columns = {n: outputs[n][None] if single else outputs[n] for n in detections.columns}
    scores = columns[detections.scores]
    classes = columns[detections.classes] if detections.classes else np.zeros(scores.shape, np.int64)
    counts = (
        np.asarray(outputs[detections.count]).reshape(-1)
        if detections.count is not None
        else np.full(len(scores), scores.shape[1])
    )
    return [
        ImageDetections(
            columns[detections.boxes][i, : int(n)],
            scores[i, : int(n)],
            classes[i, : int(n)],
            tuple(columns[e][i, : int(n)] for e in detections.extras),
        )
        for i, n in enumerate(counts)
    ]


def _compare_rows(
    column: int,
    name: str,
    one: Sequence[ImageDetections],
    two: Sequence[ImageDetections],
    matches: Sequence[ImageMatch],
    tolerance: Tolerance,
) -> OutputResult:
    """An output whose rows follow the detections: the pairing decides which row belongs to which."""
    expected, actual = [], []
    for a, b, match in zip(one, two, matches, strict=True):
        left, right = [i for i, _ in match.pairs], [j for _, j in match.pairs]
        expected.append(a.extras[column][left])
        actual.append(b.extras[column][right])
    if not any(len(rows) for rows in expected):
        return OutputResult(name, 0.0, 0.0, AS_ROWS, True, "no detections were paired")
    outcome = compare_tensor(name, np.concatenate(expected), np.concatenate(actual), tolerance)
    compare = f"{AS_ROWS}, {outcome.compare}"
    return OutputResult(name, outcome.max_abs, outcome.max_rel, compare, outcome.passed, outcome.note)


def _padding_note(expected: Arrays, actual: Arrays, detections: DetectionOutputs) -> str | None:
    """Whether the rows beyond the count are the same too; they are not part of the comparison."""
    if detections.count is None:
        return None
    scores = expected[detections.scores]
    rows = scores.shape[-1]
    counts = np.asarray(expected[detections.count]).reshape(-1)
    beyond = np.arange(rows)[None] >= counts[:, None]
    if not np.any(beyond):
        return None
    for n in detections.columns:
        shape = (len(counts), rows, *expected[n].shape[scores.ndim :])
        if not np.array_equal(expected[n].reshape(shape)[beyond], actual[n].reshape(shape)[beyond]):
            return "rows beyond the count differ"
    return "rows beyond the count are equal"
