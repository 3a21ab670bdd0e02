"""Per-class non-maximum suppression through ONNX Runtime's own kernel, merged as TensorFlow exports merge it.

This is the yardstick that a graph's post-processing is read against. It shares no code with the native form
that replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.evaluate import Evaluator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NmsParameters:
    """Operands of a NonMaxSuppression node (ONNX operator of that name, opset 11)."""

    max_per_class: int
    iou_threshold: float
    score_threshold: float
    center_point_box: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected boxes of one image, best first: box indices, classes (columns of the scores), scores."""

    anchors: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]


@lru_cache(maxsize=8)
def _session(center_point_box: int) -> Evaluator:
    import onnx

    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 13]>
        nms (float[b, n, 4] boxes, float[b, c, n] scores, int64 m, float t, float s) => (int64[k, 3] picked) {{
            picked = NonMaxSuppression <center_point_box = {center_point_box}> (boxes, scores, m, t, s)
        }}
        """
    )
    return Evaluator(model, threads=1)


def select(boxes: NDArray[Any], scores: NDArray[Any], parameters: NmsParameters) -> list[Selection]:
    """Suppress per class, then sort all survivors of an image.

    Args:
        boxes: [B, N, 4] float32.
        scores: [B, N, C] float32.
        parameters: Operands of the operator.

    Returns:
        One selection per image; equal scores are ordered by class, then by order of selection (the box with
        the lower index first), as a stable sort of the concatenated per-class results gives them.
    """
    picked = _session(parameters.center_point_box).run(
        {
            "boxes": np.ascontiguousarray(boxes, np.float32),
            "scores": np.ascontiguousarray(scores.transpose(0, 2, 1), np.float32),
            "m": np.asarray(parameters.max_per_class, np.int64),
            "t": np.asarray(parameters.iou_threshold, np.float32),
            "s": np.asarray(parameters.score_threshold, np.float32),
        }
    )["picked"]
    result = []
    for image in range(boxes.shape[0]):
        rows = picked[picked[:, 0] == image]
        values = scores[image, rows[:, 2], rows[:, 1]]
        order = np.argsort(-values, kind="stable")
        result.append(Selection(rows[order, 2], rows[order, 1], values[order]))
    return result
