"""Differences of models: what is aligned, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.cli import main
from surgery.diagnose.diff import Difference, diff
from surgery.errors import ModelError
from tests.diagnose.models import FIVE, parsed, renamed

CHAIN = (
    "g (float[2, 4] x) => (float[2, 4] y) <float[4] w = {1, 2, 3, 4}> "
    "{ [a] p = Relu (x) [b] q = Mul (p, w) [c] r = Softmax <axis = 1> (q) [d] y = Add (r, x) }"
)


def of(first: str, second: str, *, weights: bool = True) -> Difference:
    return diff(parsed(first).SerializeToString(), parsed(second).SerializeToString(), weights=weights)


@pytest.mark.parametrize("text", [CHAIN, FIVE])
def test_a_model_equals_itself(text: str) -> None:
    assert of(text, text).equal


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_names_and_order_of_nodes_are_no_difference_in_structure(seed: int) -> None:
    model = parsed(CHAIN)
    other, names = renamed(model, seed)
    found = diff(model.SerializeToString(), other.SerializeToString()).graphs[0]
    assert (found.removed, found.added, found.changed, found.constants) == ([], [], [], [])
    assert found.same == 4
    assert ("a", names["node a"]) in found.renamed
    # Inputs and outputs are a contract: their names count.
    assert found.inputs == ["x removed: float32[2, 4]", f"{names['x']} added: float32[2, 4]"]


def test_what_is_removed_added_and_changed() -> None:
    found = of(
        CHAIN,
        CHAIN.replace("[c] r = Softmax <axis = 1> (q)", "[n] n = Neg (q) [c] r = Softmax <axis = 0> (n)")
        .replace("[a] p = Relu (x)", "[a2] p = Sigmoid (x)"),
    )  # fmt: skip
    graph = found.graphs[0]
    assert graph.removed == [("a", "Relu")]
    assert sorted(graph.added) == [("a2", "Sigmoid"), ("n", "Neg")]
    changed = {name: what for name, _, _, what in graph.changed}
    assert changed["c"] == ["axis 1 -> 0", "operand 0 'q' of Mul -> 'n' of Neg"]
    assert changed["b"] == ["operand 0 'p' of Relu -> 'p' of Sigmoid"]
    assert found.operators == {"Neg": (0, 1), "Relu": (1, 0), "Sigmoid": (0, 1)}


def test_numbers_types_and_shapes_of_constants() -> None:
    assert of(CHAIN, CHAIN.replace("{1, 2, 3, 4}", "{1, 2, 3, 5}")).graphs[0].constants == [
        "w: other numbers"
    ]
    assert of(CHAIN, CHAIN.replace("{1, 2, 3, 4}", "{1, 2, 3, 5}"), weights=False).equal
    half = CHAIN.replace("float[4] w = {1, 2, 3, 4}", "float[1] w = {1}")
    assert of(CHAIN, half).graphs[0].constants == ["w float32[4] -> float32[1]"]


def test_where_numbers_are_stored_is_no_difference(tmp_path: Path) -> None:
    model = parsed(CHAIN)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "a.onnx")
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    onnx.save(outside, tmp_path / "b.onnx", save_as_external_data=True, location="w", size_threshold=0)
    floats = onnx.ModelProto()
    floats.CopyFrom(model)
    floats.graph.initializer[0].ClearField("raw_data")
    floats.graph.initializer[0].float_data.extend([0, 1, 2, 3])
    onnx.save(floats, tmp_path / "c.onnx")
    assert diff(tmp_path / "a.onnx", tmp_path / "b.onnx").equal
    assert diff(tmp_path / "a.onnx", tmp_path / "c.onnx").equal
    (tmp_path / "w").write_bytes(np.arange(1, 5, dtype=np.float32).tobytes())
    assert diff(tmp_path / "a.onnx", tmp_path / "b.onnx").graphs[0].constants == ["w: other numbers"]


def test_bodies_and_functions_are_compared() -> None:
    found = of(FIVE, FIVE.replace("sample_size = 3", "sample_size = 5"))
    inner = next(g for g in found.graphs if g.path and not g.equal)
    assert inner.path == ("function f.Head", "If 'choose' then_branch")
    assert inner.changed == [("draw", "draw", "Multinomial", ["sample_size 3 -> 5"])]
    assert not found.equal


def test_nodes_without_names_are_aligned_by_what_surrounds_them() -> None:
    text = (
        "g (float[4] x) => (float[] y) { a = Relu (x) b = Neg (x) c = Neg (a) d = Add (b, c) y = Relu (d) }"
    )
    model, other = parsed(text), parsed(text.replace("c = Neg (a)", "e = Exp (a) c = Neg (e)"))
    mixed, _ = renamed(other, 5)
    graph = diff(model.SerializeToString(), mixed.SerializeToString()).graphs[0]
    assert [op for _, op in graph.added] == ["Exp"]
    assert graph.removed == []


def test_versions() -> None:
    newer = '<ir_version: 9, opset_import: ["" : 20]> ' + CHAIN
    assert of(CHAIN, newer).header == ["IR version 8 -> 9", "opset ai.onnx 18 -> 20"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    onnx.save(parsed(CHAIN), one)
    onnx.save(parsed(CHAIN.replace("axis = 1", "axis = 0")), two)
    assert main(["diff", str(one), str(one)]) == 0
    assert capsys.readouterr().out == "equal\n"
    assert main(["diff", str(one), str(two)]) == 0
    assert "~ Softmax 'c'\n    axis 1 -> 0\n" in capsys.readouterr().out
    assert main(["diff", str(one), str(two), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is False
    assert told["graphs"][0]["changed"][0]["what"] == ["axis 1 -> 0"]
    assert main(["diff", str(one), str(tmp_path / "none.onnx")]) == 3
    with pytest.raises(ModelError):
        diff(one, b"garbage")
