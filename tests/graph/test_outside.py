"""Weights in files of their own, behind links that onnx's loader refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.graph.load import load_model
from surgery.graph.outside import load_whole
from surgery.stages.trt_model import on_disk
from surgery.verify.runner import verify_graph
from surgery.verify.sensitivity import Moved
from tests.verify.test_runner import feeds

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N] x) => (float[N] y) { m = Mul (x, w) y = Add (m, v) }"""


@pytest.fixture(params=["with a length", "without"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    model = onnx.parser.parse_model(TEXT)
    data = b""
    for name, value in (("w", [2.5]), ("v", [0.3])):
        tensor = onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        entries = {"location": "weights/all.bin", "offset": str(len(data)), "length": "4"}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, text in entries.items():
            if key != "length" or request.param == "with a length":
                tensor.external_data.add(key=key, value=text)
        model.graph.initializer.append(tensor)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "all.bin").write_bytes(data)
    os.link(tmp_path / "weights" / "all.bin", tmp_path / "second name")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_they_are_read(path: Path) -> None:
    source = load_model(path)
    with on_disk(source.proto, source) as placed:
        assert isinstance(placed, Path)
        whole = load_whole(placed)
    assert [onnx.numpy_helper.to_array(t).tolist() for t in whole.graph.initializer] == [
        [2.5],
        [np.float32(0.3)],
    ]
    assert not any(t.external_data for t in whole.graph.initializer)


def test_such_a_model_is_moved_and_verified(path: Path) -> None:
    source = load_model(path)
    with on_disk(source.proto, source) as placed:
        runs = Moved(placed).runs([feeds(1)[0].feeds])
        assert len(runs[0]) > 1
        assert verify_graph(placed, placed, None, feeds(), None, {}).status == "passed"
