"""Operators that shape, cut, pad and fill tensors, where a shape, size, start or axis is an input.

Each form keeps the operand at run time where the size of the output does not depend on it, or reads the operand off
the output's declared shape, which is the model's own promise about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Dim, Operand, Site
from surgery.rules.indexing import count_up
from surgery.rules.reductions import choose, run_time

MAX_RANK = 8


# -- the same elements in another shape -----------------------------------------------------------------------------


@lowering(
    "reshape-to-declared-shape",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    why="TensorRT wants the shape or the axes as constants. The elements and their order stay, so the "
    "declared output shape says it all.",
    samples=[
        Sample(
            "(float[2, 3, 4] x, int64[2] shape) => (float[6, 4] y) { y = Reshape (x, shape) }",
            feeds={"shape": [6, 4]},
        ),
        Sample(
            "(int64[n, 3, 4] x, int64[2] shape) => (int64[n, 12] y) { y = Reshape (x, shape) }",
            feeds={"shape": [-1, 12]},
        ),
        Sample(
            "(float16[n, 1, m] x, int64[1] axes) => (float16[n, m] y) { y = Squeeze (x, axes) }",
            feeds={"axes": [1]},
        ),
        Sample(
            "(uint8[2, 1, 1] x, int64[1] axes) => (uint8[2, 1] y) { y = Squeeze (x, axes) }",
            feeds={"axes": [-1]},
        ),
        Sample(
            "(bool[2, n] x, int64[2] axes) => (bool[1, 2, n, 1] y) { y = Unsqueeze (x, axes) }",
            opset=13,
            feeds={"axes": [0, -1]},
        ),
        Sample("(double x, int64[1] axes) => (double[1] y) { y = Unsqueeze (x, axes) }", feeds={"axes": [0]}),
        *samples_in(
            "uint16 uint32 uint64 int8 int16 int32 bfloat16",
            "(T[2, 3, 4] x, int64[2] shape) => (T[6, 4] y) { y = Reshape (x, shape) }",
            feeds={"shape": [6, 4]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[6] x, int64[2] shape) => (float[a, b] y) { y = Reshape (x, shape) }",
            feeds={"shape": [2, 3]},
        ),
        "(float[6] x) => (float[2, 3] y) { shape = Constant <value_ints = [2, 3]> () y = Reshape (x, shape) }",
    ],
)
def reshape_to_declared(site: Site, b: Body) -> str:
    """Reshape to the declared shape; free dims come from the input."""
    run_time(site, 1)
    x = site.input(0)
    wanted = site.out(0).shape
    if wanted is None and site.op == "Squeeze":
        wanted = _squeezed(x, site.input(1))
    if wanted is None:
        site.need(1, "the shape of the output")
        raise NoMatch("the rank of the output is not known")
    if site.op == "Squeeze" and x.static and wanted.count(None) > 0:
        wanted = _squeezed(x, site.input(1)) or wanted
    target = _target(b, x, wanted)
    if target is None:
        site.need(1, "the shape of the output")
        raise NoMatch("more than one dim of the output is not known")
    zero = {"allowzero": 1} if 0 in wanted and site.opset >= 14 else {}
    return b.op("Reshape", x.name, target, **zero)


def _squeezed(x: Operand, axes: Operand) -> tuple[Dim, ...] | None:
    """The shape without all its ones, if there are just as many ones as axes."""
    if x.shape is None or not axes.shape or x.shape.count(1) != axes.shape[0]:
        return None
    return tuple(d for d in x.shape if d != 1)


def _target(b: Body, x: Operand, wanted: Sequence[Dim]) -> str | None:
    """A shape operand: numbers, dims copied or read off the input by name, and at most one that is inferred."""
    own = x.shape or ()
    inferred = [i for i, d in enumerate(wanted) if not isinstance(d, int)]
    if not inferred:
        return b.ints(*(int(d) for d in wanted))  # type: ignore[arg-type]
    if 0 in wanted:
        return None
    if len(inferred) > 1:
        copied = [i for i in inferred if wanted[i] is not None and i < len(own) and wanted[i] == own[i]]
        inferred = [i for i in inferred if i not in copied]
        if len(inferred) > 1:
            parts = [_dim(b, x, d) for d in wanted]
            if parts.count(None) > 1:
                return None
            return b.concat([p or b.ints(-1) for p in parts], 0)
    return b.ints(*(d if isinstance(d, int) else -1 if i in inferred else 0 for i, d in enumerate(wanted)))


def _dim(b: Body, x: Operand, dim: Dim) -> str | None:
    """A dim as int64 tensor of rank 1: a number, or one that the input has under that name."""
    if isinstance(dim, int):
        return b.ints(dim)
    shape = list(x.shape or ())
    if dim is None or dim not in shape:
        return None
    return b.gather(b.op("Shape", x.name), b.ints(shape.index(dim)), axis=0)


# -- larger tensors -------------------------------------------------------------------------------------------------


@lowering(
    "expand-to-declared-shape",
    "Expand",
    why="TensorRT wants the shape as a constant or computed from shapes; the declared output shape has it.",
    samples=[
        Sample(
            "(float[3, 1] x, int64[3] shape) => (float[2, 3, 4] y) { y = Expand (x, shape) }",
            feeds={"shape": [2, 1, 4]},
        ),
        Sample(
            "(int32[n, 1] x, int64[2] shape) => (int32[n, 4] y) { y = Expand (x, shape) }",
            feeds={"shape": [1, 4]},
        ),
        Sample(
            "(bool[n, 3] x, int64[3] shape) => (bool[2, n, 3] y) { y = Expand (x, shape) }",
            feeds={"shape": [2, 1, 3]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int64 bfloat16 float16 double",
            "(T[3, 1] x, int64[3] shape) => (T[2, 3, 4] y) { y = Expand (x, shape) }",
            feeds={"shape": [2, 1, 4]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[3, 1] x, int64[2] shape) => (float[3, m] y) { y = Expand (x, shape) }",
            feeds={"shape": [3, 4]},
        ),
    ],
)
def expand_to_declared(site: Site, b: Body) -> str:
    """Expand to the declared numbers; a free dim that the input has in that place stays."""
    run_time(site, 1)
    x, wanted = site.input(0), site.out(0).shape
    own = x.shape
    if wanted is None or own is None:
        site.need(1, "the shape of the output")
        raise NoMatch("the rank is not known")
    aligned = (*[1] * (len(wanted) - len(own)), *own)
    # A 1 keeps the input's own size.
    parts = [1 if dim is not None and dim == mine else dim for dim, mine in zip(wanted, aligned, strict=True)]
    if all(isinstance(d, int) for d in parts):
        return b.op("Expand", x.name, b.ints(*(int(d) for d in parts if isinstance(d, int))))
    sizes = [_dim(b, x, d) for d in parts]
    if None in sizes:
        site.need(1, "the shape of the output")
        raise NoMatch("a dim of the output is not known")
    return b.op("Expand", x.name, b.concat([d for d in sizes if d], 0))


@lowering(
    "tile-to-declared-shape",
    "Tile",
    why="TensorRT wants the repeats as a constant; they are the declared output shape over the input's.",
    samples=[
        Sample("(float[2, 3] x, int64[2] r) => (float[4, 9] y) { y = Tile (x, r) }", feeds={"r": [2, 3]}),
        Sample("(int64[n, 3] x, int64[2] r) => (int64[n, 6] y) { y = Tile (x, r) }", feeds={"r": [1, 2]}),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 bfloat16 float16 double bool",
            "(T[2, 3] x, int64[2] r) => (T[4, 9] y) { y = Tile (x, r) }",
            feeds={"r": [2, 3]},
        ),
    ],
    near_misses=[
        Sample("(float[2, 3] x, int64[2] r) => (float[a, b] y) { y = Tile (x, r) }", feeds={"r": [2, 3]}),
    ],
)
def tile_to_declared(site: Site, b: Body) -> str:
    """Tile by the quotients of the declared sizes."""
    run_time(site, 1)
    x, wanted = site.input(0), site.out(0).shape
    repeats = []
    for mine, dim in zip(x.shape or (), wanted or (), strict=False):
        if dim is not None and dim == mine:
            repeats.append(1)
        elif isinstance(dim, int) and isinstance(mine, int) and mine:
            repeats.append(dim // mine)
    if len(repeats) != x.rank:
        repeats = [int(r) for r in site.need(1, "the shape of the output")]
    return b.op("Tile", x.name, b.ints(*repeats))


@lowering(
    "constant-of-declared-shape",
    "ConstantOfShape",
    why="TensorRT wants the shape as a constant or computed from shapes; the declared output shape has it.",
    samples=[
        Sample(
            "(int64[3] s) => (float[2, 3, 4] y) { y = ConstantOfShape <value = float[1] {1.5}> (s) }",
            feeds={"s": [2, 3, 4]},
        ),
        Sample(
            "(int64[1] s) => (int32[2] y) { y = ConstantOfShape <value = int32[1] {7}> (s) }",
            feeds={"s": [2]},
        ),
        Sample("(int64[2] s) => (float[2, 3] y) { y = ConstantOfShape (s) }", feeds={"s": [2, 3]}),
        *samples_in(
            "float16 double int8 int16 int64 uint8 uint16 uint32 uint64 bool",
            "(int64[3] s) => (T[2, 3, 4] y) { y = ConstantOfShape <value = float[1] {1.5}> (s) }",
            feeds={"s": [2, 3, 4]},
        ),
    ],
    near_misses=[Sample("(int64[1] s) => (float[n] y) { y = ConstantOfShape (s) }", feeds={"s": [2]})],
)
def constant_of_declared_shape(site: Site, b: Body) -> str:
    """The value, expanded to the declared shape."""
    run_time(site, 0)
    out = site.out(0)
    dims = out.dims if out.static else tuple(int(d) for d in site.need(0, "the shape of the output"))
    value = site.attr("value")
    filled = np.zeros(1, np.float32) if value is None else np.ravel(value)
    scalar = b.const(filled[0], filled.dtype)
    return b.op("Expand", scalar, b.ints(*dims)) if dims else b.op("Identity", scalar)


@lowering(
    "range-of-declared-length",
    "Range",
    why="TensorRT wants the ends of a Range as constants or computed from shapes; with a declared length "
    "the elements are the start plus multiples of the step.",
    samples=[
        Sample(
            "(float a, float z, float d) => (float[4] y) { y = Range (a, z, d) }",
            feeds={"a": 1.0, "z": 3.0, "d": 0.5},
        ),
        Sample(
            "(int64 a, int64 z, int64 d) => (int64[3] y) { y = Range (a, z, d) }",
            feeds={"a": 9, "z": 3, "d": -2},
        ),
        Sample(
            "(int32 a, int32 z, int32 d) => (int32[3] y) { y = Range (a, z, d) }",
            feeds={"a": 1, "z": 4, "d": 1},
        ),
        Sample(
            "(double a, double z, double d) => (double[4] y) { y = Range (a, z, d) }",
            feeds={"a": 1.0, "z": 3.0, "d": 0.5},
        ),
        *samples_in(
            "int16", "(T a, T z, T d) => (T[3] y) { y = Range (a, z, d) }", feeds={"a": 9, "z": 3, "d": -2}
        ),
    ],
    near_misses=[
        Sample(
            "(int64 a, int64 z, int64 d) => (int64[n] y) { y = Range (a, z, d) }",
            feeds={"a": 1, "z": 4, "d": 1},
        )
    ],
)
def range_of_declared_length(site: Site, b: Body) -> str:
    """The start plus so many steps."""
    out = site.out(0)
    if all(site.input(i).value is not None or site.input(i).shape_only for i in range(3)):
        raise NoMatch("all operands are constant, or computed from shapes")
    if not out.static:
        for i, what in ((0, "start"), (1, "end"), (2, "step")):
            site.need(i, f"the {what} decides the length of the output")
    steps = b.const(np.arange(out.dims[0]), site.dtype())
    start, delta = (b.op("Reshape", site.x(i), b.ints(1)) for i in (0, 2))
    return b.add(start, b.mul(steps, delta))


@lowering(
    "onehot-of-a-size",
    "OneHot",
    when="always",
    why="TensorRT-RTX parses a depth that follows from sizes, and asserts that it is a constant while it builds. "
    "Each index is compared with the places counted up.",
    samples=[
        "(int64[2, 3] i, float[m] x, float[2] v) => (float[2, 3, k] y) { s = Shape (x) y = OneHot (i, s, v) }",
        "(int64[n, 3] i, float[2] v) => (float[k, n, 3] y) { s = Size (i) y = OneHot <axis = 0> (i, s, v) }",
        "(int64[n] i, int64[2] v) => (int64[n, k] y) <int64 one = {1}> "
        "{ s = Size (i) d = Add (s, one) y = OneHot <axis = 1> (i, d, v) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32",
            "(T[4] i, int64[2] v) => (int64[4, k] y) { s = Size (i) y = OneHot (i, s, v) }",
            feeds={"i": (0, 4)},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 float16 double",
            "(int64[4] i, T[2] v) => (T[4, k] y) { s = Size (i) y = OneHot (i, s, v) }",
            feeds={"i": (0, 4)},
        ),
    ],
    near_misses=[
        "(int64[2, 3] i, float[2] v) => (float[2, 3, 5] y) <int64 d = {5}> { y = OneHot (i, d, v) }",
        Sample(
            "(int64[2] i, int64 d, float[2] v) => (float[2, m] y) { y = OneHot (i, d, v) }", feeds={"d": 5}
        ),
    ],
)
def onehot_of_a_size(site: Site, b: Body) -> str:
    """Each index, counted from either end, compared with as many places as there are."""
    indices, depth = site.input(0), site.input(1)
    if depth.value is not None or not depth.shape_only:
        raise NoMatch("the depth is constant or does not follow from sizes")
    if site.kind(0) == "f":
        raise NoMatch("what fractions are as indices is left open")
    axis = int(site.attr("axis")) % (indices.rank + 1)
    count = b.reshape(b.cast(depth.name, np.int64), 1)
    whole = b.unsqueeze(b.cast(indices.name, np.int64), axis)
    wrapped = b.where(b.less(whole, b.const(0, "int64")), b.add(whole, count), whole)
    places = b.reshape(count_up(b, count), -1, *[1] * (indices.rank - axis))
    off, on = (b.gather(site.x(2), b.const(i, "int64"), axis=0) for i in (0, 1))
    return choose(b, b.equal(wrapped, places), on, off, site.input(2).dtype)


@lowering(
    "onehot-of-declared-depth",
    "OneHot",
    why="TensorRT wants the depth as a constant; the declared output shape has it.",
    samples=[
        Sample(
            "(int64[2, 3] i, int64 d, float[2] v) => (float[2, 3, 5] y) { y = OneHot (i, d, v) }",
            feeds={"i": (-7, 8), "d": 5},
        ),
        Sample(
            "(int32[n] i, float[1] d, float[2] v) => (float[4, n] y) { y = OneHot <axis = 0> (i, d, v) }",
            feeds={"i": (-4, 4), "d": [4]},
        ),
        Sample(
            "(float[3] i, float d, int64[2] v) => (int64[3, 6] y) { y = OneHot <axis = -1> (i, d, v) }",
            feeds={"i": [1, 5, -2], "d": 6},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16",
            "(T[2, 3] i, int64 d, float[2] v) => (float[2, 3, 5] y) { y = OneHot (i, d, v) }",
            feeds={"i": (-7, 8), "d": 5},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 float16 double",
            "(int64[2, 3] i, T d, float[2] v) => (float[2, 3, 5] y) { y = OneHot (i, d, v) }",
            feeds={"i": (-7, 8), "d": 5},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 float16 double",
            "(int64[2, 3] i, int64 d, T[2] v) => (T[2, 3, 5] y) { y = OneHot (i, d, v) }",
            feeds={"i": (-7, 8), "d": 5},
        ),
        *samples_in(
            "float16 double",
            "(T[3] i, float d, int64[2] v) => (int64[3, 6] y) { y = OneHot <axis = -1> (i, d, v) }",
            feeds={"i": [1, 5, -2], "d": 6},
        ),
    ],
    near_misses=[
        Sample(
            "(int64[2] i, int64 d, float[2] v) => (float[2, m] y) { y = OneHot (i, d, v) }", feeds={"d": 5}
        ),
    ],
)
def onehot_of_declared_depth(site: Site, b: Body) -> str:
    """Each index, counted from either end, compared with every place."""
    indices, out = site.input(0), site.out(0)
    if site.input(1).value is None:
        shape = out.shape
        axis = int(site.attr("axis")) % (indices.rank + 1)
        depth = shape[axis] if shape is not None and len(shape) == indices.rank + 1 else None
        if not isinstance(depth, int):
            depth = int(np.ravel(site.need(1, "the depth, a dim of the output"))[0])
    else:
        axis, depth = int(site.attr("axis")) % (indices.rank + 1), int(np.ravel(site.const(1))[0])
    whole = b.unsqueeze(b.cast(indices.name, np.int64), axis)
    wrapped = b.where(b.less(whole, b.const(0, "int64")), b.add(whole, b.const(depth, "int64")), whole)
    places = b.const(np.arange(depth).reshape(-1, *[1] * (indices.rank - axis)), "int64")
    off, on = (b.gather(site.x(2), b.const(i, "int64"), axis=0) for i in (0, 1))
    return choose(b, b.equal(wrapped, places), on, off, site.input(2).dtype)


# -- cutting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Along:
    """Operands of a node that are given per axis: where each of them is for an axis.

    Attributes:
        axes: The operand with the axes; None if they are the first ones in order.
        number: How many entries the operands have; None if not known.
        rank: Of the tensor.
    """

    axes: Operand | None
    number: Dim
    rank: int

    def place(self, r: int) -> int | None:
        """Position of axis `r` among the entries, where that is known; -1 if it is not among them."""
        if self.axes is None:
            if not isinstance(self.number, int):
                return r
            return r if r < self.number else -1
        if self.axes.value is None:
            return None
        known = [int(a) % self.rank for a in np.ravel(self.axes.value)]
        return known.index(r) if r in known else -1

    def entry(self, b: Body, operand: Operand, r: int, default: int, offset: int = 0) -> str:
        """The operand's entry for axis `r` as int64 of rank 0; entries start at `offset`."""
        place = self.place(r)
        if place == -1:
            return b.const(default, "int64")
        if place is not None:
            if operand.value is not None:
                return b.const(np.ravel(operand.value)[place + offset], "int64")
            return b.cast(b.gather(operand.name, b.const(place + offset, "int64"), axis=0), np.int64)
        assert self.axes is not None
        if not isinstance(self.number, int):
            raise NoMatch("the number of axes is not known")
        axes = b.cast(self.axes.name, np.int64)
        hit = b.logical_or(b.equal(axes, b.const(r, "int64")), b.equal(axes, b.const(r - self.rank, "int64")))
        none = b.const(-1, "int64")
        places = b.where(hit, b.const(np.arange(self.number), "int64"), none)
        found = b.reduce("ReduceMax", places, 0, keepdims=False)  # of an axis that is named twice the last
        entry = b.gather(
            operand.name, b.add(b.maximum(found, b.const(0, "int64")), b.const(offset, "int64")), axis=0
        )
        return b.where(b.equal(found, none), b.const(default, "int64"), b.cast(entry, np.int64))


def length(b: Body, x: Operand, dim: Dim) -> str | None:
    """A dim as int64 of rank 0: a number, or one that the input has under that name."""
    if isinstance(dim, int):
        return b.const(dim, "int64")
    shape = list(x.shape or ())
    if dim is None or dim not in shape:
        return None
    return b.gather(b.op("Shape", x.name), b.const(shape.index(dim), "int64"), axis=0)


def axis_size(b: Body, x: Operand, r: int) -> str:
    """The size of axis `r` as int64 of rank 0."""
    dim = (x.shape or ())[r]
    if isinstance(dim, int):
        return b.const(dim, "int64")
    return b.gather(b.op("Shape", x.name), b.const(r, "int64"), axis=0)


def counted(b: Body, dim: Dim, size: str) -> str:
    """0, 1, 2 ... up to a size."""
    if isinstance(dim, int):
        return b.const(np.arange(dim), "int64")
    return b.op("Range", b.const(0, "int64"), size, b.const(1, "int64"))


def clamp(b: Body, value: str, low: str, high: str) -> str:
    """A value between two others."""
    return b.maximum(b.minimum(value, high), low)


@lowering(
    "slice-as-gather",
    "Slice",
    why="TensorRT wants starts, ends, axes and steps as constants or computed from shapes. The declared output shape "
    "has the number of elements, the operands say at run time which ones.",
    samples=[
        Sample(
            "(float[5, 6] x, int64[2] s, int64[2] e) => (float[3, 2] y) { y = Slice (x, s, e) }",
            feeds={"s": [1, -3], "e": [4, -1]},
        ),
        Sample(
            "(int32[n, 6] x, int32[1] s, int32[1] e, int32[1] a, int32[1] t) => (int32[n, 3] y) "
            "{ y = Slice (x, s, e, a, t) }",
            feeds={"s": [100], "e": [-100], "a": [-1], "t": [-2]},
        ),
        Sample(
            "(float16[4, 6] x, int64[2] s, int64[2] e, int64[2] a) => (float16[2, 6] y) { y = Slice (x, s, e, a) }",
            feeds={"s": [0, 2], "e": [100, 4], "a": [1, 0]},
        ),
        Sample(
            "(bool[4] x, int64[1] s, int64[1] e) => (bool[2] y) "
            "{ a = Constant <value_ints = [0]> () y = Slice (x, s, e, a) }",
            feeds={"s": [-100], "e": [2]},
        ),
        Sample(
            "(int64[4, 3] x, int64[2] s, int64[2] e, int64[2] a, int64[2] t) => (int64[2, 2] y) "
            "{ y = Slice (x, s, e, a, t) }",
            feeds={"s": [0, 3], "e": [3, 0], "a": [1, 0], "t": [2, -2]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16 double",
            "(T[5, 6] x, int64[2] s, int64[2] e) => (T[3, 2] y) { y = Slice (x, s, e) }",
            feeds={"s": [1, -3], "e": [4, -1]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[5] x, int64[1] s, int64[1] e) => (float[m] y) { y = Slice (x, s, e) }",
            feeds={"s": [1], "e": [3]},
        ),
        "(float[5] x) => (float[2] y) "
        "{ s = Constant <value_ints = [1]> () e = Constant <value_ints = [3]> () y = Slice (x, s, e) }",
    ],
)
def slice_as_gather(site: Site, b: Body) -> str:
    """The start plus multiples of the step along every axis that the operands may name."""
    x, shape = site.input(0), site.out(0).shape
    given = [i for i in range(1, 5) if site.has(i)]
    if all(site.input(i).value is not None or site.input(i).shape_only for i in given):
        raise NoMatch("all operands are constant, or computed from shapes")
    axes = site.input(3) if site.has(3) else None
    number = (site.input(1).shape or (None,))[0]
    along = Along(axes, number, x.rank)
    total = x.name
    for r in range(x.rank):
        total = _slice_axis(site, b, total, along, r, shape[r] if shape is not None else None)
    return total


def _slice_axis(site: Site, b: Body, value: str, along: Along, r: int, dim: Dim) -> str:
    x = site.input(0)
    own = (x.shape or ())[r]
    steps = site.input(4) if site.has(4) else None
    forward = steps is None or (steps.value is not None and bool(np.all(steps.value == 1)))
    if along.place(r) == -1 or (dim is not None and dim == own and (forward or dim == 1)):
        return value
    count = length(b, x, dim)
    if count is None:
        for i in range(1, 5):
            if site.has(i):
                site.need(i, "which part is taken, and with it the shape of the output")
        raise NoMatch("the size of the output is not known")
    size, zero = axis_size(b, x, r), b.const(0, "int64")
    last = b.sub(size, b.const(1, "int64"))
    start = along.entry(b, site.input(1), r, 0)
    start = b.where(b.less(start, zero), b.add(start, size), start)
    places = counted(b, dim, count)
    if not forward:
        assert steps is not None
        step = along.entry(b, steps, r, 1)
        places = b.mul(places, step)
    indices = b.add(clamp(b, start, zero, last), places)
    return b.gather(value, clamp(b, indices, zero, last), axis=r)


@lowering(
    "split-into-declared-sizes",
    "Split",
    why="TensorRT wants the sizes of the parts as constants; the declared output shapes have them.",
    samples=[
        Sample(
            "(float[6] x, int64[2] s) => (float[2] a, float[4] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
        Sample(
            "(int64[n, 6] x, int64[3] s) => (int64[n, 1] a, int64[n, 3] c, int64[n, 2] d) "
            "{ a, c, d = Split <axis = -1> (x, s) }",
            opset=13,
            feeds={"s": [1, 3, 2]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 bfloat16 float16 double bool",
            "(T[6] x, int64[2] s) => (T[2] a, T[4] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[6] x, int64[2] s) => (float[p] a, float[q] c) { a, c = Split (x, s) }",
            feeds={"s": [2, 4]},
        ),
    ],
    since=13,
)
def split_into_declared(site: Site, b: Body) -> list[str]:
    """A Slice for each part."""
    x, sizes = site.input(0), run_time(site, 1)
    axis = int(site.attr("axis")) % x.rank
    dims = [o.shape[axis] if o is not None and o.shape is not None else None for o in site.outputs]
    own = (x.shape or ())[axis]
    missing = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    if len(missing) == 1 and isinstance(own, int):
        dims[missing[0]] = own - sum(d for d in dims if isinstance(d, int))
    elif missing:
        dims = [int(d) for d in site.need(1, f"the sizes of the {len(dims)} parts of {sizes.name}")]
    ends = np.cumsum([0, *dims])
    return [b.slice(x.name, axis, int(s), int(e)) for s, e in pairwise(ends)]


# -- padding --------------------------------------------------------------------------------------------------------


@lowering(
    "pad-as-gather",
    "Pad",
    why="TensorRT wants the pads as constants or computed from shapes. The declared output shape has the sizes, "
    "the pads say at run time where the input lies in it.",
    samples=[
        Sample(
            "(float[3, 4] x, int64[4] p, float v) => (float[6, 5] y) { y = Pad (x, p, v) }",
            feeds={"p": [1, -1, 2, 2]},
        ),
        Sample(
            "(int64[n, 4] x, int64[4] p) => (int64[n, 7] y) { y = Pad (x, p) }", feeds={"p": [0, 1, 0, 2]}
        ),
        Sample("(bool[3] x, int64[2] p) => (bool[5] y) { y = Pad (x, p) }", opset=13, feeds={"p": [1, 1]}),
        Sample(
            '(float16[3, 4] x, int64[4] p) => (float16[6, 7] y) { y = Pad <mode = "reflect"> (x, p) }',
            feeds={"p": [1, 2, 2, 1]},
        ),
        Sample(
            '(double[3, 4] x, int64[2] p, int64[1] a) => (double[3, 7] y) { y = Pad <mode = "edge"> (x, p, "", a) }',
            feeds={"p": [1, 2], "a": [-1]},
        ),
        Sample(
            '(int32[3, 4] x, int64[4] p) => (int32[6, 7] y) { y = Pad <mode = "wrap"> (x, p) }',
            opset=19,
            feeds={"p": [1, 2, 2, 1]},
        ),
        Sample(
            "(float[3, 4] x, int64[2] p, float v, int32[1] a) => (float[3, 7] y) { y = Pad (x, p, v, a) }",
            feeds={"p": [1, 2], "a": [1]},
        ),
        *samples_in(
            "uint8 uint32 uint64 int8",
            "(T[3, 4] x, int64[4] p, T v) => (T[6, 5] y) { y = Pad (x, p, v) }",
            feeds={"p": [1, -1, 2, 2]},
        ),
        *samples_in(
            "uint16 int16 bfloat16",
            "(T[n, 4] x, int64[4] p) => (T[n, 7] y) { y = Pad (x, p) }",
            feeds={"p": [0, 1, 0, 2]},
        ),
    ],
    near_misses=[
        Sample("(float[3] x, int64[2] p) => (float[m] y) { y = Pad (x, p) }", feeds={"p": [1, 1]}),
        "(float[3] x) => (float[5] y) { p = Constant <value_ints = [1, 1]> () y = Pad (x, p) }",
    ],
    since=11,
)
def pad_as_gather(site: Site, b: Body) -> str:
    """Along every axis: which element of the input a place shows, and whether there is one."""
    x, shape = site.input(0), site.out(0).shape
    given = [i for i in (1, 3) if site.has(i)]
    if all(site.input(i).value is not None or site.input(i).shape_only for i in given):
        raise NoMatch("pads and axes are constant, or computed from shapes")
    pads = site.input(1)
    axes = site.input(3) if site.has(3) else None
    count = axes.shape[0] if axes is not None and axes.shape else x.rank
    along = Along(axes, count, x.rank)
    total = x.name
    for r in range(x.rank):
        if along.place(r) == -1:
            continue
        dim = shape[r] if shape is not None else None
        size = length(b, x, dim)
        if size is None:
            site.need(1, "how much is padded, and with it the shape of the output")
            raise NoMatch("the size of the output is not known")
        before = along.entry(b, pads, r, 0)
        if site.attr("mode") == "constant":
            fill = site.x(2) if site.has(2) else b.const(0, site.dtype())
            total = placed(b, total, x, r, counted(b, dim, size), before, fill)
        else:
            indices = _mirrored(
                b, str(site.attr("mode")), counted(b, dim, size), before, axis_size(b, x, r), size
            )
            total = b.gather(total, indices, axis=r)
    return total


def placed(b: Body, value: str, x: Operand, r: int, places: str, before: str, fill: str) -> str:
    """Axis `r` moved up by a run-time number of places; what lies outside is filled."""
    zero = b.const(0, "int64")
    own = b.sub(places, before)
    last = b.sub(axis_size(b, x, r), b.const(1, "int64"))
    inside = b.logical_not(b.logical_or(b.less(own, zero), b.greater(own, last)))
    if x.rank - 1 - r:
        inside = b.unsqueeze(inside, *range(1, x.rank - r))
    return choose(b, inside, b.gather(value, clamp(b, own, zero, last), axis=r), fill, x.dtype)


def _mirrored(b: Body, mode: str, places: str, before: str, own: str, size: str) -> str:
    """Indices of the elements that the places show; negative pads cut the input before it is continued."""
    zero, one = b.const(0, "int64"), b.const(1, "int64")
    after = b.sub(b.sub(size, own), before)
    low = b.maximum(b.op("Neg", before), zero)
    kept = b.sub(b.add(own, b.minimum(after, zero)), low)
    here = b.sub(places, b.maximum(before, zero))
    if mode == "edge":
        inner = clamp(b, here, zero, b.sub(kept, one))
    elif mode == "wrap":
        inner = _modulo(b, here, kept)
    elif mode == "reflect":
        period = b.maximum(b.mul(b.sub(kept, one), b.const(2, "int64")), one)
        turned = _modulo(b, here, period)
        inner = b.minimum(turned, b.sub(period, turned))
    else:
        raise NoMatch(f"mode {mode}")
    return b.add(low, inner)


def _modulo(b: Body, value: str, by: str) -> str:
    """The remainder that is not negative."""
    rest = b.sub(value, b.mul(b.div(value, by), by))
    return b.where(b.less(rest, b.const(0, "int64")), b.add(rest, by), rest)


@lowering(
    "center-crop-pad-to-declared-shape",
    "CenterCropPad",
    why="The target has no such operator, and its function body computes shapes from the operand; the declared "
    "output shape has them. What is cut or added is halved, the odd one goes to the end.",
    samples=[
        Sample(
            "(float[20, 8, 3] x, int64[3] s) => (float[10, 11, 3] y) { y = CenterCropPad (x, s) }",
            feeds={"s": [10, 11, 3]},
        ),
        Sample(
            "(int32[7, n, 3] x, int64[2] s) => (int32[7, 4, 4] y) { y = CenterCropPad <axes = [-2, 2]> (x, s) }",
            feeds={"s": [4, 4]},
        ),
        Sample(
            "(bool[n, 5] x, int64[1] s) => (bool[n, 2] y) { y = CenterCropPad <axes = [1]> (x, s) }",
            feeds={"s": [2]},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int64 bfloat16 float16 double",
            "(T[20, 8, 3] x, int64[3] s) => (T[10, 11, 3] y) { y = CenterCropPad (x, s) }",
            feeds={"s": [10, 11, 3]},
        ),
        *samples_in(
            "int32",
            "(float[20, 8, 3] x, T[3] s) => (float[10, 11, 3] y) { y = CenterCropPad (x, s) }",
            feeds={"s": [10, 11, 3]},
        ),
    ],
    near_misses=[
        Sample("(float[5] x, int64[1] s) => (float[m] y) { y = CenterCropPad (x, s) }", feeds={"s": [3]}),
    ],
    since=18,
)
def center_crop_pad(site: Site, b: Body) -> str:
    """Slices and pads of known sizes; along free dims as a Gather."""
    x, shape = site.input(0), site.out(0).shape
    axes = site.attr("axes")
    total = x.name
    for r in range(x.rank) if axes is None else sorted(int(a) % x.rank for a in axes):
        own, dim = (x.shape or ())[r], shape[r] if shape is not None else None
        if dim is not None and own == dim:
            continue
        size = length(b, x, dim)
        if size is None:
            site.need(1, "the shape of the output")
            raise NoMatch("the size of the output is not known")
        if isinstance(own, int) and isinstance(dim, int) and own > dim:
            total = b.slice(total, r, (own - dim) // 2, (own - dim) // 2 + dim)
            continue
        difference = b.sub(size, axis_size(b, x, r))
        before = b.div(difference, b.const(2, "int64"))
        total = placed(b, total, x, r, counted(b, dim, size), before, b.const(0, site.dtype()))
    return b.op("Identity", total) if total == x.name else total


# -- triangles and diagonals ----------------------------------------------------------------------------------------


def triangle(site: Site, b: Body) -> str:
    """Where row and column numbers compare, the input, else zero."""
    x = site.input(0)
    if x.rank < 2:
        raise NoMatch("not a matrix")
    difference = _columns_less_rows(b, x)
    k = b.op("Reshape", site.x(1), b.ints(1)) if site.has(1) else b.ints(0)
    outside = b.less(difference, k) if site.attr("upper") else b.greater(difference, k)
    return choose(b, outside, b.const(0, site.dtype()), x.name, x.dtype)


def _columns_less_rows(b: Body, x: Operand) -> str:
    shape = x.shape or ()
    rows, columns = (counted(b, shape[r], axis_size(b, x, r)) for r in (x.rank - 2, x.rank - 1))
    return b.sub(b.unsqueeze(columns, 0), b.unsqueeze(rows, 1))


@lowering(
    "upper-triangle-of-whole-numbers",
    "Trilu",
    why="TensorRT computes the upper triangle of int64 wrongly, without a word; the unsigned types become int64.",
    samples=[
        Sample(
            "(int64[2, 3, 4] x, int64 k) => (int64[2, 3, 4] y) { y = Trilu (x, k) }", feeds={"k": (-3, 4)}
        ),
        "(int64[n, m] x) => (int64[n, m] y) { y = Trilu (x) }",
        *samples_in(
            "uint32 uint64",
            "(T[2, 3, 4] x, int64 k) => (T[2, 3, 4] y) { y = Trilu (x, k) }",
            feeds={"k": (-3, 4)},
        ),
    ],
    near_misses=["(float[3, 3] x) => (float[3, 3] y) { y = Trilu (x) }"],
    when="always",
    since=14,
)
def upper_triangle(site: Site, b: Body) -> str:
    """The triangle as a choice."""
    if site.dtype().name not in ("int64", "uint64", "uint32") or not site.attr("upper"):
        raise NoMatch("taken, and computed right")
    return triangle(site, b)


@lowering(
    "triangle-as-choice",
    "Trilu",
    why="Where the target does not take Trilu: row and column numbers are compared.",
    samples=[
        Sample(
            "(float[2, 3, 4] x, int64[1] k) => (float[2, 3, 4] y) { y = Trilu <upper = 0> (x, k) }",
            feeds={"k": [1]},
        ),
        Sample("(bool[n, 4] x, int64 k) => (bool[n, 4] y) { y = Trilu (x, k) }", feeds={"k": (-3, 4)}),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 double",
            "(T[2, 3, 4] x, int64[1] k) => (T[2, 3, 4] y) { y = Trilu <upper = 0> (x, k) }",
            feeds={"k": [1]},
        ),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Relu (x) }"],
    since=14,
)
def triangle_as_choice(site: Site, b: Body) -> str:
    """The triangle as a choice."""
    return triangle(site, b)


@lowering(
    "eyelike-by-comparison",
    "EyeLike",
    why="TensorRT wants the shape of the matrix as numbers; row and column numbers that are k apart need none.",
    samples=[
        "(float[n, 4] x) => (float[n, 4] y) { y = EyeLike <k = 1> (x) }",
        "(int32[n, m] x) => (double[n, m] y) { y = EyeLike <dtype = 11, k = -1> (x) }",
        *samples_in(
            "float16 double int8 int16 int64 uint8 uint16 uint32 uint64 bool",
            "(T[n, 4] x) => (float[n, 4] y) { y = EyeLike <k = 1> (x) }",
        ),
        *samples_in(
            "float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool",
            "(float[n, 4] x) => (T[n, 4] y) { y = EyeLike <k = 1> (x) }",
        ),
    ],
    near_misses=["(float[3, 3] x) => (float[3, 3] y) { y = EyeLike (x) }"],
    when="always",
)
def eyelike(site: Site, b: Body) -> str:
    """Ones where column less row is k."""
    x = site.input(0)
    if x.static:
        raise NoMatch("taken: the sizes are known")
    wanted = site.attr("dtype")
    dtype = site.dtype() if wanted is None else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(wanted)))
    hit = b.equal(_columns_less_rows(b, x), b.const(int(site.attr("k")), "int64"))
    return b.cast(hit, dtype)
