"""Sizes that are numbers computed from data: how many entries something holds for, and choices by such sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.order import compare, span
from surgery.graph.bounded.work import Bounds
from surgery.graph.convert import constant
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.verify.inverse import apply_inverses, apply_to_inputs

PREPARE = "tensorrt-rtx-1.6"


def run(text: str) -> Report:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    return surgery.run("generic", model, target=PREPARE)


def check(text: str) -> onnx.ModelProto:
    """Compare where the sum of what holds is all, some and nothing; the result."""
    report = run(text)
    assert report.failure is None, report.failure
    assert report.model is not None
    original = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    rng = np.random.default_rng(0)
    result, want = Evaluator(report.model, threads=1), Evaluator(original, threads=1)
    for share in (2.0, 0.7, 0.3, 0.0):
        feeds: dict[str, Any] = {"x": (rng.random(8) * share).astype(np.float32)}
        back = apply_inverses(result.run(apply_to_inputs(feeds, inverses)), inverses)
        for name, value in want.run(feeds).items():
            np.testing.assert_array_equal(back[name], value)
    return report.model


CHOSEN = """ some = Compress <axis = 0> (x, good)"""
HEAD = """(float[8] x) => (float[k] y) <float half = {0.5}, int64 zero = {0}, int64 one = {1}, int64 five = {5},
    int64[1] start = {0}, int64[1] first = {0}> {"""
COUNT = "good = Greater (x, half) ones = Cast <to = 7> (good) n = ReduceSum <keepdims = 0> (ones)"


@pytest.mark.parametrize(
    "limit",
    [
        "m = Identity (n)",
        "m = Min (n, five)",
        "less = Less (n, five) m = Where (less, n, five)",
        """less = Less (n, five) c = Cast <to = 7> (less) o = Not (less) d = Cast <to = 7> (o)
        a = Mul (c, n) b = Mul (five, d) m = Add (a, b)""",
        "f = Cast <to = 1> (n) g = Cast <to = 7> (f) s = Mul (g, five) m = Min (s, n)",
    ],
)
def test_a_range_up_to_a_number_of_entries(limit: str) -> None:
    model = check(f"{HEAD} {COUNT} {limit} r = Range (zero, m, one) y = Gather (x, r) }}")
    assert not any(n.op_type == "Range" and n.input[1] == "m" for n in model.graph.node)


def test_a_range_up_to_just_any_number_is_asked_about() -> None:
    report = run(
        f"{HEAD} i = Cast <to = 7> (x) m = ReduceSum <keepdims = 0> (i) r = Range (zero, m, one) y = Gather (x, r) }}"
    )
    if report.failure is None:
        assert report.model is not None
        assert any(n.op_type == "Range" for n in report.model.graph.node)


def test_rows_are_cut_or_filled_up_as_tensorflow_writes_it() -> None:
    check(f"""{HEAD} {COUNT} r = Range (zero, n, one) found = Gather (x, r)
        shape = Shape (found) m = Gather (shape, zero) over = Sub (m, eight) f = Cast <to = 1> (over)
        much = Greater (f, none) c = Cast <to = 7> (much) e = Not (much) d = Cast <to = 7> (e)
        a = Mul (c, eight) b = Mul (minus, d) size = Add (a, b) end1 = Unsqueeze (size, first)
        whole = Equal (end1, minus1) w = Cast <to = 7> (whole) far = Mul (w, large) end = Add (end1, far)
        cut = Slice (found, start, end) s2 = Shape (cut) missing = Sub (eight1, s2)
        pads = Concat <axis = 0> (start, missing) y = Pad (cut, pads) }}""".replace(
        "int64[1] start",
        "int64 eight = {8}, int64[1] eight1 = {8}, float none = {0.0}, int64 minus = {-1}, int64[1] minus1 = {-1},"
        " int64[1] large = {2147483647}, int64[1] start",
    ))  # fmt: skip


dims = st.sampled_from(["n", "m", "3", "0", "7", "9", "n-3", "7-n", "n-m", "2*n"])


@given(dims, dims, st.sampled_from(["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]))
def test_a_comparison_is_known_only_if_it_holds_for_every_count(one: str, other: str, op: str) -> None:
    bounds = Bounds({})
    rooms = {"n": 7, "m": 4}
    leaves = {name: gs.Variable(name, np.int64, []) for name in rooms}
    for name, room in rooms.items():
        bounds.sizes[name] = np.array(bounds.atom(name, leaves[name], 0, Dim(room)), object)

    def dim(text: str) -> Dim:
        if text.isdigit():
            return Dim(int(text))
        if text == "2*n":
            return dim("n") * Dim(2)
        if "-" not in text:
            return Dim(1, (text,))
        parts = text.split("-")
        operands = [constant(f"c{p}", np.asarray(int(p))) if p.isdigit() else leaves[p] for p in parts]
        output = gs.Variable(text, np.int64, [])
        gs.Node("Sub", text, {}, operands, [output])
        room = Dim(int(parts[0])) if parts[0].isdigit() else Dim(rooms[parts[0]])
        return bounds.atom(f"sub({dim(parts[0])},{dim(parts[1])})", output, 0, room)

    def value(text: str, n: int, m: int) -> int:
        return int(eval(text, {"n": n, "m": m}))

    known = compare(bounds, op, dim(one), dim(other))
    holds = {
        {"Greater": a > b, "GreaterOrEqual": a >= b, "Less": a < b, "LessOrEqual": a <= b}[op]
        for n in range(8)
        for m in range(5)
        for a, b in [(value(one, n, m), value(other, n, m))]
    }
    assert known is None or holds == {known}
    low, high = span(bounds, dim(one))
    values = [value(one, n, m) for n in range(8) for m in range(5)]
    assert low is None or low <= min(values)
    assert high is None or high >= max(values)
