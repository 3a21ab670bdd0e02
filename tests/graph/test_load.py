from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgery.errors import ModelError
from surgery.graph.load import load_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }
"""


def save_with_external(folder: Path, location: str = "w.bin", size: int = 16) -> Path:
    weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([node], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (folder / "w.bin").write_bytes(b"\0" * size)
    return path


def test_reads_a_file_its_bytes_and_a_proto_alike(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(proto.SerializeToString())
    from_path, from_bytes, from_proto = load_model(path), load_model(path.read_bytes()), load_model(proto)
    assert from_path.name == "tiny"
    assert from_bytes.name == from_proto.name == "g"
    assert from_path.sha256 == from_bytes.sha256
    assert from_path.opset == 17
    assert from_proto.proto is not proto


def test_the_given_proto_is_not_changed() -> None:
    proto = onnx.parser.parse_model(TEXT)
    before = proto.SerializeToString(deterministic=True)
    load_model(proto).proto.graph.node[0].op_type = "Neg"
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-onnx"),
        (b"just some text\nnot a model\n", "not-onnx"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not-onnx"),
    ],
)
def test_what_is_not_onnx(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert caught.value.code == code
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    data = onnx.parser.parse_model(TEXT).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_model(path)


def test_missing_file_names_models_beside_it(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="no such model file") as caught:
        load_model(tmp_path / "model.onnx")
    assert caught.value.fix is not None
    assert "other.onnx" in caught.value.fix


def test_external_weights_are_checked_and_not_read(tmp_path: Path) -> None:
    path = save_with_external(tmp_path)
    loaded = load_model(path)
    assert loaded.external
    assert not loaded.proto.graph.initializer[0].HasField("raw_data")


def test_missing_external_weights(tmp_path: Path) -> None:
    path = save_with_external(tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="missing") as caught:
        load_model(path)
    assert caught.value.code == "external-data-missing"


def test_short_external_weights(tmp_path: Path) -> None:
    path = save_with_external(tmp_path, size=12)
    with pytest.raises(ModelError, match="too short"):
        load_model(path)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", ""])
def test_external_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    path = save_with_external(inside, location)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert caught.value.code == "external-data-outside"


def test_a_symbolic_link_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = save_with_external(inside, "w.bin")
    (inside / "w.bin").unlink()
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    (inside / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert caught.value.code == "external-data-outside"


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        (["y = Relu (a)", "a = Relu (b)", "b = Relu (a)"], "nothing before it defines"),
        (["y = Relu (a)"], "nothing before it defines"),
        (["y = Relu (x)", "y = Neg (x)"], "defined twice"),
        (["z = Relu (x)"], "defined by nothing"),
    ],
)
def test_broken_structure(nodes: list[str], word: str) -> None:
    # Built node by node: the text parser would refuse some of these itself.
    made = []
    for text in nodes:
        output, rest = text.split(" = ")
        op, operand = rest.split(" ")
        made.append(helper.make_node(op, [operand.strip("()")], [output]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph(made, "g", [x], [y]), ir_version=8)
    with pytest.raises(ModelError, match=word):
        load_model(model)


def test_plugin_nodes_without_a_schema_are_accepted() -> None:
    node = helper.make_node("EfficientNMS_TRT", ["x"], ["y"], plugin_version="1")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert load_model(model).proto.graph.node[0].op_type == "EfficientNMS_TRT"


def test_nodes_out_of_order_are_sorted() -> None:
    """As converters to float16 leave them: what makes the first value stands last."""
    made = [
        helper.make_node("Relu", ["b"], ["y"]),
        helper.make_node("Neg", ["x"], ["side"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Abs", ["x"], ["a"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    given = helper.make_model(helper.make_graph(made, "g", [x], [y]))
    loaded = load_model(given.SerializeToString())
    assert [n.op_type for n in loaded.proto.graph.node] == ["Abs", "Neg", "Relu", "Neg"]
    assert [n.op_type for n in load_model(given).proto.graph.node] == ["Abs", "Neg", "Relu", "Neg"]
    assert [n.op_type for n in given.graph.node] == ["Relu", "Neg", "Neg", "Abs"]
