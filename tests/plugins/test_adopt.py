"""Plugin nodes as exporters write them: found in any domain, checked before any parser is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime import run

from surgery.errors import ConversionError
from surgery.graph.load import load_model
from surgery.plugins.adopt import adopt_plugins, near_plugins, unknown_plugins
from surgery.plugins.advise import advise
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.migrate import write_out
from surgery.plugins.registry import Registry
from surgery.targets import resolve_target
from tests.hash_seeds import printed_under_two_seeds

REGISTRY = Registry.load()
NORMALIZE = {"acrossSpatial": 0, "channelShared": 0, "eps": 1e-6, "weights": [1.0, 2.0, 3.0]}
EFFICIENT = {
    "score_threshold": 0.25, "iou_threshold": 0.5, "max_output_boxes": 6, "background_class": -1,
    "score_activation": 0, "box_coding": 0,
}  # fmt: skip


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    domains = {n.domain for n in nodes if n.domain}
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def leaky(
    op: str = "LReLU_TRT", domain: str = "", shape: Any = (2, 3, 4, 4), **attributes: Any
) -> onnx.ModelProto:
    given = {"negSlope": 0.1, **attributes}
    node = helper.make_node(op, ["x"], ["y"], name="node", domain=domain, **given)
    return model_of([node], [value("x", list(shape))], [value("y", list(shape))])


def efficient(
    scores: list[Any], boxes: list[Any] | None = None, kind: int = TensorProto.FLOAT, **change: Any
) -> onnx.ModelProto:
    node = helper.make_node(
        "EfficientNMS_TRT", ["b", "s"], list("nxyz"), name="nms", **{**EFFICIENT, **change}
    )
    inputs = [value("b", boxes or [1, 20, 4]), value("s", scores, kind)]
    return model_of([node], inputs, [value("y", [1, 6])])


@pytest.mark.parametrize("domain", ["", "TRT", "mmdeploy", "my.company", "trt.plugins"])
def test_the_domain_counts_for_nothing(domain: str) -> None:
    adopted, (found,) = adopt_plugins(leaky(domain=domain), REGISTRY)
    assert (found.node, found.op, found.domain) == ("node", "LReLU_TRT", domain)
    assert found.definition.name == "LReLU_TRT"
    (node,) = adopted.graph.node
    assert (node.op_type, node.domain) == ("LReLU_TRT", PLUGIN_DOMAIN)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(adopted, [x])[0], np.where(x > 0, x, x * np.float32(0.1)), rtol=1e-6)


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml"])
def test_known_domains_have_operators_of_their_own(domain: str) -> None:
    model = leaky(domain=domain)
    adopted, found = adopt_plugins(model, REGISTRY)
    assert adopted is model
    assert found == []


def test_a_function_of_the_model_is_no_plugin() -> None:
    model = leaky(domain="own")
    body = [helper.make_node("Relu", ["x"], ["y"])]
    function = helper.make_function(
        "own", "LReLU_TRT", ["x"], ["y"], body, [helper.make_opsetid("", 17)], ["negSlope"]
    )
    model.functions.append(function)
    assert adopt_plugins(model, REGISTRY) == (model, [])


def test_an_operator_of_onnx_is_no_plugin() -> None:
    """ScatterND and Split are names of plugins too."""
    nodes = [helper.make_node("Split", ["x"], ["a", "b"], axis=0), helper.make_node("Add", ["a", "b"], ["y"])]
    model = model_of(nodes, [value("x", [4])], [value("y", [2])])
    assert adopt_plugins(model, REGISTRY) == (model, [])


@pytest.mark.parametrize(
    ("written", "name"), [("LReLU", "LReLU_TRT"), ("CropAndResize_TRT", "CropAndResize")]
)
def test_the_suffix_may_be_missing_or_too_many(written: str, name: str) -> None:
    if name == "LReLU_TRT":
        model = leaky(written)
    else:
        node = helper.make_node(written, ["x", "r"], ["y"], crop_width=2, crop_height=2)
        inputs = [value("x", [1, 2, 5, 5]), value("r", [1, 3, 4, 1])]
        model = model_of([node], inputs, [value("y", [1, 3, 2, 2, 2])])
    _, (found,) = adopt_plugins(model, REGISTRY)
    assert (found.op, found.definition.name) == (written, name)


def test_split_trt_is_split() -> None:
    node = helper.make_node("Split_TRT", ["x"], ["a", "b"], axis=1, output_lengths=[1, 2], plugin_version="1")
    model = model_of([node], [value("x", [2, 3, 4])], [value("a", [2, 1, 4]), value("b", [2, 2, 4])])
    adopted, (found,) = adopt_plugins(model, REGISTRY)
    assert found.definition.name == "Split"
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for got, want in zip(run(adopted, [x]), (x[:, :1], x[:, 1:]), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (leaky(plugin_version="7"), "plugin LReLU_TRT has no version '7', which node 'node' wants, only 1"),
        (leaky(plugin_namespace="acme"), "plugin_namespace is 'acme'; the plugin is registered in ''"),
        (efficient([1, 20, 3], class_agnostc=1), "unknown attribute 'class_agnostc'; did you mean 'class_agnostic'"),
        (leaky(negSlope="steep"), "attribute 'negSlope' is 'steep'; expected float"),
        (efficient([1, 20, 3], iou_threshold=1.5), "attribute 'iou_threshold' is 1.5; the maximum is 1"),
        (efficient([1, 20, 3], kind=TensorProto.INT32), "input 'scores' is int32; expected float32"),
        (efficient([1, 20, 3], kind=TensorProto.FLOAT16), "input 'scores' is float16; expected float32"),
        (efficient([1, 3, 20]), "they would if scores had axes 1 and 2 swapped"),
        (efficient([1, 20, 3], boxes=[20, 4]), "they would if boxes had one more dim of 1 at 0"),
        (efficient([1, 21, 3]), r"shapes boxes \[1, 20, 4\], scores \[1, 21, 3\] do not fit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_any_parser(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        adopt_plugins(model, REGISTRY)
    assert caught.value.node in ("node", "nms")
    assert caught.value.code in ("plugin-configuration", "plugin-version")


def test_a_missing_attribute() -> None:
    model = efficient([1, 20, 3])
    del model.graph.node[0].attribute[:]
    with pytest.raises(ConversionError, match=r"required attribute 'score_threshold' \(float\) is missing"):
        adopt_plugins(model, REGISTRY)


def several(**changes: dict[str, Any]) -> onnx.ModelProto:
    """A suppression for each name, beside each other, with other attributes or scores."""
    nodes, inputs, outputs = [], [value("b", [1, 20, 4])], []
    for name, change in changes.items():
        given = dict(change)
        inputs.append(
            value(f"s_{name}", given.pop("scores", [1, 20, 3]), given.pop("kind", TensorProto.FLOAT))
        )
        op, made = given.pop("op", "EfficientNMS_TRT"), [f"{name}_{k}" for k in "nxyz"]
        nodes.append(helper.make_node(op, ["b", f"s_{name}"], made, name=name, **{**EFFICIENT, **given}))
        outputs.append(value(made[1], [1, 6, 4]))
    return model_of(nodes, inputs, outputs)


def test_all_wrong_nodes_are_told_and_those_alike_together() -> None:
    model = several(
        one={"iou_threshold": 1.5}, good={}, two={"iou_threshold": 1.5}, three={"class_agnostc": 1},
        four={"iou_threshold": 1.5},
    )  # fmt: skip
    with pytest.raises(ConversionError) as caught:
        adopt_plugins(model, REGISTRY)
    assert caught.value.message == (
        "4 plugin nodes are wrong: EfficientNMS_TRT 'one': attribute 'iou_threshold' is 1.5; the maximum is 1; so "
        "with 'two', 'four'; and EfficientNMS_TRT 'three': unknown attribute 'class_agnostc'; did you mean "
        "'class_agnostic'?"
    )
    assert (caught.value.code, caught.value.node) == ("plugin-configuration", "one")
    assert caught.value.fix == "surgery show plugins EfficientNMS_TRT lists its attributes"


def test_unknown_plugins_and_versions_are_told_together() -> None:
    model = several(
        one={"op": "EfficentNMS_TRT", "plugin_version": "1"},
        two={"op": "Nothing", "plugin_version": "1"},
        three={"plugin_version": "7"},
    )
    with pytest.raises(ConversionError) as caught:
        adopt_plugins(model, REGISTRY)
    for text in ("'EfficentNMS_TRT', which node 'one'", "'Nothing', which node 'two'", "no version '7'"):
        assert text in caught.value.message
    for name in ("new plugin EfficentNMS_TRT ", "new plugin Nothing ", "attribute plugin_version"):
        assert name in str(caught.value.fix)


def test_all_wrong_inputs_are_told_but_nothing_of_what_lies_behind() -> None:
    model = several(one={"kind": TensorProto.INT32}, two={"scores": [1, 3, 20]}, good={})
    behind = helper.make_node(
        "EfficientNMS_TRT", ["one_x", "s_good"], [f"behind_{k}" for k in "nxyz"], name="behind", **EFFICIENT
    )
    model.graph.node.append(behind)
    model.graph.output.append(value("behind_x", [1, 6, 4]))
    with pytest.raises(ConversionError) as caught:
        adopt_plugins(model, REGISTRY)
    assert "'one': input 's" in caught.value.message
    assert "EfficientNMS_TRT 'two'" in caught.value.message
    assert caught.value.message.startswith("2 plugin nodes are wrong")


def test_the_advice_is_about_each_wrong_node() -> None:
    model = several(one={"iou_threshold": 1.5}, good={}, two={"class_agnostc": 1})
    found = {a.node: a for a in advise(model, REGISTRY, resolve_target("tensorrt-10.16"))}
    assert (found["one"].fate, found["good"].fate, found["two"].fate) == ("wrong", "deprecated", "wrong")
    assert "iou_threshold" in found["one"].why
    assert "class_agnostc" not in found["one"].why
    assert "class_agnostc" in found["two"].why


def test_attributes_that_tensorrt_does_not_read_are_dropped() -> None:
    adopted, _ = adopt_plugins(leaky(exporter_note="hello"), REGISTRY)
    assert {a.name for a in adopted.graph.node[0].attribute} == {
        "negSlope",
        "plugin_version",
        "plugin_namespace",
    }


def unknown(op: str, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], name="mystery", **attributes)
    return model_of([node], [value("x", [2])], [value("y", [2])])


def test_a_plugin_that_nobody_defined_is_one_clear_error() -> None:
    model = unknown("EfficentNMS_TRT", plugin_version="1")
    assert [n.name for n in unknown_plugins(model, REGISTRY)] == ["mystery"]
    with pytest.raises(ConversionError, match="no definition of plugin 'EfficentNMS_TRT'") as caught:
        adopt_plugins(model, REGISTRY)
    assert (caught.value.code, caught.value.node) == ("unknown-plugin", "mystery")
    fix = str(caught.value.fix)
    assert "EfficientNMS_TRT" in fix.split("?")[0]
    assert fix.endswith(
        "surgery new plugin EfficentNMS_TRT --output my_plugins, then --plugin-path my_plugins"
    )


def test_without_a_near_name_the_error_says_how_to_define_it() -> None:
    with pytest.raises(ConversionError) as caught:
        adopt_plugins(unknown("Zzz", plugin_namespace="acme"), REGISTRY)
    assert caught.value.fix == (
        "define it: surgery new plugin Zzz --output my_plugins, then --plugin-path my_plugins"
    )
    assert near_plugins("Zzz", REGISTRY) == []


def test_what_does_not_say_that_it_is_a_plugin_is_left_alone() -> None:
    model = unknown("SomethingElse", version=3)
    assert adopt_plugins(model, REGISTRY) == (model, [])


def normalize(**change: Any) -> onnx.ModelProto:
    node = helper.make_node("Normalize_TRT", ["x"], ["y"], name="norm", **{**NORMALIZE, **change})
    return model_of([node], [value("x", [1, 3, 2, 2])], [value("y", [1, 3, 2, 2])])


def test_the_number_of_values_in_the_place_of_that_of_tensors() -> None:
    adopted, (found,) = adopt_plugins(normalize(nbWeights=3), REGISTRY)
    assert "nbWeights is 3" in found.note
    number = next(a.i for a in adopted.graph.node[0].attribute if a.name == "nbWeights")
    assert number == 1
    plain, (other,) = adopt_plugins(normalize(nbWeights=1), REGISTRY)
    assert other.note == ""
    x = np.random.default_rng(1).normal(size=(1, 3, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(run(adopted, [x])[0], run(plain, [x])[0])


def test_any_other_number_is_refused() -> None:
    with pytest.raises(ConversionError, match="attribute 'nbWeights' is 2; expected one of 1"):
        adopt_plugins(normalize(nbWeights=2), REGISTRY)


def chained() -> onnx.ModelProto:
    """A plugin inside a branch, and two in a row of which the second needs numbers that the first one gives."""
    inner = helper.make_node("LReLU_TRT", ["x"], ["i"], name="inner", negSlope=0.5)
    other = helper.make_node("Identity", ["x"], ["o"])
    branch = helper.make_node(
        "If", ["c"], ["h"], name="if",
        then_branch=helper.make_graph([inner], "t", [], [value("i", ["n", 3, 4, 4])]),
        else_branch=helper.make_graph([other], "e", [], [value("o", ["n", 3, 4, 4])]),
    )  # fmt: skip
    first = helper.make_node("LReLU_TRT", ["h"], ["k"], name="first", negSlope=0.1, plugin_version="1")
    second = helper.make_node("Normalize_TRT", ["k"], ["y"], name="second", **NORMALIZE)
    inputs = [value("x", ["n", 3, 4, 4]), value("c", [], TensorProto.BOOL)]
    return model_of([branch, first, second], inputs, [value("y", ["n", 3, 4, 4])])


def test_types_go_on_behind_plugins_and_into_branches() -> None:
    adopted, found = adopt_plugins(chained(), REGISTRY)
    assert [f.node for f in found] == ["inner", "first", "second"]
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 4)).astype(np.float32)
    for flag in (True, False):
        h = np.where(x > 0, x, x * np.float32(0.5)) if flag else x
        k = np.where(h > 0, h, h * np.float32(0.1))
        scale = np.array(NORMALIZE["weights"], np.float32).reshape(1, 3, 1, 1)
        want = k / np.sqrt((k * k).sum(1, keepdims=True) + np.float32(1e-6)) * scale
        np.testing.assert_allclose(run(adopted, [x, np.array(flag)])[0], want, rtol=1e-5, atol=1e-6)


def test_the_model_itself_is_not_changed() -> None:
    model = chained()
    before = model.SerializeToString(deterministic=True)
    adopted, _ = adopt_plugins(model, REGISTRY)
    assert model.SerializeToString(deterministic=True) == before
    again, found = adopt_plugins(adopted, REGISTRY)
    assert [f.node for f in found] == ["inner", "first", "second"]
    assert again.SerializeToString(deterministic=True) == adopted.SerializeToString(deterministic=True)


def test_weights_beyond_two_gigabytes_are_not_read(tmp_path: Path) -> None:
    """The file has a length and nothing else: reading it would give the memory of the machine away."""
    rows, width = 600_000, 1024  # 2.4 GB
    gather = helper.make_node("Gather", ["w", "i"], ["x"], axis=0)
    shaped = helper.make_node("Unsqueeze", ["x", "axes"], ["x4"])
    node = helper.make_node("LReLU_TRT", ["x4"], ["y"], name="node", negSlope=0.1, plugin_version="1")
    model = model_of(
        [gather, shaped, node], [value("i", ["n"], TensorProto.INT64)], [value("y", ["n", 1, 1, width])]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2]), "axes"))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, width])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.data")
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "big.onnx")
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(rows * width * 4)
    loaded = load_model(tmp_path / "big.onnx")
    adopted, (found,) = adopt_plugins(loaded.proto, REGISTRY)
    assert found.node == "node"
    written = write_out(adopted, REGISTRY, lambda _: True)
    assert PLUGIN_DOMAIN not in {n.domain for n in written.graph.node}
    kept = next(t for t in written.graph.initializer if t.name == "w")
    assert kept.data_location == TensorProto.EXTERNAL
    assert written.ByteSize() < 100_000


_PRINT_HASH = """
import hashlib
import test_adopt as t
adopted, _ = t.adopt_plugins(t.chained(), t.REGISTRY)
written = t.write_out(adopted, t.REGISTRY, lambda node: node.name != "first")
print(*(hashlib.sha256(m.SerializeToString()).hexdigest() for m in (adopted, written)))
"""


def test_bytes_do_not_depend_on_hash_seeds() -> None:
    assert len(printed_under_two_seeds(_PRINT_HASH).split()) == 2
