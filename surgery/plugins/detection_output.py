"""The bodies of NMS_TRT and NMSDynamic_TRT, and the suppression they share with the BatchedNMS plugins.

Source: plugin/nmsPlugin, plugin/batchedNMSPlugin and plugin/common/kernels of NVIDIA/TensorRT, release/10.16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.free_boxes import best_of_each_class
from surgery.plugins.native_nms import NmsOutputs, NmsSpec, choose_form, emit_nms

CORNER, CENTER_SIZE, CORNER_SIZE, TF_CENTER = range(4)
"""Values of codeType."""


def emit_ssd_nms(
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
    """Per-class suppression as BatchedNMSDynamic_TRT and NMS_TRT do it; padding rows have class -1.

    Strictly above both thresholds, the best topK candidates of a class, and keepTopK detections of an image.
    """
    a = node.attributes
    try:
        spec = NmsSpec(
            num_boxes=number,
            num_classes=classes,
            max_total=a["keepTopK"],
            max_per_class=a["topK"],
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            shared_boxes=shared,
            background_class=a["backgroundLabelId"],
            candidates_per_class=a["topK"],
            clip_window=(0.0, 0.0, 1.0, 1.0) if clip else None,
            in_pixels=not a["isNormalized"],
            pixels_overlap=not a["isNormalized"] and bool(a.get("caffeSemantics", 1)),
            pad_class=-1,
        )
    except ValueError as error:
        raise node.refuse(str(error)) from error
    return emit_nms(b, spec, boxes, scores, form=choose_form(spec, batch))


Suppress = Callable[..., NmsOutputs]
"""What has the parameters and the result of `emit_ssd_nms`."""


def emit_batched_nms(b: Body, node: ConfiguredNode, suppress: Suppress = emit_ssd_nms) -> NmsOutputs:
    """The body of BatchedNMS_TRT and BatchedNMSDynamic_TRT but for the forms of their outputs."""
    a = node.attributes
    classes, shared = node.static(1, 2), bool(a["shareLocation"])
    boxes, scores = node.input_names
    given = node.inputs[1]
    free = given is not None and given.shape is not None and not isinstance(given.shape[1], int)
    if free and shared:
        best = best_of_each_class(
            b, node, b.reshape(boxes, 0, -1, 4), scores, count=a["topK"], classes=classes
        )
        boxes, scores, number, shared = best.boxes, best.scores, best.number, False
    else:
        number = node.static(1, 1)
        boxes = b.reshape(boxes, 0, number, 4) if shared else boxes
        scores = b.reshape(scores, 0, number, classes)
    return suppress(
        b,
        node,
        boxes,
        scores,
        number=number,
        classes=classes,
        shared=shared,
        clip=bool(a["clipBoxes"]),
        score_threshold=a["scoreThreshold"],
        iou_threshold=a["iouThreshold"],
        batch=node.batch(1),
    )


def batched_problems(a: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems of a node of BatchedNMS_TRT or BatchedNMSDynamic_TRT beyond types and ranges."""
    problems = ssd_problems(a)
    if len(types) != 2 or types[0] is None or types[1] is None:
        return problems
    boxes, scores = types[0].shape, types[1].shape
    if boxes is not None and isinstance(boxes[2], int):
        expected = 1 if a["shareLocation"] else a["numClasses"]
        if boxes[2] != expected:
            problems.append(
                f"shareLocation is {a['shareLocation']}, but dimension 2 of boxes is {boxes[2]}, not {expected}"
            )
    if scores is not None and isinstance(scores[2], int) and scores[2] != a["numClasses"]:
        problems.append(f"numClasses is {a['numClasses']}, but the scores have {scores[2]} columns")
    return problems


def ssd_problems(a: Mapping[str, Any]) -> list[str]:
    """Problems that attributes of the SSD plugins have with each other."""
    problems = []
    if a["keepTopK"] > a["topK"]:
        problems.append(
            f"keepTopK is {a['keepTopK']} but topK only {a['topK']}: the kernel would return without output"
        )
    return problems


def roles(a: Mapping[str, Any]) -> tuple[int, int, int]:
    """Positions of loc, conf and prior among the inputs."""
    loc, conf, prior = a["inputOrder"]
    return loc, conf, prior


def detection_problems(a: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems of a node of NMS_TRT or NMSDynamic_TRT beyond types and ranges."""
    problems = ssd_problems(a)
    if sorted(a["inputOrder"]) != [0, 1, 2]:
        return [*problems, f"inputOrder is {a['inputOrder']}; it has to be an order of 0, 1, 2"]
    if len(types) != 3 or any(t is None or t.shape is None for t in types):
        return problems
    loc, conf, prior = (_shape(types[i]) for i in roles(a))
    for name, shape in (("loc", loc), ("conf", conf)):
        if len(shape) != 4 or shape[2:] != (1, 1):
            problems.append(f"{name} has shape {shape}; expected [B, values, 1, 1]")
    if len(prior) not in (3, 4) or prior[-1] != 1 or prior[-3] != 2:
        problems.append(f"prior has shape {prior}; expected [1 or B, 2, boxes * 4, 1] or [2, boxes * 4, 1]")
    if problems:
        return problems
    values, c = prior[-2], a["numClasses"]
    sets = 1 if a["shareLocation"] else c
    if isinstance(values, int):
        if values % 4:
            problems.append(f"prior holds {values} coordinates, which is no multiple of 4")
        for name, shape, expected in (("loc", loc, values * sets), ("conf", conf, values // 4 * c)):
            if isinstance(shape[1], int) and shape[1] != expected:
                problems.append(
                    f"{name} holds {shape[1]} values per image; expected {expected} "
                    f"for the {values // 4} boxes of prior"
                )
    return problems


def _shape(given: TensorType | None) -> tuple[int | str | None, ...]:
    return () if given is None or given.shape is None else given.shape


def detection_types(node: ConfiguredNode) -> list[TensorType]:
    """[B, 1, keepTopK, 7] and [B, 1, 1, 1], both float32."""
    loc = _shape(node.inputs[roles(node.attributes)[0]])
    batch = loc[0] if loc else None
    shapes = ((batch, 1, node.attributes["keepTopK"], 7), (batch, 1, 1, 1))
    return [TensorType("float32", s) for s in shapes[: node.outputs]]


def emit_detection_output(
    b: Body, node: ConfiguredNode, suppress: Suppress = emit_ssd_nms
) -> tuple[str, str]:
    """Detections [B, 1, keepTopK, 7] and their number [B, 1, 1, 1], as floats."""
    a = node.attributes
    at_loc, at_conf, at_prior = roles(a)
    names = node.input_names
    prior_rank = len(_shape(node.inputs[at_prior]))
    number, classes = node.static(at_prior, prior_rank - 2) // 4, a["numClasses"]
    sets = 1 if a["shareLocation"] else classes

    loc = b.reshape(names[at_loc], -1, number, sets, 4)
    scores = b.reshape(names[at_conf], -1, number, classes)
    prior = b.reshape(names[at_prior], -1, 2, number, 4)
    if a["isBatchAgnostic"]:
        prior = b.slice(prior, 0, 0, 1)
    anchors = b.reshape(b.slice(prior, 1, 0, 1), -1, number, 1, 4)
    variances = b.reshape(b.slice(prior, 1, 1, 2), -1, number, 1, 4)
    boxes = decode(b, a["codeType"], loc, anchors, variances, encoded=bool(a["varianceEncodedInTarget"]))
    if sets == 1:
        boxes = b.reshape(boxes, -1, number, 4)
    if a["confSigmoid"]:
        scores = b.op("Sigmoid", scores)
    r = suppress(
        b,
        node,
        boxes,
        scores,
        number=number,
        classes=classes,
        shared=sets == 1,
        clip=True,
        score_threshold=a["confidenceThreshold"],
        iou_threshold=a["nmsThreshold"],
        batch=node.batch(at_conf),
    )
    # The image's number: 0, 1, 2, ... along a batch that may be open.
    count = b.unsqueeze(b.cast(r.count, np.float32), 1)  # [B, 1]
    ones = b.add(b.mul(count, b.scalar(0.0)), b.scalar(1.0))
    image = b.sub(b.op("CumSum", ones, b.const(0, np.int64)), b.scalar(1.0))
    column = b.expand(b.unsqueeze(image, 2), 1, a["keepTopK"], 1)
    label = b.unsqueeze(b.cast(r.classes, np.float32), 2)
    rows = b.concat([column, label, b.unsqueeze(r.scores, 2), r.boxes], 2)
    return b.unsqueeze(rows, 1), b.unsqueeze(count, 2, 3)


def decode(b: Body, code: int, loc: str, anchors: str, variances: str, *, encoded: bool) -> str:
    """Corners [B, N, sets, 4] from offsets and prior boxes; `encoded` drops the variances."""
    l0, l1, l2, l3 = b.split(loc, -1, 4)
    p0, p1, p2, p3 = b.split(anchors, -1, 4)
    v = b.split(variances, -1, 4)
    width, height = b.sub(p2, p0), b.sub(p3, p1)

    def scaled(offset: str, i: int) -> str:
        return offset if encoded else b.mul(v[i], offset)

    if code in (CORNER, CORNER_SIZE):
        corners = []
        for i, (offset, corner) in enumerate(zip((l0, l1, l2, l3), (p0, p1, p2, p3), strict=True)):
            moved = scaled(offset, i)
            if code == CORNER_SIZE:
                moved = b.mul(moved, height if i % 2 else width)
            corners.append(b.add(corner, moved))
        return b.concat(corners, -1)

    half = b.scalar(0.5)
    middle_x, middle_y = b.mul(b.add(p0, p2), half), b.mul(b.add(p1, p3), half)
    if code == TF_CENTER:  # offsets come as y, x, h, w; this form always uses the variances
        dx, dy, dw, dh = b.mul(v[0], l1), b.mul(v[1], l0), b.mul(v[2], l3), b.mul(v[3], l2)
    else:
        dx, dy, dw, dh = scaled(l0, 0), scaled(l1, 1), scaled(l2, 2), scaled(l3, 3)
    cx, cy = b.add(b.mul(dx, width), middle_x), b.add(b.mul(dy, height), middle_y)
    half_w = b.mul(b.mul(b.op("Exp", dw), width), half)
    half_h = b.mul(b.mul(b.op("Exp", dh), height), half)
    return b.concat([b.sub(cx, half_w), b.sub(cy, half_h), b.add(cx, half_w), b.add(cy, half_h)], -1)
