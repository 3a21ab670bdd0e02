"""The two forms of a model with plugins: portable with bodies, and for a target's parser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime import run

from surgery.errors import ConfigError, ConversionError
from surgery.plugins.attach import attach_bodies, base_name, target_model
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.inline import inline_call
from surgery.plugins.registry import Registry
from tests.hash_seeds import printed_under_two_seeds

REGISTRY = Registry.load()
NMS = REGISTRY.get("MultiClassNMS")
ATTRIBUTES: dict[str, Any] = {
    "max_total": 10,
    "max_per_class": 5,
    "iou_threshold": 0.1,
    "score_threshold": 0.1,
}


@dataclass(frozen=True)
class Version:
    flavour: str
    version: str


RTX, TRT10, TRT11 = Version("tensorrt-rtx", "1.7"), Version("tensorrt", "10.16"), Version("tensorrt", "11.4")


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_with(
    nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], n: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("b", ["B", n, 4]), value("s", ["B", n, 3])], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def nms(name: str, inputs: list[str] | None = None, outputs: int = 5, **change: Any) -> onnx.NodeProto:
    names = [f"{name}_{i}" for i in range(outputs)]
    return NMS.make_node(name, inputs or ["b", "s"], names, {**ATTRIBUTES, **change})


def feeds(n: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((2, n, 4), np.float32), rng.random((2, n, 3), np.float32)]


def three_nodes() -> onnx.ModelProto:
    nodes = [nms("one"), nms("two", iou_threshold=0.9), nms("three")]
    return model_with(nodes, [value(f"{n}_2", ["B", 10]) for n in ("one", "two", "three")])


def test_configurations_are_told_apart_and_equal_bodies_shared() -> None:
    model = attach_bodies(three_nodes(), REGISTRY)
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == ["MultiClassNMS", "MultiClassNMS__2", "MultiClassNMS"]
    assert [f.name for f in model.functions] == ["MultiClassNMS", "MultiClassNMS__2"]
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 17), (PLUGIN_DOMAIN, 1)}
    one, two, three = run(model, feeds())
    np.testing.assert_array_equal(one, three)
    assert not np.array_equal(one, two)


def test_attaching_changes_a_copy_and_is_idempotent() -> None:
    source = three_nodes()
    before = source.SerializeToString()
    model = attach_bodies(source, REGISTRY)
    assert source.SerializeToString() == before
    assert attach_bodies(model, REGISTRY).SerializeToString() == model.SerializeToString()


def test_a_model_without_plugins_stays_as_it_is() -> None:
    model = model_with([helper.make_node("Relu", ["s"], ["y"])], [value("y", ["B", 20, 3])])
    assert attach_bodies(model, REGISTRY).SerializeToString() == model.SerializeToString()
    assert target_model(model, REGISTRY, RTX).SerializeToString() == model.SerializeToString()


def test_other_functions_stay() -> None:
    model = three_nodes()
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(
        helper.make_function("other", "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    )
    assert [f.name for f in attach_bodies(model, REGISTRY).functions] == [
        "F",
        "MultiClassNMS",
        "MultiClassNMS__2",
    ]
    assert [f.name for f in target_model(model, REGISTRY, RTX).functions] == ["F"]


def test_unused_outputs_may_be_left_out() -> None:
    few, gap = nms("few", outputs=3), nms("gap")
    gap.output[1] = ""
    model = attach_bodies(
        model_with([few, gap], [value("few_2", ["B", 10]), value("gap_2", ["B", 10])]), REGISTRY
    )
    onnx.checker.check_model(model)
    for form in (model, target_model(model, REGISTRY, RTX)):
        onnx.checker.check_model(form, full_check=True)
        a, b = run(form, feeds())
        np.testing.assert_array_equal(a, b)


def test_a_target_without_the_plugin_gets_the_nodes() -> None:
    model = attach_bodies(three_nodes(), REGISTRY)
    lowered = target_model(model, REGISTRY, RTX)
    onnx.checker.check_model(lowered, full_check=True)
    assert not lowered.functions
    assert [o.domain for o in lowered.opset_import] == [""]
    assert {n.domain for n in lowered.graph.node} == {""}
    names = [n.name for n in lowered.graph.node]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {"one", "two", "three"}
    assert not any(a.ref_attr_name for n in lowered.graph.node for a in n.attribute)
    for got, want in zip(run(lowered, feeds()), run(model, feeds()), strict=True):
        np.testing.assert_array_equal(got, want)
    assert lowered.SerializeToString() == target_model(three_nodes(), REGISTRY, RTX).SerializeToString()


def efficient_model() -> onnx.ModelProto:
    definition = REGISTRY.get("EfficientNMS_TRT")
    common = {"max_output_boxes": 9, "background_class": -1, "score_activation": 0, "box_coding": 0}
    nodes = [
        definition.make_node(
            f"nms{i}",
            ["b", "s"],
            [f"{n}{i}" for n in "nxyz"],
            {**common, "score_threshold": 0.2, "iou_threshold": t},
        )
        for i, t in enumerate((0.4, 0.7))
    ]
    return model_with(nodes, [value("y0", ["B", 9]), value("y1", ["B", 9])])


@pytest.mark.parametrize("target", [TRT10, TRT11])
def test_a_target_with_the_plugin_gets_bare_nodes(target: Version) -> None:
    model = attach_bodies(efficient_model(), REGISTRY)
    assert [n.op_type for n in model.graph.node] == ["EfficientNMS_TRT", "EfficientNMS_TRT__2"]
    lowered = target_model(model, REGISTRY, target)
    assert [(n.op_type, n.domain) for n in lowered.graph.node] == [("EfficientNMS_TRT", "")] * 2
    assert not lowered.functions
    assert [o.domain for o in lowered.opset_import] == [""]
    attributes = {a.name: a for a in lowered.graph.node[1].attribute}
    assert attributes["iou_threshold"].f == pytest.approx(0.7)
    assert attributes["plugin_version"].s == b"1"
    assert attributes["plugin_namespace"].s == b""


def ssd_model() -> onnx.ModelProto:
    """Prior boxes by GridAnchor_TRT, concatenated, into NMS_TRT: types have to pass through three plugins."""
    anchors = REGISTRY.get("GridAnchor_TRT").make_node(
        "anchors",
        [],
        ["a0", "a1"],
        {
            "aspectRatios": [1.0, 2.0, 0.5],
            "featureMapShapes": [3, 2],
            "variance": [0.1, 0.1, 0.2, 0.2],
            "numLayers": 2,
        },
    )
    join = helper.make_node("Concat", ["a0", "a1"], ["prior"], axis=1)
    n = 9 * 3 + 4 * 4
    detect = REGISTRY.get("NMS_TRT").make_node(
        "detect",
        ["loc", "prior", "conf"],
        ["detections", "count"],
        {
            "shareLocation": 1,
            "varianceEncodedInTarget": 0,
            "backgroundLabelId": 0,
            "numClasses": 3,
            "topK": 10,
            "keepTopK": 8,
            "confidenceThreshold": 0.1,
            "nmsThreshold": 0.5,
            "isNormalized": 1,
        },
    )
    graph = helper.make_graph(
        [anchors, join, detect],
        "ssd",
        [value("loc", ["B", n * 4, 1, 1]), value("conf", ["B", n * 3, 1, 1])],
        [value("detections", ["B", 1, 8, 7])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)


def test_types_pass_through_plugins() -> None:
    model = attach_bodies(ssd_model(), REGISTRY)
    onnx.checker.check_model(model)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, 172, 1, 1)).astype(np.float32), rng.random((2, 129, 1, 1), np.float32)]
    (detections,) = run(model, inputs)
    assert detections.shape == (2, 1, 8, 7)
    assert (detections[..., 1] > 0).all()
    (again,) = run(target_model(model, REGISTRY, RTX), inputs)
    np.testing.assert_array_equal(again, detections)


def test_plugins_with_per_sample_shapes_only_on_request() -> None:
    model = ssd_model()
    cautious = target_model(model, REGISTRY, TRT10)
    assert not {"GridAnchor_TRT", "NMS_TRT"} & {n.op_type for n in cautious.graph.node}
    asked = target_model(model, REGISTRY, TRT10, per_sample=True)
    assert [n.op_type for n in asked.graph.node] == ["GridAnchor_TRT", "Concat", "NMS_TRT"]
    removed = target_model(model, REGISTRY, TRT11, per_sample=True)
    used = {n.op_type for n in removed.graph.node}
    assert "GridAnchor_TRT" in used
    assert "NMS_TRT" not in used
    assert not removed.functions


def test_plugins_inside_a_subgraph() -> None:
    inner = helper.make_graph([nms("inside", outputs=3)], "then", [], [value("inside_2", ["B", 10])])
    other = helper.make_graph(
        [nms("other", outputs=3, max_per_class=1)], "else", [], [value("other_2", ["B", 10])]
    )
    condition = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    graph = helper.make_graph(
        [condition],
        "g",
        [value("b", ["B", 20, 4]), value("s", ["B", 20, 3]), value("c", [], TensorProto.BOOL)],
        [value("y", ["B", 10])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    attached = attach_bodies(model, REGISTRY)
    lowered = target_model(attached, REGISTRY, RTX)
    onnx.checker.check_model(lowered)
    assert not lowered.functions
    for flag in (True, False):
        inputs = [*feeds(), np.array(flag)]
        np.testing.assert_array_equal(run(lowered, inputs)[0], run(attached, inputs)[0])


def test_an_unknown_plugin() -> None:
    model = model_with([helper.make_node("Nothing", ["s"], ["y"], domain=PLUGIN_DOMAIN)], [value("y", ["B"])])
    with pytest.raises(ConfigError, match="no plugin named 'Nothing'"):
        attach_bodies(model, REGISTRY)


def test_an_input_of_unknown_type_is_named() -> None:
    mystery = helper.make_node("Mystery", ["s"], ["m"], domain="somewhere")
    model = model_with([mystery, nms("one", ["b", "m"])], [value("one_2", ["B", 10])])
    model.opset_import.append(helper.make_opsetid("somewhere", 1))
    with pytest.raises(ConversionError, match="the type of 'm'") as caught:
        attach_bodies(model, REGISTRY)
    assert caught.value.node == "one"


def test_types_do_not_read_large_weights() -> None:
    """A weight whose data is elsewhere is enough; its file does not even exist."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="missing.bin")
    model = model_with(
        [helper.make_node("MatMul", ["s", "w"], ["t"]), nms("one", ["b", "t"])], [value("one_2", ["B", 10])]
    )
    model.graph.initializer.append(weight)
    attached = attach_bodies(model, REGISTRY)
    assert [f.name for f in attached.functions] == ["MultiClassNMS"]
    assert attached.graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_an_unbound_attribute_reference_is_refused() -> None:
    inner = helper.make_node("LeakyRelu", ["x"], ["y"])
    inner.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        PLUGIN_DOMAIN, "F", ["x"], ["y"], [inner], [helper.make_opsetid("", 17)], ["alpha"]
    )
    with pytest.raises(ConversionError, match="refers to attribute 'alpha'"):
        inline_call(helper.make_node("F", ["a"], ["b"], name="f"), function)


def test_inlining_renames_subgraphs_captures_and_passes_inputs_through() -> None:
    """A body with an If that captures, shadows nothing, and an output that is one of its inputs."""
    branch = helper.make_graph([helper.make_node("Neg", ["h"], ["r"])], "b1", [], [value("r", [2])])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["r2"])], "b2", [], [value("r2", [2])])
    nodes = [
        helper.make_node("Add", ["x", "x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    function = helper.make_function(
        PLUGIN_DOMAIN, "F", ["x", "c"], ["y", "x"], nodes, [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("F", ["h", "flag"], ["out", "same"], name="f")
    graph = helper.make_graph(
        inline_call(call, function),
        "g",
        [value("h", [2]), value("flag", [], TensorProto.BOOL)],
        [value("out", [2]), value("same", [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    h = np.array([1.0, -2.0], np.float32)
    for flag, want in ((True, -2 * h), (False, np.abs(h))):
        out, same = run(model, [h, np.array(flag)])
        np.testing.assert_array_equal(out, want)
        np.testing.assert_array_equal(same, h)


def test_base_name() -> None:
    assert base_name("EfficientNMS_TRT__12") == "EfficientNMS_TRT"
    assert base_name("EfficientNMS_TRT") == "EfficientNMS_TRT"


_PRINT_HASHES = """
import hashlib
import test_plugin_models as t
for model in (t.three_nodes(), t.ssd_model(), t.efficient_model()):
    a = t.attach_bodies(model, t.REGISTRY)
    b = t.target_model(a, t.REGISTRY, t.RTX)
    print(*(hashlib.sha256(m.SerializeToString()).hexdigest() for m in (a, b)))
"""


def test_bytes_do_not_depend_on_hash_seeds() -> None:
    assert len(printed_under_two_seeds(_PRINT_HASHES).split()) == 6
