"""Other forms of a head compute what the head computes, and the graph around them stays whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.errors import ConversionError
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.cut import cut_by_scope
from surgery.graph.editor import Editor
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.view import View
from surgery.heads.identify import identify
from surgery.heads.prove import prove
from surgery.heads.replace import build, candidate_plugins
from surgery.plugins.attach import attach_bodies, target_model
from surgery.plugins.registry import Registry
from surgery.targets import resolve_target
from tests.heads.ssd_models import detector

REGISTRY = Registry.load()
FORMS = ("MultiClassNMS", "BatchedNMSDynamic_TRT", "EfficientNMS_Explicit_TF_TRT")


def replaced(model: onnx.ModelProto, plugin: str) -> tuple[onnx.ModelProto, dict[str, dict[str, str]]]:
    graph, header = import_graph(model)
    fold_constants(graph)
    cut = cut_by_scope(View(graph), "post", ["Postprocessor"], grow="forward")
    assert cut is not None
    image = np.zeros((1, 4, 4, 3), np.float32)
    head = identify(graph, cut, {"image": image}, seed=0)
    new = build(head, plugin, REGISTRY, int(graph.opset))
    prove(graph, head, new, attach_bodies(new.model, REGISTRY), seed=0)
    provenance: dict[str, dict[str, str]] = {}
    Editor(graph, provenance).replace(head.cut, new.model, rule="detection-head", prefix="surgery/post")
    return attach_bodies(export_graph(graph, header, provenance=provenance), REGISTRY), provenance


@pytest.mark.parametrize("plugin", FORMS)
@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    "knobs", [{}, {"classes": 1, "background": False}, {"class_offset": 0, "total": 4}], ids=str
)
def test_the_whole_model_computes_the_same(plugin: str, opset: int, knobs: dict[str, int]) -> None:
    model = detector(opset=opset, **knobs)  # type: ignore[arg-type]
    portable, _ = replaced(model, plugin)
    assert not [n for n in portable.graph.node if n.op_type == "NonMaxSuppression"]
    one, two = Evaluator(model), Evaluator(portable)
    rng = np.random.default_rng(1)
    for scale in (0.3, 1.0, 3.0):
        image = rng.normal(0, scale, (1, 4, 4, 3)).astype(np.float32)
        want, got = one.run({"image": image}), two.run({"image": image})
        assert list(want) == list(got)
        for name in want:
            np.testing.assert_array_equal(want[name], got[name], err_msg=name)


def test_new_nodes_say_where_they_come_from() -> None:
    portable, provenance = replaced(detector(), "MultiClassNMS")
    stamped = [n for n in portable.graph.node if any(p.key == "surgery.rule" for p in n.metadata_props)]
    new = [n for n in portable.graph.node if n.name.startswith("surgery/post/")]
    assert [n.name for n in stamped] == [n.name for n in new]
    assert 0 < len(new) <= len(provenance)
    for node in stamped:
        props = {p.key: p.value for p in node.metadata_props}
        assert props["surgery.rule"] == "detection-head"
        assert "nms_" in props["surgery.from"] or "more" in props["surgery.from"]
        assert node.name.startswith("surgery/post/")


def test_names_of_inputs_and_outputs_stay() -> None:
    model = detector()
    portable, _ = replaced(model, "MultiClassNMS")
    assert [o.name for o in portable.graph.output] == [o.name for o in model.graph.output]
    assert [i.name for i in portable.graph.input] == [i.name for i in model.graph.input]
    onnx.checker.check_model(portable)


@pytest.mark.parametrize(
    ("target", "plugin"),
    [
        ("tensorrt-rtx-1.7", "MultiClassNMS"),
        ("tensorrt-10.16", "BatchedNMSDynamic_TRT"),
        ("tensorrt-11.4", "EfficientNMS_Explicit_TF_TRT"),
    ],
)
def test_each_target_gets_what_it_has(target: str, plugin: str) -> None:
    chosen = resolve_target(target)
    assert candidate_plugins(chosen, REGISTRY)[0] == plugin
    portable, _ = replaced(detector(), plugin)
    model = target_model(portable, REGISTRY, chosen)
    assert not model.functions
    nodes = {n.op_type: n for n in model.graph.node}
    entry = chosen.plugin(plugin)
    if entry is None:
        assert plugin not in nodes  # the body is inlined
        assert not [n for n in model.graph.node if n.domain not in ("", "ai.onnx")]
        Evaluator(model).run({"image": np.zeros((1, 4, 4, 3), np.float32)})
        return
    node = nodes[plugin]
    assert node.domain == ""
    given = {a.name for a in node.attribute} - {"plugin_version", "plugin_namespace"}
    assert given <= {f.name for f in entry.attributes}
    version = next(a.s.decode() for a in node.attribute if a.name == "plugin_version")
    assert version in entry.versions


def test_a_wrong_reading_is_caught_by_the_proof() -> None:
    from dataclasses import replace

    graph, _ = import_graph(detector())
    fold_constants(graph)
    cut = cut_by_scope(View(graph), "post", ["Postprocessor"], grow="forward")
    assert cut is not None
    head = identify(graph, cut, {"image": np.zeros((1, 4, 4, 3), np.float32)}, seed=0)
    parameters = replace(head.parameters, iou_threshold=head.parameters.iou_threshold + 0.2)
    for wrong in (
        replace(head, parameters=parameters),
        replace(head, prune_empty=False),
        replace(head, clip_window=None),
        replace(head, parameters=replace(head.parameters, max_per_class=2)),
    ):
        new = build(wrong, "MultiClassNMS", REGISTRY, 13)
        with pytest.raises(ConversionError, match="not what it computes"):
            prove(graph, wrong, new, attach_bodies(new.model, REGISTRY), seed=0)


def test_a_replacement_with_other_outputs_is_refused() -> None:
    graph, _ = import_graph(detector())
    cut = cut_by_scope(View(graph), "post", ["Postprocessor"], grow="forward")
    assert cut is not None
    header = '<ir_version: 8, opset_import: ["" : 13]>'
    text = header + " g (float[1, 24, 4] raw_boxes) => (float[1, 24, 4] z) { z = Neg (raw_boxes) }"
    with pytest.raises(ConversionError, match="has outputs"):
        Editor(graph, {}).replace(cut, onnx.parser.parse_model(text), rule="r", prefix="p")
