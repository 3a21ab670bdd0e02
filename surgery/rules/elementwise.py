"""Elementwise operators, activations, products of matrices and Einsum in the forms that TensorRT refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Dim, Site

MAX_PRODUCTS = 1 << 28
"""Products of whole-number matrices with more terms than this would not fit into memory side by side."""


def whole(site: Site, *positions: int) -> None:
    """NoMatch unless these inputs hold whole numbers."""
    for i in positions:
        if site.kind(i) not in ("i", "u"):
            raise NoMatch(f"input {i} is {site.dtype(i)}")


# -- bounds and activations -------------------------------------------------------------------------


@lowering(
    "clip-by-min-max",
    "Clip",
    why="TensorRT clips neither 8-bit numbers nor whole numbers without bounds; the upper bound wins as in ONNX.",
    samples=[
        "(int8[3, 4] x, int8 low) => (int8[3, 4] y) { y = Clip (x, low) }",
        "(int8[3, 4] x, int8 high) => (int8[3, 4] y) { y = Clip (x, , high) }",
        "(int8[n, 4] x) => (int8[n, 4] y) { y = Clip (x) }",
        "(int32[3, 4] x, int32 low, int32 high) => (int32[3, 4] y) { y = Clip (x, low, high) }",
        "(int64[3, 4] x, int64 low, int64 high) => (int64[3, 4] y) { y = Clip (x, low, high) }",
        "(float[3, 4] x, float low, float high) => (float[3, 4] y) { y = Clip (x, low, high) }",
        "(double[3, 4] x, double low) => (double[3, 4] y) { y = Clip (x, low) }",
        "(float16[3, 4] x, float16 low) => (float16[3, 4] y) { y = Clip (x, low) }",
        "(uint8[3, 4] x, uint8 low, uint8 high) => (uint8[3, 4] y) { y = Clip (x, low, high) }",
        *samples_in(
            "uint16 uint32 uint64 int16 bfloat16", "(T[3, 4] x, T low) => (T[3, 4] y) { y = Clip (x, low) }"
        ),
    ],
    near_misses=["(int8[3, 4] x, int8 low) => (int8[3, 4] y) { y = Max (x, low) }"],
)
def clip(site: Site, b: Body) -> str:
    """Max with the lower bound, then Min with the upper one."""
    value = site.x()
    if site.has(1):
        value = b.maximum(value, site.x(1))
    if site.has(2):
        value = b.minimum(value, site.x(2))
    return b.op("Identity", value) if value == site.x() else value


@lowering(
    "clip-with-crossed-bounds",
    "Clip",
    when="always",
    since=11,
    why="With a lower bound above the upper one, ONNX gives the upper one, TensorRT the lower one (measured on an "
    "H200).",
    samples=[
        "(float[3, 4] x) => (float[3, 4] y) <float low = {1.5}, float high = {-0.5}> { y = Clip (x, low, high) }",
        "(double[n, 4] x) => (double[n, 4] y) <double low = {1.5}, double high = {-0.5}> { y = Clip (x, low, high) }",
        "(float16[n, 4] x) => (float16[n, 4] y) <float16 low = {2}, float16 high = {1}> { y = Clip (x, low, high) }",
        *samples_in(
            "int8 uint8 int32 int64 uint32 uint64 int16 uint16",
            "(T[3, 4] x) => (T[3, 4] y) <T low = {3}, T high = {2}> { y = Clip (x, low, high) }",
        ),
    ],
    near_misses=[
        "(float[3, 4] x) => (float[3, 4] y) <float low = {-0.5}, float high = {1.5}> { y = Clip (x, low, high) }",
        "(float[3, 4] x, float high) => (float[3, 4] y) <float low = {-0.5}> { y = Clip (x, low, high) }",
    ],
)
def crossed_clip(site: Site, b: Body) -> str:
    """Max with the lower bound, then Min with the upper one."""
    if not site.has(1) or not site.has(2) or not np.all(site.const(1) > site.const(2)):
        raise NoMatch("the bounds are in order")
    return b.minimum(b.maximum(site.x(), site.x(1)), site.x(2))


@lowering(
    "integer-relu",
    "Relu",
    why="TensorRT's activations take floats alone.",
    samples=[
        *[f"({t}[n, 4] x) => ({t}[n, 4] y) {{ y = Relu (x) }}" for t in ("int32", "int64", "int8")],
        *samples_in("int16", "(T[n, 4] x) => (T[n, 4] y) { y = Relu (x) }"),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Relu (x) }"],
)
def integer_relu(site: Site, b: Body) -> str:
    """Max with 0."""
    whole(site, 0)
    return b.maximum(site.x(), b.const(0, site.dtype()))


@lowering(
    "integer-prelu",
    "PRelu",
    why="TensorRT's parametric activation takes floats alone.",
    samples=[
        *[
            f"({t}[2, 3, 4] x, {t}[3, 1] s) => ({t}[2, 3, 4] y) {{ y = PRelu (x, s) }}"
            for t in ("int32", "int64")
        ],
        *samples_in("uint32 uint64", "(T[2, 3, 4] x, T[3, 1] s) => (T[2, 3, 4] y) { y = PRelu (x, s) }"),
    ],
    near_misses=["(float[3] x, float[3] s) => (float[3] y) { y = PRelu (x, s) }"],
)
def integer_prelu(site: Site, b: Body) -> str:
    """The slope's product where x is below 0."""
    whole(site, 0)
    x = site.x()
    return b.where(b.less(x, b.const(0, site.dtype())), b.mul(x, site.x(1)), x)


@lowering(
    "celu-by-exp",
    "Celu",
    why="TensorRT's parser loses the rank when it writes Celu out for 16-bit floats.",
    samples=[
        "(float[n, 4] x) => (float[n, 4] y) { y = Celu <alpha = 0.5> (x) }",
        "(float[3, 4] x) => (float[3, 4] y) { y = Celu (x) }",
        *(
            Sample(f"({t}[3, 4] x) => ({t}[3, 4] y) {{ y = Celu <alpha = 2.0> (x) }}", opset=28)
            for t in ("float16", "bfloat16")
        ),
        *samples_in("double", "(T[3, 4] x) => (T[3, 4] y) { y = Celu <alpha = 2.0> (x) }", opset=28),
    ],
    near_misses=["(float[3] x) => (float[3] y) { y = Elu (x) }"],
)
def celu(site: Site, b: Body) -> str:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)), in float32 for 16-bit floats."""
    dtype = site.dtype()
    narrow = dtype.itemsize == 2
    kind = np.dtype(np.float32) if narrow else dtype
    x = b.cast(site.x(), kind) if narrow else site.x()
    alpha, zero = b.const(site.attr("alpha", 1.0), kind), b.const(0, kind)
    below = b.mul(alpha, b.op("Elu", b.div(b.minimum(x, zero), alpha)))
    result = b.add(b.maximum(x, zero), below)
    return b.cast(result, dtype) if narrow else result


@lowering(
    "softmax-of-a-vector",
    "Softmax",
    "LogSoftmax",
    "Hardmax",
    why="TensorRT's layers want two dims.",
    samples=[
        *(f"(float[5] x) => (float[5] y) {{ y = {op} (x) }}" for op in ("Softmax", "LogSoftmax", "Hardmax")),
        "(float[n] x) => (float[n] y) { y = Softmax (x) }",
        "(float16[5] x) => (float16[5] y) { y = Softmax <axis = 0> (x) }",
        Sample("(float[5] x) => (float[5] y) { y = Softmax <axis = 0> (x) }", opset=11),
        *samples_in("double bfloat16", "(T[5] x) => (T[5] y) { y = Softmax (x) }"),
    ],
    near_misses=["(float[2, 5] x) => (float[2, 5] y) { y = Softmax (x) }"],
)
def softmax_of_a_vector(site: Site, b: Body) -> str:
    """With a dim of 1 in front, which is taken off again."""
    if site.input(0).rank != 1:
        raise NoMatch("not a vector")
    return b.squeeze(b.op(site.op, b.unsqueeze(site.x(), 0), axis=1), 0)


@lowering(
    "lrn-by-average-pool",
    "LRN",
    why="TensorRT normalises over odd windows of 1 to 15 channels in 4-D tensors alone.",
    samples=[
        "(float[n, 6, 4, 4] x) => (float[n, 6, 4, 4] y) "
        "{ y = LRN <size = 3, alpha = 0.5, beta = 0.6, bias = 2.0> (x) }",
        "(float[5, 5, 2, 3] x) => (float[5, 5, 2, 3] y) { y = LRN <size = 4, alpha = 0.5> (x) }",
        "(float16[5, 5, 2, 3] x) => (float16[5, 5, 2, 3] y) { y = LRN <size = 3, alpha = 0.5> (x) }",
        "(float[2, 20, 4, 4] x) => (float[2, 20, 4, 4] y) { y = LRN <size = 17, alpha = 0.9> (x) }",
        *samples_in(
            "double bfloat16",
            "(T[5, 5, 2, 3] x) => (T[5, 5, 2, 3] y) { y = LRN <size = 4, alpha = 0.5> (x) }",
        ),
    ],
    near_misses=["(float[2, 6] x) => (float[2, 6] y) { y = LpNormalization (x) }"],
)
def lrn(site: Site, b: Body) -> str:
    """The mean of squares over a window of channels by a pooling over a tensor of one channel."""
    size, rank = int(site.attr("size")), site.input(0).rank
    if rank < 3:
        raise NoMatch("fewer than three dims")
    dtype = site.dtype()
    narrow = dtype.itemsize == 2
    kind = np.dtype(np.float32) if narrow else dtype
    x = b.cast(site.x(), kind) if narrow else site.x()
    planes = b.unsqueeze(b.reshape(b.mul(x, x), 0, 0, -1), 1)
    before = (size - 1) // 2
    pads = [before, 0, size - 1 - before, 0]
    mean = b.op("AveragePool", planes, kernel_shape=[size, 1], pads=pads, strides=[1, 1], count_include_pad=1)
    mean = b.op("Reshape", mean, b.op("Shape", x))
    alpha, bias, beta = (
        b.const(site.attr(name, value), kind)
        for name, value in (("alpha", 1e-4), ("bias", 1.0), ("beta", 0.75))
    )
    result = b.div(x, b.op("Pow", b.add(b.mul(mean, alpha), bias), beta))
    return b.cast(result, dtype) if narrow else result


@lowering(
    "dropout-without-loss",
    "Dropout",
    why="TensorRT takes no training mode; with a ratio of 0, or outside training, nothing is dropped.",
    samples=[
        "(float[n, 4] x, bool t) => (float[n, 4] y, bool[n, 4] m) "
        "{ r = Constant <value = float {0.0}> () y, m = Dropout (x, r, t) }",
        "(float[3, 4] x) => (float[3, 4] y) { r = Constant <value = float {0.0}> () "
        "t = Constant <value = bool {1}> () y = Dropout (x, r, t) }",
        Sample(
            "(float16[3, 4] x, float r) => (float16[3, 4] y, bool[3, 4] m) "
            "{ t = Constant <value = bool {0}> () y, m = Dropout (x, r, t) }",
            feeds={"r": np.float32(0.3)},
        ),
        "(float[3, 4] x) => (float[3, 4] y, bool[3, 4] m) { y, m = Dropout (x) }",
        *samples_in(
            "double bfloat16",
            "(T[n, 4] x, bool t) => (T[n, 4] y, bool[n, 4] m) { r = Constant <value = float {0.0}> "
            "() y, m = Dropout (x, r, t) }",
        ),
        *samples_in(
            "float16 double",
            "(float16[3, 4] x, T r) => (float16[3, 4] y, bool[3, 4] m) { t = Constant <value = bool "
            "{0}> () y, m = Dropout (x, r, t) }",
            feeds={"r": 0.3},
        ),
    ],
    near_misses=[
        "(float[3] x) => (float[3] y) { r = Constant <value = float {0.5}> () t = Constant <value = bool {1}> () "
        "y = Dropout (x, r, t) }"
    ],
    since=12,
)
def dropout(site: Site, b: Body) -> list[str | None]:
    """The data as they are, and a mask of nothing but true."""
    mode = site.input(2).value if site.has(2) else np.array(False)
    if mode is None or np.any(mode):
        ratio = site.need(1, "whether anything is dropped") if site.has(1) else np.array(0.5)
        if np.any(ratio != 0) and np.any(site.need(2, "whether anything is dropped")):
            raise NoMatch("training draws at random what it drops")
    x = site.x()
    mask = None
    if site.used(1):
        shape = b.op("Shape", x)
        mask = b.op("Expand", b.const(True, np.bool_), shape)
    return [b.op("Identity", x), mask]


# -- products of matrices ---------------------------------------------------------------------------


@lowering(
    "matmul-of-a-vector",
    "MatMul",
    why="TensorRT's parser mistakes the result's shape where a vector meets a batch of matrices.",
    samples=[
        "(float[3] x, float[2, 3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }",
        "(float[3] x, float[n, 2, 3, 4] w) => (float[n, 2, 4] y) { y = MatMul (x, w) }",
        "(float[n, 4, 3] x, float[3] w) => (float[n, 4] y) { y = MatMul (x, w) }",
        "(float[3] x, float[3] w) => (float y) { y = MatMul (x, w) }",
        "(float16[3] x, float16[3, 4] w) => (float16[4] y) { y = MatMul (x, w) }",
        *samples_in(
            "double uint32 uint64 int32 int64 bfloat16",
            "(T[3] x, T[2, 3, 4] w) => (T[2, 4] y) { y = MatMul (x, w) }",
        ),
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def matmul_of_a_vector(site: Site, b: Body) -> str:
    """A dim of 1 more on the vector, and one less on the result."""
    ranks = [site.input(i).rank for i in (0, 1)]
    if 1 not in ranks:
        raise NoMatch("neither operand is a vector")
    x = b.unsqueeze(site.x(0), 0) if ranks[0] == 1 else site.x(0)
    w = b.unsqueeze(site.x(1), 1) if ranks[1] == 1 else site.x(1)
    axes = [axis for axis, rank in ((-2, ranks[0]), (-1, ranks[1])) if rank == 1]
    return b.squeeze(b.op("MatMul", x, w), *axes)


@lowering(
    "integer-matmul",
    "MatMul",
    why="TensorRT multiplies matrices of floats alone; float32 is not exact for 32-bit numbers.",
    samples=[
        *(
            f"({t}[3, 4] x, {t}[4, 5] w) => ({t}[3, 5] y) {{ y = MatMul (x, w) }}"
            for t in ("int32", "int64", "uint32", "uint64")
        ),
        "(int32[2, n, 4] x, int32[4, 5] w) => (int32[2, n, 5] y) { y = MatMul (x, w) }",
        "(int32[2, 1, 3, 4] x, int32[3, 4, 5] w) => (int32[2, 3, 3, 5] y) { y = MatMul (x, w) }",
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def integer_matmul(site: Site, b: Body) -> str:
    """Every product of a row and a column side by side, and their sums."""
    whole(site, 0, 1)
    x, w = site.input(0), site.input(1)
    if x.rank < 2 or w.rank < 2:
        raise NoMatch("a vector")
    if x.static and w.static and int(np.prod(x.dims)) * w.dims[-1] > MAX_PRODUCTS:
        raise NoMatch("too many products")
    dtype = site.dtype(0)
    wide = dtype.kind == "u"
    left, right = (b.cast(o.name, np.int64) if wide else o.name for o in (x, w))
    products = b.mul(b.unsqueeze(left, -1), b.unsqueeze(right, -3))
    result = b.reduce("ReduceSum", products, -2, keepdims=False)
    if dtype == np.uint32:
        result = b.op("Mod", result, b.const(1 << 32, np.int64))
    return b.cast(result, dtype) if wide else result


@lowering(
    "integer-gemm",
    "Gemm",
    why="TensorRT multiplies matrices of floats alone; float32 is not exact for 32-bit numbers.",
    samples=[
        "(int32[3, 4] x, int32[4, 5] w) => (int32[3, 5] y) { y = Gemm (x, w) }",
        "(int32[4, n] x, int32[5, 4] w, int32[5] c) => (int32[n, 5] y) "
        "{ y = Gemm <transA = 1, transB = 1> (x, w, c) }",
        "(int64[3, 4] x, int64[4, 5] w, int64 c) => (int64[3, 5] y) { y = Gemm (x, w, c) }",
        *samples_in("uint32 uint64", "(T[3, 4] x, T[4, 5] w) => (T[3, 5] y) { y = Gemm (x, w) }"),
    ],
    near_misses=[
        "(float[3, 4] x, float[4, 5] w) => (float[3, 5] y) { y = Gemm (x, w) }",
        "(int32[3, 4] x, int32[4, 5] w) => (int32[3, 5] y) { y = Gemm <alpha = 0.5> (x, w) }",
    ],
)
def integer_gemm(site: Site, b: Body) -> str:
    """MatMul of what may have to be transposed, and a sum."""
    whole(site, 0, 1)
    has_bias = site.has(2)
    if site.attr("alpha", 1.0) != 1 or (has_bias and site.attr("beta", 1.0) != 1):
        raise NoMatch("whole numbers times a factor that is not 1")
    x = b.transpose(site.x(0), 1, 0) if site.attr("transA", 0) else site.x(0)
    w = b.transpose(site.x(1), 1, 0) if site.attr("transB", 0) else site.x(1)
    product = b.op("MatMul", x, w)
    return b.add(product, site.x(2)) if has_bias else product


# -- Einsum -----------------------------------------------------------------------------------------


@dataclass
class Term:
    """A factor of the product: a value and the labels of its axes."""

    value: str
    labels: list[str]
    shape: tuple[Dim, ...] = ()


class Sum:
    """Lowers one equation.

    Labels are single letters; axes under an ellipsis get labels of their own, counted from the right.
    """

    def __init__(self, site: Site, b: Body) -> None:
        self.site, self.b = site, b
        self.sizes: dict[str, Dim] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self.zero = b.const(0, site.dtype(0))
        equation = str(site.attr("equation")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        written = left.split(",")
        if len(written) != len(site.inputs):
            raise NoMatch(f"{len(site.inputs)} operands for {equation!r}")
        self.terms = [self._term(i, text) for i, text in enumerate(written)]
        dotted = [t for t, text in zip(self.terms, written, strict=True) if "..." in text]
        if len({sum(x.startswith(".") for x in t.labels) for t in dotted}) > 1:
            raise NoMatch("ONNX wants ellipses of equal rank")
        self.output = self._given(right) if arrow else self._implied(left)

    def _hidden(self) -> list[str]:
        """Labels of the axes under ellipses, in order."""
        found = {label for term in self.terms for label in term.labels if label.startswith(".")}
        return sorted(found, key=lambda label: -int(label[1:]))

    def _given(self, text: str) -> list[str]:
        before, dots, behind = text.partition("...")
        return [*before, *(self._hidden() if dots else ()), *behind]

    def _implied(self, left: str) -> list[str]:
        """Without an arrow: what is under the ellipses, then every letter that is written once."""
        return [*self._hidden(), *sorted(x for x in set(left) if x.isalpha() and left.count(x) == 1)]

    def _term(self, i: int, text: str) -> Term:
        operand = self.site.input(i)
        rank = operand.rank
        before, dots, behind = text.partition("...")
        hidden = rank - len(before) - len(behind)
        if hidden < 0 or (hidden and not dots):
            raise NoMatch(f"{text!r} for {rank} dims")
        labels = [*before, *(f".{k}" for k in range(hidden, 0, -1)), *behind]
        shape = operand.shape or ()
        # A dim of 1 is broadcast: it is left out of the product where another operand has the axis too.
        for axis, (label, size) in enumerate(zip(labels, shape, strict=True)):
            known = self.sizes.get(label, 1)
            if known == 1 or (not isinstance(known, int) and isinstance(size, int) and size > 1):
                self.sizes[label] = size
                self.places[label] = (operand.name, axis)
        return self._without_repeats(Term(operand.name, labels, tuple(shape)))

    def _without_repeats(self, term: Term) -> Term:
        """Only the diagonal of axes with equal labels."""
        b = self.b
        while len(set(term.labels)) < len(term.labels):
            label = next(x for x in term.labels if term.labels.count(x) > 1)
            first = term.labels.index(label)
            second = term.labels.index(label, first + 1)
            rank = len(term.labels)
            places = self._range(label)
            down = b.unsqueeze(places, *range(1, rank - first)) if rank - first > 1 else places
            along = b.unsqueeze(places, *range(1, rank - second)) if rank - second > 1 else places
            kept = b.where(b.equal(down, along), term.value, self.zero)
            value = self._reduce(kept, [second])
            rest = [k for k in range(rank) if k != second]
            term = Term(value, [term.labels[k] for k in rest], tuple(term.shape[k] for k in rest))
        return term

    def _range(self, label: str) -> str:
        size = self.sizes[label]
        if isinstance(size, int):
            return self.b.const(np.arange(size), np.int64)
        count = self.b.squeeze(self._size(label), 0)
        return self.b.op("Range", self.b.const(0, np.int64), count, self.b.const(1, np.int64))

    def _size(self, label: str) -> str:
        """The size as an int64 list of one."""
        size = self.sizes[label]
        if isinstance(size, int):
            return self.b.ints(size)
        name, axis = self.places[label]
        return self.b.slice(self.b.op("Shape", name), 0, axis, axis + 1)

    def _reduce(self, value: str, axes: Sequence[int]) -> str:
        return self.b.reduce("ReduceSum", value, *axes, keepdims=False)

    def result(self) -> str:
        """The whole sum."""
        terms = [self._without_ones(term) for term in self.terms]
        done = terms[0]
        for k, other in enumerate(terms[1:], 1):
            needed = {*self.output, *(x for term in terms[k + 1 :] for x in term.labels)}
            done = self._contract(self._shrink(done, {*needed, *other.labels}), other, needed)
        done = self._shrink(done, set(self.output))
        value = done.value
        missing = [x for x in self.output if x not in done.labels]
        if missing:  # axes of size 1 in every operand
            value = self.b.unsqueeze(value, *range(len(done.labels), len(done.labels) + len(missing)))
        labels = [*done.labels, *missing]
        order = [labels.index(x) for x in self.output]
        if order != sorted(order):
            return self.b.transpose(value, *order)
        return self.b.op("Identity", value)

    def _without_ones(self, term: Term) -> Term:
        """Without axes of size 1: they neither add up nor line up with anything."""
        ones = [k for k, size in enumerate(term.shape) if size == 1]
        if not ones:
            return term
        labels = [x for k, x in enumerate(term.labels) if k not in ones]
        return Term(self.b.squeeze(term.value, *ones), labels)

    def _shrink(self, term: Term, needed: set[str]) -> Term:
        """Sums over the labels that nothing else has."""
        axes = [k for k, x in enumerate(term.labels) if x not in needed]
        if not axes:
            return term
        return Term(self._reduce(term.value, axes), [x for x in term.labels if x in needed])

    def _contract(self, a: Term, c: Term, needed: set[str]) -> Term:
        """The product of two terms, summed over the labels that are not needed any more."""
        c = self._shrink(c, {*needed, *a.labels})
        common = [x for x in a.labels if x in c.labels]
        summed = [x for x in common if x not in needed]
        batch = [x for x in common if x in needed]
        own_a = [x for x in a.labels if x not in common]
        own_c = [x for x in c.labels if x not in common]
        labels = [*batch, *own_a, *own_c]
        if not summed:
            left = self._aligned(a, labels)
            return Term(self.b.mul(left, self._aligned(c, labels)), labels)
        left = self._matrices(a, batch, own_a, summed)
        right = self._matrices(c, batch, summed, own_c)
        product = self.b.op("MatMul", left, right)
        if len(own_a) == 1 and len(own_c) == 1:
            return Term(product, labels)
        return Term(self._reshape(product, len(batch), [[x] for x in (*own_a, *own_c)]), labels)

    def _aligned(self, term: Term, labels: list[str]) -> str:
        """The term with its axes in this order, and dims of 1 for those that it does not have."""
        order = [term.labels.index(x) for x in labels if x in term.labels]
        value = term.value if order == sorted(order) else self.b.transpose(term.value, *order)
        ones = [k for k, x in enumerate(labels) if x not in term.labels]
        return self.b.unsqueeze(value, *ones) if ones else value

    def _matrices(self, term: Term, batch: list[str], rows: list[str], columns: list[str]) -> str:
        """The term as a batch of matrices."""
        value = self._aligned(term, [*batch, *rows, *columns])
        if len(rows) == 1 and len(columns) == 1:
            return value
        return self._reshape(value, len(batch), [rows, columns])

    def _reshape(self, value: str, kept: int, groups: Sequence[Sequence[str]]) -> str:
        """The first axes as they are, then one axis for each group of labels."""
        sizes: list[int | None] = []
        for group in groups:
            known = [self.sizes[x] for x in group]
            numbers = [int(n) for n in known if isinstance(n, int)]
            sizes.append(int(np.prod(numbers)) if len(numbers) == len(known) else None)
        if sizes.count(None) <= 1:
            return self.b.reshape(value, *[0] * kept, *(-1 if n is None else n for n in sizes))
        parts = [self.b.ints(*[0] * kept)] if kept else []
        for group in groups:
            size = self.b.ints(1)
            for label in group:
                size = self.b.mul(size, self._size(label))
            parts.append(size)
        return self.b.op("Reshape", value, self.b.concat(parts, 0))


def _einsum(shapes: Sequence[str], equation: str, result: str, kind: str = "float") -> str:
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = ", ".join(f"{kind}{shape} {name}" for shape, name in zip(shapes, names, strict=True))
    return f'({inputs}) => ({kind}{result} y) {{ y = Einsum <equation = "{equation}"> ({", ".join(names)}) }}'


@lowering(
    "einsum-by-products",
    "Einsum",
    why="TensorRT takes neither capitals nor whole numbers in an equation.",
    samples=[
        _einsum(["[4, 5]", "[5, 6]"], "Ij,jK->IK", "[4, 6]"),
        _einsum(["[4, 5]", "[5, 6]"], "iJ, Jk", "[4, 6]"),
        _einsum(["[4, 5]", "[5, 6]"], "ij,jk->ki", "[6, 4]", "int32"),
        _einsum(["[4, 5]", "[3, 5, 6]"], "ij,...jk->...ik", "[3, 4, 6]"),
        _einsum(["[2, 4, 5]", "[1, 5, 6]"], "...ij,...jk", "[2, 4, 6]"),
        _einsum(["[4, 4]"], "ii", ""),
        _einsum(["[2, 4, 4]"], "...ii->...i", "[2, 4]"),
        _einsum(["[n, m, m]"], "bii->bi", "[n, m]"),
        _einsum(["[3, 3, 3]"], "iii->i", "[3]"),
        _einsum(["[2, 3, 4]"], "bij->bji", "[2, 4, 3]"),
        _einsum(["[3, 4]"], "ij->", ""),
        _einsum(["[4]", "[4]"], "i,i", ""),
        _einsum(["[4]", "[5]"], "i,j->ji", "[5, 4]"),
        _einsum(["", "[4]"], ",i->i", "[4]"),
        _einsum(["[4, 5]", "[5, 6]", "[6, 7]"], "ij,jk,kl->il", "[4, 7]"),
        _einsum(["[4, 5]", "[4, 5]", "[4, 5]"], "ij,ij,ij->", ""),
        _einsum(["[n, 2, 4, 5]", "[n, 2, 6, 5]"], "bhid,bhjd->bhij", "[n, 2, 4, 6]"),
        _einsum(["[n, m, 4, 5]", "[n, 6, 4, 5]"], "bihd,bjhd->bhij", "[n, 4, m, 6]"),
        _einsum(["[n, m, 4, k]", "[4, k, 7]"], "bihd,hdo->bio", "[n, m, 7]"),
        _einsum(["[n, m, 4, 3]", "[4, 3, 2, 7]"], "bihd,hdop->bpio", "[n, 7, m, 2]"),
        _einsum(["[2, 3]", "[4, 5]"], "ij,kl->il", "[2, 5]"),
        _einsum(["[2, 3]", "[3]"], "i...,...->i...", "[2, 3]"),
        _einsum(["[2, 1, 3]", "[2, 1, 3]"], "abc,abc->ab", "[2, 1]"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "float16"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "double"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "int64"),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16",
            '(T[4, 5] x0, T[5, 6] x1) => (T[4, 6] y) { y = Einsum <equation = "Ij,jK->IK"> (x0, x1) }',
        ),
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def einsum(site: Site, b: Body) -> str:
    """Diagonals, sums of what one operand alone has, then products from left to right."""
    return Sum(site, b).result()
