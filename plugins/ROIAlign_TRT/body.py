"""Body of ROIAlign_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.roi_sampling import aligned_axis, columns, int64, pixel_table, sample_boxes
from surgery.plugins.successor import Successor

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    _, rois, images = node.input_names
    pixels = pixel_table(b, node, [0])
    height, width = pixels.sizes[0]
    x1, y1, x2, y2 = columns(b, b.mul(rois, b.scalar(a["spatial_scale"])))
    rows, cols = (
        aligned_axis(
            b,
            low,
            high,
            bins=bins,
            size=b.scalar(float(size)),
            sampling_ratio=a["sampling_ratio"],
            half_pixel=a["coordinate_transformation_mode"] == 1,
        )
        for low, high, bins, size in (
            (y1, y2, a["output_height"], height),
            (x1, x2, a["output_width"], width),
        )
    )
    pooling = "mean" if a["mode"] == 1 else "max-of-products"
    return node.function(b, [sample_boxes(b, pixels, int64(b, images), rows, cols, pooling=pooling)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """ONNX RoiAlign, which says how coordinates are shifted since opset 16."""
    a = node.attributes
    if node.opset < 16:
        return []
    b = Body(node.opset)
    x, rois, images = node.input_names
    y = b.op(
        "RoiAlign",
        x,
        rois,
        b.cast(images, np.int64),
        coordinate_transformation_mode="half_pixel"
        if a["coordinate_transformation_mode"]
        else "output_half_pixel",
        mode="avg" if a["mode"] else "max",
        output_height=a["output_height"],
        output_width=a["output_width"],
        sampling_ratio=a["sampling_ratio"],
        spatial_scale=float(a["spatial_scale"]),
    )
    return [Successor("ONNX RoiAlign", node.function(b, [y]))]
