"""Reducing a model whose engine differs, on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.diagnose.reduce import reduce
from surgery.diagnose.reduction import Options
from surgery.errors import ConfigError
from tests.diagnose.models import parsed

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("worker")]


def test_an_engine_that_differs(tmp_path: Path) -> None:
    """No number may differ: the one product is to blame, not what only moves numbers or cuts them off."""
    model = parsed(
        "g (float[n, 64] x) => (float[] y) { [a] p = Relu (x) [t] q = Transpose <perm = [1, 0]> (p) "
        "[u] r = Transpose <perm = [1, 0]> (q) [m] s = MatMul (r, w) [b] v = Relu (s) [c] y = Neg (v) }"
    )
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    result = reduce(path, tmp_path / "out", Options(while_="engine differs", tolerance=0.0, jobs=1))
    assert result.nodes == [("m", "MatMul")]
    assert result.failure.text.startswith("s: off by")
    with np.load(tmp_path / "out" / "inputs.npz") as inputs:
        assert (inputs["r"] >= 0).all()  # what Relu made, not made-up numbers
    with pytest.raises(ConfigError):
        reduce(path, tmp_path / "none", Options(while_="engine differs", tolerance=0.1, jobs=1))
