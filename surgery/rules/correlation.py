"""Correlation volumes: products of all pixels with all others, read as one image per pixel."""

from __future__ import annotations

from math import prod
from typing import Any

from surgery.graph.body import Body
from surgery.graph.pattern import either, op, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, samples_in


def _scaled() -> Any:
    """A product that is scaled behind a change of its layout."""
    images = op("Reshape", op("MatMul", value("a"), value("b")), value("shape"), name="layout")
    return either(*(op(kind, images, value("factor"), name="scale") for kind in ("Div", "Mul")))


_SAMPLE = (
    "(T[n, 6, 4] a, T[n, 4, 6] b, T c) => (T[m, 1, 2, 3] y) "
    "{ s = Constant <value_ints = [-1, 1, 2, 3]> () p = MatMul (a, b) r = Reshape (p, s) y = OP (r, c) }"
)


@pattern_rule(
    "scale-before-images",
    _scaled(),
    why="TensorRT-RTX 1.7 does not build samples of a product that is scaled after it is read as images of one "
    "channel (flow networks: GridSample of a correlation volume at several scales, side by side). Scaled before, the "
    "same numbers build.",
    when="always",
    targets=("tensorrt-rtx",),
    samples=[
        *samples_in("float double float16", _SAMPLE.replace("OP", "Div")),
        *samples_in("float int32 int64", _SAMPLE.replace("OP", "Mul")),
    ],
    near_misses=[
        "(float[n, 6, 4] a, float[n, 4, 6] b, float[3] c) => (float[m, 1, 2, 3] y) "
        "{ s = Constant <value_ints = [-1, 1, 2, 3]> () p = MatMul (a, b) r = Reshape (p, s) y = Div (r, c) }",
        "(float[n, 6, 4] a, float[n, 4, 6] b, float c) => (float[n, 2, 3, 6] y) "
        "{ s = Constant <value_ints = [0, 2, 3, -1]> () p = MatMul (a, b) r = Reshape (p, s) y = Div (r, c) }",
        "(float[n, 6, 4] a, float[n, 4, 6] b, float c) => (float[m, 1, 2, 3] y, float[m, 1, 2, 3] z) "
        "{ s = Constant <value_ints = [-1, 1, 2, 3]> () p = MatMul (a, b) r = Reshape (p, s) y = Div (r, c) "
        "z = Relu (r) }",
    ],
)
def scale_before_images(site: CutSite, b: Body) -> str:
    """The product, scaled, in the layout of the images."""
    factor, out = site.tensor("factor"), site.out(0)
    if (
        factor.shape is None
        or prod(d if isinstance(d, int) else 2 for d in factor.shape) != 1
        or factor.rank > 2
    ):
        raise NoMatch("the factor is not one number")
    if out.shape is None or len(out.shape) != 4 or out.shape[1] != 1:
        raise NoMatch("not images of one channel")
    if min(site.tensor("a").rank, site.tensor("b").rank) < 2:
        raise NoMatch("not a product of matrices")
    product = b.op("MatMul", site.name("a"), site.name("b"))
    scaled = b.op(site.node("scale").op, product, factor.name)
    allow = site.node("layout").attributes.get("allowzero")
    return b.op("Reshape", scaled, site.name("shape"), **({"allowzero": allow} if allow else {}))
