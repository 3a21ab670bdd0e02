"""Plugins found by structure: node -> body -> recogniser gives the plugin back, with the same attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime import run

import surgery
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.fold import fold_constants
from surgery.plugins.attach import attach_bodies
from surgery.plugins.definition import PLUGIN_DOMAIN, PluginDefinition
from surgery.plugins.migrate import write_out
from surgery.plugins.recognise import Match, recognise
from surgery.plugins.recognise_replace import Placed, put_back
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import Sample
from tests.hash_seeds import printed_under_two_seeds

REGISTRY = Registry.load()
DEFINITIONS = list({d.folder: d for d in REGISTRY.definitions()}.values())
CASES = [
    pytest.param(definition, sample, id=f"{definition.folder.name}-{sample.name}")
    for definition in DEFINITIONS
    for sample in definition.samples
]
FIRST = [
    pytest.param(
        definition, definition.samples[0], id=f"{definition.folder.name}-{definition.samples[0].name}"
    )
    for definition in DEFINITIONS
]


@dataclass(frozen=True)
class Version:
    flavour: str
    version: str


OLD = Version("tensorrt", "10.16")
RTX = Version("tensorrt-rtx", "1.7")


def written(definition: PluginDefinition, sample: Sample, **options: Any) -> onnx.ModelProto:
    """A model in which the body of the sample's node stands in its place."""
    registry = Registry([definition])
    return write_out(sample_model(definition, sample, **options), registry, lambda _: True)


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    graph, header = import_graph(model)
    fold_constants(graph)
    return export_graph(graph, header)


def unread(model: onnx.ModelProto) -> list[str]:
    """Inputs that no result depends on."""
    need = {o.name for o in model.graph.output}
    for node in reversed(model.graph.node):
        if need & set(node.output):
            need |= _reads(node)
    return [i.name for i in model.graph.input if i.name not in need]


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {o.name for o in attribute.g.output}
            for inner in attribute.g.node:
                found |= _reads(inner)
    return found


def body_of(definition: PluginDefinition, sample: Sample, attributes: Mapping[str, Any]) -> bytes:
    names = [f"i{k}" for k in range(len(sample.inputs))]
    outputs = [f"o{k}" for k in range(sample.outputs or len(definition.file.outputs))]
    node = definition.make_node("n", names, outputs, attributes)
    shapes, dtypes = [i.shape for i in sample.inputs], [i.dtype for i in sample.inputs]
    return definition.body(node, shapes, dtypes, 17).SerializeToString(deterministic=True)


def assert_is(match: Match, definition: PluginDefinition, sample: Sample) -> None:
    """The plugin, with the sample's attributes up to those that its body does not tell apart."""
    assert (match.plugin.name, match.plugin.folder) == (definition.name, definition.folder)
    wanted = {n: sample.attributes.get(n, a.default) for n, a in definition.file.attributes.items()}
    own = body_of(definition, sample, match.attributes)
    assert own == body_of(definition, sample, sample.attributes)
    for name, value in wanted.items():
        if value is None or name in match.undetermined:
            continue
        found = match.attributes[name]
        same = found == value if isinstance(value, str) else np.array_equal(np.ravel(found), np.ravel(value))
        # A negative axis, say, or a form that is chosen anyway.
        assert same or body_of(definition, sample, {**match.attributes, name: value}) == own, name


def check_round_trip(definition: PluginDefinition, sample: Sample, model: onnx.ModelProto) -> None:
    (match,) = recognise(model, Registry([definition]), plugins=[definition.name])
    assert_is(match, definition, sample)
    names = [i.name for i in model.graph.input]
    assert list(match.inputs) == names
    left = [n for k, n in enumerate(model.graph.node) if k not in match.places]
    live = {o.name for o in model.graph.output}
    assert not [n.op_type for n in left if n.op_type not in ("Identity", "Constant") and live & set(n.output)]


@pytest.mark.parametrize(("definition", "sample"), FIRST)
def test_round_trip_of_each_plugin(definition: PluginDefinition, sample: Sample) -> None:
    check_round_trip(definition, sample, written(definition, sample))


@pytest.mark.slow
@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_round_trip(definition: PluginDefinition, sample: Sample) -> None:
    check_round_trip(definition, sample, written(definition, sample))


@pytest.mark.slow
@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_round_trip_of_folded_bodies(definition: PluginDefinition, sample: Sample) -> None:
    check_round_trip(definition, sample, folded(written(definition, sample)))


@pytest.mark.slow
@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_round_trip_with_an_open_batch(definition: PluginDefinition, sample: Sample) -> None:
    check_round_trip(definition, sample, written(definition, sample, open_batch=True, opset=18))


# -- inputs that nothing reads, and bodies that are numbers alone -------------------------------------


def without_unread_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as a converter leaves it that drops inputs without readers."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    gone = set(unread(result))
    kept = [i for i in result.graph.input if i.name not in gone]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    return result


UNREAD = [p for p in CASES if unread(folded(written(*p.values)))]


def test_the_plugins_that_do_not_read_all_they_are_given() -> None:
    """If this list changes, look whether the definition needs a `stand_in`."""
    assert {p.values[0].folder.name for p in UNREAD} == {
        "BatchTilePlugin_TRT",
        "CustomEmbLayerNormPluginDynamic_v4",
        "CustomEmbLayerNormPluginDynamic_v5",
        "CustomQKVToContextPluginDynamic_v5",
        "GridPriorsTRT",
        "PriorBox_TRT",
    }


def replaced(model: onnx.ModelProto, match: Match) -> tuple[onnx.ModelProto, Placed]:
    graph, header = import_graph(model)
    (placed,) = put_back(graph, [match], {})
    return export_graph(graph, header), placed


@pytest.mark.parametrize(("definition", "sample"), UNREAD)
def test_zeros_stand_in_for_what_nothing_reads(definition: PluginDefinition, sample: Sample) -> None:
    model = without_unread_inputs(folded(written(definition, sample)))
    (match,) = recognise(model, Registry([definition]), plugins=[definition.name])
    assert match.zeros
    assert set(match.inputs) - set(match.zeros) == {i.name for i in model.graph.input}
    after, placed = replaced(model, match)
    assert placed.refused == ""
    kinds = [n.op_type for n in after.graph.node if n.op_type not in ("Identity", "Constant")]
    assert [k for k in kinds if k != "ConstantOfShape"] == [definition.name]
    attached = attach_bodies(after, Registry([definition]))
    values = [
        v
        for i, v in zip(definition.declared_inputs(len(sample.inputs)), sample_inputs(sample), strict=True)
        if i.name in {i.name for i in model.graph.input}
    ]
    for got, want in zip(run(attached, values), run(model, values), strict=True):
        np.testing.assert_array_equal(got, want)


ANCHORS = {
    "aspectRatios": [1.0, 2.0, 0.5, 3.0],
    "variance": [0.1, 0.1, 0.2, 0.2],
    "minSize": 0.15,
    "maxSize": 0.9,
}


def anchors(
    name: str, attributes: Mapping[str, Any], outputs: int, shapes: Sequence[Any] = ()
) -> onnx.ModelProto:
    definition = REGISTRY.get(name)
    inputs = [{"shape": s} for s in shapes]
    fields = {"name": "a", "attributes": attributes, "inputs": inputs, "outputs": outputs}
    return without_unread_inputs(folded(written(definition, Sample.model_validate(fields))))


@pytest.mark.parametrize("sides", [[38, 19, 10, 5], [12, 6, 3, 2, 1], [9, 4]])
def test_anchors_of_other_feature_maps_are_found(sides: list[int]) -> None:
    attributes = {**ANCHORS, "featureMapShapes": sides, "numLayers": len(sides)}
    model = anchors("GridAnchor_TRT", attributes, len(sides))
    weights = np.random.default_rng(0).normal(size=(2, 8, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    (match,) = recognise(model, REGISTRY, plugins=["GridAnchor_TRT"])
    assert match.attributes == {**attributes, "minSize": 0.15, "maxSize": 0.9}
    assert recognise(model, REGISTRY, plugins=["PriorBox_TRT"]) == []
    assert recognise(model, REGISTRY) == []  # a constant is best left as it is


def test_an_anchor_that_is_moved_is_no_plugin() -> None:
    model = anchors("GridAnchor_TRT", {**ANCHORS, "featureMapShapes": [4, 2], "numLayers": 2}, 2)
    assert recognise(model, REGISTRY, plugins=["GridAnchor_TRT"])
    tensor = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[0, 5, 0] += 1e-3
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert recognise(model, REGISTRY, plugins=["GridAnchor_TRT"]) == []


@pytest.mark.parametrize("clip", [0, 1])
def test_prior_boxes_of_another_image_are_found(clip: int) -> None:
    attributes = {
        "minSize": [36.0, 83.0], "maxSize": [77.0, 125.0], "aspectRatios": [2.0, 3.0], "flip": 1, "clip": clip,
        "variance": [0.1, 0.1, 0.2, 0.2], "imgH": 300, "imgW": 301, "stepH": 16.0, "stepW": 16.0, "offset": 0.5,
    }  # fmt: skip
    model = anchors("PriorBox_TRT", attributes, 1, [(1, 8, 18, 19), (1, 3, 300, 301)])
    (match,) = recognise(model, REGISTRY, plugins=["PriorBox_TRT"])
    assert {**match.attributes, "clip": clip} == attributes
    assert [z.dims for z in match.zeros.values()] == [(1, 1, 18, 19), (1, 1, 300, 301)]


def test_constants_are_put_back_once_and_compute_the_same(tmp_path: Path) -> None:
    attributes = {**ANCHORS, "featureMapShapes": [7, 4, 2], "numLayers": 3}
    before = anchors("GridAnchor_TRT", attributes, 3)
    path = tmp_path / "back.yaml"
    path.write_text(PIPELINE.replace("EfficientNMS_TRT", "GridAnchor_TRT"))
    report = surgery.run(path, before, target="tensorrt-10.11")
    assert report.model is not None
    assert any(
        "GridAnchor_TRT is not put back" in w for w in report.warnings
    )  # it declares shapes per sample
    (match,) = recognise(before, REGISTRY, plugins=["GridAnchor_TRT"])
    after, placed = replaced(before, match)
    assert (placed.refused, len(placed.removed)) == ("", 3)
    assert [n.op_type for n in after.graph.node if n.op_type != "Identity"] == ["GridAnchor_TRT"]
    for got, want in zip(run(attach_bodies(after, REGISTRY), []), run(before, []), strict=True):
        np.testing.assert_array_equal(got, want)
    assert recognise(after, REGISTRY, plugins=["GridAnchor_TRT"]) == []


# -- other attributes and shapes than any sample has ------------------------------------------------

OTHERS: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
    (
        "EfficientNMS_TRT",
        {"score_threshold": 0.37, "iou_threshold": 0.62, "max_output_boxes": 100, "background_class": 3,
         "score_activation": 1, "box_coding": 1, "class_agnostic": 0},
        [(1, 8400, 4), (1, 8400, 80)],
    ),
    (
        "EfficientNMS_TRT",
        {"score_threshold": 0.25, "iou_threshold": 0.7, "max_output_boxes": 33, "background_class": -1,
         "score_activation": 0, "box_coding": 0, "class_agnostic": 1},
        [(3, 77, 1, 4), (3, 77, 5)],
    ),
    (
        "BatchedNMSDynamic_TRT",
        {"shareLocation": 1, "backgroundLabelId": -1, "numClasses": 7, "topK": 60, "keepTopK": 21,
         "scoreThreshold": 0.15, "iouThreshold": 0.55, "isNormalized": 1, "clipBoxes": 0},
        [(2, 90, 1, 4), (2, 90, 7)],
    ),
    ("grid_sampler", {"interpolation_mode": 0, "padding_mode": 1, "align_corners": 1}, [(2, 3, 9, 7), (2, 5, 6, 2)]),
    (
        "ModulatedDeformConv2d",
        {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 1], "group": 1, "deformable_group": 2},
        [(1, 4, 11, 9), (1, 36, 13, 5), (1, 18, 13, 5), (6, 4, 3, 3)],
    ),
    ("InstanceNormalization_TRT", {"epsilon": 0.002, "scales": [0.5, 2.0, 3.0, 1.5], "bias": [0.0, 1.0, 2.0, 3.0],
                                   "relu": 1, "alpha": 0.3}, [(2, 4, 6, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "attributes", "shapes"), OTHERS, ids=[f"{o[0]}-{i}" for i, o in enumerate(OTHERS)]
)
def test_attributes_and_shapes_of_no_sample(
    name: str, attributes: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    definition = REGISTRY.get(name)
    inputs = [{"shape": s} for s in shapes]
    sample = Sample.model_validate({"name": "other", "attributes": attributes, "inputs": inputs})
    assert all(attributes != s.attributes for s in definition.samples)
    (match,) = recognise(written(definition, sample), Registry([definition]), plugins=[name])
    assert_is(match, definition, sample)


# -- what must make no difference -------------------------------------------------------------------


def value(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def nms_attributes(**others: Any) -> dict[str, Any]:
    return {
        "score_threshold": 0.3, "iou_threshold": 0.5, "max_output_boxes": 10, "background_class": -1,
        "score_activation": 0, "box_coding": 0, **others,
    }  # fmt: skip


def two_heads() -> onnx.ModelProto:
    """Two differently configured nodes of one plugin, and nodes that are none of them."""
    plugin = REGISTRY.get("EfficientNMS_TRT")
    names = ("count", "boxes", "scores", "classes")
    nodes = [
        helper.make_node("Relu", ["raw"], ["scores_in"]),
        plugin.make_node("a", ["boxes_in", "scores_in"], [f"a_{n}" for n in names], nms_attributes()),
        plugin.make_node(
            "b",
            ["boxes_in", "scores_in"],
            [f"b_{n}" for n in names],
            nms_attributes(iou_threshold=0.7, max_output_boxes=5, class_agnostic=1),
        ),
        helper.make_node("Neg", ["b_scores"], ["negative"]),
    ]
    outputs = [
        *(value(f"a_{n}", s, t) for n, s, t in zip(names, ([2, 1], [2, 10, 4], [2, 10], [2, 10]),
                                                     (6, 1, 1, 6), strict=True)),
        value("b_count", [2, 1], 6), value("b_boxes", [2, 5, 4]), value("negative", [2, 5]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "two", [value("boxes_in", [2, 40, 4]), value("raw", [2, 40, 3])], outputs
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return write_out(helper.make_model(graph, opset_imports=opsets, ir_version=8), REGISTRY, lambda _: True)


def shuffled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Tensors and nodes renamed, independent nodes in another order, operands commuted."""
    rng = np.random.default_rng(seed)
    result = onnx.ModelProto.FromString(model.SerializeToString())
    fixed = {v.name for v in (*model.graph.input, *model.graph.output)}
    del result.graph.value_info[:]
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if not name or name in fixed else names.setdefault(name, f"t{len(names)}")

    def rename(graph: onnx.GraphProto, *, top: bool) -> None:
        for node in graph.node:
            node.name = ""
            for field in (node.input, node.output):
                field[:] = [new(n) for n in field]
            if node.op_type in ("Add", "Mul", "And", "Or", "Min", "Max") and len(node.input) == 2:
                node.input[:] = list(rng.permutation(list(node.input)))
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    rename(attribute.g, top=False)
        if not top:
            for v in (*graph.input, *graph.output, *graph.value_info):
                v.name = new(v.name)

    rename(result.graph, top=True)
    waiting = list(result.graph.node)
    made = {v.name for v in result.graph.input} | {""}
    inner = {o for n in waiting for o in n.output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [i for i, n in enumerate(waiting) if all(r in made or r not in inner for r in _reads(n))]
        node = waiting.pop(ready[int(rng.integers(len(ready)))])
        ordered.append(node)
        made |= set(node.output)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    onnx.checker.check_model(result)
    return result


def by_threshold(found: list[Match]) -> list[dict[str, Any]]:
    return [dict(m.attributes) for m in sorted(found, key=lambda m: m.attributes["iou_threshold"])]


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_two_configurations_among_other_nodes(seed: int | None) -> None:
    model = two_heads() if seed is None else shuffled(two_heads(), seed)
    found = recognise(model, REGISTRY, OLD, plugins=["EfficientNMS_TRT"])
    assert by_threshold(found) == [
        nms_attributes(class_agnostic=0),
        nms_attributes(iou_threshold=0.7, max_output_boxes=5, class_agnostic=1),
    ]
    assert all("same" in m.proof for m in found)
    assert not set(found[0].outputs) & set(found[1].outputs)


def test_a_number_that_no_attribute_explains_is_no_match() -> None:
    """One threshold of several that come from one attribute is another."""
    model = two_heads()
    changed = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if (
                node.op_type == "Constant"
                and attribute.t.dims == []
                and attribute.t.data_type == TensorProto.FLOAT
            ):
                number = onnx.numpy_helper.to_array(attribute.t)
                if number == np.float32(0.5) and not changed and node.name.startswith("a/"):
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.float32(-1.0), attribute.t.name))
                    changed += 1
    assert changed == 1
    found = recognise(model, REGISTRY, OLD, plugins=["EfficientNMS_TRT"])
    assert all(m.attributes["iou_threshold"] != 0.5 for m in found)


def test_a_near_miss_says_which_number_is_in_the_way() -> None:
    """No epsilon that the plugin allows gives what the graph has."""
    definition = REGISTRY.get("InstanceNormalization_TRT")
    sample = next(s for s in definition.samples if not s.attributes.get("relu"))
    model = written(definition, sample)
    place = next(n for n in model.graph.node if n.op_type == "InstanceNormalization")
    epsilon = next(a for a in place.attribute if a.name == "epsilon")
    epsilon.f = -1.0
    misses: dict[str, str] = {}
    assert recognise(model, REGISTRY, plugins=[definition.name], misses=misses) == []
    assert "-1" in misses[definition.name]
    assert place.name in misses[definition.name]


_PRINT = """
import test_recognise as t
for m in t.recognise(t.two_heads(), t.REGISTRY, t.OLD, plugins=["EfficientNMS_TRT", "BatchedNMSDynamic_TRT"]):
    print(m.plugin.name, sorted(m.attributes.items()), m.inputs, m.outputs, m.nodes, m.proof, m.why)
"""


def test_what_is_found_does_not_depend_on_hash_seeds() -> None:
    assert len(printed_under_two_seeds(_PRINT).splitlines()) == 2


# -- which of several -------------------------------------------------------------------------------


def test_a_single_operator_is_recognised_only_by_name() -> None:
    definition = REGISTRY.get("LReLU_TRT")
    model = written(definition, definition.samples[0])
    assert [n.op_type for n in model.graph.node if n.op_type != "Identity"] == ["LeakyRelu"]
    assert recognise(model, REGISTRY) == []
    (match,) = recognise(model, REGISTRY, plugins=["LReLU_TRT"])
    assert match.attributes == {"negSlope": 0.1}


def test_two_plugins_that_want_the_same_nodes() -> None:
    definition = REGISTRY.get("NMSDynamic_TRT")
    model = written(definition, definition.samples[0])
    (match,) = recognise(model, REGISTRY, plugins=["NMS_TRT", "NMSDynamic_TRT"])
    assert match.plugin.name == "NMSDynamic_TRT"
    assert "NMS_TRT version 1" in match.why
    assert "first by name" in match.why


def test_only_what_the_target_ships() -> None:
    model = two_heads()
    assert recognise(model, REGISTRY, RTX, plugins=["EfficientNMS_TRT"]) == []


# -- putting them back ------------------------------------------------------------------------------

PIPELINE = """\
schema: 1
name: back
title: Plugins put back
description: Puts plugins back that the graph computes.
stages:
  - inspect
  - substitute:
      plugins: [EfficientNMS_TRT]
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "back.yaml"
    path.write_text(PIPELINE)
    return path


def feeds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.7, (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, (2, 40, 2))], axis=-1)
    return [boxes.astype(np.float32), rng.uniform(-0.5, 1, (2, 40, 3)).astype(np.float32)]


def test_nodes_are_put_back_once_and_compute_the_same(pipeline: Path) -> None:
    before = two_heads()
    report = surgery.run(pipeline, before, target="tensorrt-10.16")
    assert report.model is not None
    kinds = [n.op_type for n in report.model.graph.node if n.op_type != "Identity"]
    assert kinds == ["Relu", "EfficientNMS_TRT", "EfficientNMS_TRT__2", "Neg"]
    edits = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert [e.details["attributes"]["iou_threshold"] for e in edits] == [0.5, 0.7]
    for got, want in zip(run(report.model, feeds()), run(before, feeds()), strict=True):
        np.testing.assert_array_equal(got, want)
    again = surgery.run(pipeline, report.model, target="tensorrt-10.16")
    assert again.model is not None
    assert [n.op_type for n in again.model.graph.node if n.op_type != "Identity"] == kinds
    assert not [e for e in again.edits if e.rule == "recognised-plugin"]


def test_values_that_others_read_stay(pipeline: Path) -> None:
    """A value inside is an output of the model too: what makes it stays, the rest goes."""
    model = two_heads()
    inner = next(n for n in model.graph.node if n.name.startswith("a/") and n.op_type == "Unsqueeze")
    model.graph.output.append(helper.make_empty_tensor_value_info(inner.output[0]))
    typed = onnx.shape_inference.infer_shapes(model)
    found = next(v for v in typed.graph.value_info if v.name == inner.output[0])
    model.graph.output[-1].CopyFrom(found)
    report = surgery.run(pipeline, model, target="tensorrt-10.16")
    assert report.model is not None
    edit = next(e for e in report.edits if e.details["attributes"]["iou_threshold"] == 0.5)
    assert inner.name in edit.details["kept"]
    for got, want in zip(run(report.model, feeds()), run(model, feeds()), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_target_without_the_plugin_is_told(pipeline: Path) -> None:
    report = surgery.run(pipeline, two_heads(), target="tensorrt-rtx-1.7")
    assert any("EfficientNMS_TRT is not put back" in w for w in report.warnings)


def test_an_output_that_the_graph_does_not_compute_gets_a_name_of_its_own(pipeline: Path) -> None:
    model = two_heads()
    kept = [o for o in model.graph.output if o.name != "a_classes"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model = folded(model)
    (match, _) = recognise(model, REGISTRY, OLD, plugins=["EfficientNMS_TRT"])
    assert sum(not n for n in match.outputs) == 1
    report = surgery.run(pipeline, model, target="tensorrt-10.16")
    assert report.model is not None
    assert [n.op_type for n in report.model.graph.node].count("EfficientNMS_TRT") == 1
    assert len([e for e in report.edits if e.rule == "recognised-plugin"]) == 2
    for got, want in zip(run(report.model, feeds()), run(model, feeds()), strict=True):
        np.testing.assert_array_equal(got, want)
