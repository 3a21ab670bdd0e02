"""Body of ROIAlign_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.roi_sampling import aligned_axis, columns, int64, pixel_table, sample_boxes

if TYPE_CHECKING:
    import onnx


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
