"""Region proposals of the `Proposal` and `ProposalDynamic` plugins: anchors, decoding, suppression.

Source: plugin/proposalPlugin and plugin/common/kernels/proposalKernel.cu of NVIDIA/TensorRT, releases before 11.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins import region_proposals as proposals
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted

LAST = -3.0e38
"""Score of boxes that are too small: behind all others, but still in the list."""

NOBODY = -3.2e38


def proposal_problems(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Inputs whose channels are not those of the anchors."""
    anchors = len(attributes["anchor_sizes"]) * len(attributes["anchor_ratios"])
    problems = []
    for given, name, each in zip(types, ("scores", "deltas"), (1, 4), strict=False):
        have = None if given is None or given.shape is None else given.shape[1]
        if isinstance(have, int) and have != anchors * each:
            problems.append(
                f"{name} has {have} channels; {len(attributes['anchor_sizes'])} anchor_sizes and "
                f"{len(attributes['anchor_ratios'])} anchor_ratios make {anchors * each}"
            )
    return problems


def fit_channels(
    b: Body,
    plugin: str,
    names: Sequence[str],
    attributes: Mapping[str, Any],
    types: Sequence[TensorType | None],
) -> Fitted | None:
    """More channels than anchors, for one image: the kernel copies the first ones (extractFgScores_gpu).

    For more images it would take the others of one image for the next one's, so these stay a mistake.
    """
    sizes, ratios = attributes.get("anchor_sizes"), attributes.get("anchor_ratios")
    if len(types) != 2 or not isinstance(sizes, list) or not isinstance(ratios, list):
        return None
    anchors = len(sizes) * len(ratios)
    inputs: list[tuple[str, TensorType | None]] = []
    notes = []
    for name, given, title, wanted in zip(
        names, types, ("scores", "deltas"), (anchors, 4 * anchors), strict=True
    ):
        shape = given.shape if given is not None else None
        if given is None or shape is None or len(shape) != 4 or shape[0] != 1:
            return None
        if isinstance(shape[1], int) and shape[1] > wanted > 0:
            notes.append(f"{title} has {shape[1]} channels, of which its kernel reads the first {wanted}")
            inputs.append((b.slice(name, 1, 0, wanted), TensorType(given.dtype, (1, wanted, *shape[2:]))))
        else:
            inputs.append((name, given))
    if not notes:
        return None
    text = (
        f"{plugin}: {' and '.join(notes)} ({len(sizes)} anchor_sizes, {len(ratios)} anchor_ratios); only these are "
        "given to it"
    )
    doubled = types[0] is not None and types[0].shape is not None and types[0].shape[1] == 2 * anchors
    # Where scores hold both classes, the order of Caffe (and of RPROI_TRT) has background first.
    hint = (
        ". Two scores for each anchor are usually background first: take the object's in front of the node"
        if doubled
        else ""
    )
    return Fitted(tuple(inputs), text + hint)


def _grid(a: Mapping[str, Any], height: int, width: int) -> NDArray[np.float32]:
    """Centre x and y, width and height of all anchors, [1, A * H * W, 4] by anchor, row and column."""
    roots = np.sqrt(np.array(a["anchor_ratios"], np.float32))
    sides = np.array(a["anchor_sizes"], np.float32)
    wide = (sides[:, None] * roots[None, :]).reshape(-1)
    high = (sides[:, None] / roots[None, :]).reshape(-1)
    which, y, x = np.meshgrid(np.arange(len(wide)), np.arange(height), np.arange(width), indexing="ij")
    stride = np.float32(a["rpn_stride"])
    parts = [(x + np.float32(0.5)) * stride, (y + np.float32(0.5)) * stride, wide[which], high[which]]
    return np.stack(parts, axis=-1).reshape(1, -1, 4).astype(np.float32)


def emit_proposals(b: Body, node: ConfiguredNode) -> str:
    """The proposals [B, post_nms_top_n, 4, 1]: (y1, x1, y2, x2) over the last pixel of the image.

    Args:
        b: Where the nodes go.
        node: Inputs scores [B, A, H, W] and deltas [B, 4A, H, W].

    Raises:
        ConversionError: the size of the feature map is not known, or it has too many boxes.
    """
    a = node.attributes
    scores, deltas = node.input_names
    height, width = node.static(0, 2), node.static(0, 3)
    anchors = len(a["anchor_sizes"]) * len(a["anchor_ratios"])
    total, rows = anchors * height * width, a["post_nms_top_n"]
    offsets = b.transpose(b.reshape(deltas, 0, anchors, 4, height * width), 0, 1, 3, 2)
    boxes = _decoded(b, a, b.const(_grid(a, height, width)), b.reshape(offsets, 0, total, 4))
    x1, y1, x2, y2 = b.split(boxes, 2, 4)
    least = b.scalar(a["roi_min_size"])
    small = b.logical_or(b.greater_equal(least, b.sub(x2, x1)), b.greater_equal(least, b.sub(y2, y1)))
    ranked = b.where(b.squeeze(small, 2), b.scalar(LAST), b.reshape(scores, 0, total))
    best = proposals.best_candidates(b, boxes, ranked, total, a["pre_nms_top_n"])
    # The kernel's IoU counts the last pixel: the same as boxes that end a pixel later.
    longer = b.add(best.boxes, b.floats(0.0, 0.0, 1.0, 1.0))
    found = proposals.suppress(
        b,
        node,
        proposals.Candidates(longer, best.scores, best.number, best.best),
        rows=rows,
        iou_threshold=a["nms_iou_threshold"],
        score_threshold=NOBODY,
    )
    x1, y1, x2, y2 = b.split(proposals.picked(b, best.boxes, found, rows), 2, 4)
    down, right = b.scalar(a["input_height"] - 1.0), b.scalar(a["input_width"] - 1.0)
    parts = [b.div(y1, down), b.div(x1, right), b.div(y2, down), b.div(x2, right)]
    return b.unsqueeze(b.concat(parts, 2), 3)


def _decoded(b: Body, a: Mapping[str, Any], grid: str, deltas: str) -> str:
    """Boxes (x1, y1, x2, y2) in pixels, clamped to the last one."""
    x, y, w, h = b.split(grid, -1, 4)
    dx, dy, log_w, log_h = b.split(deltas, -1, 4)
    half, lows, highs = b.scalar(0.5), [], []
    for middle, extent, shift, log in ((x, w, dx, log_w), (y, h, dy, log_h)):
        at = b.add(middle, b.mul(extent, shift))
        size = b.mul(b.op("Exp", log), extent)
        low = b.sub(at, b.mul(size, half))
        lows.append(low)
        highs.append(b.add(size, low))
    last = b.floats(*((a["input_width"] - 1.0, a["input_height"] - 1.0) * 2))
    return b.minimum(b.maximum(b.concat([*lows, *highs], -1), b.scalar(0.0)), last)
