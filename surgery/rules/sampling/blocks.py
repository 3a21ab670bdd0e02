"""Col2Im, DepthToSpace and SpaceToDepth: pixels moved between blocks and the image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.precision import inner_dtype, to

# -- Col2Im -------------------------------------------------------------------------------------------


@lowering(
    "col2im-by-gather",
    "Col2Im",
    why="No TensorRT has Col2Im. Which columns add up to a pixel is known, so each pixel gathers and adds them.",
    samples=[
        """(float[n, 8, 4] x) => (float[n, 2, 4, 4] y) <int64[2] i = {4, 4}, int64[2] k = {2, 2}>
        { y = Col2Im <strides = [2, 2]> (x, i, k) }""",
        """(float[1, 6, 25] x) => (float[1, 1, 5, 6] y) <int64[2] i = {5, 6}, int64[2] k = {2, 3}>
        { y = Col2Im <pads = [0, 1, 1, 0]> (x, i, k) }""",
        """(float16[2, 8, 9] x) => (float16[2, 2, 5, 5] y) <int64[2] i = {5, 5}, int64[2] k = {2, 2}>
        { y = Col2Im <dilations = [2, 2]> (x, i, k) }""",
        Sample(
            """(double[1, 8, 12] x, int64[3] i) => (double[1, 1, 3, 4, 3] y) <int64[3] k = {2, 2, 2}>
            { y = Col2Im (x, i, k) }""",
            feeds={"i": [3, 4, 3]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 bool",
            "(T[n, 8, 4] x) => (T[n, 2, 4, 4] y) <int64[2] i = {4, 4}, int64[2] k = {2, 2}> { y = "
            "Col2Im <strides = [2, 2]> (x, i, k) }",
        ),
    ],
    near_misses=[
        """(float[1, 8, 9] x, int64[2] i) => (float[1, 2, h, w] y) <int64[2] k = {2, 2}>
        { y = Col2Im (x, i, k) }"""
    ],
)
def col2im(site: Site, b: Body) -> str:
    """Gather the columns of each pixel and add them up."""
    block = [int(k) for k in site.need(2, "the shape of the blocks")]
    image = _image_shape(site)
    n = len(image)
    strides, dilations = site.attr("strides") or [1] * n, site.attr("dilations") or [1] * n
    pads = site.attr("pads") or [0] * 2 * n
    counts = [
        (image[i] + pads[i] + pads[i + n] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(n)
    ]
    taps = np.stack([t.reshape(-1) for t in np.indices(block)], axis=1)
    steps = np.stack([t.reshape(-1) for t in np.indices(counts)], axis=1)
    at = steps[None] * strides - pads[:n] + taps[:, None] * dilations  # [taps, steps, n]
    inside = ((at >= 0) & (at < image)).all(axis=2).reshape(-1)
    pixels = np.ravel_multi_index(tuple(np.clip(at, 0, np.array(image) - 1).reshape(-1, n).T), image)
    columns = np.flatnonzero(inside)
    pixels = pixels[inside]
    order = np.argsort(pixels, kind="stable")
    columns, pixels = columns[order], pixels[order]
    first = np.searchsorted(pixels, np.arange(prod(image)))
    rank = np.arange(len(pixels)) - first[pixels]
    most = int(rank.max(initial=0)) + 1
    zero = len(taps) * len(steps)
    places = np.full((prod(image), most), zero, np.int64)
    places[pixels, rank] = columns
    dtype = inner_dtype(site.dtype(0)) if site.kind(0) == "f" else site.dtype(0)
    x = to(b, site.x(0), site.dtype(0), dtype)
    channels = _channels(site, len(taps))
    flat = b.reshape(x, -1, channels, zero)
    if (places == zero).any():
        flat = b.op("Pad", flat, b.ints(0, 0, 0, 0, 0, 1))
    total = b.reduce("ReduceSum", b.gather(flat, b.const(places, np.int64), axis=2), 3, keepdims=False)
    return to(b, b.reshape(total, -1, channels, *image), dtype, site.dtype(0))


def _channels(site: Site, taps: int) -> int:
    rows = (site.input(0).shape or (None,) * 2)[1]
    if not isinstance(rows, int):
        raise NoMatch("the number of channels is not known")
    return rows // taps


def _image_shape(site: Site) -> list[int]:
    given = site.input(1).value
    if given is not None:
        return [int(d) for d in given]
    shape = (site.out(0).shape or ())[2:]
    if shape and all(isinstance(d, int) for d in shape):
        return [int(d) for d in shape if isinstance(d, int)]
    return [int(d) for d in site.need(1, "the shape of the image")]


# -- DepthToSpace, SpaceToDepth -----------------------------------------------------------------------


def _rearranged(
    b: Body, x: Operand, middle: Sequence[Any], order: Sequence[int], after: Sequence[Any]
) -> str:
    """Reshape, transpose, reshape; sizes are numbers, or (axis of x, factor, divisor)."""
    turned = b.transpose(b.op("Reshape", x.name, _shape(b, x, middle)), *order)
    return b.op("Reshape", turned, _shape(b, x, after))


def _shape(b: Body, x: Operand, sizes: Sequence[Any]) -> str:
    known: list[int | None] = []
    for size in sizes:
        if isinstance(size, int):
            known.append(size)
            continue
        axis, factor, divisor = size
        dim = x.dim(axis)
        known.append(dim * factor // divisor if isinstance(dim, int) else None)
    if known.count(None) <= 1:
        return b.ints(*(-1 if k is None else k for k in known))
    parts = []
    for size, number in zip(sizes, known, strict=True):
        if number is not None:
            parts.append(b.ints(number))
            continue
        axis, factor, divisor = size
        length = b.slice(b.op("Shape", x.name), 0, axis, axis + 1)
        length = length if factor == 1 else b.mul(length, b.ints(factor))
        parts.append(length if divisor == 1 else b.div(length, b.ints(divisor)))
    return b.concat(parts, 0)


def _to_space(site: Site, b: Body) -> str:
    n = int(site.attr("blocksize", 1))
    batch, depth, height, width = (0, 1, 1), (1, 1, n * n), (2, 1, 1), (3, 1, 1)
    crd = site.attr("mode", "DCR") == "CRD"
    middle = [batch, depth, n, n, height, width] if crd else [batch, n, n, depth, height, width]
    order = [0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2]
    return _rearranged(b, site.input(0), middle, order, [batch, depth, (2, n, 1), (3, n, 1)])


def _to_depth(site: Site, b: Body) -> str:
    n = int(site.attr("blocksize", 1))
    batch, channels, height, width = (0, 1, 1), (1, 1, 1), (2, 1, n), (3, 1, n)
    crd = site.attr("mode", "DCR") == "CRD"
    order = [0, 1, 3, 5, 2, 4] if crd else [0, 3, 5, 1, 2, 4]
    middle = [batch, channels, height, n, width, n]
    return _rearranged(b, site.input(0), middle, order, [batch, (1, n * n, 1), height, width])


@lowering(
    "blocks-in-crd-order",
    "DepthToSpace",
    "SpaceToDepth",
    why="TensorRT builds the CRD order and gives wrong numbers. It is a reshape, a transpose and a reshape.",
    when="always",
    samples=[
        """(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y)
        { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }""",
        """(float[n, 8, h, w] x) => (float[n, 2, p, q] y)
        { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }""",
        """(double[n, 18, 2, w] x) => (double[n, 2, 6, q] y)
        { y = DepthToSpace <blocksize = 3, mode = "CRD"> (x) }""",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 bool",
            '(T[1, 8, 2, 3] x) => (T[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
        ),
    ],
    near_misses=[
        "(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        "(float[1, 2, 4, 6] x) => (float[1, 8, 2, 3] y) { y = SpaceToDepth <blocksize = 2> (x) }",
    ],
)
def blocks_in_crd_order(site: Site, b: Body) -> str:
    """Blocks whose depth runs slowest."""
    if site.attr("mode", "DCR") != "CRD":
        raise NoMatch("the other order is computed as it should be")
    return _to_space(site, b) if site.op == "DepthToSpace" else _to_depth(site, b)


@lowering(
    "blocks-by-transpose",
    "DepthToSpace",
    "SpaceToDepth",
    why="What TensorRT does not take of them, such as other dtypes, is a reshape, a transpose and a reshape.",
    samples=[
        "(float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        "(float[n, 2, h, w] x) => (float[n, 8, p, q] y) { y = SpaceToDepth <blocksize = 2> (x) }",
        "(double[1, 2, 4, 6] x) => (double[1, 8, 2, 3] y) { y = SpaceToDepth <blocksize = 2> (x) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 bool",
            "(T[1, 8, 2, 3] x) => (T[1, 2, 4, 6] y) { y = DepthToSpace <blocksize = 2> (x) }",
        ),
    ],
    near_misses=["(float[8, 2, 3] x) => (float[8, 3, 2] y) { y = Transpose <perm = [0, 2, 1]> (x) }"],
)
def blocks_by_transpose(site: Site, b: Body) -> str:
    """Blocks in either order."""
    return _to_space(site, b) if site.op == "DepthToSpace" else _to_depth(site, b)
