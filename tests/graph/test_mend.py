"""Nodes that are not valid as they stand, and what they are read as."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, checker, parser

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.graph.mend import mend


def parsed(text: str, opset: int = 18) -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


def windows(x: np.ndarray, size: int) -> np.ndarray:
    """The largest of each window of a channel, with windows that reach over the edges."""
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return view.max((-1, -2))


PEAKS = """(float[2, 1, h, w] x) => (bool[2, h, w] y) <int64[1] a = {1}>
    { s = Squeeze (x, a) m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s) e = Equal (s, m)
      f = Cast <to = 1> (e) n = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (f)
      z = CastLike (a, n) g = Greater (n, z) y = And (e, g) }"""


def test_pooling_without_a_batch_is_read_as_pytorch_means_it() -> None:
    model = parsed(PEAKS)
    report = surgery.run("generic", model)
    assert report.failure is None, report.failure
    assert report.engine
    assert any("without a batch" in w for w in report.warnings)
    x = np.random.default_rng(0).normal(0, 1, (2, 1, 9, 12)).astype(np.float32)
    found = Evaluator(report.model).run({"x": x})["y"]
    peaks = x[:, 0] == windows(x[:, 0], 3)
    assert (found == (peaks & (windows(peaks.astype(np.float32), 5) > 1))).all()


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_what_is_written_is_valid(opset: int) -> None:
    model = parsed(
        """(float[3, 8, 8] x) => (float[3, 4, 4] y)
        { r = Relu (x) y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) }""",
        opset,
    )
    assert len(mend(model)) == 1
    checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).normal(0, 1, (3, 8, 8)).astype(np.float32)
    expected = np.maximum(x, 0).reshape(3, 4, 2, 4, 2).max((2, 4))
    assert (Evaluator(model).run({"x": x})["y"] == expected).all()


@pytest.mark.parametrize(
    "text",
    [
        "(float[1, 3, 8, 8] x) => (float[1, 3, 7, 7] y) { y = MaxPool <kernel_shape = [2, 2]> (x) }",
        "(float[2, 3, 8] x) => (float[2, 3, 4] y) { y = MaxPool <kernel_shape = [2], strides = [2]> (x) }",
        "(float[8, 8] x) => (float[4, 4] y) { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }",
        "(float[n, 8] x, int64[m] s) => (float[k, 4, 4] y) "
        "{ r = Reshape (x, s) y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) }",
    ],
)
def test_other_pooling_stays(text: str) -> None:
    model = parsed(text)
    before = model.SerializeToString()
    assert mend(model) == ()
    assert model.SerializeToString() == before


def test_axes_counted_from_the_back_are_counted_from_the_front() -> None:
    model = parsed(
        """(float[2, 3, 4, n] x, bool c) => (float[2, a, b, d] y) {
        t = Transpose <perm = [0, -2, -1, 1]> (x)
        y = If (c) <then_branch = g1 () => (float[2, a, b, d] p) { p = Transpose <perm = [0, -1, 1, 2]> (t) },
                    else_branch = g2 () => (float[2, a, b, d] q) { q = Transpose <perm = [0, 1, 3, 2]> (t) }> }"""
    )
    (told,) = mend(model)
    assert "'t' and 1 more counts axes from the back" in told
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    evaluator = Evaluator(model)
    turned = x.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(
        evaluator.run({"x": x, "c": np.array(True)})["y"], turned.transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(
        evaluator.run({"x": x, "c": np.array(False)})["y"], turned.transpose(0, 1, 3, 2)
    )
    assert mend(model) == ()


def test_axes_that_are_none_are_left_to_the_checker() -> None:
    model = parsed("(float[2, 3] x) => (float[3, 2] y) { y = Transpose <perm = [-1, 1]> (x) }")
    assert mend(model) == ()


def test_weights_of_another_float_type_than_the_data_are_cast() -> None:
    """PyTorch's optimizer leaves float32 where it puts a normalization into a convolution of bfloat16."""
    text = """(bfloat16[1, 2, 4, 4] x) => (bfloat16[1, 1, 4, 4] y, float[1, 2, 4, 4] f)
        <float[1, 2, 1, 1] w = {0.5, 2.0}, float[1] b = {0.25}, float[1, 2, 1, 1] s = {3.0, 4.0},
        bfloat16[1, 1, 4, 4] c>
        { c = Conv (x, w, b) y = Relu (c) z = Cast <to = 1> (x) f = Mul (z, s) }"""
    model = parsed(text, 22)
    (told,) = mend(model)
    assert "another float type" in told
    assert [n.op_type for n in model.graph.node] == ["Cast", "Cast", "Conv", "Relu", "Cast", "Mul"]
    checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (1, 2, 4, 4)).astype(np.float32)
    kind = np.dtype(ml_dtypes.bfloat16)
    found = Evaluator(model).run({"x": x.astype(kind)})
    want = np.maximum(x[:, :1] * 0.5 + x[:, 1:] * 2 + 0.25, 0)
    np.testing.assert_array_equal(found["y"].astype(np.float32), want)
    np.testing.assert_array_equal(found["f"], x * [[[[3]], [[4]]]])


def test_floats_of_two_types_that_an_operator_takes_stay() -> None:
    model = parsed(
        "(float16[1, 2, 4, 4] x, float16[2] s, float16[2] b) => (float16[1, 2, 4, 4] y)"
        " <float[2] m = {0.0, 0.5}, float[2] v = {1.0, 2.0}> { y = BatchNormalization (x, s, b, m, v) }"
    )
    before = model.SerializeToString()
    assert mend(model) == ()
    assert model.SerializeToString() == before
