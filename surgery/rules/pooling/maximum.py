"""MaxPool, and pools whose windows lie in the padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.pooling.sliding import (
    MAX_UNFOLDED,
    Window,
    averaged,
    gathered_along,
    is_static,
    window_slices,
    windows,
)


@lowering(
    "maxpool-with-indices",
    "MaxPool",
    why="No TensorRT has the second output. Elements of each window are gathered with their positions; of equal ones"
    " the first counts, as in ONNX Runtime.",
    samples=[
        """(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y, int64[1, 1, 2, 2] i)
        { y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }""",
        """(float[n, 2, 6, 5] x) => (float[n, 2, 3, 3] y, int64[n, 2, 3, 3] i)
        { y, i = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 0, 1], storage_order = 1> (x) }""",
        """(double[2, 3, 9] x) => (double[2, 3, 4] y, int64[2, 3, 4] i)
        { y, i = MaxPool <kernel_shape = [3], strides = [2], dilations = [2], pads = [1, 1]> (x) }""",
        """(float[1, 2, 4, 5, 4] x) => (float[1, 2, 2, 3, 2] y, int64[1, 2, 2, 3, 2] i)
        { y, i = MaxPool <kernel_shape = [2, 2, 2], strides = [2, 2, 2], ceil_mode = 1, storage_order = 1> (x) }""",
        Sample(
            """(uint8[1, 2, 6, 6] x) => (uint8[1, 2, 3, 3] y, int64[1, 2, 3, 3] i)
            { y, i = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x) }""",
            feeds={"x": (0, 3)},
        ),
        *samples_in(
            "float16 int8",
            "(T[1, 1, 4, 4] x) => (T[1, 1, 2, 2] y, int64[1, 1, 2, 2] i) { y, i = MaxPool "
            "<kernel_shape = [2, 2], strides = [2, 2]> (x) }",
        ),
    ],
    near_misses=[
        """(float[1, 1, h, 4] x) => (float[1, 1, k, 2] y, int64[1, 1, k, 2] i)
        { y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }""",
        """(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y)
        { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }""",
    ],
)  # fmt: skip
def maxpool_with_indices(site: Site, b: Body) -> list[str]:
    """All axes unfolded at once: maximum and smallest position of an element equal to it."""
    if not site.used(1):
        raise NoMatch("no indices are wanted")
    found = windows(site)
    places, inside = _unfold(found)
    if places.size > MAX_UNFOLDED:
        raise NoMatch("too many windows to unfold")
    if not inside.any(axis=1).all():
        raise NoMatch("a window lies in the padding as a whole")
    first = np.take_along_axis(places, np.argmax(inside, axis=1)[:, None], axis=1)
    places = np.where(inside, places, first)
    space = prod(w.size for w in found)
    flat = b.op("Reshape", site.x(0), b.ints(0, 0, space))
    taken = b.gather(flat, b.const(places, np.int64), axis=2)
    top = b.reduce("ReduceMax", taken, 3)
    numbers = b.where(b.equal(taken, top), b.const(places, np.int32), b.const(space, np.int32))
    index = b.cast(b.reduce("ReduceMin", numbers, 3, keepdims=False), np.int64)
    if site.attr("storage_order", 0):
        index = _column_major(b, index, [w.size for w in found])
    index = b.add(index, _image_offsets(site, b, space))
    shape = b.ints(0, 0, *(w.count for w in found))
    return [b.op("Reshape", top, shape), b.op("Reshape", index, shape)]


def _unfold(found: Sequence[Window]) -> tuple[Any, Any]:
    """Row-major positions of the elements of all windows, and which of them are inside: [windows, elements]."""
    n = len(found)
    places: Any = np.zeros([1] * 2 * n, np.int64)
    inside: Any = np.ones([1] * 2 * n, bool)
    for i, w in enumerate(found):
        shape = [w.count if k == i else w.kernel if k == i + n else 1 for k in range(2 * n)]
        places = places * w.size + w.positions.reshape(shape)
        inside = inside & w.inside.reshape(shape)
    rows = prod(w.count for w in found)
    return places.reshape(rows, -1), inside.reshape(rows, -1)


def _column_major(b: Body, index: str, sizes: Sequence[int]) -> str:
    """Row-major positions as those of the same elements if the first axis ran fastest."""
    total, rest = "", index
    step = prod(sizes)
    for size in reversed(sizes):
        step //= size
        quotient = b.div(rest, b.const(size, np.int64))
        place = b.sub(rest, b.mul(quotient, b.const(size, np.int64)))
        term = b.mul(place, b.const(step, np.int64))
        total, rest = (b.add(total, term) if total else term), quotient
    return total


def _image_offsets(site: Site, b: Body, space: int) -> str:
    """[N, C, 1]: where each image starts in the flattened input."""
    batch, channels = (site.input(0).shape or ())[:2]
    if isinstance(batch, int) and isinstance(channels, int):
        return b.const((np.arange(batch * channels) * space).reshape(batch, channels, 1), np.int64)
    lead = b.slice(b.op("Shape", site.x(0)), 0, 0, 2)
    images = b.reduce("ReduceProd", lead, 0, keepdims=False)
    every = b.op("Range", b.const(0, np.int64), images, b.const(1, np.int64))
    starts = b.mul(every, b.const(space, np.int64))
    return b.op("Reshape", starts, b.concat([lead, b.ints(1)], 0))


@lowering(
    "maxpool-by-gathers",
    "MaxPool",
    why="TensorRT pools neither whole numbers nor with dilations. A maximum can be taken axis by axis.",
    samples=[
        """(float[n, 2, 9, 8] x) => (float[n, 2, 5, 4] y)
        { y = MaxPool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }""",
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = MaxPool <kernel_shape = [3, 2], dilations = [2, 3], strides = [1, 2], pads = [2, 1, 2, 1]> (x) }"""
        ),
        """(float16[1, 1, 9, 8, 7] x) => (float16[1, 1, 5, 4, 3] y)
        { y = MaxPool <kernel_shape = [3, 2, 2], dilations = [2, 3, 1], strides = [1, 2, 2],
                       pads = [0, 1, 0, 0, 1, 0]> (x) }""",
        "(uint8[1, 2, 6, 6] x) => (uint8[1, 2, 5, 5] y) { y = MaxPool <kernel_shape = [2, 2]> (x) }",
        """(int8[1, 2, 7, 6] x) => (int8[1, 2, 4, 3] y)
        { y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_LOWER"> (x) }""",
        """(double[1, 2, 20] x) => (double[1, 2, 7] y)
        { y = MaxPool <kernel_shape = [3], dilations = [4], strides = [2], ceil_mode = 1, pads = [1, 0]> (x) }""",
    ],
    near_misses=[
        """(float[1, 1, h, w] x) => (float[1, 1, p, q] y)
        { y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2], ceil_mode = 1> (x) }"""
    ],
)
def maxpool_by_gathers(site: Site, b: Body) -> str:
    """The windows of every axis in turn."""
    if site.used(1):
        raise NoMatch("indices are wanted")
    if not is_static(site):
        dtype = site.dtype(0)
        lowest = np.finfo(np.float32).min if site.kind(0) == "f" else np.iinfo(dtype).min
        if dtype == np.float16:
            lowest = np.finfo(np.float16).min
        return window_slices(site, b, site.x(0), "Max", np.asarray(lowest, dtype))
    found = windows(site)
    plain = all(w.dilation == 1 for w in found) and not any(w.dropped for w in found)
    if site.kind(0) in "iu" and plain:
        pooled = _same_pool(site, b, b.cast(site.x(0), np.float32), found)
        return b.cast(pooled, site.dtype(0))
    x = site.x(0)
    for i, window in enumerate(found):
        x = gathered_along(b, x, i + 2, window, len(found) + 2, "ReduceMax")
    return x


def _same_pool(site: Site, b: Body, x: str, found: Sequence[Window], **attributes: Any) -> str:
    """The operator on another input, with explicit padding and without rounding up."""
    tails = [max(0, (w.count - 1) * w.stride + w.kernel - w.size - w.head) for w in found]
    return b.op(
        site.op,
        x,
        kernel_shape=[w.kernel for w in found],
        strides=[w.stride for w in found],
        pads=[*(w.head for w in found), *tails],
        **attributes,
    )


@lowering(
    "pool-without-window-in-padding",
    "MaxPool",
    "AveragePool",
    why="Rounding up, TensorRT makes a last window even where it starts in the padding; ONNX and ONNX Runtime have no"
    " such window. Padding that fits the windows exactly makes rounding irrelevant.",
    when="always",
    samples=[
        """(float[1, 1, 2, 2] x) => (float[1, 1, 1, 1] y)
        { y = MaxPool <kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1> (x) }""",
        """(float[n, 1, 5, 8] x) => (float[n, 1, 2, 3] y)
        { y = MaxPool <kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1> (x) }""",
        """(float[1, 2, 5, 5] x) => (float[1, 2, 2, 2] y)
        { y = AveragePool <kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1> (x) }""",
        """(float[1, 2, 5, 5] x) => (float[1, 2, 2, 2] y)
        { y = AveragePool <kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1,
                           count_include_pad = 1> (x) }""",
        *samples_in(
            "float16 double int8 uint8",
            "(T[1, 1, 2, 2] x) => (T[1, 1, 1, 1] y) { y = MaxPool <kernel_shape = [1, 1], strides = "
            "[2, 2], ceil_mode = 1> (x) }",
        ),
    ],
    near_misses=[
        """(float[1, 1, 5, 5] x) => (float[1, 1, 3, 3] y)
        { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x) }"""
    ],
)
def without_window_in_padding(site: Site, b: Body) -> str:
    """The same pooling with explicit padding and rounding down."""
    if site.op == "MaxPool" and site.used(1):
        raise NoMatch("indices are wanted")
    found = windows(site)
    if not any(w.dropped for w in found):
        raise NoMatch("no window starts in the padding")
    if any(w.dilation != 1 for w in found):
        raise NoMatch("a dilated window")
    if site.op == "MaxPool":
        return _same_pool(site, b, site.x(0), found)
    if not site.attr("count_include_pad", 0):
        return _same_pool(site, b, site.x(0), found)
    return averaged(site, b, found)
