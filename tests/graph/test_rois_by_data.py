"""Regions whose number depends on data: levels of a pyramid, suppressed boxes, classes beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.report import Report


def parsed(text: str) -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')


def converted(model: ModelProto) -> Report:
    report = surgery.run("generic", model)
    assert report.failure is None, report.failure
    assert report.engine
    assert report.verification["graph"]["status"] == "passed"
    return report


def compare(model: ModelProto, report: Report, feeds: dict[str, Any]) -> dict[str, int]:
    """Compare what is real of the outputs; the counts."""
    expected = Evaluator(model).run(feeds)
    assert report.model is not None
    found = Evaluator(report.model).run(feeds)
    counts = {}
    for change in report.io_changes:
        inverse = change.inverse or {}
        if inverse.get("op") == "slice_by_count":
            counts[inverse["name"]] = int(found[inverse["count"]])
            real = range(counts[inverse["name"]])
            found[inverse["name"]] = np.take(found[inverse["name"]], real, axis=inverse["axis"])
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    return counts


def _level(number: int, maps: str, chosen: str, before: str) -> str:
    """The regions of one level of a pyramid, put where they belong."""
    k = number
    return f"""p{k} = NonZero ({chosen}) t{k} = Transpose <perm = [1, 0]> (p{k}) i{k} = Squeeze (t{k}, one)
        r{k} = Gather <axis = 0> (rois, i{k}) s{k} = Shape (i{k})
        b{k} = ConstantOfShape <value = int64[1] {{0}}> (s{k})
        a{k} = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2> ({maps}, r{k}, b{k})
        w{k} = Shape ({before}) c{k} = Slice (w{k}, one, end) f{k} = Concat <axis = 0> (s{k}, c{k})
        v{k} = Reshape (a{k}, f{k}) u{k} = Unsqueeze (i{k}, last) d{k} = ScatterND ({before}, u{k}, v{k})"""


PYRAMID = f"""(float[1, 2, h, w] fine, float[1, 2, p, q] coarse, float[r, 4] rois) => (float[r, 2, 2, 3] y)
    <int64 zero = {{0}}, int64 two = {{2}}, int64[1] one = {{1}}, int64[1] last = {{-1}}, int64[1] first = {{0}},
     int64[1] end = {{9223372036854775807}}, int64[3] rest = {{2, 2, 3}}, float limit = {{6.0}}>
    {{ e = Gather <axis = 1> (rois, two) s = Gather <axis = 1> (rois, zero) size = Sub (e, s)
       large = Greater (size, limit) small = Not (large)
       whole = Shape (rois) number = Gather (whole, first) full = Concat <axis = 0> (number, rest)
       blank = ConstantOfShape (full)
       {_level(0, "fine", "small", "blank")}
       {_level(1, "coarse", "large", "d0")}
       y = Identity (d1) }}"""


def rois(sizes: list[float], seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    start = generator.uniform(-2, 9, (len(sizes), 2))
    return {
        "fine": generator.normal(0, 1, (1, 2, 12, 15)).astype(np.float32),
        "coarse": generator.normal(0, 1, (1, 2, 6, 8)).astype(np.float32),
        "rois": np.concatenate([start, start + np.asarray(sizes)[:, None]], 1).astype(np.float32),
    }


def test_each_region_is_read_from_its_level() -> None:
    model = parsed(PYRAMID)
    report = converted(model)
    assert "RoiAlign" not in {n.op_type for n in report.model.graph.node}  # type: ignore[union-attr]
    for sizes in ([3, 9, 4, 8, 2], [9, 8], [1, 2, 3], [7]):
        compare(model, report, rois(sizes, seed=len(sizes)))


SUPPRESSED = """(float[n] scores, float[n, 2] values) => (float[k, 2] y)
    <float low = {0.3}, float high = {0.6}, int64 none = {0}, int64[1] z = {0}, int64[1] most = {3}>
    { chosen = Greater (scores, low) p = NonZero (chosen) i = Squeeze (p, z) s = Gather (scores, i)
      v = Gather <axis = 0> (values, i)
      shape = Shape (v) size = ReduceProd <keepdims = 0> (shape) empty = Equal (size, none)
      keep = If (empty) <then_branch = t () => (int64[j] o) { o = Constant <value = int64[0] {}> () },
          else_branch = e () => (int64[m] o2) { g = Greater (s, high) q = NonZero (g) o2 = Squeeze (q, z) }>
      head = Slice (keep, z, most, z) y = Gather <axis = 0> (v, head) }"""


@pytest.mark.parametrize("above", [0, 1, 2, 3, 5])
def test_what_a_branch_chooses_is_counted(above: int) -> None:
    model = parsed(SUPPRESSED)
    report = converted(model)
    scores = np.full(8, 0.4, np.float32)
    scores[:above] = 0.9
    scores[7] = 0.1
    values = np.arange(16, dtype=np.float32).reshape(8, 2)
    counts = compare(model, report, {"scores": scores[::-1].copy(), "values": values})
    assert counts == {"y": min(above, 3)}


def test_nothing_passes_the_first_threshold() -> None:
    model = parsed(SUPPRESSED)
    feeds = {"scores": np.full(4, 0.1, np.float32), "values": np.ones((4, 2), np.float32)}
    assert compare(model, converted(model), feeds) == {"y": 0}


LABELLED = """(float[n] scores, float[n, 5] logits) => (int64[k, 5] y, float[k, 5] z)
    <float low = {0.3}, int64[1] first = {0}, int64 axis = {1}, int64 start = {0}, int64 step = {1},
     int64[2] row = {1, -1}>
    { chosen = Greater (scores, low) p = NonZero (chosen) i = Squeeze (p, first)
      some = Gather <axis = 0> (logits, i) l = Concat <axis = 0> (some)
      shape = Shape (l) classes = Gather (shape, axis) numbers = Range (start, classes, step)
      line = Reshape (numbers, row) y = Expand (line, shape) z = Softmax (l) }"""


def test_labels_beside_what_is_chosen() -> None:
    model = parsed(LABELLED)
    report = converted(model)
    for count in (0, 1, 4):
        scores = np.asarray([0.9] * count + [0.1] * (6 - count), np.float32)
        logits = np.random.default_rng(count).normal(0, 1, (6, 5)).astype(np.float32)
        assert compare(model, report, {"scores": scores, "logits": logits}) == {"y": count, "z": count}


SAMPLED = """(float[1, 1, h, w] heat, float[1, 3, p, q] maps) => (float[k, 3] y)
    <float low = {0.8}, int64[1] z = {0}, int64[2] flat = {-1, 2}, int64[4] grid = {1, 1, -1, 2},
     int64[3] lines = {1, 3, -1}, int64[2] borders = {0, 1}, int64[1] a = {1}, float half = {8.0}, float one = {1.0}>
    { s = Squeeze (heat, borders) chosen = Greater (s, low) places = NonZero (chosen)
      t = Transpose <perm = [1, 0]> (places) at = Cast <to = 1> (t) d = Div (at, half) e = Sub (d, one)
      g = Reshape (e, grid) found = GridSample <align_corners = 1> (maps, g) l = Reshape (found, lines)
      n = ReduceL2 <keepdims = 1> (l, a) shape = Shape (l) wide = Expand (n, shape) u = Div (l, wide)
      first = Squeeze (u, z) y = Transpose <perm = [1, 0]> (first) }"""


def test_maps_are_sampled_where_there_is_something() -> None:
    model = parsed(SAMPLED)
    report = converted(model)
    for seed in range(3):
        generator = np.random.default_rng(seed)
        heat = generator.uniform(0, 0.9, (1, 1, 11, 14)).astype(np.float32)
        maps = generator.uniform(1, 2, (1, 3, 5, 6)).astype(np.float32)
        counts = compare(model, report, {"heat": heat, "maps": maps})
        assert counts == {"y": int((heat > 0.8).sum())}


def _mapped(k: int, maps: str, scale: float) -> str:
    """The regions of one of several levels, as torchvision's MultiScaleRoIAlign pools them."""
    return f"""e{k} = Equal (levels, l{k}) p{k} = NonZero (e{k}) t{k} = Transpose <perm = [1, 0]> (p{k})
        i{k} = Squeeze (t{k}, one) r{k} = Gather <axis = 0> (rois, i{k}) q{k} = Gather <axis = 1> (r{k}, first)
        o{k} = Squeeze (q{k}, one) b{k} = Cast <to = 7> (o{k}) c{k} = Gather <axis = 1> (r{k}, corners)
        a{k} = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2, spatial_scale = {scale},
            coordinate_transformation_mode = "output_half_pixel"> ({maps}, c{k}, b{k})"""


def _merged(k: int, before: str) -> str:
    """What a level gave, scattered to the places of its regions."""
    return f"""m{k} = NonZero (e{k}) n{k} = Transpose <perm = [1, 0]> (m{k}) flat{k} = Squeeze (n{k}, one)
        g{k} = Reshape (flat{k}, column) h{k} = Shape (g{k}) j{k} = Gather (h{k}, zero) k{k} = Unsqueeze (j{k}, first)
        s{k} = Shape (a{k}) u{k} = Slice (s{k}, one, end) v{k} = Concat <axis = 0> (k{k}, u{k})
        rank{k} = Shape (v{k}) ones{k} = ConstantOfShape <value = int64[1] {{1}}> (rank{k})
        any{k} = Mul (ones{k}, minus) same{k} = Equal (v{k}, any{k}) to{k} = Where (same{k}, ones{k}, v{k})
        x{k} = Expand (g{k}, to{k}) d{k} = ScatterElements <axis = 0> ({before}, x{k}, a{k})"""


MULTISCALE = f"""(float[1, 4, h, w] f0, float[1, 4, p, q] f1, float[1, 4, u, v] f2, float[r, 4] all, float[r] scores)
    => (float[k, 5] y, float[k, 4] where)
    <int64 zero = {{0}}, int64 unit = {{1}}, int64 two = {{2}}, int64 three = {{3}}, int64[1] first = {{0}},
     int64[1] one = {{1}}, int64[4] corners = {{1, 2, 3, 4}}, int64[4] column = {{-1, 1, 1, 1}}, int64 minus = {{-1}},
     int64[1] end = {{9223372036854775807}}, int64[3] rest = {{4, 2, 3}}, int64[2] matrix = {{24, 5}},
     int64 l0 = {{0}}, int64 l1 = {{1}}, int64 l2 = {{2}}, float low = {{0.4}}, float epsilon = {{0.000001}},
     float base = {{64.0}}, float half = {{0.72134752}}, float lowest = {{0.0}}, float highest = {{2.0}},
     float offset = {{1.0}}>
    {{ chosen = Greater (scores, low) pn = NonZero (chosen) kept = Squeeze (pn, first)
       where = Gather <axis = 0> (all, kept) column0 = Slice (where, first, one, one) count = Shape (column0)
       image = ConstantOfShape (count) rois = Concat <axis = 1> (image, where)
       right = Gather <axis = 1> (where, two) left = Gather <axis = 1> (where, zero)
       bottom = Gather <axis = 1> (where, three) top = Gather <axis = 1> (where, unit)
       dx = Sub (right, left) dy = Sub (bottom, top) area = Mul (dx, dy) part = Div (area, base) ln = Log (part)
       scaled = Mul (ln, half) shifted = Add (scaled, offset) raised = Add (shifted, epsilon)
       floor = Floor (raised) level = Clip (floor, lowest, highest) levels = Cast <to = 7> (level)
       {_mapped(0, "f0", 0.5)}
       {_mapped(1, "f1", 0.25)}
       {_mapped(2, "f2", 0.125)}
       all_levels = Shape (levels) number = Gather (all_levels, first) full = Concat <axis = 0> (number, rest)
       blank = ConstantOfShape (full)
       {_merged(0, "blank")}
       {_merged(1, "d0")}
       {_merged(2, "d1")}
       flat = Flatten <axis = 1> (d2) weights = ConstantOfShape <value = float[1] {{0.05}}> (matrix)
       y = MatMul (flat, weights) }}"""


@pytest.mark.slow
def test_regions_chosen_by_score_are_pooled_from_three_levels() -> None:
    model = parsed(MULTISCALE)
    report = converted(model)
    for count, seed in ((9, 0), (1, 2), (6, 3)):
        generator = np.random.default_rng(seed)
        start = generator.uniform(0, 40, (count, 2))
        feeds = {
            "f0": generator.normal(0, 1, (1, 4, 32, 40)),
            "f1": generator.normal(0, 1, (1, 4, 16, 20)),
            "f2": generator.normal(0, 1, (1, 4, 8, 10)),
            "all": np.concatenate([start, start + generator.uniform(1, 50, (count, 2))], 1),
            "scores": generator.uniform(0, 1, count),
        }
        counts = compare(model, report, {k: v.astype(np.float32) for k, v in feeds.items()})
        assert set(counts.values()) == {int((feeds["scores"] > 0.4).sum())}
