"""Models that ONNX Runtime or onnx's checker take, written in ways that other readers stumble over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.errors import ModelError
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model
from surgery.graph.walk import all_nodes
from surgery.stages.trt_model import on_disk

X = np.array([[-1.0, 2.0, 3.0]], np.float32)


def parsed(body: str, opset: int = 18) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[n, 3] x) => (float[n, 3] y) {{ {body} }}'
    )


def test_the_default_domain_written_out_is_the_default_domain() -> None:
    model = parsed("a = Relu (x) y = Neg (a)")
    model.graph.node[0].domain = "ai.onnx"
    model.opset_import[0].domain = "ai.onnx"
    loaded = load_model(model).proto
    assert {n.domain for n in loaded.graph.node} == {""}
    assert [o.domain for o in loaded.opset_import] == [""]
    assert Evaluator(loaded).run({"x": X})["y"].tolist() == [[0.0, -2.0, -3.0]]


def test_nodes_of_one_name_are_told_apart_and_others_keep_theirs() -> None:
    model = parsed("a = Relu (x) b = Neg (a) c = Abs (b) y = Neg (c)")
    for node, name in zip(model.graph.node, ("same", "same", "same_2", ""), strict=True):
        node.name = name
    loaded = load_model(model).proto
    assert [n.name for n in loaded.graph.node] == ["same", "same_3", "same_2", ""]
    assert Evaluator(loaded).run({"x": X})["y"].tolist() == [[0.0, -2.0, -3.0]]


def test_a_graph_without_a_name_and_declarations_without_a_type() -> None:
    model = parsed("a = Relu (x) y = Neg (a)")
    model.graph.ClearField("name")
    model.graph.value_info.add(name="a")
    loaded = load_model(model).proto
    onnx.checker.check_model(loaded)
    assert not loaded.graph.value_info
    assert loaded.graph.name


def test_nodes_that_stand_there_twice_stand_there_once() -> None:
    model = parsed("a = Relu (x) y = Neg (a)")
    model.graph.node.insert(0, model.graph.node[0])
    loaded = load_model(model).proto
    assert [n.op_type for n in loaded.graph.node] == ["Relu", "Neg"]
    model.graph.node[0].op_type = "Abs"
    with pytest.raises(ModelError, match="defined twice"):
        load_model(model)


@pytest.mark.parametrize("inputs", [("x", "w", ""), ("x", "w")])
def test_omitted_last_operands_are_left_out(inputs: tuple[str, ...]) -> None:
    model = parsed("w = Constant <value = float[3, 3] {1, 0, 0, 0, 1, 0, 0, 0, 1}> () y = Relu (x)")
    del model.graph.node[-1]
    model.graph.node.append(onnx.helper.make_node("Gemm", inputs, ["y"]))
    graph, header = import_graph(model)
    written = export_graph(graph, header)
    assert list(written.graph.node[-1].input) == ["x", "w"]
    assert Evaluator(written).run({"x": X})["y"].tolist() == X.tolist()


def test_operands_omitted_before_others_stay() -> None:
    model = parsed("top = Constant <value = float {2.5}> () y = Clip (x, , top)")
    graph, header = import_graph(model)
    assert list(export_graph(graph, header).graph.node[-1].input) == ["x", "", "top"]


def test_a_function_of_an_older_operator_set_runs() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18, "d" : 1]>
        g (float[n, 3] x) => (float[n, 1] y) { y = d.Old (x) }
        <domain: "d", opset_import: ["" : 11]> Old (a) => (b) { b = ReduceSum <axes = [1]> (a) }"""
    )
    loaded = load_model(model).proto
    assert Evaluator(loaded).run({"x": X})["y"].tolist() == [[4.0]]


def test_outputs_without_a_type_get_it() -> None:
    model = parsed("a = Relu (x) y = Neg (a)")
    model.graph.output[0].ClearField("type")
    output = load_model(model).proto.graph.output[0]
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["n", 3]


@pytest.mark.parametrize("places", [[0, 5], [[0, 0], [1, 2]]])
@pytest.mark.parametrize("inside", [False, True])
def test_sparse_constants_are_written_dense(places: list[Any], inside: bool) -> None:
    values = onnx.numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w")
    indices = onnx.numpy_helper.from_array(np.array(places, np.int64), "w_places")
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[2, 3])
    model = parsed(
        "c = Constant <value = float[2, 3] {0, 0, 0, 0, 0, 0}> () s = ReduceSum (c) y = Mul (x, s)"
    )
    attribute = model.graph.node[0].attribute[0]
    attribute.Clear()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.CopyFrom(sparse)
    if inside:
        body = onnx.helper.make_graph(list(model.graph.node[:2]), "b", [], [onnx.ValueInfoProto(name="s")])
        body.output[0].type.tensor_type.elem_type = 1
        test = onnx.helper.make_node(
            "Constant", [], ["t"], value=onnx.numpy_helper.from_array(np.array(True))
        )
        branch = onnx.helper.make_node("If", ["t"], ["s"], then_branch=body, else_branch=body)
        nodes = [test, branch, model.graph.node[2]]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    graph, header = import_graph(load_model(model).proto)
    written = export_graph(graph, header)
    assert not any("sparse" in a.name for n in all_nodes(written.graph.node) for a in n.attribute)
    assert Evaluator(written).run({"x": X})["y"].tolist() == (5 * X).tolist()


def test_weights_of_bodies_in_other_files_behind_links(tmp_path: Path) -> None:
    """As models are handed on: in a folder of their own, with links to the weights."""
    weights = onnx.numpy_helper.from_array(np.array([4.0], np.float32), "w")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="sub/w.bin")
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3] x, bool c) => (float[n, 3] y)
        { y = If (c) <then_branch = a () => (p) { p = Mul (x, w) }, else_branch = b () => (q) { q = Neg (x) }> }"""
    )
    next(a for a in model.graph.node[0].attribute if a.name == "then_branch").g.initializer.append(weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    os.link(tmp_path / "sub" / "w.bin", tmp_path / "another name")
    source = load_model(path)
    with on_disk(source.proto, source) as placed:
        found = Evaluator(placed).run({"x": X, "c": np.array(True)})["y"]
    assert found.tolist() == (4 * X).tolist()


@pytest.mark.parametrize(
    ("node", "version", "kind"),
    [
        ("ai.onnx.ml.LabelEncoder <keys_floats = [2.0], values_strings = ['b']> (a)", 2, 1),
        ("ai.onnx.ml.LabelEncoder <keys_int64s = [2], values_floats = [3.0]> (a)", 2, 7),
        (
            "ai.onnx.ml.LabelEncoder <keys_tensor = double[1] {2.0}, values_tensor = float[1] {3.0}> (a)",
            4,
            11,
        ),
        (
            "ai.onnx.ml.TreeEnsemble <nodes_splits = float[1] {2.0}, leaf_weights = float[1] {1.0}, "
            "leaf_targetids = [0], tree_roots = [0], nodes_modes = uint8[1] {0}, nodes_featureids = [0], "
            "nodes_truenodeids = [0], nodes_falsenodeids = [0], nodes_trueleafs = [1], nodes_falseleafs = [1]> (a)",
            5,
            1,
        ),
        ("RegexFullMatch <pattern = 'a'> (a)", 2, 8),
    ],
)
def test_inference_survives_operators_behind_unknown_ones(node: str, version: int, kind: int) -> None:
    """In a process of its own: without the type of `a`, onnx does not raise but ends the process."""
    code = f"""
import onnx, onnx.parser
from surgery.graph.load import load_model
model = onnx.parser.parse_model('''<ir_version: 9, opset_import: ["" : 20, "ai.onnx.ml" : {version}, "own" : 1]>
    g (float[n, 3] x) => (y) {{ a = own.Foreign (x) y = {node.replace("'", '"')} }}''')
proto = load_model(model).proto
assert [(v.name, v.type.tensor_type.elem_type) for v in proto.graph.value_info] == [("a", {kind})]
onnx.shape_inference.infer_shapes(proto, data_prop=True)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n", done.stderr[-500:]
