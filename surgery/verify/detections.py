"""Detections are sets: comparing them image by image.

Two lists agree if their rows can be paired so that class, score and box agree. A row may stay unpaired only
where rounding alone decides about it: at the cut of a full list, or at the IoU threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

Side = Literal["expected", "actual"]


@dataclass(frozen=True, slots=True)
class DetectionPolicy:
    """How detections are compared.

    Attributes:
        score_atol: Largest difference of paired scores.
        box_atol: Largest difference of each coordinate of paired boxes, in the boxes' unit.
        score_border: How near the last kept score an unpaired row's score has to be.
        iou_border: How near the threshold an unpaired row's IoU with a kept box of its class has to be.
        iou_threshold: IoU above which boxes are suppressed; None if unknown, then nothing is excused by it.
        max_unmatched: Most unpaired rows per image and side.
        capacity: Rows a full list has (K); None if unknown, then nothing is excused by the cut.
    """

    score_atol: float = 1e-4
    box_atol: float = 1e-4
    score_border: float = 1e-4
    iou_border: float = 1e-3
    iou_threshold: float | None = None
    max_unmatched: int = 2
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """Detections of one image: boxes [n, 4] (two corners), scores [n], classes [n]; padding left out."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    classes: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A row without a partner, and what excuses it; None if nothing does."""

    side: Side
    index: int
    klass: int
    score: float
    excuse: str | None


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """Outcome for one image; errors are over paired rows.

    Attributes:
        pairs: (expected row, actual row).
        reason: Why it failed, or None.
    """

    passed: bool
    pairs: tuple[tuple[int, int], ...]
    max_box_error: float
    max_score_error: float
    unmatched: tuple[Unmatched, ...]
    reason: str | None


def match_detections(
    expected: ImageDetections, actual: ImageDetections, policy: DetectionPolicy
) -> ImageMatch:
    """Pair the detections of one image and judge the rest.

    Rows can be paired if their classes are equal and their scores and boxes are within tolerance. The pairing
    is a largest one (augmenting paths), so that equal scores and duplicate boxes cannot spoil it.
    """
    partner = _assign(expected, actual, policy)
    pairs = tuple((i, j) for i, j in enumerate(partner) if j >= 0)
    taken = {j for _, j in pairs}
    left = [i for i, j in enumerate(partner) if j < 0]
    right = [j for j in range(len(actual.scores)) if j not in taken]
    unmatched = [
        *_excuse("expected", left, expected, actual, policy),
        *_excuse("actual", right, actual, expected, policy),
    ]
    reason = None
    bad = [u for u in unmatched if u.excuse is None]
    if bad:
        one = bad[0]
        reason = (
            f"{len(bad)} detections have no partner; first: {one.side} row {one.index}, class {one.klass}, "
            f"score {one.score:.6g}"
        )
    for side, rows in (("expected", left), ("actual", right)):
        if reason is None and len(rows) > policy.max_unmatched:
            reason = f"{len(rows)} {side} detections without a partner, at most {policy.max_unmatched} may be"
    one_sided = policy.capacity is not None and len(left) != len(right) and not any(
        u.excuse and u.excuse.startswith(("IoU", "suppressed")) for u in unmatched
    )
    if reason is None and one_sided:
        reason = f"{len(expected.scores)} detections expected, {len(actual.scores)} found"
    box = max((float(np.max(np.abs(expected.boxes[i] - actual.boxes[j]))) for i, j in pairs), default=0.0)
    score = max((abs(float(expected.scores[i]) - float(actual.scores[j])) for i, j in pairs), default=0.0)
    return ImageMatch(reason is None, pairs, box, score, tuple(unmatched), reason)


def _assign(expected: ImageDetections, actual: ImageDetections, policy: DetectionPolicy) -> list[int]:
    """Partner of every expected row, or -1: a maximum matching, rows in order, lowest partner first."""
    count = len(expected.scores)
    options: list[list[int]] = []
    for i in range(count):
        if not len(actual.scores):
            options.append([])
            continue
        scale = np.maximum(1.0, np.abs(expected.boxes[i].astype(np.float64)))
        apart = np.abs(actual.boxes.astype(np.float64) - expected.boxes[i])
        fits = (
            (actual.classes == expected.classes[i])
            & (np.abs(actual.scores.astype(np.float64) - float(expected.scores[i])) <= policy.score_atol)
            & np.all(apart <= policy.box_atol * scale, axis=1)
        )
        # The nearest box first: among many candidates it is almost always the partner.
        order = np.argsort(np.max(apart, axis=1), kind="stable")
        options.append([int(j) for j in order if fits[j]])
    holder: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in options[i]:
            if j in seen:
                continue
            seen.add(j)
            if j not in holder or place(holder[j], seen):
                holder[j] = i
                return True
        return False

    for i in range(count):
        place(i, set())
    partner = [-1] * count
    for j, i in holder.items():
        partner[i] = j
    return partner


def _excuse(
    side: Side, rows: list[int], own: ImageDetections, other: ImageDetections, policy: DetectionPolicy
) -> list[Unmatched]:
    found = [
        Unmatched(side, i, int(own.classes[i]), float(own.scores[i]), _reason(i, own, other, policy))
        for i in rows
    ]
    # A row that a borderline box of the same class suppresses goes with it.
    borderline = [u.index for u in found if u.excuse and u.excuse.startswith("IoU")]
    result = []
    for row in found:
        if row.excuse is None and policy.iou_threshold is not None:
            for k in borderline:
                same = own.classes[k] == own.classes[row.index] and k != row.index
                if same and iou(own.boxes[k], own.boxes[row.index]) > policy.iou_threshold - policy.iou_border:
                    row = replace(row, excuse="suppressed by a box at the IoU threshold")
                    break
        result.append(row)
    return result


def _reason(
    i: int, own: ImageDetections, other: ImageDetections, policy: DetectionPolicy
) -> str | None:
    full = policy.capacity is not None and len(other.scores) >= policy.capacity
    if full and len(own.scores):
        last = float(np.min(own.scores))
        if abs(float(own.scores[i]) - last) <= policy.score_border:
            return "score at the cut of a full list"
    if policy.iou_threshold is not None:
        for boxes, classes, skip in ((own.boxes, own.classes, i), (other.boxes, other.classes, -1)):
            for k in range(len(classes)):
                if k == skip or classes[k] != own.classes[i]:
                    continue
                if abs(iou(boxes[k], own.boxes[i]) - policy.iou_threshold) <= policy.iou_border:
                    return "IoU at the threshold"
    return None


def iou(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Intersection over union of two boxes given by corners, in any order of the corners."""
    a = np.asarray(one, np.float64).reshape(2, 2)
    b = np.asarray(two, np.float64).reshape(2, 2)
    a_low, a_high, b_low, b_high = a.min(0), a.max(0), b.min(0), b.max(0)
    sides = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)
    if np.any(sides <= 0):
        return 0.0
    inter = float(np.prod(sides))
    union = float(np.prod(a_high - a_low) + np.prod(b_high - b_low)) - inter
    return inter / union if union > 0 else 0.0
