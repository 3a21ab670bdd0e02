"""The two ways of greedy suppression in plain ONNX operators: one box per round, or a fixpoint of all pairs.

Both give, for every group (class), the same boxes in the same order as ONNX Runtime's NonMaxSuppression:
score descending, the lowest index first among equal scores. TensorRT promises no order among equals, so the
order is made explicit and no TopK or ArgMax ever decides between equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.nms_spec import TOPK_LIMIT

if TYPE_CHECKING:
    from surgery.plugins.nms_spec import NmsSpec


STEPS = 4
"""Steps of the fixpoint in a round of its loop: the condition of a loop costs an engine more than a step, and a step
too many changes nothing."""


@dataclass(frozen=True, slots=True)
class Selected:
    """Detections per group in the order of selection; names of values.

    Attributes:
        scores: [B, G, M] float32, `SMALLEST` where there is no further detection.
        positions: [B, G, M] float32, candidate within the group.
    """

    scores: str
    positions: str


@dataclass(frozen=True, slots=True)
class Corners:
    """Sorted corners and area of the boxes; five values of one shape."""

    low0: str
    low1: str
    high0: str
    high1: str
    area: str

    def parts(self) -> tuple[str, str, str, str, str]:
        """The five values in order."""
        return self.low0, self.low1, self.high0, self.high1, self.area


@dataclass(frozen=True, slots=True)
class Geometry:
    """Boxes of any kind, as a round of suppression needs them.

    Attributes:
        columns: What a box is described by, float32, each [B, N, 1] if all groups use the same boxes, else
            [B, G * N, 1].
        suppresses: Writes which boxes one box overlaps too much, bool [B, G, N]. It is given the columns of the
            box taken in each group, [B, G, 1], and those of all boxes, [B, 1 or G, N].
        masked: The loop carries who is left as 1 and 0, and reads the scores afresh in every round, instead of
            carrying the scores. TensorRT-RTX 1.6 on an H200 strikes out everyone where `SMALLEST` is written into
            what the next round reads and the arithmetic of `suppresses` is long (docs/gpu.md). It is no rule for
            all boxes because it adds two steps over [B, G, N] to each round.
    """

    columns: Sequence[str]
    suppresses: Callable[[Body, Sequence[str], Sequence[str]], str]
    masked: bool = False


def corners(b: Body, boxes: str, spec: NmsSpec) -> Corners:
    """Corners and areas, each [..., 1], of boxes [..., 4], with the arithmetic of ONNX Runtime."""
    c0, c1, c2, c3 = b.split(boxes, -1, 4)
    if spec.center_point_box:
        half = b.scalar(2.0)
        w, h = b.div(c2, half), b.div(c3, half)
        low0, high0, low1, high1 = b.sub(c0, w), b.add(c0, w), b.sub(c1, h), b.add(c1, h)
    else:
        low0, high0 = b.minimum(c0, c2), b.maximum(c0, c2)
        low1, high1 = b.minimum(c1, c3), b.maximum(c1, c3)
    sides = [b.sub(high0, low0), b.sub(high1, low1)]
    if spec.in_pixels:
        sides = [b.add(side, b.scalar(1.0)) for side in sides]
    area = b.mul(*sides)
    return Corners(low0, low1, high0, high1, area)


def overlap(b: Body, one: Corners, two: Corners, spec: NmsSpec) -> str:
    """Whether the IoU of two (broadcast) sets of boxes exceeds (or reaches) the threshold; bool.

    ONNX Runtime answers no as soon as the intersection is empty or an area is not positive. Here a side
    of the intersection is clamped at 0, so that all of that is the one condition `intersection > 0`: an
    intersection with area lies in two boxes with area, and rounding keeps that order.
    """
    zero = b.scalar(0.0)
    side0 = b.sub(b.minimum(one.high0, two.high0), b.maximum(one.low0, two.low0))
    side1 = b.sub(b.minimum(one.high1, two.high1), b.maximum(one.low1, two.low1))
    if spec.pixels_overlap:
        pixel = b.scalar(1.0)
        meet = b.greater_equal(b.minimum(side0, side1), zero)
        common = b.where(meet, b.mul(b.add(side0, pixel), b.add(side1, pixel)), pixel)
    else:
        common = b.mul(b.maximum(side0, zero), b.maximum(side1, zero))
    union = b.sub(b.add(one.area, two.area), common)
    iou = b.div(common, union)
    limit = b.scalar(spec.iou_threshold)
    above = b.greater_equal(iou, limit) if spec.suppress_at_equal else b.greater(iou, limit)
    # Where nothing is common the quotient may be 0/0: the second condition decides.
    return b.logical_and(above, b.greater(common, zero))


def select_form(
    b: Body, spec: NmsSpec, boxes: str, scores: str, *, shared: bool, labels: str | None = None
) -> Selected:
    """`one_per_round` for upright boxes.

    Args:
        b: Where the nodes go.
        spec: What to compute; G groups of N candidates.
        boxes: [B, N, 4] if shared, else [B, G * N, 4].
        scores: [B, G, N]; candidates that do not take part are `SMALLEST`.
        shared: All groups use the same boxes.
        labels: [B, N or G * N, 1] float32: boxes of different labels do not suppress each other.
    """

    def suppresses(b: Body, one: Sequence[str], everyone: Sequence[str]) -> str:
        hit = overlap(b, Corners(*one[:5]), Corners(*everyone[:5]), spec)
        return hit if labels is None else b.logical_and(hit, b.equal(everyone[5], one[5]))

    columns = corners(b, boxes, spec).parts()
    geometry = Geometry(columns if labels is None else (*columns, labels), suppresses)
    return one_per_round(b, spec, geometry, scores, shared=shared)


def one_per_round(b: Body, spec: NmsSpec, geometry: Geometry, scores: str, *, shared: bool) -> Selected:
    """One round per detection: the best of every group is taken, and what it suppresses is struck out.

    All images and groups advance together; memory is a few times [B, G, N].

    Args:
        b: Where the nodes go.
        spec: What to compute; G groups of N candidates.
        geometry: The boxes.
        scores: [B, G, N]; candidates that do not take part are `SMALLEST`.
        shared: All groups use the same boxes.
    """
    groups, size, rounds = spec.groups, spec.group_size, spec.rounds
    columns, masked = geometry.columns, geometry.masked
    packed = b.concat(columns, 2)
    everyone = [b.reshape(v, 0, -1, size) for v in columns]  # [B, 1 or G, N]
    iota = b.const(np.arange(size).reshape(1, 1, size))
    beyond, dead = b.scalar(float(size)), b.scalar(SMALLEST)
    offset = None if shared or groups == 1 else b.const((np.arange(groups) * size).reshape(1, groups, 1))
    start, struck = scores, dead
    if masked:
        start, struck = b.cast(b.greater(scores, dead), np.float32), b.scalar(0.0)

    inner = b.nested()
    step, go, alive = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("alive")
    value = inner.where(inner.greater(alive, inner.scalar(0.5)), scores, dead) if masked else alive
    best = inner.reduce("ReduceMax", value, 2)
    winner = inner.reduce("ReduceMin", inner.where(inner.equal(value, best), iota, beyond), 2)
    row = winner if offset is None else inner.add(winner, offset)
    rows = inner.expand(inner.cast(row, np.int32), 1, 1, len(columns))
    one = inner.split(inner.gather_elements(packed, rows, 1), 2, len(columns))  # each [B, G, 1]
    gone = inner.logical_or(geometry.suppresses(inner, one, everyone), inner.equal(iota, winner))
    left = inner.where(gone, struck, alive)
    graph = inner.subgraph(
        "one_detection_per_group",
        [(step, np.int64), (go, np.bool_), (alive, np.float32)],
        [(inner.always(), np.bool_), (left, np.float32), (best, np.float32), (winner, np.float32)],
    )
    _, all_best, all_winners = b.loop(rounds, [start], graph, scans=2)  # [M, B, G, 1]
    turned = [b.reshape(b.transpose(v, 1, 2, 3, 0), 0, groups, rounds) for v in (all_best, all_winners)]
    return Selected(turned[0], turned[1])


def fixpoint_form(b: Body, spec: NmsSpec, boxes: str, scores: str, *, shared: bool) -> Selected:
    """All pairs at once: a box is kept if no kept box that outranks it overlaps it too much.

    That condition has exactly one solution, the greedy one, because "outranks" has no cycles. Iterated from
    "all are kept", round r settles every box whose chain of suppressors is shorter than r; the loop ends
    when nothing changes. Memory is a few times [B, G, N, N].

    Args:
        b: Where the nodes go.
        spec: What to compute; G groups of N candidates.
        boxes: [B, N, 4] if shared, else [B, G * N, 4].
        scores: [B, G, N]; candidates that do not take part are `SMALLEST`.
        shared: All groups use the same boxes.
    """
    size, rounds = spec.group_size, spec.rounds
    table = corners(b, boxes, spec)
    as_row = Corners(*(b.reshape(v, 0, -1, 1, size) for v in table.parts()))
    as_column = Corners(*(b.reshape(v, 0, -1, size, 1) for v in table.parts()))
    hit = overlap(b, as_column, as_row, spec)

    # Entry [j, i]: does i come before j in the order of selection?
    mine, other = b.unsqueeze(scores, 3), b.unsqueeze(scores, 2)
    iota = np.arange(size)
    earlier = b.less(b.const(iota.reshape(1, 1, 1, size)), b.const(iota.reshape(1, 1, size, 1)))
    outranks = b.logical_or(b.greater(other, mine), b.logical_and(b.equal(other, mine), earlier))
    suppresses = b.cast(b.logical_and(outranks, hit), np.float32)

    zero, half = b.scalar(0.0), b.scalar(0.5)
    # The carried vector is float, not bool: TensorRT multiplies it and needs no layer on booleans. The largest of
    # products, not their sum by MatMul: on an H200 a product with one column takes three times as long.
    taking_part = b.cast(b.greater(mine, b.scalar(SMALLEST)), np.float32)  # [B, G, N, 1]
    inner = b.nested()
    step, go, keep = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("keep")
    before, kept = "", keep
    for _ in range(STEPS):
        before = kept
        row = inner.reshape(before, 0, 0, 1, -1)
        struck = inner.reduce("ReduceMax", inner.mul(suppresses, row), 3)
        kept = inner.where(inner.greater(struck, half), zero, taking_part)
    moved = inner.reduce("ReduceMax", inner.op("Abs", inner.sub(kept, before)), 0, 1, 2, 3, keepdims=False)
    go_on = inner.greater(moved, half)
    graph = inner.subgraph(
        "until_nothing_changes",
        [(step, np.int64), (go, np.bool_), (keep, np.float32)],
        [(go_on, np.bool_), (kept, np.float32)],
    )
    # A chain of suppressions is at most N long, and one more step sees that nothing changes.
    (solution,) = b.loop(-(-(size + 1) // STEPS), [taking_part], graph, conditional=True)

    rank = b.reduce("ReduceSum", b.cast(outranks, np.float32), 3, keepdims=False)  # distinct in a group
    is_kept = b.greater(b.squeeze(solution, 3), half)
    key = b.where(is_kept, b.sub(b.scalar(float(size)), rank), zero)
    values, where = b.topk(key, rounds)
    found = b.gather_elements(scores, where, 2)
    valid = b.greater(values, half)
    return Selected(b.where(valid, found, b.scalar(SMALLEST)), b.cast(where, np.float32))


def best_only(b: Body, scores: str, size: int, count: int) -> str:
    """Scores [..., size] with all but the `count` best set to `SMALLEST`; the lowest index wins ties.

    TensorRT's TopK takes no K above 3840, so larger counts (up to twice that) take two of them: the
    second one looks among what the first one left.
    """
    if count >= size:
        return scores
    axis = 2
    first, _ = b.topk(scores, min(count, TOPK_LIMIT))
    limit = b.slice(first, axis, min(count, TOPK_LIMIT) - 1, min(count, TOPK_LIMIT))
    if count > TOPK_LIMIT:
        in_first = b.greater_equal(scores, limit)
        number = b.reduce("ReduceSum", b.cast(in_first, np.float32), axis)  # >= 3840, more with ties
        rest = b.where(in_first, b.scalar(SMALLEST), scores)
        second, _ = b.topk(rest, count - TOPK_LIMIT)
        position = b.sub(b.scalar(float(count - 1)), number)
        inside = b.cast(b.maximum(position, b.scalar(0.0)), np.int32)
        enough = b.less(position, b.scalar(0.0))
        limit = b.where(enough, limit, b.gather_elements(second, inside, axis))
    better, equal = b.greater(scores, limit), b.equal(scores, limit)
    missing = b.sub(b.scalar(float(count)), b.reduce("ReduceSum", b.cast(better, np.float32), axis))
    nth = b.op("CumSum", b.cast(equal, np.float32), b.const(axis, np.int64))
    taken = b.logical_or(better, b.logical_and(equal, b.logical_not(b.greater(nth, missing))))
    return b.where(taken, scores, b.scalar(SMALLEST))
