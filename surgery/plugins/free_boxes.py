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
class Pairs:
    """The best (box, class) pairs of an image, in the order of the scores in memory; names of values.

    Attributes:
        boxes: [B, K, 4] float32.
        scores: [B, K] float32, `SMALLEST` where there is no further pair.
        box: [B, K] float32, rows of the boxes that were given.
        label: [B, K] float32, columns of the scores.
        number: K.
    """

    boxes: str
    scores: str
    box: str
    label: str
    number: int


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


def best_of_an_image(b: Body, boxes: str, scores: str, *, count: int, classes: int, per_class: bool) -> Pairs:
    """The `count` best pairs of each image; of equal scores at the limit, the first in memory.

    Args:
        b: Where the nodes go.
        boxes: [B, N, 4], or [B, N, C, 4] with `per_class`; N may be anything.
        scores: [B, N, C], `SMALLEST` for what takes no part.
        count: How many, K; at most twice what TensorRT's TopK takes.
        classes: C.
        per_class: Whether every class has its own boxes.
    """
    rows = b.ints(0, 0, 0, 0, 0, count)
    every = b.op("Pad", b.reshape(scores, 0, 1, -1), rows, b.scalar(SMALLEST))
    best = best_only(b, every, FURTHEST, count)
    taken = b.cast(b.greater(best, b.scalar(SMALLEST)), np.float32)
    one = b.slice(best, 0, 0, 1)
    ones = b.add(b.cast(b.greater(one, one), np.float32), b.scalar(1.0))
    place = b.op("CumSum", ones, b.const(2, np.int64))
    key = b.mul(taken, b.sub(b.scalar(float(FURTHEST)), place))
    first = min(count, TOPK_LIMIT)
    keys, found = b.topk(key, first)
    listed, values = [found], [b.gather_elements(best, found, 2)]
    if count > first:
        # What the first list has is struck out of the second one, its scores included: nothing comes twice.
        inside = b.greater_equal(key, b.slice(keys, 2, first - 1, first))
        _, more = b.topk(b.where(inside, b.scalar(0.0), key), count - first)
        left = b.where(inside, b.scalar(SMALLEST), best)
        listed.append(more)
        values.append(b.gather_elements(left, more, 2))
    value = b.reshape(b.concat(values, 2), 0, count)
    pair = b.reshape(b.concat(listed, 2), 0, count)
    pair = b.where(b.greater(value, b.scalar(SMALLEST)), pair, b.const(0, np.int64))
    box = b.div(pair, b.const(classes, np.int64))
    label = b.sub(pair, b.mul(box, b.const(classes, np.int64)))
    source = b.reshape(boxes, 0, -1, 4) if per_class else boxes
    picked = b.gather_elements(source, b.expand(b.unsqueeze(pair if per_class else box, 2), 1, 1, 4), 1)
    return Pairs(picked, value, b.cast(box, np.float32), b.cast(label, np.float32), count)
