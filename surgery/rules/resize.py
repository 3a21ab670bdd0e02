"""Resize and Upsample: a product with a matrix of weights, or a gather, along every axis that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site

Value = Any
"""A numpy float32 array if known now, else the name of a tensor."""

DENSE = 1 << 20
"""Elements up to which a constant matrix of weights is written out; larger ones become a few gathers."""

MAX_TAPS = 8

HALF_TOLERANCE = 1e-6
"""So close to a half, ONNX Runtime takes a position for one."""

_NUMPY: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Floor": np.floor, "Ceil": np.ceil,
    "Abs": np.abs, "Min": np.minimum, "Max": np.maximum, "Less": np.less, "Greater": np.greater,
    "Equal": np.equal, "Or": np.logical_or, "Where": np.where, "MatMul": np.matmul,
}  # fmt: skip


class Mixed:
    """Arithmetic on values that are known now or at run time; only the latter is written as nodes.

    Everything is float32, as in the implementations whose rounding of coordinates has to be met.
    """

    def __init__(self, b: Body) -> None:
        self.b = b

    def name(self, value: Value) -> str:
        """The value as a tensor."""
        return value if isinstance(value, str) else self.b.const(value, np.asarray(value).dtype)

    def op(self, op_type: str, *operands: Value) -> Value:
        """One elementwise operator or MatMul."""
        operands = tuple(
            o if isinstance(o, (str, np.ndarray)) else np.asarray(o, np.float32) for o in operands
        )
        if any(isinstance(o, str) for o in operands):
            return self.b.op(op_type, *(self.name(o) for o in operands))
        return np.asarray(_NUMPY[op_type](*operands))

    def real(self, size: int | str) -> Value:
        """A size as a real number."""
        return self.b.cast(size, np.float32) if isinstance(size, str) else np.asarray(size, np.float32)

    def count(self, size: int | str, margin: int | str = 0) -> Value:
        """-margin, ..., size - 1 + margin as real numbers."""
        if not isinstance(size, str) and not isinstance(margin, str):
            return np.arange(-margin, size + margin, dtype=np.float32)
        far = self.index(margin)
        start, end = self.b.sub(self.b.const(0, np.int64), far), self.b.add(self.index(size), far)
        return self.b.cast(self.b.op("Range", start, end, self.b.const(1, np.int64)), np.float32)

    def column(self, value: Value) -> Value:
        """A vector as a column."""
        return self.b.unsqueeze(value, 1) if isinstance(value, str) else value[:, None]

    def total(self, value: Value) -> Value:
        """Sum of every row."""
        if isinstance(value, str):
            return self.b.reduce("ReduceSum", value, 1)
        return value.sum(axis=1, keepdims=True)

    def one_where(self, condition: Value) -> Value:
        """1 where it holds, else 0."""
        if isinstance(condition, str):
            return self.b.cast(condition, np.float32)
        return condition.astype(np.float32)

    def index(self, value: Value) -> str:
        """Whole numbers as an int64 tensor; a name is that of one."""
        return value if isinstance(value, str) else self.b.const(value, np.int64)

    def whole(self, value: Value) -> str:
        """Real numbers that are whole as an int64 tensor."""
        return self.b.cast(value, np.int64) if isinstance(value, str) else self.b.const(value, np.int64)


@dataclass(frozen=True)
class Axis:
    """What happens along an axis: its number, sizes before and after, scale, and region of interest."""

    index: int
    before: int | str
    after: int | str
    scale: Value
    start: Value = None
    end: Value = None

    @property
    def static(self) -> bool:
        """Whether both sizes and the scale are known."""
        return not any(isinstance(v, str) for v in (self.before, self.after, self.scale))


@dataclass(frozen=True)
class Style:
    """The attributes."""

    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0
    stretched: bool = True
    fixed_point: bool = False


# -- sizes and scales ---------------------------------------------------------------------------------


def _given(site: Site, i: int) -> Operand | None:
    """An optional operand; an empty one counts as left out."""
    if not site.has(i) or 0 in (site.input(i).shape or ()):
        return None
    return site.input(i)


def _dim(operand: Operand, axis: int, b: Body) -> int | str:
    """A size, or the name of a tensor with it."""
    size = operand.dim(axis)
    if isinstance(size, int):
        return size
    return b.gather(b.op("Shape", operand.name), b.const(axis, np.int64), axis=0)


def _declared(site: Site, axis: int) -> int | None:
    """Size of the output along an axis, where it is declared."""
    shape = site.out(0).shape
    if shape is None or len(shape) != site.input(0).rank:
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _unchanged(site: Site, axis: int) -> bool:
    """Whether input and output declare the same free dim."""
    out, x = site.out(0).shape, site.input(0).shape
    if not out or not x or len(out) != len(x):
        return False
    return isinstance(x[axis], str) and x[axis] == out[axis]


def _batch(site: Site, axis: int) -> bool:
    """Whether it is the batch of images that are interpolated: its size stays."""
    return axis == 0 and site.input(0).rank > 2 and site.attr("mode", "nearest") != "nearest"


def _scaled(size: int | str, scale: np.float32, b: Body) -> int | str:
    """The size times the scale, rounded down; in whole numbers where the size is known at run time."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * scale))
    exact = Fraction(float(scale)).limit_denominator(4096)
    if np.float32(float(exact)) != scale:
        exact = Fraction(float(scale))
    up = b.mul(size, b.const(exact.numerator, np.int64))
    return up if exact.denominator == 1 else b.div(up, b.const(exact.denominator, np.int64))


def _by_scales(site: Site, m: Mixed, scales: Operand, axes: list[int]) -> list[Axis]:
    found, x = [], site.input(0)
    value = scales.value
    if value is not None and len(value) != len(axes):
        raise NoMatch("the number of scales is not that of the axes")
    for k, axis in enumerate(axes):
        if value is not None:
            if value[k] == 1:
                before: int | str = _dim(x, axis, m.b) if _cropped(site) else 1
                found.append(Axis(axis, before, before, np.float32(1)))
                continue
            before = _dim(x, axis, m.b)
            scale = np.float32(value[k])
            found.append(Axis(axis, before, _scaled(before, scale, m.b), np.asarray(scale)))
            continue
        if _unchanged(site, axis):
            continue
        after = _declared(site, axis)
        if after is None:
            site.need(_place(site, scales), "the scales decide the size of the output")
            raise NoMatch("the size of the output is not known")
        factor = m.b.gather(scales.name, m.b.const(k, np.int64), axis=0)
        if scales.dtype != np.float32:
            factor = m.b.cast(factor, np.float32)
        found.append(Axis(axis, _dim(x, axis, m.b), after, factor))
    return found


def _place(site: Site, operand: Operand) -> int:
    return next(i for i, o in enumerate(site.inputs) if o is not None and o.name == operand.name)


def _by_sizes(site: Site, m: Mixed, sizes: Operand, axes: list[int]) -> list[Axis]:
    found, x = [], site.input(0)
    value = sizes.value
    if value is not None and len(value) != len(axes):
        raise NoMatch("the number of sizes is not that of the axes")
    policy = site.attr("keep_aspect_ratio_policy", "stretch")
    befores = [_dim(x, a, m.b) for a in axes]
    common: Value = None
    if policy != "stretch":
        common = _common_scale(m, sizes, befores, policy)
    for k, axis in enumerate(axes):
        if common is None and (_unchanged(site, axis) or _batch(site, axis)):
            continue
        after = _size_after(site, m, sizes, k, axis, befores[k], common)
        scale = common
        if scale is None:
            scale = m.op("Div", m.real(after), m.real(befores[k]))
        found.append(Axis(axis, befores[k], after, scale))
    return found


def _common_scale(m: Mixed, sizes: Operand, befores: list[int | str], policy: str) -> Value:
    """One scale for all axes: the smallest, or the largest."""
    ratios: list[Value] = []
    for k, before in enumerate(befores):
        if sizes.value is not None:
            size: int | str = int(sizes.value[k])
        else:
            size = m.b.gather(sizes.name, m.b.const(k, np.int64), axis=0)
        ratios.append(m.op("Div", m.real(size), m.real(before)))
    scale = ratios[0]
    for ratio in ratios[1:]:
        scale = m.op("Min" if policy == "not_larger" else "Max", scale, ratio)
    return scale


def _size_after(
    site: Site, m: Mixed, sizes: Operand, k: int, axis: int, before: int | str, common: Value
) -> int | str:
    value = sizes.value
    if value is not None and common is None:
        return int(value[k])
    if value is not None and isinstance(before, int):
        return int(np.floor(np.float32(before) * common + np.float32(0.5)))
    declared = _declared(site, axis)
    if declared is not None:
        return declared
    if common is None and sizes.shape_only:
        return m.b.gather(sizes.name, m.b.const(k, np.int64), axis=0)
    if common is not None and (value is not None or sizes.shape_only):
        grown = m.op("Floor", m.op("Add", m.op("Mul", m.real(before), common), 0.5))
        return m.b.cast(m.name(grown), np.int64)
    site.need(_place(site, sizes), "the sizes decide the size of the output")
    raise NoMatch("the size of the output is not known")


def _cropped(site: Site) -> bool:
    return bool(site.attr("coordinate_transformation_mode") == "tf_crop_and_resize")


def _with_region(site: Site, m: Mixed, found: list[Axis], axes: list[int]) -> list[Axis]:
    """The axes with start and end of the region of interest."""
    roi = _given(site, 1)
    if roi is None:
        raise NoMatch("a crop without a region")
    values: list[Value] = []
    for k in range(2 * len(axes)):
        if roi.value is not None:
            values.append(np.asarray(roi.value[k], np.float32))
        else:
            one = m.b.gather(roi.name, m.b.const(k, np.int64), axis=0)
            values.append(one if roi.dtype == np.float32 else m.b.cast(one, np.float32))
    place = {axis: k for k, axis in enumerate(axes)}
    return [
        Axis(a.index, a.before, a.after, a.scale, values[place[a.index]], values[place[a.index] + len(axes)])
        for a in found
    ]


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
    size = _dim(x, index, m.b)
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


def _style(site: Site) -> Style:
    return Style(
        mode=site.attr("mode", "nearest"),
        transform=site.attr("coordinate_transformation_mode", "half_pixel"),
        nearest=site.attr("nearest_mode", "round_prefer_floor"),
        cubic=float(site.attr("cubic_coeff_a", -0.75)),
        exclude_outside=bool(site.attr("exclude_outside", 0)),
        antialias=bool(site.attr("antialias", 0)),
        extrapolation=float(site.attr("extrapolation_value", 0.0)),
        stretched=site.attr("keep_aspect_ratio_policy", "stretch") == "stretch",
        fixed_point=site.kind(0) in "iu" and site.dtype(0).itemsize == 1 and bool(site.attr("antialias", 0)),
    )


@lowering(
    "resize-by-weights",
    "Resize",
    why="TensorRT takes sizes and scales only if they are constant or come from shapes, and neither antialias,"
    " tf_crop_and_resize, half_pixel_symmetric, keep_aspect_ratio_policy nor exclude_outside. Resizing is"
    " separable: a matrix per axis, as in onnx's reference (op_resize.py); coordinates as in ONNX Runtime.",
    since=11,
    samples=[
        """(float[n, 2, 4, 5] x) => (float[n, 2, 8, 10] y) <float[4] s = {1, 1, 2, 2}>
        { y = Resize <mode = "cubic", exclude_outside = 1> (x, , s) }""",
        """(float[1, 1, 8, 6] x) => (float[1, 1, 4, 3] y) <float[4] s = {1, 1, 0.6, 0.5}>
        { y = Resize <mode = "linear", antialias = 1> (x, , s) }""",
        """(float[1, 2, 9, 6] x) => (float[1, 2, 4, 3] y) <int64[2] s = {4, 3}>
        { y = Resize <mode = "cubic", antialias = 1, axes = [2, 3], cubic_coeff_a = -0.5> (x, , , s) }""",
        """(float[2, 1, h, w] x) => (float[2, 1, p, q] y) <float[4] s = {1, 1, 1.5, 0.7}>
        { y = Resize <mode = "cubic", antialias = 1> (x, , s) }""",
        """(float[n, 2, h, w] x) => (float[n, 2, p, q] y) <float[4] s = {1, 1, 2.5, 0.7}>
        { y = Resize <mode = "nearest", nearest_mode = "round_prefer_ceil"> (x, , s) }""",
        Sample(
            """(float16[1, 2, 4, 6] x, float[4] s) => (float16[1, 2, 6, 7] y)
            { y = Resize <mode = "linear"> (x, , s) }""",
            feeds={"s": [1, 1, 1.5, 1.3]},
        ),
        Sample(
            "(int32[2, 4, 6] x, float[3] s) => (int32[2, 6, 4] y) { y = Resize (x, , s) }",
            feeds={"s": [1, 1.6, 0.7]},
        ),
        Sample(
            """(float[1, 1, 4, 6] x, int64[2] s) => (float[1, 1, 8, 12] y)
            { y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (x, , , s) }""",
            feeds={"s": [8, 20]},
        ),
        """(float[1, 1, 4, 6] x) => (float[1, 1, 9, 14] y) <int64[2] s = {9, 7}>
        { y = Resize <mode = "linear", axes = [2, 3], keep_aspect_ratio_policy = "not_smaller"> (x, , , s) }""",
        Sample(
            """(float[1, 2, 6, 5] x, float[8] roi) => (float[1, 2, 3, 4] y) <int64[4] s = {1, 2, 3, 4}>
            { y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize",
                          extrapolation_value = 7.5> (x, roi, , s) }""",
            feeds={"roi": [0, 0, -0.1, 0.3, 1, 1, 0.6, 1.2]},
        ),
        Sample(
            """(float[1, 1, 5, 6] x) => (float[1, 1, 2, 9] y) <float[4] s = {1, 1, 0.5, 1.6}>
            { y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s) }""",
            opset=19,
        ),
        """(float[1, 1, 5, 6] x) => (float[1, 1, 10, 3] y) <float[4] s = {1, 1, 2, 0.5}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s) }""",
        """(float[1, 1, 5, 6] x) => (float[1, 1, 1, 9] y) <float[4] s = {1, 1, 0.2, 1.6}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (x, , s) }""",
        """(uint8[1, 3, 5, 6] x) => (uint8[1, 3, 7, 9] y) <int64[4] s = {1, 3, 7, 9}>
        { y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , , s) }""",
        """(double[1, 1, 3, 4, 5] x) => (double[1, 1, 6, 8, 10] y) <float[5] s = {1, 1, 2, 2, 2}>
        { y = Resize <mode = "linear"> (x, , s) }""",
        Sample(
            """(float[1, 1, 4, 4] x) => (float[1, 1, 8, 2] y)
            <float[8] r = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] s = {1, 1, 2, 0.5}>
            { y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor">
                         (x, r, s) }""",
            opset=11,
        ),
        *samples_in(
            "uint16 int8 int16 int64 bfloat16",
            "(T[n, 2, 4, 5] x) => (T[n, 2, 8, 10] y) <float[4] s = {1, 1, 2, 2}> { y = Resize <mode "
            '= "cubic", exclude_outside = 1> (x, , s) }',
        ),
        *samples_in(
            "uint32 uint64",
            "(T[n, 2, h, w] x) => (T[n, 2, p, q] y) <float[4] s = {1, 1, 2.5, 0.7}> { y = Resize "
            '<mode = "nearest", nearest_mode = "round_prefer_ceil"> (x, , s) }',
        ),
        *samples_in(
            "double",
            "(float[1, 2, 6, 5] x, T[8] roi) => (float[1, 2, 3, 4] y) <int64[4] s = {1, 2, 3, 4}> { "
            'y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
            "extrapolation_value = 7.5> (x, roi, , s) }",
            feeds={"roi": [0, 0, -0.1, 0.3, 1, 1, 0.6, 1.2]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, h, w] y) { y = Resize (x, , s) }",
            feeds={"s": [1, 1, 2, 2]},
        ),
    ],
)
def resize_rule(site: Site, b: Body) -> str:
    """Resize along every axis with a matrix, or by gathering for nearest."""
    return _resized(site, b)


def _resized(site: Site, b: Body) -> str:
    m, x = Mixed(b), site.input(0)
    given = site.attr("axes")
    axes = [a % x.rank for a in given] if given is not None else list(range(x.rank))
    scales, sizes = _given(site, 2), _given(site, 3)
    if scales is not None:
        found = _by_scales(site, m, scales, axes)
    elif sizes is not None:
        found = _by_sizes(site, m, sizes, axes)
    else:
        raise NoMatch("neither scales nor sizes are given")
    style = _style(site)
    if style.transform == "tf_crop_and_resize":
        found = _with_region(site, m, found, axes)
    return resize(site, b, found, style)


REFUSED = frozenset({"tf_crop_and_resize", "half_pixel_symmetric"})
"""Coordinates that no parser takes."""


@lowering(
    "resize-to-computed-size",
    "Resize",
    since=11,
    when="always",
    why="A node whose size comes from shapes cannot be tried alone; some attributes are refused by every"
    " parser: antialias, keep_aspect_ratio_policy, tf_crop_and_resize, half_pixel_symmetric.",
    samples=[
        """(float[2, 3, h, w] x) => (float[2, 3, p, q] y) <int64[2] up = {2, 1}, int64[2] down = {1, 2}>
        {
            size = Shape <start = 2> (x)
            grown = Mul (size, up)
            s = Div (grown, down)
            y = Resize <mode = "cubic", antialias = 1, axes = [2, 3]> (x, , , s)
        }""",
        """(float[2, 3, h, w] x) => (float[2, 3, p, q] y) <int64[2] more = {3, 1}>
        {
            size = Shape <start = 2> (x)
            s = Add (size, more)
            y = Resize <mode = "linear", keep_aspect_ratio_policy = "not_smaller", axes = [2, 3]> (x, , , s)
        }""",
        *samples_in(
            "int32 bfloat16 float16",
            "(T[2, 3, h, w] x) => (T[2, 3, p, q] y) <int64[2] up = {2, 1}, int64[2] down = {1, 2}> { "
            "size = Shape <start = 2> (x) grown = Mul (size, up) s = Div (grown, down) y = Resize "
            '<mode = "cubic", antialias = 1, axes = [2, 3]> (x, , , s) }',
        ),
        *samples_in(
            "uint8 int8",
            "(T[2, 3, h, w] x) => (T[2, 3, p, q] y) <int64[2] more = {3, 1}> { size = Shape <start = "
            '2> (x) s = Add (size, more) y = Resize <mode = "linear", keep_aspect_ratio_policy = '
            '"not_smaller", axes = [2, 3]> (x, , , s) }',
        ),
    ],
    near_misses=[
        """(float[1, 1, 4, 6] x) => (float[1, 1, 8, 6] y) <int64[4] s = {1, 1, 8, 6}>
        { y = Resize <mode = "linear"> (x, , , s) }""",
    ],
)
def resize_to_computed_size(site: Site, b: Body) -> str:
    """As the other rule, for sizes or scales that are computed from shapes."""
    place = next((i for i in (2, 3) if _given(site, i) is not None), None)
    if place is None or not site.input(place).shape_only:
        raise NoMatch("the size does not come from shapes")
    style = _style(site)
    if not style.antialias and style.stretched and style.transform not in REFUSED:
        raise NoMatch("the attributes are taken")
    return _resized(site, b)


@lowering(
    "upsample-by-weights",
    "Upsample",
    "Resize",
    why="TensorRT takes the scales only as constants. Before opset 11, both have asymmetric coordinates.",
    samples=[
        Sample(
            "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) <float[4] s = {1, 1, 2, 3}> { y = Upsample (x, s) }",
            opset=9,
        ),
        Sample(
            """(float[1, 1, 2, 2] x, float[4] s) => (float[1, 1, 4, 6] y)
            { y = Upsample <mode = "linear"> (x, s) }""",
            opset=9,
            feeds={"s": [1, 1, 2, 3]},
        ),
        Sample(
            "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) { y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }",
            opset=8,
        ),
        Sample(
            "(float[1, 1, 7, 4] x) => (float[1, 1, 4, 6] y) <float[4] s = {1, 1, 0.6, 1.5}> { y = Resize (x, s) }",
            opset=10,
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 double bool",
            "(T[1, 1, 2, 2] x) => (T[1, 1, 4, 6] y) <float[4] s = {1, 1, 2, 3}> { y = Upsample (x, s) }",
            opset=9,
        ),
    ],
    near_misses=["(float[2, 2] x) => (float[4, 4] y) <float[2] s = {2, 2}> { y = Resize (x, , s) }"],
    since=7,
    until=10,
)
def upsample_rule(site: Site, b: Body) -> str:
    """Upsample and the first Resize, by scales that are an input or (opset 7) an attribute."""
    m, x = Mixed(b), site.input(0)
    if site.has(1):
        found = _by_scales(site, m, site.input(1), list(range(x.rank)))
    else:
        values = [np.float32(s) for s in site.attr("scales", [])]
        befores = [_dim(x, a, b) for a in range(x.rank)]
        found = [
            Axis(a, n, _scaled(n, s, b), np.asarray(s))
            for a, (n, s) in enumerate(zip(befores, values, strict=True))
        ]
    style = Style(mode=site.attr("mode", "nearest"), transform="asymmetric", nearest="away_from_start")
    return resize(site, b, found, style)
