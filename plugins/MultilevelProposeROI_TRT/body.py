"""Body of MultilevelProposeROI_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins import region_proposals as proposals
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.native_nms import best_first

if TYPE_CHECKING:
    import onnx

LEVELS = (2, 3, 4, 5, 6)
SCALE = 8.0
SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""What the plugin has as constants: the side of an anchor in strides, and (width, height) of the shapes."""


def anchors(level: int, height: int, width: int) -> NDArray[np.float32]:
    """[A, 4] in pixels, by row, column and shape."""
    stride = 2**level
    y, x, shape = np.meshgrid(
        np.arange(stride // 2, height, stride),
        np.arange(stride // 2, width, stride),
        np.arange(len(SHAPES)),
        indexing="ij",
    )
    sides = np.array(SHAPES) * stride * SCALE
    half_w, half_h = sides[shape, 0] / 2, sides[shape, 1] / 2
    corners = np.stack([y - half_h, x - half_w, y + half_h, x + half_w], axis=-1)
    return corners.reshape(-1, 4).astype(np.float32)


def number(level: int, height: int, width: int) -> int:
    """Anchors of one level."""
    half, stride = 2 ** (level - 1), 2**level
    return len(range(half, height, stride)) * len(range(half, width, stride)) * len(SHAPES)


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    _, height, width = attributes["image_size"]
    problems = [f"the image is too small for level {n}" for n in LEVELS if not number(n, height, width)]
    for given, level in zip(types[::2], LEVELS, strict=False):
        have = None if given is None or given.shape is None else given.shape[1]
        expected = number(level, height, width)
        if isinstance(have, int) and have != expected:
            problems.append(
                f"level {level} has {have} anchors; an image of {height} x {width} has {expected}"
            )
    return problems


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    _, height, width = a["image_size"]
    rows = a["keep_topk"]
    b = Body(node.opset)
    boxes, scores = [], []
    for i, level in enumerate(LEVELS):
        delta, score = node.input_names[2 * i : 2 * i + 2]
        total = number(level, height, width)
        grid = b.const(anchors(level, height, width)[None])
        deltas = b.reshape(delta, 0, total, 4)
        decoded = proposals.decode_pixels(b, grid, deltas, (1.0, 1.0, 1.0, 1.0), height, width)
        raw = b.reshape(score, 0, total)
        # Nothing below the threshold can suppress what is above it, so it is left out at once.
        passes = b.greater_equal(raw, b.scalar(a["fg_threshold"]))
        ranked = b.where(passes, raw, b.scalar(0.0))
        best = proposals.best_candidates(b, decoded, ranked, total, a["prenms_topk"])
        seen = proposals.Candidates(
            proposals.without_inverted(b, best.boxes),
            proposals.sorted_score(b, best.scores),
            best.number,
            best.best,
        )
        found = proposals.suppress(
            b, node, seen, rows=rows, iou_threshold=a["iou_threshold"], score_threshold=0.0
        )
        boxes.append(proposals.picked(b, best.boxes, found, rows))
        scores.append(found.scores)
    every, ranks = b.concat(boxes, 1), b.concat(scores, 1)
    length = rows * len(LEVELS)
    order = best_first(b, ranks, b.const(np.arange(length).reshape(1, -1)), length, rows)
    index = b.expand(b.unsqueeze(b.cast(order, np.int32), 2), 1, 1, 4)
    return node.function(b, [b.gather_elements(every, index, 1)])
