"""Pad and CenterCropPad: places that are gathered, those outside the tensor filled."""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site
from surgery.rules.reductions import choose
from surgery.rules.shapes.axes import Along, counted, length
from surgery.rules.sizes import axis_size, clamp


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
