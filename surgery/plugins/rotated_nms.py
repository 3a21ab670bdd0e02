"""Suppression of rotated boxes (x, y, width, height, angle in radians) in plain ONNX operators.

The area common to two rectangles is summed up along its border (Green's theorem): the parts of one's edges
within the other, and the parts of the other's edges within the first. No points need sorting, so everything
is arithmetic on whole tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.nms_forms import Geometry, Selected, one_per_round

if TYPE_CHECKING:
    from surgery.plugins.nms_spec import NmsSpec

SLACK = 1.0e-6
"""Edges this close to a border, in parts of the boxes' sides, count as on it. What lies on both borders is
counted once: from the first box, whose border is inside, and not from the second."""

TINY = 1.0e-14
"""Boxes of a smaller area overlap everything, by the plugin's rule."""

PARALLEL = 1.0e-12
"""Edges that move less than this across a strip, in parts of the boxes' sides, are parallel to it."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """Boxes as five values of one shape, with what is used of the angle."""

    x: str
    y: str
    width: str
    height: str
    cos: str
    sin: str

    def parts(self) -> tuple[str, ...]:
        """All six in order."""
        return self.x, self.y, self.width, self.height, self.cos, self.sin


def rotated(b: Body, columns: Sequence[str]) -> Rotated:
    """From x, y, width, height and angle."""
    x, y, width, height, angle = columns
    return Rotated(x, y, width, height, b.op("Cos", angle), b.op("Sin", angle))


def exceeds(b: Body, one: Rotated, two: Rotated, threshold: float) -> str:
    """Whether the IoU of two (broadcast) sets of boxes is above the threshold, bool."""
    areas = [b.mul(r.width, r.height) for r in (one, two)]
    common = intersection(b, one, two)
    iou = b.div(common, b.sub(b.add(*areas), common))
    tiny = b.less(b.minimum(*areas), b.scalar(TINY))
    return b.greater(b.where(tiny, b.scalar(1.0), iou), b.scalar(threshold))


def intersection(b: Body, one: Rotated, two: Rotated) -> str:
    """Common area."""
    sides = b.add(b.add(one.width, one.height), b.add(two.width, two.height))
    slack = b.mul(sides, b.scalar(SLACK))
    still = b.mul(sides, b.scalar(PARALLEL))
    first = _border(b, one, two, slack, still, own_centre=False)
    second = _border(b, two, one, b.op("Neg", slack), still, own_centre=True)
    return b.maximum(b.add(first, second), b.scalar(0.0))


def _border(b: Body, box: Rotated, within: Rotated, slack: str, still: str, *, own_centre: bool) -> str:
    """Half the sum of start x end over the parts of `box`'s edges that are inside `within`.

    Both sums of an intersection refer to one origin, the centre of the second box: `own_centre` says that it
    is `box`'s.
    """
    half = b.scalar(0.5)
    # The frame of `within`: its centre is the origin, its sides are along the axes.
    dx, dy = b.sub(box.x, within.x), b.sub(box.y, within.y)
    x = b.add(b.mul(dx, within.cos), b.mul(dy, within.sin))
    y = b.sub(b.mul(dy, within.cos), b.mul(dx, within.sin))
    cos = b.add(b.mul(box.cos, within.cos), b.mul(box.sin, within.sin))
    sin = b.sub(b.mul(box.sin, within.cos), b.mul(box.cos, within.sin))
    arm_w, arm_h = b.mul(box.width, half), b.mul(box.height, half)
    wx, wy = b.mul(arm_w, cos), b.mul(arm_w, sin)
    hx, hy = b.mul(arm_h, b.op("Neg", sin)), b.mul(arm_h, cos)
    limit_x = b.add(b.mul(within.width, half), slack)
    limit_y = b.add(b.mul(within.height, half), slack)
    quarter = b.mul(b.mul(box.width, box.height), half)
    # Corners against the clock: (-w, -h), (w, -h), (w, h), (-w, h); each edge runs along w or along h.
    total = ""
    for sign_w, sign_h, along_w, forward in (
        (-1, -1, True, 1),
        (1, -1, False, 1),
        (1, 1, True, -1),
        (-1, 1, False, -1),
    ):
        start_x = _signed(b, _signed(b, x, wx, sign_w), hx, sign_h)
        start_y = _signed(b, _signed(b, y, wy, sign_w), hy, sign_h)
        length = b.scalar(2.0 * forward)
        edge_x, edge_y = (b.mul(v, length) for v in ((wx, wy) if along_w else (hx, hy)))
        part = _inside(b, (start_x, start_y), (edge_x, edge_y), (limit_x, limit_y), still)
        weight = quarter if own_centre else b.sub(b.mul(start_x, edge_y), b.mul(start_y, edge_x))
        piece = b.mul(part, weight)
        total = b.add(total, piece) if total else piece
    return b.mul(total, half)


def _signed(b: Body, a: str, c: str, sign: int) -> str:
    return b.add(a, c) if sign > 0 else b.sub(a, c)


def _inside(
    b: Body, start: tuple[str, str], edge: tuple[str, str], limits: tuple[str, str], still: str
) -> str:
    """Share of an edge that is within a rectangle around the origin, 0 to 1."""
    zero, one = b.scalar(0.0), b.scalar(1.0)
    low, high = zero, one
    for at, step, limit in zip(start, edge, limits, strict=True):
        parallel = b.less(b.op("Abs", step), still)
        safe = b.where(parallel, one, step)
        first = b.div(b.sub(b.op("Neg", limit), at), safe)
        second = b.div(b.sub(limit, at), safe)
        outside = b.greater(b.op("Abs", at), limit)
        enter = b.where(parallel, zero, b.minimum(first, second))
        leave = b.where(parallel, b.where(outside, b.scalar(-1.0), one), b.maximum(first, second))
        low, high = b.maximum(low, enter), b.minimum(high, leave)
    return b.maximum(b.sub(high, low), zero)


def select_rotated(b: Body, spec: NmsSpec, boxes: str, scores: str, *, shared: bool, angles: str) -> Selected:
    """`one_per_round` for rotated boxes.

    Args:
        b: Where the nodes go.
        spec: What to compute; G groups of N candidates.
        boxes: (x, y, width, height), [B, N, 4] if shared, else [B, G * N, 4].
        scores: [B, G, N]; candidates that do not take part are `SMALLEST`.
        shared: All groups use the same boxes.
        angles: [B, N, 1] or [B, G * N, 1].
    """

    def suppresses(b: Body, one: Sequence[str], everyone: Sequence[str]) -> str:
        return exceeds(b, Rotated(*one), Rotated(*everyone), spec.iou_threshold)

    columns = rotated(b, [*b.split(boxes, 2, 4), angles]).parts()
    return one_per_round(b, spec, Geometry(columns, suppresses, masked=True), scores, shared=shared)
