from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from surgery.verify.cases import make_cases
from surgery.verify.runner import run_onnx
from surgery.verify.search import Search


def feeds_of(text: str, opset: int = 24, per_point: int = 6) -> list[dict[str, Any]]:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    cases = make_cases(model, model, [], per_point=per_point, seed=0, search=Search(model, model))
    feeds = [c.feeds for c in cases]
    run_onnx(model, feeds)  # raises where the model does not take them
    return feeds


@pytest.mark.parametrize(
    ("opset", "op", "axis"),
    [(10, "Scatter", 0), (18, "ScatterElements", 0), (18, "ScatterElements", 1), (18, "ScatterElements", -1)],
)
def test_a_scatter_names_no_target_twice(opset: int, op: str, axis: int) -> None:
    given = f"<axis = {axis}>" if axis else ""
    text = (
        f"(float[4, 5] x, int64[3, 2] i, float[3, 2] u) => (float[4, 5] y) {{ y = {op} {given} (x, i, u) }}"
    )
    drawn = [f["i"] for f in feeds_of(text, opset)]
    for indices in drawn:
        for line in np.moveaxis(indices, axis, 0).reshape(indices.shape[axis], -1).T:
            assert len({*line.tolist()}) == len(line)
            assert line.min() >= 0
            assert line.max() < (4, 5)[axis]
    assert len({d.tobytes() for d in drawn}) > 1


def test_a_scatter_with_a_reduction_may_name_a_target_twice() -> None:
    text = (
        "(float[3] x, int64[9] i, float[9] u) => (float[3] y)"
        ' { y = ScatterElements <reduction = "add"> (x, i, u) }'
    )
    assert all(len({*f["i"].tolist()}) < 9 for f in feeds_of(text, 18))


def test_tuples_of_indices_are_distinct() -> None:
    text = (
        "(float[3, 4, 2] x, int64[5, 2] i, float[5, 2] u) => (float[3, 4, 2] y) { y = ScatterND (x, i, u) }"
    )
    for feed in feeds_of(text, 18):
        rows = {tuple(row) for row in feed["i"].tolist()}
        assert len(rows) == 5
        assert all(0 <= a < 3 and 0 <= b < 4 for a, b in rows)


@pytest.mark.parametrize(("causal", "low"), [(0, 1), (1, 3)])
def test_a_cache_is_filled_as_far_as_there_are_queries(causal: int, low: int) -> None:
    text = (
        "(float[2, 4, 3, 8] q, float[2, 4, 7, 8] k, float[2, 4, 7, 8] v, int64[2] n) => (float[2, 4, 3, 8] y)"
        f" {{ y = Attention <is_causal = {causal}> (q, k, v, , , , n) }}"
    )
    filled = np.stack([f["n"] for f in feeds_of(text)])
    assert filled.min() >= low
    assert filled.max() <= 7
    assert len(np.unique(filled)) > 1


def test_operators_on_bits_get_numbers_that_float32_does_not_hold() -> None:
    text = "(int32[40] x, int32[40] w) => (int32[40] y) { y = BitwiseAnd (x, w) }"
    for feed in feeds_of(text, 18):
        for values in (feed["x"], feed["w"]):
            assert (values < 0).any()
            assert not np.array_equal(values, values.astype(np.float32).astype(np.int64))


def test_where_bits_are_indices_small_numbers_follow() -> None:
    text = "(int64[4] x, int64[4] w, float[32] t) => (float[4] y) { i = BitwiseXor (x, w) y = Gather (t, i) }"
    feeds = feeds_of(text, 18)
    assert all(f[n].min() >= 0 and f[n].max() < 32 for f in feeds for n in ("x", "w"))


def test_whole_numbers_are_never_divided_by_zero() -> None:
    feeds = feeds_of("(int32[64] x, int32[64] w) => (int32[64] y) { y = Div (x, w) }", 18)
    assert all(f["w"].min() >= 1 for f in feeds)
    assert any(f["x"].min() == 0 for f in feeds)


def test_the_draws_repeat() -> None:
    text = "(int32[40] x, int32[40] w) => (int32[40] y) { y = BitwiseAnd (x, w) }"
    one, two = feeds_of(text, 18), feeds_of(text, 18)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one, two, strict=True))
