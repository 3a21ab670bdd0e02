"""Heads are read off the graph: every knob of a detector has to come back as it was built."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.errors import ConversionError
from surgery.graph.convert import import_graph
from surgery.graph.cut import cut_by_scope
from surgery.graph.fold import fold_constants
from surgery.graph.view import View
from surgery.heads.head import DetectionHead
from surgery.heads.identify import identify
from tests.heads.ssd_models import detector


def read(model: onnx.ModelProto) -> DetectionHead:
    graph, _ = import_graph(model)
    fold_constants(graph)
    cut = cut_by_scope(View(graph), "post", ["Postprocessor"], grow="forward")
    assert cut is not None
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    return identify(graph, cut, {"image": image}, seed=0)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"classes": 5, "boxes": 40, "total": 12, "per_class": 4},
        {"iou": 0.35, "score": 0.25},
        {"class_offset": 0},
        {"class_offset": 3, "background": False},
        {"total": 18, "per_class": 6},
    ],
    ids=str,
)
def test_every_knob_is_read(knobs: dict[str, float]) -> None:
    built = {
        "boxes": 24, "classes": 3, "total": 10, "per_class": 6, "iou": 0.5, "score": 0.1, "class_offset": 1,
        **knobs,
    }  # fmt: skip
    head = read(detector(**knobs))  # type: ignore[arg-type]
    assert (head.num_boxes, head.num_classes) == (built["boxes"], built["classes"])
    assert head.max_total == built["total"]
    assert head.parameters.max_per_class == built["per_class"]
    assert head.parameters.iou_threshold == pytest.approx(built["iou"], abs=1e-7)
    assert head.parameters.score_threshold == pytest.approx(built["score"], abs=1e-7)
    assert head.clip_window == (0.0, 0.0, 1.0, 1.0)
    assert head.prune_empty
    roles = {o.role: o for o in head.outputs}
    assert set(roles) == {"count", "boxes", "scores", "classes"}
    assert roles["classes"].offset == built["class_offset"]
    assert roles["classes"].pad == built["class_offset"]
    assert roles["boxes"].name == "detection_boxes"
    assert len(head.nms_nodes) == built["classes"]


def change(model: onnx.ModelProto, name: str, **replacement: str) -> onnx.ModelProto:
    node = next(n for n in model.graph.node if n.name == name)
    for position, tensor in replacement.items():
        node.input[int(position[1:])] = tensor
    return model


def test_different_thresholds_per_class_are_refused() -> None:
    model = detector()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(0.9, np.float32), "other"))
    with pytest.raises(ConversionError, match="different rules"):
        read(change(model, "nms_1", i3="other"))


def test_a_class_that_is_left_out_is_refused() -> None:
    model = detector()
    first = next(n for n in model.graph.node if n.name == "nms_0")
    second = next(n for n in model.graph.node if n.name == "nms_1")
    second.input[1] = first.input[1]
    with pytest.raises(ConversionError, match="not every class"):
        read(model)


def test_scores_that_are_changed_before_suppression_are_refused() -> None:
    """Soft suppression, say: what is suppressed is no column of any tensor."""
    model = detector()
    place, node = next((i, n) for i, n in enumerate(model.graph.node) if n.name == "nms_0")
    model.graph.node.insert(
        place,
        onnx.helper.make_node("Mul", [node.input[1], node.input[1]], ["soft"], name="Postprocessor/soft"),
    )
    next(n for n in model.graph.node if n.name == "nms_0").input[1] = "soft"
    with pytest.raises(ConversionError) as caught:
        read(model)
    assert caught.value.exit_code == 4
    assert "soft-NMS" in (caught.value.cause or "")


def test_boxes_in_centre_form_are_refused() -> None:
    model = detector()
    for node in model.graph.node:
        if node.op_type == "NonMaxSuppression":
            node.attribute.append(onnx.helper.make_attribute("center_point_box", 1))
    with pytest.raises(ConversionError, match="centre form"):
        read(model)


def test_a_scale_after_suppression_is_refused() -> None:
    model = detector()
    node = next(n for n in model.graph.node if "detection_boxes" in n.output)
    node.output[0] = "unscaled"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(300, np.float32), "size"))
    model.graph.node.append(
        onnx.helper.make_node("Mul", ["unscaled", "size"], ["detection_boxes"], name="Postprocessor/scale")
    )
    with pytest.raises(ConversionError, match="more than clipping"):
        read(model)


def test_a_cut_without_suppression_says_so() -> None:
    graph, _ = import_graph(detector())
    cut = cut_by_scope(View(graph), "net", ["net"])
    assert cut is not None
    image = np.zeros((1, 4, 4, 3), np.float32)
    with pytest.raises(ConversionError, match="no NonMaxSuppression"):
        identify(graph, cut, {"image": image}, seed=0)
