"""Deformable convolutions and multi-scale deformable attention: one sample after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Attributes = dict[str, Any]


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Values [channels] of an image [channels, H, W] at a place; zeros outside."""
    height, width = image.shape[1:]
    total = np.zeros(len(image))
    if not (-1 < y < height and -1 < x < width):
        return total
    for py in (math.floor(y), math.floor(y) + 1):
        for px in (math.floor(x), math.floor(x) + 1):
            if 0 <= py < height and 0 <= px < width:
                total += (1 - abs(y - py)) * (1 - abs(x - px)) * image[:, py, px]
    return total


def convolution(
    a: Attributes, x: np.ndarray, offset: np.ndarray, mask: np.ndarray | None, weight: np.ndarray, bias: Any
) -> Arrays:
    groups = a.get("group", a.get("groups", 1))
    parts = a.get("deformable_group", a.get("deform_groups", 1))
    step_x, step_y = a.get("stride", [1, 1])
    pad_x, pad_y = a.get("padding", [0, 0])[:2]
    apart_x, apart_y = a.get("dilation", [1, 1])
    n, channels = x.shape[:2]
    count, _, rows, columns = weight.shape
    out = np.zeros((n, count, *offset.shape[2:]))
    each = channels // parts
    for image, oy, ox in np.ndindex(n, *offset.shape[2:]):
        patch = np.zeros((channels, rows, columns))
        for part, i, j in np.ndindex(parts, rows, columns):
            point = (part * rows + i) * columns + j
            y = oy * step_y - pad_y + i * apart_y + float(offset[image, 2 * point, oy, ox])
            z = ox * step_x - pad_x + j * apart_x + float(offset[image, 2 * point + 1, oy, ox])
            mine = slice(part * each, (part + 1) * each)
            factor = 1.0 if mask is None else float(mask[image, point, oy, ox])
            patch[mine, i, j] = bilinear(x[image, mine].astype(np.float64), y, z) * factor
        for k in range(count):
            first = k // (count // groups) * (channels // groups)
            taken = patch[first : first + channels // groups]
            out[image, k, oy, ox] = (taken * weight[k]).sum() + (0 if bias is None else bias[k])
    return [out.astype(x.dtype)]


def modulated(a: Attributes, x: Arrays) -> Arrays:
    return convolution(a, *x[:4], x[4] if len(x) > 4 else None)


def plain(a: Attributes, x: Arrays) -> Arrays:
    return convolution(a, x[0], x[1], None, x[2], None)


def attention(x: Arrays) -> np.ndarray:
    value, shapes, starts, places, weights = x
    n, queries, heads, levels, points, _ = places.shape
    out = np.zeros((n, queries, heads, value.shape[3]))
    for image, q, m, level, p in np.ndindex(n, queries, heads, levels, points):
        height, width = shapes[level].tolist()
        pixels = value[image, starts[level] : starts[level] + height * width, m].astype(np.float64)
        x_at, y_at = places[image, q, m, level, p].astype(np.float64)
        grid = pixels.T.reshape(-1, height, width)
        sample = bilinear(grid, y_at * height - 0.5, x_at * width - 0.5)
        out[image, q, m] += float(weights[image, q, m, level, p]) * sample
    return out.astype(value.dtype)


def attention_merged(a: Attributes, x: Arrays) -> Arrays:
    out = attention(x)
    return [out.reshape(*out.shape[:2], -1)]


REFERENCES = {
    "MMCVDeformConv2d": plain,
    "MMCVModulatedDeformConv2d": modulated,
    "MMCVMultiScaleDeformableAttention": attention_merged,
    "ModulatedDeformConv2d": modulated,
    "MultiscaleDeformableAttnPlugin_TRT": lambda a, x: [attention(x)],
}
