"""Where plugins are found and put back: bodies, functions, places that overlap, models beyond 2 GB."""

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
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.load import load_model
from surgery.plugins.attach import attach_bodies
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.recognise import recognise
from surgery.plugins.recognise_replace import put_back
from surgery.plugins.registry import Registry

TARGET = "tensorrt-10.16"
HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def parsed(text: str, **constants: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text if text.startswith("<") else f"{HEADER} {text}")
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.checker.check_model(model)
    return model


def back(folder: Path, *plugins: str) -> Path:
    path = folder / "back.yaml"
    path.write_text(
        "schema: 1\nname: back\ntitle: Back\ndescription: Puts plugins back.\n"
        f"stages:\n  - inspect\n  - substitute:\n      plugins: [{', '.join(plugins)}]\n  - verify\n"
    )
    return path


def offsets(report: surgery.Report) -> list[float]:
    return [e.details["attributes"]["offset"] for e in report.edits if e.rule == "recognised-plugin"]


def kinds(nodes: Any) -> list[str]:
    """Operator types of nodes and of those inside them."""
    found = []
    for node in nodes:
        found.append(node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += kinds(attribute.g.node)
    return found


# -- bodies and functions ---------------------------------------------------------------------------

BRANCHES = """g (float[2, 4] x, bool c) => (float[2, 4] y) {
    r = Relu (x)
    h = If (c) <
        then_branch = t () => (float[2, 4] p) { a = Mul (r, two)  b = Add (a, half)  p = Neg (b) },
        else_branch = e () => (float[2, 4] q) { d = Mul (two, r)  q = Add (third, d) }
    >
    y = Abs (h)
}"""

LOOP = """g (float[2, 4] x, int64 n) => (float[2, 4] y, float[k, 2, 4] z) {
    y, z = Loop (n, , x) <
        body = b (int64 i, bool c, float[2, 4] s) => (bool d, float[2, 4] next, float[2, 4] each) {
            d = Identity (c)
            a = Mul (s, two)
            next = Add (a, half)
            each = Neg (next)
        }
    >
}"""

NESTED = """g (float[2, 4] x, int64 n, bool c) => (float[2, 4] y) {
    y = Loop (n, , x) <
        body = b (int64 i, bool k, float[2, 4] s) => (bool d, float[2, 4] next) {
            d = Identity (k)
            next = If (c) <
                then_branch = t () => (float[2, 4] p) { a = Mul (s, two)  p = Add (a, half) },
                else_branch = e () => (float[2, 4] q) { q = Neg (s) }
            >
        }
    >
}"""

FUNCTION = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
g (float[2, 4] x) => (float[2, 4] y) {
    h = own.scaled (x, half)
    y = own.scaled (h, third)
}
<domain: "own", opset_import: ["" : 17]>
scaled (v, w) => (u) {
    t = Constant <value = float {2.0}> ()
    a = Mul (v, t)
    u = Add (a, w)
}"""

PLACES = {
    "branches": (parsed(BRANCHES, two=2.0, half=0.5, third=0.25), [0.25, 0.5]),
    "loop": (parsed(LOOP, two=2.0, half=0.5), [0.5]),
    "nested": (parsed(NESTED, two=2.0, half=0.5), [0.5]),
    "function": (parsed(FUNCTION, half=0.5, third=0.25), [0.25, 0.5]),
}


def feeds(model: onnx.ModelProto, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    given = {"x": rng.normal(size=(2, 4)).astype(np.float32), "n": np.int64(seed), "c": np.bool_(seed % 2)}
    return [np.asarray(given[i.name]) for i in model.graph.input]


@pytest.mark.parametrize("name", PLACES)
def test_plugins_inside_bodies_and_functions(name: str, user_plugins: Path, tmp_path: Path) -> None:
    model, wanted = PLACES[name]
    report = surgery.run(back(tmp_path, "Twice"), model, target=TARGET, plugin_paths=[user_plugins])
    assert report.failure is None, report.failure
    assert sorted(offsets(report)) == wanted
    assert report.model is not None
    onnx.checker.check_model(report.model)
    left = kinds(report.model.graph.node)
    assert len([k for k in left if k.startswith("Twice")]) == len(wanted)
    assert "Mul" not in left
    for seed in range(4):
        for got, want in zip(
            run(report.model, feeds(model, seed)), run(model, feeds(model, seed)), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6)
    again = surgery.run(back(tmp_path, "Twice"), report.model, target=TARGET, plugin_paths=[user_plugins])
    assert offsets(again) == []


def test_a_value_of_a_body_that_a_deeper_one_reads_stays(user_plugins: Path, tmp_path: Path) -> None:
    """What is inside the plugin's place is captured by the branch of an If beside it."""
    model = parsed(
        """g (float[2, 4] x, int64 n, bool c) => (float[2, 4] y) {
            y = Loop (n, , x) <
                body = b (int64 i, bool k, float[2, 4] s) => (bool d, float[2, 4] next) {
                    d = Identity (k)
                    a = Mul (s, two)
                    m = Add (a, half)
                    o = If (c) <
                        then_branch = t () => (float[2, 4] p) { p = Neg (a) },
                        else_branch = e () => (float[2, 4] q) { q = Neg (m) }
                    >
                    next = Add (m, o)
                }
            >
        }""",
        two=2.0,
        half=0.5,
    )
    report = surgery.run(back(tmp_path, "Twice"), model, target=TARGET, plugin_paths=[user_plugins])
    assert offsets(report) == [0.5]
    (edit,) = [e for e in report.edits if e.rule == "recognised-plugin"]
    assert len(edit.details["kept"]) == 1
    assert report.model is not None
    for seed in range(4):
        np.testing.assert_allclose(
            run(report.model, feeds(model, seed))[0], run(model, feeds(model, seed))[0], rtol=1e-6
        )


# -- places that overlap ----------------------------------------------------------------------------

PAIR_BODY = '''\
"""Two operators of one kind."""

from surgery.graph.body import Body


def body(node):
    b = Body(node.opset)
    (x,) = node.input_names
    return node.function(b, [b.op("Softplus", b.op("Softplus", x))])
'''


@pytest.fixture
def pair(user_plugins: Path) -> Path:
    """A plugin `Twice` that is one operator after itself."""
    folder = user_plugins / "Twice"
    (folder / "body.py").write_text(PAIR_BODY)
    text = (folder / "plugin.yaml").read_text()
    start, end = text.index("attributes:"), text.index("inputs:")
    (folder / "plugin.yaml").write_text(text[:start] + text[end:])
    (folder / "samples.yaml").write_text("samples:\n  - name: plain\n    inputs: [{shape: [2, 3]}]\n")
    return user_plugins


@pytest.mark.parametrize(("length", "plugins"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_places_in_a_chain_do_not_overlap(length: int, plugins: int, pair: Path, tmp_path: Path) -> None:
    """Two of four operators in a row are the plugin in three ways, of which two go together."""
    chain = [helper.make_node("Softplus", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(length)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("v0", f"v{length}")]
    graph = helper.make_graph(chain, "chain", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = surgery.run(back(tmp_path, "Twice"), model, target=TARGET, plugin_paths=[pair])
    assert report.failure is None, report.failure
    assert report.model is not None
    onnx.checker.check_model(report.model)
    left = [n.op_type for n in report.model.graph.node if n.op_type != "Identity"]
    assert sorted(left) == ["Softplus"] * (length - 2 * plugins) + ["Twice"] * plugins
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(run(report.model, [x])[0], run(model, [x])[0], rtol=1e-6)


@pytest.mark.parametrize("text", [
    "a = Mul (x, two) y = Add (a, half)",
    "a = Mul (two, x) y = Add (a, half)",
    "a = Mul (x, two) y = Add (half, a)",
    "a = Mul (two, x) y = Add (half, a)",
])  # fmt: skip
def test_operands_in_either_order(text: str, user_plugins: Path) -> None:
    model = parsed(f"g (float[2, 4] x) => (float[2, 4] y) {{ {text} }}", two=2.0, half=0.5)
    (match,) = recognise(model, Registry.load([user_plugins]), plugins=["Twice"])
    assert (match.inputs, match.outputs, match.attributes) == (("x",), ("y",), {"offset": 0.5})


# -- size and shapes --------------------------------------------------------------------------------


def test_weights_beyond_two_gigabytes_are_not_read(user_plugins: Path, tmp_path: Path) -> None:
    """The file has a length and nothing else: reading it would give the memory of the machine away."""
    rows, width = 600_000, 1024  # 2.4 GB
    registry = Registry.load([user_plugins])
    model = parsed(
        f"g (int64[n] i) => (float[n, {width}] y) {{ x = Gather (w, i) a = Mul (x, two) y = Add (a, half) }}",
        two=2.0,
        half=0.5,
        w=[[0.0] * width],
    )
    weight = next(t for t in model.graph.initializer if t.name == "w")
    weight.ClearField("raw_data")
    weight.dims[0] = rows
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.data")
    onnx.save(model, tmp_path / "big.onnx")
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(rows * width * 4)
    loaded = load_model(tmp_path / "big.onnx")
    graph, header = import_graph(loaded.proto)
    found = recognise(loaded.proto, registry, plugins=["Twice"])
    assert [m.attributes for m in found] == [{"offset": 0.5}]
    (placed,) = put_back(graph, found, {})
    assert not placed.refused
    written = attach_bodies(export_graph(graph, header), registry)
    assert [n.op_type for n in written.graph.node] == ["Gather", "Twice"]
    kept = next(t for t in written.graph.initializer if t.name == "w")
    assert kept.data_location == TensorProto.EXTERNAL
    assert written.ByteSize() < 100_000


def roi_align(
    outputs: list[str], *, inputs: tuple[str, str, str] = ("x", "rois", "images")
) -> onnx.NodeProto:
    return Registry.load().get("ROIAlign_TRT").make_node(
        "align",
        inputs,
        outputs,
        {"output_height": 3, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 0.5, "mode": 1,
         "coordinate_transformation_mode": 1},
    )  # fmt: skip


@pytest.mark.parametrize("target", ["tensorrt-10.16", "tensorrt-11.4"])
@pytest.mark.parametrize("inside", [False, True])
def test_rules_behind_a_plugin_have_the_shapes_that_they_need(
    inside: bool, target: str, tmp_path: Path
) -> None:
    """Det is unrolled over the size of the matrices, which only the plugin's definition tells."""
    tail = [
        helper.make_node("Mul", ["matrices", "matrices"], ["squares"]),
        helper.make_node("Det", ["squares"], ["volume"], name="det"),
    ]
    if inside:
        body = helper.make_graph(
            tail, "t", [], [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [4, 2])]
        )
        other = helper.make_graph(
            [helper.make_node("ReduceMax", ["matrices"], ["most"], axes=[2, 3], keepdims=0)],
            "e", [], [helper.make_tensor_value_info("most", TensorProto.FLOAT, [4, 2])],
        )  # fmt: skip
        tail = [helper.make_node("If", ["c"], ["volume"], then_branch=body, else_branch=other)]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8]),
        helper.make_tensor_value_info("rois", TensorProto.FLOAT, [4, 4]),
        helper.make_tensor_value_info("images", TensorProto.INT32, [4]),
        *([helper.make_tensor_value_info("c", TensorProto.BOOL, [])] if inside else []),
    ]
    result = helper.make_tensor_value_info("volume", TensorProto.FLOAT, [4, 2])
    graph = helper.make_graph([roi_align(["matrices"]), *tail], "g", inputs, [result])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    report = surgery.run("migrate", model, target=target, output=tmp_path / "out")
    assert report.failure is None, report.failure
    assert "det-by-elimination" in {e.rule for e in report.edits}
    prepared = onnx.load(next((tmp_path / "out").glob(f"*.{target}.onnx")))
    left = kinds(prepared.graph.node)
    assert "ROIAlign_TRT" in left
    assert "Det" not in left
    assert report.verification["graph"]["status"] == "passed"


# -- what is wrong is told before TensorRT is asked -------------------------------------------------


def leaky(op: str = "LReLU_TRT", **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], name="node", **{"negSlope": 0.1, **attributes})
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, 4, 4]) for n in ("x", "y"))
    graph = helper.make_graph([node], "g", [given], [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def suppression(boxes: list[int], kind: int = TensorProto.FLOAT, **attributes: Any) -> onnx.ModelProto:
    options = {"score_threshold": 0.25, "iou_threshold": 0.45, "max_output_boxes": 6, "background_class": -1,
               "score_activation": 0, "box_coding": 0, "plugin_version": "1", **attributes}  # fmt: skip
    outputs = ["count", "found_boxes", "found_scores", "found_classes"]
    node = helper.make_node("EfficientNMS_TRT", ["boxes", "scores"], outputs, name="node", **options)
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes),
        helper.make_tensor_value_info("scores", kind, [1, 20, 3]),
    ]
    result = helper.make_tensor_value_info("count", TensorProto.INT32, [1, 1])
    graph = helper.make_graph([node], "g", inputs, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WRONG = {
    "name": (leaky("LReLUs_TRT", plugin_version="1"), "unknown-plugin", "LReLU_TRT"),
    "version": (leaky(plugin_version="7"), "plugin-version", "only 1"),
    "namespace": (leaky(plugin_namespace="acme"), "plugin-configuration", "is registered in ''"),
    "attribute": (
        suppression([1, 20, 4], class_agnostc=1),
        "plugin-configuration",
        "did you mean 'class_agnostic'",
    ),
    "dtype": (
        suppression([1, 20, 4], kind=TensorProto.FLOAT16),
        "plugin-configuration",
        "input 'scores' is float16; expected float32",
    ),
    "rank": (suppression([20, 4]), "plugin-configuration", "they would if boxes had one more dim of 1 at 0"),
}


@pytest.mark.parametrize("target", ["tensorrt-rtx-1.7", "tensorrt-10.16"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_ends_the_run_before_the_parser(wrong: str, target: str) -> None:
    """One message that names the node, and what would be right."""
    model, code, near = WRONG[wrong]
    report = surgery.run("generic", model, target=target)
    assert report.failure is not None
    assert (report.exit_code, report.failure.code, report.failure.node) == (4, code, "node")
    assert near in f"{report.failure.message} {report.failure.fix}"
    assert "parse" not in [s.name for s in report.stages]
