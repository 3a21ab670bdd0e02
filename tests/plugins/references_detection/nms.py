"""Suppressions with outputs of their own, detection by detection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from plugin_references import batched_nms, efficient_box, efficient_explicit_tf, iou

F = np.float32
Attributes = dict[str, Any]
Arrays = list[np.ndarray]
Point = tuple[float, float]


def without_batch_of_one(
    reference: Callable[[Attributes, Arrays], Arrays],
) -> Callable[[Attributes, Arrays], Arrays]:
    """The number of detections as a scalar per image."""

    def changed(a: Attributes, x: Arrays) -> Arrays:
        count, *others = reference(a, x)
        return [count[:, 0], *others]

    return changed


def efficient_onnx(a: Attributes, x: Arrays) -> Arrays:
    batch, n, c = x[1].shape[:3]
    scores = x[1].reshape(batch, n, c)
    boxes = x[0].reshape(batch, n, -1, 4)
    most, threshold = a["max_output_boxes_per_class"], a["score_threshold"]
    rows: list[tuple[int, int, int]] = []
    for image in range(batch):
        candidates = []
        for i in range(n):
            for k in range(c):
                if scores[image, i, k] >= F(threshold):
                    candidates.append((scores[image, i, k], i, k))
                elif threshold < 0.007:
                    candidates.append((F(-32768), i, k))
        candidates.sort(key=lambda r: -r[0])
        kept: list[tuple[int, int, np.ndarray]] = []
        for _, i, k in candidates:
            box = efficient_box(boxes[image], None, image, i, k, a["center_point_box"])
            if len(kept) < most and not any(
                m == k and iou(other, box) >= F(a["iou_threshold"]) for _, m, other in kept
            ):
                kept.append((i, k, box))
        rows += [(image, k, i) for i, k, _ in kept]
    rows += [rows[-1] if rows else (-1, -1, -1)] * (batch * most - len(rows))
    return [np.array(rows, np.int32)]


def mmdeploy(
    a: Attributes, x: Arrays, width: int, overlap: Callable[[np.ndarray, np.ndarray], float]
) -> Arrays:
    boxes, scores = x
    batch, n, c = scores.shape
    best, rows = a["topk"] if 0 < a["topk"] <= n else n, a["keep_topk"]
    dets = np.zeros((batch, rows, width + 1), F)
    labels, index = np.full((batch, rows), -1, np.int32), np.full((batch, rows), -1, np.int32)
    shared = boxes.shape[2] == 1
    for image in range(batch):
        found = []
        for k in range(c):
            if k == a["background_label_id"]:
                continue
            mine = [i for i in range(n) if scores[image, i, k] > F(a["score_threshold"])]
            mine.sort(key=lambda i, k=k: -scores[image, i, k])
            kept: list[int] = []
            for i in mine[:best]:
                box = boxes[image, i, 0 if shared else k]
                if all(overlap(boxes[image, j, 0 if shared else k], box) <= a["iou_threshold"] for j in kept):
                    kept.append(i)
            found += [(scores[image, i, k], k, i) for i in kept]
        found.sort(key=lambda r: -r[0])
        for row, (score, k, i) in enumerate(found[:rows]):
            box = boxes[image, i, 0 if shared else k]
            dets[image, row, :-1] = np.clip(box, 0, 1) if a.get("clip_boxes", 1) else box
            dets[image, row, -1] = score
            labels[image, row], index[image, row] = k, i if shared else k * n + i
    return [dets, labels, index] if a.get("return_index", 0) else [dets, labels]


def upright(one: np.ndarray, two: np.ndarray) -> float:
    """IoU of boxes as given: one whose ends are swapped overlaps nothing."""
    a, b = one.astype(np.float64), two.astype(np.float64)
    if (a[2:] < a[:2]).any() or (b[2:] < b[:2]).any():
        return 0.0
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (side <= 0).any():
        return 0.0
    common = side.prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def corners(box: np.ndarray) -> list[Point]:
    x, y, w, h, angle = map(float, box)
    c, s = math.cos(angle), math.sin(angle)
    local = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in local]


def area(polygon: list[Point]) -> float:
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs) / 2


def clipped(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """The part of a polygon to the left of a line (Sutherland and Hodgman)."""

    def side(p: Point) -> float:
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    out: list[Point] = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        a, b = side(p), side(q)
        if a >= 0:
            out.append(p)
        if (a > 0 > b) or (a < 0 < b):
            t = a / (a - b)
            out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return out


def rotated_iou(one: np.ndarray, two: np.ndarray) -> float:
    first, second = corners(one), corners(two)
    areas = [float(b[2]) * float(b[3]) for b in (one, two)]
    if min(areas) < 1e-14:
        return 1.0
    common = first
    for start, end in zip(second, second[1:] + second[:1], strict=True):
        common = clipped(common, start, end) if common else []
    shared = area(common) if len(common) > 2 else 0.0
    return shared / (sum(areas) - shared)


REFERENCES: dict[str, Callable[[Attributes, Arrays], Arrays]] = {
    "BatchedNMS_TRT": without_batch_of_one(batched_nms),
    "EfficientNMS_Implicit_TF_TRT": without_batch_of_one(efficient_explicit_tf),
    "EfficientNMS_ONNX_TRT": efficient_onnx,
    "TRTBatchedNMS": lambda a, x: mmdeploy(a, x, 4, upright),
    "TRTBatchedRotatedNMS": lambda a, x: mmdeploy(a, x, 5, rotated_iou),
}
