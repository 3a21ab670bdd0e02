"""NonMaxSuppression in plain operators: exact, for numbers of boxes that are known or free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.nms_forms import Corners, corners, fixpoint_form, select_form
from surgery.plugins.nms_spec import TOPK_LIMIT, NmsSpec, choose_form
from surgery.rules.data_dependent import Length, compacted
from surgery.rules.engine.rule import Bounded, NoMatch, Sample, lowering
from surgery.rules.engine.site import Operand, Site
from surgery.rules.sizes import count_up, dims_tensor

MOST_ROUNDS = 1024
"""Rounds up to which every detection gets a round, needed or not. Above it the loop ends with the last detection."""


@dataclass(frozen=True)
class Problem:
    """One NonMaxSuppression.

    Attributes:
        boxes: [B, N, 4].
        scores: [B, C, N].
        most: Most detections of a class, if that is a number; it is at least 1.
        threshold: The IoU threshold, if that is a number.
        center: Boxes are (x centre, y centre, width, height).
    """

    boxes: Operand
    scores: Operand
    most: int | None
    threshold: float | None
    center: bool

    @property
    def count(self) -> int | None:
        """N, if it is a number."""
        return _number((*(self.boxes.shape or ())[1:2], *(self.scores.shape or ())[2:3]))

    @property
    def classes(self) -> int | None:
        """C, if it is a number."""
        return _number((self.scores.shape or ())[1:2])

    @property
    def slots(self) -> int | None:
        """M, room for the detections of a class, if it is a number; else it is the number of boxes."""
        known = [n for n in (self.most, self.count) if n is not None]
        if self.count is None and self.most is not None and self.most > TOPK_LIMIT:
            return None  # "all of them", by a large number
        return min(known) if known else None

    def spec(self) -> NmsSpec | None:
        """What the forms of fixed size need to know; None if some of it is known at run time only."""
        if self.count is None or self.classes is None or self.slots is None or self.threshold is None:
            return None
        try:
            return NmsSpec(
                self.count, self.classes, self.slots * self.classes, self.slots, self.threshold, 0.0,
                center_point_box=self.center,
            )  # fmt: skip
        except ValueError:
            return None


def _number(dims: tuple[object, ...]) -> int | None:
    return next((d for d in dims if isinstance(d, int)), None)


@lowering(
    "nonmaxsuppression-native",
    "NonMaxSuppression",
    why="TensorRT-RTX has no NonMaxSuppression. Exact greedy suppression in plain operators; the output is padded.",
    samples=[
        Sample(
            "(float[2, 12, 4] x, float[2, 3, 12] s) => (int64[k, 3] y)"
            " <int64 m = {4}, float iou = {0.3}, float t = {0.2}> { y = NonMaxSuppression (x, s, m, iou, t) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0)},
        ),
        Sample(
            "(float[n, 9, 4] x, float[n, 2, 9] s, int64[1] m, float[1] iou, float[1] t) => (int64[k, 3] y)"
            " { y = NonMaxSuppression <center_point_box = 1> (x, s, m, iou, t) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0), "m": (1, 9), "iou": (0.1, 0.5), "t": (0.1, 0.5)},
        ),
        Sample(
            "(float[1, 7, 4] x, float[1, 2, 7] s) => (int64[k, 3] y)"
            " <int64[1] m = {99}> { y = NonMaxSuppression (x, s, m) }",
            feeds={"x": (0.0, 1.0), "s": (-2.0, 2.0)},
        ),
        Sample(
            "(float[1, 7, 4] x, float[1, 2, 7] s, int64 m) => (int64[k, 3] y)"
            " <float iou = {0.5}> { y = NonMaxSuppression (x, s, m, iou) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0), "m": 3},
        ),
        Sample(
            "(float[2, n, 4] x, float[2, 3, n] s) => (int64[k, 3] y)"
            " <int64 m = {4}, float iou = {0.3}, float t = {0.2}> { y = NonMaxSuppression (x, s, m, iou, t) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0)},
        ),
        Sample(
            "(float[b, n, 4] x, float[b, c, n] s) => (int64[k, 3] y)"
            " <int64[1] m = {9223372036854775807}, float[1] iou = {0.2}> { y = NonMaxSuppression (x, s, m, iou) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0)},
        ),
        Sample(
            "(float[1, n, 4] x, float[1, 1, n] s, int64[1] m, float iou) => (int64[k, 3] y)"
            " { y = NonMaxSuppression <center_point_box = 1> (x, s, m, iou) }",
            feeds={"x": (0.0, 1.0), "s": (0.0, 1.0), "m": (1, 9), "iou": (0.1, 0.5)},
        ),
    ],
    near_misses=["(float[1, 7, 4] x, float[1, 2, 7] s) => (int64[k, 3] y) { y = NonMaxSuppression (x, s) }"],
)  # fmt: skip
def non_max_suppression(site: Site, b: Body) -> Bounded:
    """Boxes per class in order of selection; what is not selected is taken out by prefix sums."""
    most = site.input(2).value if site.has(2) else np.zeros(1)
    iou = site.input(3).value if site.has(3) else np.zeros(1)
    problem = Problem(
        site.input(0), site.input(1),
        None if most is None else int(most.reshape(-1)[0]),
        None if iou is None else float(iou.reshape(-1)[0]),
        bool(site.attr("center_point_box", 0)),
    )  # fmt: skip
    if any(d == 0 for d in (problem.most, problem.count, problem.classes)) or (problem.most or 1) < 0:
        raise NoMatch("nothing can be selected")
    if problem.threshold is not None and not 0.0 <= problem.threshold <= 1.0:
        raise NoMatch(f"an IoU threshold of {problem.threshold}")
    candidates = site.x(1)
    if site.has(4):
        passes = b.greater(candidates, b.reshape(site.x(4), 1, 1, 1))
        candidates = b.where(passes, candidates, b.scalar(SMALLEST))
    wanted = b.reshape(site.x(2), -1) if most is None else ""
    valid, positions = _selected(b, problem, candidates, site.x(3) if site.has(3) else "", wanted)
    if wanted:
        valid = b.logical_and(valid, b.less(_slots(b, problem), wanted))
    return _listed(b, problem, valid, positions)


def _selected(b: Body, problem: Problem, candidates: str, threshold: str, wanted: str) -> tuple[str, str]:
    """Whether each slot [B, C, M] is taken, and by which box; it may be more than what is wanted."""
    spec = problem.spec()
    if spec is not None:
        images = (problem.boxes.shape or (None,))[0]
        form = choose_form(spec, images if isinstance(images, int) else None)
        if form == "fixpoint" or spec.rounds <= MOST_ROUNDS:
            write = fixpoint_form if form == "fixpoint" else select_form
            found = write(b, spec, problem.boxes.name, candidates, shared=True)
            return b.greater(found.scores, b.scalar(SMALLEST)), found.positions
    limit = b.scalar(problem.threshold) if problem.threshold is not None else b.reshape(threshold, 1, 1, 1)
    return _until_none_left(b, problem, candidates, limit, wanted)


def _slots(b: Body, problem: Problem) -> str:
    """0, 1, ... below M; int64 [M] or [1, 1, M]."""
    if problem.slots is not None:
        return b.const(np.arange(problem.slots), np.int64)
    return count_up(b, _boxes(b, problem))


def _boxes(b: Body, problem: Problem) -> str:
    """N as int64 [1]."""
    return dims_tensor(b, problem.scores, 2, 3)


def _listed(b: Body, problem: Problem, valid: str, positions: str) -> Bounded:
    """Rows (image, class, box) of what is valid in [B, C, M]."""
    shape = b.op("Shape", positions)
    image = b.reshape(count_up(b, dims_tensor(b, problem.boxes, 0, 1)), -1, 1, 1)
    kind = b.reshape(count_up(b, dims_tensor(b, problem.scores, 1, 2)), 1, -1, 1)
    columns = [b.op("Expand", image, shape), b.op("Expand", kind, shape), b.cast(positions, np.int64)]
    rows = b.concat([b.reshape(c, -1, 1) for c in columns], 1)
    flat = b.reshape(valid, -1)
    images = (problem.boxes.shape or (None,))[0]
    kept = compacted(b, flat, Length.of(b, flat, (images, problem.classes, problem.slots)))
    return Bounded(b.gather(rows, kept.order, 0), 0, kept.count)


def _until_none_left(b: Body, problem: Problem, scores: str, threshold: str, wanted: str) -> tuple[str, str]:
    """One round per detection, all images and classes at once, as long as one of them has a candidate left.

    What is carried does not depend on how many rounds there are: the candidates that are left, and a table with a
    slot for the detection of each round.

    Args:
        b: Where the nodes go.
        problem: What to compute.
        scores: [B, C, N]; candidates that do not take part are `SMALLEST`.
        threshold: IoU above which a box is suppressed; float of rank 0 or [1, 1, 1].
        wanted: Most detections of a class, int64 [1]; "" if that is no tensor.

    Returns:
        Whether each slot [B, C, M] is taken, and by which box (int32).
    """
    spec = NmsSpec(
        1, 1, 1, 1, 0.0, 0.0, center_point_box=problem.center
    )  # of a pair of boxes; sizes are free
    table = corners(b, problem.boxes.name, spec)  # each [B, N, 1]
    packed = b.concat(table.parts(), 2)
    everyone = Corners(*(b.transpose(v, 0, 2, 1) for v in table.parts()))
    size = _boxes(b, problem)
    iota = b.reshape(b.cast(count_up(b, size), np.int32), 1, 1, -1)
    beyond = b.reshape(b.cast(size, np.int32), 1, 1, 1)
    slots = size if problem.slots is None else b.ints(problem.slots)
    room = b.concat([b.slice(b.op("Shape", scores), 0, 0, 2), slots], 0)
    places = b.reshape(count_up(b, slots), 1, 1, -1)
    dead = b.scalar(SMALLEST)

    inner = b.nested()
    step, go, alive = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("alive")
    before = inner.fresh("found")
    best = inner.reduce("ReduceMax", alive, 2)  # [B, C, 1]
    winner = inner.reduce("ReduceMin", inner.where(inner.equal(alive, best), iota, beyond), 2)
    rows = inner.expand(winner, 1, 1, 5)
    chosen = Corners(*inner.split(inner.gather_elements(packed, rows, 1), 2, 5))  # each [B, C, 1]
    gone = inner.logical_or(_exceeds(inner, chosen, everyone, threshold), inner.equal(iota, winner))
    left = inner.where(gone, dead, alive)
    here = inner.logical_and(inner.equal(places, step), inner.greater(best, dead))
    after = inner.where(here, winner, before)
    go_on = inner.greater(inner.reduce("ReduceMax", left, 0, 1, 2, keepdims=False), dead)
    if wanted:
        following = inner.add(step, b.const(1, np.int64))
        go_on = inner.logical_and(go_on, inner.less(following, b.squeeze(wanted, 0)))
    graph = inner.subgraph(
        "one_detection_per_class_while_any_is_left",
        [(step, np.int64), (go, np.bool_), (alive, np.float32), (before, np.int32)],
        [(go_on, np.bool_), (left, np.float32), (after, np.int32)],
    )
    trips = b.squeeze(size, 0) if problem.slots is None else b.const(problem.slots, np.int64)
    nothing = b.op("Expand", b.const(-1, np.int32), room)
    carried = [trips, b.const(True, np.bool_), scores, nothing]
    _, found = b.node("Loop", carried, outputs=2, attributes={"body": graph})
    valid = b.less(b.const(-1, np.int32), found)
    return valid, b.where(valid, found, b.const(0, np.int32))


def _exceeds(b: Body, one: Corners, two: Corners, threshold: str) -> str:
    """Whether the IoU of two sets of boxes exceeds the threshold; nothing does where nothing is common."""
    zero = b.scalar(0.0)
    side0 = b.maximum(b.sub(b.minimum(one.high0, two.high0), b.maximum(one.low0, two.low0)), zero)
    side1 = b.maximum(b.sub(b.minimum(one.high1, two.high1), b.maximum(one.low1, two.low1)), zero)
    common = b.mul(side0, side1)
    iou = b.div(common, b.sub(b.add(one.area, two.area), common))
    return b.logical_and(b.greater(iou, threshold), b.greater(common, zero))
