"""Suppression of a number of boxes that is not known before the run, where only the best of a class take part.

Exports for pictures of any size have as many boxes as the picture gives. The kernels that look at the best k of each
class bring that down to a number: what is suppressed is then a table of k candidates for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.nms_forms import best_only
from surgery.plugins.nms_spec import TOPK_LIMIT

FURTHEST = 2**24
"""Positions are carried as float32, exact below it."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best of each class, in the order of the boxes; names of values.

    Attributes:
        boxes: [B, K, C, width] float32.
        scores: [B, K, C] float32, `SMALLEST` where a class has no further candidate.
        index: [B, K, C] float32, rows of the boxes that were given.
        number: K.
    """

    boxes: str
    scores: str
    index: str
    number: int


def best_of_each_class(
    b: Body, node: ConfiguredNode, boxes: str, scores: str, *, count: int, classes: int, width: int = 4
) -> Candidates:
    """The `count` best candidates of each class; of equal scores at the limit, the first boxes.

    Args:
        b: Where the nodes go.
        node: For messages.
        boxes: [B, N, width], shared by all classes; N may be anything, even less than `count`.
        scores: [B, N, C].
        count: How many of each class, K.
        classes: C.
        width: Numbers of a box.

    Raises:
        ConversionError: the count is more than TensorRT's TopK takes.
    """
    if not 0 < count <= TOPK_LIMIT:
        raise node.refuse(
            f"the number of boxes is not known, and TopK takes no more than {TOPK_LIMIT} of a class, not {count}"
        )
    # Rows are added so that there are always enough for TopK; they are never taken.
    rows = b.ints(0, 0, 0, 0, count, 0)
    all_boxes = b.op("Pad", boxes, rows, b.scalar(0.0))
    all_scores = b.op("Pad", scores, rows, b.scalar(SMALLEST))
    by_class = best_only(b, b.transpose(all_scores, 0, 2, 1), FURTHEST, count)
    taken = b.cast(b.greater(by_class, b.scalar(SMALLEST)), np.float32)
    one = b.slice(b.slice(by_class, 0, 0, 1), 1, 0, 1)
    ones = b.add(b.cast(b.greater(one, one), np.float32), b.scalar(1.0))
    place = b.op("CumSum", ones, b.const(2, np.int64))
    # Keys are distinct among those that are taken and fall with the position, so TopK lists them in their order.
    key = b.mul(taken, b.sub(b.scalar(float(FURTHEST)), place))
    _, found = b.topk(key, count)
    found = b.reshape(found, 0, classes, count)  # says what inference does not see
    best = b.gather_elements(by_class, found, 2)
    flat = b.reshape(found, 0, classes * count, 1)
    picked = b.gather_elements(all_boxes, b.expand(flat, 1, 1, width), 1)
    return Candidates(
        boxes=b.transpose(b.reshape(picked, 0, classes, count, width), 0, 2, 1, 3),
        scores=b.transpose(best, 0, 2, 1),
        index=b.cast(b.transpose(found, 0, 2, 1), np.float32),
        number=count,
    )
