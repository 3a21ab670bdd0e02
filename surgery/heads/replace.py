"""Other forms of a detection head: exact native suppression, or a plugin node with standard nodes around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import SMALLEST, Body
from surgery.heads.head import DetectionHead, OutputRole
from surgery.plugins.native_nms import best_first
from surgery.plugins.nms_forms import best_only

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry
    from surgery.targets import Target

NATIVE = "MultiClassNMS"
PREFERRED = ("BatchedNMSDynamic_TRT", "EfficientNMS_Explicit_TF_TRT")
"""Plugins a head can become, best first: the first has the strict comparisons of ONNX NonMaxSuppression."""

BATCHED_LIMIT = 4096
"""Most candidates per class that BatchedNMSDynamic_TRT takes (batchedNMSPlugin, topK)."""


EFFICIENT_CANDIDATES = 3840
"""Pairs that take part with EfficientNMS: below its own limit of 5000, and what TensorRT's TopK can count."""

SPARE = 4
LEAST = 256
"""Times K, and at least how many, that a plugin keeps where some are dropped afterwards."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A model that computes the head's outputs, and what it takes for granted.

    Attributes:
        model: Inputs: the head's boxes, scores and row sources; outputs: the head's outputs.
        plugin: Name of the plugin in it.
        attributes: The plugin node's attributes.
        assumptions: In which cases the kernel may differ from the graph.
        exact: True if it agrees with the graph on every finite input.
    """

    model: onnx.ModelProto
    plugin: str
    attributes: dict[str, Any]
    assumptions: tuple[str, ...]
    exact: bool


@dataclass(slots=True)
class _Rows:
    """Detections as values of a body: count [B] int32, then [B, K, ...]."""

    count: str
    boxes: str
    scores: str
    classes: str  # int32
    anchors: str | None  # int32


def candidate_plugins(target: Target, registry: Registry) -> list[str]:
    """Plugins for a target, best first: those that it ships, then the native form, which needs none."""
    found = []
    for name in PREFERRED:
        entry = target.plugin(name)
        if entry is not None and entry.available and name in registry.names():
            found.append(name)
    return [*found, NATIVE]


def build(head: DetectionHead, plugin: str, registry: Registry, opset: int) -> Replacement:
    """The head with `plugin` doing the suppression."""
    body = Body(opset)
    definition = registry.get(plugin)
    if plugin == NATIVE:
        rows, attributes, assumptions = _native(body, head, definition)
    elif plugin == "BatchedNMSDynamic_TRT":
        rows, attributes, assumptions = _batched(body, head, definition)
    else:
        rows, attributes, assumptions = _efficient(body, head, definition)
    outputs = [_output(body, head, rows, o, padded=plugin == NATIVE) for o in head.outputs]
    model = _model(body, head, outputs, opset)
    return Replacement(model, plugin, attributes, tuple(assumptions), plugin == NATIVE)


def _native(
    b: Body, head: DetectionHead, definition: PluginDefinition
) -> tuple[_Rows, dict[str, Any], list[str]]:
    p = head.parameters
    classes, anchors = _role(head, "classes"), _role(head, "anchors")
    scores, boxes = _role(head, "scores"), _role(head, "boxes")
    attributes: dict[str, Any] = {
        "max_total": head.max_total,
        "max_per_class": max(1, min(p.max_per_class, head.num_boxes)),
        "iou_threshold": p.iou_threshold,
        "score_threshold": p.score_threshold,
        "prune_empty": int(head.prune_empty),
        "pad_score": scores.pad if scores else 0.0,
        "pad_box": boxes.pad if boxes else 0.0,
        "pad_class": int(classes.pad) - classes.offset if classes else 0,
        "pad_index": int(anchors.pad) - anchors.offset if anchors else 0,
    }
    if head.clip_window is not None:
        attributes["clip_window"] = list(head.clip_window)
    names = tuple(b.fresh(n) for n in ("count", "boxes", "scores", "classes", "indices"))
    node = definition.make_node("nms", [_flat_boxes(b, head), head.scores], names, attributes)
    b.nodes.append(node)
    return _Rows(*names), attributes, []


def _batched(
    b: Body, head: DetectionHead, definition: PluginDefinition
) -> tuple[_Rows, dict[str, Any], list[str]]:
    p = head.parameters
    top = min(head.num_boxes, BATCHED_LIMIT)
    spare = head.prune_empty or p.max_per_class < head.max_total
    keep = min(top, max(SPARE * head.max_total, LEAST) if spare else head.max_total)
    attributes: dict[str, Any] = {
        "shareLocation": 1,
        "backgroundLabelId": -1,
        "numClasses": head.num_classes,
        "topK": top,
        "keepTopK": keep,
        "scoreThreshold": p.score_threshold,
        "iouThreshold": p.iou_threshold,
        "isNormalized": 1,
        "clipBoxes": 0,
    }
    assumptions = ["among equal scores the kernel promises no order; the graph takes the lower index first"]
    if top < head.num_boxes:
        assumptions.append(f"the kernel suppresses among the best {top} of {head.num_boxes} boxes of a class")
    limit = p.max_per_class if p.max_per_class < keep else None
    if keep > head.max_total:
        why = "lie outside the image or are beyond the limit of their class"
        assumptions.append(f"no more than {keep - head.max_total} of an image's best {keep} detections {why}")
    names = tuple(b.fresh(n) for n in ("count", "boxes", "scores", "classes"))
    node = definition.make_node("nms", [_shared_boxes(b, head), head.scores], names, attributes)
    b.nodes.append(node)
    count, boxes, scores, classes = names
    rows = _finish(b, head, count, boxes, scores, b.cast(classes, np.int32), keep, per_class=limit)
    return rows, attributes, assumptions


def _efficient(
    b: Body, head: DetectionHead, definition: PluginDefinition
) -> tuple[_Rows, dict[str, Any], list[str]]:
    p = head.parameters
    pairs = head.num_boxes * head.num_classes
    candidates = min(pairs, EFFICIENT_CANDIDATES)
    attributes: dict[str, Any] = {
        "max_output_size_per_class": p.max_per_class,
        "max_total_size": candidates,
        "iou_threshold": p.iou_threshold,
        "score_threshold": max(p.score_threshold, 0.0),
        "pad_per_class": 0,
        "clip_boxes": 0,
    }
    assumptions = ["the kernel suppresses at IoU >= threshold, the graph at IoU > threshold"]
    if candidates < pairs:
        assumptions.append(
            f"the best {candidates} of {pairs} (box, class) pairs of an image take part (the kernel takes no more "
            "than 5000, and 2000 on GPUs with few registers); the graph lets all"
        )
    if p.score_threshold < 0.007:
        assumptions.append(
            f"the score threshold {p.score_threshold:g} is near 0, where the kernel may count rejected "
            "candidates as detections; nodes after it drop them"
        )
    names = tuple(b.fresh(n) for n in ("count", "boxes", "scores", "classes"))
    inputs = [_shared_boxes(b, head), _best_pairs(b, head, candidates)]
    b.nodes.append(definition.make_node("nms", inputs, names, attributes))
    count, boxes, scores, classes = names
    return _finish(b, head, count, boxes, scores, classes, candidates, sort=True), attributes, assumptions


def _best_pairs(b: Body, head: DetectionHead, candidates: int) -> str:
    """Scores [B, N, C] with all but the best pairs out of reach; among equals the lower class, then box, stays.

    The kernel limits the candidates too, but which of equal scores it takes is not said; done before it, the
    limit falls as it does in the graph.
    """
    pairs = head.num_boxes * head.num_classes
    if candidates >= pairs:
        return head.scores
    by_class = b.reshape(b.transpose(head.scores, 0, 2, 1), 0, 1, pairs)
    best = best_only(b, by_class, pairs, candidates)
    return b.transpose(b.reshape(best, 0, head.num_classes, head.num_boxes), 0, 2, 1)


def _finish(
    b: Body,
    head: DetectionHead,
    count: str,
    boxes: str,
    scores: str,
    classes: str,
    keep: int,
    *,
    sort: bool = False,
    per_class: int | None = None,
) -> _Rows:
    """Clip, prune and cut to K what a plugin kept.

    Rows come best first and stay in that order; with `sort`, equal scores are put in the graph's order: by class,
    then as they come, which within a class is the order of the boxes. With `per_class`, no more than so many rows
    of a class count, those outside the image among them.
    """
    place = b.const(np.arange(keep, dtype=np.float32)[None])  # [1, keep]
    valid = b.less(place, b.cast(count, np.float32))  # [B, keep]
    valid = b.logical_and(valid, b.greater(scores, b.scalar(head.parameters.score_threshold)))
    if per_class is not None:
        # How many rows of its class come before a row: [B, keep]
        same = b.equal(b.unsqueeze(classes, 2), b.unsqueeze(classes, 1))
        earlier = b.const(np.tril(np.ones((keep, keep), np.float32), -1)[None])
        before = b.reduce("ReduceSum", b.mul(b.cast(same, np.float32), earlier), 2, keepdims=False)
        valid = b.logical_and(valid, b.less(before, b.scalar(float(per_class))))
    unclipped = boxes
    if head.clip_window is not None:
        low = b.floats(*head.clip_window[:2], *head.clip_window[:2])
        high = b.floats(*head.clip_window[2:], *head.clip_window[2:])
        boxes = b.maximum(b.minimum(boxes, high), low)
    if head.prune_empty:
        y0, x0, y1, x1 = b.split(boxes, 2, 4)
        area = b.squeeze(b.mul(b.sub(y1, y0), b.sub(x1, x0)), 2)
        valid = b.logical_and(valid, b.greater(area, b.scalar(0.0)))
    total = head.max_total
    taken = min(total, keep)
    if sort:
        ties = b.add(b.mul(b.cast(classes, np.float32), b.scalar(float(keep))), place)
        ties = b.where(valid, ties, b.add(place, b.scalar(float(keep * head.num_classes))))
        ranked = b.where(valid, scores, b.scalar(SMALLEST))
        order = best_first(b, ranked, ties, keep * (head.num_classes + 1), taken)
    else:
        key = b.mul(b.cast(valid, np.float32), b.const(np.arange(keep, 0, -1, dtype=np.float32)[None]))
        # Keys of valid rows are distinct; the order among the others is padded over.
        _, order = b.topk(key, taken)
    order = b.cast(order, np.int32)
    scores = _pad_to(b, b.gather_elements(scores, order, 1), taken, total, 2)
    classes = _pad_to(b, b.gather_elements(classes, order, 1), taken, total, 2)
    order4 = b.expand(b.unsqueeze(order, 2), 1, 1, 4)
    boxes = _pad_to(b, b.gather_elements(boxes, order4, 1), taken, total, 3)
    found = b.reduce("ReduceSum", b.cast(valid, np.float32), 1, keepdims=False)
    number = b.cast(b.minimum(found, b.scalar(float(total))), np.int32)
    anchors = None
    if any(o.role in ("anchors", "rows") for o in head.outputs):
        original = _pad_to(b, b.gather_elements(unclipped, order4, 1), taken, total, 3)
        anchors = _find_anchors(b, head, original, scores, classes)
    return _Rows(number, boxes, scores, classes, anchors)


def _find_anchors(b: Body, head: DetectionHead, boxes: str, scores: str, classes: str) -> str:
    """The lowest index whose box and score of the class are those of the row, bit for bit: [B, K] int32."""
    by_class = b.transpose(head.scores, 0, 2, 1)  # [B, C, N]
    index = b.expand(b.unsqueeze(classes, 2), 1, 1, head.num_boxes)  # [B, K, N]
    column = b.gather_elements(by_class, index, 1)
    same = b.equal(column, b.unsqueeze(scores, 2))
    all_boxes = b.unsqueeze(_flat_boxes(b, head), 1)  # [B, 1, N, 4]
    difference = b.op("Abs", b.sub(all_boxes, b.unsqueeze(boxes, 2)))
    same_box = b.equal(b.reduce("ReduceMax", difference, 3, keepdims=False), b.scalar(0.0))
    same = b.logical_and(same, same_box)
    iota = b.const(np.arange(head.num_boxes, dtype=np.float32)[None, None])
    place = b.where(same, iota, b.scalar(float(head.num_boxes)))
    lowest = b.reduce("ReduceMin", place, 2, keepdims=False)
    return b.cast(b.minimum(lowest, b.scalar(float(head.num_boxes - 1))), np.int32)


def _output(b: Body, head: DetectionHead, rows: _Rows, role: OutputRole, *, padded: bool) -> str:
    """One output of the head, in its own dtype, rank, numbering and padding."""
    total = head.max_total
    if role.role == "count":
        value = b.cast(rows.count, np.dtype(role.dtype))
        return b.reshape(value, -1, 1) if role.ndim == 2 else b.reshape(value, -1)
    place = b.const(np.arange(total)[None], np.int32)
    used = b.less(place, b.unsqueeze(rows.count, 1))  # [B, K]
    if role.role == "rows":
        assert rows.anchors is not None
        assert role.source is not None
        source = role.source
        index = b.unsqueeze(rows.anchors, 2)
        width = _width(head, role)
        value = b.gather_elements(source, b.expand(index, 1, 1, width), 1)
        return b.where(b.unsqueeze(used, 2), value, b.scalar(role.pad))
    if role.role in ("boxes", "scores"):
        value = rows.boxes if role.role == "boxes" else rows.scores
        if padded:
            return b.op("Identity", value)
        mask = b.unsqueeze(used, 2) if role.role == "boxes" else used
        return b.where(mask, value, b.scalar(role.pad))
    number = rows.classes if role.role == "classes" else rows.anchors
    assert number is not None
    value = b.cast(number, np.dtype(role.dtype))
    kind = np.dtype(role.dtype)
    if role.offset:
        value = b.add(value, b.const(np.asarray(role.offset, kind), kind))
    if padded:
        return value if role.offset or number != value else b.op("Identity", value)
    return b.where(used, value, b.const(np.asarray(role.pad, kind), kind))


def _width(head: DetectionHead, role: OutputRole) -> int:
    assert role.source is not None
    return head.row_widths[role.source]


def _pad_to(b: Body, value: str, have: int, want: int, rank: int) -> str:
    if have == want:
        return value
    pads = [0] * (2 * rank)
    pads[rank + 1] = want - have
    return b.op("Pad", value, b.ints(*pads))


def _flat_boxes(b: Body, head: DetectionHead) -> str:
    return b.squeeze(head.boxes, 2) if head.boxes_ndim == 4 else head.boxes


def _shared_boxes(b: Body, head: DetectionHead) -> str:
    return head.boxes if head.boxes_ndim == 4 else b.unsqueeze(head.boxes, 2)


def _role(head: DetectionHead, role: str) -> OutputRole | None:
    return next((o for o in head.outputs if o.role == role), None)


def _model(b: Body, head: DetectionHead, outputs: list[str], opset: int) -> onnx.ModelProto:
    import onnx

    from surgery.plugins.definition import PLUGIN_DOMAIN

    batch: int | str = head.batch if head.batch is not None else "N"
    float32 = onnx.TensorProto.FLOAT
    boxes = [batch, head.num_boxes, 1, 4] if head.boxes_ndim == 4 else [batch, head.num_boxes, 4]
    inputs = [
        onnx.helper.make_tensor_value_info(head.boxes, float32, boxes),
        onnx.helper.make_tensor_value_info(head.scores, float32, [batch, head.num_boxes, head.num_classes]),
    ]
    sources = dict.fromkeys(o.source for o in head.outputs if o.source)
    for source in sources:
        if source not in (head.boxes, head.scores):
            width = head.row_widths[source]
            inputs.append(onnx.helper.make_tensor_value_info(source, float32, [batch, head.num_boxes, width]))
    values = []
    for role, made in zip(head.outputs, outputs, strict=True):
        b.nodes.append(onnx.helper.make_node("Identity", [made], [role.name], name=f"out_{role.role}"))
        dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(role.dtype))
        shape: list[int | str] = {
            "count": [batch, 1] if role.ndim == 2 else [batch],
            "boxes": [batch, head.max_total, 4],
            "rows": [batch, head.max_total, head.row_widths.get(role.source or "", 0)],
        }.get(role.role, [batch, head.max_total])
        values.append(onnx.helper.make_tensor_value_info(role.name, dtype, shape))
    graph = onnx.helper.make_graph(b.nodes, "head", inputs, values)
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
