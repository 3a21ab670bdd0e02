"""Pooling under boxes, sample by sample, as the kernels' loops have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

F = np.float32
Attributes = dict[str, Any]
Arrays = list[np.ndarray]


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Image [C, H, W] at a place that lies on it."""
    height, width = image.shape[1:]
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = image[:, y0, x0] * (1 - dx) + image[:, y0, x1] * dx
    bottom = image[:, y1, x0] * (1 - dx) + image[:, y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def products(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The largest of the four weighted pixels."""
    height, width = image.shape[1:]
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    four = [
        image[:, y0, x0] * (1 - dy) * (1 - dx),
        image[:, y0, x1] * (1 - dy) * dx,
        image[:, y1, x0] * dy * (1 - dx),
        image[:, y1, x1] * dy * dx,
    ]
    return np.max(four, axis=0)


def clamp(value: float, size: int) -> float:
    return min(max(value, 0.0), size - 1.0)


def align(
    image: np.ndarray,
    box: Sequence[float],
    out: tuple[int, int],
    ratio: int,
    *,
    aligned: bool,
    pool: str,
    interpolate: Callable[..., np.ndarray] = bilinear,
    empty: float = 0.0,
    no_negative: bool = False,
) -> np.ndarray:
    """RoiAlign of one box (x1, y1, x2, y2), in pixels of the image [C, H, W]."""
    height, width = image.shape[1:]
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (float(v) - shift for v in box)
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    elif no_negative:
        w, h = max(w, 0.0), max(h, 0.0)
    bin_h, bin_w = h / out[0], w / out[1]
    g_h, g_w = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
    result = np.zeros((image.shape[0], *out))
    for p in range(out[0]):
        for q in range(out[1]):
            samples = []
            for i in range(g_h):
                for j in range(g_w):
                    y = y1 + p * bin_h + (i + 0.5) * bin_h / g_h
                    x = x1 + q * bin_w + (j + 0.5) * bin_w / g_w
                    if y < -1 or y > height or x < -1 or x > width:
                        samples.append(np.zeros(image.shape[0]))
                    else:
                        samples.append(interpolate(image, clamp(y, height), clamp(x, width)))
            if not samples:
                result[:, p, q] = empty
            else:
                result[:, p, q] = np.mean(samples, axis=0) if pool == "mean" else np.max(samples, axis=0)
    return result


def roi_align(a: Attributes, x: Arrays) -> Arrays:
    image, rois, numbers = x
    maximum = a.get("mode", 1) == 0
    out = [
        align(
            image[n],
            box * F(a.get("spatial_scale", 1.0)),
            (a.get("output_height", 1), a.get("output_width", 1)),
            a.get("sampling_ratio", 0),
            aligned=a.get("coordinate_transformation_mode", 1) == 1,
            pool="max" if maximum else "mean",
            interpolate=products if maximum else bilinear,
        )
        for box, n in zip(rois, numbers, strict=True)
    ]
    return [np.array(out, F)]


def mmcv_roi_align(a: Attributes, x: Arrays) -> Arrays:
    out = [
        align(
            x[0][int(row[0])],
            row[1:] * F(a.get("spatial_scale", 1.0)),
            (a.get("output_height", 7), a.get("output_width", 7)),
            a.get("sampling_ratio", 0),
            aligned=bool(a.get("aligned", 1)),
            pool="max" if a["mode"] == "max" else "mean",
            empty=float(np.finfo(F).min) if a["mode"] == "max" else 0.0,
        )
        for row in x[1]
    ]
    return [np.array(out, F)]


def mmcv_multi_level(a: Attributes, x: Arrays) -> Arrays:
    rois, maps = x[0], x[1:]
    factor, maximum = a.get("roi_scale_factor", -1.0), a.get("pool_mode", 0) == 0
    out = []
    for number, x1, y1, x2, y2 in rois.astype(np.float64):
        scale = math.sqrt((y2 - y1) * (x2 - x1))
        level = math.floor(math.log2(scale / a.get("finest_scale", 56) + 1e-6))
        level = min(max(level, 0), len(maps) - 1)
        if factor > 0:
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            half_w, half_h = ((s + 1) * factor / 2 - 0.5 for s in (x2 - x1, y2 - y1))
            x1, y1, x2, y2 = cx - half_w, cy - half_h, cx + half_w, cy + half_h
        stride = a["featmap_strides"][level]
        out.append(
            align(
                maps[level][int(number)],
                [v / stride for v in (x1, y1, x2, y2)],
                (a.get("output_height", 7), a.get("output_width", 7)),
                a.get("sampling_ratio", 2),
                aligned=bool(a.get("aligned", 0)),
                pool="max" if maximum else "mean",
                empty=float(np.finfo(F).min) if maximum else 0.0,
                no_negative=True,
            )
        )
    return [np.array(out, F)]


def crop_and_resize(a: Attributes, x: Arrays) -> Arrays:
    image, rois = x
    batch, channels, height, width = image.shape
    ch, cw = a["crop_height"], a["crop_width"]
    out = np.zeros((batch, rois.shape[1], channels, ch, cw), F)

    def places(low: float, high: float, count: int, last: int) -> list[float]:
        if count == 1:
            return [0.5 * (low + high) * last]
        return [low * last + i * ((high - low) * last / (count - 1)) for i in range(count)]

    for n, r in np.ndindex(*rois.shape[:2]):
        y1, x1, y2, x2 = map(float, rois[n, r, :, 0])
        for i, y in enumerate(places(y1, y2, ch, height - 1)):
            for j, at in enumerate(places(x1, x2, cw, width - 1)):
                if 0 <= y <= height - 1 and 0 <= at <= width - 1:
                    out[n, r, :, i, j] = bilinear(image[n], y, at)
    return [out]


def pyramid_roi_align(a: Attributes, x: Arrays) -> Arrays:
    rois, maps = x[0], x[1:]
    pool = a.get("pooled_size", 7)
    image_h, image_w = a.get("image_size", [1024, 1024])
    swap, absolute = a.get("roi_coords_swap", 0), a.get("roi_coords_absolute", 1)
    plus, transform = a.get("roi_coords_plusone", 0), a.get("roi_coords_transform", 2)
    ratio, limit = a.get("sampling_ratio", 0), a.get("fpn_scale", 224) ** 2 / (image_h * image_w) / 4
    if a.get("legacy", 0):
        swap, absolute, plus, transform, ratio = 1, 0, 0, -1, 1
        limit = 224 * 224 * 2 / (1024 * 1024) / 16
    out = np.zeros((*rois.shape[:2], maps[0].shape[1], pool, pool), F)
    for n, r in np.ndindex(*rois.shape[:2]):
        one, two, three, four = map(float, rois[n, r])
        ys, xs = ((one, three), (two, four)) if swap else ((two, four), (one, three))
        sides = []
        for pair, full in ((ys, image_h), (xs, image_w)):
            most = full if absolute else 1.0
            low, high = (min(max(v, 0.0), most) / most for v in sorted(pair))
            sides.append((low, high))
        area = math.prod(
            high - low + (1 / full if plus else 0)
            for (low, high), full in zip(sides, (image_h, image_w), strict=True)
        )
        image = maps[sum(area > limit * 4**i for i in range(3))][n]
        samples = []
        for (low, high), size in zip(sides, image.shape[1:], strict=True):
            if transform == -1:
                start, end, parts, offset = low * (size - 1), high * (size - 1), pool - 1, 0.0
            else:
                shift = 0.5 if transform == 2 else 0.0
                start, end, parts = low * size - shift, high * size - shift, pool
                offset = 0.0 if transform == 0 else 0.5
            g = ratio or max(1, math.ceil((end - start) / pool))
            delta = (end - start) / parts
            samples.append(
                [
                    [clamp(start + delta * p + delta * (i + offset) / g, size) for i in range(g)]
                    for p in range(pool)
                ]
            )
        for p, q in np.ndindex(pool, pool):
            values = [bilinear(image, y, at) for y in samples[0][p] for at in samples[1][q]]
            out[n, r, :, p, q] = np.mean(values, axis=0)
    return [out]


def multilevel_crop(a: Attributes, x: Arrays) -> Arrays:
    rois, maps = x[0], x[1:]
    pool = a["pooled_size"]
    _, image_h, image_w = a.get("image_size", [3, 832, 1344])
    out = np.zeros((*rois.shape[:2], maps[0].shape[1], pool, pool), F)
    for n, r in np.ndindex(*rois.shape[:2]):
        y1, x1, y2, x2 = map(float, rois[n, r])
        inside = all(0 <= v <= image_h for v in (y1, y2)) and all(0 <= v <= image_w for v in (x1, x2))
        if not (inside and y1 < y2 and x1 < x2):
            continue
        level = sum((y2 - y1) * (x2 - x1) > 224 * 224 / 4 * 4**i for i in range(4))
        image, stride = maps[level][n], 2 ** (level + 2)
        for p, q in np.ndindex(pool, pool):
            y = y1 / stride + (y2 - y1) / stride / pool * (p + 0.5)
            at = x1 / stride + (x2 - x1) / stride / pool * (q + 0.5)
            out[n, r, :, p, q] = bilinear(image, clamp(y, image.shape[1]), clamp(at, image.shape[2]))
    return [out]


REFERENCES: dict[str, Callable[[Attributes, Arrays], Arrays]] = {
    "CropAndResize": crop_and_resize,
    "CropAndResizeDynamic": crop_and_resize,
    "MMCVMultiLevelRoiAlign": mmcv_multi_level,
    "MMCVRoiAlign": mmcv_roi_align,
    "MultilevelCropAndResize_TRT": multilevel_crop,
    "PyramidROIAlign_TRT": pyramid_roi_align,
    "ROIAlign_TRT": roi_align,
}
