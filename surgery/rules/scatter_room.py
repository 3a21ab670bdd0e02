"""Scattering more updates than the data has rows."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.indexing import dims_tensor, run_time_elements


@lowering(
    "scatterelements-with-room",
    "ScatterElements",
    why="TensorRT wants no more updates along the axis than the data has entries, and says so only when it builds "
    "the whole network. As many entries behind the data as updates make room, and are cut off again.",
    when="always",
    samples=[
        Sample(
            "(float[n] x, int64[k] i, float[k] u) => (float[n] y) { y = ScatterElements (x, i, u) }",
            feeds={
                "x": np.zeros(3, np.float32),
                "i": np.array([2, -3, 2, 0, 0]),
                "u": np.array([5, 1, 5, 1, 1], np.float32),
            },
        ),
        Sample(
            """(int64[2, 3] x, int32[2, 5] i, int64[2, 5] u) => (int64[2, 3] y)
            { y = ScatterElements <axis = 1> (x, i, u) }""",
            feeds={"i": np.array([[0, 1, 2, 1, 0]] * 2, np.int32), "u": np.array([[4, 5, 6, 5, 4]] * 2)},
        ),
        Sample(
            """(float16[n, 3] x, int64[k, 2] i, float16[k, 2] u) => (float16[n, 3] y)
            { y = ScatterElements <axis = 0> (x, i, u) }""",
            feeds={
                "x": np.ones((2, 3), np.float16), "i": np.array([[0, 1], [-1, -2], [0, 1]]),
                "u": np.array([[7, 8], [9, 10], [7, 8]], np.float16),
            },
        ),
        *samples_in(
            "double int8 int16 int32 uint8 uint16 uint32 uint64 bool",
            "(T[n] x, int64[k] i, T[k] u) => (T[n] y) { y = ScatterElements (x, i, u) }",
            feeds={"x": [0, 0, 0], "i": np.array([2, -3, 2, 0, 0]), "u": [5, 1, 5, 1, 1]},
        ),
    ],
    near_misses=[
        "(float[4, 3] x, int64[2, 3] i, float[2, 3] u) => (float[4, 3] y) { y = ScatterElements (x, i, u) }",
        "(float[n, 3] x, int64[n, 3] i, float[n, 3] u) => (float[n, 3] y) { y = ScatterElements (x, i, u) }",
    ],
)  # fmt: skip
def scatter_elements_with_room(site: Site, b: Body) -> str:
    """The elements in a row with zeros behind them, scattered into, and cut."""
    data, indices = site.input(0), site.input(1)
    if site.attr("reduction", "none") not in ("none", b"none"):
        raise NoMatch("updates are combined")
    axis = int(site.attr("axis", 0)) % data.rank
    if data.shape is None or indices.shape is None:
        raise NoMatch("the ranks are not known")
    there, here = data.shape[axis], indices.shape[axis]
    if there is not None and there == here:
        raise NoMatch("there are as many updates as entries")
    if isinstance(there, int) and isinstance(here, int) and here < there:
        raise NoMatch("there are fewer updates than entries")
    if indices.value is not None:
        raise NoMatch("the indices are constant")
    rows = run_time_elements(b, b.cast(indices.name, np.int64), data, indices, axis)
    flat = b.reshape(data.name, -1)
    room = b.op("Expand", b.const(0, site.dtype(0)), b.op("Shape", rows))
    values = b.reshape(site.x(2), -1)
    whole = b.op("ScatterND", b.concat([flat, room], 0), b.unsqueeze(rows, 1), values)
    kept = b.op("Slice", whole, b.ints(0), b.op("Shape", flat), b.ints(0))
    return b.op("Reshape", kept, dims_tensor(b, data, 0, data.rank))
