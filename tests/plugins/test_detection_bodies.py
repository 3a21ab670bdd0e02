"""The detection and ROI plugins beyond their samples: limits, other implementations, batches, recorded facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import references_detection
from engine_builds import assert_builds
from onnx import TensorProto, helper
from plugin_references import efficient_nms, pixel_iou
from references_detection.nms import area, clipped, corners
from references_detection.roi import align, bilinear
from runtime import run

import surgery.targets
from surgery.errors import ConversionError
from surgery.graph.body import Body
from surgery.plugins.attach import attach_bodies, target_model
from surgery.plugins.definition import PluginDefinition, TensorType
from surgery.plugins.native_nms import NmsSpec, nms_function
from surgery.plugins.registry import Registry
from surgery.plugins.rotated_nms import intersection, rotated
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import Attribute, Sample
from surgery.targets.table import resolve_target

REGISTRY = Registry.load()
NAMES = sorted(references_detection.REFERENCES)
OLDER = (
    "BatchedNMSDynamic_TRT",
    "EfficientNMS_Explicit_TF_TRT",
    "EfficientNMS_TRT",
    "GridAnchorRect_TRT",
    "GridAnchor_TRT",
    "NMSDynamic_TRT",
    "NMS_TRT",
)
MINE = [REGISTRY.get(name) for name in NAMES]
F = np.float32


def sample_of(name: str, attributes: dict[str, Any], *arrays: np.ndarray) -> tuple[PluginDefinition, Sample]:
    inputs = [{"shape": a.shape, "dtype": str(a.dtype)} for a in arrays]
    sample = {"name": "made", "attributes": attributes, "inputs": inputs}
    return REGISTRY.get(name), Sample.model_validate(sample)


def outputs(name: str, attributes: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
    return run(sample_model(*sample_of(name, attributes, *arrays)), arrays)


# -- facts ------------------------------------------------------------------------------------------------


def recorded() -> dict[str, Any]:
    path = Path(surgery.targets.__file__).parent / "data" / "plugins.json"
    return json.loads(path.read_text())["plugins"]


FACTS = recorded()
NOT_FROM_ONNX = {"Region_TRT": {"smTree"}}  # a pointer in memory


def kind_fits(attribute: Attribute, fact: dict[str, Any]) -> bool:
    base, _, length = fact["type"].rstrip("]").partition("[")
    single, several = {"int32": (("int", "bool"), "ints"), "float32": (("float",), "floats")}[base]
    if length:
        return attribute.type == several and attribute.length == int(length)
    return attribute.type in (*single, several)


@pytest.mark.parametrize("name", [n for n in (*NAMES, *OLDER) if n in FACTS])
def test_fields_and_versions_are_the_recorded_ones(name: str) -> None:
    fact, definition = FACTS[name], REGISTRY.get(name)
    fields = {f["name"]: f for f in fact["attributes"]}
    have = definition.file.attributes
    assert set(have) == set(fields) - NOT_FROM_ONNX.get(name, set())
    assert [n for n in have if not kind_fits(have[n], fields[n])] == []
    versions = {v for versions in fact["versions"].values() for v in versions}
    assert {d.version for d in definition.versions()} == versions
    interfaces = {v: i.split()[0] for v, i in fact["interface"].items()}
    stated = {e.plugin_version: e.interface for e in definition.file.availability.tensorrt}
    assert stated == interfaces


@pytest.mark.parametrize("name", [n for n in (*NAMES, *OLDER) if n in FACTS])
def test_availability_is_the_recorded_one(name: str) -> None:
    for version, shipped in FACTS[name]["versions"].items():
        for definition in REGISTRY.get(name).versions():
            assert definition.available("tensorrt", version) == (definition.version in shipped), version
            assert not definition.available("tensorrt-rtx", "1.7")


def test_plugins_that_no_tensorrt_ships_say_so() -> None:
    for name in set(NAMES) - set(FACTS):
        file = REGISTRY.get(name).file
        assert not file.availability.tensorrt
        assert "No TensorRT ships this plugin" in (REGISTRY.get(name).folder / "README.md").read_text()


def test_both_versions_of_a_plugin_are_found_and_kept() -> None:
    for version, interface in (("1", "IPluginV2DynamicExt"), ("2", "IPluginV3")):
        definition = REGISTRY.get("ROIAlign_TRT", version)
        assert definition.version == version
        assert definition.interface("tensorrt", "10.16") == interface
        node = definition.make_node("n", ["x", "r", "i"], ["y"], {})
        assert next(a.s for a in node.attribute if a.name == "plugin_version") == version.encode()
    assert REGISTRY.get("ROIAlign_TRT").version == "2"
    assert not REGISTRY.get("CropAndResizeDynamic", "1").available("tensorrt", "11.1")


# -- batches ----------------------------------------------------------------------------------------------

ONE_LIST = {
    "EfficientNMS_ONNX_TRT",
    "FlattenConcat_TRT",
}  # rows of all images in one output; covered elsewhere


def batched_cases() -> list[Any]:
    cases = []
    for definition in MINE:
        for sample in definition.samples:
            if definition.name in ONE_LIST or not sample.inputs:
                continue
            batch = sample.inputs[0].shape[0]
            model = sample_model(definition, sample, open_batch=True)
            shapes = [v.type.tensor_type.shape.dim[0] for v in (*model.graph.input, *model.graph.output)]
            if batch > 1 and all(d.dim_param == "batch" for d in shapes):
                cases.append(pytest.param(definition, sample, id=f"{definition.name}-{sample.name}"))
    return cases


@pytest.mark.parametrize(("definition", "sample"), batched_cases())
def test_images_of_a_batch_are_independent(definition: PluginDefinition, sample: Sample) -> None:
    model = sample_model(definition, sample, open_batch=True)
    inputs = sample_inputs(sample, 7)
    together = run(model, inputs)
    for image in range(len(inputs[0])):
        alone = run(model, [x[image : image + 1] for x in inputs])
        for got, want in zip(alone, together, strict=True):
            np.testing.assert_array_equal(got, want[image : image + 1])


def test_batched_cases_cover_the_plugins_with_a_batch() -> None:
    covered = {case.values[0].name for case in batched_cases()}
    without = {"GridPriorsTRT", "MMCVMultiLevelRoiAlign", "MMCVRoiAlign", "PriorBox_TRT", "ROIAlign_TRT"}
    assert covered == set(NAMES) - without - ONE_LIST


def test_rows_of_efficient_nms_for_onnx_count_through_an_open_batch() -> None:
    """Images with different numbers of detections, the first and the last with none."""
    attributes = {
        "score_threshold": 0.5,
        "iou_threshold": 0.5,
        "max_output_boxes_per_class": 3,
        "center_point_box": 0,
    }
    boxes = np.tile(np.array([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], F), (4, 1, 1))
    scores = np.zeros((4, 3, 1), F)
    scores[1, 2], scores[2, 0], scores[2, 1] = 0.9, 0.6, 0.8
    definition, sample = sample_of("EfficientNMS_ONNX_TRT", attributes, boxes, scores)
    model = sample_model(definition, sample, open_batch=True)
    (rows,) = run(model, [boxes, scores])
    assert rows[:3].tolist() == [[1, 0, 2], [2, 0, 1], [2, 0, 0]]
    assert (rows[3:] == rows[2]).all()
    assert len(rows) == 12
    (none,) = run(model, [boxes[:2], scores[:2] * 0])
    assert (none == -1).all()
    assert none.shape == (6, 3)


FREE = {
    "GatherTopk": {(0, 0), (1, 0), (1, 1)},
    "GridPriorsTRT": {(0, 0), (1, 0), (2, 0)},
    "MMCVMultiLevelRoiAlign": {(i, 0) for i in range(5)},
    "MMCVRoiAlign": {(0, 0), (1, 0)},
    "ROIAlign_TRT": {(0, 0), (1, 0), (2, 0)},
}
"""Dims by (input, axis) that may be open although they are no batch of every input."""


def open_model(definition: PluginDefinition, sample: Sample) -> onnx.ModelProto:
    """The sample's node with those dims as symbols, all of them different ones."""
    declared = definition.declared_inputs(len(sample.inputs))
    free = FREE[definition.name]
    types = [
        TensorType(x.dtype, tuple(f"d{i}_{k}" if (i, k) in free else d for k, d in enumerate(x.shape)))
        for i, x in enumerate(sample.inputs)
    ]
    node = definition.make_node("n", [i.name for i in declared], ["y"], sample.attributes)
    (found,) = definition.output_types(node, types)

    def info(name: str, known: TensorType) -> onnx.ValueInfoProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
        return helper.make_tensor_value_info(name, element, known.shape)

    inputs = [info(i.name, t) for i, t in zip(declared, types, strict=True)]
    graph = helper.make_graph([node], "open", inputs, [info("y", found)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return attach_bodies(model, REGISTRY)


OPEN_CASES = [
    pytest.param(REGISTRY.get(name), sample, id=f"{name}-{sample.name}")
    for name in FREE
    for sample in REGISTRY.get(name).samples
    if name != "GatherTopk" or len(sample.inputs[1].shape) == 2
]


@pytest.mark.parametrize(("definition", "sample"), OPEN_CASES)
def test_numbers_of_boxes_may_be_open(definition: PluginDefinition, sample: Sample) -> None:
    inputs = sample_inputs(sample, 2)
    (got,) = run(open_model(definition, sample), inputs)
    (want,) = run(sample_model(definition, sample), inputs)
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize(("definition", "sample"), OPEN_CASES)
def test_open_numbers_of_boxes_build(definition: PluginDefinition, sample: Sample) -> None:
    assert_builds(target_model(open_model(definition, sample), REGISTRY, resolve_target("tensorrt-rtx-1.7")))


@pytest.mark.parametrize("name", ["MMCVMultiLevelRoiAlign", "MMCVRoiAlign", "ROIAlign_TRT"])
def test_no_boxes_at_all(name: str) -> None:
    definition = REGISTRY.get(name)
    for sample in definition.samples:
        inputs = sample_inputs(sample, 0)
        lists = {"MMCVMultiLevelRoiAlign": [0], "MMCVRoiAlign": [1], "ROIAlign_TRT": [1, 2]}[name]
        empty = [x[:0] if i in lists else x for i, x in enumerate(inputs)]
        (got,) = run(open_model(definition, sample), empty)
        assert len(got) == 0


# -- the options of EfficientNMS --------------------------------------------------------------------------


@pytest.mark.parametrize("boxes_of", ["shared", "one", "per-class"])
@pytest.mark.parametrize("anchors", [None, 1, 2])
@pytest.mark.parametrize("coding", [0, 1])
@pytest.mark.parametrize(("agnostic", "activation"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_options_of_efficient_nms(
    boxes_of: str, anchors: int | None, coding: int, agnostic: int, activation: int
) -> None:
    rng = np.random.default_rng(coding + 2 * agnostic + 4 * activation)
    n, c = 24, 3
    middle, size = rng.uniform(0.1, 0.9, (2, n, c, 2)), rng.uniform(0.1, 0.4, (2, n, c, 2))
    pair = [middle, size] if coding else [middle - size / 2, middle + size / 2]
    boxes = np.concatenate(pair, axis=-1).astype(F)
    if boxes_of != "per-class":
        boxes = boxes[:, :, :1] if boxes_of == "one" else boxes[:, :, 0]
    scores = rng.uniform(0, 1, (2, n, c)).astype(F)
    attributes = {
        "score_threshold": 0.4,
        "iou_threshold": 0.3,
        "max_output_boxes": 50,
        "background_class": 1,
        "score_activation": activation,
        "box_coding": coding,
        "class_agnostic": agnostic,
    }
    if activation:
        scores = np.log(scores / (1 - scores)).astype(F)
    inputs = [boxes, scores]
    if anchors:
        ends = rng.uniform(0.2, 0.8, (anchors, n, 2)), rng.uniform(0.1, 0.5, (anchors, n, 2))
        inputs.append(np.concatenate(ends, axis=-1).astype(F))
    got = outputs("EfficientNMS_TRT", attributes, *inputs)
    wanted = efficient_nms(attributes, inputs)
    assert wanted[0].min() > 1
    assert wanted[0].max() < 50  # some rows are padding
    for one, two in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6, rtol=2e-6)


# -- RoiAlign ---------------------------------------------------------------------------------------------


def onnx_roi_align(mode: str, ratio: int, half_pixel: bool, *arrays: np.ndarray) -> np.ndarray:
    node = helper.make_node(
        "RoiAlign",
        ["x", "r", "n"],
        ["y"],
        mode=mode,
        output_height=3,
        output_width=2,
        sampling_ratio=ratio,
        spatial_scale=0.5,
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
    )
    dtypes = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    values = zip("xrn", dtypes, arrays, strict=True)
    inputs = [helper.make_tensor_value_info(n, t, a.shape) for n, t, a in values]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "roi_align", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return run(model, arrays)[0]


@pytest.mark.parametrize("half_pixel", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_is_onnx_roi_align(mode: str, ratio: int, half_pixel: bool) -> None:
    rng = np.random.default_rng(ratio)
    x = rng.normal(size=(2, 3, 8, 9)).astype(F)
    centre, size = rng.uniform(0, 18, (12, 2)), rng.uniform(0.5, 14, (12, 2))
    rois = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(F)
    images = rng.integers(0, 2, 12)
    attributes = {
        "mode": int(mode == "avg"),
        "output_height": 3,
        "output_width": 2,
        "sampling_ratio": ratio,
        "spatial_scale": 0.5,
        "coordinate_transformation_mode": int(half_pixel),
    }
    (got,) = outputs("ROIAlign_TRT", attributes, x, rois, images)
    wanted = onnx_roi_align(mode, ratio, half_pixel, x, rois, images)
    np.testing.assert_allclose(got, wanted, atol=2e-6, rtol=2e-5)


def test_boxes_without_samples() -> None:
    """Adaptive sampling of a box of no extent: the mean is 0, mmcv's maximum the lowest number."""
    x, point = np.ones((1, 1, 4, 4), F), np.array([[1, 1, 1, 1]], F)
    (mean,) = outputs("ROIAlign_TRT", {}, x, point, np.zeros(1, np.int64))
    assert (mean == 0).all()
    row = np.array([[0, 1, 1, 1, 1]], F)
    common = {"output_height": 1, "output_width": 1}
    (mean,) = outputs("MMCVRoiAlign", {"mode": "avg", **common}, x, row)
    (largest,) = outputs("MMCVRoiAlign", {"mode": "max", **common}, x, row)
    assert mean.item() == 0
    assert largest.item() == np.finfo(F).min


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [0, 1])
def test_swapped_ends_count_as_empty_in_mmcv(ratio: int, aligned: int) -> None:
    rng = np.random.default_rng(8)
    maps = [rng.normal(size=(1, 2, 8, 8)).astype(F) for _ in range(2)]
    rois = np.array([[0, 20, 24, 6, 5], [0, 8, 8, 8, 8]], F)
    attributes = {
        "pool_mode": 1,
        "featmap_strides": [4.0, 8.0],
        "sampling_ratio": ratio,
        "aligned": aligned,
        "output_height": 2,
        "output_width": 2,
    }
    (got,) = outputs("MMCVMultiLevelRoiAlign", attributes, rois, *maps)
    (want,) = references_detection.REFERENCES["MMCVMultiLevelRoiAlign"](attributes, [rois, *maps])
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    assert (got != 0).any() == bool(ratio or not aligned)


def test_a_loop_over_many_samples_equals_the_reference() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 2, 20, 30)).astype(F)
    rois = np.array([[-5, -5, 40, 30], [3, 4, 5, 6], [0, 0, 29, 19]], F)
    attributes = {"output_height": 2, "output_width": 1, "sampling_ratio": 0}
    (got,) = outputs("ROIAlign_TRT", attributes, x, rois, np.zeros(3, np.int64))
    wanted = [align(x[0], r, (2, 1), 0, aligned=True, pool="mean", interpolate=bilinear) for r in rois]
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "level"),
    [(27, 0), (28, 0), (55.99, 0), (56, 1), (111.9, 1), (112, 2), (223.9, 2), (224, 3), (300, 3)],
)
def test_mmcv_levels_start_at_powers_of_two(side: float, level: int) -> None:
    maps = [np.full((1, 1, 4, 4), float(i), F) for i in range(4)]
    attributes = {
        "pool_mode": 1,
        "featmap_strides": [4.0, 8.0, 16.0, 32.0],
        "finest_scale": 28,
        "output_height": 1,
        "output_width": 1,
    }
    (got,) = outputs("MMCVMultiLevelRoiAlign", attributes, np.array([[0, 0, 0, side, side]], F), *maps)
    if level:  # samples outside a map are 0, and so are all of level 0
        assert 0 < got.item() <= level
        assert (got.item() / level) <= 1
    else:
        assert got.item() == 0


@pytest.mark.parametrize(("area_", "level"), [(0.9, 0), (1.1, 1), (3.9, 1), (4.1, 2), (15.9, 2), (16.1, 3)])
def test_pyramid_levels_by_area(area_: float, level: int) -> None:
    maps = [np.full((1, 1, 8, 8), float(i), F) for i in range(4)]
    side = 112 / 1024 * area_**0.5
    rois = np.array([[[0.1, 0.2, 0.1 + side, 0.2 + side]]], F)
    (got,) = outputs("PyramidROIAlign_TRT", {"roi_coords_absolute": 0, "pooled_size": 2}, rois, *maps)
    np.testing.assert_allclose(got, level, rtol=1e-6)


def test_two_differently_configured_nodes_of_both_versions_in_one_model() -> None:
    """Each keeps its own body and its version."""
    types = [("x", 1, [1, 1, 6, 6]), ("r", 1, [2, 4]), ("i", 7, [2])]
    nodes = [
        REGISTRY.get("ROIAlign_TRT", version).make_node(version, ["x", "r", "i"], [f"y{version}"], attributes)
        for version, attributes in (("1", {"output_height": 2}), ("2", {"mode": 0, "sampling_ratio": 2}))
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(*t) for t in types],
        [helper.make_tensor_value_info(f"y{v}", 1, [2, 1, h, 1]) for v, h in (("1", 2), ("2", 1))],
    )
    bare = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = attach_bodies(bare, REGISTRY)
    onnx.checker.check_model(model)
    assert sorted(f.name for f in model.functions) == ["ROIAlign_TRT", "ROIAlign_TRT__2"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 6, 6)).astype(F)
    rois, images = np.array([[0, 0, 4, 4], [1, 2, 5, 5]], F), np.zeros(2, np.int64)
    mean, largest = run(model, [x, rois, images])
    assert mean.shape == (2, 1, 2, 1)
    np.testing.assert_array_equal(mean, outputs("ROIAlign_TRT", {"output_height": 2}, x, rois, images)[0])
    expected = outputs("ROIAlign_TRT", {"mode": 0, "sampling_ratio": 2}, x, rois, images)[0]
    np.testing.assert_array_equal(largest, expected)


# -- proposals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", REGISTRY.get("RPROI_TRT").samples, ids=lambda s: s.name)
def test_bins_do_not_depend_on_how_a_quotient_is_rounded(sample: Sample) -> None:
    """GPUs may give the next float32 for 3 / 7; multiplied back by 7 and rounded up it was one row more."""
    definition, inputs = REGISTRY.get("RPROI_TRT"), sample_inputs(sample, 0)
    model = sample_model(definition, sample)
    wanted = run(model, inputs)
    (function,) = model.functions
    quotients = [n for n in function.node if n.op_type == "Div"]
    assert quotients
    for node in quotients:
        exact, factor = f"{node.output[0]}/exact", f"{node.output[0]}/factor"
        value = onnx.numpy_helper.from_array(np.array(1 + 2**-23, F))
        at = list(function.node).index(node) + 1
        made = [
            helper.make_node("Constant", [], [factor], value=value),
            helper.make_node("Mul", [exact, factor], [node.output[0]]),
        ]
        node.output[0] = exact
        for extra in reversed(made):
            function.node.insert(at, extra)
    for one, two in zip(run(model, inputs), wanted, strict=True):
        np.testing.assert_array_equal(one, two)


def test_more_candidates_than_a_topk_takes() -> None:
    """4600 anchors of which 4000 take part: TensorRT's TopK ends at 3840."""
    rng = np.random.default_rng(0)
    height, width = 46, 100
    attributes = {
        "poolingH": 1,
        "poolingW": 1,
        "featureStride": 4,
        "preNmsTop": 4000,
        "nmsMaxOut": 60,
        "anchorsRatioCount": 1,
        "anchorsScaleCount": 1,
        "iouThreshold": 0.05,
        "minBoxSize": 1.0,
        "spatialScale": 0.25,
        "anchorsRatios": [1.0],
        "anchorsScales": [20.0],
    }
    inputs = [
        rng.uniform(size=(1, 2, height, width)).astype(F),
        (rng.normal(size=(1, 4, height, width)) * 0.3).astype(F),
        rng.normal(size=(1, 2, height, width)).astype(F),
        np.array([[[[height * 4, width * 4, 1]]]], F),
    ]
    got = outputs("RPROI_TRT", attributes, *inputs)
    wanted = references_detection.REFERENCES["RPROI_TRT"](attributes, inputs)
    assert (wanted[0][0, 0, 20:30] != 0).any()
    for one, two in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4, rtol=1e-5)


def test_boxes_below_a_pixel_neither_suppress_nor_are_suppressed() -> None:
    """GenerateDetection subtracts a pixel from a box that is smaller, so that it ends before it starts."""
    attributes = {
        "num_classes": 2,
        "keep_topk": 4,
        "score_threshold": 0.1,
        "iou_threshold": 0.3,
        "image_size": [3, 64, 64],
    }
    rois = np.tile(np.array([10, 10, 20, 20], F), (1, 4, 1))
    deltas = np.zeros((1, 4, 8, 1, 1), F)
    deltas[0, :2, 6:] = -50.0  # two of the four shrink to nothing
    scores = np.array([0.9, 0.8, 0.7, 0.6], F).reshape(1, 4, 1, 1, 1)
    scores = np.concatenate([1 - scores, scores], axis=2)
    (found,) = outputs("GenerateDetection_TRT", attributes, deltas, scores, rois)
    np.testing.assert_allclose(found[0, :, 5], [0.9, 0.8, 0.7, 0], atol=1e-6)
    assert found[0, :, 4].tolist() == [1, 1, 1, -1]
    np.testing.assert_allclose(found[0, 2, :4], [10, 10, 20, 20], atol=1e-5)


def test_boxes_grow_by_a_limited_factor() -> None:
    """Logarithms of sizes are at most log(1000 / 16)."""
    attributes = {
        "num_classes": 2,
        "keep_topk": 1,
        "score_threshold": 0.1,
        "iou_threshold": 0.3,
        "image_size": [3, 400, 400],
    }
    rois = np.array([[[200, 200, 201, 201]]], F)
    deltas = np.zeros((1, 1, 8, 1, 1), F)
    deltas[0, 0, 6:] = 40.0
    scores = np.array([0.1, 0.9], F).reshape(1, 1, 2, 1, 1)
    (found,) = outputs("GenerateDetection_TRT", attributes, deltas, scores, rois)
    half = 62.5  # half of 2 pixels times 62.5
    wanted = [201 - half, 201 - half, 201 + half - 1, 201 + half - 1]
    np.testing.assert_allclose(found[0, 0, :4], wanted, atol=1e-3)


def test_scores_lost_in_the_sort_key_are_no_proposals() -> None:
    """1 + 1e-9 is 1 in float32, which the kernel reads as no score."""
    definition = REGISTRY.get("MultilevelProposeROI_TRT")
    sample = next(s for s in definition.samples if s.name == "few-candidates")
    inputs = [np.ones(s.shape, F) * F(1e-9 if i % 2 else 0) for i, s in enumerate(sample.inputs)]
    (found,) = run(sample_model(definition, sample), inputs)
    assert (found == 0).all()
    (found,) = run(sample_model(definition, sample), [x * F(1e6) for x in inputs])
    assert (found != 0).any()


def test_scores_of_detections_pass_through_the_sort_key() -> None:
    attributes = {"num_classes": 81, "keep_topk": 1, "score_threshold": 0.0, "iou_threshold": 0.5}
    score = F(0.123456789)
    scores = np.zeros((1, 1, 81, 1, 1), F)
    scores[0, 0, 1] = score
    rois = np.array([[[0.1, 0.1, 0.5, 0.5]]], F)
    (found,) = outputs("DetectionLayer_TRT", attributes, np.zeros((1, 1, 324, 1, 1), F), scores, rois)
    key = F(F(F(79) * F(2.5) + score) + F(1))
    assert found[0, 0, 5] == F(F(key - F(197.5)) - F(1))
    assert found[0, 0, 5] != score


# -- rotated boxes ----------------------------------------------------------------------------------------


def common_areas(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """What the body computes for pairs of boxes [N, 5]."""
    b = Body(17)
    boxes = [rotated(b, b.split(name, 1, 5)) for name in ("one", "two")]
    b.alias(intersection(b, *boxes), "area")
    values = [helper.make_tensor_value_info(n, 1, one.shape) for n in ("one", "two")]
    graph = helper.make_graph(
        b.nodes, "areas", values, [helper.make_tensor_value_info("area", 1, [len(one), 1])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return run(model, [one, two])[0][:, 0]


def exact_area(one: np.ndarray, two: np.ndarray) -> float:
    common, other = corners(one), corners(two)
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        common = clipped(common, start, end) if common else []
    return area(common) if len(common) > 2 else 0.0


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_common_areas_of_rotated_boxes(scale: float) -> None:
    rng = np.random.default_rng(1)
    n = 300
    size = rng.uniform(0.02, 0.6, (2, n, 2))
    place = rng.uniform(0.2, 0.8, (2, n, 2))
    angle = rng.uniform(-7, 7, (2, n, 1))
    one, two = (np.concatenate([place[i], size[i], angle[i]], axis=1) for i in (0, 1))
    two[:40] = one[:40]  # the same box
    two[40:60, 4] = one[40:60, 4]  # parallel sides
    two[60:80, 4] = one[60:80, 4] + np.pi / 2
    two[80:100, :2], two[80:100, 2:4] = one[80:100, :2], one[80:100, 2:4] * 0.4  # one within the other
    two[100:120] = one[100:120]
    two[100:120, 4] += np.pi  # the same box, upside down
    two[120:140] = one[120:140]
    two[120:140, 0] += np.cos(one[120:140, 4]) * one[120:140, 2]  # touching along a side
    two[120:140, 1] += np.sin(one[120:140, 4]) * one[120:140, 2]
    one[:, :4], two[:, :4] = one[:, :4] * scale, two[:, :4] * scale
    one, two = one.astype(F), two.astype(F)
    wanted = np.array([exact_area(p, q) for p, q in zip(one, two, strict=True)])
    got = common_areas(one, two)
    whole = np.minimum(one[:, 2] * one[:, 3], two[:, 2] * two[:, 3])
    assert (np.abs(got - wanted) / whole).max() < 2e-4
    assert (wanted > 0).mean() > 0.5


def test_boxes_without_area_overlap_everything() -> None:
    attributes = {
        "background_label_id": -1,
        "num_classes": 1,
        "topk": -1,
        "keep_topk": 3,
        "score_threshold": 0.1,
        "iou_threshold": 0.5,
        "clip_boxes": 0,
    }
    boxes = np.array([[0, 0, 2, 2, 0.3], [50, 50, 0, 4, 1.0], [90, 90, 2, 2, 0.1]], F).reshape(1, 3, 1, 5)
    scores = np.array([0.9, 0.8, 0.7], F).reshape(1, 3, 1)
    dets, labels = outputs("TRTBatchedRotatedNMS", attributes, boxes, scores)
    assert labels[0].tolist() == [0, 0, -1]
    np.testing.assert_array_equal(dets[0, :2, 0], [0, 90])


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "shapes", "word"),
    [
        ("PyramidROIAlign_TRT", {"legacy": 1, "pooled_size": 1}, None, "divides by pooled_size - 1"),
        ("PriorBox_TRT", {"minSize": []}, None, "minSize is empty"),
        ("PriorBox_TRT", {"maxSize": [60.0]}, None, "maxSize has 1 entries; expected none or 2"),
        ("PriorBox_TRT", {"maxSize": [20.0, 111.0]}, None, "above its minSize"),
        ("FlattenConcat_TRT", {"axis": 2}, None, "expected one of 1"),
        ("FlattenConcat_TRT", {}, [(1, 2, 3, 4), (1, 2, 4, 3)], "heights and widths differ"),
        ("Normalize_TRT", {}, [(1, 4, 2, 2)], "weights has 3 entries for 4 channels"),
        ("Normalize_TRT", {"channelShared": 1}, None, "channelShared takes 1"),
        ("Region_TRT", {}, [(1, 41, 2, 2)], "x has 41 channels; num * (coords + 1 + classes) is 40"),
        ("Reorg_TRT", {}, [(1, 6, 4, 4)], "channels is 6; it has to be a multiple of 4"),
        ("Reorg_TRT", {}, [(1, 8, 5, 4)], "height is 5; it has to be a multiple of 2"),
        ("ProposalLayer_TRT", {"prenms_topk": 2000}, None, "the maximum is 1024"),
        ("ProposalLayer_TRT", {}, [(1, 700, 2, 1), (1, 700, 4, 1)], "700 anchors given; an image of 48 x 64"),
        ("MultilevelProposeROI_TRT", {"image_size": [3, 16, 16]}, None, "too small for level 6"),
        ("RPROI_TRT", {"anchorsScaleCount": 3}, None, "anchorsScaleCount is 3, but anchorsScales has 2"),
        ("DetectionLayer_TRT", {"num_classes": 1}, None, "the minimum is 2"),
        (
            "DetectionLayer_TRT",
            {},
            [(1, 9, 12, 1, 1), (1, 9, 4, 1, 1), (1, 9, 4)],
            "delta_bbox has 12 values for each box; expected 16",
        ),
        (
            "DecodeBbox3DPlugin",
            {"anchors": [1.0] * 16},
            None,
            "anchors has 16 values; expected 8 for each of 3",
        ),
        (
            "DecodeBbox3DPlugin",
            {},
            [(1, 4, 1, 18), (1, 4, 1, 42), (1, 4, 1, 12)],
            "one cell high or wide",
        ),
        ("TRTBatchedNMS", {"topk": 10}, None, "keep_topk is 15 but topk only 10"),
        ("TRTBatchedNMS", {}, [(1, 9, 1, 4), (1, 9, 3)], "num_classes is 4, but the scores have 3 columns"),
        ("TRTBatchedRotatedNMS", {}, [(1, 9, 1, 4), (1, 9, 3)], "do not fit"),
        ("PillarScatterPlugin", {}, [(1, 9, 32), (1, 9, 4), (1,)], "do not fit"),
        ("GatherTopk", {}, [(2, 9, 4), (3, 5)], "batch dims"),
        (
            "MMCVMultiLevelRoiAlign",
            {"featmap_strides": [4.0]},
            [(3, 5), (1, 2, 8, 8), (1, 2, 4, 4)],
            "for 2 levels",
        ),
        ("BatchedNMS_TRT", {"keepTopK": 50}, None, "keepTopK is 50 but topK only 20"),
    ],
)
def test_wrong_configurations_are_named(
    name: str, change: dict[str, Any], shapes: list[tuple[int, ...]] | None, word: str
) -> None:
    definition = REGISTRY.get(name)
    good = definition.samples[0].attributes
    assert definition.check(good) == []
    dtypes = [i.dtypes[-1] for i in definition.declared_inputs(len(shapes or ()))]
    types = [TensorType(d, s) for d, s in zip(dtypes, shapes or (), strict=True)]
    found = definition.check({**good, **change}, types)
    assert any(word in problem for problem in found), found


def test_a_third_output_needs_return_index() -> None:
    definition = REGISTRY.get("TRTBatchedNMS")
    sample = definition.samples[0]
    attributes = {**sample.attributes, "return_index": 0}
    with pytest.raises(ConversionError, match="three outputs, but return_index is 0"):
        sample_model(definition, sample.model_copy(update={"attributes": attributes}))


def test_sizes_that_the_bodies_need_are_asked_for() -> None:
    definition = REGISTRY.get("ROIAlign_TRT")
    node = definition.make_node("n", ["x", "r", "i"], ["y"], {})
    with pytest.raises(ConversionError, match="dimension 2 of 'X' is 'H'"):
        definition.body(node, [(1, 3, "H", 8), (5, 4), (5,)], ["float32", "float32", "int64"], 17)


# -- boxes in pixels --------------------------------------------------------------------------------------

BATCHED = {
    "shareLocation": 1,
    "backgroundLabelId": -1,
    "numClasses": 1,
    "topK": 3,
    "keepTopK": 3,
    "scoreThreshold": 0.1,
    "clipBoxes": 0,
}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"isNormalized": 1}, 3),
        ({"isNormalized": 0}, 1),  # points that do not meet have their one pixel in common
        ({"isNormalized": 0, "caffeSemantics": 0}, 3),
        ({"isNormalized": 0, "iouThreshold": 1.0}, 3),
    ],
)
@pytest.mark.parametrize("name", ["BatchedNMS_TRT", "BatchedNMSDynamic_TRT"])
def test_points_in_pixels(name: str, change: dict[str, Any], kept: int) -> None:
    boxes = np.array([[1, 1, 1, 1], [9, 9, 9, 9], [20, 1, 20, 1]], F).reshape(1, 3, 1, 4)
    scores = np.array([0.9, 0.8, 0.7], F).reshape(1, 3, 1)
    count = outputs(name, {**BATCHED, "iouThreshold": 0.5, **change}, boxes, scores)[0]
    assert count.ravel().tolist() == [kept]


@pytest.mark.parametrize("sample", ["pixels", "pixels-in-areas-only"])
def test_the_pixel_decides_in_a_sample(sample: str) -> None:
    definition = REGISTRY.get("BatchedNMSDynamic_TRT")
    found = next(s for s in definition.samples if s.name == sample)
    inputs = sample_inputs(found, 0)
    with_pixel = run(sample_model(definition, found), inputs)
    other = found.model_copy(update={"attributes": {**found.attributes, "isNormalized": 1}})
    without = run(sample_model(definition, other), inputs)
    assert any((a != b).any() for a, b in zip(with_pixel, without, strict=True))


@pytest.mark.parametrize("form", ["fixpoint", "select"])
@pytest.mark.parametrize("overlap", [False, True])
def test_both_forms_agree_in_pixels(form: str, overlap: bool) -> None:
    """The two ways to suppress see the same overlaps."""
    rng = np.random.default_rng(5)
    spec = NmsSpec(
        num_boxes=40,
        num_classes=2,
        max_total=40,
        max_per_class=40,
        iou_threshold=0.3,
        score_threshold=0.0,
        in_pixels=True,
        pixels_overlap=overlap,
    )
    corner = rng.uniform(0, 8, (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 4, (2, 40, 2))], axis=2).astype(F)
    scores = rng.uniform(0.1, 1, (2, 40, 2)).astype(F)
    function = nms_function(spec, domain="test", name="nms", opset=17, form=form)
    values = [helper.make_tensor_value_info(n, 1, a.shape) for n, a in (("boxes", boxes), ("scores", scores))]
    node = helper.make_node("nms", ["boxes", "scores"], ["count", "b", "s", "c", "i"], domain="test")
    results = [helper.make_tensor_value_info("count", 6, [2]), helper.make_tensor_value_info("i", 6, [2, 40])]
    graph = helper.make_graph([node], "nms", values, results)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("test", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    count, index = run(model, [boxes, scores])
    for image in range(2):
        kept: list[tuple[F, int, int]] = []
        for c in (0, 1):
            mine: list[int] = []
            for i in np.argsort(-scores[image, :, c], kind="stable"):
                if all(pixel_iou(boxes[image, j], boxes[image, i], overlap) <= F(0.3) for j in mine):
                    mine.append(int(i))
            kept += [(scores[image, i, c], c, i) for i in mine]
        kept.sort(key=lambda r: -r[0])
        assert count[image] == min(len(kept), 40)
        assert index[image, : count[image]].tolist() == [i for _, _, i in kept[:40]]
