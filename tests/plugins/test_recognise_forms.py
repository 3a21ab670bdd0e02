"""Plugins found in graphs as exporters write them: the plugin's node takes the place of what it computes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exported_forms as exported
import numpy as np
import onnx
import pytest
from runtime import run

import surgery
from surgery.errors import ConfigError
from surgery.plugins.attach import target_model
from surgery.plugins.recognise import recognise
from surgery.plugins.recognise_forms import forms_of
from surgery.plugins.registry import Registry
from tests.hash_seeds import printed_under_two_seeds

REGISTRY = Registry.load()
ATTENTION = "MultiscaleDeformableAttnPlugin_TRT"
CONVOLUTION = "ModulatedDeformConv2d"
SUPPRESSION = "EfficientNMS_TRT"
SCORES = "DisentangledAttention_TRT"


@dataclass(frozen=True)
class Version:
    flavour: str
    version: str


TRT10, TRT11, RTX = Version("tensorrt", "10.16"), Version("tensorrt", "11.4"), Version("tensorrt-rtx", "1.7")

CASES: dict[str, tuple[str, str, onnx.ModelProto, dict[str, Any]]] = {
    "slices": (ATTENTION, "grid-sample", exported.attention(), {}),
    "split": (ATTENTION, "grid-sample", exported.attention(split=True), {}),
    "commuted": (ATTENTION, "grid-sample", exported.attention(commuted=True), {}),
    "heads-first": (ATTENTION, "grid-sample-heads-first", exported.heads_first(), {}),
    "convolution": (
        CONVOLUTION,
        "DeformConv",
        exported.deform_conv(),
        {"stride": [1, 2], "padding": [0, 1], "dilation": [1, 1], "group": 1, "deformable_group": 1},
    ),
    "convolution-without-bias": (
        CONVOLUTION,
        "DeformConv",
        exported.deform_conv(bias=False),
        {"stride": [1, 2], "padding": [0, 1], "dilation": [1, 1], "group": 1, "deformable_group": 1},
    ),
    "scores": (SCORES, "gather-elements", exported.disentangled(), {"span": 6}),
    "suppression": (
        SUPPRESSION,
        "ultralytics-nms",
        exported.ultralytics(),
        {"iou_threshold": 0.6, "max_output_boxes": exported.KEPT, "class_agnostic": 0, "box_coding": 0},
    ),
    "suppression-agnostic": (
        SUPPRESSION,
        "ultralytics-nms",
        exported.ultralytics(agnostic=True, iou=0.3),
        {"iou_threshold": 0.3, "max_output_boxes": exported.KEPT, "class_agnostic": 1, "box_coding": 0},
    ),
}


def pipeline(folder: Path, plugin: str) -> Path:
    path = folder / "back.yaml"
    path.write_text(
        "schema: 1\nname: back\ntitle: Back\ndescription: Puts plugins back.\n"
        f"stages:\n  - inspect\n  - substitute:\n      plugins: [{plugin}]\n  - verify\n"
    )
    return path


def feeds(model: onnx.ModelProto, seed: int = 0, batch: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for value in model.graph.input:
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        array = rng.uniform(-0.3, 1.3, shape)
        if value.name == "raw":  # centres of boxes, then scores
            low = rng.uniform(0, 40, (1, 2, shape[2]))
            array[:, :4] = np.concatenate([low, low + rng.uniform(4, 24, (1, 2, shape[2]))], axis=1)
        arrays.append(array.astype(np.float32))
    return arrays


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", ["tensorrt-10.16", "tensorrt-11.4"])
def test_a_form_becomes_the_plugin_that_computes_the_same(name: str, target: str, tmp_path: Path) -> None:
    plugin, form, model, attributes = CASES[name]
    report = surgery.run(pipeline(tmp_path, plugin), model, target=target)
    assert report.failure is None, report.failure
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert (edit.details["plugin"], edit.details["form"]) == (plugin, form)
    assert {k: edit.details["attributes"].get(k) for k in attributes} == attributes
    assert report.model is not None
    assert [n.op_type for n in report.model.graph.node].count(plugin) == 1
    left = {n.op_type for n in report.model.graph.node}
    assert not left & {"GridSample", "DeformConv", "NonMaxSuppression", "NonZero", "GatherElements"}
    assert report.verification["graph"]["status"] == "passed"
    for seed in range(3):
        given = feeds(model, seed)
        np.testing.assert_allclose(run(report.model, given)[0], run(model, given)[0], rtol=1e-4, atol=1e-5)
    for_parser = target_model(report.model, REGISTRY, TRT10 if target == "tensorrt-10.16" else TRT11)
    (node,) = [n for n in for_parser.graph.node if n.op_type == plugin]
    assert node.domain == ""
    assert not for_parser.functions


@pytest.mark.parametrize("name", CASES)
def test_what_was_put_in_goes_on_to_other_targets(name: str, tmp_path: Path) -> None:
    plugin, _, model, _ = CASES[name]
    report = surgery.run(pipeline(tmp_path, plugin), model, target="tensorrt-11.4")
    assert report.model is not None
    written = target_model(report.model, REGISTRY, RTX)
    assert plugin not in {n.op_type for n in written.graph.node}
    given = feeds(model, 5)
    np.testing.assert_allclose(run(written, given)[0], run(model, given)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_node_has_the_fields_of_its_definition(name: str) -> None:
    plugin, _, model, _ = CASES[name]
    (match,) = recognise(model, REGISTRY, TRT11, plugins=[plugin])
    (node,) = [n for n in match.replacement if n.op_type == plugin]
    wanted = match.plugin.make_node(node.name, node.input, node.output, match.attributes)
    found, expected = ({a.name: a.type for a in n.attribute} for n in (node, wanted))
    assert found.items() <= expected.items()
    required = {n for n, a in match.plugin.file.attributes.items() if a.required}
    assert found.keys() >= {*required, "plugin_version", "plugin_namespace"}


def test_every_form_has_a_graph_here() -> None:
    have = {(plugin, form) for plugin, form, _, _ in CASES.values()}
    assert have == {(d.name, f.name) for d in REGISTRY.definitions() for f in forms_of(d)}


def test_a_second_application_finds_nothing(tmp_path: Path) -> None:
    plugin, _, model, _ = CASES["slices"]
    path = pipeline(tmp_path, plugin)
    once = surgery.run(path, model, target="tensorrt-10.16").model
    assert once is not None
    again = surgery.run(path, once, target="tensorrt-10.16")
    assert not [e for e in again.edits if e.rule == "recognised-plugin"]
    assert again.model is not None
    kinds = [[n.op_type for n in m.graph.node if n.op_type != "Constant"] for m in (once, again.model)]
    assert kinds[0] == kinds[1]


def test_free_sizes_are_proven_with_inputs_of_the_model(tmp_path: Path) -> None:
    """Shapes are computed in the graph: nothing of that is part of the form, and all of it goes on working."""
    model = exported.attention(batch="n")
    report = surgery.run(pipeline(tmp_path, ATTENTION), model, target="tensorrt-10.16")
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert "were run on" in edit.details["proof"]
    assert report.model is not None
    for batch in (1, 4):
        given = feeds(model, batch=batch)
        np.testing.assert_allclose(run(report.model, given)[0], run(model, given)[0], rtol=1e-4, atol=1e-5)


def test_weights_in_other_files(tmp_path: Path) -> None:
    """They are there where the model is run, and stay where they are."""
    model = exported.attention(batch="n")
    scaled = onnx.helper.make_node("Mul", ["value_in", "w"], ["value"], name="/scale")
    model.graph.node[0].CopyFrom(scaled)
    weight = np.random.default_rng(1).normal(size=exported.HEADS * exported.DEPTH).astype(np.float32)
    weight = weight.reshape(exported.HEADS, exported.DEPTH)
    tensor = onnx.numpy_helper.from_array(weight, "w")
    model.graph.initializer.append(tensor)
    inline = onnx.ModelProto.FromString(model.SerializeToString())
    outside = model.graph.initializer[-1]
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="w.data")
    (tmp_path / "w.data").write_bytes(weight.tobytes())
    onnx.save(model, tmp_path / "model.onnx")
    report = surgery.run(pipeline(tmp_path, ATTENTION), tmp_path / "model.onnx", target="tensorrt-10.16")
    assert report.failure is None, report.failure
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert "were run on" in edit.details["proof"]
    assert report.model is not None
    (kept,) = [t for t in report.model.graph.initializer if t.name == "w"]
    assert kept.data_location == onnx.TensorProto.EXTERNAL
    loaded = onnx.ModelProto.FromString(report.model.SerializeToString())
    onnx.external_data_helper.load_external_data_for_model(loaded, str(tmp_path))
    given = feeds(inline)
    np.testing.assert_allclose(run(loaded, given)[0], run(inline, given)[0], rtol=1e-4, atol=1e-5)


def test_without_inputs_free_sizes_are_not_proven() -> None:
    misses: dict[str, str] = {}
    assert recognise(exported.attention(batch="n"), REGISTRY, TRT10, plugins=[ATTENTION], misses=misses) == []
    assert "sizes are free" in misses[ATTENTION]


def test_values_that_others_read_stay(tmp_path: Path) -> None:
    model = exported.attention(extra_output=True)
    report = surgery.run(pipeline(tmp_path, ATTENTION), model, target="tensorrt-10.16")
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert any("GridSample" in n for n in edit.details["kept"])
    assert report.model is not None
    given = feeds(model)
    for got, want in zip(run(report.model, given), run(model, given), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_form_inside_a_branch(tmp_path: Path) -> None:
    whole = exported.attention()
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    then = onnx.helper.make_graph(whole.graph.node, "then", [], [made], whole.graph.initializer)
    shape = [d.dim_value for d in whole.graph.output[0].type.tensor_type.shape.dim]
    nothing = onnx.helper.make_node("ConstantOfShape", ["shape"], ["nothing"])
    sizes = [onnx.numpy_helper.from_array(np.array(shape), "shape")]
    value = onnx.helper.make_tensor_value_info("nothing", onnx.TensorProto.FLOAT, shape)
    other = onnx.helper.make_graph([nothing], "else", [], [value], sizes)
    condition = onnx.helper.make_node("If", ["c"], ["z"], then_branch=then, else_branch=other)
    flag = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    result = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph([condition], "g", [*whole.graph.input, flag], [result])
    model = onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=8)
    report = surgery.run(pipeline(tmp_path, ATTENTION), model, target="tensorrt-10.16")
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert edit.details["form"] == "grid-sample"
    assert report.model is not None
    for chosen in (True, False):
        given = [*feeds(whole), np.array(chosen)]
        np.testing.assert_allclose(run(report.model, given)[0], run(model, given)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("plugin", "model", "reason"),
    [
        (ATTENTION, exported.attention(sampling={"align_corners": 1}), "differs"),
        (ATTENTION, exported.attention(sampling={"padding_mode": "border"}), "differs"),
        (ATTENTION, exported.attention(sampling={"mode": "nearest"}), "differs"),
        (ATTENTION, exported.attention(shift=0.9), "differs"),
        (ATTENTION, exported.attention(swapped=True), "differs"),
        (CONVOLUTION, exported.deform_conv(strides=[2, 2]), "the offsets have 6 columns"),
        (CONVOLUTION, exported.deform_conv(pads=[2, 0, 0, 0]), "pads both ends of an axis by the same"),
        (SUPPRESSION, exported.ultralytics(extra=2), "masks or points"),
        (SCORES, exported.disentangled(ratio=8), "differs"),
        (SCORES, exported.disentangled(scale=0.5), "at most 1"),
    ],
)
def test_what_looks_like_it_and_is_not(plugin: str, model: onnx.ModelProto, reason: str) -> None:
    """The skeleton is there; only running both tells them apart."""
    misses: dict[str, str] = {}
    found = recognise(model, REGISTRY, TRT10, plugins=[plugin], misses=misses)
    assert found == []
    assert reason in misses[plugin]


def test_other_operators_are_another_structure() -> None:
    assert recognise(exported.deform_conv(mask=False), REGISTRY, TRT10, plugins=[CONVOLUTION]) == []
    almost = exported.ultralytics(compare="GreaterOrEqual")
    assert recognise(almost, REGISTRY, TRT10, plugins=[SUPPRESSION]) == []


def test_a_form_of_one_operator_is_found_only_by_name() -> None:
    """The target takes it as it is."""
    model = CASES["convolution"][2]
    assert recognise(model, REGISTRY, TRT10) == []
    assert len(recognise(model, REGISTRY, TRT10, plugins=[CONVOLUTION])) == 1


def test_a_target_without_plugins_keeps_the_graph() -> None:
    for plugin, _, model, _ in CASES.values():
        assert recognise(model, REGISTRY, RTX, plugins=[plugin]) == []


@pytest.mark.parametrize(("target", "version"), [("tensorrt-8.6", "1"), ("tensorrt-10.16", "2")])
def test_the_version_is_one_that_the_target_has(target: str, version: str, tmp_path: Path) -> None:
    report = surgery.run(pipeline(tmp_path, CONVOLUTION), CASES["convolution"][2], target=target)
    assert report.failure is None, report.failure
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert edit.details["version"] == version


def test_all_plugins_are_looked_for_together() -> None:
    model = CASES["slices"][2]
    (match,) = recognise(model, REGISTRY, TRT11)
    assert (match.plugin.name, match.plugin.version) == (ATTENTION, "2")


_PRINT = """
import test_recognise_forms as t
for name in ("split", "suppression"):
    plugin, _, model, _ = t.CASES[name]
    for m in t.recognise(model, t.REGISTRY, t.TRT10, plugins=[plugin]):
        print(m.plugin.name, m.attributes, m.inputs, m.outputs, m.nodes, m.proof, [str(n) for n in m.replacement])
"""


def test_what_is_found_does_not_depend_on_hash_seeds() -> None:
    assert len(printed_under_two_seeds(_PRINT).splitlines()) == 2


# -- forms of one's own -----------------------------------------------------------------------------

FORMS_PY = '''\
"""Twice, as a sum."""

from surgery.plugins.recognise_forms import Form
from surgery.plugins.successor import call


def skeleton(s, variant):
    x = s.input("x")
    s.result(s.op("Add", s.op("Add", x, x), s.number("offset")))


def plugin(b, found):
    return call(b, "Twice", ["x"], version="1", offset=found.number("offset"))[0]


FORMS = (Form("sum", "nobody", (None,), skeleton, plugin, {}),)
'''


def sum_model(third: str = "half") -> onnx.ModelProto:
    text = f"g (float[2, 4] x) => (float[2, 4] y) {{ a = Add(x, x) b = Add({third}, a) y = Relu(b) }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    return model


def test_forms_of_a_users_plugin(user_plugins: Path) -> None:
    (user_plugins / "Twice" / "forms.py").write_text(FORMS_PY)
    registry = Registry.load([user_plugins])
    (match,) = recognise(sum_model(), registry, Version("tensorrt", "10.4"), plugins=["Twice"])
    assert (match.form, match.attributes, match.inputs) == ("sum", {"offset": 0.5}, ("x",))
    assert recognise(sum_model("x"), registry, Version("tensorrt", "10.4"), plugins=["Twice"]) == []


@pytest.mark.parametrize(
    ("text", "words"), [("FORMS = []", "does not define FORMS"), ("1 / 0", "ZeroDivisionError")]
)
def test_a_wrong_file_is_told_where(user_plugins: Path, text: str, words: str) -> None:
    (user_plugins / "Twice" / "forms.py").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        recognise(sum_model(), Registry.load([user_plugins]), plugins=["Twice"])
    assert re.search(r"forms\.py(:1)?$", str(caught.value.where))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('s.op("Add", x, x)', "s.opp(x)", 9, "AttributeError"),
        ("return call(b", "return calll(b", 13, "NameError"),
    ],
)
def test_a_mistake_in_a_form_is_told_with_its_line(
    user_plugins: Path, old: str, new: str, line: int, words: str
) -> None:
    path = user_plugins / "Twice" / "forms.py"
    path.write_text(FORMS_PY.replace(old, new))
    with pytest.raises(ConfigError, match=words) as caught:
        recognise(sum_model(), Registry.load([user_plugins]), plugins=["Twice"])
    assert (caught.value.code, caught.value.where) == ("bad-definition", f"{path}:{line}")
