"""Body of ProposalLayer_TRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins import region_proposals as proposals
from surgery.plugins.definition import ConfiguredNode, TensorType

if TYPE_CHECKING:
    import onnx

STRIDES = (4, 8, 16, 32, 64)
SCALES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
"""What the plugin has as constants (Mask R-CNN with ResNet-101)."""


def anchors(height: int, width: int) -> NDArray[np.float32]:
    """[A, 4] in parts of the image, by level, row, column and ratio."""
    levels = []
    for stride, scale in zip(STRIDES, SCALES, strict=True):
        y, x, root = np.meshgrid(
            np.arange(0, height, stride), np.arange(0, width, stride), np.sqrt(RATIOS), indexing="ij"
        )
        h, w = scale / root, scale * root
        corners = np.stack(
            [
                (y - h / 2) / (height - 1),
                (x - w / 2) / (width - 1),
                (y + h / 2 - 1) / (height - 1),
                (x + w / 2 - 1) / (width - 1),
            ],
            axis=-1,
        )
        levels.append(corners.reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def number(a: Mapping[str, Any]) -> int:
    """How many anchors the image has."""
    _, height, width = a["image_size"]
    return sum(-(-height // s) * -(-width // s) * len(RATIOS) for s in STRIDES)


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    channels, height, width = attributes["image_size"]
    if channels != 3 or height < 2 or width < 2:
        return [f"image_size is {attributes['image_size']}; expected 3 channels and at least 2 x 2 pixels"]
    given = types[0] if types else None
    have = None if given is None or given.shape is None else given.shape[1]
    if isinstance(have, int) and have != number(attributes):
        return [f"{have} anchors given; an image of {height} x {width} has {number(attributes)}"]
    return []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    a = node.attributes
    _, height, width = a["image_size"]
    total = number(a)
    b = Body(node.opset)
    scores, deltas = node.input_names
    foreground = b.reshape(b.slice(scores, 2, 1, 2), 0, total)
    grid = b.const(anchors(height, width)[None])
    boxes = proposals.decode_normalised(b, grid, b.reshape(deltas, 0, total, 4))
    candidates = proposals.best_candidates(b, boxes, foreground, total, a["prenms_topk"])
    # Boxes with lower scores would be dropped in the end, and cannot suppress others.
    found = proposals.suppress(
        b,
        node,
        candidates,
        rows=a["keep_topk"],
        iou_threshold=a["iou_threshold"],
        score_threshold=proposals.LOWEST_WRITTEN,
    )
    return node.function(b, [found.boxes])
