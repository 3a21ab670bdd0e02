"""Signal processing: Fourier transforms as products with matrices of cosines and sines, and mel filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Operand, Site
from surgery.rules.precision import HALVES, to

LARGEST = 1 << 24
"""Elements of the largest matrix that is written out (64 MiB)."""


@dataclass(frozen=True)
class Transform:
    """A discrete Fourier transform along one axis.

    Attributes:
        length: Number of points, or None: the size of the axis, known at run time.
        taken: Points that the operand has, at most `length`; None if known at run time.
        parts: 1 for real operands, 2 for complex ones.
        inverse: Whether it is the inverse transform.
        onesided: Whether only the first half of the spectrum is written (or read, if inverse).
    """

    length: int | None
    taken: int | None
    parts: int
    inverse: bool
    onesided: bool

    @property
    def real_result(self) -> bool:
        """The inverse of half a spectrum has no imaginary part."""
        return self.inverse and self.onesided

    @property
    def written(self) -> int | None:
        """Points of the result."""
        if self.length is None:
            return None
        return self.length // 2 + 1 if self.onesided and not self.inverse else self.length


def matrix(plan: Transform) -> NDArray[np.float64]:
    """Real matrix [taken * parts, written * 1 or 2] of a transform of known length.

    Rows and columns are pairs of real and imaginary parts: (a + ib) (c + is) = ac - bs + i (as + bc).
    """
    n, taken, written = plan.length, plan.taken, plan.written
    assert n is not None
    assert taken is not None
    assert written is not None
    sign = 1 if plan.inverse else -1
    angles = 2 * np.pi / n * (np.outer(np.arange(taken), np.arange(written)) % n)
    c, s = np.cos(angles), sign * np.sin(angles)
    table = np.empty((taken, plan.parts, written, 2))
    table[:, 0, :, 0], table[:, 0, :, 1] = c, s
    if plan.parts == 2:
        table[:, 1, :, 0], table[:, 1, :, 1] = -s, c
    if plan.inverse:
        table /= n
    if plan.real_result:
        table = table[..., :1] * _halves(n, taken)
    return table.reshape(taken * plan.parts, -1)


def _halves(n: int, taken: int) -> NDArray[np.float64]:
    """How often a line of half a spectrum counts: all but the first and the middle one have a mirror image."""
    times = np.full((taken, 1, 1, 1), 2.0)
    times[0] = 1
    if n % 2 == 0 and taken > n // 2:
        times[n // 2] = 1
    return times


def run_time_matrix(b: Body, plan: Transform, taken: str, length: str, dtype: np.dtype[np.generic]) -> str:
    """As `matrix`, where the length is known at run time only; both are int64 tensors of rank 0."""
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    written = length
    if plan.onesided:
        written = b.add(b.div(length, b.const(2, np.int64)), one)
    rows = b.unsqueeze(b.op("Range", zero, taken, one), 1)
    columns = b.unsqueeze(b.op("Range", zero, written, one), 0)
    around = b.op("Mod", b.mul(rows, columns), length)  # whole turns do not count, and would cost digits
    real = b.cast(length, dtype)
    angles = b.div(b.mul(b.cast(around, dtype), b.const(math.tau, dtype)), real)
    c, s = b.op("Cos", angles), b.op("Sin", angles)
    if plan.inverse:
        c, s = b.div(c, real), b.div(s, real)
    else:
        s = b.op("Neg", s)
    lines = [b.op("Concat", b.unsqueeze(c, 2), b.unsqueeze(s, 2), axis=2)]
    if plan.parts == 2:
        lines.append(b.op("Concat", b.unsqueeze(b.op("Neg", s), 2), b.unsqueeze(c, 2), axis=2))
    table = b.concat([b.unsqueeze(line, 1) for line in lines], 1)  # [taken, parts, written, 2]
    flat = b.op("Reshape", table, b.ints(0, 0, -1))
    size = [b.op("Reshape", b.mul(taken, b.const(plan.parts, np.int64)), b.ints(1)), b.ints(-1)]
    return b.op("Reshape", flat, b.op("Concat", *size, axis=0))


def transformed(b: Body, x: str, axis: int, rank: int, plan: Transform, dtype: np.dtype[np.generic]) -> str:
    """The transform along an axis of [..., parts]: [..., 2], or [..., 1] if the result is real."""
    last = rank - 1
    order = [a for a in range(last) if a != axis] + [axis, last]
    if plan.length is not None and plan.taken is not None:
        weights = b.const(matrix(plan), dtype)
    else:
        size = b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0)
        length = size if plan.length is None else b.const(plan.length, np.int64)
        weights = run_time_matrix(b, plan, size, length, dtype)
    moved = b.transpose(x, *order) if order != list(range(rank)) else x
    lines = b.reshape(moved, *[0] * (rank - 2), -1)
    product = b.op("MatMul", lines, weights)
    pairs = b.reshape(product, *[0] * (rank - 2), -1, 1 if plan.real_result else 2)
    if moved == x:
        return pairs
    return b.transpose(pairs, *np.argsort(order).tolist())


def _number_or_none(dim: int | str | None) -> int | None:
    return dim if isinstance(dim, int) else None


def _plan(site: Site, x: Operand, axis: int) -> tuple[Transform, bool]:
    """The transform, and whether the axis has to be cut off at its length."""
    shape = x.shape or ()
    parts = shape[-1]
    if parts not in (1, 2):
        raise NoMatch("whether the operand is real or complex is not known")
    inverse, onesided = bool(site.attr("inverse", 0)), bool(site.attr("onesided", 0))
    size = _number_or_none(shape[axis])
    length = _length(site, axis, onesided)
    if inverse and onesided:
        if size is None:
            raise NoMatch("how many lines the spectrum has is not known")
        # Half a spectrum of m lines is that of 2 (m - 1) points, where nothing else is said.
        length = length or 2 * (size - 1)
        if size != length // 2 + 1:
            raise NoMatch("the operand is not half a spectrum of that length")
        plan, cut = Transform(length, size, int(parts), inverse, onesided), False
    else:
        length = size if length is None else length
        cut = length is not None and (size is None or size > length)
        taken = min(size, length) if size is not None and length is not None else size
        plan = Transform(length, taken, int(parts), inverse, onesided)
    if length is not None and length < 1:
        raise NoMatch("a transform of no points")
    _check_size(plan)
    return plan, cut


def _check_size(plan: Transform) -> None:
    if matrix_size(plan) > LARGEST:
        raise NoMatch(f"a transform of {plan.length} points is not written as a matrix")


def matrix_size(plan: Transform) -> int:
    """Elements of the matrix."""
    return (plan.taken or 0) * plan.parts * (plan.written or 0) * (1 if plan.real_result else 2)


def _length(site: Site, axis: int, onesided: bool) -> int | None:
    """The number of points that an operand says; what the result declares says it too if it is not halved."""
    if not site.has(1):
        return None
    if site.input(1).value is None and (not onesided or site.attr("inverse", 0)):
        declared = site.out(0).shape
        known = _number_or_none(declared[axis]) if declared is not None else None
        if known is not None:
            return known
    return int(site.need(1, "the number of points of the transform").item())


@lowering(
    "dft-by-matrix",
    "DFT",
    why="No TensorRT has DFT. The discrete Fourier transform is a product with a matrix of cosines and sines.",
    since=17,
    samples=[
        "(float[2, 8, 1] x) => (float[2, 8, 2] y) { y = DFT (x) }",
        "(float[2, 9, 1] x) => (float[2, 5, 2] y) { y = DFT <onesided = 1> (x) }",
        "(float[2, 8, 2] x) => (float[2, 8, 2] y) { y = DFT <inverse = 1> (x) }",
        "(float[n, 8, 3, 2] x) => (float[n, 8, 5, 2] y) <int64 l = {5}> { y = DFT <axis = -2> (x, l) }",
        "(float[n, m, 3, 2] x) => (float[n, m, 3, 2] y) { y = DFT <inverse = 1> (x) }",
        "(float[n, m, 1] x) => (float[n, k, 2] y) { y = DFT <onesided = 1> (x) }",
        "(float[n, m, 1] x) => (float[n, 6, 2] y) <int64 l = {6}> { y = DFT (x, l) }",
        "(float[2, 5, 2] x) => (float[2, 8, 1] y) <int64 l = {8}> { y = DFT <onesided = 1, inverse = 1> (x, l) }",
        "(float[2, 5, 2] x) => (float[2, 9, 1] y) <int64 l = {9}> { y = DFT <onesided = 1, inverse = 1> (x, l) }",
        "(float[2, 5, 1] x) => (float[2, 8, 1] y) { y = DFT <onesided = 1, inverse = 1> (x) }",
        Sample(
            "(double[4, 8, 1] x) => (double[4, 3, 2] y) <int64 l = {5}, int64 a = {1}> "
            "{ y = DFT <onesided = 1> (x, l, a) }",
            opset=20,
        ),
        Sample("(float16[8, 5, 2] x) => (float16[8, 5, 2] y) <int64 a = {0}> { y = DFT (x, , a) }", opset=20),
        Sample(
            "(float[2, 5, 2] x, int64 l) => (float[2, 11, 2] y) { y = DFT <inverse = 1> (x, l) }",
            opset=20,
            feeds={"l": 11},
        ),
        Sample(
            "(float[2, 5, 2] x, int32 l) => (float[2, 3, 2] y) { y = DFT (x, l) }",
            feeds={"l": 3},
        ),
    ],
    near_misses=["(float[2, 20000, 2] x) => (float[2, 20000, 2] y) { y = DFT (x) }"],
)
def dft(site: Site, b: Body) -> str:
    """One product of [..., points * parts] with a matrix; the axis moves to the end and back."""
    x, dtype = site.input(0), site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    if site.opset >= 20:
        axis = int(site.need(2, "the axis of the transform").item()) if site.has(2) else -2
    else:
        axis = int(site.attr("axis", 1))
    axis %= x.rank
    plan, cut = _plan(site, x, axis)
    value = to(b, x.name, dtype, work)
    if cut:
        assert plan.length is not None
        value = b.slice(value, axis, 0, plan.length)
    return to(b, transformed(b, value, axis, x.rank, plan, work), work, dtype)


@lowering(
    "stft-by-frames",
    "STFT",
    why="TensorRT's STFT has real signals, a constant window and constant sizes. Frames are gathered, multiplied by "
    "the window, and transformed by a product with a matrix of cosines and sines.",
    since=17,
    samples=[
        "(float[2, 16, 1] x, float[8] w) => (float[2, 3, 5, 2] y) <int64 s = {4}> { y = STFT (x, s, w) }",
        Sample(
            "(float[n, m, 2] x, float[8] w) => (float[n, f, 8, 2] y) <int64 s = {3}, int64 l = {8}> "
            "{ y = STFT <onesided = 0> (x, s, w, l) }",
            feeds={"x": np.linspace(-1, 1, 68).reshape(2, 17, 2)},
        ),
        "(float[2, 17, 2] x) => (float[2, 3, 4, 2] y) <int64 s = {4}, int64 l = {7}> { y = STFT (x, s, , l) }",
        "(double[2, 16, 1] x, double[6] w) => (double[2, 3, 4, 2] y) <int64 s = {4}> { y = STFT (x, s, w) }",
        "(float[2, 16] x, float[6] w) => (float[2, 3, 4, 2] y) <int64 s = {4}> { y = STFT (x, s, w) }",
        "(float16[2, 16, 1] x, float16[6] w) => (float16[2, 3, 4, 2] y) <int64 s = {4}> { y = STFT (x, s, w) }",
    ],
    near_misses=[
        Sample(
            "(float[2, 16, 1] x, int64 s) => (float[2, 3, 5, 2] y) <int64 l = {8}> { y = STFT (x, s, , l) }",
            feeds={"s": 4},
        )
    ],
)
def stft(site: Site, b: Body) -> str:
    """Frames [batch, frames, length, parts] by one Gather, the window, and the transform of every frame."""
    x, dtype = site.input(0), site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    if x.rank not in (2, 3):
        raise NoMatch("not a batch of signals")
    parts = 1 if x.rank == 2 else (x.shape or ())[2]
    if parts not in (1, 2):
        raise NoMatch("whether the signal is real or complex is not known")
    step = int(site.need(1, "the distance between frames").item())
    plan_length = _frame_length(site)
    plan = Transform(plan_length, plan_length, int(parts), False, bool(site.attr("onesided", 1)))
    _check_size(plan)
    value = to(b, x.name, dtype, work)
    if x.rank == 2:
        value = b.unsqueeze(value, 2)
    frames = b.gather(value, _places(b, x, step, plan_length), 1)
    if site.has(2):
        window = to(b, site.x(2), site.dtype(2), work)
        frames = b.mul(frames, b.unsqueeze(window, 1))
    return to(b, transformed(b, frames, 2, 4, plan, work), work, dtype)


def _frame_length(site: Site) -> int:
    if site.has(3):
        return int(site.need(3, "the length of the frames").item())
    known = _number_or_none((site.input(2).shape or (None,))[0])
    if known is None:
        raise NoMatch("the length of the frames is not known")
    return known


def _places(b: Body, x: Operand, step: int, length: int) -> str:
    """Positions of the values of each frame, [frames, length]."""
    size = _number_or_none((x.shape or ())[1])
    if size is not None:
        count = (size - length) // step + 1
        if count < 1:
            raise NoMatch("the signal is shorter than a frame")
        return b.const(np.arange(count)[:, None] * step + np.arange(length), np.int64)
    points = b.gather(b.op("Shape", x.name), b.const(1, np.int64), axis=0)
    steps = b.div(b.sub(points, b.const(length, np.int64)), b.const(step, np.int64))
    numbers = b.op("Range", b.const(0, np.int64), b.add(steps, b.const(1, np.int64)), b.const(1, np.int64))
    starts = b.unsqueeze(b.mul(numbers, b.const(step, np.int64)), 1)
    return b.add(starts, b.const(np.arange(length), np.int64))


MEL = 2595.0
"""Mel scale: 2595 log10(1 + f / 700)."""


@lowering(
    "mel-weights-of-declared-size",
    "MelWeightMatrix",
    why="No TensorRT has MelWeightMatrix, and where its operands are inputs nothing is left to fold. The size of the "
    "matrix has to be declared; rates and edges stay operands. Triangles between three edges each.",
    since=17,
    samples=[
        Sample(
            "(int64 bins, int64 length, int64 rate, float low, float high) => (float[9, 8] y) "
            "{ y = MelWeightMatrix (bins, length, rate, low, high) }",
            feeds={"bins": 8, "length": 16, "rate": 8192, "low": 0.0, "high": 4096.0},
        ),
        Sample(
            "(int32 bins, int32 length, int32 rate, double low, double high) => (double[65, 20] y) "
            "{ y = MelWeightMatrix <output_datatype = 11> (bins, length, rate, low, high) }",
            feeds={"bins": 20, "length": 128, "rate": 16000, "low": 125.0, "high": 7600.0},
        ),
        Sample(
            "(int64 bins, int64 rate, float low, float high) => (float[33, 4] y) <int64 length = {64}> "
            "{ y = MelWeightMatrix (bins, length, rate, low, high) }",
            feeds={"bins": 4, "rate": 8000, "low": 20.0, "high": 3000.0},
        ),
        Sample(
            "(int64 bins, int64 length, int64 rate, float16 low, float16 high) => (float16[9, 8] y) "
            "{ y = MelWeightMatrix <output_datatype = 10> (bins, length, rate, low, high) }",
            feeds={"bins": 8, "length": 16, "rate": 8192, "low": 0.0, "high": 4096.0},
        ),
    ],
    near_misses=[
        "() => (float[9, 8] y) <int64 n = {8}, int64 l = {16}, int64 r = {8192}, float a = {0}, float z = {4096}> "
        "{ y = MelWeightMatrix (n, l, r, a, z) }"
    ],
)
def mel_weights(site: Site, b: Body) -> str:
    """Rising before the middle of a band, falling behind, 1 at the middle, none of it below 0."""
    if all(o is None or o.value is not None for o in site.inputs):
        raise NoMatch("everything is constant: it is folded")
    out = site.out(0)
    work = np.dtype(np.float64 if out.dtype == np.float64 else np.float32)
    declared = out.shape if out.shape is not None and len(out.shape) == 2 else (None, None)
    bands = _number(site, 0, declared[1], "the number of bands")
    lines = declared[0]
    if not isinstance(lines, int):
        lines = int(site.need(1, "the length of the transform").item()) // 2 + 1

    def real(i: int) -> str:
        return b.reshape(to(b, site.x(i), site.dtype(i), work), 1)

    def mel(hertz: str) -> str:
        grown = b.add(b.div(hertz, b.const(700.0, work)), b.const(1.0, work))
        return b.mul(b.op("Log", grown), b.const(MEL / math.log(10), work))

    low, high = mel(real(3)), mel(real(4))
    step = b.div(b.sub(high, low), b.const(bands + 2, work))
    marks = b.add(b.mul(b.const(np.arange(bands + 2), work), step), low)
    hertz = b.sub(b.op("Exp", b.mul(marks, b.const(math.log(10) / MEL, work))), b.const(1.0, work))
    hertz = b.mul(hertz, b.const(700.0, work))
    edges = b.op("Floor", b.div(b.mul(b.add(real(1), b.const(1.0, work)), hertz), real(2)))
    left, middle, right = (b.slice(edges, 0, k, bands + k) for k in range(3))
    line = b.const(np.arange(lines).reshape(-1, 1), work)
    one, zero = b.const(1.0, work), b.const(0.0, work)
    rising = b.div(b.sub(line, left), b.maximum(b.sub(middle, left), one))
    falling = b.div(b.sub(right, line), b.maximum(b.sub(right, middle), one))
    sides = b.maximum(b.where(b.less(line, middle), rising, falling), zero)
    found = b.where(b.equal(line, middle), one, sides)
    return to(b, found, work, out.dtype) if out.dtype is not None else found


def _number(site: Site, i: int, declared: int | str | None, what: str) -> int:
    return declared if isinstance(declared, int) else int(site.need(i, what).item())
