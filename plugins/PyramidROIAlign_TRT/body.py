"""Body of PyramidROIAlign_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_sampling import (
    Axis,
    columns,
    image_numbers,
    level_above,
    level_sizes,
    pixel_table,
    sample_boxes,
)

if TYPE_CHECKING:
    import onnx

LEGACY_SIDE = 1024
"""Side of the image that `legacy` counts with, whatever image_size says."""


@dataclass(frozen=True)
class Rules:
    """The attributes, with what `legacy` forces."""

    transform: int
    ratio: int
    y_first: bool
    absolute: bool
    plus_one: bool
    first_limit: float


def rules(a: Mapping[str, Any]) -> Rules:
    """What the attributes amount to; the limit is the box area, in parts of the image, above which level 3 starts."""
    if a["legacy"]:
        limit = 224 * 224 * 2.0 / (LEGACY_SIDE * LEGACY_SIDE) / 16.0
        return Rules(-1, 1, True, False, False, limit)
    height, width = a["image_size"]
    return Rules(
        a["roi_coords_transform"],
        a["sampling_ratio"],
        bool(a["roi_coords_swap"]),
        bool(a["roi_coords_absolute"]),
        bool(a["roi_coords_plusone"]),
        a["fpn_scale"] ** 2 / (height * width) / 4.0,
    )


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    if rules(attributes).transform == -1 and attributes["pooled_size"] == 1:
        return ["pooled_size is 1: roi_coords_transform -1 (which legacy forces) divides by pooled_size - 1"]
    return []


def _axis(b: Body, low: str, high: str, size: str, bins: int, rule: Rules) -> Axis:
    if rule.transform == -1:
        span = b.sub(size, b.scalar(1.0))
        start, end, parts, offset = b.mul(low, span), b.mul(high, span), bins - 1, 0.0
    else:
        shift, offset = {0: (0.0, 0.0), 1: (0.0, 0.5), 2: (0.5, 0.5)}[rule.transform]
        start, end, parts = b.mul(low, size), b.mul(high, size), bins
        if shift:
            start, end = b.sub(start, b.scalar(shift)), b.sub(end, b.scalar(shift))
    extent = b.sub(end, start)
    samples: int | str = rule.ratio
    if rule.ratio == 0:
        samples = b.maximum(b.op("Ceil", b.div(extent, b.scalar(float(bins)))), b.scalar(1.0))
    return Axis(start, b.div(extent, b.scalar(float(parts))), bins, size, samples, offset)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a, rule = node.attributes, rules(node.attributes)
    b = Body(node.opset)
    rois, number, bins = node.input_names[0], node.static(0, 1), a["pooled_size"]
    pixels = pixel_table(b, node, [1, 2, 3, 4])
    c0, c1, c2, c3 = columns(b, b.reshape(rois, -1, 4))
    pairs = [(c0, c2), (c1, c3)] if rule.y_first else [(c1, c3), (c0, c2)]
    corners, sides = [], []
    for (one, two), full in zip(pairs, a["image_size"], strict=True):
        most = b.scalar(float(full) if rule.absolute else 1.0)
        ends = [b.minimum(one, two), b.maximum(one, two)]
        ends = [b.maximum(b.minimum(e, most), b.scalar(0.0)) for e in ends]
        ends = [b.div(e, most) for e in ends] if rule.absolute else ends
        side = b.sub(ends[1], ends[0])
        corners.append(ends)
        sides.append(b.add(side, b.scalar(1.0 / full)) if rule.plus_one else side)
    limits = [rule.first_limit * 4**i for i in range(3)]
    level = level_above(b, b.mul(*sides), limits)
    sizes = level_sizes(b, pixels, level)
    rows, cols = (
        _axis(b, low, high, size, bins, rule) for (low, high), size in zip(corners, sizes, strict=True)
    )
    found = sample_boxes(b, pixels, image_numbers(b, rois, number), rows, cols, level=level)
    return node.function(b, [b.reshape(found, -1, number, pixels.channels, bins, bins)])
