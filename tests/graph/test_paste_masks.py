"""Loops that paste masks into an image, and loops that look like them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import surgery
from surgery.graph.convert import import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.infer import infer_types
from surgery.graph.paste_masks import RULE, resolve_pastes

ROUND = """
    one = Gather <axis = 0> (masks, i)
    image = Unsqueeze (one, z)
    box = Gather <axis = 0> (boxes, i)
    x1, y1, x2, y2 = Split <num_outputs = 4> (box)
    dx = Sub (x2, x1) ex = Add (dx, l) w = Max (ex, l)
    dy = Sub (y2, y1) ey = Add (dy, l) h = Max (ey, l)
    to = Concat <axis = 0> (l, l, h, w)
    big = Resize <mode = "MODE", coordinate_transformation_mode = "half_pixel"> (image, , , to)
    flat = Squeeze (big, a)
    x0 = Max (x1, z) xe = Add (x2, l) xs = Min (xe, wv)
    y0 = Max (y1, z) ye = Add (y2, l) ys = Min (ye, hv)
    ta = Sub (y0, y1) tb = Sub (x0, x1) t = Concat <axis = 0> (ta, tb)
    ua = Sub (ys, y1) ub = Sub (xs, x1) u = Concat <axis = 0> (ua, ub)
    part = Slice (flat, t, u, a)
    shape = Shape (part)
    cols = Slice (shape, l, two)
    up = Concat <axis = 0> (y0, cols) above = ConstantOfShape (up)
    dn = Sub (hv, ys) down = Concat <axis = 0> (dn, cols) below = ConstantOfShape (down)
    tall = Concat <axis = 0> (above, part, below)
    lines = Slice (tall, z, hv, z)
    lf = Concat <axis = 0> (hv, x0) left = ConstantOfShape (lf)
    rn = Sub (wv, xs) rg = Concat <axis = 0> (hv, rn) right = ConstantOfShape (rg)
    wide = Concat <axis = 1> (left, lines, right)
    whole = Slice (wide, z, wv, l)
    pasted = EXTRA (whole)
    row = Unsqueeze (pasted, z)
    s2 = Concat <axis = 0> (s, row)
    c2 = Identity (c)
"""


def model(mode: str = "linear", extra: str = "Identity", *, fixed: bool = False) -> object:
    """A loop that pastes masks of 6 x 5 pixels; with `fixed`, into an image of known size."""
    sizes = "int64[1] hv = {20}, int64[1] wv = {17}, " if fixed else ""
    inputs = "" if fixed else ", float[1, 3, height, width] picture"
    vectors = "" if fixed else "ps = Shape (picture) hv = Slice (ps, two, three) wv = Slice (ps, three, four)"
    body = ROUND.replace("MODE", mode).replace("EXTRA", extra)
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 1, 6, 5] masks, int64[n, 4] boxes{inputs}) => (float[n, p, q] y)
        <{sizes}int64[1] z = {{0}}, int64[1] l = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
         int64[1] four = {{4}}, int64[2] a = {{0, 1}}, bool go = {{1}},
         int64 first = {{0}}>
        {{ ms = Shape (masks) trips = Gather (ms, first) {vectors}
           dims = Concat <axis = 0> (z, hv, wv) empty = ConstantOfShape (dims)
           y = Loop (trips, go, empty) <body = paste (int64 i, bool c, float[k, e, f] s)
               => (bool c2, float[m, e2, f2] s2) {{ {body} }}> }}"""
    )


def feeds(count: int, height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks, and boxes of which some reach over the edges of the image or lie outside."""
    generator = np.random.default_rng(seed)
    start = generator.integers(-6, max(height, width), (count, 2))
    return {
        "masks": generator.uniform(0, 1, (count, 1, 6, 5)).astype(np.float32),
        "boxes": np.concatenate([start, start + generator.integers(-3, 15, (count, 2))], 1).astype(np.int64),
        "picture": np.zeros((1, 3, height, width), np.float32),
    }


def graph_of(proto: object) -> object:
    graph, _ = import_graph(proto)
    fold_constants(graph)
    infer_types(graph)
    return graph


def test_a_loop_that_pastes_masks_becomes_products_with_the_same_result() -> None:
    proto = model()
    report = surgery.run("generic", proto)
    assert report.failure is None, report.failure
    assert report.engine
    assert RULE in {e.rule for e in report.edits}
    for count, height, width in ((7, 20, 17), (3, 9, 30), (5, 12, 12)):
        values = feeds(count, height, width, seed=count)
        expected = Evaluator(proto).run(values)["y"]
        found = Evaluator(report.model).run(values)["y"]
        assert expected.any()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_loop_is_gone_where_the_size_of_the_image_is_known() -> None:
    graph = graph_of(model(fixed=True))
    (done,) = resolve_pastes(graph, {})
    assert done.error < 1e-6
    assert "Loop" not in {n.op for n in graph.nodes}


@pytest.mark.parametrize(
    "options", [{"mode": "nearest"}, {"mode": "cubic"}, {"extra": "Exp"}, {"extra": "Neg"}]
)
def test_loops_that_compute_something_else_stay(options: dict[str, str]) -> None:
    graph = graph_of(model(**options))
    assert resolve_pastes(graph, {}) == []
    assert "Loop" in {n.op for n in graph.nodes}
