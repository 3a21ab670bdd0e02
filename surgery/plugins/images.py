"""The bodies of plugins that pick or interpolate pixels.

Sources: plugin/resizeNearestPlugin, coordConvACPlugin and common/kernels/maskRCNNKernels.cu of NVIDIA/TensorRT;
csrc/mmdeploy/backend_ops/tensorrt (grid_sampler, bicubic_interpolate) of mmdeploy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.lowered import numbers, rank_of, size
from surgery.rules.sampling.pixels import Tap, weighted_pixels

F = np.float32

# -- nearest pixel --------------------------------------------------------------------------------------


def nearest_size(dim: int | str | None, scale: float) -> int | None:
    """A dim of the result of ResizeNearest_TRT: the product in float32, without its fraction."""
    return int(F(dim) * F(scale)) if isinstance(dim, int) else None


def emit_nearest(b: Body, node: ConfiguredNode) -> str:
    """Pixel (y, x) of the result is pixel (int(y / scale), int(x / scale)) of the input."""
    scale = node.attributes["scale"]
    x = node.input_names[0]
    if float(scale).is_integer():
        return b.op(
            "Resize",
            x,
            b.floats(),
            b.floats(1.0, 1.0, scale, scale),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    for axis in (2, 3):
        count = nearest_size(node.static(0, axis), scale)
        if not count:
            raise node.refuse(f"axis {axis} of the result has no pixels")
        source = (np.arange(count, dtype=F) / F(scale)).astype(np.int64)
        x = b.gather(x, b.const(source, np.int64), axis)
    return x


# -- coordinates ----------------------------------------------------------------------------------------


def coordinate_channels(height: int, width: int) -> NDArray[np.float64]:
    """The two channels [2, height, width] that CoordConvAC adds, as its kernel computes them.

    Channel 0 rises with the row, but by the step that belongs to the columns; channel 1 depends on the
    position in memory modulo the number of rows. They are the coordinates only if the image is square.
    """
    index = np.arange(height * width)
    step_x, step_y = F(2) / F(width - 1), F(2) / F(height - 1)
    row = -1.0 + ((index // width).astype(F) * step_x).astype(np.float64)
    column = -1.0 + (((index + height * width) % height).astype(F) * step_y).astype(np.float64)
    return np.stack([row, column]).reshape(2, height, width)


# -- grid sampling --------------------------------------------------------------------------------------


def emit_grid_sample(b: Body, node: ConfiguredNode) -> str:
    """PyTorch's grid_sample; float32. Nearest pixels at a half are those away from zero, as CUDA's round has it."""
    a = node.attributes
    spatial = rank_of(node, 0) - 2
    sizes = [node.static(0, 2 + i) for i in range(spatial)]
    grid = node.input_names[1]
    taps = []
    for i in range(spatial):  # the last axis of the image is the first coordinate
        coordinate = b.gather(grid, b.const(spatial - 1 - i, np.int64), -1)
        place = _place(b, coordinate, sizes[i], bool(a["align_corners"]))
        if a["padding_mode"] == 2:
            place = _reflected(b, place, sizes[i], bool(a["align_corners"]))
        if a["padding_mode"]:
            place = b.maximum(b.minimum(place, b.scalar(sizes[i] - 1)), b.scalar(0.0))
        taps.append(_nearest(b, place, sizes[i]) if a["interpolation_mode"] else _linear(b, place, sizes[i]))
    pixels = b.op("Flatten", b.transpose(node.input_names[0], 0, *range(2, spatial + 2), 1), axis=spatial + 1)
    rows = b.op("Pad", pixels, b.ints(1, 0, 0, 0))  # row 0 is what lies outside
    area = b.const(int(np.prod(sizes)), np.int64)
    base = b.reshape(b.mul(numbers(b, size(b, node, 0, 0)), area), -1, *[1] * spatial)
    lengths = [b.const(s, np.int64) for s in sizes]
    found = weighted_pixels(b, rows, base, taps, lengths, F)
    return b.transpose(found, 0, spatial + 1, *range(1, spatial + 1))


def _place(b: Body, at: str, length: int, align: bool) -> str:
    """A coordinate in -1..1 as a place among the pixels."""
    if align:
        return b.mul(b.div(b.add(at, b.scalar(1.0)), b.scalar(2.0)), b.scalar(length - 1))
    scaled = b.mul(b.add(at, b.scalar(1.0)), b.scalar(length))
    return b.div(b.sub(scaled, b.scalar(1.0)), b.scalar(2.0))


def _reflected(b: Body, place: str, length: int, align: bool) -> str:
    """A place mirrored at the centres of the outer pixels, or at their edges, as often as needed."""
    low, span = (0.0, float(length - 1)) if align else (-0.5, float(length))
    if span == 0:
        return b.mul(place, b.scalar(0.0))
    distance = b.op("Abs", b.sub(place, b.scalar(low)))
    flips = b.op("Floor", b.div(distance, b.scalar(span)))
    rest = b.sub(distance, b.mul(flips, b.scalar(span)))
    half = b.div(flips, b.scalar(2.0))
    even = b.equal(b.op("Floor", half), half)
    return b.add(b.where(even, rest, b.sub(b.scalar(span), rest)), b.scalar(low))


def _nearest(b: Body, place: str, length: int) -> list[Tap]:
    """The nearest pixel; of two, the one further from 0."""
    distance = b.op("Abs", place)
    whole = b.op("Floor", distance)
    up = b.cast(b.logical_not(b.less(b.sub(distance, whole), b.scalar(0.5))), F)
    return [_tap(b, b.mul(b.op("Sign", place), b.add(whole, up)), None, length)]


def _linear(b: Body, place: str, length: int) -> list[Tap]:
    """Both pixels around a place."""
    low = b.op("Floor", place)
    part = b.sub(place, low)
    one = b.scalar(1.0)
    return [_tap(b, low, b.sub(one, part), length), _tap(b, b.add(low, one), part, length)]


def _tap(b: Body, place: str, weight: str | None, length: int) -> Tap:
    zero, last = b.scalar(0.0), b.scalar(length - 1)
    inside = b.logical_not(b.logical_or(b.less(place, zero), b.greater(place, last)))
    return Tap(b.cast(b.maximum(b.minimum(place, last), zero), np.int64), weight, inside)


# -- bicubic --------------------------------------------------------------------------------------------


def emit_bicubic(b: Body, node: ConfiguredNode) -> str:
    """PyTorch's bicubic interpolation to whole multiples of the size."""
    factors = [int(s) for s in node.attributes["scale_factor"]]
    mode = "align_corners" if node.attributes["align_corners"] else "half_pixel"
    if node.attributes["align_corners"]:
        results = [node.static(0, 2 + i) * s for i, s in enumerate(factors)]
        if 1 in results:  # the kernel then scales by the sizes themselves
            mode = "asymmetric"
    return b.op(
        "Resize",
        node.input_names[0],
        b.floats(),
        b.floats(1.0, 1.0, *factors),
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode=mode,
    )
