"""Sizes that come from data: bounded by the model, by the user, or by what derived inputs show."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.verify.inverse import apply_inverses

CONSTANTS = """<int64 zero = {0}, int64 n1 = {1}, int64[1] one = {1}, int64[1] z1 = {0}, int64[1] two = {2},
    int64[1] m = {-1}, float h = {0.3}, float[1, 2, 3] w3 = {1.0, -2.0, 0.5, 3.0, 1.5, -1.0}>"""
TOTAL = "d = Abs (x) c = Ceil (d) e = Cast <to = 7> (c) t = ReduceSum <keepdims = 0> (e)"
"""A number that nothing bounds."""


def run(text: str, **options: object) -> Report:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    return surgery.run("generic", model, **options)  # type: ignore[arg-type]


def passed(report: Report) -> Report:
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    return report


def outputs(report: Report, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the result computes, as it is."""
    assert report.model is not None
    return Evaluator(report.model, threads=1).run(feeds)


BOUNDED = {
    "as many as entries are true": "g = Greater (x, h) i = Cast <to = 7> (g) t = ReduceSum <keepdims = 0> (i)"
    " u = Unsqueeze (t, z1) y = Expand (h, u)",
    "as many as the longest row has": "g = Greater (x, h) i = Cast <to = 7> (g)"
    " s = ReduceSum <keepdims = 0> (i, one) t = ReduceMax <keepdims = 0> (s)"
    " r = Range (zero, t, n1) y = Cast <to = 1> (r)",
    "as many as a clipped number says": "d = Abs (x) e = ReduceSum <keepdims = 0> (d) f = Cast <to = 7> (e)"
    " lo = Constant <value_int = 1> () hi = Constant <value_int = 7> () t = Clip (f, lo, hi)"
    " u = Unsqueeze (t, z1) y = ConstantOfShape <value = float[1] {2.0}> (u)",
    "up to the place of the largest": "f = Reshape (x, m) a = ArgMax <axis = 0, keepdims = 0> (f)"
    " t = Add (a, n1) u = Unsqueeze (t, z1) y = Expand (h, u)",
}


@pytest.mark.parametrize("shape", ["2, 5", "n, 5"])
@pytest.mark.parametrize("nodes", BOUNDED.values(), ids=BOUNDED)
def test_what_the_model_bounds_needs_no_limit(nodes: str, shape: str) -> None:
    report = passed(run(f"(float[{shape}] x) => (float[k] y) {CONSTANTS} {{ {nodes} }}"))
    assert [(c.inverse or {})["op"] for c in report.io_changes] == ["slice_by_count"]
    assert not [w for w in report.warnings if "bounds" in w]


ROWS = f"(float[n, 4] x) => (float[k] y) {CONSTANTS} {{ {TOTAL} u = Unsqueeze (t, z1) y = Expand (h, u) }}"


def test_without_a_limit_one_is_measured_and_told() -> None:
    report = passed(run(ROWS))
    (told,) = [w for w in report.warnings if "nothing in the model bounds 't'" in w]
    assert "rewrite.limits" in told


def test_a_limit_of_the_users() -> None:
    report = passed(run(ROWS, overrides={"rewrite.limits": {"t": 5000}}))
    assert not [w for w in report.warnings if "nothing in the model bounds" in w]
    x = np.full((3, 4), 1.5, np.float32)
    found = outputs(report, {"x": x})
    assert found["y"].shape == (5000,)
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    assert apply_inverses(found, inverses)["y"].shape == (24,)
    with pytest.raises(ValueError, match="the count is 12000"):
        apply_inverses(outputs(report, {"x": x * 666.6}), inverses)


def test_a_limit_that_is_too_small_is_no_engine() -> None:
    report = run(ROWS, overrides={"rewrite.limits": {"t": 2}})
    assert report.exit_code == 6
    assert report.engine is None


def test_where_no_output_has_the_count_the_number_is_an_output() -> None:
    text = f"""(float[n, 4] x) => (float y) {CONSTANTS} {{ {TOTAL} r = Range (zero, t, n1) f = Cast <to = 1> (r)
        y = ReduceMean <keepdims = 0> (f) }}"""
    report = passed(run(text, overrides={"rewrite.limits": {"t": 4000}}))
    (change,) = [c for c in report.io_changes if (c.inverse or {})["op"] == "at_most"]
    inverses = [change.inverse]
    found = outputs(report, {"x": np.full((3, 4), 1.5, np.float32)})
    assert apply_inverses(found, inverses)["y"] == 11.5  # type: ignore[list-item]
    found = outputs(report, {"x": np.full((3, 4), 999.5, np.float32)})
    with pytest.raises(ValueError, match="12000 entries are needed, and there is room for 4000"):
        apply_inverses(found, inverses)  # type: ignore[list-item]


SEQUENCE = "r = Range (zero, t, n1) f = Cast <to = 1> (r) s0 = Sin (f) s1 = Cos (f) a0 = Unsqueeze (s0, z1)"\
    " a1 = Unsqueeze (s1, z1) ab = Concat <axis = 0> (a0, a1) v = Unsqueeze (ab, z1) "  # fmt: skip
ALONG = {
    "a convolution that keeps the size": "y = Conv <pads = [1, 1]> (v, w3)",
    "a convolution that does not": "y = Conv (v, w3)",
    "with strides": "y = Conv <strides = [2], pads = [1, 1]> (v, w3)",
    "transposed": "q = Transpose <perm = [1, 0, 2]> (w3) y = ConvTranspose <strides = [2]> (v, q)",
    "the largest of windows": "y = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1]> (v)",
    "means of windows": "y = AveragePool <kernel_shape = [2]> (v)",
    "products with others": 'y = Einsum <equation = "bct,bdt->bcd"> (v, v)',
    "products that stay": 'y = Einsum <equation = "bct,bdt->bt"> (v, v)',
    "differences of neighbours": "big = Constant <value_ints = [1000000]> () p = Slice (v, one, big, two)"
    " q = Slice (v, z1, m, two) y = Sub (p, q)",
}


@pytest.mark.parametrize("what", ALONG)
def test_operators_along_an_axis_whose_size_is_data(what: str) -> None:
    text = f"(float[n, 4] x) => (float[a, b, k] y) {CONSTANTS} {{ {TOTAL} {SEQUENCE} {ALONG[what]} }}"
    if what in ("products with others", "products that stay"):
        text = text.replace("float[a, b, k] y", "float y")
    passed(run(text))


def test_a_reshape_to_a_fixed_size_decides_a_count() -> None:
    text = f"""(float[6] x) => (float[2, 1] y) {CONSTANTS} {{ l = Constant <value_ints = [2, 1]> ()
        top = Constant <value_ints = [2]> () a, b = TopK (x, top) f = Slice (a, one, two) g = GreaterOrEqual (x, f)
        i = NonZero (g) p = Transpose (i) v = GatherND (x, p) y = Reshape (v, l) }}"""
    report = passed(run(text))
    assert not report.io_changes
    assert [w for w in report.warnings if "the original runs only on inputs" in w]


def test_free_sizes_computed_in_different_ways_meet() -> None:
    """Windows of a sequence, beside what a mask chooses: sizes that only arithmetic shows to be equal."""
    text = f"""(float[1, 2, n] x) => (float[k] y) {CONSTANTS} {{ c = Conv <pads = [1, 1]> (x, w3)
        g = Greater (c, h) i = NonZero (g) t = Transpose (i) four = Constant <value_ints = [1, 1, 2, -1]> ()
        v = Reshape (x, four) q = Transpose <perm = [0, 1, 3, 2]> (v) s = Shape <start = 2, end = 3> (q)
        e = Squeeze (s) r = Range (zero, e, n1) f = Cast <to = 1> (r) p = Mul (c, f) y = GatherND (p, t) }}"""
    passed(run(text))
