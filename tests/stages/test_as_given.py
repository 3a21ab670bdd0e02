"""What the target's parser gets where nothing had to be changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import surgery

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
BODY = """g (float[batch, 4] x) => (float[batch, 4] y) <float[4] b = {1.0, 2.0, 3.0, 4.0}> {
    c = Constant <value = float[4] {0.5, 0.5, 0.5, 0.5}> ()
    s = Identity (x)
    p = Mul (s, c)
    y = Add (p, b)
}"""


def target_of(model: onnx.ModelProto, tmp_path: Path) -> onnx.ModelProto:
    report = surgery.run("generic", model, target="tensorrt-10.16", output=tmp_path / "out")
    assert report.exit_code == 0
    (made,) = (tmp_path / "out").glob("*.tensorrt-10.16.onnx")
    return onnx.load(made)


def test_a_model_that_needs_nothing_is_handed_over_as_it_is(tmp_path: Path) -> None:
    model = parser.parse_model(HEAD + BODY)
    assert target_of(model, tmp_path) == model


def first_weight(model: onnx.ModelProto) -> None:
    """Doubled: the one node more that makes it is folded away again."""
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(4, 2, np.float32), "half"))
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["half", "half"], ["b"]))


def last_node_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Add", ["p", "b"], ["unread"]))


@pytest.mark.parametrize("change", [first_weight, last_node_twice])
def test_a_model_in_which_a_node_goes_is_not(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = parser.parse_model(HEAD + BODY)
    change(model)
    made = target_of(model, tmp_path)
    assert len(made.graph.node) < len(model.graph.node)


def test_a_model_of_another_type_is_not(tmp_path: Path) -> None:
    text = "g (double[batch, 4] x) => (double[batch, 4] y) { y = Neg (x) }"
    made = target_of(parser.parse_model(HEAD + text), tmp_path)
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
