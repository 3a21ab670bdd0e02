"""The bodies of mmdeploy's suppressions, of upright and of rotated boxes.

Source: csrc/mmdeploy/backend_ops/tensorrt/common_impl/nms of open-mmlab/mmdeploy 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.free_boxes import best_of_each_class
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


@dataclass(frozen=True, slots=True)
class Given:
    """What a suppression starts from; names of values.

    Attributes:
        boxes: [B, N, width], or [B, N, C, width] where every class has its own.
        scores: [B, N, C].
        number: N.
        classes: C.
        shared: All classes have the same boxes.
        index: [B, N, C] float32, numbers of the boxes where `boxes` are a choice of them.
    """

    boxes: str
    scores: str
    number: int
    classes: int
    shared: bool
    index: str | None = None


def given(b: Body, node: ConfiguredNode, width: int) -> Given:
    """The operands of a node; where the number of boxes is not known, the best topk of each class of them.

    Raises:
        ConversionError: the number of boxes is not known, and all take part or classes have boxes of their own.
    """
    a = node.attributes
    boxes, scores = node.input_names
    classes, shared = node.static(1, 2), node.static(0, 2) == 1
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shared and a["topk"] > 0 and shape is not None and not isinstance(shape[1], int):
        listed = b.reshape(boxes, 0, -1, width)
        best = best_of_each_class(b, node, listed, scores, count=a["topk"], classes=classes, width=width)
        return Given(best.boxes, best.scores, best.number, classes, False, best.index)
    number = node.static(1, 1)
    return Given(b.reshape(boxes, 0, number, width) if shared else boxes, scores, number, classes, shared)


def emit_suppression(
    b: Body, node: ConfiguredNode, of: Given, boxes: str, select: Callable[..., Selected] | None = None
) -> NmsOutputs:
    """Which boxes stay: strictly above both thresholds, the best topk of a class, keep_topk of an image.

    Args:
        b: Where the nodes go.
        node: The node.
        of: Its operands.
        boxes: [B, N, 4] or [B, N, C, 4], made of those of `of`; what is written of them is up to the caller.
        select: See `emit_nms`.
    """
    a = node.attributes
    best = a["topk"] if 0 < a["topk"] <= of.number else of.number
    try:
        spec = NmsSpec(
            num_boxes=of.number,
            num_classes=of.classes,
            max_total=a["keep_topk"],
            max_per_class=best,
            iou_threshold=a["iou_threshold"],
            score_threshold=a["score_threshold"],
            shared_boxes=of.shared,
            background_class=a["background_label_id"],
            candidates_per_class=best if best < of.number else None,
            pad_class=-1,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    form = choose_form(spec, node.batch(1))
    return emit_nms(b, spec, boxes, of.scores, form=form, select=select)


def _place(b: Body, of: Given, found: NmsOutputs) -> str:
    """Where detections are in a list of boxes by number and then class, int32 [B, keep_topk]."""
    label = b.cast(b.maximum(b.cast(found.classes, np.float32), b.scalar(0.0)), np.int32)
    return b.add(b.mul(found.indices, b.const(of.classes, np.int32)), label)


def emit_dets(b: Body, node: ConfiguredNode, of: Given, found: NmsOutputs, width: int) -> str:
    """Rows of box and score, [B, keep_topk, width + 1], and 0 beyond the count."""
    a = node.attributes
    rows, boxes, index = a["keep_topk"], of.boxes, found.indices
    if not of.shared:
        boxes = b.reshape(boxes, 0, of.number * of.classes, width)
        index = _place(b, of, found)
    picked = b.gather_elements(boxes, b.expand(b.unsqueeze(index, 2), 1, 1, width), 1)
    if a["clip_boxes"]:
        picked = b.minimum(b.maximum(picked, b.scalar(0.0)), b.scalar(1.0))
    table = b.concat([picked, b.unsqueeze(found.scores, 2)], 2)
    count = b.unsqueeze(b.cast(found.count, np.float32), 1)
    valid = b.less(b.const(np.arange(rows).reshape(1, rows)), count)
    return b.where(b.unsqueeze(valid, 2), table, b.scalar(0.0))


def _numbers(b: Body, of: Given, found: NmsOutputs) -> str:
    """The numbers of the boxes that stay, int32 [B, keep_topk]; -1 in padding rows."""
    label = b.cast(found.classes, np.float32)
    if of.index is not None:
        index = b.gather_elements(b.reshape(of.index, 0, of.number * of.classes), _place(b, of, found), 1)
    else:
        index = b.cast(found.indices, np.float32)
        if not of.shared:
            index = b.add(b.mul(label, b.scalar(float(of.number))), index)
    some = b.greater(label, b.scalar(-0.5))
    return b.cast(b.where(some, index, b.scalar(-1.0)), np.int32)


def emit_upright(b: Body, node: ConfiguredNode) -> list[str]:
    """The outputs of TRTBatchedNMS: dets [B, keep_topk, 5], labels and box numbers [B, keep_topk]."""
    of = given(b, node, 4)
    found = emit_suppression(b, node, of, without_inverted(b, of.boxes))
    results = [emit_dets(b, node, of, found, 4), found.classes]
    return [*results, _numbers(b, of, found)] if node.attributes["return_index"] else results
