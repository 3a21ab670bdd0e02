"""TensorScatter: caches that are written in place."""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.sizes import range_of, size_of


@lowering(
    "tensorscatter-by-scatternd",
    "TensorScatter",
    why="TensorRT-RTX has TensorScatter for caches of rank 4 written in a straight line only. The positions of "
    "what is written, wrapped around if circular, are indices of a ScatterND.",
    since=24,
    samples=[
        Sample(
            "(float[2, 3, 6, 4] c, float[2, 3, 2, 4] u, int64[2] w) => (float[2, 3, 6, 4] y) "
            '{ y = TensorScatter <mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
        Sample(
            "(float16[2, 6, 4] c, float16[2, 2, 4] u, int64[2] w) => (float16[2, 6, 4] y) "
            "{ y = TensorScatter (c, u, w) }",
            opset=24,
            feeds={"w": (0, 5)},
        ),
        Sample(
            "(int32[b, t, 4] c, int32[b, s, 4] u) => (int32[b, t, 4] y) { y = TensorScatter (c, u) }",
            opset=24,
        ),
        Sample(
            "(double[2, 3, 6] c, double[2, 3, 4] u, int64[2] w) => (double[2, 3, 6] y) "
            '{ y = TensorScatter <axis = 2, mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
        Sample(
            "(int64[2, 6, 3, 2, 2] c, int64[2, 5, 3, 2, 2] u, int64[2] w) => (int64[2, 6, 3, 2, 2] y) "
            "{ y = TensorScatter <axis = 1> (c, u, w) }",
            opset=24,
            feeds={"w": (0, 2)},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16 bool",
            "(T[2, 3, 6, 4] c, T[2, 3, 2, 4] u, int64[2] w) => (T[2, 3, 6, 4] y) { y = TensorScatter "
            '<mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
    ],
    near_misses=[
        Sample(
            "(float[2, 3] c, float[1, 3] u) => (float[2, 3] y) { y = TensorScatter <axis = 0> (c, u) }",
            opset=24,
        )
    ],
)
def tensor_scatter(site: Site, b: Body) -> str:
    """Indices (sample, ..., position) for each row that is written, then one ScatterND."""
    cache, update = site.input(0), site.input(1)
    rank = cache.rank
    axis = int(site.attr("axis", -2)) % rank
    if axis == 0 or update.shape is None:
        raise NoMatch("the axis that is written is not the samples' own")
    parts = []
    for d in range(axis + 1):
        part = b.unsqueeze(range_of(b, update.name, update.shape, d), *(k for k in range(axis + 1) if k != d))
        if d == axis:
            part = written_positions(site, b, part, axis)
        parts.append(part)
    ahead = b.op("Slice", b.op("Shape", update.name), b.ints(0), b.ints(axis + 1))
    where = [b.unsqueeze(b.op("Expand", p, ahead), axis + 1) for p in parts]
    return b.op("ScatterND", cache.name, b.concat(where, axis + 1), update.name)


def written_positions(site: Site, b: Body, steps: str, axis: int) -> str:
    """Where along the cache's axis each row of the update goes, per sample."""
    if site.has(2):
        steps = b.add(steps, b.unsqueeze(site.x(2), *range(1, axis + 1)))
    if site.attr("mode", "linear") != "circular":
        return steps
    cache = site.input(0)
    return b.op("Mod", steps, size_of(b, cache.name, cache.shape[axis] if cache.shape else None, axis))
