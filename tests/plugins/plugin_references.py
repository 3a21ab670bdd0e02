"""What each shipped plugin computes, written a second time: plain numpy loops after the plugins' documented
semantics, sharing nothing with the bodies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from nms_reference import reference

from surgery.plugins.native_nms import NmsSpec

F = np.float32
Arrays = list[np.ndarray]
Attributes = dict[str, Any]


def iou(one: np.ndarray, two: np.ndarray) -> np.float32:
    """IoU in float32 of two boxes given by any two opposite corners."""
    low = [np.minimum(b[:2], b[2:]) for b in (one, two)]
    high = [np.maximum(b[:2], b[2:]) for b in (one, two)]
    side = np.minimum(*high) - np.maximum(*low)
    if side[0] <= 0 or side[1] <= 0:
        return F(0)
    common = F(side[0] * side[1])
    areas = [F((h[0] - lo[0]) * (h[1] - lo[1])) for lo, h in zip(low, high, strict=True)]
    return F(common / F(F(areas[0] + areas[1]) - common))


def pixel_iou(one: np.ndarray, two: np.ndarray, caffe: bool) -> np.float32:
    """IoU of boxes in pixels as the SSD plugins compute it: areas count a pixel more on each side."""
    low = [np.minimum(b[:2], b[2:]) for b in (one, two)]
    high = [np.maximum(b[:2], b[2:]) for b in (one, two)]
    side = np.minimum(*high) - np.maximum(*low)
    extra = F(1 if caffe else 0)
    if (side < 0).any():
        side = np.zeros(2, F)
    side = side + extra
    if side[0] <= 0 or side[1] <= 0:
        return F(0)
    common = F(side[0] * side[1])
    areas = [F((h[0] - lo[0] + F(1)) * (h[1] - lo[1] + F(1))) for lo, h in zip(low, high, strict=True)]
    return F(common / F(F(areas[0] + areas[1]) - common))


def greedy(rows: list[tuple[Any, ...]], suppressed: Callable[[Any, Any], bool]) -> list[tuple[Any, ...]]:
    """Rows in order that no kept earlier row suppresses."""
    kept: list[tuple[Any, ...]] = []
    for row in rows:
        if not any(suppressed(k, row) for k in kept):
            kept.append(row)
    return kept


# -- EfficientNMS family ----------------------------------------------------------------------------------


def efficient(
    boxes: np.ndarray,
    scores: np.ndarray,
    anchors: np.ndarray | None,
    *,
    threshold: float,
    iou_threshold: float,
    k: int,
    background: int = -1,
    sigmoid: bool = False,
    coding: int = 0,
    agnostic: bool = False,
    per_class: int = -1,
    clip: bool = False,
    candidates: int = 5000,
) -> Arrays:
    batch, n, c = scores.shape[:3]
    scores = scores.reshape(batch, n, c)
    boxes = boxes.reshape(batch, n, -1, 4)
    t, dense_limit = threshold, 0.007
    if sigmoid:
        t = -32768.0 if threshold <= 0 else math.log(threshold / (1 - threshold))
        dense_limit = math.log(dense_limit / (1 - dense_limit))
    dense = t < dense_limit
    count = np.zeros((batch, 1), np.int32)
    out_boxes, out_scores = np.zeros((batch, k, 4), F), np.zeros((batch, k), F)
    out_classes = np.zeros((batch, k), np.int32)
    for image in range(batch):
        rows = []
        for i in range(n):
            for j in range(c):
                s = scores[image, i, j]
                if s >= F(t) and j != background:
                    rows.append((s, i, j))
                elif dense:
                    rows.append((F(-32768), i, j))
        rows.sort(key=lambda r: -r[0])  # stable: box-major among equals
        decoded = [
            (s, i, j, efficient_box(boxes[image], anchors, image, i, j, coding))
            for s, i, j in rows[:candidates]
        ]
        kept = greedy(
            decoded,
            lambda a, b: (agnostic or a[2] == b[2]) and iou(a[3], b[3]) >= F(iou_threshold),
        )
        written: list[tuple[Any, ...]] = []
        for row in kept:
            if per_class < 0 or sum(w[2] == row[2] for w in written) < per_class:
                written.append(row)
        for r, (s, _, j, box) in enumerate(written[:k]):
            out_boxes[image, r] = np.clip(box, 0, 1) if clip else box
            out_scores[image, r] = np.exp(-np.logaddexp(0, -np.float64(s))) if sigmoid else s
            out_classes[image, r] = j
        count[image] = min(len(written), k)
    return [count, out_boxes, out_scores, out_classes]


def efficient_box(
    boxes: np.ndarray, anchors: np.ndarray | None, image: int, i: int, j: int, coding: int
) -> np.ndarray:
    box = boxes[i, j if boxes.shape[1] > 1 else 0]
    anchor = None if anchors is None else anchors[image if anchors.shape[0] > 1 else 0, i]
    if coding == 0:
        if anchor is None:
            return box
        return sum(
            np.concatenate([np.minimum(v[:2], v[2:]), np.maximum(v[:2], v[2:])]) for v in (box, anchor)
        )
    if anchor is not None:
        box = np.concatenate([box[:2] * anchor[2:] + anchor[:2], anchor[2:] * np.exp(box[2:])])
    half = box[2:] * F(0.5)
    return np.concatenate([box[:2] - half, box[:2] + half])


def efficient_nms(a: Attributes, x: Arrays) -> Arrays:
    return efficient(
        x[0],
        x[1],
        x[2] if len(x) > 2 else None,
        threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        k=a["max_output_boxes"],
        background=a["background_class"],
        sigmoid=bool(a["score_activation"]),
        coding=a["box_coding"],
        agnostic=bool(a.get("class_agnostic", 0)),
    )


def efficient_explicit_tf(a: Attributes, x: Arrays) -> Arrays:
    k, per_class = a["max_total_size"], a["max_output_size_per_class"]
    if a["pad_per_class"] and per_class > 0:
        k = min(k, per_class * x[1].shape[2])
    return efficient(
        x[0],
        x[1],
        None,
        threshold=a["score_threshold"],
        iou_threshold=a["iou_threshold"],
        k=k,
        per_class=per_class,
        clip=bool(a["clip_boxes"]),
    )


# -- the SSD plugins --------------------------------------------------------------------------------------


def of_ssd(a: Attributes, one: np.ndarray, two: np.ndarray) -> np.float32:
    return iou(one, two) if a["isNormalized"] else pixel_iou(one, two, bool(a.get("caffeSemantics", 1)))


def ssd(
    boxes: np.ndarray,
    scores: np.ndarray,
    a: Attributes,
    *,
    above: float,
    iou_threshold: float,
    clip: bool,
    top_k: int | None = None,
) -> list[list[tuple[Any, ...]]]:
    """Rows (score, class, box) of each image; boxes [B, N, 1 or C, 4], scores [B, N, C]."""
    images = []
    for image in range(len(scores)):
        rows: list[tuple[Any, ...]] = []
        for c in range(scores.shape[2]):
            if c == a["backgroundLabelId"]:
                continue
            mine = [
                (scores[image, i, c], c, boxes[image, i, c if boxes.shape[2] > 1 else 0])
                for i in range(scores.shape[1])
                if scores[image, i, c] > F(above)
            ]
            mine.sort(key=lambda r: -r[0])
            rows += greedy(
                mine[: top_k or a["topK"]], lambda p, q: bool(of_ssd(a, p[2], q[2]) > F(iou_threshold))
            )
        rows.sort(key=lambda r: -r[0])
        images.append([(s, c, np.clip(b, 0, 1) if clip else b) for s, c, b in rows[: a["keepTopK"]]])
    return images


def batched_nms(a: Attributes, x: Arrays, top_k: int | None = None) -> Arrays:
    boxes, scores = x[0], x[1].reshape(x[1].shape[:3])
    rows = ssd(
        boxes,
        scores,
        a,
        above=a["scoreThreshold"],
        iou_threshold=a["iouThreshold"],
        clip=bool(a.get("clipBoxes", 1)),
        top_k=top_k,
    )
    batch, k = len(scores), a["keepTopK"]
    out = [np.zeros((batch, 1), np.int32), np.zeros((batch, k, 4), F), np.zeros((batch, k), F)]
    classes = np.full((batch, k), -1, F)
    for image, found in enumerate(rows):
        out[0][image] = len(found)
        for r, (s, c, box) in enumerate(found):
            out[1][image, r], out[2][image, r], classes[image, r] = box, s, c
    return [*out, classes]


def nms_trt(a: Attributes, x: Arrays) -> Arrays:
    at_loc, at_conf, at_prior = a.get("inputOrder", [0, 2, 1])
    batch, c = len(x[at_loc]), a["numClasses"]
    prior = x[at_prior].reshape(-1, 2, x[at_prior].shape[-2] // 4, 4)
    if a.get("isBatchAgnostic", 1):
        prior = prior[:1]
    prior = np.broadcast_to(prior, (batch, *prior.shape[1:]))
    n = prior.shape[2]
    loc = x[at_loc].reshape(batch, n, -1, 4)
    conf = x[at_conf].reshape(batch, n, c)
    if a.get("confSigmoid", 0):
        conf = (np.exp(np.float64(conf)) / (1 + np.exp(np.float64(conf)))).astype(F)
    boxes = np.zeros_like(loc)
    for index in np.ndindex(*loc.shape[:3]):
        image, i, _ = index
        boxes[index] = decode(loc[index], prior[image, 0, i], prior[image, 1, i], a)
    rows = ssd(boxes, conf, a, above=a["confidenceThreshold"], iou_threshold=a["nmsThreshold"], clip=True)
    out = np.zeros((batch, 1, a["keepTopK"], 7), F)
    out[..., 1] = -1
    count = np.zeros((batch, 1, 1, 1), F)
    for image, found in enumerate(rows):
        out[image, ..., 0] = image
        count[image] = len(found)
        for r, (s, label, box) in enumerate(found):
            out[image, 0, r, 1:] = (label, s, *box)
    return [out, count]


def decode(loc: np.ndarray, p: np.ndarray, v: np.ndarray, a: Attributes) -> np.ndarray:
    code = a.get("codeType", 3)
    w, h = p[2] - p[0], p[3] - p[1]
    cx, cy = (p[0] + p[2]) / F(2), (p[1] + p[3]) / F(2)
    if a["varianceEncodedInTarget"] and code != 3:
        v = np.ones(4, F)
    if code == 0:
        return p + loc * v
    if code == 2:
        return p + loc * v * np.array([w, h, w, h])
    if code == 1:
        x, y, dw, dh = loc * v
    else:
        y, x, dh, dw = loc[0] * v[1], loc[1] * v[0], loc[2] * v[3], loc[3] * v[2]
    cx, cy, w, h = x * w + cx, y * h + cy, np.exp(dw) * w, np.exp(dh) * h
    return np.array([cx - w / F(2), cy - h / F(2), cx + w / F(2), cy + h / F(2)], F)


# -- prior boxes ------------------------------------------------------------------------------------------


def grid_anchor(a: Attributes, x: Arrays, *, pairs: bool = False) -> Arrays:
    m, low, high = a.get("numLayers", 6), a.get("minSize", 0.2), a.get("maxSize", 0.95)
    outputs = []
    for layer in range(m):
        s = low + (high - low) * layer / (m - 1)
        after = 1.0 if layer == m - 1 else low + (high - low) * (layer + 1) / (m - 1)
        if layer == 0:
            boxes = [(0.1, a["aspectRatios"][0]), (s, a["aspectRatios"][1]), (s, a["aspectRatios"][2])]
        else:
            boxes = [(s, r) for r in a["aspectRatios"]] + [(math.sqrt(s * after), 1.0)]
        shape = a["featureMapShapes"]
        height, width = (shape[2 * layer], shape[2 * layer + 1]) if pairs else (shape[layer], shape[layer])
        row = []
        for y in range(height):
            for x_ in range(width):
                cx, cy = (x_ + 0.5) / width, (y + 0.5) / height
                for scale, ratio in boxes:
                    w, h = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
                    row += [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        variances = list(a["variance"]) * (len(row) // 4)
        outputs.append(np.array([row, variances], F)[:, :, None])
    return outputs


# -- surgery's own ----------------------------------------------------------------------------------------


def multi_class(a: Attributes, x: Arrays) -> Arrays:
    flags = ("class_agnostic", "suppress_at_equal", "keep_at_equal", "prune_empty", "center_point_box")
    values = {k: (bool(v) if k in flags else v) for k, v in a.items() if k != "form"}
    if "clip_window" in values:
        values["clip_window"] = tuple(values["clip_window"])
    spec = NmsSpec(num_boxes=x[1].shape[1], num_classes=x[1].shape[2], shared_boxes=x[0].ndim == 3, **values)
    r = reference(spec, *x)
    return [r.count, r.boxes, r.scores, r.classes, r.indices]


REFERENCES: dict[str, Callable[[Attributes, Arrays], Arrays]] = {
    "BatchedNMSDynamic_TRT": batched_nms,
    "EfficientNMS_Explicit_TF_TRT": efficient_explicit_tf,
    "EfficientNMS_TRT": efficient_nms,
    "GridAnchorRect_TRT": lambda a, x: grid_anchor(a, x, pairs=True),
    "GridAnchor_TRT": grid_anchor,
    "MultiClassNMS": multi_class,
    "NMSDynamic_TRT": nms_trt,
    "NMS_TRT": nms_trt,
}
