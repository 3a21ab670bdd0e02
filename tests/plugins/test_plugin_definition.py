"""What a definition says about attributes, types, availability and nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import ConversionError
from surgery.plugins.definition import PLUGIN_DOMAIN, PluginDefinition, TensorType, node_attributes
from surgery.plugins.registry import Registry
from surgery.plugins.schema import Attribute, version_key
from surgery.targets.table import known_targets, resolve_target

REGISTRY = Registry.load()
EFFICIENT = REGISTRY.get("EfficientNMS_TRT")
BATCHED = REGISTRY.get("BatchedNMSDynamic_TRT")
GRID = REGISTRY.get("GridAnchor_TRT")
GOOD: dict[str, Any] = {
    "score_threshold": 0.25,
    "iou_threshold": 0.5,
    "max_output_boxes": 20,
    "background_class": -1,
    "score_activation": 0,
    "box_coding": 0,
}


def types(*shapes: tuple[int | str | None, ...] | None, dtype: str = "float32") -> list[TensorType]:
    return [TensorType(dtype, s) for s in shapes]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"class_agnostic": 1}, None),
        ({"plugin_version": "1", "plugin_namespace": ""}, None),
        ({"class_agnostik": 1}, "unknown attribute 'class_agnostik'; did you mean 'class_agnostic'?"),
        ({"iou_threshold": 0.0}, "attribute 'iou_threshold' is 0.0; it has to be above 0"),
        ({"iou_threshold": 1.5}, "attribute 'iou_threshold' is 1.5; the maximum is 1"),
        ({"score_threshold": -0.1}, "attribute 'score_threshold' is -0.1; the minimum is 0"),
        ({"score_threshold": "x"}, "attribute 'score_threshold' is 'x'; expected float"),
        ({"score_threshold": float("nan")}, "attribute 'score_threshold' is nan; expected float"),
        ({"max_output_boxes": 2.5}, "attribute 'max_output_boxes' is 2.5; expected int"),
        ({"max_output_boxes": [3]}, "attribute 'max_output_boxes' is [3]; expected int"),
        ({"score_activation": 2}, "attribute 'score_activation' is 2; expected 0 or 1"),
        ({"box_coding": 3}, "attribute 'box_coding' is 3; expected one of 0, 1"),
        ({"score_activation": 1, "score_threshold": 1.0}, "score_threshold is 1 or more"),
    ],
)
def test_attributes_are_checked(change: dict[str, Any], problem: str | None) -> None:
    found = EFFICIENT.check({**GOOD, **change})
    assert (found == []) if problem is None else (len(found) == 1 and found[0].startswith(problem))


def test_missing_attributes_are_named() -> None:
    found = EFFICIENT.check({k: v for k, v in GOOD.items() if k != "box_coding"})
    assert found == ["required attribute 'box_coding' (int) is missing"]


@pytest.mark.parametrize(
    ("given_types", "problem"),
    [
        (types(("B", 10, 4), ("B", 10, 3)), None),
        (types((1, 10, 1, 4), (1, 10, 3, 1)), None),
        (types((2, 10, 3, 4), (2, 10, 3)), None),
        (types((2, 10, 4), (2, 10, 3), (1, 10, 4)), None),
        (types((None, 10, 4), ("batch", 10, 3)), None),
        (types(None, (2, 10, 3)), None),
        (types((2, 10, 2, 4), (2, 10, 3)), "shapes boxes [2, 10, 2, 4], scores [2, 10, 3] do not fit"),
        (types((2, 10, 4), (2, 11, 3)), "shapes boxes [2, 10, 4], scores [2, 11, 3] do not fit"),
        (types((2, 10, 5), (2, 10, 3)), "shapes"),
        (types((2, 10, 4)), "1 inputs given; it takes 2 to 3"),
        (types((2, 10, 4), (2, 10, 3), dtype="float16"), "input 'boxes' is float16; expected float32"),
    ],
)
def test_input_types_are_checked(given_types: list[TensorType], problem: str | None) -> None:
    found = EFFICIENT.check(GOOD, given_types)
    assert (found == []) if problem is None else found[0].startswith(problem)


def test_relations_between_attributes_and_types() -> None:
    attributes = {
        "shareLocation": 0,
        "backgroundLabelId": -1,
        "numClasses": 4,
        "topK": 10,
        "keepTopK": 20,
        "scoreThreshold": 0.1,
        "iouThreshold": 0.5,
        "isNormalized": 1,
    }
    found = BATCHED.check(attributes, types((1, 8, 1, 4), (1, 8, 3)))
    text = "\n".join(found)
    assert "keepTopK is 20 but topK only 10" in text
    assert "dimension 2 of boxes is 1, not 4" in text
    assert "numClasses is 4, but the scores have 3 columns" in text
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"inputOrder": [0, 0, 1]}, "inputOrder"),
        ({"numClasses": 5}, "conf holds 120 values per image; expected 150"),
        ({"shareLocation": 0}, "loc holds 120 values per image; expected 480"),
        ({"inputOrder": [0, 1, 2]}, "shape"),
    ],
)
def test_nms_trt_relations(change: dict[str, Any], word: str) -> None:
    nms = REGISTRY.get("NMS_TRT")
    attributes = {**nms.samples[0].attributes, **change}
    shapes = types((2, 120, 1, 1), (1, 2, 120, 1), (2, 120, 1, 1))
    assert nms.check(nms.samples[0].attributes, shapes) == []
    assert any(word in problem for problem in nms.check(attributes, shapes))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"featureMapShapes": [19, 10]}, "featureMapShapes has 2 entries; expected 6"),
        ({"aspectRatios": [1.0, 2.0]}, "fewer than the 3"),
        ({"aspectRatios": [1.0, -2.0, 0.5]}, "above 0"),
        ({"numLayers": 1}, "minimum is 2"),
        ({"variance": [0.1]}, "has 1 elements; expected 4"),
    ],
)
def test_grid_anchor_relations(change: dict[str, Any], word: str) -> None:
    assert any(word in p for p in GRID.check({**GRID.samples[0].attributes, **change}))


@pytest.mark.parametrize(
    ("name", "flavour", "version", "interface", "deprecated"),
    [
        ("BatchedNMSDynamic_TRT", "tensorrt", "10.16", "IPluginV2DynamicExt", True),
        ("BatchedNMSDynamic_TRT", "tensorrt", "8.6.1", "IPluginV2DynamicExt", False),
        ("BatchedNMSDynamic_TRT", "tensorrt", "11.0", None, False),
        ("BatchedNMSDynamic_TRT", "tensorrt", "8.5", None, False),
        ("NMS_TRT", "tensorrt", "10.9", "IPluginV2Ext", True),
        ("NMS_TRT", "tensorrt", "11.4", None, False),
        ("EfficientNMS_TRT", "tensorrt", "10.9", "IPluginV2DynamicExt", False),
        ("EfficientNMS_TRT", "tensorrt", "10.12", "IPluginV2DynamicExt", True),
        ("EfficientNMS_TRT", "tensorrt", "11.4", "IPluginV2DynamicExt", True),
        ("EfficientNMS_Explicit_TF_TRT", "tensorrt", "11.4", "IPluginV2DynamicExt", True),
        ("GridAnchor_TRT", "tensorrt", "11.1", "IPluginV2Ext", True),
        ("EfficientNMS_TRT", "tensorrt-rtx", "1.7", None, False),
        ("MultiClassNMS", "tensorrt", "10.16", None, False),
        ("MultiClassNMS", "tensorrt-rtx", "1.7", None, False),
    ],
)
def test_availability(name: str, flavour: str, version: str, interface: str | None, deprecated: bool) -> None:
    definition = REGISTRY.get(name)
    assert definition.interface(flavour, version) == interface
    assert definition.available(flavour, version) == (interface is not None)
    assert definition.deprecated(flavour, version) == deprecated


def test_versions_compare_as_numbers() -> None:
    assert version_key("10.9") < version_key("10.10") < version_key("10.10.1") < version_key("11.0")


def test_a_node_carries_version_namespace_and_typed_attributes() -> None:
    node = EFFICIENT.make_node("nms", ["b", "s"], ["n", "x", "y", "z"], {**GOOD, "iou_threshold": 1})
    assert (node.op_type, node.domain, node.name) == ("EfficientNMS_TRT", PLUGIN_DOMAIN, "nms")
    kinds = {a.name: a.type for a in node.attribute}
    assert kinds["iou_threshold"] == onnx.AttributeProto.FLOAT  # an int given for a float stays a float
    assert kinds["max_output_boxes"] == onnx.AttributeProto.INT
    found = node_attributes(node)
    assert found["plugin_version"] == "1"
    assert found["plugin_namespace"] == ""
    assert found["score_threshold"] == 0.25
    assert "class_agnostic" not in found  # optional and not set


def test_a_wrong_node_is_not_made() -> None:
    with pytest.raises(ConversionError, match="did you mean 'iou_threshold'") as caught:
        EFFICIENT.make_node("nms", ["b", "s"], ["n", "x", "y", "z"], {**GOOD, "iou_treshold": 0.4})
    assert caught.value.node == "nms"


def test_output_types() -> None:
    node = EFFICIENT.make_node("nms", ["b", "s"], ["n", "x", "y", "z"], GOOD)
    found = EFFICIENT.output_types(node, types(("B", 10, 4), ("B", 10, 3)))
    assert found == [
        TensorType("int32", ("B", 1)),
        TensorType("float32", ("B", 20, 4)),
        TensorType("float32", ("B", 20)),
        TensorType("int32", ("B", 20)),
    ]


def test_a_number_wins_over_a_symbol() -> None:
    node = EFFICIENT.make_node("nms", ["b", "s"], ["n"], GOOD)
    assert EFFICIENT.output_types(node, types(("B", 10, 4), (3, 10, 3)))[0].shape == (3, 1)


def test_a_body_that_needs_a_number_says_which() -> None:
    node = EFFICIENT.make_node("nms", ["b", "s"], ["n", "x", "y", "z"], GOOD)
    with pytest.raises(ConversionError, match="dimension 2 of 'scores' is 'C'") as caught:
        EFFICIENT.body(node, [("B", 9, 4), ("B", 9, "C")], ["float32", "float32"], 17)
    assert caught.value.node == "nms"


def test_a_body_has_the_nodes_signature_and_no_attribute_references() -> None:
    node = EFFICIENT.make_node("nms", ["b", "s"], ["n", "x", "y", "z"], GOOD)
    function = EFFICIENT.body(node, [("B", 9, 4), ("B", 9, 3)], ["float32", "float32"], 13, "Other")
    assert (function.domain, function.name) == (PLUGIN_DOMAIN, "Other")
    assert (len(function.input), len(function.output)) == (2, 4)
    assert [o.version for o in function.opset_import] == [13]
    assert set(GOOD) <= set(function.attribute)
    assert not any(a.ref_attr_name for n in function.node for a in n.attribute)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_read_back_give_the_same_float32(value: float) -> None:
    node = onnx.helper.make_node("X", [], ["y"], v=value)
    read = node_attributes(node)["v"]
    assert np.float32(read) == np.float32(value)


def test_decimals_read_back_as_written() -> None:
    node = onnx.helper.make_node("X", [], ["y"], v=0.1, w=[0.2, 1e-8], s="text", i=[1, 2])
    assert node_attributes(node) == {"v": 0.1, "w": [0.2, 1e-8], "s": "text", "i": [1, 2]}


def test_a_required_attribute_has_no_default() -> None:
    with pytest.raises(ValueError, match="no default"):
        Attribute(type="int", required=True, default=3, meaning="x")


@pytest.mark.parametrize("definition", REGISTRY.definitions(), ids=lambda d: d.name)
def test_availability_agrees_with_the_tables_of_the_targets(definition: PluginDefinition) -> None:
    """Two records of the same fact: the definition, and what was read off TensorRT's releases."""
    for name in known_targets():
        target = resolve_target(name)
        entry = target.plugin(definition.name)
        listed = entry is not None and entry.available and definition.version in entry.versions
        assert definition.available(target.flavour, target.version) == listed, name
        if listed and entry is not None:
            interface = entry.interface[definition.version]
            assert interface.split()[0] == definition.interface(target.flavour, target.version), name
