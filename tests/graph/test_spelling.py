"""Models that ONNX Runtime or onnx's checker take, written in ways that other readers stumble over."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model

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
