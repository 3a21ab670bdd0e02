"""The bodies of mmdeploy's suppressions, of upright and of rotated boxes.

Source: csrc/mmdeploy/backend_ops/tensorrt/common_impl/nms of open-mmlab/mmdeploy 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.native_nms import NmsOutputs, NmsSpec, choose_form, emit_nms
from surgery.plugins.nms_forms import Selected
from surgery.plugins.region_proposals import without_inverted


def problems(a: Mapping[str, Any], types: Sequence[TensorType | None], width: int) -> list[str]:
    """Problems of a node beyond types and ranges; boxes have `width` numbers."""
    found = []
    if 0 < a["topk"] < a["keep_topk"]:
        found.append(
            f"keep_topk is {a['keep_topk']} but topk only {a['topk']}: the kernel would return without output"
        )
    shapes = [t.shape for t in types if t is not None and t.shape is not None]
    if len(shapes) == 2:
        if isinstance(shapes[1][2], int) and shapes[1][2] != a["num_classes"]:
            found.append(f"num_classes is {a['num_classes']}, but the scores have {shapes[1][2]} columns")
        if shapes[0][3] != width and isinstance(shapes[0][3], int):
            found.append(f"boxes have {shapes[0][3]} numbers; expected {width}")
    return found


def fit_boxes(
    b: Body, plugin: str, names: Sequence[str], types: Sequence[TensorType | None], width: int
) -> Fitted | None:
    """Boxes [B, N, width] that all classes share, as mmdetection's heads have them: [B, N, 1, width].

    The kernel takes rank 4 alone; mmdeploy's own exporter (mmcv/ops/nms.py, multiclass_nms_static) adds this dim.
    """
    given = types[0] if len(types) == 2 else None
    if given is None or given.shape is None or len(given.shape) != 3 or given.shape[2] != width:
        return None
    wide = TensorType(given.dtype, (*given.shape[:2], 1, width))
    return Fitted(
        ((b.unsqueeze(names[0], 2), wide), (names[1], types[1])),
        f"{plugin}: boxes have rank 3; the plugin takes [batch, boxes, 1, {width}] for boxes that all classes share, "
        "so a dim of 1 is added in front of it",
    )


def is_shared(node: ConfiguredNode) -> bool:
    """Whether all classes have the same boxes."""
    return node.static(0, 2) == 1


def boxes_of(b: Body, node: ConfiguredNode, width: int) -> str:
    """Boxes [B, N, width], or [B, N, C, width] where every class has its own."""
    number = node.static(1, 1)
    name = node.input_names[0]
    return b.reshape(name, 0, number, width) if is_shared(node) else name


def emit_suppression(
    b: Body, node: ConfiguredNode, boxes: str, select: Callable[..., Selected] | None = None
) -> NmsOutputs:
    """Which boxes stay: strictly above both thresholds, the best topk of a class, keep_topk of an image.

    Args:
        b: Where the nodes go.
        node: Scores are its input 1.
        boxes: [B, N, 4] or [B, N, C, 4]; what is written of them is up to the caller.
        select: See `emit_nms`.
    """
    a = node.attributes
    number, classes = node.static(1, 1), node.static(1, 2)
    best = a["topk"] if 0 < a["topk"] <= number else number
    try:
        spec = NmsSpec(
            num_boxes=number,
            num_classes=classes,
            max_total=a["keep_topk"],
            max_per_class=best,
            iou_threshold=a["iou_threshold"],
            score_threshold=a["score_threshold"],
            shared_boxes=is_shared(node),
            background_class=a["background_label_id"],
            candidates_per_class=best if best < number else None,
            pad_class=-1,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    form = choose_form(spec, node.batch(1))
    return emit_nms(b, spec, boxes, node.input_names[1], form=form, select=select)


def emit_dets(b: Body, node: ConfiguredNode, boxes: str, found: NmsOutputs, width: int) -> str:
    """Rows of box and score, [B, keep_topk, width + 1], and 0 beyond the count."""
    a = node.attributes
    rows = a["keep_topk"]
    index = found.indices
    if not is_shared(node):
        number, classes = node.static(1, 1), node.static(1, 2)
        boxes = b.reshape(boxes, 0, number * classes, width)
        label = b.cast(b.maximum(b.cast(found.classes, np.float32), b.scalar(0.0)), np.int32)
        index = b.add(b.mul(index, b.const(classes, np.int32)), label)
    picked = b.gather_elements(boxes, b.expand(b.unsqueeze(index, 2), 1, 1, width), 1)
    if a["clip_boxes"]:
        picked = b.minimum(b.maximum(picked, b.scalar(0.0)), b.scalar(1.0))
    table = b.concat([picked, b.unsqueeze(found.scores, 2)], 2)
    count = b.unsqueeze(b.cast(found.count, np.float32), 1)
    valid = b.less(b.const(np.arange(rows).reshape(1, rows)), count)
    return b.where(b.unsqueeze(valid, 2), table, b.scalar(0.0))


def emit_upright(b: Body, node: ConfiguredNode) -> list[str]:
    """The outputs of TRTBatchedNMS: dets [B, keep_topk, 5], labels and box numbers [B, keep_topk]."""
    boxes = boxes_of(b, node, 4)
    found = emit_suppression(b, node, without_inverted(b, boxes))
    results = [emit_dets(b, node, boxes, found, 4), found.classes]
    if node.attributes["return_index"]:
        index = b.cast(found.indices, np.float32)
        label = b.cast(found.classes, np.float32)
        if not is_shared(node):
            index = b.add(b.mul(label, b.scalar(float(node.static(1, 1)))), index)
        some = b.greater(label, b.scalar(-0.5))
        results.append(b.cast(b.where(some, index, b.scalar(-1.0)), np.int32))
    return results
