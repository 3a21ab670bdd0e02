"""Normalization by the statistics of the batch, as in training."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, reduce_mean, to


@lowering(
    "batchnorm-in-training",
    "BatchNormalization",
    why="TensorRT normalizes by statistics that it is given; in training they are those of the batch. Mean and "
    "population variance are reductions, and the running statistics a blend of old and new.",
    samples=[
        "(float[2, 3, 4, 5] x, float[3] s, float[3] c, float[3] m, float[3] v) => "
        "(float[2, 3, 4, 5] y, float[3] rm, float[3] rv) "
        "{ y, rm, rv = BatchNormalization <training_mode = 1> (x, s, c, m, v) }",
        "(float[n, 3, w] x, float[3] s, float[3] c, float[3] m, float[3] v) => "
        "(float[n, 3, w] y, float[3] rm, float[3] rv) "
        "{ y, rm, rv = BatchNormalization <training_mode = 1, momentum = 0.3, epsilon = 0.01> (x, s, c, m, v) }",
        *samples_in(
            "double float float16",
            "(double[4, 2] x, double[2] s, double[2] c, T[2] m, T[2] v) => (double[4, 2] y, T[2] rm, T[2] rv) "
            "{ y, rm, rv = BatchNormalization <training_mode = 1> (x, s, c, m, v) }",
            opset=14,
        ),
        "(float16[2, 3, 4] x, float16[3] s, float16[3] c, float[3] m, float[3] v) => "
        "(float16[2, 3, 4] y, float[3] rm, float[3] rv) "
        "{ y, rm, rv = BatchNormalization <training_mode = 1> (x, s, c, m, v) }",
        Sample(
            "(float[2, 3, 4] x, float[3] s, float[3] c, float[3] m, float[3] v) => "
            "(float[2, 3, 4] y, float[3] rm, float[3] rv, float[3] bm, float[3] bv) "
            "{ y, rm, rv, bm, bv = BatchNormalization <momentum = 0.7> (x, s, c, m, v) }",
            opset=13,
        ),
        Sample(
            "(float[2, 3] x, float[3] s, float[3] c, float[3] m, float[3] v) => (float[2, 3] y) "
            "{ y, rm, rv, bm, bv = BatchNormalization (x, s, c, m, v) }",
            opset=12,
        ),
        *samples_in(
            "double",
            "(float[2, 3, 4, 5] x, T[3] s, T[3] c, float[3] m, float[3] v) => "
            "(float[2, 3, 4, 5] y, float[3] rm, float[3] rv) "
            "{ y, rm, rv = BatchNormalization <training_mode = 1> (x, s, c, m, v) }",
        ),
        *samples_in(
            "float16",
            "(float[2, 3, 4, 5] x, float[3] s, float[3] c, T[3] m, T[3] v) => "
            "(float[2, 3, 4, 5] y, T[3] rm, T[3] rv) "
            "{ y, rm, rv = BatchNormalization <training_mode = 1> (x, s, c, m, v) }",
        ),
    ],
    near_misses=[
        "(float[2, 3, 4] x, float[3] s, float[3] c, float[3] m, float[3] v) => (float[2, 3, 4] y) "
        "{ y = BatchNormalization (x, s, c, m, v) }"
    ],
)
def batchnorm_in_training(site: Site, b: Body) -> list[str | None]:
    """Statistics of the batch over every axis but the channels'; 16-bit floats are computed in float32.

    Before opset 14 more than one output means training, and there are two more: mean and reciprocal of the
    deviation of the batch, as ONNX Runtime saves them.
    """
    training = site.attr("training_mode", 0) if site.opset >= 14 else len(site.outputs) > 1
    if not training:
        raise NoMatch("not in training")
    rank, dtype = site.input(0).rank, site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    axes = [axis for axis in range(rank) if axis != 1]
    x = to(b, site.x(0), dtype, work)
    middle = reduce_mean(b, x, axes)
    centred = b.sub(x, middle)
    variance = reduce_mean(b, b.mul(centred, centred), axes)
    root = b.op("Sqrt", b.add(variance, b.const(site.attr("epsilon", 1e-5), work)))
    made: list[str | None] = [None] * 5
    if site.used(0):
        made[0] = to(b, _scaled(site, b, b.div(centred, root), work), work, dtype)
    momentum = float(np.float32(site.attr("momentum", 0.9)))
    for i, found in ((1, middle), (2, variance)):
        if site.used(i):
            old = site.dtype(i + 2)
            kept = b.mul(to(b, site.x(i + 2), old, work), b.const(momentum, work))
            fresh = b.mul(b.reshape(found, -1), b.const(1 - momentum, work))
            made[i] = to(b, b.add(kept, fresh), work, old)
    for i, found in ((3, middle), (4, root)):
        if site.used(i):
            saved = b.reshape(found, -1)
            made[i] = to(b, saved if i == 3 else b.op("Reciprocal", saved), work, site.dtype(i))
    return made[: len(site.outputs)]


def _scaled(site: Site, b: Body, x: str, work: np.dtype[np.generic]) -> str:
    """Times scale plus bias, along the channels."""
    column = [-1, *(1 for _ in range(site.input(0).rank - 2))]
    scale, bias = (b.reshape(to(b, site.x(i), site.dtype(i), work), *column) for i in (1, 2))
    return b.add(b.mul(x, scale), bias)
