"""Coordinates, weights and their application along the axes that change."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Operand, Site
from surgery.rules.resize.axes import Axis, Mixed, Style, Value, size_along

DENSE = 1 << 20
"""Elements up to which a constant matrix of weights is written out; larger ones become a few gathers."""

MAX_TAPS = 8

HALF_TOLERANCE = 1e-6
"""So close to a half, ONNX Runtime takes a position for one."""


def _idle(axis: Axis, style: Style, rank: int) -> bool:
    """Whether nothing happens along an axis."""
    # Interpolation is defined between pixels: batch and channels stay as they are if their size does.
    if style.mode != "nearest" and rank > 2 and axis.index < 2 and axis.before == axis.after:
        return True
    if style.antialias and axis.before == axis.after:
        return True
    # ONNX Runtime leaves an axis with a scale of 1 alone, whatever the region of interest.
    if not isinstance(axis.scale, str):
        return bool(axis.scale == 1) and (axis.before == axis.after)
    return bool(axis.before == axis.after == 1)


# -- coordinates and weights --------------------------------------------------------------------------


def coordinates(m: Mixed, axis: Axis, transform: str) -> Value:
    """Where each element of the output lies in the input."""
    i = m.count(axis.after)
    before, after = m.real(axis.before), m.real(axis.after)
    last, steps = m.op("Sub", before, 1), m.op("Max", m.op("Sub", after, 1), 1)
    if transform == "align_corners":
        return m.op("Div", m.op("Mul", i, last), steps)
    if transform == "asymmetric":
        return m.op("Div", i, axis.scale)
    if transform == "tf_crop_and_resize":
        extent = m.op("Sub", axis.end, axis.start)
        along = m.op("Div", m.op("Mul", m.op("Mul", i, extent), last), steps)
        many = m.op("Add", m.op("Mul", axis.start, last), along)
        if isinstance(axis.scale, str):
            many = m.op("Where", m.op("Equal", axis.scale, 1), i, many)
        single = m.op("Mul", m.op("Mul", m.op("Add", axis.start, axis.end), 0.5), last)
        return _if_single(m, axis, many, single)
    center = m.op("Div", m.op("Add", i, 0.5), axis.scale)
    if transform == "tf_half_pixel_for_nn":
        return (
            m.op("Where", m.op("Equal", axis.scale, 1), i, center) if isinstance(axis.scale, str) else center
        )
    x = m.op("Sub", center, 0.5)
    if transform == "half_pixel":
        return x
    if transform == "pytorch_half_pixel":
        return _if_single(m, axis, x, np.zeros(1, np.float32))
    if transform == "half_pixel_symmetric":
        adjustment = m.op("Div", after, m.op("Mul", axis.scale, before))
        offset = m.op("Mul", m.op("Div", before, 2), m.op("Sub", 1, adjustment))
        if axis.static:  # as ONNX Runtime: this one in double precision
            exact = offset + (i + np.float64(0.5)) / np.float64(axis.scale) - 0.5
            return exact.astype(np.float32)
        return m.op("Add", offset, x)
    raise NoMatch(f"coordinates {transform} are not known")


def _if_single(m: Mixed, axis: Axis, many: Value, single: Value) -> Value:
    """One expression for an output of size 1, another for larger ones."""
    if isinstance(axis.after, int):
        return m.op("Add", single, np.zeros(1, np.float32)) if axis.after == 1 else many
    return m.op("Where", m.op("Equal", m.real(axis.after), 1), single, many)


def nearest_index(m: Mixed, x: Value, axis: Axis, rounding: str) -> str:
    """Number of the nearest element, int64."""
    low = m.op("Floor", x)
    if rounding == "floor":
        whole = low
    elif rounding == "away_from_start":  # before opset 11: up where the axis shrinks
        whole = m.op("Where", m.op("Less", axis.scale, 1), m.op("Ceil", x), low)
    elif rounding == "ceil":
        whole = m.op("Ceil", x)
    else:
        part = m.op("Sub", x, low)
        up = rounding == "round_prefer_ceil"
        above = m.op("Greater", part, 0.5 - HALF_TOLERANCE if up else 0.5 + HALF_TOLERANCE)
        whole = m.op("Add", low, m.one_where(above))
    return m.whole(m.op("Max", m.op("Min", whole, m.op("Sub", m.real(axis.before), 1)), 0))


def _kernel(m: Mixed, t: Value, style: Style) -> Value:
    """Weight at distance t."""
    if style.mode == "linear":
        return m.op("Max", m.op("Sub", 1, t), 0)
    a = style.cubic
    inner = m.op("Sub", m.op("Mul", t, a + 2), a + 3)
    inner = m.op("Add", m.op("Mul", m.op("Mul", inner, t), t), 1)
    outer = m.op("Sub", m.op("Mul", t, a), 5 * a)
    outer = m.op("Sub", m.op("Mul", m.op("Add", m.op("Mul", outer, t), 8 * a), t), 4 * a)
    far = m.op("Where", m.op("Less", t, 2), outer, 0)
    return m.op("Where", m.op("Greater", t, 1), far, inner)


def _margin(m: Mixed, axis: Axis, style: Style) -> int | str:
    """How far the filter reaches beyond the edges, rounded up."""
    reach = 2 if style.mode == "cubic" else 1
    if not style.antialias:
        return reach + 1
    if not isinstance(axis.scale, str):
        return ceil(reach / min(float(axis.scale), 1.0)) + 1
    if isinstance(axis.after, int) and isinstance(axis.before, int):
        return ceil(reach / min(max(axis.after - 0.5, 0.5) / axis.before, 1.0)) + 1
    if not style.stretched:
        raise NoMatch("how far the filter reaches is not known")
    before, after = m.index(axis.before), m.index(axis.after)
    far = m.b.div(m.b.mul(before, m.b.const(reach, np.int64)), after)
    return m.b.add(far, m.b.const(reach + 1, np.int64))


def weights(m: Mixed, x: Value, axis: Axis, style: Style) -> Value:
    """Matrix [after, before]: an output element is the sum of input elements times its row.

    Elements beyond an edge are those at the edge; their weights are added to the edge's.
    """
    shrink: Value = np.asarray(1, np.float32)
    if style.antialias:
        shrink = m.op("Min", axis.scale, 1)
    margin: int | str = 0 if style.exclude_outside else _margin(m, axis, style)
    if style.mode == "linear" and not style.antialias:
        x = m.op("Max", m.op("Min", x, m.op("Sub", m.real(axis.before), 1)), 0)
    column = m.count(axis.before, margin)
    distance = m.op("Abs", m.op("Mul", m.op("Sub", m.column(x), column), shrink))
    matrix = _kernel(m, distance, style)
    if style.exclude_outside or style.antialias:
        matrix = m.op("Div", matrix, m.total(matrix))
    if margin:
        inside = m.op("Max", m.op("Min", column, m.op("Sub", m.real(axis.before), 1)), 0)
        fold = m.one_where(m.op("Equal", m.column(inside), m.count(axis.before)))
        matrix = m.op("MatMul", matrix, fold)
    return matrix


# -- applying -----------------------------------------------------------------------------------------


def _apply_matrix(b: Body, x: str, matrix: str, axis: int, rank: int) -> str:
    if rank == 1:
        column = b.op("MatMul", matrix, b.unsqueeze(x, 1))
        return b.squeeze(column, 1)
    if axis == rank - 2:
        return b.op("MatMul", matrix, x)
    turned = b.transpose(matrix, 1, 0)
    if axis == rank - 1:
        return b.op("MatMul", x, turned)
    order = [a for a in range(rank) if a != axis] + [axis]
    back = [order.index(a) for a in range(rank)]
    return b.transpose(b.op("MatMul", b.transpose(x, *order), turned), *back)


def _apply_taps(b: Body, x: str, matrix: Any, axis: int, rank: int, dtype: Any) -> str:
    """A sparse constant matrix as a few gathers."""
    taps = max(1, int((matrix != 0).sum(axis=1).max()))
    places = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps], axis=1)
    total = ""
    for k in range(taps):
        share = np.take_along_axis(matrix, places[:, k : k + 1], axis=1)
        share = share.reshape([-1 if a == axis else 1 for a in range(rank)])
        term = b.mul(b.gather(x, b.ints(*places[:, k]), axis=axis), b.const(share, dtype))
        total = b.add(total, term) if total else term
    return total


def _interpolate(m: Mixed, x: str, axis: Axis, at: Value, style: Style, rank: int, dtype: Any) -> str:
    matrix = weights(m, at, axis, style)
    if isinstance(matrix, str):
        matrix = matrix if dtype == np.float32 else m.b.cast(matrix, dtype)
        return _apply_matrix(m.b, x, matrix, axis.index, rank)
    if style.fixed_point:  # weights of 8-bit images have so many bits
        matrix = np.round(np.float64(matrix) * (1 << 22)) / (1 << 22)
    if matrix.size > DENSE and (matrix != 0).sum(axis=1).max() <= MAX_TAPS:
        return _apply_taps(m.b, x, matrix, axis.index, rank, dtype)
    return _apply_matrix(m.b, x, m.b.const(matrix, dtype), axis.index, rank)


def _whole_bilinear(m: Mixed, x: str, rows: Axis, columns: Axis, at: list[Value]) -> str:
    """Bilinear interpolation of whole numbers, added up in the order in which ONNX Runtime does it.

    The sum is cut to a whole number, so that its last bit can matter.
    """
    first, second, near, far = [], [], [], []
    for axis, place in ((rows, at[0]), (columns, at[1])):
        last = m.op("Sub", m.real(axis.before), 1)
        place = m.op("Max", m.op("Min", place, last), 0)
        low = m.op("Floor", place)
        high = m.op("Min", m.op("Add", low, 1), last)
        edge = m.op("Equal", low, high)
        first.append(m.whole(low))
        second.append(m.whole(high))
        near.append(m.op("Where", edge, 0.5, m.op("Sub", high, place)))
        far.append(m.op("Where", edge, 0.5, m.op("Sub", place, low)))
    total = ""
    for row, down in ((first[0], near[0]), (second[0], far[0])):
        line = m.b.gather(x, row, axis=rows.index)
        for column, right in ((first[1], near[1]), (second[1], far[1])):
            term = m.b.mul(
                m.name(m.op("Mul", right, m.column(down))), m.b.gather(line, column, axis=columns.index)
            )
            total = m.b.add(total, term) if total else term
    return total


def _by_growth(axis: Axis) -> float:
    """Axes that shrink most come first, so that less is left to do."""
    if isinstance(axis.before, int) and isinstance(axis.after, int):
        return axis.after / max(axis.before, 1)
    return 1.0


def resize(site: Site, b: Body, found: list[Axis], style: Style) -> str:
    """The input resized along the axes, one after the other."""
    m, x = Mixed(b), site.input(0)
    rank, dtype = x.rank, site.dtype(0)
    busy = sorted((a for a in found if not _idle(a, style, rank)), key=_by_growth)
    if site.kind(0) in "iu":
        busy.sort(key=lambda a: -a.index)  # rounded after every axis, the last axis first
    if all(isinstance(a.after, int) and a.before == a.after for a in busy):
        return b.op("Identity", x.name)  # as ONNX Runtime, whatever the scales
    if any(isinstance(a.after, int) and a.after < 1 for a in busy):
        raise NoMatch("the output is empty")
    inner = dtype
    if style.mode != "nearest" and dtype not in (np.float32, np.float64):
        inner = np.dtype(np.float32)
    value = x.name if inner == dtype else b.cast(x.name, inner)
    places = [coordinates(m, axis, style.transform) for axis in busy]
    plane = {a.index: (a, at) for a, at in zip(busy, places, strict=True)}
    whole = site.kind(0) in "iu" and style.mode == "linear" and not style.antialias
    if whole and plane.keys() <= {rank - 2, rank - 1}:
        (down, i), (right, j) = (plane.get(a) or _still(m, x, a) for a in (rank - 2, rank - 1))
        value = _whole_bilinear(m, value, down, right, [i, j])
    else:
        for axis, at in zip(busy, places, strict=True):
            if style.mode == "nearest":
                value = b.gather(value, nearest_index(m, at, axis, style.nearest), axis=axis.index)
            else:
                value = _interpolate(m, value, axis, at, style, rank, inner)
                value = _rounded(b, value) if style.antialias and site.kind(0) in "iu" else value
    if style.transform == "tf_crop_and_resize" and busy:
        outside = ""
        for axis, at in zip(busy, places, strict=True):
            mask = _beyond(m, at, axis, rank)
            outside = b.logical_or(outside, mask) if outside else mask
        value = b.where(outside, b.const(style.extrapolation, inner), value)
    if site.kind(0) in "iu" and style.mode == "cubic" and not style.antialias:
        value = b.op("Round", value)  # as onnx's reference; ONNX Runtime has no such kernel
    if inner != dtype:
        value = _narrow(b, value, site.kind(0), dtype)
    return value if value != x.name else b.op("Identity", value)


def _still(m: Mixed, x: Operand, index: int) -> tuple[Axis, Value]:
    """An axis that stays as it is, and its coordinates."""
    size = size_along(x, index, m.b)
    return Axis(index, size, size, np.asarray(1, np.float32)), m.count(size)


def _beyond(m: Mixed, at: Value, axis: Axis, rank: int) -> str:
    """Which elements along the axis lie outside of the input, shaped for broadcasting."""
    mask = m.op("Or", m.op("Less", at, 0), m.op("Greater", at, m.op("Sub", m.real(axis.before), 1)))
    return m.b.reshape(m.name(mask), *(-1 if a == axis.index else 1 for a in range(rank)))


def _rounded(b: Body, value: str) -> str:
    """The nearest whole number, halves away from zero."""
    size = b.op("Floor", b.add(b.op("Abs", value), b.scalar(0.5)))
    return b.mul(size, b.op("Sign", value))


def _narrow(b: Body, value: str, kind: str, dtype: Any) -> str:
    if kind in "iu" and np.dtype(dtype).itemsize < 4:
        info = np.iinfo(dtype)
        value = b.op("Max", b.op("Min", value, b.scalar(float(info.max))), b.scalar(float(info.min)))
    return b.cast(value, dtype)
