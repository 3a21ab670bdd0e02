"""Prior boxes, activations and scatters, one element at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

F = np.float32
Attributes = dict[str, Any]
Arrays = list[np.ndarray]


def prior_box(a: Attributes, x: Arrays) -> Arrays:
    height, width = x[0].shape[2:]
    image_h, image_w = a["imgH"], a["imgW"]
    if not image_h or not image_w:
        image_h, image_w = x[1].shape[2:]
    step_h, step_w = a["stepH"], a["stepW"]
    if not step_h or not step_w:
        step_h, step_w = image_h / height, image_w / width
    ratios = [1.0]
    for r in a.get("aspectRatios", []):
        if not any(abs(r - other) < 1e-6 for other in ratios):
            ratios.append(r)
            if a["flip"]:
                ratios.append(1 / r)
    largest = a.get("maxSize", [])
    row = []
    for h in range(height):
        for w in range(width):
            cx, cy = (w + a["offset"]) * step_w, (h + a["offset"]) * step_h
            for k, size in enumerate(a["minSize"]):
                shapes = [(size, size)]
                if largest:
                    shapes.append((math.sqrt(size * largest[k]),) * 2)
                shapes += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios[1:]]
                for bw, bh in shapes:
                    row += [
                        (cx - bw / 2) / image_w,
                        (cy - bh / 2) / image_h,
                        (cx + bw / 2) / image_w,
                        (cy + bh / 2) / image_h,
                    ]
    if a["clip"]:
        row = [min(max(v, 0.0), 1.0) for v in row]
    return [np.array([row, list(a["variance"]) * (len(row) // 4)], F)[:, :, None]]


def flatten_concat(a: Attributes, x: Arrays) -> Arrays:
    images = [[v for part in x for v in part[n].ravel()] for n in range(len(x[0]))]
    return [np.array(images, F)[:, :, None, None]]


def normalize(a: Attributes, x: Arrays) -> Arrays:
    (image,) = x
    out = np.zeros(image.shape)
    batch, channels, height, width = image.shape
    wide = image.astype(np.float64)
    for n, c, h, w in np.ndindex(batch, channels, height, width):
        over = wide[n] if a["acrossSpatial"] else wide[n, :, h, w]
        scale = a["weights"][0 if a["channelShared"] else c]
        normal = wide[n, c, h, w] / math.sqrt(float((over**2).sum()) + a["eps"])
        out[n, c, h, w] = normal / scale if a["acrossSpatial"] and not a["channelShared"] else normal * scale
    return [out.astype(F)]


def region(a: Attributes, x: Arrays) -> Arrays:
    out = x[0].astype(np.float64)
    size = 5 + a["classes"]
    for n, box, h, w in np.ndindex(len(out), a["num"], *out.shape[2:]):
        cell = out[n, box * size : (box + 1) * size, h, w]
        for i in (0, 1, 4):
            cell[i] = 1 / (1 + math.exp(-cell[i]))
        powers = np.exp(cell[5:] - cell[5:].max())
        cell[5:] = powers / powers.sum()
    return [out.astype(F)]


def reorg(a: Attributes, x: Arrays) -> Arrays:
    s = a["stride"]
    batch, channels, height, width = x[0].shape
    few = channels // (s * s)
    source = x[0].reshape(batch, few, height * s, width * s)
    out = np.zeros((batch, channels, height, width), F)
    for n, k, h, w in np.ndindex(out.shape):
        block, c = divmod(k, few)
        out[n, k, h, w] = source[n, c, h * s + block // s, w * s + block % s]
    return [out.reshape(batch, channels * s * s, height // s, width // s)]


def pillar_scatter(a: Attributes, x: Arrays) -> Arrays:
    voxels, coordinates, number = x
    height, width = a["dense_shape"]
    out = np.zeros((len(voxels), 64, height, width), F)
    for n in range(len(voxels)):
        for p in range(int(number[n])):
            _, _, y, at = coordinates[n, p]
            out[n, :, y, at] = voxels[n, p]
    return [out]


def decode_3d(a: Attributes, x: Arrays) -> Arrays:
    logits, encodings, directions = (v.astype(np.float64) for v in x)
    batch, height, width, _ = logits.shape
    anchors = np.array(a["anchors"]).reshape(-1, 4)
    classes = len(a["anchor_bottom_height"])
    low_x, low_y, _, high_x, high_y, _ = a["point_cloud_range"]
    period = 2 * math.pi / a.get("num_dir_bins", 2)
    start = a.get("dir_offset", 0.78539)
    boxes = np.zeros((batch, height * width * len(anchors), 9))
    count = np.zeros(batch, np.int32)
    for n, row, column, k in np.ndindex(batch, height, width, len(anchors)):
        mine = 1 / (1 + np.exp(-logits[n, row, column, k * classes : (k + 1) * classes]))
        label = int(np.argmax(mine))
        if mine[label] < a.get("score_thresh", 0.0):
            continue
        t = encodings[n, row, column, k * 7 : k * 7 + 7]
        dx, dy, dz, turn = anchors[k]
        xa = low_x + column * (high_x - low_x) / (width - 1)
        ya = low_y + row * (high_y - low_y) / (height - 1)
        za = dz / 2 + a["anchor_bottom_height"][k // 2]
        one, two = directions[n, row, column, 2 * k : 2 * k + 2]
        angle = t[6] + turn - start
        angle -= math.floor(angle / period + a.get("dir_limit_offset", 0.0)) * period
        angle += start + period * (0 if one > two else 1)
        diagonal = math.hypot(dx, dy)
        size = [math.exp(t[3]) * dx, math.exp(t[4]) * dy, math.exp(t[5]) * dz]
        place = [t[0] * diagonal + xa, t[1] * diagonal + ya, t[2] * dz + za]
        boxes[n, count[n]] = [*place, *size, angle, label, mine[label]]
        count[n] += 1
    return [boxes.astype(F), count]


def grid_priors(a: Attributes, x: Arrays) -> Arrays:
    base, rows, columns = x
    out = []
    for h in range(len(rows)):
        for w in range(len(columns)):
            move = np.array([w * a.get("stride_w", 1), h * a.get("stride_h", 1)] * 2, F)
            out += [anchor + move for anchor in base]
    return [np.array(out, F)]


def gather_topk(a: Attributes, x: Arrays) -> Arrays:
    source, indices = x
    out = np.zeros((*indices.shape, *source.shape[indices.ndim :]), source.dtype)
    for place in np.ndindex(*indices.shape):
        out[place] = source[(*place[:-1], indices[place])]
    return [out]


REFERENCES: dict[str, Callable[[Attributes, Arrays], Arrays]] = {
    "DecodeBbox3DPlugin": decode_3d,
    "FlattenConcat_TRT": flatten_concat,
    "GatherTopk": gather_topk,
    "GridPriorsTRT": grid_priors,
    "Normalize_TRT": normalize,
    "PillarScatterPlugin": pillar_scatter,
    "PriorBox_TRT": prior_box,
    "Region_TRT": region,
    "Reorg_TRT": reorg,
}
