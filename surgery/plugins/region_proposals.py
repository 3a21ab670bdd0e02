"""Region proposals and final detections of two-stage detectors: decoding, ranking and suppression.

Source: plugin/common/kernels/maskRCNNKernels.cu, proposalsForward.cu, bboxDeltas2Proposals.cu, nmsLayer.cu and
generateAnchors.cu of NVIDIA/TensorRT, release/10.13.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.native_nms import NmsOutputs, NmsSpec, best_first, choose_form, emit_nms
from surgery.plugins.nms_spec import TOPK_LIMIT

LOWEST_WRITTEN = 0.01
"""Score that a row has to exceed to be written by the Mask R-CNN kernels."""

LABEL_SHIFT = 2.5
SCORE_SHIFT = 1.0
"""The kernels sort by ``LABEL_SHIFT * (classes - label - 1) + score + SCORE_SHIFT`` in float32 and read the score
back from that number."""

LOG_LIMIT = math.log(1000.0 / 16.0)
"""Largest logarithm of a size factor, where boxes are in pixels."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes [B, number, 4] and scores [B, number]; `best` of them take part, all if None."""

    boxes: str
    scores: str
    number: int
    best: int | None = None


def decode_normalised(b: Body, anchors: str, deltas: str) -> str:
    """Boxes (y1, x1, y2, x2) in 0..1 from anchors of that kind and deltas (dy, dx, log dh, log dw)."""
    y1, x1, y2, x2 = b.split(anchors, -1, 4)
    deltas = b.mul(deltas, b.floats(0.1, 0.1, 0.2, 0.2))
    dy, dx, log_h, log_w = b.split(deltas, -1, 4)
    half, ends = b.scalar(0.5), []
    for low, high, shift, log in ((y1, y2, dy, log_h), (x1, x2, dx, log_w)):
        middle, extent = b.mul(b.add(low, high), half), b.sub(high, low)
        middle = b.add(middle, b.mul(shift, extent))
        extent = b.mul(extent, b.op("Exp", log))
        start = b.sub(middle, b.mul(half, extent))
        ends.append((start, b.add(start, extent)))
    (top, bottom), (left, right) = ends
    corners = b.concat([top, left, bottom, right], -1)
    return b.minimum(b.maximum(corners, b.scalar(0.0)), b.scalar(1.0))


def decode_pixels(
    b: Body, anchors: str, deltas: str, weights: Sequence[float], height: int, width: int
) -> str:
    """Boxes (y1, x1, y2, x2) in pixels, last pixel included, clamped to the image."""
    y1, x1, y2, x2 = b.split(anchors, -1, 4)
    dy, dx, log_h, log_w = b.split(b.div(deltas, b.floats(*weights)), -1, 4)
    half, one, limit = b.scalar(0.5), b.scalar(1.0), b.scalar(LOG_LIMIT)
    ends = []
    for low, high, shift, log, size in ((y1, y2, dy, log_h, height), (x1, x2, dx, log_w, width)):
        extent = b.add(b.sub(high, low), one)
        middle = b.add(low, b.mul(extent, half))
        middle = b.add(middle, b.mul(shift, extent))
        extent = b.mul(b.op("Exp", b.minimum(log, limit)), extent)
        start = b.sub(middle, b.mul(half, extent))
        last = b.scalar(size - 1.0)
        both = (start, b.sub(b.add(start, extent), one))
        ends.append([b.maximum(b.minimum(v, last), b.scalar(0.0)) for v in both])
    return b.concat([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], -1)


def best_candidates(b: Body, boxes: str, scores: str, number: int, count: int) -> Candidates:
    """The `count` best of boxes [B, number, 4], in the order of their scores where that is cheap."""
    if count >= number:
        return Candidates(boxes, scores, number)
    if count > TOPK_LIMIT:  # more than a TopK of TensorRT takes: the suppression drops the others
        return Candidates(boxes, scores, number, count)
    order = best_first(b, scores, b.const(np.arange(number).reshape(1, -1)), number, count)
    at = b.cast(order, np.int32)
    rows = b.expand(b.unsqueeze(at, 2), 1, 1, 4)
    return Candidates(b.gather_elements(boxes, rows, 1), b.gather_elements(scores, at, 1), count)


def sorted_score(b: Body, scores: str, label: str | None = None, classes: int = 1) -> str:
    """Scores as they come back from the number that the Mask R-CNN kernels sort by."""
    key = scores
    if label is not None:
        place = b.sub(b.scalar(classes - 1.0), label)
        key = b.add(b.mul(place, b.scalar(LABEL_SHIFT)), scores)
    key = b.add(key, b.scalar(SCORE_SHIFT))
    whole = b.op("Floor", b.div(key, b.scalar(LABEL_SHIFT)))
    back = b.sub(b.sub(key, b.mul(whole, b.scalar(LABEL_SHIFT))), b.scalar(SCORE_SHIFT))
    return b.minimum(b.maximum(back, b.scalar(0.0)), b.scalar(1.0))


def without_inverted(b: Body, boxes: str) -> str:
    """Boxes [..., 4] in which those whose ends are swapped are points: the kernels' IoU is 0 for them."""
    c0, c1, c2, c3 = b.split(boxes, -1, 4)
    inverted = b.logical_or(b.greater(c0, c2), b.greater(c1, c3))
    return b.where(inverted, b.scalar(0.0), boxes)


def suppress(
    b: Body,
    node: ConfiguredNode,
    candidates: Candidates,
    *,
    rows: int,
    iou_threshold: float,
    score_threshold: float,
    at_equal: bool = False,
) -> NmsOutputs:
    """The best `rows` boxes of one class that no better one overlaps by more than the threshold.

    Args:
        b: Where the nodes go.
        node: For messages and the batch.
        candidates: Boxes as corners.
        rows: Rows of the result.
        iou_threshold: IoU above which the lower-ranked box goes.
        score_threshold: What a score has to exceed.
        at_equal: It may also be equal to it.
    """
    try:
        spec = NmsSpec(
            num_boxes=candidates.number,
            num_classes=1,
            max_total=rows,
            max_per_class=rows,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            keep_at_equal=at_equal,
            candidates_per_class=candidates.best,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    scores = b.unsqueeze(candidates.scores, 2)
    return emit_nms(b, spec, candidates.boxes, scores, form=choose_form(spec, node.batch(0)))


def picked(b: Body, source: str, found: NmsOutputs, rows: int, width: int = 4) -> str:
    """Rows [B, rows, width] of a source [B, N, width] for what was found; 0 beyond the count."""
    index = b.expand(b.unsqueeze(found.indices, 2), 1, 1, width)
    valid = b.less(b.const(np.arange(rows).reshape(1, rows, 1)), b.unsqueeze(count_of(b, found), 2))
    return b.where(valid, b.gather_elements(source, index, 1), b.scalar(0.0))


def count_of(b: Body, found: NmsOutputs) -> str:
    """Number of rows of each image that count, [B, 1] float32."""
    return b.unsqueeze(b.cast(found.count, np.float32), 1)


def emit_detections(b: Body, node: ConfiguredNode, refine: str, first_class: int) -> str:
    """Rows (y1, x1, y2, x2, label, score) of DetectionLayer and GenerateDetection, [B, keep_topk, 6].

    Each box has the class of its highest score from `first_class` on; class 0 is the background and never
    written.

    Args:
        b: Where the nodes go.
        node: Inputs scores at 1; attributes num_classes, keep_topk and the thresholds.
        refine: Boxes [B, R, classes, 4] refined for every class.
        first_class: 1 leaves the background out of the choice.
    """
    a = node.attributes
    number, classes, rows = node.static(1, 1), a["num_classes"], a["keep_topk"]
    scores = b.reshape(node.input_names[1], 0, number, classes)
    considered = b.slice(scores, 2, first_class, classes) if first_class else scores
    best = b.reduce("ReduceMax", considered, 2)
    iota = b.const(np.arange(first_class, classes).reshape(1, 1, -1))
    label = b.reduce("ReduceMin", b.where(b.equal(considered, best), iota, b.scalar(float(classes))), 2)
    at = b.expand(b.unsqueeze(b.cast(label, np.int32), 3), 1, 1, 1, 4)
    boxes = b.reshape(b.gather_elements(refine, at, 2), 0, number, 4)

    passes = b.greater_equal(best, b.scalar(a["score_threshold"]))
    ranked = b.where(passes, sorted_score(b, best, label, classes), b.scalar(0.0))
    own = b.equal(b.const(np.arange(classes).reshape(1, 1, -1)), label)
    try:
        spec = NmsSpec(
            num_boxes=number,
            num_classes=classes,
            max_total=rows,
            max_per_class=rows,
            iou_threshold=a["iou_threshold"],
            score_threshold=LOWEST_WRITTEN,
            background_class=0,
            pad_class=-1,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    by_class = b.where(own, ranked, b.scalar(SMALLEST))
    form = choose_form(spec, node.batch(1))
    found = emit_nms(b, spec, without_inverted(b, boxes), by_class, form=form)
    columns = [picked(b, boxes, found, rows), *(b.unsqueeze(v, 2) for v in _label_and_score(b, found))]
    return b.concat(columns, 2)


def _label_and_score(b: Body, found: NmsOutputs) -> tuple[str, str]:
    return b.cast(found.classes, np.float32), found.scores


def class_problems(a: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems of the inputs of DetectionLayer and GenerateDetection with num_classes."""
    problems = []
    for given, name, each in zip(types, ("delta_bbox", "score"), (4, 1), strict=False):
        have = None if given is None or given.shape is None else given.shape[2]
        if isinstance(have, int) and have != a["num_classes"] * each:
            problems.append(f"{name} has {have} values for each box; expected {a['num_classes'] * each}")
    return problems
