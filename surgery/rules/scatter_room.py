"""Scattering more updates than the data has entries: some entries get several."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.indexing.scatter import reduced_elements
from surgery.rules.indexing.updates import Updates
from surgery.rules.sizes import count_up, dims_tensor


@lowering(
    "scatterelements-with-room",
    "ScatterElements",
    why="TensorRT wants no more updates along the axis than the data has entries, and says so only when it builds "
    "the whole network. With more updates some entries get several: GPUs write them in any order, ONNX Runtime in "
    "that of the updates. Every entry gathers the last of its updates.",
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
        Sample(
            "(float[n] x, int64[k] i, float[k] u) => (float[n] y) { y = ScatterElements (x, i, u) }",
            feeds={
                "x": np.arange(4, dtype=np.float32), "i": np.array([2, -3, 2, 0, 0, 2, 1]),
                "u": np.array([7, 1, -2, 4, 9, 3, 8], np.float32),
            },
        ),
        Sample(
            """(float[n, m] x, int64[3, k] i, float[3, k] u) => (float[n, m] y)
            { y = ScatterElements <axis = 1> (x, i, u) }""",
            feeds={
                "x": np.zeros((4, 3), np.float32), "i": np.array([[0, 2, 0, -1, 2], [1] * 5, [2, 1, 1, 1, 0]]),
                "u": np.arange(15, dtype=np.float32).reshape(3, 5),
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
    """The number of the last update of every element, found as the largest, and the updates gathered by it."""
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
    none = b.const(-1, np.int64)
    like = dims_tensor(b, indices, 0, indices.rank)
    numbers = count_up(b, b.reduce("ReduceProd", like, 0))
    u = Updates(
        b.op("Expand", none, dims_tensor(b, data, 0, data.rank)), b.cast(indices.name, np.int64),
        b.op("Reshape", numbers, like), "max", np.dtype(np.int64),
    )  # fmt: skip
    number = reduced_elements(b, u, data, indices, axis)
    updates = b.gather(b.reshape(site.x(2), -1), b.maximum(number, b.const(0, np.int64)), axis=0)
    return b.where(b.greater(number, none), updates, data.name)
