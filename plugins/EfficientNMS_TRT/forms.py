"""How exporters write suppression with padded results: the export with `nms=True` of ultralytics."""

from __future__ import annotations

import numpy as np

from surgery.errors import ConfigError
from surgery.graph.body import Body
from surgery.plugins.recognise_forms import Form, Lying, Skeleton
from surgery.plugins.successor import call, just_above

AGNOSTIC, BY_CLASS = "agnostic", "by class"


def ultralytics(s: Skeleton, variant: str) -> None:
    """The best class of each box; boxes moved by class, or not; rows (box, score, class) filled up with zeros."""
    boxes, scores, extra = s.input("boxes"), s.input("scores"), s.input("extra")
    best = s.part(s.op("ReduceMax", scores))
    passed = s.op("Transpose", s.op("NonZero", s.op("Greater", best, s.number("score"))))
    kept_boxes = s.op("GatherND", s.part(boxes), passed)
    kept_scores = s.op("GatherND", best, passed)
    kept_classes = s.op("GatherND", s.part(s.op("ArgMax", scores)), passed)
    kept_extra = s.op("GatherND", s.part(extra), passed)
    compared = s.op("Mul", s.op("Div", kept_boxes, s.number()), s.number())
    if variant == BY_CLASS:
        moved = s.op("Mul", s.op("Cast", s.op("Expand", s.view(kept_classes))), s.number())
        compared = s.op("Concat", s.op("Add", s.part(compared), moved), s.part(compared))
    found = s.op(
        "NonMaxSuppression",
        s.op("Cast", s.view(compared)),
        s.op("Cast", s.view(kept_scores)),
        s.number("most"),
        s.number("iou"),
    )
    s.tap("suppression", found)
    chosen = s.part(s.view(s.part(found)))
    s.tap("chosen", chosen)
    rows = s.op(
        "Concat",
        s.op("Gather", kept_boxes, chosen),
        s.view(s.op("Gather", kept_scores, chosen)),
        s.op("Cast", s.view(s.op("Gather", kept_classes, chosen))),
        s.op("Gather", kept_extra, chosen),
    )
    padded = s.view(s.op("Expand", s.view(s.op("Pad", s.view(rows)))))
    s.result(s.part(s.op("ScatterND", s.number(), s.number(), padded)))


def plugin(b: Body, found: Lying) -> str:
    """The plugin's node, given the best class of each box alone; its four results side by side."""
    if found.attributes("suppression").get("center_point_box"):
        raise ConfigError("boxes are centres and sizes", code="form")
    if found.shape("extra")[2] not in (0, None) and not isinstance(found.shape("extra")[2], str):
        raise ConfigError(
            "masks or points go with the boxes, which the plugin does not hand out", code="form"
        )
    classes = found.size("scores", 2)
    boxes, scores = "boxes", "scores"
    if found.shape("boxes")[0] != 1:  # the exporter wrote down what it did for the first image
        boxes, scores = (b.slice(v, 0, 0, 1) for v in (boxes, scores))
    best = b.op("ArgMax", scores, axis=2, keepdims=1)
    is_best = b.op("Equal", best, b.const(np.arange(classes).reshape(1, 1, -1), np.int64))
    _, boxes, found_scores, labels = call(
        b,
        found.definition.name,
        [boxes, b.where(is_best, scores, b.scalar(0.0))],
        outputs=4,
        version=found.definition.version,
        score_threshold=just_above(found.number("score")),
        iou_threshold=found.number("iou"),
        max_output_boxes=int(found.operand("chosen", 2)),
        background_class=-1,
        score_activation=0,
        class_agnostic=int(found.variant == AGNOSTIC),
        box_coding=0,
    )
    labels = b.cast(b.unsqueeze(labels, 2), np.float32)
    rows = b.concat([boxes, b.unsqueeze(found_scores, 2), labels], 2)
    if found.shape("boxes")[0] == 1:
        return rows
    others = b.sub(b.slice(b.op("Shape", "boxes"), 0, 0, 1), b.ints(1))
    return b.op("Pad", rows, b.concat([b.ints(0, 0, 0), others, b.ints(0, 0)], 0))


FORMS = (
    Form(
        "ultralytics-nms",
        "ultralytics since 8.3 (`export(format='onnx', nms=True)`) for detection",
        (BY_CLASS, AGNOSTIC),
        ultralytics,
        plugin,
        # Many detections, some, and none.
        {
            "boxes": ({"fill": "corners", "high": 64.0},),
            "scores": ({}, {"low": -9.0}, {"low": -99.0}, {"low": -2.0, "high": -1.0}),
        },
    ),
)
