"""Differences that rounding makes, and those that it does not. What is compared is run by ONNX Runtime here: the same
computation with its sums in another order, as a GPU has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnx.parser
import pytest

from surgery.trt.types import RunOutcome
from surgery.verify.cases import Case
from surgery.verify.engine import verify_engine
from surgery.verify.runner import Verification, run_onnx
from surgery.verify.sensitivity import EXACT, ROUNDED, Moved, _move, round_otherwise, write_otherwise

INNER, ROWS = 64, 40


def ranking(*, nearly: float = 1e-6, order: bool = False, gain: float = 1.0) -> onnx.ModelProto:
    """Scores of rows, sorted; each second row's score is nearly that of the one before.

    Args:
        nearly: How much pairs of weights differ, relative.
        order: Add the products in another order.
        gain: What the rows are multiplied by.
    """
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(INNER, ROWS)).astype(np.float32)
    weights[:, 1::2] = weights[:, ::2] * (1 + nearly * rng.choice([-1, 1], size=(1, ROWS // 2)))
    rows = (gain * rng.normal(size=(ROWS, 4))).astype(np.float32)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{INNER}] x)
        => (float[k] scores, float[k, 4] found, int64[k] place)
        <int64[1] k = {{{ROWS}}}, int64[2] flat = {{1, -1}}, int64[1] first = {{0}}> {{
            {"r = Reshape(x, flat)" if not order else "turned = Gather(x, back) r = Reshape(turned, flat)"}
            all = MatMul(r, w)
            s = Squeeze(all, first)
            scores, place = TopK(s, k)
            found = Gather(rows, place)
        }}"""
    )
    back = np.random.default_rng(9).permutation(INNER)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(weights[back] if order else weights, "w"),
            onnx.numpy_helper.from_array(rows, "rows"),
            *([onnx.numpy_helper.from_array(back, "back")] if order else []),
        ]
    )
    onnx.checker.check_model(model)
    return model


def cases(count: int = 3, size: int = INNER) -> list[Case]:
    return [
        Case(f"c{k}", {"x": np.random.default_rng(k).normal(size=size).astype(np.float32)})
        for k in range(count)
    ]


def check(
    original: onnx.ModelProto,
    engine: onnx.ModelProto,
    change: Callable[[dict[str, Any]], None] = lambda o: None,
) -> Verification:
    def run(feeds: list[dict[str, Any]]) -> RunOutcome:
        outputs = run_onnx(engine, feeds)
        for one in outputs:
            change(one)
        return RunOutcome(ok=True, outputs=tuple(outputs))

    return verify_engine(original, None, run, ["x"], cases(), None, {})


def excused(outcome: Verification) -> int:
    return sum("mercy of rounding" in (o.get("note") or "") for c in outcome.cases for o in c["outputs"])


def test_rows_whose_scores_are_nearly_equal_may_change_places() -> None:
    outcome = check(ranking(nearly=1e-7), ranking(nearly=1e-7, order=True))
    assert outcome.status == "passed", outcome.reason
    assert excused(outcome)


def test_rows_whose_scores_are_not_may_not() -> None:
    def swap(outputs: dict[str, Any]) -> None:
        for value in outputs.values():
            if value.ndim == 2 or value.dtype.kind == "i":
                value[[4, 20]] = value[[20, 4]]

    outcome = check(ranking(nearly=1e-2), ranking(nearly=1e-2), swap)
    assert outcome.status == "failed"
    assert "found differs by" in str(outcome.reason)


def test_a_wrong_row_among_rows_that_change_places_is_seen() -> None:
    def damage(outputs: dict[str, Any]) -> None:
        outputs["found"][7] += 50.0

    outcome = check(ranking(nearly=1e-7), ranking(nearly=1e-7, order=True), damage)
    assert outcome.status == "failed"
    assert "rounding decides some of it, but not that" in str(outcome.reason)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_excused(wrong: float) -> None:
    def damage(outputs: dict[str, Any]) -> None:
        outputs["found"][0] = wrong

    assert check(ranking(nearly=1e-7), ranking(nearly=1e-7), damage).status == "failed"


def test_an_output_that_rounding_decides_everywhere_is_not_compared() -> None:
    def chaos(order: bool) -> onnx.ModelProto:
        model = ranking(order=order)
        graph = model.graph
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3.1e8), "much"))
        graph.node.extend([oh.make_node("Mul", ["s", "much"], ["m"]), oh.make_node("Sin", ["m"], ["wild"])])
        del graph.output[:]
        graph.output.append(oh.make_tensor_value_info("wild", onnx.TensorProto.FLOAT, [ROWS]))
        return model

    outcome = check(chaos(False), chaos(True))
    assert outcome.status == "failed"
    assert "agreement proves nothing" in str(outcome.reason) or "wild differs" in str(outcome.reason)


def test_what_agrees_within_the_tolerance_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moved, "runs", lambda *a: pytest.fail("moved"))
    assert check(ranking(), ranking()).status == "passed"


def test_exact_numbers_stay_and_others_move_by_a_rounding() -> None:
    rng = np.random.default_rng(0)
    exact = np.array([0.0, 1.0, -2.0, 0.5, 300.25, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(_move(exact, rng), exact)
    whole = np.arange(5)
    assert _move(whole, rng) is whole
    for dtype, most in ((np.float32, 2.0**-17), (np.float16, 2.0**-9), (ml_dtypes.bfloat16, 2.0**-6)):
        value = np.random.default_rng(1).normal(size=100).astype(dtype)
        moved = _move(value, rng)
        assert moved.dtype == value.dtype
        apart = np.abs(moved.astype(np.float64) / value.astype(np.float64) - 1)
        assert 0 < apart.max() <= most


def test_numbers_in_bodies_and_constants_move_too() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[3] x, bool c) => (float[3] y) {
            y = If(c) <then_branch = t () => (float[3] a) { k = Constant<value = float[1] {0.3}>() a = Mul(x, k) },
                       else_branch = e () => (float[3] b) { b = Identity(x) }>
        }"""
    )
    feeds = {"x": np.ones(3, np.float32), "c": np.array(True)}
    (runs,) = Moved(model).runs([feeds])
    values = np.array([r["y"][0] for r in runs])
    assert len(set(values.tolist())) > 1
    np.testing.assert_allclose(values, 0.3, rtol=1e-5)
    (still,) = Moved(model).runs([{**feeds, "c": np.array(False)}])
    assert all((r["y"] == 1).all() for r in still)


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_results_are_rounded_each_on_its_own_and_exact_ones_stay(kind: str, opset: int) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[n] x, {kind}[n] two)
        => ({kind}[n] y, {kind}[n] whole, int64[n] at) {{
            y = Mul(x, x)  whole = Add(two, two)  at = Cast<to = 7>(whole)
        }}"""
    )
    dtype = np.dtype("float32" if kind == "float" else kind)
    feeds = {
        "x": np.full(400, 0.3, dtype), "two": np.arange(400, dtype=dtype) / np.asarray(EXACT, dtype)
    }  # fmt: skip
    (before,) = run_onnx(model, [feeds])
    round_otherwise(model, 3)
    onnx.checker.check_model(model)
    (after,) = run_onnx(model, [feeds])
    np.testing.assert_array_equal(after["whole"], before["whole"])
    np.testing.assert_array_equal(after["at"], before["at"])
    apart = np.abs(after["y"].astype(np.float64) / before["y"].astype(np.float64) - 1)
    assert len(np.unique(after["y"])) > 2
    assert apart.max() <= 2 * (ROUNDED if kind == "float" else 2.0**-10)


def test_scores_of_one_weight_that_change_places_alone_are_told_from_wrong_ones() -> None:
    """All scores are of the same weight, so that moving it keeps their order; what rounds is the operator."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[40] x) => (float[40] scores, int64[40] place)
        <int64[1] k = {40}, float one = {0.7}> { m = Mul(x, one)  s = Sigmoid(m)  scores, place = TopK(s, k) }"""
    original = onnx.parser.parse_model(text)
    values = np.linspace(0.3, 0.9, 40, dtype=np.float32)
    values[21::2] = np.nextafter(values[20::2], np.float32(1))  # nearly equal pairs, the larger one second
    feeds = [Case("c", {"x": values})]

    def engine(places: list[int]) -> Verification:
        def run(feeds: list[dict[str, Any]]) -> RunOutcome:
            outputs = run_onnx(original, feeds)
            for one in outputs:
                one["place"] = one["place"].copy()
                one["place"][places] = one["place"][places[::-1]]
            return RunOutcome(ok=True, outputs=tuple(outputs))

        return verify_engine(original, None, run, ["x"], feeds, None, {})

    assert engine([2, 3]).status == "passed"
    assert engine([2, 35]).status == "failed"


SCATTERS = {
    "ScatterND": ("int64[n, 1] i, float[n, 2] u", "ScatterND(zero, i, u)", (1, 2)),
    "ScatterElements": ("int64[n, 2] i, float[n, 2] u", "ScatterElements<axis = 0>(zero, i, u)", (2, 2)),
}


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("op", SCATTERS)
def test_updates_of_one_place_may_stay_in_any_order(op: str, opset: int) -> None:
    inputs, call, (wide, _) = SCATTERS[op]
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float[8, 2] y) <float[8, 2] zero = {{
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}> {{ y = {call} }}"""
    model = onnx.parser.parse_model(text)
    places = np.array([0, 1, 1, 1, 1, 1, 1, 2])
    updates = (np.arange(16, dtype=np.float32).reshape(8, 2) + 1) / 7
    feeds = {"i": np.repeat(places[:, None], wide, axis=1), "u": updates}
    found = []
    for seed in range(12):
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        write_otherwise(moved, seed)
        onnx.checker.check_model(moved)
        found.append(run_onnx(moved, [feeds])[0]["y"])
    rows = np.array(found)
    np.testing.assert_array_equal(rows[:, [0, 2]], np.repeat(updates[None, [0, 7]], 12, axis=0))
    assert len(np.unique(rows[:, 1, 0])) > 1
    assert set(rows[:, 1, 0].tolist()) <= set(updates[1:7, 0].tolist())


def test_a_scatter_that_adds_keeps_its_order() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[n, 1] i, float[n] u, float[4] x) => (float[4] y) {
        y = ScatterND<reduction = "add">(x, i, u) }"""
    model = onnx.parser.parse_model(text)
    before = model.SerializeToString()
    write_otherwise(model, 1)
    assert model.SerializeToString() == before
