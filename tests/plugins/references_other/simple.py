"""Elementwise, picking, scattering, normalising and interpolating plugins: loops, element by element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

F = np.float32
Arrays = list[np.ndarray]
Attributes = dict[str, Any]


def resize_nearest(a: Attributes, x: Arrays) -> Arrays:
    scale = F(a["scale"])
    n, c, height, width = x[0].shape
    out = np.zeros((n, c, int(F(height) * scale), int(F(width) * scale)), F)
    for y, z in itertools.product(range(out.shape[2]), range(out.shape[3])):
        out[:, :, y, z] = x[0][:, :, int(F(y) / scale), int(F(z) / scale)]
    return [out]


def special_slice(a: Attributes, x: Arrays) -> Arrays:
    return [np.stack([x[0][..., i] for i in range(4)], axis=-1)]


def batch_tile(a: Attributes, x: Arrays) -> Arrays:
    return [np.concatenate([x[1]] * len(x[0]))]


def leaky(a: Attributes, x: Arrays) -> Arrays:
    return [np.where(x[0] > 0, x[0], x[0] * F(a["negSlope"]))]


def clip(a: Attributes, x: Arrays) -> Arrays:
    limits = [a["clipMin"], a["clipMax"]]
    dtype = x[0].dtype
    low, high = [np.trunc(v) if dtype == np.int32 else F(v) for v in limits]
    out = np.zeros_like(x[0])
    for i, value in np.ndenumerate(x[0]):
        raised = value if value > low else low
        out[i] = raised if raised < high else high
    return [out]


def coord_conv(a: Attributes, x: Arrays) -> Arrays:
    n, c, height, width = x[0].shape
    out = np.zeros((n, c + 2, height, width), x[0].dtype)
    out[:, :c] = x[0]
    memory = out[:, c:].reshape(n, -1)  # both channels one after the other
    for index in range(height * width):
        memory[:, index] = -1 + (index // width) * F(2 / (width - 1))
        other = index + height * width
        memory[:, other] = -1 + (other % height) * F(2 / (height - 1))
    out[:, c:] = memory.reshape(n, 2, height, width)
    return [out]


def scatter_nd(a: Attributes, x: Arrays) -> Arrays:
    out = x[0].copy()
    for place in np.ndindex(x[1].shape[:-1]):
        out[tuple(x[1][place])] = x[2][place]
    return [out]


COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda p, q: p + q,
    "mean": lambda p, q: p + q,
    "mul": lambda p, q: p * q,
    "max": max,
    "min": min,
}


def scatter_elements(a: Attributes, x: Arrays) -> Arrays:
    out = x[0].astype(np.float64 if x[0].dtype.kind == "f" else x[0].dtype)
    for place in np.ndindex(x[1].shape):
        target = list(place)
        target[a.get("axis", 0)] = int(x[1][place])
        at = tuple(target)
        out[at] = COMBINE[a["reduction"]](out[at], x[2][place])
    return [out.astype(x[0].dtype)]


# -- normalisation --------------------------------------------------------------------------------------


def normal(values: np.ndarray, epsilon: float) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.mean()) / math.sqrt(values.var() + epsilon)


def instance_norm(a: Attributes, x: Arrays) -> Arrays:
    scale, bias = (a["scales"], a["bias"]) if len(x) == 1 else x[1:]
    out = np.zeros(x[0].shape)
    default = 0.0 if len(x) == 1 else 1e-5
    for n, c in np.ndindex(x[0].shape[:2]):
        out[n, c] = normal(x[0][n, c], a.get("epsilon", default)) * scale[c] + bias[c]
    if a.get("relu", 0) > 0:
        out = np.where(out < 0, out * a.get("alpha", 0.0), out)
    return [out.astype(x[0].dtype)]


def group_norm(a: Attributes, x: Arrays) -> Arrays:
    groups = a.get("num_groups", 1)
    out = np.zeros(x[0].shape)
    each = x[0].shape[1] // groups
    for n, g in np.ndindex(len(x[0]), groups):
        mine = slice(g * each, (g + 1) * each)
        out[n, mine] = normal(x[0][n, mine], a.get("eps", 1e-5))
    for c in range(x[0].shape[1]):
        out[:, c] = out[:, c] * x[1][c] + x[2][c]
    return [out.astype(F)]


# -- interpolation --------------------------------------------------------------------------------------


def source(coordinate: float, size: int, a: Attributes) -> float:
    """Where grid_sample looks, after mirroring and clamping."""
    align = a.get("align_corners", 0)
    at = (coordinate + 1) / 2 * (size - 1) if align else ((coordinate + 1) * size - 1) / 2
    padding = a.get("padding_mode", 0)
    if padding == 2:
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        while high > low and not low <= at <= high:
            at = 2 * low - at if at < low else 2 * high - at
        if high == low:
            at = 0.0
    return min(max(at, 0.0), size - 1.0) if padding else at


def grid_sample(a: Attributes, x: Arrays) -> Arrays:
    image, grid = x[0].astype(np.float64), x[1].astype(np.float64)
    sizes = image.shape[2:]
    out = np.zeros((*image.shape[:2], *grid.shape[1:-1]))
    for place in np.ndindex(grid.shape[:-1]):
        n, rest = place[0], place[1:]
        at = [source(grid[place][len(sizes) - 1 - i], s, a) for i, s in enumerate(sizes)]
        if a.get("interpolation_mode", 0):
            pixels = [(tuple(int(math.copysign(math.floor(abs(v) + 0.5), v)) for v in at), 1.0)]
        else:
            low = [math.floor(v) for v in at]
            pixels = []
            for corner in itertools.product((0, 1), repeat=len(sizes)):
                weight = math.prod(
                    v - f if up else 1 - (v - f) for v, f, up in zip(at, low, corner, strict=True)
                )
                pixels.append((tuple(f + up for f, up in zip(low, corner, strict=True)), weight))
        for pixel, weight in pixels:
            if all(0 <= p < s for p, s in zip(pixel, sizes, strict=True)):
                out[(n, slice(None), *rest)] += weight * image[(n, slice(None), *pixel)]
    return [out.astype(F)]


def cubic(distance: float) -> float:
    d = abs(distance)
    if d <= 1:
        return (1.25 * d - 2.25) * d * d + 1
    return ((-0.75 * d + 3.75) * d - 6) * d + 3 if d < 2 else 0.0


def bicubic(a: Attributes, x: Arrays) -> Arrays:
    image = x[0].astype(np.float64)
    before = image.shape[2:]
    after = [int(s) * n for s, n in zip(a["scale_factor"], before, strict=True)]
    align = a.get("align_corners", 1)
    exact = align and after[0] > 1 and after[1] > 1
    sums = []
    for i in range(2):
        scale = (before[i] - 1) / (after[i] - 1) if exact else before[i] / after[i]
        matrix = np.zeros((after[i], before[i]))
        for row in range(after[i]):
            at = scale * row if align else scale * (row + 0.5) - 0.5
            for k in range(-1, 3):
                pixel = math.floor(at) + k
                matrix[row, min(max(pixel, 0), before[i] - 1)] += cubic(at - pixel)
        sums.append(matrix)
    return [np.einsum("ncyx,ay,bx->ncab", image, *sums).astype(F)]


# -- point clouds ---------------------------------------------------------------------------------------


def voxels(a: Attributes, x: Arrays) -> Arrays:
    points, counts = x
    low, high = np.array(a["point_cloud_range"], F).reshape(2, 3)
    side = np.array(a["voxel_size"], F)
    columns, rows = np.rint((high - low)[:2] / side[:2]).astype(int)
    keep, most = a["max_voxels"], a["max_num_points_per_voxel"]
    out = np.zeros((len(points), keep, most, 10), F)
    places, number = np.zeros((len(points), keep, 4), np.int32), np.zeros(len(points), np.int32)
    for n, cloud in enumerate(points):
        pillars: dict[int, list[np.ndarray]] = {}
        for point in cloud[: counts[n]]:
            if (point[:3] < low).any() or (point[:3] >= high).any():
                continue
            column, row, _ = np.floor((point[:3] - low) / side).astype(int)
            if row * columns + column < rows * columns:
                pillars.setdefault(row * columns + column, []).append(point)
        for slot, (cell, members) in enumerate(sorted(pillars.items())[:keep]):
            row, column = divmod(cell, columns)
            places[n, slot] = (0, 0, row, column)
            centre = side / 2 + np.array([column, row, 0], F) * side + low
            mean = np.mean([m[:3].astype(np.float64) for m in members[:most]], axis=0)
            for i, point in enumerate(members[:most]):
                out[n, slot, i] = np.concatenate([point, point[:3] - mean, point[:3] - centre])
        number[n] = min(len(pillars), keep)
    return [out[..., : a["voxel_feature_num"]], places, number]


# -- the rest -------------------------------------------------------------------------------------------


def split(a: Attributes, x: Arrays) -> Arrays:
    out, at = [], 0
    for length in a["output_lengths"]:
        out.append(np.take(x[0], range(at, at + length), axis=a["axis"]))
        at += length
    return out


def topk(a: Attributes, x: Arrays) -> Arrays:
    axis = a.get("axis", -1)
    rows = np.moveaxis(x[0], axis, -1)
    picked = np.zeros((*rows.shape[:-1], a["k"]), np.int32)
    for place in np.ndindex(rows.shape[:-1]):
        keys = [(-v if a["is_largest"] else v, i) for i, v in enumerate(rows[place].tolist())]
        picked[place] = [i for _, i in sorted(keys)[: a["k"]]]
    values = np.take_along_axis(rows, picked.astype(np.int64), -1)
    return [np.moveaxis(values, -1, axis), np.moveaxis(picked, -1, axis)]


REFERENCES = {
    "BatchTilePlugin_TRT": batch_tile,
    "Clip_TRT": clip,
    "CoordConvAC": coord_conv,
    "GroupNormalizationPlugin": group_norm,
    "InstanceNormalization_TRT": instance_norm,
    "LReLU_TRT": leaky,
    "ResizeNearest_TRT": resize_nearest,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "SpecialSlice_TRT": special_slice,
    "Split": split,
    "TRTBicubicInterpolate": bicubic,
    "TRTInstanceNormalization": instance_norm,
    "TopkLastDim": topk,
    "VoxelGeneratorPlugin": voxels,
    "grid_sampler": grid_sample,
}
