"""Suppression of a number of boxes that is known at run time only: the same as with the number written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime import run

import surgery
from surgery.errors import ConversionError
from surgery.plugins.adopt import adopt_plugins
from surgery.plugins.registry import Registry

REGISTRY = Registry.load()
RNG = np.random.default_rng(23)
MMDEPLOY = {
    "background_label_id": 1, "num_classes": 3, "topk": 12, "keep_topk": 9, "score_threshold": 0.2,
    "iou_threshold": 0.4, "clip_boxes": 0, "return_index": 1,
}  # fmt: skip
ROTATED = {
    "background_label_id": 1, "num_classes": 3, "topk": 12, "keep_topk": 9, "score_threshold": 0.2,
    "iou_threshold": 0.4,
}  # fmt: skip
BATCHED = {
    "shareLocation": 1, "backgroundLabelId": -1, "numClasses": 3, "topK": 12, "keepTopK": 9, "scoreThreshold": 0.2,
    "iouThreshold": 0.4, "isNormalized": 1, "clipBoxes": 0,
}  # fmt: skip
KINDS = {
    "TRTBatchedNMS": (MMDEPLOY, [TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT32], 4),
    "TRTBatchedRotatedNMS": (ROTATED, [TensorProto.FLOAT, TensorProto.INT32], 5),
    "BatchedNMSDynamic_TRT": (
        BATCHED,
        [TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT],
        4,
    ),
}
CLASSES = {"TRTBatchedNMS": 1, "TRTBatchedRotatedNMS": 1, "BatchedNMSDynamic_TRT": 3}
"""Output that is -1 in rows without a detection."""


def model_of(plugin: str, batch: Any, number: Any, sets: int = 1, **change: Any) -> onnx.ModelProto:
    attributes, kinds, width = KINDS[plugin]
    outputs = [f"y{i}" for i in range(len(kinds))]
    node = helper.make_node(plugin, ["b", "s"], outputs, name="nms", **{**attributes, **change})
    inputs = [
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [batch, number, sets, width]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [batch, number, 3]),
    ]
    results = [helper.make_tensor_value_info(o, k, None) for o, k in zip(outputs, kinds, strict=True)]
    graph = helper.make_graph([node], "g", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inputs_of(plugin: str, batch: int, number: int, levels: int) -> list[np.ndarray]:
    low = RNG.uniform(0, 0.6, (batch, number, 1, 2))
    size = RNG.uniform(0.1, 0.4, low.shape)
    boxes = np.concatenate([low, low + size], -1)
    if plugin == "TRTBatchedRotatedNMS":
        boxes = np.concatenate([low, size, RNG.uniform(-1, 1, (batch, number, 1, 1))], -1)
    scores = RNG.integers(0, levels, (batch, number, 3)) / levels
    return [boxes.astype(np.float32), scores.astype(np.float32)]


@pytest.mark.parametrize("plugin", KINDS)
def test_it_is_what_the_known_number_gives(plugin: str) -> None:
    free, _ = adopt_plugins(model_of(plugin, "n", "boxes"), REGISTRY)
    kept = 0
    # Fewer boxes than topK of a class, as many, more; scores of few levels tie, also at the limit.
    for batch, number, levels in ((1, 5, 50), (2, 12, 50), (2, 40, 50), (3, 60, 4), (1, 3, 2)):
        known, _ = adopt_plugins(model_of(plugin, batch, number), REGISTRY)
        given = inputs_of(plugin, batch, number, levels)
        results = run(free, given)
        for got, want in zip(results, run(known, given), strict=True):
            np.testing.assert_array_equal(got, want)
        kept += int((results[CLASSES[plugin]] >= 0).sum())
    assert kept > 20


def test_all_of_an_unknown_number_of_boxes_are_refused() -> None:
    with pytest.raises(ConversionError, match="dimension 1 of 'scores'"):
        adopt_plugins(model_of("TRTBatchedNMS", 1, "boxes", topk=-1), REGISTRY)
    with pytest.raises(ConversionError, match="TopK takes no more than 3840 of a class, not 4000"):
        adopt_plugins(model_of("BatchedNMSDynamic_TRT", 1, "boxes", topK=4000, keepTopK=100), REGISTRY)
    with pytest.raises(ConversionError, match="dimension 1 of 'scores'"):
        adopt_plugins(model_of("BatchedNMSDynamic_TRT", 1, "boxes", sets=3, shareLocation=0), REGISTRY)


@pytest.mark.slow
@pytest.mark.parametrize("plugin", KINDS)
def test_an_engine_for_any_number_of_boxes(plugin: str) -> None:
    width = KINDS[plugin][2]
    shapes = {
        "b": ([1, 4, 1, width], [1, 40, 1, width], [2, 90, 1, width]),
        "s": ([1, 4, 3], [1, 40, 3], [2, 90, 3]),
    }
    report = surgery.run("migrate", model_of(plugin, "n", "boxes"), target="tensorrt-rtx", shapes=shapes)
    assert report.failure is None, report.failure
    assert report.engine
    assert report.verification["graph"]["status"] == "passed"
    sizes = {case["shapes"]["s"][1] for case in report.verification["graph"]["cases"]}
    assert {4, 40, 90} <= sizes


def test_a_successor_takes_the_best_of_each_class() -> None:
    model = model_of("BatchedNMSDynamic_TRT", "n", "boxes")
    shapes = {"b": ([1, 4, 1, 4], [1, 40, 1, 4], [2, 90, 1, 4]), "s": ([1, 4, 3], [1, 40, 3], [2, 90, 3])}
    report = surgery.run("migrate", model, target="tensorrt-11.4", shapes=shapes)
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    (edit,) = (e for e in report.edits if e.rule == "successor-plugin")
    assert edit.details["successor"].startswith("EfficientNMS_TRT")
    assert edit.verified == "passed"


EFFICIENT = {
    "score_threshold": 0.25, "iou_threshold": 0.4, "max_output_boxes": 15, "background_class": -1,
    "score_activation": 0, "box_coding": 0,
}  # fmt: skip


def efficient(batch: Any, number: Any, sets: int, anchors: bool, **change: Any) -> onnx.ModelProto:
    boxes = [batch, number, sets, 4] if sets else [batch, number, 4]
    shapes = {"b": boxes, "s": [batch, number, 3], **({"a": [1, number, 4]} if anchors else {})}
    node = helper.make_node(
        "EfficientNMS_TRT", list(shapes), list("nxyz"), name="nms", **{**EFFICIENT, **change}
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    results = [helper.make_tensor_value_info(o, k, None) for o, k in zip("nxyz", kinds, strict=True)]
    graph = helper.make_graph([node], "g", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("sets", "anchors", "change"),
    [
        (0, False, {}),
        (0, False, {"class_agnostic": 1, "background_class": 0}),
        (3, False, {"background_class": 1}),
        (0, True, {"box_coding": 1, "score_activation": 1}),
        (1, False, {"score_threshold": 0.001, "background_class": 2}),
    ],
)
def test_the_best_pairs_of_an_image(sets: int, anchors: bool, change: dict[str, Any]) -> None:
    free, _ = adopt_plugins(efficient("n", "boxes", sets, anchors, **change), REGISTRY)
    kept = 0
    # The last one has more pairs than the 5000 that take part, most of them tied at the limit.
    for batch, number, levels in ((1, 4, 50), (2, 40, 50), (2, 90, 4), (1, 2000, 7)):
        known, _ = adopt_plugins(efficient(batch, number, sets, anchors, **change), REGISTRY)
        boxes, scores = inputs_of("TRTBatchedNMS", batch, number, levels)
        boxes = np.repeat(boxes, 3, axis=2) if sets == 3 else boxes if sets else boxes[:, :, 0]
        if sets == 3:
            boxes = boxes + RNG.uniform(-0.05, 0.05, boxes.shape).astype(np.float32)
        given = [boxes, scores * 6 - 3 if change.get("score_activation") else scores]
        given += [RNG.uniform(0.2, 0.8, (1, number, 4)).astype(np.float32)] if anchors else []
        results = run(free, given)
        for got, want in zip(results, run(known, given), strict=True):
            np.testing.assert_array_equal(got, want)
        kept += int(results[0].sum())
    assert kept > 30


@pytest.mark.slow
def test_an_engine_for_any_number_of_pairs() -> None:
    shapes = {"b": ([1, 4, 4], [1, 40, 4], [2, 90, 4]), "s": ([1, 4, 3], [1, 40, 3], [2, 90, 3])}
    model = efficient("n", "boxes", 0, False)
    report = surgery.run("migrate", model, target="tensorrt-rtx", shapes=shapes)
    assert report.failure is None, report.failure
    assert report.engine
    kept = surgery.run("migrate", model, target="tensorrt-11.4", shapes=shapes)
    assert kept.failure is None, kept.failure
    assert kept.verification["graph"]["status"] == "passed"
    assert not kept.edits  # the plugin stays, whatever the number


def test_a_limit_for_each_class_needs_the_number() -> None:
    attributes = {
        "max_output_size_per_class": 5, "max_total_size": 15, "iou_threshold": 0.5, "score_threshold": 0.2,
        "pad_per_class": 0, "clip_boxes": 0,
    }  # fmt: skip
    node = helper.make_node(
        "EfficientNMS_Explicit_TF_TRT", ["b", "s"], list("nxyz"), name="nms", **attributes
    )
    inputs = [
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, "boxes", 4]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, "boxes", 3]),
    ]
    graph = helper.make_graph([node], "g", inputs, [onnx.helper.make_empty_tensor_value_info("n")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ConversionError, match="not known, and there is a limit for each class"):
        adopt_plugins(model, REGISTRY)
