"""Body of MMCVRoiAlign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.roi_sampling import aligned_axis, columns, int64, pixel_table, sample_boxes
from surgery.plugins.successor import Successor, call

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


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


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """ROIAlign_TRT, where both sample alike; boxes and their images are apart there."""
    a = node.attributes
    found = []
    for version in ("2", "1"):
        b = Body(node.opset)
        x, rois = node.input_names
        images = b.cast(b.squeeze(b.slice(rois, 1, 0, 1), 1), np.int32)
        (y,) = call(
            b,
            "ROIAlign_TRT",
            [x, b.slice(rois, 1, 1, 5), images],
            version=version,
            coordinate_transformation_mode=int(a["aligned"]),
            mode=int(a["mode"] == "avg"),
            output_height=a["output_height"],
            output_width=a["output_width"],
            sampling_ratio=a["sampling_ratio"],
            spatial_scale=float(a["spatial_scale"]),
        )
        found.append(Successor(f"ROIAlign_TRT version {version}", node.function(b, [y])))
    return found
