"""Pooling: windows as gathers with constant positions, axis by axis where the reduction allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site

MAX_UNFOLDED = 1 << 22
"""Constant positions (windows times elements of a window) up to which all axes are unfolded at once."""


@dataclass(frozen=True)
class Window:
    """The windows along one axis.

    Attributes:
        size: Of the input.
        count: Windows.
        kernel: Elements of a window.
        stride: From one window to the next.
        dilation: From one element to the next.
        head: Padding at the start.
        tail: Padding at the end.
        dropped: Whether rounding up would give one more window, which starts in the padding.
    """

    size: int
    count: int
    kernel: int
    stride: int
    dilation: int
    head: int
    tail: int
    dropped: bool

    @property
    def positions(self) -> Any:
        """Where each element of each window lies: [count, kernel], outside of the input too."""
        starts = np.arange(self.count) * self.stride - self.head
        return starts[:, None] + np.arange(self.kernel)[None, :] * self.dilation

    @property
    def inside(self) -> Any:
        """Which of them are elements of the input."""
        at = self.positions
        return (at >= 0) & (at < self.size)

    @property
    def padded(self) -> Any:
        """Which of them are elements of the padded input."""
        at = self.positions
        return (at >= -self.head) & (at < self.size + self.tail)


def windows(site: Site) -> list[Window]:
    """The windows along every spatial axis; the spatial sizes have to be known."""
    x = site.input(0)
    kernel = [int(k) for k in site.attr("kernel_shape", [])]
    n = len(kernel)
    if x.rank != n + 2:
        raise NoMatch("the kernel does not have the rank of the input")
    sizes = (x.shape or ())[2:]
    if not all(isinstance(s, int) for s in sizes):
        raise NoMatch("the size of the image is not known")
    strides = site.attr("strides") or [1] * n
    dilations = site.attr("dilations") or [1] * n
    pads = site.attr("pads") or [0] * 2 * n
    auto = site.attr("auto_pad", "NOTSET")
    up = bool(site.attr("ceil_mode", 0))
    return [
        _window(int(sizes[i]), kernel[i], strides[i], dilations[i], (pads[i], pads[i + n]), auto, up)  # type: ignore[arg-type]
        for i in range(n)
    ]


def _window(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], auto: str, up: bool
) -> Window:
    reach = dilation * (kernel - 1) + 1
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        count = -(-size // stride)
        total = max((count - 1) * stride + reach - size, 0)
        head = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return Window(size, count, kernel, stride, dilation, head, total - head, False)
    head, tail = (0, 0) if auto == "VALID" else pads
    room = size + head + tail - reach
    if room < 0:
        raise NoMatch("a window is larger than the padded image")
    count = (-(-room // stride) if up else room // stride) + 1
    dropped = up and (count - 1) * stride >= size + head
    return Window(size, count - dropped, kernel, stride, dilation, head, tail, dropped)


def _along(b: Body, x: str, axis: int, window: Window, rank: int, kind: str, zero: Any = None) -> str:
    """Reduce the windows along one axis.

    Elements outside of the input repeat one inside (no change for a maximum), or become `zero`.
    """
    inside = window.inside
    if not inside.any(axis=1).all():
        raise NoMatch("a window lies in the padding as a whole")
    first = np.argmax(inside, axis=1)[:, None]
    places = np.where(inside, window.positions, np.take_along_axis(window.positions, first, axis=1))
    found = b.gather(x, b.const(places, np.int64), axis=axis)
    if zero is not None and not inside.all():
        mask = inside.reshape(*inside.shape, *[1] * (rank - axis - 1))
        found = b.where(b.const(mask, np.bool_), found, b.const(zero, zero.dtype))
    return b.reduce(kind, found, axis + 1, keepdims=False)


def window_slices(site: Site, b: Body, x: str, combine: str, fill: Any) -> str:
    """Windows of an image of any size: padded, and one strided slice for each element of a window, axis by axis.

    Args:
        site: The node; its sizes are not asked for, so only explicit padding and rounding down will do.
        b: The builder.
        x: The image.
        combine: Operator that puts two slices together.
        fill: What the padding holds, with the dtype of the image.
    """
    kernel = [int(k) for k in site.attr("kernel_shape", [])]
    n = len(kernel)
    if site.attr("ceil_mode", 0) or str(site.attr("auto_pad", "NOTSET")).startswith("SAME"):
        raise NoMatch("the size of the image decides the padding, and it is not known")
    strides, dilations = site.attr("strides") or [1] * n, site.attr("dilations") or [1] * n
    pads = site.attr("pads") or [0] * 2 * n
    if any(pads) and site.attr("auto_pad", "NOTSET") != "VALID":
        x = b.op("Pad", x, b.ints(0, 0, *pads[:n], 0, 0, *pads[n:]), b.const(fill, fill.dtype))
    for i in range(n):
        total = ""
        for k in range(kernel[i]):
            rest = (kernel[i] - 1 - k) * dilations[i]
            ends = b.ints(-rest if rest else np.iinfo(np.int64).max)
            part = b.op("Slice", x, b.ints(k * dilations[i]), ends, b.ints(i + 2), b.ints(strides[i]))
            total = b.op(combine, total, part) if total else part
        x = total
    return x


def _static(site: Site) -> bool:
    """Whether the size of the image is known."""
    return all(isinstance(s, int) for s in (site.input(0).shape or (None,))[2:])


def window_sum(b: Body, x: str, found: Sequence[Window], dtype: Any) -> str:
    """Sum over each window; outside of the input there are zeros."""
    for i, window in enumerate(found):
        x = _along(b, x, i + 2, window, len(found) + 2, "ReduceSum", np.zeros((), dtype))
    return x


def _wide(site: Site, b: Body) -> tuple[str, Any]:
    """The input in the dtype to compute in: at least float32."""
    dtype = site.dtype(0)
    if dtype in (np.float32, np.float64):
        return site.x(0), dtype
    return b.cast(site.x(0), np.float32), np.dtype(np.float32)


def _back(site: Site, b: Body, value: str, dtype: Any) -> str:
    return value if dtype == site.dtype(0) else b.cast(value, site.dtype(0))


# -- MaxPool ------------------------------------------------------------------------------------------


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
    if not _static(site):
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
        x = _along(b, x, i + 2, window, len(found) + 2, "ReduceMax")
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
    return _average(site, b, found)


# -- AveragePool --------------------------------------------------------------------------------------


@lowering(
    "averagepool-by-gathers",
    "AveragePool",
    why="TensorRT has no dilated average. Sums are taken axis by axis and divided by the number of elements.",
    samples=[
        Sample(
            """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
            { y = AveragePool <kernel_shape = [2, 2], dilations = [1, 2], pads = [1, 0, 1, 1],
                               count_include_pad = 1, strides = [2, 1]> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[n, 2, 9, 8] x) => (float[n, 2, 5, 4] y)
        { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[1, 2, 9, 8] x) => (float[1, 2, 7, 3] y)
        { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2], pads = [1, 0, 1, 1], strides = [1, 2],
                           count_include_pad = 1> (x) }""",
            opset=19,
        ),
        Sample(
            """(float[1, 1, 8, 8, 8] x) => (float[1, 1, 4, 4, 4] y)
        { y = AveragePool <kernel_shape = [2, 2, 2], dilations = [2, 2, 2], strides = [2, 2, 2],
                           ceil_mode = 1> (x) }""",
            opset=19,
        ),
        *samples_in(
            "float16 double",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) { y = AveragePool <kernel_shape = [2, 2], "
            "dilations = [1, 2], pads = [1, 0, 1, 1], count_include_pad = 1, strides = [2, 1]> (x) }",
            opset=19,
        ),
    ],
    near_misses=[
        Sample(
            """(float[1, 1, h, w] x) => (float[1, 1, p, q] y)
        { y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]> (x) }""",
            opset=19,
        )
    ],
    since=19,
)
def averagepool_by_gathers(site: Site, b: Body) -> str:
    """The sum over each window, divided by how many elements count."""
    if _static(site):
        return _average(site, b, windows(site))
    if any(site.attr("pads") or ()) and not site.attr("count_include_pad", 0):
        raise NoMatch("how many elements count depends on the size of the image, which is not known")
    x, dtype = _wide(site, b)
    total = window_slices(site, b, x, "Add", np.zeros((), dtype))
    volume = prod(int(k) for k in site.attr("kernel_shape", []))
    return _back(site, b, b.div(total, b.const(volume, dtype)), dtype)


def _average(site: Site, b: Body, found: Sequence[Window]) -> str:
    x, dtype = _wide(site, b)
    total = window_sum(b, x, found, dtype)
    counts: Any = np.ones([1] * (len(found) + 2))
    for i, w in enumerate(found):
        counted = w.padded if site.attr("count_include_pad", 0) else w.inside
        shape = [-1 if k == i + 2 else 1 for k in range(len(found) + 2)]
        counts = counts * counted.sum(axis=1).reshape(shape)
    return _back(site, b, b.div(total, b.const(counts, dtype)), dtype)


# -- LpPool -------------------------------------------------------------------------------------------


@lowering(
    "lppool-by-powers",
    "LpPool",
    why="TensorRT has p = 1 and 2 without dilations. The p-th root of the sum of p-th powers.",
    samples=[
        """(float[n, 2, h, w] x) => (float[n, 2, p, q] y)
        { y = LpPool <kernel_shape = [2, 3], strides = [1, 2], pads = [0, 1, 1, 0], p = 3> (x) }""",
        "(float[n, 2, 6, 6] x) => (float[n, 2, 5, 5] y) { y = LpPool <kernel_shape = [2, 2], p = 3> (x) }",
        """(float[1, 2, 7, 6] x) => (float[1, 2, 4, 3] y)
        { y = LpPool <kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_LOWER", p = 4> (x) }""",
        """(float[1, 2, 9] x) => (float[1, 2, 5] y)
        { y = LpPool <kernel_shape = [3], dilations = [3], pads = [1, 1], p = 1> (x) }""",
        """(float[1, 2, 9, 8] x) => (float[1, 2, 5, 4] y)
        { y = LpPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, p = 3> (x) }""",
        *samples_in(
            "float16 double",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) { y = LpPool <kernel_shape = [2, 3], strides = "
            "[1, 2], pads = [0, 1, 1, 0], p = 3> (x) }",
        ),
    ],
    near_misses=[
        """(float[1, 1, h, w] x) => (float[1, 1, p, q] y)
        { y = LpPool <kernel_shape = [2, 2], p = 3, auto_pad = "SAME_UPPER"> (x) }"""
    ],
)  # fmt: skip
def lppool(site: Site, b: Body) -> str:
    """Powers, the sum over each window, the root."""
    x, dtype = _wide(site, b)
    p = int(site.attr("p", 2))
    powers = _power(b, x, p, dtype)
    if not _static(site):
        total = window_slices(site, b, powers, "Add", np.zeros((), dtype))
        return _back(site, b, _root(b, total, p, dtype), dtype)
    found = windows(site)
    if all(w.dilation == 1 for w in found) and not site.attr("ceil_mode", 0):
        mean = b.op(
            "AveragePool",
            powers,
            kernel_shape=[w.kernel for w in found],
            strides=[w.stride for w in found],
            pads=[*(w.head for w in found), *(w.tail for w in found)],
            count_include_pad=1,
        )
        total = b.mul(mean, b.const(prod(w.kernel for w in found), dtype))
    else:
        total = window_sum(b, powers, found, dtype)
    return _back(site, b, _root(b, total, p, dtype), dtype)


def _power(b: Body, x: str, p: int, dtype: Any) -> str:
    """The p-th power of the magnitude."""
    if p == 2:
        return b.mul(x, x)
    size = b.op("Abs", x)
    return size if p == 1 else b.op("Pow", size, b.const(p, dtype))


def _root(b: Body, x: str, p: int, dtype: Any) -> str:
    if p == 1:
        return x
    return b.op("Sqrt", x) if p == 2 else b.op("Pow", x, b.const(1 / p, dtype))


@lowering(
    "global-lppool-by-powers",
    "GlobalLpPool",
    why="TensorRT has p = 1 and 2. The p-th root of the sum of p-th powers over all spatial axes.",
    samples=[
        "(float[n, 2, h, w] x) => (float[n, 2, 1, 1] y) { y = GlobalLpPool <p = 3> (x) }",
        "(float[1, 2, 5] x) => (float[1, 2, 1] y) { y = GlobalLpPool <p = 1> (x) }",
        "(float[1, 2, 5, 3, 2] x) => (float[1, 2, 1, 1, 1] y) { y = GlobalLpPool (x) }",
        *samples_in("float16", "(T[n, 2, h, w] x) => (T[n, 2, 1, 1] y) { y = GlobalLpPool <p = 3> (x) }"),
    ],
    near_misses=["(float[1, 2, 5] x) => (float[1, 2, 1] y) { y = GlobalAveragePool (x) }"],
)
def global_lppool(site: Site, b: Body) -> str:
    """Powers, their sum, the root."""
    x, dtype = _wide(site, b)
    p = int(site.attr("p", 2))
    total = b.reduce("ReduceSum", _power(b, x, p, dtype), *range(2, site.input(0).rank))
    return _back(site, b, _root(b, total, p, dtype), dtype)


# -- MaxUnpool ----------------------------------------------------------------------------------------


@lowering(
    "maxunpool-by-scatter",
    "MaxUnpool",
    why="No TensorRT has MaxUnpool. Indices count the elements of the whole output, so it is one scatter.",
    samples=[
        Sample(
            """(float[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (float[1, 1, 4, 4] y)
            { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i) }""",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
        Sample(
            """(float[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (float[1, 1, 5, 5] y) <int64[4] s = {1, 1, 5, 5}>
            { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, s) }""",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
        Sample(
            """(double[2, 1, 3] x, int64[2, 1, 3] i) => (double[2, 1, 6] y)
            { y = MaxUnpool <kernel_shape = [3], strides = [2], pads = [1, 0]> (x, i) }""",
            feeds={"i": [[[0, 3, 5]], [[7, 8, 11]]]},
        ),
        *samples_in(
            "float16",
            "(T[1, 1, 2, 2] x, int64[1, 1, 2, 2] i) => (T[1, 1, 4, 4] y) { y = MaxUnpool "
            "<kernel_shape = [2, 2], strides = [2, 2]> (x, i) }",
            feeds={"i": [[[[5, 7], [13, 15]]]]},
        ),
    ],
    near_misses=[
        """(float[1, 1, h, 2] x, int64[1, 1, h, 2] i) => (float[1, 1, k, 4] y)
        { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i) }"""
    ],
)
def maxunpool(site: Site, b: Body) -> str:
    """Scatter into zeros."""
    x = site.input(0)
    size = _unpooled(site, x.dims[1:])
    volume = prod(size)
    batch = (x.shape or ())[0]
    if not isinstance(batch, int):
        raise NoMatch("the batch is not known")
    zeros = b.const(np.zeros(batch * volume), site.dtype(0))
    full = b.op("ScatterElements", zeros, b.reshape(site.x(1), -1), b.reshape(x.name, -1), axis=0)
    return b.reshape(full, batch, *size)


def _unpooled(site: Site, before: Sequence[int]) -> list[int]:
    """Channels and spatial sizes of the output."""
    if site.has(2):
        given = site.input(2).value
        if given is not None:
            return [int(d) for d in given[1:]]
        if site.out(0).static:
            return list(site.out(0).dims[1:])
        site.need(2, "the shape of the output")
    kernel = site.attr("kernel_shape", [])
    n = len(kernel)
    strides, pads = site.attr("strides") or [1] * n, site.attr("pads") or [0] * 2 * n
    return [
        before[0],
        *((before[i + 1] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + n] for i in range(n)),
    ]


# -- MaxRoiPool ---------------------------------------------------------------------------------------


@lowering(
    "maxroipool-by-masks",
    "MaxRoiPool",
    why="No TensorRT has MaxRoiPool. Which rows and columns belong to a bin is computed from the boxes.",
    samples=[
        Sample(
            """(float[2, 3, 8, 6] x, float[4, 5] r) => (float[4, 3, 2, 3] y)
            { y = MaxRoiPool <pooled_shape = [2, 3]> (x, r) }""",
            feeds={"r": [[0, 0, 0, 3, 3], [1, 1, 2, 5, 7], [1, 4, 4, 4, 4], [0, 2.5, -3, 9, 12]]},
        ),
        Sample(
            """(float[2, 3, 8, 6] x, float[k, 5] r) => (float[k, 3, 2, 2] y)
            { y = MaxRoiPool <pooled_shape = [2, 2], spatial_scale = 0.5> (x, r) }""",
            feeds={"r": [[0, 0, 0, 7, 7], [1, 3, 5, 11, 9], [1, 30, 30, 40, 40]]},
        ),
        *samples_in(
            "float16",
            "(T[2, 3, 8, 6] x, T[4, 5] r) => (T[4, 3, 2, 3] y) { y = MaxRoiPool <pooled_shape = [2, "
            "3]> (x, r) }",
            feeds={"r": [[0, 0, 0, 3, 3], [1, 1, 2, 5, 7], [1, 4, 4, 4, 4], [0, 2.5, -3, 9, 12]]},
        ),
    ],
    near_misses=["(float[1, 2, 5, 5] x) => (float[1, 2, 1, 1] y) { y = GlobalMaxPool (x) }"],
)
def maxroipool(site: Site, b: Body) -> str:
    """The maximum over the rows of each bin, then over the columns; 0 for an empty bin."""
    x = site.input(0)
    height, width = (x.shape or (None,) * 4)[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise NoMatch("the size of the image is not known")
    bins = [int(n) for n in site.attr("pooled_shape", [])]
    scale = float(site.attr("spatial_scale", 1.0))
    dtype = site.dtype(0)
    image = b.cast(b.gather(site.x(1), b.const(0, np.int64), axis=1), np.int64)
    picked = b.gather(x.name, image, axis=0)
    rows = _bin_masks(site, b, (2, 4), bins[0], height, scale)
    columns = _bin_masks(site, b, (1, 3), bins[1], width, scale)
    lowest = b.const(np.finfo(dtype).min, dtype)
    parts = []
    for k in range(bins[0]):
        mask = b.reshape(b.slice(rows, 1, k, k + 1), -1, 1, height, 1)
        parts.append(b.reduce("ReduceMax", b.where(mask, picked, lowest), 2))
    lines = b.unsqueeze(b.concat(parts, 2), 3)  # [boxes, channels, bins, 1, width]
    across = b.reshape(columns, -1, 1, 1, bins[1], width)
    top = b.reduce("ReduceMax", b.where(across, lines, lowest), 4, keepdims=False)
    return b.where(_some(b, rows, columns, bins), top, b.const(0, dtype))


def _some(b: Body, rows: str, columns: str, bins: list[int]) -> str:
    """Which bins have an element: [boxes, 1, rows, columns]."""
    sides = []
    for mask, shape in ((rows, (-1, 1, bins[0], 1)), (columns, (-1, 1, 1, bins[1]))):
        count = b.reduce("ReduceMax", b.cast(mask, np.float32), 2)
        sides.append(b.reshape(b.greater(count, b.scalar(0.5)), *shape))
    return b.logical_and(*sides)


def _bin_masks(site: Site, b: Body, ends: tuple[int, int], bins: int, size: int, scale: float) -> str:
    """[boxes, bins, size]: which elements along an axis belong to which bin."""
    dtype = site.dtype(1)
    corners = []
    for column in ends:
        at = b.mul(b.gather(site.x(1), b.ints(column), axis=1), b.const(scale, dtype))
        # Halves are rounded away from zero.
        whole = b.op("Floor", b.add(b.op("Abs", at), b.const(0.5, dtype)))
        corners.append(b.mul(whole, b.op("Sign", at)))
    extent = b.maximum(b.add(b.sub(corners[1], corners[0]), b.const(1, dtype)), b.const(1, dtype))
    step = b.div(extent, b.const(bins, dtype))
    start = b.op("Floor", b.mul(step, b.const(np.arange(bins)[None], dtype)))
    end = b.op("Ceil", b.mul(step, b.const(np.arange(1, bins + 1)[None], dtype)))
    low = b.unsqueeze(b.add(start, corners[0]), 2)
    high = b.unsqueeze(b.add(end, corners[0]), 2)
    place = b.const(np.arange(size)[None, None], dtype)
    return b.logical_and(b.logical_not(b.less(place, low)), b.less(place, high))
