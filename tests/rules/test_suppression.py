"""NonMaxSuppression of free sizes selects what ONNX Runtime selects, in the same order, at every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.verify.inverse import apply_inverses, apply_to_inputs

Arrays = dict[str, np.ndarray[Any, Any]]
PREPARE = "tensorrt-rtx-1.6"
"""A target that is not installed: the run ends with the prepared model, verified in ONNX Runtime."""


def model(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


def prepared(text: str, opset: int = 17, **options: Any) -> Report:
    report = surgery.run("generic", model(text, opset), target=PREPARE, **options)
    assert report.failure is None, report.failure
    assert report.model is not None
    assert all(n.op_type != "NonMaxSuppression" for n in report.model.graph.node)
    return report


def same(text: str, report: Report, feeds: Arrays, opset: int = 17) -> Arrays:
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    assert report.model is not None
    got = Evaluator(report.model, threads=1).run(apply_to_inputs(feeds, inverses))
    want = Evaluator(model(text, opset), threads=1).run(feeds)
    back = apply_inverses(got, inverses)
    for name, value in want.items():
        np.testing.assert_array_equal(back[name], value)
    return want


def boxes(rng: np.random.Generator, images: int, count: int) -> np.ndarray[Any, Any]:
    """Corners in any order, many of them overlapping, and some of them equal."""
    found = rng.integers(0, 12, (images, count, 4)).astype(np.float32)
    found[:, 1::5] = found[:, :1]
    return found


def scores(rng: np.random.Generator, images: int, classes: int, count: int) -> np.ndarray[Any, Any]:
    """Few different numbers, so that many are equal."""
    return (rng.integers(0, 10, (images, classes, count)) / 10).astype(np.float32)


FREE = "(float[b, n, 4] x, float[b, c, n] s) => (int64[k, 3] y) <int64[1] m = {MOST}, float[1] i = {0.3}, "


@pytest.mark.parametrize(
    ("most", "threshold"), [(3, "0.25"), (1, "-1.0"), (9223372036854775807, "0.25"), (40, "0.8")]
)
def test_every_size_is_free(most: int, threshold: str) -> None:
    text = f"{FREE.replace('MOST', str(most))} float[1] t = {{{threshold}}}>" + (
        " { y = NonMaxSuppression (x, s, m, i, t) }"
    )
    report = prepared(text)
    rng = np.random.default_rng(0)
    seen = set()
    for images, classes, count in ((1, 1, 1), (1, 3, 7), (2, 2, 33), (3, 1, 120), (1, 5, 40)):
        feeds = {"x": boxes(rng, images, count), "s": scores(rng, images, classes, count)}
        seen.add(len(same(text, report, feeds)["y"]))
    assert len(seen) > 2


def test_a_limit_and_a_threshold_that_are_inputs() -> None:
    text = (
        "(float[1, n, 4] x, float[1, 2, n] s, int64[1] m, float[1] i) => (int64[k, 3] y)"
        " { y = NonMaxSuppression <center_point_box = 1> (x, s, m, i) }"
    )
    report = prepared(text)
    rng = np.random.default_rng(1)
    for count, most, iou in ((5, 1, 0.5), (50, 3, 0.0), (50, 500, 0.9)):
        feeds = {"x": boxes(rng, 1, count), "s": scores(rng, 1, 2, count)}
        limits = {"m": np.array([most]), "i": np.array([iou], np.float32)}
        assert len(same(text, report, {**feeds, **limits})["y"])


def test_many_rounds_end_with_the_last_detection() -> None:
    text = (
        "(float[1, 3000, 4] x, float[1, 1, 3000] s) => (int64[k, 3] y)"
        " <int64[1] m = {9223372036854775807}, float[1] i = {0.1}, float[1] t = {0.2}>"
        " { y = NonMaxSuppression (x, s, m, i, t) }"
    )
    report = prepared(text)
    assert report.model is not None
    loops = [n for n in report.model.graph.node if n.op_type == "Loop"]
    assert len(loops) == 1
    assert loops[0].input[1]  # a condition
    rng = np.random.default_rng(2)
    for share in (0.0, 1.0):
        feeds = {"x": boxes(rng, 1, 3000), "s": scores(rng, 1, 1, 3000) * np.float32(share)}
        assert bool(len(same(text, report, feeds)["y"])) == bool(share)


def test_boxes_filtered_by_data_and_rows_filled_up() -> None:
    """What exporters of YOLO write: filter, suppress, take the best, and pad to a fixed number of rows."""
    text = """(float[n, 4] x, float[n] s) => (float[5, 4] y)
      <float t = {0.3}, float[1] i = {0.4}, int64[1] m = {9223372036854775807}, int64[1] zero = {0},
       int64[1] one = {1}, int64[1] two = {2}, int64[1] five = {5}, float none = {-1.0}> {
        good = Greater (s, t)
        where = NonZero (good)
        rows = Transpose <perm = [1, 0]> (where)
        xs = GatherND (x, rows)
        ss = GatherND (s, rows)
        xb = Unsqueeze (xs, zero)
        s1 = Unsqueeze (ss, zero)
        sb = Unsqueeze (s1, zero)
        sel = NonMaxSuppression (xb, sb, m, i)
        col = Gather <axis = 1> (sel, two)
        kept = Squeeze (col, one)
        best = Slice (kept, zero, five, zero)
        found = Gather (xs, best)
        shape = Shape (found)
        there = Gather (shape, zero)
        missing = Sub (five, there)
        pads = Concat <axis = 0> (zero, zero, missing, zero)
        y = Pad (found, pads, none)
      }"""
    report = prepared(text)
    rng = np.random.default_rng(3)
    for count, share in ((3, 1.0), (40, 1.0), (40, 0.4), (1, 1.0)):
        feeds = {"x": boxes(rng, 1, count)[0], "s": scores(rng, 1, 1, count)[0, 0] * np.float32(share)}
        same(text, report, feeds)


@pytest.mark.slow
def test_free_sizes_are_built() -> None:
    text = f"{FREE.replace('MOST', '9223372036854775807')} float[1] t = {{0.2}}>" + (
        " { y = NonMaxSuppression (x, s, m, i, t) }"
    )
    report = surgery.run("generic", model(text))
    if not report.target["installed"]:
        pytest.skip("no TensorRT is installed")
    assert report.exit_code == 0, report.failure
