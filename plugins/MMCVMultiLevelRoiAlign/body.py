"""Body of MMCVMultiLevelRoiAlign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_sampling import (
    aligned_axis,
    columns,
    int64,
    level_above,
    level_sizes,
    pixel_table,
    sample_boxes,
)

if TYPE_CHECKING:
    import onnx

MOST_LEVELS = 10
"""Levels that the kernel has room for."""


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    strides, levels = len(attributes["featmap_strides"]), len(types) - 1
    if levels > 0 and strides < levels:
        return [f"featmap_strides has {strides} entries for {levels} levels"]
    return [f"{levels} levels; the plugin takes {MOST_LEVELS}"] if levels > MOST_LEVELS else []


def _scaled(b: Body, low: str, high: str, factor: float) -> tuple[str, str]:
    """A side of the boxes, scaled about its middle; it counts one pixel more while it is scaled."""
    if factor <= 0:
        return low, high
    half = b.scalar(0.5)
    middle = b.mul(b.add(low, high), half)
    extent = b.add(b.sub(high, low), b.scalar(1.0))
    arm = b.sub(b.mul(extent, b.scalar(factor * 0.5)), half)
    return b.sub(middle, arm), b.add(middle, arm)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    levels = len(node.inputs) - 1
    pixels = pixel_table(b, node, range(1, levels + 1))
    image, x1, y1, x2, y2 = columns(b, node.input_names[0], 5)
    scale = b.op("Sqrt", b.mul(b.sub(y2, y1), b.sub(x2, x1)))
    # The kernel rounds log2(scale / finest_scale + 1e-6) down; the powers of 2 are compared with instead.
    relative = b.add(b.div(scale, b.scalar(float(a["finest_scale"]))), b.scalar(1e-6))
    limits = [2.0**i for i in range(1, levels)]
    level = level_above(b, relative, limits, reaches=True) if limits else int64(b, b.squeeze(image, 1))
    if not limits:
        level = b.sub(level, level)
    strides = b.const([1.0 / s for s in a["featmap_strides"][:levels]])
    stride = b.unsqueeze(b.gather(strides, level, axis=0), 1)
    sides = [_scaled(b, low, high, a["roi_scale_factor"]) for low, high in ((y1, y2), (x1, x2))]
    rows, cols = (
        aligned_axis(
            b,
            b.mul(low, stride),
            b.mul(high, stride),
            bins=bins,
            size=size,
            sampling_ratio=a["sampling_ratio"],
            half_pixel=bool(a["aligned"]),
            clamp_negative=True,
        )
        for (low, high), bins, size in zip(
            sides, (a["output_height"], a["output_width"]), level_sizes(b, pixels, level), strict=True
        )
    )
    pooling = "mean" if a["pool_mode"] == 1 else "max"
    images = int64(b, b.squeeze(image, 1))
    found = sample_boxes(b, pixels, images, rows, cols, level=level, pooling=pooling, empty=SMALLEST)
    return node.function(b, [found])
