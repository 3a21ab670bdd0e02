"""The axes that Resize changes: their sizes before and after, their scales and regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Operand, Site

Value = Any
"""A numpy float32 array if known now, else the name of a tensor."""


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


def optional_operand(site: Site, i: int) -> Operand | None:
    """An optional operand; an empty one counts as left out."""
    if not site.has(i) or 0 in (site.input(i).shape or ()):
        return None
    return site.input(i)


def size_along(operand: Operand, axis: int, b: Body) -> int | str:
    """A size, or the name of a tensor with it."""
    size = operand.dim(axis)
    if isinstance(size, int):
        return size
    return b.gather(b.op("Shape", operand.name), b.const(axis, np.int64), axis=0)


def declared_size(site: Site, axis: int) -> int | None:
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


def size_times(size: int | str, scale: np.float32, b: Body) -> int | str:
    """The size times the scale, rounded down; in whole numbers where the size is known at run time."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * scale))
    exact = Fraction(float(scale)).limit_denominator(4096)
    if np.float32(float(exact)) != scale:
        exact = Fraction(float(scale))
    up = b.mul(size, b.const(exact.numerator, np.int64))
    return up if exact.denominator == 1 else b.div(up, b.const(exact.denominator, np.int64))


def axes_by_scales(site: Site, m: Mixed, scales: Operand, axes: list[int]) -> list[Axis]:
    """The axes that change, by their scales; raises NoMatch, or NeedsConstant where these decide a size."""
    found, x = [], site.input(0)
    value = scales.value
    if value is not None and len(value) != len(axes):
        raise NoMatch("the number of scales is not that of the axes")
    for k, axis in enumerate(axes):
        if value is not None:
            if value[k] == 1:
                before: int | str = size_along(x, axis, m.b) if _cropped(site) else 1
                found.append(Axis(axis, before, before, np.float32(1)))
                continue
            before = size_along(x, axis, m.b)
            scale = np.float32(value[k])
            found.append(Axis(axis, before, size_times(before, scale, m.b), np.asarray(scale)))
            continue
        if _unchanged(site, axis):
            continue
        after = declared_size(site, axis)
        if after is None:
            site.need(_place(site, scales), "the scales decide the size of the output")
            raise NoMatch("the size of the output is not known")
        factor = m.b.gather(scales.name, m.b.const(k, np.int64), axis=0)
        if scales.dtype != np.float32:
            factor = m.b.cast(factor, np.float32)
        found.append(Axis(axis, size_along(x, axis, m.b), after, factor))
    return found


def _place(site: Site, operand: Operand) -> int:
    return next(i for i, o in enumerate(site.inputs) if o is not None and o.name == operand.name)


def axes_by_sizes(site: Site, m: Mixed, sizes: Operand, axes: list[int]) -> list[Axis]:
    """The axes that change, by their sizes; raises NoMatch, or NeedsConstant where these are not known."""
    found, x = [], site.input(0)
    value = sizes.value
    if value is not None and len(value) != len(axes):
        raise NoMatch("the number of sizes is not that of the axes")
    policy = site.attr("keep_aspect_ratio_policy", "stretch")
    befores = [size_along(x, a, m.b) for a in axes]
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
    declared = declared_size(site, axis)
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


def with_region(site: Site, m: Mixed, found: list[Axis], axes: list[int]) -> list[Axis]:
    """The axes with start and end of the region of interest."""
    roi = optional_operand(site, 1)
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
