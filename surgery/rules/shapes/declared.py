"""Shapes, repeats and lengths read off the shape that the output declares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Dim, Operand, Site
from surgery.rules.reductions import choose, run_time
from surgery.rules.sizes import count_up

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
        Sample(
            "(float[4] i, float d, float[2] v) => (float[4, 6] y) { y = OneHot (i, d, v) }",
            feeds={"i": [1, 2.5, -2, -0.5], "d": 6},
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
    # ONNX Runtime compares floats as they are: a fraction is no place.
    kind = "int64" if site.kind(0) != "f" else "double" if str(indices.dtype) == "float64" else "float32"
    whole = b.unsqueeze(b.cast(indices.name, kind), axis)
    wrapped = b.where(b.less(whole, b.const(0, kind)), b.add(whole, b.const(depth, kind)), whole)
    places = b.const(np.arange(depth).reshape(-1, *[1] * (indices.rank - axis)), kind)
    off, on = (b.gather(site.x(2), b.const(i, "int64"), axis=0) for i in (0, 1))
    return choose(b, b.equal(wrapped, places), on, off, site.input(2).dtype)
