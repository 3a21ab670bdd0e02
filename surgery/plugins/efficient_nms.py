"""The bodies of the EfficientNMS family, shared by its plugin folders.

Source: plugin/efficientNMSPlugin of NVIDIA/TensorRT, release/10.16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.free_boxes import best_of_an_image
from surgery.plugins.native_nms import NmsOutputs, NmsSpec, choose_form, emit_nms
from surgery.plugins.nms_forms import select_form
from surgery.plugins.roi_sampling import numbers

CANDIDATES = 5000
"""Candidates of an image that the kernel looks at on GPUs with 65536 registers a block; else 2000."""

REJECTED = -32768.0
"""Score that the dense filter writes over rejected entries, which then stay candidates."""

DENSE_BELOW = 0.007
"""Score threshold below which the kernel uses the dense filter."""


@dataclass(frozen=True, slots=True)
class EfficientNms:
    """Parameters of the kernel under its own names, as far as the bodies use them."""

    score_threshold: float
    iou_threshold: float
    output_boxes: int
    background_class: int = -1
    score_activation: bool = False
    box_coding: int = 0
    class_agnostic: bool = False
    output_boxes_per_class: int = -1
    clip_boxes: bool = False

    def threshold(self) -> float:
        """The threshold on the raw scores: its inverse sigmoid where the kernel applies the sigmoid."""
        if not self.score_activation:
            return self.score_threshold
        return logit(self.score_threshold) if self.score_threshold > 0 else REJECTED

    @property
    def dense(self) -> bool:
        """Whether the kernel uses the dense filter, which does not drop rejected entries."""
        return self.threshold() < (logit(DENSE_BELOW) if self.score_activation else DENSE_BELOW)


def logit(p: float) -> float:
    """Inverse of the sigmoid."""
    return math.log(p / (1.0 - p))


def emit(b: Body, node: ConfiguredNode, p: EfficientNms) -> tuple[str, str, str, str]:
    """num_detections [B, 1], boxes [B, K, 4], scores [B, K] and classes [B, K] of a node of the family."""
    r = emit_selection(b, node, p)
    count = b.unsqueeze(r.count, 1)
    found = r.scores
    if p.score_activation:
        row = b.const(np.arange(p.output_boxes).reshape(1, -1))
        written = b.less(row, b.cast(count, np.float32))
        found = b.where(written, b.op("Sigmoid", r.scores), b.scalar(0.0))
    return count, r.boxes, found, r.classes


def problems_of_tf(attributes: Mapping[str, Any]) -> list[str]:
    """Problems of a node of one of the two TF variants."""
    if attributes["max_output_size_per_class"] == 0:
        return ["max_output_size_per_class is 0, so that nothing would ever be written"]
    return []


def _rows_of_tf(node: ConfiguredNode) -> int:
    a = node.attributes
    per_class: int = a["max_output_size_per_class"]
    total: int = a["max_total_size"]
    return min(total, per_class * node.static(1, 2)) if a["pad_per_class"] and per_class > 0 else total


def types_of_tf(node: ConfiguredNode, *counts: int) -> list[TensorType]:
    """Types of the four outputs of a TF variant; `counts` are the dims of num_detections behind the batch."""
    scores = node.inputs[1]
    batch = scores.shape[0] if scores is not None and scores.shape else None
    k = _rows_of_tf(node)
    types = [
        TensorType("int32", (batch, *counts)),
        TensorType("float32", (batch, k, 4)),
        TensorType("float32", (batch, k)),
        TensorType("int32", (batch, k)),
    ]
    return types[: node.outputs]


def emit_tf(b: Body, node: ConfiguredNode) -> tuple[str, str, str, str]:
    """What :func:`emit` gives, of a node of a TF variant."""
    a = node.attributes
    parameters = EfficientNms(
        score_threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        output_boxes=_rows_of_tf(node),
        output_boxes_per_class=a["max_output_size_per_class"],
        clip_boxes=bool(a["clip_boxes"]),
    )
    return emit(b, node, parameters)


def emit_indices(b: Body, node: ConfiguredNode, p: EfficientNms) -> str:
    """Rows (image, class, box) of all images one after the other, int32 [B * K, 3].

    Rows that are left over repeat the last detection; without any detection all of them are -1.
    """
    k = p.output_boxes
    r = emit_selection(b, node, p)
    images = b.cast(numbers(b, r.count), np.float32)  # [B]
    count = b.cast(r.count, np.float32)
    end = b.op("CumSum", count, b.const(0, np.int64))
    total = b.reduce("ReduceMax", end, 0)  # [1]
    every = b.cast(b.reshape(r.classes, -1), np.float32)  # [B * K]
    row = b.cast(numbers(b, every), np.float32)
    last = b.maximum(b.sub(total, b.scalar(1.0)), b.scalar(0.0))
    row = b.minimum(row, last)
    # The image of a row: as many images as end at it or before.
    ended = b.cast(b.greater_equal(b.unsqueeze(row, 1), b.unsqueeze(end, 0)), np.float32)
    image = b.reduce("ReduceSum", ended, 1, keepdims=False)
    most = b.reduce("ReduceMax", images, 0)
    image = b.minimum(image, most)
    start = b.gather(b.sub(end, count), b.cast(image, np.int64), axis=0)
    place = b.cast(b.add(b.mul(image, b.scalar(float(k))), b.sub(row, start)), np.int64)
    box = b.cast(b.reshape(r.indices, -1), np.float32)
    columns = [image, b.gather(every, place, axis=0), b.gather(box, place, axis=0)]
    rows = b.concat([b.unsqueeze(c, 1) for c in columns], 1)
    some = b.greater(total, b.scalar(0.0))
    return b.cast(b.where(some, rows, b.scalar(-1.0)), np.int32)


def emit_selection(b: Body, node: ConfiguredNode, p: EfficientNms) -> NmsOutputs:
    """What the kernel selects, with the scores as they were compared (before a sigmoid)."""
    boxes_type = node.inputs[0]
    shape = () if boxes_type is None or boxes_type.shape is None else boxes_type.shape
    per_class = len(shape) == 4 and node.static(0, 2) != 1
    given = node.inputs[1]
    free = given is not None and given.shape is not None and not isinstance(given.shape[1], int)
    if free and 0 <= p.output_boxes_per_class < p.output_boxes:
        raise node.refuse("the number of boxes is not known, and there is a limit for each class")
    number, classes = -1 if free else node.static(1, 1), node.static(1, 2)
    names = node.input_names
    scores = b.reshape(names[1], 0, number, classes)  # a trailing 1 is allowed
    boxes = b.reshape(names[0], 0, number, classes, 4) if per_class else b.reshape(names[0], 0, number, 4)
    boxes = _corners(b, p, boxes, names[2] if len(names) > 2 else None, per_class)

    threshold, background = p.threshold(), p.background_class
    if p.dense:
        # What the filter rejects is not dropped but sorted to the back with this score.
        passes = b.greater_equal(scores, b.scalar(threshold))
        if 0 <= background < classes:
            wanted = np.arange(classes).reshape(1, 1, classes) != background
            passes = b.logical_and(passes, b.const(wanted, np.bool_))
        scores = b.where(passes, scores, b.scalar(REJECTED))
        threshold, background = -3.0e38, -1
    if free:
        return _of_pairs(b, node, p, boxes, scores, per_class, threshold, background)
    k = p.output_boxes
    try:
        spec = NmsSpec(
            num_boxes=number,
            num_classes=classes,
            max_total=k,
            max_per_class=k if p.output_boxes_per_class < 0 else p.output_boxes_per_class,
            iou_threshold=p.iou_threshold,
            score_threshold=threshold,
            shared_boxes=not per_class,
            class_agnostic=p.class_agnostic,
            suppress_at_equal=True,
            keep_at_equal=True,
            background_class=background,
            candidates_per_image=CANDIDATES,
            clip_window=(0.0, 0.0, 1.0, 1.0) if p.clip_boxes else None,
            box_major_ties=True,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    return emit_nms(b, spec, boxes, scores, form=choose_form(spec, node.batch(1)))


def _of_pairs(
    b: Body,
    node: ConfiguredNode,
    p: EfficientNms,
    boxes: str,
    scores: str,
    per_class: bool,
    threshold: float,
    background: int,
) -> NmsOutputs:
    """The same for a number of boxes that is not known: one list of the candidates of all classes."""
    classes, k = node.static(1, 2), p.output_boxes
    if 0 <= background < classes:
        wanted = b.const(np.arange(classes).reshape(1, 1, classes) != background, np.bool_)
        scores = b.where(wanted, scores, b.scalar(SMALLEST))
    pairs = best_of_an_image(b, boxes, scores, count=CANDIDATES, classes=classes, per_class=per_class)
    spec = NmsSpec(
        num_boxes=pairs.number,
        num_classes=1,
        max_total=k,
        max_per_class=k,
        iou_threshold=p.iou_threshold,
        score_threshold=threshold,
        suppress_at_equal=True,
        keep_at_equal=True,
        clip_window=(0.0, 0.0, 1.0, 1.0) if p.clip_boxes else None,
    )
    select = None if p.class_agnostic else partial(select_form, labels=b.unsqueeze(pairs.label, 2))
    found = emit_nms(b, spec, pairs.boxes, b.unsqueeze(pairs.scores, 2), form="select", select=select)
    row = b.const(np.arange(k, dtype=np.float32).reshape(1, -1))
    valid = b.less(row, b.unsqueeze(b.cast(found.count, np.float32), 1))

    def listed(values: str) -> str:
        return b.cast(b.where(valid, b.gather_elements(values, found.indices, 1), b.scalar(0.0)), np.int32)

    return replace(found, classes=listed(pairs.label), indices=listed(pairs.box))


def _corners(b: Body, p: EfficientNms, boxes: str, anchors: str | None, per_class: bool) -> str:
    """Boxes as corners, decoded against the anchors where there are any."""
    if anchors is not None:
        if per_class:
            anchors = b.unsqueeze(anchors, 2)
        boxes = _add_anchors(b, boxes, anchors) if p.box_coding == 0 else _scale_anchors(b, boxes, anchors)
    if p.box_coding == 0:
        return boxes
    y, x, h, w = b.split(boxes, -1, 4)
    half = b.scalar(0.5)
    half_h, half_w = b.mul(h, half), b.mul(w, half)
    return b.concat([b.sub(y, half_h), b.sub(x, half_w), b.add(y, half_h), b.add(x, half_w)], -1)


def _add_anchors(b: Body, boxes: str, anchors: str) -> str:
    """Corner coding: both are sorted into (low, high) corners and added."""
    ordered = []
    for value in (boxes, anchors):
        c0, c1, c2, c3 = b.split(value, -1, 4)
        low, high = (b.minimum(c0, c2), b.minimum(c1, c3)), (b.maximum(c0, c2), b.maximum(c1, c3))
        ordered.append(b.concat([*low, *high], -1))
    return b.add(*ordered)


def _scale_anchors(b: Body, boxes: str, anchors: str) -> str:
    """Centre and size coding, without variances."""
    y, x, h, w = b.split(boxes, -1, 4)
    ya, xa, ha, wa = b.split(anchors, -1, 4)
    centre = b.add(b.mul(y, ha), ya), b.add(b.mul(x, wa), xa)
    size = b.mul(ha, b.op("Exp", h)), b.mul(wa, b.op("Exp", w))
    return b.concat([*centre, *size], -1)
