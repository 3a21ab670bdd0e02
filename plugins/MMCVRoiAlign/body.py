"""Body of MMCVRoiAlign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.roi_sampling import aligned_axis, columns, int64, pixel_table, sample_boxes

if TYPE_CHECKING:
    import onnx


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    pixels = pixel_table(b, node, [0])
    height, width = pixels.sizes[0]
    image, *corners = columns(b, node.input_names[1], 5)
    x1, y1, x2, y2 = (b.mul(c, b.scalar(a["spatial_scale"])) for c in corners)
    rows, cols = (
        aligned_axis(
            b,
            low,
            high,
            bins=bins,
            size=b.scalar(float(size)),
            sampling_ratio=a["sampling_ratio"],
            half_pixel=bool(a["aligned"]),
        )
        for low, high, bins, size in (
            (y1, y2, a["output_height"], height),
            (x1, x2, a["output_width"], width),
        )
    )
    pooling = "mean" if a["mode"] == "avg" else "max"
    images = int64(b, b.squeeze(image, 1))
    found = sample_boxes(b, pixels, images, rows, cols, pooling=pooling, empty=SMALLEST)
    return node.function(b, [found])
