"""What is in a model: read without its weights, described, and judged by tables and parser."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from surgery.diagnose.header import KEPT, read_header
from surgery.diagnose.inspect import inspect
from surgery.errors import ModelError
from surgery.trt.session import installed_flavours
from tests.diagnose.models import FIVE, parsed
from tests.installed import real


def heavy(elements: int = 1 << 20) -> onnx.ModelProto:
    """Weights as initializer, as Constant, and in a body; a small constant beside them."""
    big = onnx.numpy_helper.from_array(np.arange(elements, dtype=np.float32), "big")
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], name="inner", value=big), helper.make_node("Relu", ["k"], ["r"])],
        "t", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, [elements])],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], name="outer", value=big),
            helper.make_node("If", ["q"], ["i"], name="if", then_branch=body, else_branch=body),
            helper.make_node("Sum", ["big", "c", "i"], ["s"], name="sum"),
            helper.make_node("Reshape", ["s", "shape"], ["y"], name="reshape"),
        ],
        "g",
        [helper.make_tensor_value_info("q", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [big, onnx.numpy_helper.from_array(np.array([2, elements // 2]), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("as_file", [True, False])
def test_large_tensors_are_stepped_over_and_all_else_is_read(as_file: bool, tmp_path: Path) -> None:
    model = heavy()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    header = read_header(path if as_file else path.read_bytes())
    assert header.left_out == 4 * (1 << 22)
    for tensor in (
        model.graph.initializer[0],
        model.graph.node[0].attribute[0].t,
        *(b.g.node[0].attribute[0].t for b in model.graph.node[1].attribute),
    ):
        tensor.ClearField("raw_data")
    assert header.proto == model
    assert header.size == path.stat().st_size


def test_a_small_model_is_read_as_it_is() -> None:
    model = parsed("g (float[2] x) => (float[] y) { y = Relu (x) }")
    header = read_header(model.SerializeToString())
    assert (header.proto, header.left_out) == (model, 0)


def test_garbage_is_not_onnx(tmp_path: Path) -> None:
    good = heavy().SerializeToString()
    for data in (b"", b"\xff" * (3 * KEPT), good[: len(good) // 2], os.urandom(5 * KEPT), b"text " * KEPT):
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read_header(path)
        with pytest.raises(ModelError):
            read_header(data)
    with pytest.raises(ModelError):
        read_header(tmp_path / "none.onnx")
    with pytest.raises(ModelError):
        read_header(tmp_path)


def test_what_is_in_a_model() -> None:
    result = inspect(parsed(FIVE).SerializeToString(), target="tensorrt-rtx-1.7", ask="never")
    told = result.facts
    assert told["inputs"][0] == {"name": "x", "dtype": "float32", "shape": [4, 4]}
    assert told["nodes"] == 9
    assert told["operators"]["com.microsoft.BiasGelu"] == 1
    assert told["functions"] == [{"name": "Head", "domain": "f", "nodes": 1, "calls": 1}]
    assert told["foreign_domains"] == {"com.microsoft": {"BiasGelu": 1}, "f": {}} or told[
        "foreign_domains"
    ] == {"com.microsoft": {"BiasGelu": 1}}
    named = {g.op: g.names for g in result.groups}
    assert named["Multinomial"] == ("function 'Head' called by 'call' / If 'choose' then_branch / draw",)
    assert set(named) == {"Det", "Unique", "NonZero", "com.microsoft.BiasGelu", "Multinomial"}
    rules = [r.kind for g in result.groups for r in g.remedies]
    assert "rule" in rules


@real
def test_tables_and_parser_are_compared() -> None:
    result = inspect(parsed(FIVE).SerializeToString(), target="tensorrt-rtx")
    assert result.parser == "agrees"
    # Nothing in the tables is about slopes that do not broadcast.
    text = "g (float[2,3] x, float[5] s) => (float[] y) { [p] y = PRelu (x, s) [d] z = Relu (x) }"
    apart = inspect(parsed(text).SerializeToString(), target="tensorrt-rtx")
    assert apart.parser == "differs"
    assert apart.only_parser[0].startswith("p (PRelu)")


def test_a_target_that_is_not_installed() -> None:
    text = "g (float[2,3] x, int64[1] a) => (float[] y) { [r] y = ReduceSum (x, a) }"
    result = inspect(parsed(text).SerializeToString(), target="tensorrt-10.0")
    assert [(g.op, g.failure, g.step) for g in result.groups] == [
        ("ReduceSum", "reduce-axes-not-constant", "parse")
    ]
    assert "--constant a=VALUE" in str([r.command for r in result.groups[0].remedies])
    assert (
        result.parser == "not asked: tensorrt-10.0 is not installed here"
        or "tensorrt" in installed_flavours()
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("g (float[1,3,8,8] x) => (float[] y) <float[1,3,1,1] w = {1,1,1}> { c = Conv (x, w) p = "
         "GlobalAveragePool (c) "
         "y = Flatten (p) }", "convolutional classifier"),
        ("g (float[2,3] x) => (float[] y) { p = MatMul (x, x) s = Softmax (p) y = MatMul (s, x) }", "transformer"),
        ("g (float[2,3] x) => (float[] y) { y = Relu (x) }", "no kind that is known"),
        ("g (float[1,2,4] b, float[1,3,2] s) => (int64[] y) { y = NonMaxSuppression (b, s) }",
         "detector with suppression in the graph"),
    ],
)  # fmt: skip
def test_families(text: str, wanted: str) -> None:
    result = inspect(parsed(text).SerializeToString(), target="tensorrt-rtx-1.7", ask="never")
    assert result.family.name == wanted


def deep(nodes: int) -> onnx.ModelProto:
    made, weights, last = [], [], "x"
    for i in range(nodes):
        op = (
            ("MatMul", "Relu", "Add", "Unique")[i % 4]
            if i % 40 == 3
            else ("MatMul", "Relu", "Add", "Neg")[i % 4]
        )
        inputs = [last, f"layer.{i}.weight"] if op == "MatMul" else [last, last] if op == "Add" else [last]
        if op == "MatMul":
            weights.append(onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), inputs[1]))
        last = f"/model/layer.{i}/{op}_output_0"
        made.append(helper.make_node(op, inputs, [last], name=f"/model/layer.{i}/{op}"))
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured(path: Path) -> tuple[float, float, dict[str, object]]:
    """Seconds of processor time, most memory in MB, and what ``surgery inspect --json`` says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = (
        "import sys; from surgery.cli import main; code = main(sys.argv[1:]); "
        "status = open('/proc/self/status').read(); "
        "print(status.split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(path), "--json", "--no-parser"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, int(done.stderr.split()[-1]) / 1024, json.loads(done.stdout)


@pytest.mark.slow
def test_ten_thousand_nodes_take_little_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    onnx.save(deep(10_000), path)
    seconds, megabytes, told = measured(path)
    assert told["model"]["nodes"] == 10_000  # type: ignore[index]
    assert seconds < 4  # 0.9 where nothing else runs; quadratic work would take minutes
    assert megabytes < 200


@pytest.mark.slow
@pytest.mark.parametrize("external", [True, False])
def test_weights_are_not_read(external: bool, tmp_path: Path) -> None:
    """1.6 GB beside the model, in a file with a hole; and 300 MB in the model itself."""
    count, side = (100, 2000) if external else (75, 1000)
    nodes, weights, last = [], [], "x"
    for i in range(count):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[side, side])
        if external:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", "w.bin"),
                ("offset", i * side * side * 4),
                ("length", side * side * 4),
            ):
                tensor.external_data.add(key=key, value=str(value))
        else:
            tensor.raw_data = bytes(side * side * 4)
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"t{i}"]))
        last = f"t{i}"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", side])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["b", side])], weights,
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    if external:
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(count * side * side * 4)
    seconds, megabytes, told = measured(path)
    assert told["model"]["weights"]["bytes"] == count * side * side * 4  # type: ignore[index]
    assert seconds < 4
    assert megabytes < 200


def test_without_a_trial_commands_name_the_pipeline_of_the_family() -> None:
    text = "g (float[1, 3, 3] x) => (float[] y, float[] z) { y = Mystery (x) z = Det (x) }"
    result = inspect(parsed(text).SerializeToString(), target="tensorrt-rtx-1.7", ask="never")
    assert result.family.pipeline == "migrate"
    (command,) = {r.command for g in result.groups if g.op == "Det" for r in g.remedies if r.kind == "rule"}
    assert command is not None
    assert command.startswith("surgery run migrate ")
