"""LayerNormalization whose mean and deviation are read."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, reduce_mean, to


@lowering(
    "layernorm-statistics",
    "LayerNormalization",
    why="TensorRT's LayerNormalization has one output. The mean and the reciprocal of the standard deviation "
    "are reductions beside it.",
    since=17,
    samples=[
        "(float[2, 3, 4] x, float[4] w, float[4] c) => (float[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) "
        "{ y, m, s = LayerNormalization (x, w, c) }",
        "(float[n, 3, 4] x, float[3, 4] w) => (float[n, 3, 4] y, float[n, 1, 1] m) "
        "{ y, m = LayerNormalization <axis = 1, epsilon = 0.1> (x, w) }",
        "(float16[2, 3, 4] x, float16[4] w) => (float16[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) "
        "{ y, m, s = LayerNormalization (x, w) }",
        "(float[2, 3, 4] x, float[2, 3, 4] w) => (float[2, 3, 4] y, float[1, 1, 1] m, float[1, 1, 1] s) "
        "{ y, m, s = LayerNormalization <axis = -3> (x, w) }",
        *samples_in(
            "double",
            "(T[2, 3, 4] x, T[4] w, T[4] c) => (T[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) { "
            "y, m, s = LayerNormalization (x, w, c) }",
        ),
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def layer_norm_statistics(site: Site, b: Body) -> list[str | None]:
    """One LayerNormalization for the result; mean and deviation by reductions."""
    if not site.used(1) and not site.used(2):
        raise NoMatch("its statistics are not used")
    x = site.input(0)
    axis = int(site.attr("axis", -1)) % x.rank
    dtype = site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    wanted = next((o.dtype for o in site.outputs[1:] if o is not None and o.dtype is not None), work)
    axes = range(axis, x.rank)
    wide = to(b, x.name, dtype, work)
    mean = reduce_mean(b, wide, axes)
    y = None
    if site.used(0):
        inputs = [o.name for o in site.inputs if o is not None]
        y = b.op("LayerNormalization", *inputs, **site.attributes)
    deviation = None
    if site.used(2):
        centred = b.sub(wide, mean)
        variance = reduce_mean(b, b.mul(centred, centred), axes)
        root = b.op("Sqrt", b.add(variance, b.const(site.attr("epsilon", 1e-5), work)))
        deviation = to(b, b.op("Reciprocal", root), work, wanted)
    return [y, to(b, mean, work, wanted), deviation]
