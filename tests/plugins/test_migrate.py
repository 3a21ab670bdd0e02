"""Plugin nodes on another target: what stays, what becomes another node, what is written out, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper
from runtime import run

import surgery
from surgery.plugins.adopt import adopt_plugins
from surgery.plugins.advise import advise, standing
from surgery.plugins.attach import attach_bodies, target_model
from surgery.plugins.definition import PLUGIN_DOMAIN, PluginDefinition, TensorType, node_attributes
from surgery.plugins.migrate import fates, write_out
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.plugins.schema import Sample
from surgery.plugins.successor import Proven, find_successor
from surgery.targets import resolve_target
from tests.plugin_fields import field_problems

REGISTRY = Registry.load()
TRT10, TRT11, RTX = (resolve_target(n) for n in ("tensorrt-10.16", "tensorrt-11.4", "tensorrt-rtx-1.7"))
EFFICIENT = "EfficientNMS_TRT version 1 with standard nodes"
BATCHED = {
    "shareLocation": 1, "backgroundLabelId": -1, "numClasses": 3, "topK": 40, "keepTopK": 10, "scoreThreshold": 0.3,
    "iouThreshold": 0.5, "isNormalized": 1,
}  # fmt: skip


def types_of(sample: Sample) -> list[TensorType]:
    return [TensorType(i.dtype, tuple(i.shape)) for i in sample.inputs]


def sample_of(
    name: str, attributes: dict[str, Any], *shapes: tuple[int, ...]
) -> tuple[PluginDefinition, Sample]:
    inputs = [{"shape": s} for s in shapes]
    return REGISTRY.get(name), Sample.model_validate(
        {"name": "made", "attributes": attributes, "inputs": inputs}
    )


def found(definition: PluginDefinition, sample: Sample, target: Any) -> tuple[Proven | None, list[str]]:
    node = sample_model(definition, sample).graph.node[0]
    return find_successor(node, definition, types_of(sample), REGISTRY, target, opset=17)


def with_successor(definition: PluginDefinition, sample: Sample, target: Any) -> onnx.ModelProto:
    model = sample_model(definition, sample)
    proven, reasons = found(definition, sample, target)
    assert proven is not None, reasons
    return write_out(model, REGISTRY, lambda _: proven.successor.function)


# -- each successor, on each sample of its plugin ---------------------------------------------------------

NEVER = {
    ("BatchedNMSDynamic_TRT", "few-candidates"): "rejected candidates below a score threshold",
    ("BatchedNMSDynamic_TRT", "pixels"): "does not count the last pixel",
    ("BatchedNMSDynamic_TRT", "pixels-in-areas-only"): "does not count the last pixel",
    ("BatchedNMS_TRT", "few-candidates"): "rejected candidates below a score threshold",
    ("BatchedNMS_TRT", "pixels"): "does not count the last pixel",
    ("BatchedNMS_TRT", "pixels-in-areas-only"): "does not count the last pixel",
    ("EfficientNMS_ONNX_TRT", "boxes-per-class-dense-filter"): "one image and shared boxes only",
    ("EfficientNMS_ONNX_TRT", "centres-few-found"): "one image and shared boxes only",
    ("EfficientNMS_ONNX_TRT", "corners"): "one image and shared boxes only",
    ("EfficientNMS_ONNX_TRT", "nothing-found"): "one image and shared boxes only",
    ("MMCVRoiAlign", "maximum"): "output 0 differs",
    ("MMCVRoiAlign", "maximum-adaptive"): "output 0 differs",
    ("NMSDynamic_TRT", "pixels"): "does not count the last pixel",
    ("NMS_TRT", "pixels"): "does not count the last pixel",
    ("Proposal", "few-anchors-and-small-boxes"): "lacks ProposalDynamic",
    ("Proposal", "two-images"): "lacks ProposalDynamic",
}
"""What has no successor on tensorrt-11.4, and a part of the reason."""

WITH_SUCCESSOR = [d for d in map(REGISTRY.get, REGISTRY.names()) if d.has_successors]
CASES = [pytest.param(d, s, id=f"{d.name}-{s.name}") for d in WITH_SUCCESSOR for s in d.samples]


@pytest.mark.parametrize(("definition", "sample"), CASES)
def test_a_successor_computes_the_same_or_there_is_a_reason(
    definition: PluginDefinition, sample: Sample
) -> None:
    proven, reasons = found(definition, sample, TRT11)
    reason = NEVER.get((definition.name, sample.name))
    if reason is not None:
        assert proven is None
        assert any(reason in r for r in reasons), reasons
        return
    assert proven is not None, reasons
    assert proven.cases == 4
    assert proven.max_abs_error is not None
    assert proven.max_abs_error < 1e-5


@pytest.mark.parametrize("definition", WITH_SUCCESSOR, ids=lambda d: d.name)
def test_tensorrt_rtx_has_no_successor(definition: PluginDefinition) -> None:
    proven, reasons = found(definition, definition.samples[0], RTX)
    assert proven is None
    assert reasons


# -- thresholds ------------------------------------------------------------------------------------------


def sorted_rows(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of BatchedNMS, each image's rows in an order of their own."""
    count, boxes, scores, classes = run(model, inputs)
    rows = np.concatenate([-scores[..., None], classes[..., None], boxes], axis=2)
    return [count, np.stack([image[np.lexsort(image.T[::-1])] for image in rows])]


@pytest.mark.parametrize("seed", range(4))
def test_scores_and_overlaps_that_are_equal_to_the_thresholds(seed: int) -> None:
    """EfficientNMS compares with >=, BatchedNMS with >: both are exact here, on a grid where equality is common."""
    definition, sample = sample_of(
        "BatchedNMSDynamic_TRT", {**BATCHED, "scoreThreshold": 0.5}, (2, 30, 1, 4), (2, 30, 3)
    )
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 3, (2, 30, 1, 2)) / 4
    boxes = np.concatenate([corner, corner + rng.integers(1, 3, corner.shape) / 4], axis=3).astype(np.float32)
    # Distinct scores, half of them just at the threshold's neighbours: rank and threshold both count.
    scores = (rng.permuted(np.arange(180)).reshape(2, 30, 3) / 360 + 0.25).astype(np.float32)
    assert (scores == np.float32(0.5)).any()
    plugin = sample_model(definition, sample)
    changed = with_successor(definition, sample, TRT11)
    assert {n.op_type for n in changed.graph.node if n.domain == PLUGIN_DOMAIN} == {"EfficientNMS_TRT"}
    for got, want in zip(
        sorted_rows(changed, [boxes, scores]), sorted_rows(plugin, [boxes, scores]), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_the_best_of_a_class_are_cut_before_efficient_nms() -> None:
    """topK is below the number of boxes: what is beyond it never suppresses anything."""
    attributes = {**BATCHED, "topK": 12, "keepTopK": 12, "iouThreshold": 0.2}
    definition, sample = sample_of("BatchedNMSDynamic_TRT", attributes, (1, 200, 1, 4), (1, 200, 3))
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 0.5, (1, 200, 1, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, corner.shape)], axis=3).astype(np.float32)
    scores = rng.permuted(np.linspace(0.0, 1.0, 600)).reshape(1, 200, 3).astype(np.float32)
    changed = with_successor(definition, sample, TRT11)
    for got, want in zip(
        sorted_rows(changed, [boxes, scores]),
        sorted_rows(sample_model(definition, sample), [boxes, scores]),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_more_candidates_than_efficient_nms_looks_at() -> None:
    definition, sample = sample_of(
        "BatchedNMSDynamic_TRT", {**BATCHED, "topK": 2000}, (1, 3000, 1, 4), (1, 3000, 3)
    )
    proven, reasons = found(definition, sample, TRT11)
    assert proven is None
    assert reasons == [
        "BatchedNMSDynamic_TRT 'made': EfficientNMS looks at 5000 candidates of an image, 6000 take part here"
    ]


@pytest.mark.parametrize(("threshold", "center"), [(0.4, 0), (0.9, 1), (2.0, 0)])
def test_efficient_nms_onnx_becomes_nonmaxsuppression(threshold: float, center: int) -> None:
    attributes = {
        "score_threshold": threshold, "iou_threshold": 0.4,
        "max_output_boxes_per_class": 12, "center_point_box": center,
    }  # fmt: skip
    definition, sample = sample_of("EfficientNMS_ONNX_TRT", attributes, (1, 40, 4), (1, 40, 5))
    changed = with_successor(definition, sample, TRT11)
    ops = [n.op_type for n in changed.graph.node]
    assert "NonMaxSuppression" in ops
    assert PLUGIN_DOMAIN not in {n.domain for n in changed.graph.node}
    rng = np.random.default_rng(7)
    first, size = rng.uniform(0.2, 0.6, (1, 40, 2)), rng.uniform(0.1, 0.4, (1, 40, 2))
    boxes = np.concatenate([first, size if center else first + size], axis=2).astype(np.float32)
    scores = rng.permuted(np.linspace(0, 1, 200)).reshape(1, 40, 5).astype(np.float32)
    (got,), (want,) = run(changed, [boxes, scores]), run(sample_model(definition, sample), [boxes, scores])
    np.testing.assert_array_equal(got, want)
    assert (len(np.unique(want, axis=0)) == 1) == (threshold == 2.0)


def test_efficient_nms_onnx_at_equal_thresholds() -> None:
    """ONNX compares with >, the plugin with >=."""
    attributes = {
        "score_threshold": 0.5,
        "iou_threshold": 0.5,
        "max_output_boxes_per_class": 20,
        "center_point_box": 0,
    }
    definition, sample = sample_of("EfficientNMS_ONNX_TRT", attributes, (1, 24, 4), (1, 24, 2))
    rng = np.random.default_rng(3)
    first = rng.integers(0, 3, (1, 24, 2)) / 4
    boxes = np.concatenate([first, first + rng.integers(1, 3, first.shape) / 4], axis=2).astype(np.float32)
    scores = (rng.permuted(np.arange(48)).reshape(1, 24, 2) / 96 + 0.25).astype(np.float32)
    assert (scores == np.float32(0.5)).any()
    changed = with_successor(definition, sample, TRT11)
    (got,), (want,) = run(changed, [boxes, scores]), run(sample_model(definition, sample), [boxes, scores])
    np.testing.assert_array_equal(got, want)


# -- fates -----------------------------------------------------------------------------------------------


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def two_suppressions(small: int = 40, large: int = 3000) -> onnx.ModelProto:
    """Two nodes of one plugin, configured differently: one has a successor on 11.x, the other has too many boxes."""
    nodes, inputs, outputs = [], [], []
    for name, number, attributes in (
        ("small", small, BATCHED),
        ("large", large, {**BATCHED, "topK": 2000, "iouThreshold": 0.6}),
    ):
        names = [f"{name}_{i}" for i in range(4)]
        node = helper.make_node(
            "BatchedNMSDynamic_TRT",
            [f"{name}_b", f"{name}_s"],
            names,
            name=name,
            plugin_version="1",
            **attributes,
        )
        nodes.append(node)
        inputs += [value(f"{name}_b", ["n", number, 1, 4]), value(f"{name}_s", ["n", number, 3])]
        outputs.append(value(names[2], ["n", 10]))
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_two_nodes_of_one_plugin_go_different_ways() -> None:
    model, _ = adopt_plugins(two_suppressions(), REGISTRY)
    verbs = {t.name: [f.verb for f in fates(model, REGISTRY, t)] for t in (TRT10, TRT11, RTX)}
    assert verbs == {
        "tensorrt-10.16": ["stays", "stays"],
        "tensorrt-11.4": [f"becomes {EFFICIENT}", "is written out"],
        "tensorrt-rtx-1.7": ["is written out", "is written out"],
    }
    large = fates(model, REGISTRY, TRT11)[1]
    assert large.why == "tensorrt 11.4 does not have it; removed in 11.0"
    assert "5000 candidates" in large.refused[0]
    assert all(f.deprecated for f in fates(model, REGISTRY, TRT10))


def test_a_library_of_yours_keeps_them() -> None:
    model, _ = adopt_plugins(two_suppressions(), REGISTRY)
    kept = fates(model, REGISTRY, RTX, keep=["BatchedNMSDynamic_TRT"])
    assert [f.verb for f in kept] == ["stays", "stays"]


def crop(version: str) -> onnx.ModelProto:
    node = helper.make_node(
        "CropAndResizeDynamic",
        ["x", "r"],
        ["y"],
        name="crop",
        crop_width=3,
        crop_height=2,
        plugin_version=version,
    )
    inputs = [value("x", ["n", 2, 8, 8]), value("r", ["n", 4, 4, 1])]
    graph = helper.make_graph([node], "g", inputs, [value("y", ["n", 4, 2, 2, 3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("version", "target", "verb"),
    [
        ("1", "tensorrt-8.6", "stays"),
        ("1", "tensorrt-10.16", "becomes CropAndResizeDynamic version 2"),
        ("1", "tensorrt-11.4", "becomes CropAndResizeDynamic version 2"),
        ("2", "tensorrt-11.4", "stays"),
        ("2", "tensorrt-8.6", "becomes CropAndResizeDynamic version 1"),
        ("2", "tensorrt-rtx-1.7", "is written out"),
    ],
)
def test_a_version_becomes_the_one_that_the_target_has(version: str, target: str, verb: str) -> None:
    model, _ = adopt_plugins(crop(version), REGISTRY)
    (fate,) = fates(model, REGISTRY, resolve_target(target))
    assert fate.verb == verb
    if not verb.startswith("becomes"):
        return
    assert fate.successor is not None
    changed = write_out(model, REGISTRY, lambda _: fate.successor.successor.function)  # type: ignore[union-attr]
    (node,) = changed.graph.node
    assert node_attributes(node) == {
        "crop_width": 3, "crop_height": 2, "plugin_version": verb[-1], "plugin_namespace": "",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    inputs = [rng.random((2, 2, 8, 8), np.float32), rng.random((2, 4, 4, 1), np.float32)]
    np.testing.assert_array_equal(run(changed, inputs)[0], run(model, inputs)[0])


def wrong_successor(folder: Path, body: str) -> Registry:
    text = folder / "Twice" / "body.py"
    text.write_text(text.read_text() + body)
    return Registry.load([folder])


WRONG = """
from surgery.plugins.successor import Successor


def successor(node, target):
    (x,) = node.input_names
    one, two = Body(node.opset), Body(node.opset)
    return [
        "there would be a better one",
        Successor("Mul", node.function(one, [one.mul(x, one.scalar(2.0))])),
        Successor("Add", node.function(two, [two.add(x, x)]), ("offset is 0",)),
    ]
"""


def test_a_successor_that_computes_something_else_is_not_taken(user_plugins: Path) -> None:
    registry = wrong_successor(user_plugins, WRONG)
    definition = registry.get("Twice")
    for offset, name in ((1.5, None), (0.0, "Mul")):
        node = definition.make_node("t", ["x"], ["y"], {"offset": offset})
        proven, reasons = find_successor(
            node, definition, [TensorType("float32", ("n", 3))], registry, RTX, opset=17
        )
        assert (proven.successor.name if proven else None) == name
        if name is None:
            assert reasons[0] == "there would be a better one"
            assert reasons[1:] == [
                f"{n} is not proven: output 0 differs by up to 1.5" for n in ("Mul", "Add")
            ]


# -- the whole way ---------------------------------------------------------------------------------------


def feeds_of(model: onnx.ModelProto, batch: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    feeds = {}
    for given in model.graph.input:
        shape = [d.dim_value or batch for d in given.type.tensor_type.shape.dim]
        if given.name.endswith("_b"):
            corner = rng.uniform(0, 0.6, (*shape[:-1], 2))
            feeds[given.name] = np.concatenate(
                [corner, corner + rng.uniform(0.1, 0.4, corner.shape)], axis=-1
            )
        else:
            feeds[given.name] = rng.permuted(np.linspace(0, 1, int(np.prod(shape)))).reshape(shape)
    return {n: v.astype(np.float32) for n, v in feeds.items()}


def test_a_run_reports_what_was_chosen_and_why(tmp_path: Path) -> None:
    onnx.save(two_suppressions(large=1800), tmp_path / "m.onnx")
    report = surgery.run("migrate", tmp_path / "m.onnx", target="tensorrt-11.4", output=tmp_path / "out")
    assert report.failure is None, report.failure
    edits = {e.nodes_before: e for e in report.edits}
    small, large = edits["small",], edits["large",]
    assert (small.rule, small.kind, small.verified) == ("successor-plugin", "plugin", "passed")
    assert small.details["successor"] == EFFICIENT
    assert small.details["why"] == "tensorrt 11.4 does not have it; removed in 11.0"
    assert any("equal scores" in a for a in small.assumptions)
    assert small.nodes_after
    assert (large.rule, large.kind) == ("write-out-plugin", "native")
    assert "5000 candidates" in large.details["not_taken"]
    target = onnx.load(tmp_path / "out" / "m.tensorrt-11.4.onnx")
    assert [n.op_type for n in target.graph.node if n.op_type.endswith("_TRT")] == ["EfficientNMS_TRT"]
    assert field_problems(target, TRT11) == []
    source, _ = adopt_plugins(two_suppressions(large=1800), REGISTRY)
    portable = onnx.load(tmp_path / "out" / "m.onnx")
    inputs = list(feeds_of(source).values())
    for got, want in zip(run(portable, inputs), run(source, inputs), strict=True):
        np.testing.assert_array_equal(got, want)


def test_equal_nodes_are_proven_once(tmp_path: Path) -> None:
    model = two_suppressions(large=40)
    for node in model.graph.node[1:]:
        del node.attribute[:]
        node.attribute.extend(model.graph.node[0].attribute)
    onnx.save(model, tmp_path / "m.onnx")
    report = surgery.run(
        "migrate", tmp_path / "m.onnx", target="tensorrt-11.4", stages="load..substitute,verify"
    )
    assert report.failure is None, report.failure
    assert [e.verified for e in report.edits] == ["passed", "sampled"]
    assert report.verification["graph"]["status"] == "passed"


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    onnx.save(crop("1"), tmp_path / "m.onnx")
    surgery.run("migrate", tmp_path / "m.onnx", target="tensorrt-11.4", output=tmp_path / "one")
    again = surgery.run("migrate", tmp_path / "one" / "m.tensorrt-11.4.onnx", target="tensorrt-11.4")
    assert again.failure is None
    assert again.edits == []


# -- what the target has ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorrt-10.16", "tensorrt-11.4"])
@pytest.mark.parametrize("definition", REGISTRY.definitions(), ids=lambda d: f"{d.name}-{d.version}")
def test_every_node_that_is_emitted_has_the_fields_of_its_creator(
    definition: PluginDefinition, name: str
) -> None:
    """tensorrt-11.4 by the facts of 11.1, the newest there are."""
    target = resolve_target(name)
    emitted = 0
    for sample in definition.samples:
        model = target_model(sample_model(definition, sample), Registry([definition]), target)
        assert field_problems(model, target) == []
        emitted += any(n.op_type == definition.name for n in model.graph.node)
    shipped = definition.interface(target.flavour, target.version) is not None
    assert emitted in (0, len(definition.samples))
    assert shipped or not emitted


def test_the_check_of_fields_finds_what_is_wrong() -> None:
    definition = REGISTRY.get("ROIAlign_TRT", "2")
    model = target_model(sample_model(definition, definition.samples[0]), REGISTRY, TRT11)
    assert field_problems(model, TRT11) == []
    (node,) = (n for n in model.graph.node if n.op_type == "ROIAlign_TRT")
    kept = [a for a in node.attribute if a.name != "mode"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("mode", "avg")])
    node.attribute.append(helper.make_attribute("colour", 1))
    assert len(field_problems(model, TRT11)) == 2
    next(a for a in node.attribute if a.name == "plugin_version").s = b"9"
    assert field_problems(model, TRT11) == ["tensorrt-11.4 has no ROIAlign_TRT version 9"]


# -- the advisor -----------------------------------------------------------------------------------------


def test_the_advisor_says_what_becomes_of_each_node() -> None:
    advice = advise(two_suppressions(), REGISTRY, TRT11)
    assert [(a.node, a.fate) for a in advice] == [
        ("small", f"becomes {EFFICIENT}"),
        ("large", "is written out"),
    ]
    assert [a.fate for a in advise(two_suppressions(), REGISTRY, TRT10)] == ["deprecated", "deprecated"]


def test_the_advisor_lists_what_is_unknown_or_wrong_and_goes_on() -> None:
    model = two_suppressions()
    model.graph.node.append(
        helper.make_node("BatchdNMS_TRT", ["small_b"], ["q"], name="odd", plugin_version="1")
    )
    by_name = {a.node: a for a in advise(model, REGISTRY, TRT11)}
    assert (by_name["odd"].fate, by_name["small"].fate) == ("unknown", "is written out")
    assert "BatchedNMS_TRT" in by_name["odd"].why
    del model.graph.node[2]
    next(a for a in model.graph.node[0].attribute if a.name == "topK").i = 5000
    wrong, other = advise(model, REGISTRY, TRT11)
    assert (wrong.fate, other.fate) == ("wrong", "is written out")
    assert "topK' is 5000; the maximum is 4096" in wrong.why


@pytest.mark.parametrize(
    ("name", "version", "target", "state", "instead"),
    [
        ("BatchedNMSDynamic_TRT", "1", TRT10, "deprecated", ("EfficientNMS_TRT",)),
        ("BatchedNMSDynamic_TRT", "1", TRT11, "removed", ("EfficientNMS_TRT", "its body")),
        ("BatchedNMSDynamic_TRT", "1", RTX, "lacks", ("its body",)),
        ("CropAndResizeDynamic", "1", TRT11, "removed", ("version 2", "its body")),
        ("CropAndResizeDynamic", "2", TRT11, "has", ()),
        ("GridAnchor_TRT", "1", TRT11, "body", ("its body",)),
        ("MultiClassNMS", "1", TRT11, "lacks", ("its body",)),
    ],
)
def test_how_a_plugin_stands(
    name: str, version: str, target: Any, state: str, instead: tuple[str, ...]
) -> None:
    stands = standing(REGISTRY.get(name, version), REGISTRY, target)
    assert (stands.state, stands.instead) == (state, instead)


def test_samples_of_successors_run_with_bodies_attached() -> None:
    """What a target model holds besides plugin nodes is what ONNX Runtime and TensorRT both know."""
    definition, sample = sample_of("BatchedNMSDynamic_TRT", BATCHED, (1, 40, 1, 4), (1, 40, 3))
    changed = attach_bodies(with_successor(definition, sample, TRT11), REGISTRY)
    onnx.checker.check_model(changed, full_check=True)
    assert run(changed, sample_inputs(sample))[2].shape == (1, 10)
