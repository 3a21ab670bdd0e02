"""Body of MultilevelCropAndResize_TRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
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

FIRST_LIMIT = 224 * 224 / 4.0
"""Area in pixels above which a box belongs to level 3; each further level starts at four times that."""

FIRST_LEVEL = 2


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    roi, number, bins = node.input_names[0], node.static(0, 1), a["pooled_size"]
    pixels = pixel_table(b, node, [1, 2, 3, 4, 5])
    y1, x1, y2, x2 = columns(b, b.reshape(roi, -1, 4))
    level = level_above(b, b.mul(b.sub(y2, y1), b.sub(x2, x1)), [FIRST_LIMIT * 4**i for i in range(4)])
    strides = b.const([2.0 ** (FIRST_LEVEL + i) for i in range(5)])
    stride = b.unsqueeze(b.gather(strides, level, axis=0), 1)
    rows, cols = (
        Axis(
            b.div(low, stride),
            b.div(b.div(b.sub(high, low), stride), b.scalar(float(bins))),
            bins,
            size,
            offset=0.5,
        )
        for low, high, size in zip((y1, x1), (y2, x2), level_sizes(b, pixels, level), strict=True)
    )
    found = sample_boxes(b, pixels, image_numbers(b, roi, number), rows, cols, level=level)

    zero = b.scalar(0.0)
    valid = b.logical_and(b.less(y1, y2), b.less(x1, x2))
    for value, full in ((y1, 1), (x1, 2), (y2, 1), (x2, 2)):
        most = b.scalar(float(a["image_size"][full]))
        within = b.logical_and(b.greater_equal(value, zero), b.greater_equal(most, value))
        valid = b.logical_and(valid, within)
    found = b.where(b.unsqueeze(valid, 2, 3), found, zero)
    return node.function(b, [b.reshape(found, -1, number, pixels.channels, bins, bins)])
