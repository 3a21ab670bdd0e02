"""Windows that slide over an image, as gathers with constant positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
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


def gathered_along(b: Body, x: str, axis: int, window: Window, rank: int, kind: str, zero: Any = None) -> str:
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


def is_static(site: Site) -> bool:
    """Whether the size of the image is known."""
    return all(isinstance(s, int) for s in (site.input(0).shape or (None,))[2:])


def window_sum(b: Body, x: str, found: Sequence[Window], dtype: Any) -> str:
    """Sum over each window; outside of the input there are zeros."""
    for i, window in enumerate(found):
        x = gathered_along(b, x, i + 2, window, len(found) + 2, "ReduceSum", np.zeros((), dtype))
    return x


def widened(site: Site, b: Body) -> tuple[str, Any]:
    """The input in the dtype to compute in: at least float32."""
    dtype = site.dtype(0)
    if dtype in (np.float32, np.float64):
        return site.x(0), dtype
    return b.cast(site.x(0), np.float32), np.dtype(np.float32)


def narrowed(site: Site, b: Body, value: str, dtype: Any) -> str:
    """A value that was computed in `dtype`, in the dtype of the node's input."""
    return value if dtype == site.dtype(0) else b.cast(value, site.dtype(0))


def averaged(site: Site, b: Body, found: Sequence[Window]) -> str:
    """The mean of every window, in the dtype of the node's input."""
    x, dtype = widened(site, b)
    total = window_sum(b, x, found, dtype)
    counts: Any = np.ones([1] * (len(found) + 2))
    for i, w in enumerate(found):
        counted = w.padded if site.attr("count_include_pad", 0) else w.inside
        shape = [-1 if k == i + 2 else 1 for k in range(len(found) + 2)]
        counts = counts * counted.sum(axis=1).reshape(shape)
    return narrowed(site, b, b.div(total, b.const(counts, dtype)), dtype)
