"""Reductions, running sums and products, and the largest elements, where the axis or the number is an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Dim, Operand, Site

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip

MAX_CANDIDATES = 24
"""Choices of axes that are all computed, at most."""

Choice = tuple[int, ...]


# -- reductions ---------------------------------------------------------------------------------------------------


@lowering(
    "reduce-over-run-time-axes",
    *REDUCTIONS,
    why="TensorRT wants the axes of a reduction as constants. The declared output shape tells which axes they can "
    "be; where it leaves a choice, every candidate is computed and the axes pick one.",
    samples=[
        Sample(
            "(float[3, 2, 4] x, int64[1] axes) => (float[3, 4] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
            feeds={"axes": [1]},
        ),
        Sample(
            "(float[3, 2, 2] x, int64[1] axes) => (float[3, 2] y) { y = ReduceMax <keepdims = 0> (x, axes) }",
            feeds={"axes": (1, 3)},
        ),
        Sample(
            "(float16[3, 2, 2] x, int64[2] axes) => (float16[3, 1, 1] y) { y = ReduceL2 (x, axes) }",
            feeds={"axes": [-1, 1]},
        ),
        Sample(
            "(int32[n, 2, 2] x, int64[1] axes) => (int32[n, 2] y) { y = ReduceL1 <keepdims = 0> (x, axes) }",
            feeds={"axes": [-2]},
        ),
        Sample(
            "(int64[3, 3] x, int64[1] axes) => (int64[3] y) { y = ReduceSumSquare <keepdims = 0> (x, axes) }",
            feeds={"axes": [0]},
        ),
        Sample(
            "(double[3, 3] x, int64[k] axes) => (double[1, 3] y) { y = ReduceLogSumExp (x, axes) }",
            feeds={"axes": [0]},
        ),
        "(float[3, 2] x, int64[0] axes) => (float[1, 1] y) { y = ReduceMean (x, axes) }",
        "(float[3, 2] x, int64[0] axes) => (float[3, 2] y) "
        "{ y = ReduceSumSquare <noop_with_empty_axes = 1> (x, axes) }",
        Sample(
            "(float[3, 2, 2] x, int64[1] axes) => (float[1, 2, 2] y) { y = ReduceSum (x, axes) }",
            opset=13,
            feeds={"axes": [0]},
        ),
        *samples_in(
            "uint32 uint64 bfloat16",
            "(T[3, 2, 4] x, int64[1] axes) => (T[3, 4] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
            feeds={"axes": [1]},
        ),
        *samples_in(
            "uint8 int8",
            "(T[3, 2, 2] x, int64[1] axes) => (T[3, 2] y) { y = ReduceMax <keepdims = 0> (x, axes) }",
            feeds={"axes": (1, 3)},
        ),
    ],
    near_misses=[
        "(float[3, 2] x) => (float[1, 1] y) { y = ReduceSum (x) }",
        Sample(
            "(float[3, 2, 4] x, int64[1] axes) => (float[a, b] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
            feeds={"axes": [1]},
        ),
    ],
)
def reduce_run_time_axes(site: Site, b: Body) -> str:
    """The reduction over constant axes, or a choice between such reductions."""
    x, axes = site.input(0), run_time(site, 1)
    choices = reduction_choices(site, x, axes)
    if not choices:
        raise NoMatch("no axes lead from the shape of the input to the declared shape of the output")
    if (
        len(choices) > 1
        and len({_reduced(x.shape or (), c, bool(site.attr("keepdims"))) for c in choices}) > 1
    ):
        site.need(1, "which axes are reduced, and with it the shape of the output")
    if len(choices) > MAX_CANDIDATES:
        site.need(1, "which axes are reduced")
    results = [_reduce(site, b, c) for c in choices]
    rank = x.rank
    total = results[-1]
    if len(choices) == 1:
        return total
    reduced = [has_axis(b, axes, r, rank) for r in range(rank)]
    for choice, result in zip(choices[-2::-1], results[-2::-1], strict=True):
        total = choose(b, _all(b, [reduced[r] for r in choice]), result, total, x.dtype)
    return total


def reduction_choices(site: Site, x: Operand, axes: Operand) -> list[Choice]:
    """Sets of axes that are in keeping with the number of axes and the shapes; equivalent ones once."""
    rank = x.rank
    number = axes.shape[0] if axes.shape else None
    if number == 0:
        return [()] if site.attr("noop_with_empty_axes") else [tuple(range(rank))]
    sizes = [number] if isinstance(number, int) else range(1, rank + 1)
    choices = [c for n in sizes for c in combinations(range(rank), n)]
    if not isinstance(number, int) and site.attr("noop_with_empty_axes"):
        choices.append(())
    keep = bool(site.attr("keepdims"))
    shape, out = x.shape or (), site.out(0).shape
    fitting = [c for c in choices if out is None or _fits(_reduced(shape, c, keep), out)]
    fitting = [c for c in fitting if out is not None and _reduced(shape, c, keep) == out] or fitting
    # An axis of size 1 that stays as size 1 makes no difference.
    distinct: dict[Choice, Choice] = {}
    for c in fitting:
        distinct.setdefault(tuple(r for r in c if not keep or shape[r] != 1), c)
    return list(distinct.values())


def _reduced(shape: Sequence[Dim], axes: Choice, keep: bool) -> tuple[Dim, ...]:
    if keep:
        return tuple(1 if r in axes else d for r, d in enumerate(shape))
    return tuple(d for r, d in enumerate(shape) if r not in axes)


def _fits(shape: Sequence[Dim], declared: Sequence[Dim]) -> bool:
    """Whether a shape can be the declared one: numbers agree, and names do not stand for different names."""
    if len(shape) != len(declared):
        return False
    return all(
        a is None or d is None or a == d or (type(a) is not type(d))
        for a, d in zip(shape, declared, strict=True)
    )


def _reduce(site: Site, b: Body, axes: Choice) -> str:
    """The site's reduction over constant axes; over none: what remains of it without reducing."""
    x = site.x(0)
    if not axes:
        return _pointwise(site, b)
    attributes = {"keepdims": int(site.attr("keepdims"))}
    return b.op(site.op, x, b.ints(*axes), **attributes)


def _pointwise(site: Site, b: Body) -> str:
    """A reduction over no axis: each element on its own."""
    x = site.x(0)
    if site.op in ("ReduceL1", "ReduceL2"):
        return b.op("Abs", x)
    if site.op == "ReduceSumSquare":
        return b.mul(x, x)
    if site.op == "ReduceLogSum":
        return b.op("Log", x)
    return b.op("Identity", x)


def has_axis(b: Body, axes: Operand, r: int, rank: int) -> str:
    """A bool of rank 0: whether the run-time axes name axis `r` (counted from either end)."""
    names = b.cast(axes.name, np.int64) if axes.dtype != np.int64 else axes.name
    hit = b.logical_or(b.equal(names, b.const(r, "int64")), b.equal(names, b.const(r - rank, "int64")))
    if axes.rank == 0:
        return hit
    one = b.const(1, "int64")
    count = b.reduce("ReduceSum", b.cast(hit, np.int64), 0, keepdims=False)
    return b.logical_not(b.less(count, one))


def _all(b: Body, conditions: Sequence[str]) -> str:
    total = conditions[0]
    for condition in conditions[1:]:
        total = b.logical_and(total, condition)
    return total


def choose(b: Body, condition: str, yes: str, no: str, dtype: np.dtype[np.generic] | None) -> str:
    """`yes` where the condition holds, else `no`; ONNX Runtime's Where takes no bool."""
    if dtype is None or dtype.kind != "b":
        return b.where(condition, yes, no)
    return b.logical_or(b.logical_and(condition, yes), b.logical_and(b.logical_not(condition), no))


def run_time(site: Site, i: int) -> Operand:
    """Input `i`, if it is given and neither constant nor computed from shapes, which TensorRT does on the host."""
    operand = site.input(i)
    if operand.value is not None:
        raise NoMatch(f"input {i} is constant")
    if operand.shape_only:
        raise NoMatch(f"input {i} is computed from shapes")
    return operand


@lowering(
    "reduce-bool",
    "ReduceMax",
    "ReduceMin",
    why="TensorRT reduces no booleans: any and all are the maximum and minimum of zeros and ones.",
    samples=[
        Sample("(bool[3, 2, 4] x) => (bool[1, 1, 1] y) { y = ReduceMax (x) }", opset=20),
        Sample(
            "(bool[n, 2, 4] x) => (bool[n, 4] y) "
            "{ axes = Constant <value_ints = [1]> () y = ReduceMin <keepdims = 0> (x, axes) }",
            opset=20,
        ),
    ],
    near_misses=[Sample("(float[3, 2] x) => (float[1, 1] y) { y = ReduceMax (x) }", opset=20)],
    since=20,
)
def reduce_bool(site: Site, b: Body) -> str:
    """Cast, reduce, compare with zero."""
    if site.kind() != "b":
        raise NoMatch("the input is not bool")
    attributes = {k: site.attr(k) for k in ("keepdims", "noop_with_empty_axes")}
    numbers = b.cast(site.x(0), np.int32)
    axes = [site.x(1)] if site.has(1) else []
    return b.greater(b.op(site.op, numbers, *axes, **attributes), b.const(0, "int32"))


# -- running sums and products --------------------------------------------------------------------------------------


@lowering(
    "cumsum-along-run-time-axis",
    "CumSum",
    why="TensorRT wants the axis of CumSum as a constant: every axis is summed along, and the operand picks one.",
    samples=[
        Sample(
            "(float[3, 2, 4] x, int64 axis) => (float[3, 2, 4] y) { y = CumSum (x, axis) }",
            feeds={"axis": (-3, 3)},
        ),
        Sample(
            "(double[3, n] x, int32 axis) => (double[3, n] y) { y = CumSum <exclusive = 1> (x, axis) }",
            feeds={"axis": (-2, 2)},
        ),
        Sample(
            "(int32[3, 2] x, int64 axis) => (int32[3, 2] y) { y = CumSum <reverse = 1> (x, axis) }",
            feeds={"axis": (-2, 2)},
        ),
        Sample("(int64[n] x, int64[1] axis) => (int64[n] y) { y = CumSum (x, axis) }", feeds={"axis": [0]}),
        *samples_in(
            "uint32 uint64 float16 bfloat16",
            "(T[3, 2, 4] x, int64 axis) => (T[3, 2, 4] y) { y = CumSum (x, axis) }",
            feeds={"axis": (-3, 3)},
        ),
    ],
    near_misses=[
        "(float[3, 2] x) => (float[3, 2] y) { axis = Constant <value_int = 1> () y = CumSum (x, axis) }",
    ],
)
def cumsum_run_time_axis(site: Site, b: Body) -> str:
    """One CumSum per axis and a choice."""
    axis = run_time(site, 1)
    flags = {k: int(site.attr(k)) for k in ("exclusive", "reverse")}
    return along_axis(
        b, axis, site.input(0).rank, lambda r: b.op("CumSum", site.x(0), b.const(r, "int64"), **flags)
    )


def along_axis(b: Body, axis: Operand, rank: int, compute: Callable[[int], str]) -> str:
    """What `compute` gives for the axis that a run-time operand names."""
    if rank == 0:
        raise NoMatch("the input has no axes")
    total = compute(rank - 1)
    for r in range(rank - 1):
        total = b.where(has_axis(b, axis, r, rank), compute(r), total)
    return total


@lowering(
    "cumprod-by-doubling",
    "CumProd",
    why="No TensorRT has CumProd. Along an axis of known length: each element times the one 1, 2, 4 ... before it "
    "(Hillis and Steele's scan). Along one of open length: products over a triangle of the elements.",
    samples=[
        Sample(
            "(float[3, 5] x) => (float[3, 5] y) { axis = Constant <value_int = -1> () y = CumProd (x, axis) }",
            opset=26,
        ),
        Sample(
            "(double[5, 3] x, int64 axis) => (double[5, 3] y) { y = CumProd <exclusive = 1> (x, axis) }",
            opset=26,
            feeds={"axis": (-2, 2)},
        ),
        Sample(
            "(int32[4] x, int32 axis) => (int32[4] y) { y = CumProd <reverse = 1> (x, axis) }",
            opset=26,
            feeds={"axis": [0], "x": (-3, 4)},
        ),
        Sample(
            "(int64[2, n] x) => (int64[2, n] y) "
            "{ axis = Constant <value_int = 1> () y = CumProd <reverse = 1, exclusive = 1> (x, axis) }",
            opset=26,
            feeds={"x": (-3, 4)},
        ),
        Sample(
            "(float16[n, 2] x) => (float16[n, 2] y) { axis = Constant <value_int = 0> () y = CumProd (x, axis) }",
            opset=26,
        ),
        *samples_in(
            "uint32 uint64 bfloat16",
            "(T[3, 5] x) => (T[3, 5] y) { axis = Constant <value_int = -1> () y = CumProd (x, axis) }",
            opset=26,
        ),
    ],
    near_misses=[Sample("(float[x] x, int64 axis) => (float[x] y) { y = CumSum (x, axis) }", opset=26)],
    since=26,
)
def cumprod(site: Site, b: Body) -> str:
    """Running products along a constant axis, or along every axis and a choice."""
    x, axis = site.input(0), site.input(1)
    shape, rank = x.shape or (), x.rank
    narrow = site.kind() == "f" and (site.dtype().itemsize < 4)
    wide = b.cast(x.name, np.float32) if narrow else x.name
    dtype = np.dtype(np.float32) if narrow else site.dtype()

    def compute(r: int) -> str:
        length = shape[r]
        if isinstance(length, int):
            return _scan(site, b, wide, r, length, dtype)
        return _triangle(site, b, wide, r, dtype)

    if axis.value is not None:
        total = compute(int(np.ravel(axis.value)[0]) % rank)
    else:
        total = along_axis(b, axis, rank, compute)
    return b.cast(total, site.dtype()) if narrow else total


def _scan(site: Site, b: Body, x: str, axis: int, length: int, dtype: np.dtype[np.generic]) -> str:
    """Products of the elements up to each one, doubling the reach in every step."""
    rank = site.input(0).rank

    def shifted(value: str, places: int) -> str:
        pads = [0] * (2 * rank)
        pads[axis + rank if site.attr("reverse") else axis] = places
        start = places if site.attr("reverse") else 0
        kept = b.slice(value, axis, start, start + length - places)
        return b.op("Pad", kept, b.ints(*pads), b.const(1, dtype))

    if site.attr("exclusive"):
        if length < 2:
            raise NoMatch("products over nothing")
        x = shifted(x, 1)
    step = 1
    while step < length:
        x = b.mul(x, shifted(x, step))
        step *= 2
    return b.op("Identity", x) if length < 2 else x


def _triangle(site: Site, b: Body, x: str, axis: int, dtype: np.dtype[np.generic]) -> str:
    """Products over the elements that a triangle of trues picks for each place."""
    rank = site.input(0).rank
    length = b.gather(b.op("Shape", x), b.const(axis, "int64"), axis=0)
    places = b.op("Range", b.const(0, "int64"), length, b.const(1, "int64"))
    row, column = b.unsqueeze(places, 1), b.unsqueeze(places, 0)
    if site.attr("reverse"):
        row, column = column, row
    counts = b.greater(row, column) if site.attr("exclusive") else b.logical_not(b.less(row, column))
    trailing = rank - 1 - axis
    if trailing:
        counts = b.unsqueeze(counts, *range(2, 2 + trailing))
    picked = b.where(counts, b.unsqueeze(x, axis), b.const(1, dtype))
    return b.reduce("ReduceProd", picked, axis + 1, keepdims=False)


# -- largest elements -----------------------------------------------------------------------------------------------


@lowering(
    "topk-of-declared-number",
    "TopK",
    why="TensorRT wants the number of elements as a constant; the declared output shape has it.",
    samples=[
        Sample(
            "(float[3, 6] x, int64[1] k) => (float[3, 2] v, int64[3, 2] i) { v, i = TopK (x, k) }",
            feeds={"k": [2]},
        ),
        Sample(
            "(int64[n, 6] x, int64[1] k) => (int64[n, 3] v, int64[n, 3] i) { v, i = TopK <largest = 0> (x, k) }",
            feeds={"k": [3]},
        ),
        Sample(
            "(float16[5, 2] x, int64[1] k) => (float16[4, 2] v, int64[4, 2] i) { v, i = TopK <axis = 0> (x, k) }",
            feeds={"k": [4]},
        ),
        Sample(
            "(double[5, 2] x, int64[1] k) => (double[5, 2] v, int64[5, 2] i) { v, i = TopK <axis = -2> (x, k) }",
            feeds={"k": [5]},
        ),
        Sample(
            "(int32[5] x, int64[1] k) => (int32[4] v, int64[4] i) { v, i = TopK (x, k) }", feeds={"k": [4]}
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16",
            "(T[3, 6] x, int64[1] k) => (T[3, 2] v, int64[3, 2] i) { v, i = TopK (x, k) }",
            feeds={"k": [2]},
        ),
    ],
    near_misses=[
        Sample(
            "(float[6] x, int64[1] k) => (float[m] v, int64[m] i) { v, i = TopK (x, k) }", feeds={"k": [2]}
        ),
    ],
)
def topk_of_declared_number(site: Site, b: Body) -> list[str]:
    """The same with the number that the outputs declare."""
    run_time(site, 1)
    rank = site.input(0).rank
    axis = int(site.attr("axis")) % rank
    sizes = [
        o.shape[axis] for o in site.outputs if o is not None and o.shape is not None and len(o.shape) == rank
    ]
    known = [d for d in sizes if isinstance(d, int)]
    number = known[0] if known else int(np.ravel(site.need(1, "how many elements are kept"))[0])
    attributes = {k: int(site.attr(k)) for k in ("axis", "largest", "sorted")}
    return list(b.node("TopK", [site.x(0), b.ints(number)], outputs=2, attributes=attributes))
