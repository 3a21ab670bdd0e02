"""Loops whose number of rounds depends on data and decides a size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.verify.inverse import apply_inverses, apply_to_inputs
from tests.installed import installed
from tests.stages.test_rules import compare, good, parse, run

FOREVER = 9223372036854775807


def rounds(report: Report) -> list[int]:
    return [e.details["rounds"] for e in report.edits if e.rule == "write-out-rounds"]


def loops(model: onnx.ModelProto) -> int:
    return sum(n.op_type == "Loop" for n in model.graph.node)


def decoder(
    *,
    inputs: str = "float[n, 4] x",
    state: str = "int64[n, p]",
    limit: str = "i2, most",
    start: str = "t0, done0, i0",
) -> str:
    """A decoder: one token more in each round, until all samples have ended or there are enough."""
    return f"""({inputs}) => ({state} y)
        <int64 forever = {{{FOREVER}}}, bool yes = {{1}}, int64 i0 = {{0}}, int64[1] one = {{1}},
         int64[1] zero = {{0}}, int64 most = {{5}}, int64 uno = {{1}}, int64 nought = {{0}},
         float[6, 4] e = {{1, -2, 3, 0.5, -1, 2, 2, -3, 0.25, 1, -0.5, 2, -2, 1, 1, 1, 3, -1, 0.5, 0, 1, 1, -1, -1}}>
        {{ s = Shape (x) n1 = Slice (s, zero, one, zero) s2 = Concat <axis = 0> (n1, one)
          t0 = ConstantOfShape <value = int64[1] {{1}}> (s2) done0 = ConstantOfShape <value = bool[1] {{0}}> (n1)
          y, d, i = Loop (forever, yes, {start}) <body = b (int64 k, bool c, int64[n, p] t, bool[n] done, int64 i1)
            => (bool go, int64[n, q] t2, bool[n] done2, int64 i2)
          {{ g = Gather (e, t) m = ReduceMean <keepdims = 0> (g, one) a = Add (m, x) h = Tanh (a)
            w = Transpose <perm = [1, 0]> (e) l = MatMul (h, w) j = ArgMax <axis = 1> (l)
            f = Squeeze (j, one) z = Equal (f, nought) done2 = Or (done, z) t2 = Concat <axis = 1> (t, j)
            i2 = Add (i1, uno) go1 = Less ({limit})
            go = If (go1) <then_branch = th () => (bool o)
              {{ nd = Not (done2) q = Cast <to = 7> (nd) r = ReduceSum <keepdims = 0> (q) o = Greater (r, nought) }},
              else_branch = el () => (bool p) {{ p = Identity (go1) }}> }}> }}"""


def cases(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=4, size=s).astype(np.float32) for s in shapes for _ in range(6)]


def test_a_decoder_is_bounded_by_its_condition() -> None:
    text = decoder()
    report = run(text)
    assert rounds(report) == [5]
    assert loops(good(report)) == 0
    assert [c.inverse["axis"] for c in report.io_changes if c.inverse] == [1]
    for x in cases((1, 4), (3, 4)):
        compare(text, report, {"x": x})


def test_a_decoder_is_bounded_by_the_length_of_what_it_made() -> None:
    text = decoder(limit="len, most").replace(
        "go1 =", "sh = Shape (t2) len0 = Gather (sh, one) len = Squeeze (len0) go1 ="
    )
    report = run(text)
    assert rounds(report) == [4]
    for x in cases((2, 4)):
        compare(text, report, {"x": x})


def test_a_decoder_that_goes_on_from_a_prompt_of_free_length() -> None:
    text = decoder(inputs="float[n, 4] x, int64[n, m] prompt", start="prompt, done0, i0")
    report = run(text, shapes={"x": ((1, 4), (2, 4), (3, 4)), "prompt": ((1, 1), (2, 3), (3, 5))})
    assert rounds(report) == [5]
    rng = np.random.default_rng(3)
    for x in cases((1, 4), (3, 4)):
        for m in (1, 4):
            compare(text, report, {"x": x, "prompt": rng.integers(0, 6, (len(x), m))})


def test_without_a_bound_the_option_is_named_and_works() -> None:
    # The sign of the limit is of no use to who looks for a bound.
    text = decoder(inputs="float[n, 4] x, int64 limit", limit="i2, small").replace(
        "go1 =", "abs = Abs (limit) small = Mod (abs, most) go1 ="
    )
    failed = run(text)
    assert failed.exit_code == 4
    assert failed.failure is not None
    assert "--set rewrite.most_rounds=" in (failed.failure.fix or "")
    feeds = {"x": cases((2, 4))[0], "limit": np.asarray(3)}
    report = run(text, overrides={"rewrite.most_rounds": 4}, inputs=feeds)
    assert rounds(report) == [4]
    assert any("most_rounds" in w for w in report.warnings)
    for x in cases((1, 4), (3, 4)):
        for limit in (1, 2, 4):
            compare(text, report, {"x": x, "limit": np.asarray(limit)})


def test_a_limit_that_is_clipped_is_a_bound() -> None:
    text = decoder(inputs="float[n, 4] x, int64 limit", limit="i2, small").replace(
        "go1 =", "small = Min (limit, most) go1 ="
    )
    report = run(text)
    assert rounds(report) == [5]
    for x in cases((3, 4)):
        for limit in (-1, 2, 100):
            compare(text, report, {"x": x, "limit": np.asarray(limit)})


def test_a_number_of_rounds_that_is_an_input_needs_a_value_or_a_bound() -> None:
    text = """(float[1] x, int64 n) => (float[m] y) <bool c = {1}>
        { y = Loop (n, c, x) <body = b (int64 k, bool ci, float[p] a) => (bool co, float[q] a2)
        { a2 = Concat <axis = 0> (a, x) co = Identity (ci) }> }"""
    failed = run(text)
    assert failed.failure is not None
    assert "--constant n=1" in (failed.failure.fix or "")
    assert "--set rewrite.most_rounds=" in (failed.failure.fix or "")
    x = np.array([1.5], np.float32)
    for most in (40, 90):
        report = run(text, overrides={"rewrite.most_rounds": most}, inputs={"x": x, "n": np.asarray(3)})
        assert loops(good(report)) == (most > 64)
        for n in (0, 1, 4, 5):
            compare(text, report, {"x": x, "n": np.asarray(n)})


def test_a_bound_that_is_too_low_is_found_out() -> None:
    text = decoder(inputs="float[n, 4] x, int64 limit", limit="i2, limit")
    feeds = {"x": np.full((1, 4), 4, np.float32), "limit": np.asarray(6)}
    assert Evaluator(parse(text), threads=1).run(feeds)["y"].shape[1] > 3
    report = run(text, overrides={"rewrite.most_rounds": 2}, inputs=feeds)
    assert report.exit_code == 6
    assert report.engine is None


GROWTH = {
    "put in front": ("t2 = Concat <axis = 0> (v, t)", "float[1] v = {2.5}"),
    "doubled": ("t2 = Concat <axis = 0> (t, t)", ""),
    "scaled and longer": (
        "h = Mul (t, half) t2 = Concat <axis = 0> (h, v)",
        "float[1] v = {2.5}, float half = {0.5}",
    ),
    "shorter": ("t2 = Slice (t, one, far, zero)", f"int64[1] far = {{{FOREVER}}}"),
}


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("how", GROWTH)
def test_what_is_carried_changes_in_other_ways(how: str, free: bool) -> None:
    step, constants = GROWTH[how]
    size = "n" if free else "6"
    text = f"""(float[{size}] x, float limit) => (float[p] y, float s)
        <int64 most = {{4}}, bool yes = {{1}}, int64[1] one = {{1}}, int64[1] zero = {{0}}, float nil = {{0}}
         {"," if constants else ""} {constants}>
        {{ y, s = Loop (most, yes, x, nil) <body = b (int64 k, bool c, float[q] t, float sum)
            => (bool go, float[r] t2, float sum2)
          {{ {step} a = ReduceSum <keepdims = 0> (t2) sum2 = Add (sum, a) go = Less (sum2, limit) }}> }}"""
    options = {"shapes": {"x": ((5,), (6,), (8,))}} if free else {}
    report = run(text, **options)
    assert rounds(report) == [4]
    rng = np.random.default_rng(4)
    for n in (5, 8) if free else (6, 6):
        for limit in (-1, 3, 9, 1000):
            x = rng.uniform(0, 1, n).astype(np.float32)
            compare(text, report, {"x": x, "limit": np.asarray(limit, np.float32)})


def test_what_is_stacked_is_as_long_as_there_are_rounds() -> None:
    text = """(float[3] x, float limit, bool first) => (float[3] last, float[k, 3] all)
        <int64 most = {6}, float two = {2.0}>
        { last, all = Loop (most, first, x) <body = b (int64 k, bool c, float[3] t)
            => (bool go, float[3] t2, float[3] o)
          { t2 = Mul (t, two) o = Neg (t2) m = ReduceMax <keepdims = 0> (t2) go = Less (m, limit) }> }"""
    x = np.array([0.5, 1, 0.25], np.float32)
    report = run(text, inputs={"x": x, "limit": np.asarray(5, np.float32), "first": np.asarray(True)})
    assert rounds(report) == [6]
    for limit in (0.1, 3, 9, 1000):
        compare(text, report, {"x": x, "limit": np.asarray(limit, np.float32), "first": np.asarray(True)})
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    feeds = {"x": x, "limit": np.asarray(9, np.float32), "first": np.asarray(False)}
    got = apply_inverses(Evaluator(good(report), threads=1).run(apply_to_inputs(feeds, inverses)), inverses)
    assert got["all"].shape == (0, 3)
    np.testing.assert_array_equal(got["last"], x)


def test_sums_and_means_of_what_has_grown_look_at_what_is_real() -> None:
    text = f"""(float[2] x, float limit) => (float mean, float[2] sum, int64[2] size)
        <int64 forever = {{{FOREVER}}}, bool yes = {{1}}, int64 most = {{7}}, int64[1] zero = {{0}},
         int64[1] one = {{1}}, float two = {{2.0}}, int64 uno = {{1}}>
        {{ x0 = Unsqueeze (x, zero)
          y = Loop (forever, yes, x0) <body = b (int64 k, bool c, float[p, 2] t) => (bool go, float[q, 2] t2)
          {{ s = ReduceSum (t, zero) t2 = Concat <axis = 0> (t, s) a = ReduceMax <keepdims = 0> (t2)
            go1 = Less (a, limit) k2 = Add (k, uno) go2 = Less (k2, most) go = And (go1, go2) }}>
          mean = ReduceMean <keepdims = 0> (y) sum = ReduceSum <keepdims = 0> (y, zero) size = Shape (y) }}"""
    report = run(text)
    assert rounds(report) == [7]
    assert not report.io_changes
    for limit in (0.1, 3, 9, 50, 1000):
        compare(text, report, {"x": np.array([0.5, 1], np.float32), "limit": np.asarray(limit, np.float32)})


# -- too many rounds to write out: buffers ------------------------------------------------------------------


def test_many_rounds_stay_a_loop() -> None:
    text = decoder().replace("most = {5}", "most = {100}")
    report = run(text)
    assert rounds(report) == [100]
    assert loops(good(report)) == 1
    for x in cases((1, 4), (3, 4)):
        compare(text, report, {"x": x})


def test_lengths_bound_many_rounds() -> None:
    text = decoder(limit="len, most").replace("most = {5}", "most = {100}")
    text = text.replace("go1 =", "sh = Shape (t2) len0 = Gather (sh, one) len = Squeeze (len0) go1 =")
    report = run(text)
    assert rounds(report) == [99]
    assert loops(good(report)) == 1
    for x in cases((2, 4)):
        compare(text, report, {"x": x})


def test_many_rounds_from_a_prompt_of_free_length() -> None:
    text = decoder(inputs="float[n, 4] x, int64[n, m] prompt", start="prompt, done0, i0")
    text = text.replace("most = {5}", "most = {70}")
    report = run(text, shapes={"x": ((1, 4), (2, 4), (3, 4)), "prompt": ((1, 1), (2, 3), (3, 5))})
    assert rounds(report) == [70]
    assert loops(good(report)) == 1
    rng = np.random.default_rng(5)
    for x in cases((1, 4), (3, 4)):
        for m in (1, 4):
            compare(text, report, {"x": x, "prompt": rng.integers(0, 6, (len(x), m))})


def test_a_bound_that_the_user_gives_for_many_rounds() -> None:
    text = decoder(inputs="float[n, 4] x, int64 limit", limit="i2, small").replace(
        "go1 =", "abs = Abs (limit) small = Mod (abs, most) go1 ="
    )
    feeds = {"x": cases((2, 4))[0], "limit": np.asarray(3)}
    report = run(text, overrides={"rewrite.most_rounds": 100}, inputs=feeds)
    assert rounds(report) == [100]
    assert any("most_rounds" in w for w in report.warnings)
    for limit in (1, 4):
        compare(text, report, {"x": cases((3, 4))[0], "limit": np.asarray(limit)})


@pytest.mark.parametrize("start", [0, 1])
def test_tensors_that_grow_together_and_apart(start: int) -> None:
    """One grows by 1, another one with it, a third one by 2; what one is used for meets the other."""
    text = f"""(float[{max(start, 1)}, 2] x, float limit) => (float[a, 2] y, float[b] w, float[2, c] z, float s)
        <int64 most = {{90}}, bool yes = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, float half = {{0.5}},
         float nil = {{0}}, int64[1] axis1 = {{1}}, float[1] v = {{1.25}}, float[2, 2] block = {{1, 2, 3, 4}},
         int64[1] first = {{{start}}}>
        {{ x0 = Slice (x, zero, first, zero) w0 = ReduceSum <keepdims = 0> (x0, one) z0 = Transpose (x0)
          y, w, z, s = Loop (most, yes, x0, w0, z0, nil) <body = b (int64 k, bool c, float[p, 2] t, float[q] u,
              float[2, r] g, float sum) => (bool go, float[p2, 2] t2, float[q2] u2, float[2, r2] g2, float sum2)
          {{ t1 = ReduceSum (t, zero) t1b = Add (t1, half) t2 = Concat <axis = 0> (t, t1b)
            u1 = Concat <axis = 0> (u, v) u2 = Mul (u1, half) col = Unsqueeze (u2, axis1) tu = Mul (t2, col)
            g2 = Concat <axis = 1> (block, g) a = ReduceMean <keepdims = 0> (tu) m = ReduceMean <keepdims = 0> (g2)
            am = Add (a, m) sum2 = Add (sum, am) go = Less (sum2, limit) }}> }}"""
    report = run(
        text, inputs={"x": np.full((max(start, 1), 2), 0.01, np.float32), "limit": np.asarray(9, np.float32)}
    )
    assert rounds(report) == [90]
    assert loops(good(report)) == 1
    rng = np.random.default_rng(6)
    for limit in (-1, 5, 20):
        x = rng.uniform(0, 0.01, (max(start, 1), 2)).astype(np.float32)
        compare(text, report, {"x": x, "limit": np.asarray(limit, np.float32)})


WEIGHTS = ", ".join(f"{v:.2f}" for v in np.random.default_rng(8).normal(size=48))
END = {
    "in any case": "o = Less (mx, eos) go = And (go1, o)",
    "in a branch": """go = If (go1) <then_branch = th () => (bool o)
        { tf2 = Cast <to = 1> (t2) mx2 = ReduceMax <keepdims = 0> (tf2) o = Less (mx2, eos) },
        else_branch = el () => (bool p) { p = Identity (go1) }>""",
}


@pytest.mark.parametrize("most", [4, 100])
@pytest.mark.parametrize("end", END)
def test_a_decoder_with_caches_of_keys_and_values(end: str, most: int) -> None:
    """Attention over caches that grow with the tokens; the end looks at all tokens."""
    text = f"""(int64[n, m] prompt, float eos) => (int64[n, y1] y, float[n, 2, y2, 3] keys)
        <int64 forever = {{{FOREVER}}}, bool yes = {{1}}, int64 i0 = {{0}}, int64[1] one = {{1}},
         int64 most = {{{most}}}, int64 uno = {{1}}, int64 last = {{-1}}, int64[4] split = {{0, -1, 2, 3}},
         int64[2] flat = {{-1, 6}}, float[8, 6] e = {{{WEIGHTS}}}, float[6, 8] w = {{{WEIGHTS}}}>
        {{ g0 = Gather (e, prompt) r0 = Reshape (g0, split) k0 = Transpose <perm = [0, 2, 1, 3]> (r0)
          y, keys, values, i = Loop (forever, yes, prompt, k0, k0, i0) <body = b (int64 k, bool c, int64[n, p] t,
              float[n, 2, q, 3] kc, float[n, 2, q, 3] vc, int64 i1)
            => (bool go, int64[n, p2] t2, float[n, 2, q2, 3] kc2, float[n, 2, q2, 3] vc2, int64 i2)
          {{ l = Gather <axis = 1> (t, last) ge = Gather (e, l) gu = Unsqueeze (ge, one) re = Reshape (gu, split)
            q1 = Transpose <perm = [0, 2, 1, 3]> (re) kc2 = Concat <axis = 2> (kc, q1) q2n = Tanh (q1)
            vc2 = Concat <axis = 2> (vc, q2n) kt = Transpose <perm = [0, 1, 3, 2]> (kc2) s = MatMul (q1, kt)
            a = Softmax <axis = -1> (s) o1 = MatMul (a, vc2) ot = Transpose <perm = [0, 2, 1, 3]> (o1)
            of = Reshape (ot, flat) lg = MatMul (of, w) am = ArgMax <axis = 1> (lg) t2 = Concat <axis = 1> (t, am)
            tf = Cast <to = 1> (t2) mx = ReduceMax <keepdims = 0> (tf)
            i2 = Add (i1, uno) go1 = Less (i2, most) {END[end]} }}> }}"""
    rng = np.random.default_rng(9)
    feeds = {"prompt": rng.integers(0, 5, (2, 3)), "eos": np.asarray(7, np.float32)}
    report = run(text, shapes={"prompt": ((1, 1), (2, 3), (3, 5))}, inputs=feeds)
    assert rounds(report) == [most]
    assert loops(good(report)) == (most > 64)
    for shape in ((1, 1), (3, 5)):
        for eos in (3, 6, 7, 9):
            prompt = rng.integers(0, 5, shape)
            compare(text, report, {"prompt": prompt, "eos": np.asarray(eos, np.float32)})


def test_many_rows_are_stacked_up_to_an_end_that_data_decides() -> None:
    text = """(float[n, 3] x, float limit) => (float[n, 3] last, float[k, n, 3] all, bool[k] big)
        <int64 most = {600}, bool yes = {1}, float more = {1.05}>
        { last, all, big = Loop (most, yes, x) <body = b (int64 k, bool c, float[n, 3] t)
            => (bool go, float[n, 3] t2, float[n, 3] o, bool p)
          { t2 = Mul (t, more) o = Neg (t2) m = ReduceMax <keepdims = 0> (t2) go = Less (m, limit)
            p = Greater (m, more) }> }"""
    x = np.array([[0.5, 1, 0.25]], np.float32)
    report = run(text, inputs={"x": x, "limit": np.asarray(5, np.float32)})
    assert rounds(report) == [600]
    assert loops(good(report)) == 1
    for n in (1, 3):
        for limit in (0.1, 3, 1e3):
            compare(text, report, {"x": np.repeat(x, n, 0), "limit": np.asarray(limit, np.float32)})


def test_what_cannot_work_on_a_buffer_is_told() -> None:
    text = f"""(float[2, 2] x, float limit) => (float[a, b] y)
        <int64 most = {{{FOREVER}}}, bool yes = {{1}}>
        {{ y = Loop (most, yes, x) <body = b (int64 k, bool c, float[p, q] t) => (bool go, float[p2, q2] t2)
          {{ t1 = Concat <axis = 0> (t, t) t2 = Concat <axis = 1> (t1, t1) a = ReduceMean <keepdims = 0> (t2)
            go = Less (a, limit) }}> }}"""
    report = run(text, inputs={"x": np.ones((2, 2), np.float32), "limit": np.asarray(9, np.float32)})
    assert report.exit_code == 4
    assert report.failure is not None
    assert "more than one axis" in report.failure.message


def test_a_loop_of_no_growth_stays_a_loop() -> None:
    text = f"""(float[2] x, float limit) => (float[2] y)
        <int64 forever = {{{FOREVER}}}, bool yes = {{1}}, float two = {{2.0}}>
        {{ y = Loop (forever, yes, x) <body = b (int64 k, bool c, float[2] t) => (bool go, float[2] t2)
          {{ t2 = Mul (t, two) a = ReduceMax <keepdims = 0> (t2) go = Less (a, limit) }}> }}"""
    report = run(text, inputs={"x": np.ones(2, np.float32), "limit": np.asarray(9, np.float32)})
    assert rounds(report) == []
    assert loops(good(report)) == 1


@installed
def test_the_engine_of_a_decoder_is_built() -> None:
    for most in (5, 100):
        report = surgery.run("generic", parse(decoder().replace("most = {5}", f"most = {{{most}}}")))
        good(report)
        assert report.engine is not None
