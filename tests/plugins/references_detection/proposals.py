"""Region proposals and final detections, box by box."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

F = np.float32
Attributes = dict[str, Any]
Arrays = list[np.ndarray]
Box = tuple[float, float, float, float]


def overlap(one: Box, two: Box, extra: float = 0.0) -> float:
    """IoU of boxes as given: one that ends before it starts overlaps nothing."""
    sides = [min(one[i + 2], two[i + 2]) - max(one[i], two[i]) + extra for i in (0, 1)]
    if min(sides) < 0:
        return 0.0
    common = sides[0] * sides[1]
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (one, two)]
    union = sum(areas) - common
    return common / union if union else 0.0


def greedy(ranked: list[int], boxes: list[Box], limit: float, most: int, extra: float = 0.0) -> list[int]:
    kept: list[int] = []
    for i in ranked:
        if len(kept) == most:
            break
        if not any(overlap(boxes[k], boxes[i], extra) > limit for k in kept):
            kept.append(i)
    return kept


def by_score(scores: np.ndarray) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def through_key(score: np.float32, label: int = 0, classes: int = 1) -> np.float32:
    """The score as it comes back from the kernel's sort key."""
    key = F(F(F(classes - label - 1) * F(2.5) + score) + F(1))
    back = F(F(key - F(int(key / F(2.5))) * F(2.5)) - F(1))
    return min(max(back, F(0)), F(1))


def refine_normalised(anchor: np.ndarray, delta: np.ndarray) -> Box:
    y1, x1, y2, x2 = map(float, anchor)
    dy, dx, dh, dw = (float(d) * f for d, f in zip(delta, (0.1, 0.1, 0.2, 0.2), strict=True))
    h, w = y2 - y1, x2 - x1
    cy, cx = (y1 + y2) / 2 + dy * h, (x1 + x2) / 2 + dx * w
    h, w = h * math.exp(dh), w * math.exp(dw)
    corners = (cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2)
    return tuple(min(max(c, 0.0), 1.0) for c in corners)  # type: ignore[return-value]


def refine_pixels(
    anchor: np.ndarray, delta: np.ndarray, weights: tuple[float, ...], height: int, width: int
) -> Box:
    y1, x1, y2, x2 = map(float, anchor)
    dy, dx, dh, dw = (float(d) / w for d, w in zip(delta, weights, strict=True))
    h, w = y2 - y1 + 1, x2 - x1 + 1
    cy, cx = y1 + h / 2 + dy * h, x1 + w / 2 + dx * w
    limit = math.log(1000 / 16)
    h, w = h * math.exp(min(dh, limit)), w * math.exp(min(dw, limit))
    top, left = cy - h / 2, cx - w / 2
    corners = (top, left, top + h - 1, left + w - 1)
    lasts = (height - 1, width - 1) * 2
    return tuple(max(min(c, last), 0.0) for c, last in zip(corners, lasts, strict=True))  # type: ignore[return-value]


def proposal_layer(a: Attributes, x: Arrays) -> Arrays:
    _, height, width = a.get("image_size", [3, 1024, 1024])
    anchors = []
    for stride, scale in zip((4, 8, 16, 32, 64), (32, 64, 128, 256, 512), strict=True):
        for y in range(0, height, stride):
            for at in range(0, width, stride):
                for r in (0.5, 1.0, 2.0):
                    h, w = scale / math.sqrt(r), scale * math.sqrt(r)
                    corners = (y - h / 2, at - w / 2, y + h / 2 - 1, at + w / 2 - 1)
                    anchors.append(np.array(corners) / [height - 1, width - 1, height - 1, width - 1])
    out = np.zeros((len(x[0]), a["keep_topk"], 4), F)
    for n in range(len(out)):
        scores = x[0][n, :, 1, 0]
        boxes = [refine_normalised(p, d) for p, d in zip(anchors, x[1][n, :, :, 0], strict=True)]
        ranked = by_score(scores)[: a["prenms_topk"]]
        kept = greedy(ranked, boxes, a["iou_threshold"], a["keep_topk"])
        for row, i in enumerate(i for i in kept if through_key(scores[i]) > F(0.01)):
            out[n, row] = boxes[i]
    return [out]


def detections(a: Attributes, x: Arrays, refine: Callable[..., Box], first: int) -> Arrays:
    deltas, scores, rois = x
    classes = a["num_classes"]
    out = np.zeros((len(rois), a["keep_topk"], 6), F)
    out[..., 4] = -1
    for n in range(len(rois)):
        boxes, labels, keys = [], [], []
        for r in range(rois.shape[1]):
            mine = scores[n, r, :, 0, 0]
            label = first + int(np.argmax(mine[first:]))
            boxes.append(refine(rois[n, r], deltas[n, r, 4 * label : 4 * label + 4, 0, 0]))
            passes = label != 0 and mine[label] >= F(a["score_threshold"])
            labels.append(label if passes else -1)
            keys.append(through_key(mine[label], label, classes))
        rows = []
        for label in range(1, classes):
            mine = [r for r in by_score(np.array(keys)) if labels[r] == label]
            rows += [(keys[r], label, r) for r in greedy(mine, boxes, a["iou_threshold"], len(mine))]
        rows.sort(key=lambda row: -row[0])
        for i, (score, label, r) in enumerate([row for row in rows if row[0] > F(0.01)][: a["keep_topk"]]):
            out[n, i] = (*boxes[r], label, score)
    return [out]


def detection_layer(a: Attributes, x: Arrays) -> Arrays:
    return detections(a, x, refine_normalised, 0)


def generate_detection(a: Attributes, x: Arrays) -> Arrays:
    _, height, width = a.get("image_size", [3, 832, 1344])
    weights = (10.0, 10.0, 5.0, 5.0)
    return detections(a, x, lambda p, d: refine_pixels(p, d, weights, height, width), 1)


def multilevel(a: Attributes, x: Arrays) -> Arrays:
    _, height, width = a.get("image_size", [3, 832, 1344])
    rows = a["keep_topk"]
    out = np.zeros((len(x[0]), rows, 4), F)
    for n in range(len(out)):
        found: list[tuple[float, Box]] = []
        for level in range(2, 7):
            stride = 2**level
            anchors = [
                (y - 4 * stride * v, at - 4 * stride * u, y + 4 * stride * v, at + 4 * stride * u)
                for y in range(stride // 2, height, stride)
                for at in range(stride // 2, width, stride)
                for u, v in ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
            ]
            deltas, scores = x[2 * (level - 2)][n, :, :, 0], x[2 * (level - 2) + 1][n, :, 0, 0]
            boxes = [
                refine_pixels(np.array(p), d, (1.0,) * 4, height, width)
                for p, d in zip(anchors, deltas, strict=True)
            ]
            ranked = [
                i
                for i in by_score(scores)[: a["prenms_topk"]]
                if scores[i] >= F(a["fg_threshold"]) and through_key(scores[i]) > 0
            ]
            mine = [
                (float(through_key(scores[i])), boxes[i])
                for i in greedy(ranked, boxes, a["iou_threshold"], rows)
            ]
            found += mine + [(0.0, (0.0,) * 4)] * (rows - len(mine))
        found.sort(key=lambda row: -row[0])
        out[n] = [box for _, box in found[:rows]]
    return [out]


def half_up(value: float) -> int:
    return math.floor(value + 0.5)


def rpn_and_pool(a: Attributes, x: Arrays) -> Arrays:
    scores, deltas, features, info = x
    stride, rows = a["featureStride"], a["nmsMaxOut"]
    sizes = []
    for ratio in a["anchorsRatios"]:
        w = half_up(math.sqrt(stride * stride / ratio))
        h = half_up(w * ratio)
        sizes += [(w * s, h * s) for s in a["anchorsScales"]]
    batch, channels, height, width = features.shape
    rois = np.zeros((batch, 1, rows, 4), F)
    pooled = np.zeros((batch, rows, channels, a["poolingH"], a["poolingW"]), F)
    for n in range(batch):
        image_h, image_w, scale = map(float, info[n, 0, 0])
        boxes, ranks = [], []
        for k, (aw, ah) in enumerate(sizes):
            for row in range(height):
                for column in range(width):
                    dx, dy, dw, dh = map(float, deltas[n, 4 * k : 4 * k + 4, row, column])
                    cx = (stride - 1) / 2 + column * stride + dx * aw
                    cy = (stride - 1) / 2 + row * stride + dy * ah
                    w, h = math.exp(dw) * aw, math.exp(dh) * ah
                    box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                    limits = (image_w - 1, image_h - 1) * 2
                    box = tuple(min(max(v, 0.0), m) for v, m in zip(box, limits, strict=True))
                    small = min(box[2] - box[0], box[3] - box[1]) + 1 < a["minBoxSize"] * scale
                    boxes.append(box)
                    ranks.append(-np.inf if small else scores[n, len(sizes) + k, row, column])
        ranked = by_score(np.array(ranks))[: a["preNmsTop"]]
        for i, k in enumerate(greedy(ranked, boxes, a["iouThreshold"], rows, 1.0)):
            rois[n, 0, i] = boxes[k]
        for i in range(rows):
            x1, y1, x2, y2 = (half_up(v * a["spatialScale"]) for v in map(float, rois[n, 0, i]))
            for p, q in np.ndindex(*pooled.shape[3:]):
                span = []
                for low, high, bins, k, size in (
                    (y1, y2, a["poolingH"], p, height),
                    (x1, x2, a["poolingW"], q, width),
                ):
                    each = F(max(high - low + 1, 1)) / F(bins)
                    start = low + math.floor(F(k) * each)
                    end = low + math.ceil(F(k + 1) * each)
                    span.append(slice(min(max(start, 0), size), min(max(end, 0), size)))
                window = features[n, :, span[0], span[1]]
                pooled[n, i, :, p, q] = window.max(axis=(1, 2)) if window.size else 0
    return [rois, pooled]


def faster_rcnn(a: Attributes, x: Arrays) -> Arrays:
    scores, deltas = x
    rows, width, height = a["post_nms_top_n"], a["input_width"], a["input_height"]
    shapes = [(s * math.sqrt(r), s / math.sqrt(r)) for s in a["anchor_sizes"] for r in a["anchor_ratios"]]
    out = np.zeros((len(scores), rows, 4, 1), F)
    for n in range(len(scores)):
        boxes, ranks = [], []
        for k, row, column in np.ndindex(*scores.shape[1:]):
            dx, dy, dw, dh = map(float, deltas[n, 4 * k : 4 * k + 4, row, column])
            aw, ah = shapes[k]
            cx = (column + 0.5) * a["rpn_stride"] + aw * dx
            cy = (row + 0.5) * a["rpn_stride"] + ah * dy
            w, h = math.exp(dw) * aw, math.exp(dh) * ah
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            limits = (width - 1, height - 1) * 2
            box = tuple(min(max(v, 0.0), m) for v, m in zip(box, limits, strict=True))
            small = min(box[2] - box[0], box[3] - box[1]) <= a["roi_min_size"]
            boxes.append(box)
            ranks.append(-np.inf if small else scores[n, k, row, column])
        ranked = by_score(np.array(ranks))[: a["pre_nms_top_n"]]
        for i, k in enumerate(greedy(ranked, boxes, a["nms_iou_threshold"], rows, 1.0)):
            x1, y1, x2, y2 = boxes[k]
            out[n, i, :, 0] = (y1 / (height - 1), x1 / (width - 1), y2 / (height - 1), x2 / (width - 1))
    return [out]


REFERENCES: dict[str, Callable[[Attributes, Arrays], Arrays]] = {
    "DetectionLayer_TRT": detection_layer,
    "GenerateDetection_TRT": generate_detection,
    "MultilevelProposeROI_TRT": multilevel,
    "Proposal": faster_rcnn,
    "ProposalDynamic": faster_rcnn,
    "ProposalLayer_TRT": proposal_layer,
    "RPROI_TRT": rpn_and_pool,
}
