"""Detections are sets: comparing them image by image.

Two lists agree if their rows can be paired so that class, score and box agree. A row may stay unpaired only
where rounding alone decides about it: at the cut of a full list, or at the IoU threshold. Whether such an
excuse holds is asked of the list that lacks the row: only a full list cuts, only a box kept in it suppresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from surgery.verify.assign import assign

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

Side = Literal["expected", "actual"]

AT_CUT = "score at the cut"
AT_THRESHOLD = "IoU at the threshold"
SUPPRESSED = "suppressed by a borderline box"

TWIN_IOU = 0.5
TWIN_SHIFT = 0.02
"""An unpaired row is the other side's unpaired row moved, if they overlap by more than TWIN_IOU (or the IoU
threshold, if that is lower) or no coordinate differs by more than TWIN_SHIFT of the image's extent."""


@dataclass(frozen=True, slots=True)
class DetectionPolicy:
    """How detections are compared.

    Attributes:
        score_atol: Largest difference of paired scores.
        box_atol: Largest difference of each coordinate of paired boxes, in the boxes' unit.
        box_rtol: The same relative to the expected box's largest coordinate; takes over where coordinates
            exceed 1, that is for boxes in pixels.
        score_border: How near the last kept score an unpaired row's score has to be.
        iou_border: How near the threshold an unpaired row's IoU with a kept box of its class has to be.
        iou_threshold: IoU above which boxes are suppressed; None if unknown, then nothing is excused by it.
        max_unmatched: Most unpaired rows per image, those of both lists together.
        capacity: Rows a full list has (K); None if unknown, then nothing is excused by the cut.
    """

    score_atol: float = 1e-4
    box_atol: float = 1e-4
    box_rtol: float = 1e-4
    score_border: float = 1e-4
    iou_border: float = 1e-3
    iou_threshold: float | None = None
    max_unmatched: int = 2
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """Detections of one image, padding left out.

    Attributes:
        boxes: [n, 4]: two corners, x or y first.
        scores: [n].
        classes: [n].
        extras: Further columns, [n] or [n, X]. They decide between partners that are otherwise as good, such
            as exact duplicates; whether they agree is for the caller to judge.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    classes: NDArray[Any]
    extras: tuple[NDArray[Any], ...] = ()

    def __len__(self) -> int:
        return len(self.scores)


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
        passed: Whether the lists agree.
        pairs: (expected row, actual row).
        max_box_error: In the boxes' unit.
        max_score_error: Absolute.
        unmatched: Rows without a partner, those of the expected list first.
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
    is a largest one, so that equal scores and duplicate boxes cannot spoil it.
    """
    pairing = _Pairing(expected, actual, policy)
    partner = pairing.best()
    pairs = tuple((i, j) for i, j in enumerate(partner) if j >= 0)
    taken = {j for _, j in pairs}
    left = [i for i, j in enumerate(partner) if j < 0]
    right = [j for j in range(len(actual)) if j not in taken]
    unmatched = _judge(left, right, expected, actual, policy)
    bad = [u for u in unmatched if u.excuse is None]
    reason = None
    if bad:
        reason = f"{len(bad)} of {len(expected)} expected and {len(actual)} actual detections have no partner"
        reason += f"; first: {pairing.describe(bad[0])}"
    elif len(unmatched) > policy.max_unmatched:
        reason = f"{len(unmatched)} detections without a partner, at most {policy.max_unmatched} may be"
    return ImageMatch(
        reason is None,
        pairs,
        max((float(np.max(_apart(expected.boxes[i], actual.boxes[j]))) for i, j in pairs), default=0.0),
        max((float(_apart(expected.scores[i], actual.scores[j])) for i, j in pairs), default=0.0),
        tuple(unmatched),
        reason,
    )


def overlap(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of every box of `one` [n, 4] with every box of `two` [m, 4]: [n, m].

    Boxes are two corners, in any order; x or y first makes no difference. Boxes without area overlap nothing.
    """
    a = np.asarray(one, np.float64).reshape(-1, 1, 2, 2)
    b = np.asarray(two, np.float64).reshape(1, -1, 2, 2)
    a_low, a_high, b_low, b_high = a.min(2), a.max(2), b.min(2), b.max(2)
    sides = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)
    inter = np.prod(np.maximum(sides, 0.0), axis=2)
    union = np.prod(a_high - a_low, axis=2) + np.prod(b_high - b_low, axis=2) - inter
    iou: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(union), where=union > 0)
    return iou


def _apart(one: Any, two: Any) -> NDArray[np.float64]:
    """Absolute difference; 0 for equal infinities and for two NaNs, infinite for one."""
    a, b = np.broadcast_arrays(np.asarray(one, np.float64), np.asarray(two, np.float64))
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    result: NDArray[np.float64] = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return result


def _whole(klass: Any) -> int:
    return int(klass) if np.isfinite(klass) else -1


class _Pairing:
    """Which rows could be partners."""

    def __init__(self, expected: ImageDetections, actual: ImageDetections, policy: DetectionPolicy) -> None:
        self.expected, self.actual, self.policy = expected, actual, policy
        self.options = [self._partners(i) for i in range(len(expected))]

    def _partners(self, i: int) -> list[int]:
        """Actual rows that agree with an expected one, nearest first."""
        policy = self.policy
        score = _apart(self.actual.scores, self.expected.scores[i])
        box = _apart(self.actual.boxes, self.expected.boxes[i]).reshape(-1, 4).max(1)
        fits = (
            (self.actual.classes == self.expected.classes[i])
            & (score <= policy.score_atol)
            & (box <= _box_tolerance(self.expected.boxes[i], policy))
        )
        rows = np.flatnonzero(fits)
        return [int(j) for j in rows[np.lexsort((rows, score[rows], box[rows]))]]

    def best(self) -> list[int]:
        """Partner of every expected row, or -1; among equals those whose extra columns agree too."""
        agreeing = [
            [j for j in rows if self._same_extras(i, j)] if len(rows) > 1 else rows
            for i, rows in enumerate(self.options)
        ]
        return assign(self.options, assign(agreeing))

    def _same_extras(self, i: int, j: int) -> bool:
        return all(
            bool(np.all(_apart(one[i], two[j]) <= self.policy.score_atol))
            for one, two in zip(self.expected.extras, self.actual.extras, strict=True)
        )

    def describe(self, row: Unmatched) -> str:
        """The row, and how the nearest row of the other list differs from it."""
        ours, other, side = self.expected, self.actual, "actual"
        if row.side == "actual":
            ours, other, side = self.actual, self.expected, "expected"
        text = f"{row.side} row {row.index} (class {row.klass}, score {row.score:.6g})"
        if not len(other):
            return f"{text}; there are no {side} rows"
        i = row.index
        box = _apart(other.boxes, ours.boxes[i]).reshape(-1, 4).max(1)
        score = _apart(other.scores, ours.scores[i])
        j = int(np.lexsort((score, other.classes != ours.classes[i], box))[0])
        klass = "" if other.classes[j] == ours.classes[i] else f"class {_whole(other.classes[j])}, "
        return f"{text}; nearest {side} row {j}: {klass}box off by {box[j]:.3g}, score by {score[j]:.3g}"


def _box_tolerance(box: NDArray[Any], policy: DetectionPolicy) -> float:
    size = float(np.max(np.abs(np.asarray(box, np.float64)), initial=0.0))
    return max(policy.box_atol, policy.box_rtol * size) if np.isfinite(size) else policy.box_atol


def _judge(
    left: list[int],
    right: list[int],
    expected: ImageDetections,
    actual: ImageDetections,
    policy: DetectionPolicy,
) -> list[Unmatched]:
    """The rows without a partner, each with its excuse if it has one."""
    if not left and not right:
        return []
    mine = _Unpaired("expected", left, expected, policy)
    theirs = _Unpaired("actual", right, actual, policy)
    for one, two in ((mine, theirs), (theirs, mine)):
        one.excuse_at_threshold(two)
        one.excuse_at_cut(two)
    for one, two in ((mine, theirs), (theirs, mine)):
        one.excuse_suppressed(two)
    for one, two in ((mine, theirs), (theirs, mine)):
        one.excuse_moved_up(two)
    return [*mine.rows(), *theirs.rows()]


class _Unpaired:
    """The unpaired rows of one side."""

    def __init__(self, side: Side, left: list[int], own: ImageDetections, policy: DetectionPolicy) -> None:
        self.side, self.left, self.own, self.policy = side, left, own, policy
        self.excuses: dict[int, str] = {}

    def rows(self) -> list[Unmatched]:
        return [
            Unmatched(
                self.side,
                i,
                _whole(self.own.classes[i]),
                float(self.own.scores[i]),
                self.excuses.get(i),
            )
            for i in self.left
        ]

    @property
    def full(self) -> bool:
        return self.policy.capacity is not None and len(self.own) >= self.policy.capacity > 0

    def excuse_at_threshold(self, other: _Unpaired) -> None:
        """A box of the same class that the other list keeps, with no lower score, is at the threshold."""
        policy = self.policy
        if policy.iou_threshold is None or not len(other.own):
            return
        for i in self.left:
            iou = overlap(self.own.boxes[i], other.own.boxes)[0]
            border = np.abs(iou - policy.iou_threshold) <= policy.iou_border
            if np.any(border & self._may_be_suppressed_by(i, other)):
                self.excuses[i] = AT_THRESHOLD

    def excuse_at_cut(self, other: _Unpaired) -> None:
        """The other list is full, and its last score is no more than rounding away."""
        if not other.full:
            return
        last = float(np.min(other.own.scores))
        for i in self.left:
            near = abs(float(self.own.scores[i]) - last) <= self.policy.score_border
            if near and i not in self.excuses and not self._is_another_row_altered(i, other):
                self.excuses[i] = AT_CUT

    def excuse_suppressed(self, other: _Unpaired) -> None:
        """A borderline box that only the other list keeps suppresses this one there."""
        policy = self.policy
        if policy.iou_threshold is None:
            return
        borderline = [j for j in other.left if other.excuses.get(j) == AT_THRESHOLD]
        for i in self.left:
            if i in self.excuses or not borderline:
                continue
            iou = overlap(self.own.boxes[i], other.own.boxes)[0]
            over = (iou > policy.iou_threshold - policy.iou_border) & self._may_be_suppressed_by(i, other)
            if np.any(over[borderline]):
                self.excuses[i] = SUPPRESSED

    def excuse_moved_up(self, other: _Unpaired) -> None:
        """The last of this list took the place that an excused box has in the other, full list.

        Its score is the last kept score, so the cut decides about it: one row for each place.
        """
        if not other.full:
            return
        by_iou = (AT_THRESHOLD, SUPPRESSED)
        places = sum(e in by_iou for e in other.excuses.values()) - sum(
            e in by_iou for e in self.excuses.values()
        )
        last = float(np.min(self.own.scores)) if len(self.own) else 0.0
        for i in self.left:
            near = abs(float(self.own.scores[i]) - last) <= self.policy.score_border
            if places > 0 and near and i not in self.excuses and not self._is_another_row_altered(i, other):
                self.excuses[i] = AT_CUT
                places -= 1

    def _may_be_suppressed_by(self, i: int, other: _Unpaired) -> NDArray[np.bool_]:
        """Rows of the other list of the same class whose score is not lower."""
        scores = np.asarray(other.own.scores, np.float64)
        result: NDArray[np.bool_] = (other.own.classes == self.own.classes[i]) & (
            scores >= float(self.own.scores[i]) - self.policy.score_atol
        )
        return result

    def _is_another_row_altered(self, i: int, other: _Unpaired) -> bool:
        """Whether the row is no detection of its own, which the cut could take or leave.

        It is an unpaired row of the other list with another class or box, or it repeats a row of its own list
        that would have suppressed it.
        """
        policy, box, klass = self.policy, self.own.boxes[i], self.own.classes[i]
        threshold = policy.iou_threshold if policy.iou_threshold is not None else TWIN_IOU
        if other.left:
            boxes, classes = other.own.boxes[other.left], other.own.classes[other.left]
            apart = _apart(boxes, box).max(1)
            extent = float(np.max(np.abs(np.concatenate([self.own.boxes, other.own.boxes])), initial=0.0))
            moved = (overlap(box, boxes)[0] > min(threshold, TWIN_IOU)) | (apart <= TWIN_SHIFT * extent)
            relabelled = apart <= _box_tolerance(box, policy)
            if np.any(np.where(classes == klass, moved, relabelled)):
                return True
        if policy.iou_threshold is None:
            return False
        repeats = (overlap(box, self.own.boxes)[0] > threshold + policy.iou_border) & (
            self.own.classes == klass
        )
        repeats[i] = False
        return bool(np.any(repeats))
