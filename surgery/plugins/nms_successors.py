"""What the suppressions that later TensorRTs dropped become there.

EfficientNMS compares with >= where the older plugins compare with >; the next float32 above a threshold makes
them the same. It looks at 5000 (box, class) pairs of an image at most, so a longer list is cut before it just as
the older plugin cuts it for each class, and where even that is longer there is no successor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.detection_output import emit_batched_nms, emit_detection_output
from surgery.plugins.efficient_nms import CANDIDATES, DENSE_BELOW
from surgery.plugins.native_nms import NmsOutputs
from surgery.plugins.nms_forms import best_only
from surgery.plugins.nms_spec import TOPK_LIMIT
from surgery.plugins.successor import Successor, call, just_above, just_below

if TYPE_CHECKING:
    import onnx

SURE_CANDIDATES = 2000
"""Candidates of an image that EfficientNMS looks at on any GPU."""

TIES = "the order among equal scores is left to chance by EfficientNMS's sparse filter"

LEAST_IOU = 1.2e-38
"""In the place of an IoU threshold of 0: the smallest number that is not denormal."""


def by_efficient_nms(
    b: Body,
    node: ConfiguredNode,
    boxes: str,
    scores: str,
    *,
    number: int,
    classes: int,
    shared: bool,
    clip: bool,
    score_threshold: float,
    iou_threshold: float,
    batch: int | None,
) -> NmsOutputs:
    """`emit_ssd_nms` by one EfficientNMS_TRT; without `indices`.

    Raises:
        ConversionError: EfficientNMS_TRT does not compute this.
    """
    a = node.attributes
    best = min(a["topK"], number)
    pairs = pairs_of(classes, a["backgroundLabelId"], best)
    problem = efficient_problem(score_threshold, iou_threshold, pairs)
    if problem is not None:
        raise node.refuse(problem)
    if not a["isNormalized"]:
        raise node.refuse("EfficientNMS_TRT does not count the last pixel of boxes")
    if best < number:
        by_class = best_only(b, b.transpose(scores, 0, 2, 1), number, best)
        scores = b.transpose(by_class, 0, 2, 1)
    keep = a["keepTopK"]
    count, out, found, label = call(
        b,
        "EfficientNMS_TRT",
        [boxes, scores],
        4,
        score_threshold=just_above(score_threshold),
        iou_threshold=max(just_above(iou_threshold), LEAST_IOU),
        max_output_boxes=keep,
        background_class=a["backgroundLabelId"],
        score_activation=0,
        box_coding=0,
    )
    # Rows beyond the count: class -1 there, 0 here.
    valid = b.less(b.const(np.arange(keep, dtype=np.float32)[None]), b.cast(count, np.float32))
    label = b.where(valid, b.cast(label, np.float32), b.scalar(-1.0))
    if clip:
        out = b.minimum(b.maximum(out, b.scalar(0.0)), b.scalar(1.0))
    return NmsOutputs(b.squeeze(count, 1), out, found, label, "")


def pairs_of(classes: int, background: int, best: int) -> int:
    """(box, class) pairs of an image that can take part."""
    return (classes - (0 <= background < classes)) * best


def efficient_problem(score_threshold: float, iou_threshold: float, pairs: int) -> str | None:
    """Why EfficientNMS_TRT cannot compute a suppression strictly above its thresholds; None if it can."""
    if just_above(score_threshold) < DENSE_BELOW:
        return f"EfficientNMS counts rejected candidates below a score threshold of {DENSE_BELOW}"
    if iou_threshold >= 1:
        return "no IoU is above 1; EfficientNMS would suppress equal boxes"
    if pairs > CANDIDATES:
        return f"EfficientNMS looks at {CANDIDATES} candidates of an image, {pairs} take part here"
    return None


def _assumptions(pairs: int) -> tuple[str, ...]:
    if pairs <= SURE_CANDIDATES:
        return (TIES,)
    return (
        TIES,
        f"the GPU has 65536 registers a block; on others EfficientNMS looks at {SURE_CANDIDATES} candidates, "
        f"and {pairs} may take part",
    )


def _efficient(
    node: ConfiguredNode, classes: int, number: int, written: Callable[[Body], onnx.FunctionProto]
) -> Successor | str:
    """EfficientNMS_TRT in the place of an older plugin, or why it does not compute the same."""
    from surgery.errors import ConversionError

    b = Body(node.opset)
    try:
        function = written(b)
    except ConversionError as error:
        return error.message
    best = min(node.attributes["topK"], number)
    pairs = pairs_of(classes, node.attributes["backgroundLabelId"], best)
    return Successor("EfficientNMS_TRT version 1 with standard nodes", function, _assumptions(pairs))


def batched_successors(node: ConfiguredNode, *, scalar_count: bool) -> list[Successor | str]:
    """Successors of BatchedNMS_TRT (whose count has no dim of its own) and BatchedNMSDynamic_TRT."""
    found = []
    if scalar_count:
        b = Body(node.opset)
        count, *rest = call(b, "BatchedNMSDynamic_TRT", node.input_names, 4, **_given(node))
        outputs = [b.squeeze(count, 1), *rest]
        found.append(Successor("BatchedNMSDynamic_TRT version 1", node.function(b, outputs)))

    def written(b: Body) -> onnx.FunctionProto:
        r = emit_batched_nms(b, node, by_efficient_nms)
        count = r.count if scalar_count else b.unsqueeze(r.count, 1)
        return node.function(b, [count, r.boxes, r.scores, r.classes])

    number = node.inputs[1].shape[1] if node.inputs[1] is not None and node.inputs[1].shape else None
    best = node.attributes["topK"]  # of a number of boxes that is not known, these take part
    return [*found, _efficient(node, node.static(1, 2), number if isinstance(number, int) else best, written)]


def detection_successors(node: ConfiguredNode, *, per_sample: bool) -> list[Successor | str]:
    """Successors of NMS_TRT and NMSDynamic_TRT."""
    from surgery.plugins.successor import renamed

    found = [renamed(node, "NMSDynamic_TRT", "1", _given(node))] if per_sample else []
    at_prior = node.attributes["inputOrder"][2]
    prior = node.inputs[at_prior]
    assert prior is not None
    assert prior.shape is not None
    number = node.static(at_prior, len(prior.shape) - 2) // 4

    def written(b: Body) -> onnx.FunctionProto:
        return node.function(b, emit_detection_output(b, node, by_efficient_nms))

    return [*found, _efficient(node, node.attributes["numClasses"], number, written)]


def onnx_nms_successors(node: ConfiguredNode) -> list[Successor | str]:
    """What EfficientNMS_ONNX_TRT becomes: NonMaxSuppression, its rows ranked and filled up, for one image."""
    a = node.attributes
    boxes, scores = node.input_names
    given = node.inputs[1]
    if given is None or given.shape is None or not isinstance(given.shape[1], int):
        return ["the number of boxes is not known"]
    number, classes, rows = given.shape[1], node.static(1, 2), a["max_output_boxes_per_class"]
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    per_class = shape is not None and len(shape) == 4 and shape[2] != 1
    if node.batch(1) != 1 or per_class:
        return ["NonMaxSuppression takes its place for one image and shared boxes only"]
    if a["score_threshold"] < DENSE_BELOW:
        return [f"EfficientNMS counts rejected candidates below a score threshold of {DENSE_BELOW}"]
    if rows > TOPK_LIMIT:
        return [f"{rows} rows are more than a TopK of TensorRT takes"]
    b = Body(node.opset)
    boxes = b.reshape(boxes, 1, number, 4)
    pairs = number * classes
    wide = b.reshape(scores, 1, 1, pairs)
    if pairs > CANDIDATES:
        wide = best_only(b, wide, pairs, CANDIDATES)
    by_class = b.transpose(b.reshape(wide, 1, number, classes), 0, 2, 1)
    selected = b.node(
        "NonMaxSuppression",
        [
            boxes,
            by_class,
            b.ints(rows),
            b.floats(just_below(a["iou_threshold"])),
            b.floats(just_below(a["score_threshold"])),
        ],
        attributes={"center_point_box": a["center_point_box"]},
    )[0]
    # Rows are (image, class, box); a row's score is at class times boxes plus box.
    label, box = (b.cast(b.squeeze(b.slice(selected, 1, i, i + 1), 1), np.int32) for i in (1, 2))
    at = b.add(b.mul(label, b.const(number, np.int32)), box)
    flat = b.reshape(by_class, pairs)
    score = b.gather(flat, at, 0)
    ranked = b.concat([score, b.const(np.full(rows, SMALLEST))], 0)
    table = b.concat([selected, b.const(np.full((rows, 3), -1), np.int64)], 0)
    best, order = b.topk(ranked, rows)
    valid = b.cast(b.greater(best, b.scalar(SMALLEST)), np.float32)
    last = b.sub(b.reduce("ReduceSum", valid, 0), b.scalar(1.0))
    place = b.maximum(b.minimum(b.const(np.arange(rows)), last), b.scalar(0.0))
    index = b.gather(order, b.cast(place, np.int64), 0)
    result = b.cast(b.gather(table, index, 0), np.int32)
    return [Successor("ONNX NonMaxSuppression", node.function(b, [result]), (TIES,))]


def implicit_tf_successors(node: ConfiguredNode) -> list[Successor]:
    """EfficientNMS_Explicit_TF_TRT, whose count has a dim of its own."""
    b = Body(node.opset)
    plugin = "EfficientNMS_Explicit_TF_TRT"
    count, *rest = call(b, plugin, node.input_names, 4, **_given(node))
    return [Successor(f"{plugin} version 1", node.function(b, [b.squeeze(count, 1), *rest]))]


def _given(node: ConfiguredNode) -> dict[str, Any]:
    """The node's attributes, but for those that are not set; floats stay floats."""
    kinds = node.definition.file.attributes
    floats = ("float", "floats")

    def typed(name: str, value: Any) -> Any:
        if kinds[name].type not in floats:
            return value
        several: Sequence[float] | None = value if isinstance(value, (list, tuple)) else None
        return float(value) if several is None else [float(v) for v in several]

    return {n: typed(n, v) for n, v in node.attributes.items() if v is not None}


given_attributes = _given
