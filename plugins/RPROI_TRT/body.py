"""Body of RPROI_TRT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins import region_proposals as proposals
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.roi_pooling import pool_boxes, rounded
from surgery.plugins.roi_sampling import columns, image_numbers

if TYPE_CHECKING:
    import onnx

LAST = -3.0e38
"""Score of boxes that are too small: behind all others, but still in the list."""

NOBODY = -3.2e38


def _half_up(value: float) -> float:
    """C's round, of a positive number."""
    return math.floor(value + 0.5)


def anchor_sizes(a: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(width, height) of each anchor, ratios slow and scales fast."""
    stride = float(a["featureStride"])
    found = []
    for ratio in a["anchorsRatios"]:
        width = _half_up(math.sqrt(stride * stride / ratio))
        height = _half_up(width * ratio)
        found += [(width * scale, height * scale) for scale in a["anchorsScales"]]
    return found


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    problems = []
    for count, values in (("anchorsRatioCount", "anchorsRatios"), ("anchorsScaleCount", "anchorsScales")):
        if attributes[count] != len(attributes[values]):
            problems.append(
                f"{count} is {attributes[count]}, but {values} has {len(attributes[values])} entries"
            )
    anchors = attributes["anchorsRatioCount"] * attributes["anchorsScaleCount"]
    for given, name, each in zip(types, ("scores", "deltas"), (2, 4), strict=False):
        have = None if given is None or given.shape is None else given.shape[1]
        if isinstance(have, int) and have != anchors * each:
            problems.append(f"{name} has {have} channels; expected {anchors * each}")
    return problems


def _grid(a: Mapping[str, Any], height: int, width: int) -> NDArray[np.float32]:
    """Centre x and y, width and height of all anchors, [1, A * H * W, 4] by anchor, row and column."""
    stride = a["featureStride"]
    sizes = np.array(anchor_sizes(a))
    which, y, x = np.meshgrid(np.arange(len(sizes)), np.arange(height), np.arange(width), indexing="ij")
    middle = (stride - 1) / 2
    parts = [x * stride + middle, y * stride + middle, sizes[which, 0], sizes[which, 1]]
    return np.stack(parts, axis=-1).reshape(1, -1, 4).astype(np.float32)


def _decoded(b: Body, grid: str, deltas: str, limits: str) -> str:
    """Boxes (x1, y1, x2, y2), clamped to the last pixel; `limits` are width - 1 and height - 1, twice."""
    x, y, w, h = b.split(grid, -1, 4)
    dx, dy, log_w, log_h = b.split(deltas, -1, 4)
    half = b.scalar(0.5)
    lows, highs = [], []
    for middle, extent, shift, log in ((x, w, dx, log_w), (y, h, dy, log_h)):
        at = b.add(middle, b.mul(shift, extent))
        arm = b.mul(b.mul(b.op("Exp", log), extent), half)
        lows.append(b.sub(at, arm))
        highs.append(b.add(at, arm))
    return b.minimum(b.maximum(b.concat([*lows, *highs], -1), b.scalar(0.0)), limits)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    b = Body(node.opset)
    scores, deltas, _, info = node.input_names
    height, width = node.static(2, 2), node.static(2, 3)
    anchors = a["anchorsRatioCount"] * a["anchorsScaleCount"]
    total, rows = anchors * height * width, a["nmsMaxOut"]

    foreground = b.reshape(b.slice(scores, 1, anchors, 2 * anchors), 0, total)
    offsets = b.transpose(b.reshape(deltas, 0, anchors, 4, height * width), 0, 1, 3, 2)
    image = b.reshape(info, -1, 1, 3)
    image_h, image_w, scale = b.split(image, 2, 3)
    last = b.sub(b.concat([image_w, image_h, image_w, image_h], 2), b.scalar(1.0))
    boxes = _decoded(b, b.const(_grid(a, height, width)), b.reshape(offsets, 0, total, 4), last)

    one = b.scalar(1.0)
    x1, y1, x2, y2 = b.split(boxes, 2, 4)
    least = b.mul(scale, b.scalar(a["minBoxSize"]))
    small = b.logical_or(b.less(b.add(b.sub(x2, x1), one), least), b.less(b.add(b.sub(y2, y1), one), least))
    ranked = b.where(b.squeeze(small, 2), b.scalar(LAST), foreground)
    best = proposals.best_candidates(b, boxes, ranked, total, a["preNmsTop"])
    # The kernel's IoU counts the last pixel: the same as boxes that end a pixel later.
    longer = b.add(best.boxes, b.floats(0.0, 0.0, 1.0, 1.0))
    found = proposals.suppress(
        b,
        node,
        proposals.Candidates(longer, best.scores, best.number, best.best),
        rows=rows,
        iou_threshold=a["iouThreshold"],
        score_threshold=NOBODY,
    )
    rois = proposals.picked(b, best.boxes, found, rows)
    scaled = rounded(b, b.mul(b.reshape(rois, -1, 4), b.scalar(a["spatialScale"])))
    left, top, right, bottom = columns(b, scaled)
    images = image_numbers(b, rois, rows)
    bins = (a["poolingH"], a["poolingW"])
    pooled = pool_boxes(b, node, 2, images, (left, top, right, bottom), bins)
    return node.function(b, [b.unsqueeze(rois, 1), b.reshape(pooled, -1, rows, node.static(2, 1), *bins)])
