"""Inputs that models in the wild give otherwise than the plugin takes them, put right in front of the node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime import run

from surgery.errors import ConversionError
from surgery.plugins.adopt import adopt_plugins
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.registry import Registry

REGISTRY = Registry.load()
RNG = np.random.default_rng(11)

PROPOSAL = {
    "input_height": 64, "input_width": 64, "rpn_stride": 8, "roi_min_size": 1.0, "nms_iou_threshold": 0.7,
    "pre_nms_top_n": 50, "post_nms_top_n": 12, "anchor_sizes": [12.0, 30.0], "anchor_ratios": [1.0, 0.5],
}  # fmt: skip
GRID = {
    "numLayers": 2, "minSize": 0.2, "maxSize": 0.9, "aspectRatios": [1.0, 2.0, 0.5], "featureMapShapes": [3, 2],
    "variance": [0.1, 0.1, 0.2, 0.2],
}  # fmt: skip
BATCHED = {
    "background_label_id": -1, "num_classes": 3, "topk": 20, "keep_topk": 8, "score_threshold": 0.2,
    "iou_threshold": 0.5, "clip_boxes": 0,
}  # fmt: skip
INDICES = {
    "score_threshold": 0.2, "iou_threshold": 0.5, "max_output_boxes_per_class": 8, "center_point_box": 0,
}  # fmt: skip


def model_of(
    op: str, shapes: dict[str, list[Any]], outputs: list[str], attributes: dict[str, Any], domain: str = ""
) -> onnx.ModelProto:
    node = helper.make_node(op, list(shapes), outputs, name="node", domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    results = [onnx.helper.make_empty_tensor_value_info(n) for n in outputs]
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, results), opset_imports=imports, ir_version=8
    )


def adopted(*args: Any, **kwargs: Any) -> tuple[onnx.ModelProto, str]:
    model, (found,) = adopt_plugins(model_of(*args, **kwargs), REGISTRY)
    (node,) = (n for n in model.graph.node if n.domain == PLUGIN_DOMAIN)
    types = dict.fromkeys(o.name for o in model.graph.output)
    assert set(node.output) == set(types)
    for output in model.graph.output:  # what is run has to say what it gives
        kind = TensorProto.INT32 if output.name in ("count", "labels", "rows") else TensorProto.FLOAT
        output.type.tensor_type.elem_type = kind
    return model, found.note


def corners(*shape: int) -> np.ndarray:
    low = RNG.uniform(0, 0.7, (*shape, 2))
    return np.concatenate([low, low + RNG.uniform(0.05, 0.3, low.shape)], -1).astype(np.float32)


def uniform(*shape: int) -> np.ndarray:
    return RNG.uniform(0, 1, shape).astype(np.float32)


def test_scores_in_the_layout_of_onnx() -> None:
    shapes = {"b": [1, 20, 4], "s": [1, 3, 20]}
    model, note = adopted("EfficientNMS_ONNX_TRT", shapes, ["rows"], INDICES)
    assert "transposed in front of it" in note
    plain, silent = adopted("EfficientNMS_ONNX_TRT", {**shapes, "s": [1, 20, 3]}, ["rows"], INDICES)
    assert silent == ""
    boxes, scores = corners(1, 20), uniform(1, 20, 3)
    (want,) = run(plain, [boxes, scores])
    assert (want[:, 0] == 0).all()
    np.testing.assert_array_equal(run(model, [boxes, scores.transpose(0, 2, 1)])[0], want)


def test_scores_that_fit_either_way_are_taken_as_they_are() -> None:
    _, note = adopted("EfficientNMS_ONNX_TRT", {"b": [1, 5, 4], "s": [1, 5, 5]}, ["rows"], INDICES)
    assert note == ""
    with pytest.raises(ConversionError, match="do not fit"):
        adopted("EfficientNMS_ONNX_TRT", {"b": [1, 20, 4], "s": [1, 3, 21]}, ["rows"], INDICES)


def test_boxes_of_rank_three_are_shared_by_all_classes() -> None:
    shapes = {"b": [2, 30, 4], "s": [2, 30, 3]}
    model, note = adopted("TRTBatchedNMS", shapes, ["dets", "labels"], BATCHED, domain="mmdeploy")
    assert "a dim of 1 is added" in note
    wide = {**shapes, "b": [2, 30, 1, 4]}
    plain, silent = adopted("TRTBatchedNMS", wide, ["dets", "labels"], BATCHED, domain="mmdeploy")
    assert silent == ""
    boxes, scores = corners(2, 30), uniform(2, 30, 3)
    want = run(plain, [boxes[:, :, None], scores])
    for got, expected in zip(run(model, [boxes, scores]), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ConversionError, match="do not fit"):
        adopted("TRTBatchedNMS", {**shapes, "b": [2, 30, 5]}, ["dets", "labels"], BATCHED)


def test_anchors_read_no_feature_maps() -> None:
    shapes = {"a": [1, 8, 3, 3], "b": [1, 8, 2, 2]}
    model, note = adopted("GridAnchor_TRT", shapes, ["p", "q"], GRID)
    assert "its 2 inputs are dropped" in note
    assert not next(n for n in model.graph.node if n.domain == PLUGIN_DOMAIN).input
    plain, silent = adopted("GridAnchor_TRT", {}, ["p", "q"], GRID)
    assert silent == ""
    want = run(plain, [])
    for got, expected in zip(run(model, [uniform(1, 8, 3, 3), uniform(1, 8, 2, 2)]), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_feature_maps_of_different_sizes_are_flattened() -> None:
    shapes = {"a": [2, 8, 3, 3], "b": [2, 4, 2, 5]}
    model, note = adopted("FlattenConcat_TRT", shapes, ["y"], {"axis": 1, "ignoreBatch": 0})
    assert "flattened in front of it" in note
    a, b = uniform(2, 8, 3, 3), uniform(2, 4, 2, 5)
    (got,) = run(model, [a, b])
    np.testing.assert_array_equal(got[:, :, 0, 0], np.concatenate([a.reshape(2, -1), b.reshape(2, -1)], 1))
    same = {"a": [2, 8, 3, 3], "b": [2, 4, 3, 3]}
    assert adopted("FlattenConcat_TRT", same, ["y"], {"axis": 1, "ignoreBatch": 0})[1] == ""


@pytest.mark.parametrize("plugin", ["Proposal", "ProposalDynamic"])
def test_channels_that_the_kernel_does_not_read(plugin: str) -> None:
    shapes = {"s": [1, 8, 6, 6], "d": [1, 16, 6, 6]}
    model, note = adopted(plugin, shapes, ["rois"], PROPOSAL)
    assert "scores has 8 channels, of which its kernel reads the first 4" in note
    assert "background first" in note
    plain, silent = adopted(plugin, {**shapes, "s": [1, 4, 6, 6]}, ["rois"], PROPOSAL)
    assert silent == ""
    scores, deltas = uniform(1, 8, 6, 6), RNG.normal(0, 0.3, (1, 16, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        run(model, [scores, deltas])[0], run(plain, [scores[:, :4].copy(), deltas])[0]
    )


@pytest.mark.parametrize("shapes", [([2, 8, 6, 6], [2, 16, 6, 6]), ([1, 3, 6, 6], [1, 16, 6, 6])])
def test_channels_that_make_no_sense_are_refused(shapes: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ConversionError, match="channels; 2 anchor_sizes and 2 anchor_ratios"):
        adopted("Proposal", dict(zip("sd", shapes, strict=True)), ["rois"], PROPOSAL)


def test_what_stands_behind_a_fitted_node_is_reached() -> None:
    """The second node's shapes are measured by running the first, with what was put in front of it."""
    flat = helper.make_node("FlattenConcat_TRT", ["a", "b"], ["f"], name="flat", axis=1, ignoreBatch=0)
    turned = helper.make_node("Shape", ["f"], ["size"])
    shaped = helper.make_node("Reshape", ["f", "size"], ["g"])
    leaky = helper.make_node("LReLU_TRT", ["g"], ["y"], name="leaky", negSlope=0.5)
    sizes = {"a": [1, 8, 3, 3], "b": [1, 4, 2, 5]}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 112, 1, 1])
    graph = helper.make_graph([flat, turned, shaped, leaky], "g", inputs, [result])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model, found = adopt_plugins(made, REGISTRY)
    assert [bool(f.note) for f in found] == [True, False]
    a, b = RNG.normal(size=sizes["a"]).astype(np.float32), RNG.normal(size=sizes["b"]).astype(np.float32)
    (got,) = run(model, [a, b])
    want = np.concatenate([a.reshape(1, -1), b.reshape(1, -1)], 1).reshape(1, 112, 1, 1)
    np.testing.assert_allclose(got, np.where(want < 0, want * np.float32(0.5), want))
