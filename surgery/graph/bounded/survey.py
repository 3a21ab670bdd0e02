"""Sizes of what operators make of tensors that nothing is padded of, from the sizes of their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.bounded.dims import ONE, Dim, product
from surgery.graph.bounded.handlers import equation_of, laid_out, whole_numbers
from surgery.graph.bounded.pads import pad_amounts
from surgery.graph.bounded.work import No, sized

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

    Found = list[Dim | None] | None

LIKE_FIRST = frozenset(
    {
        "BatchNormalization", "CumSum", "GroupNormalization", "Hardmax", "InstanceNormalization",
        "LayerNormalization", "LogSoftmax", "LRN", "LpNormalization", "RMSNormalization", "ScatterElements",
        "RandomNormalLike", "RandomUniformLike", "Bernoulli", "EyeLike",
        "ScatterND", "Scatter", "Softmax", "Trilu", "Dropout", "MeanVarianceNormalization",
    }
)  # fmt: skip
"""Operators that make a tensor of the sizes of their first operand."""

INT_MAX = 2**31 - 1
"""An end of a slice at or above it means the end of the axis."""

_SURVEYS: dict[str, Callable[[Bounds, gs.Node], Found]] = {}


def survey(bounds: Bounds, node: gs.Node, rank: int | None = None) -> dict[int, Dim]:
    """Sizes of the first output of a node, as far as they follow from those of its operands.

    Args:
        bounds: What is known of sizes.
        node: A node of the default domain; its operands may be padded.
        rank: Rank of its first output, if it is known.
    """
    handler = _SURVEYS.get(node.op)
    if handler is None:
        return {}
    try:
        found = handler(bounds, node)
    except No:
        return {}
    if found is None or (rank is not None and len(found) != rank):
        return {}
    return {a: d for a, d in enumerate(found) if d is not None}


def _on(*ops: str) -> Callable[..., Any]:
    def keep(handler: Callable[[Bounds, gs.Node], Found]) -> Callable[[Bounds, gs.Node], Found]:
        _SURVEYS.update(dict.fromkeys(ops, handler))
        return handler

    return keep


def _exact(bounds: Bounds, op: str, a: Dim | None, b: Dim | None) -> Dim | None:
    """Arithmetic on sizes that follow from those of the inputs; None where one is a count."""
    return bounds.exact(op, a, b) if a is not None and b is not None and a.exact and b.exact else None


@_on(*LIKE_FIRST)
def _like_first(bounds: Bounds, node: gs.Node) -> Found:
    return list(bounds.dims(node.inputs[0]))


@_on(*PER_ENTRY)
def _entries(bounds: Bounds, node: gs.Node) -> Found:
    """Operands broadcast from the back."""
    return _broadcast([bounds.dims(t) for t in node.inputs if t.name])


def _broadcast(shapes: list[list[Dim]]) -> list[Dim | None]:
    rank = max(map(len, shapes))
    found: list[Dim | None] = []
    for axis in range(rank):
        wide = {d[axis - rank + len(d)] for d in shapes if axis - rank + len(d) >= 0} - {ONE}
        numbers = {d for d in wide if d.number is not None}
        # Where a number meets a free size, that size is the number, or 1: the number it is.
        found.append(next(iter(numbers or wide), ONE) if len(numbers or wide) < 2 else None)
    return found


@_on("Transpose")
def _transpose(bounds: Bounds, node: gs.Node) -> Found:
    dims = bounds.dims(node.inputs[0])
    return [dims[a] for a in node.attrs.get("perm") or range(len(dims))[::-1]]


@_on("Unsqueeze")
def _unsqueeze(bounds: Bounds, node: gs.Node) -> Found:
    dims = list(bounds.dims(node.inputs[0]))
    axes = whole_numbers(bounds, node, 1, "axes")
    if axes is None:
        return None
    rank = len(dims) + len(axes)
    for axis in sorted(a % rank for a in axes):
        dims.insert(axis, ONE)
    return list(dims)


@_on("Squeeze")
def _squeeze(bounds: Bounds, node: gs.Node) -> Found:
    dims = bounds.dims(node.inputs[0])
    axes = whole_numbers(bounds, node, 1, "axes")
    if axes is None:
        return [d for d in dims if d != ONE]
    gone = {a % len(dims) for a in axes}
    return [d for a, d in enumerate(dims) if a not in gone]


@_on("Flatten")
def _flatten(bounds: Bounds, node: gs.Node) -> Found:
    dims = bounds.dims(node.inputs[0])
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(dims) if axis < 0 else axis
    return [product(dims[:axis]), product(dims[axis:])]


@_on("Reshape")
def _reshape(bounds: Bounds, node: gs.Node) -> Found:
    after = laid_out(bounds, node)
    if after.count(None) == 1:
        rest = product([d for d in after if d is not None])
        after[after.index(None)] = quotient(bounds, product(bounds.dims(node.inputs[0])), rest)
    return after


def quotient(bounds: Bounds, whole: Dim, part: Dim) -> Dim | None:
    """One size over another, if nothing is left over."""
    found = whole.over(part)
    if found is not None:
        return found
    found = _exact(bounds, "Div", whole, part)
    return None if found is None or any(a in bounds.computed for a in found.atoms) else found


@_on("Expand")
def _expand(bounds: Bounds, node: gs.Node) -> Found:
    wanted = bounds.elements(node.inputs[1])
    return None if wanted is None else _broadcast([bounds.dims(node.inputs[0]), list(wanted.reshape(-1))])


@_on("Tile")
def _tile(bounds: Bounds, node: gs.Node) -> Found:
    repeats = bounds.elements(node.inputs[1])
    if repeats is None:
        return None
    return [a * b for a, b in zip(bounds.dims(node.inputs[0]), repeats.reshape(-1), strict=True)]


@_on("Concat")
def _concat(bounds: Bounds, node: gs.Node) -> Found:
    parts = [bounds.dims(t) for t in node.inputs]
    along = int(node.attrs["axis"]) % len(parts[0])
    found: list[Dim | None] = []
    for axis, here in enumerate(zip(*parts, strict=True)):
        numbers = [d for d in here if d.number is not None]
        found.append(numbers[0] if numbers else here[0])
        if axis == along:
            whole: Dim | None = here[0]
            for dim in here[1:]:
                whole = _exact(bounds, "Add", whole, dim)
            found[-1] = whole
    return found


@_on("Slice")
def _slice(bounds: Bounds, node: gs.Node) -> Found:
    dims: list[Dim | None] = list(bounds.dims(node.inputs[0]))
    if "starts" in node.attrs:
        starts, ends = (sized(Dim(int(v)) for v in node.attrs[k]) for k in ("starts", "ends"))
        axes = [int(a) for a in node.attrs.get("axes", range(len(starts)))]
        steps = [1] * len(axes)
    else:
        known = [bounds.elements(t) for t in node.inputs[1:3]]
        if known[0] is None or known[1] is None:
            return None
        given = whole_numbers(bounds, node, 3)
        starts, ends = known[0].reshape(-1), known[1].reshape(-1)
        axes = given if given is not None else list(range(len(starts)))
        steps = whole_numbers(bounds, node, 4) or [1] * len(axes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = dims[axis % len(dims)]
        assert size is not None
        dims[axis % len(dims)] = _cut(bounds, size, start, end, step)
    return dims


def _cut(bounds: Bounds, size: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    """What a slice leaves of an axis; None if that is not known."""
    if not (size.exact and start.exact and end.exact):
        return None
    if step == -1 and start.number == -1 and end.number is not None and end.number < -(2**31) + 1:
        return size
    if step < 1:
        return None
    last = _place(bounds, size, end)
    first = _place(bounds, size, start)
    if first is None or last is None:
        return None
    length = _exact(bounds, "Max", _exact(bounds, "Sub", last, first), Dim(0))
    if step > 1:
        length = _exact(bounds, "Div", _exact(bounds, "Add", length, Dim(step - 1)), Dim(step))
    return length


def _place(bounds: Bounds, size: Dim, bound: Dim) -> Dim | None:
    """A bound of a slice as a place from 0 up to the size; None if its sign is not known."""
    from surgery.graph.bounded.choices import not_negative

    if bound.number is not None and bound.number < 0:
        return _exact(bounds, "Max", _exact(bounds, "Add", size, bound), Dim(0))
    if not not_negative(bounds, bound):
        return None
    if bound.number is not None and bound.number >= INT_MAX:
        return size
    return _exact(bounds, "Min", size, bound)


@_on("Pad")
def _pad(bounds: Bounds, node: gs.Node) -> Found:
    dims: list[Dim | None] = list(bounds.dims(node.inputs[0]))
    amounts = pad_amounts(bounds, node)
    if amounts is None:
        return None
    for axis, (before, after) in amounts.items():
        dims[axis] = _exact(bounds, "Add", dims[axis], _exact(bounds, "Add", before, after))
    return dims


@_on("Gather")
def _gather(bounds: Bounds, node: gs.Node) -> Found:
    dims, inner = bounds.dims(node.inputs[0]), bounds.dims(node.inputs[1])
    along = int(node.attrs.get("axis", 0)) % len(dims)
    return [*dims[:along], *inner, *dims[along + 1 :]]


@_on("GatherElements")
def _gather_elements(bounds: Bounds, node: gs.Node) -> Found:
    return list(bounds.dims(node.inputs[1]))


@_on("GatherND")
def _gather_nd(bounds: Bounds, node: gs.Node) -> Found:
    dims, inner = bounds.dims(node.inputs[0]), bounds.dims(node.inputs[1])
    depth = inner[-1].number
    if depth is None:
        return None
    return [*inner[:-1], *dims[int(node.attrs.get("batch_dims", 0)) + depth :]]


@_on("MatMul")
def _matmul(bounds: Bounds, node: gs.Node) -> Found:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    if len(left) < 2 or len(right) < 2:
        return None
    return [*_broadcast([[ONE, *left[:-2]], [ONE, *right[:-2]]])[1:], left[-2], right[-1]]


@_on("Gemm")
def _gemm(bounds: Bounds, node: gs.Node) -> Found:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    return [left[1 if node.attrs.get("transA", 0) else 0], right[0 if node.attrs.get("transB", 0) else 1]]


@_on("Conv", "MaxPool", "AveragePool", "LpPool")
def _window(bounds: Bounds, node: gs.Node) -> Found:
    """Windows along the axes behind the first two."""
    dims = bounds.dims(node.inputs[0])
    count = len(dims) - 2
    kernel = node.attrs.get("kernel_shape")
    channels: Dim | None = dims[1]
    if node.op == "Conv":
        weights = bounds.dims(node.inputs[1])
        channels = weights[0]
        kernel = kernel or [d.number for d in weights[2:]]
    if not kernel or None in kernel or node.attrs.get("ceil_mode", 0):
        return None
    steps = list(node.attrs.get("strides") or [1] * count)
    wide = list(node.attrs.get("dilations") or [1] * count)
    pads = list(node.attrs.get("pads") or [0] * 2 * count)
    padding = node.attrs.get("auto_pad", "NOTSET")
    padding = padding.decode() if isinstance(padding, bytes) else padding
    found: list[Dim | None] = [dims[0], channels]
    for axis, size in enumerate(dims[2:]):
        reach = int(wide[axis]) * (int(kernel[axis]) - 1) + 1
        step = int(steps[axis])
        if padding in ("SAME_UPPER", "SAME_LOWER"):
            more = step - 1
        elif padding == "VALID":
            more = step - reach
        else:
            more = int(pads[axis]) + int(pads[axis + count]) + step - reach
        found.append(_exact(bounds, "Div", _exact(bounds, "Add", size, Dim(more)), Dim(step)))
    return found


@_on("ConvTranspose")
def _transposed(bounds: Bounds, node: gs.Node) -> Found:
    dims, weights = bounds.dims(node.inputs[0]), bounds.dims(node.inputs[1])
    count = len(dims) - 2
    kernel = node.attrs.get("kernel_shape") or [d.number for d in weights[2:]]
    padding = node.attrs.get("auto_pad", "NOTSET")
    if None in kernel or padding not in ("NOTSET", b"NOTSET") or node.attrs.get("output_shape"):
        return None
    steps = list(node.attrs.get("strides") or [1] * count)
    wide = list(node.attrs.get("dilations") or [1] * count)
    pads = list(node.attrs.get("pads") or [0] * 2 * count)
    extra = list(node.attrs.get("output_padding") or [0] * count)
    found: list[Dim | None] = [dims[0], weights[1] * Dim(int(node.attrs.get("group", 1)))]
    for axis, size in enumerate(dims[2:]):
        more = (int(kernel[axis]) - 1) * int(wide[axis]) + 1 - int(steps[axis]) + int(extra[axis])
        more -= int(pads[axis]) + int(pads[axis + count])
        found.append(_exact(bounds, "Add", size * Dim(int(steps[axis])), Dim(more)))
    return found


@_on(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
def _reduce(bounds: Bounds, node: gs.Node) -> Found:
    dims = bounds.dims(node.inputs[0])
    given = whole_numbers(bounds, node, 1, "axes")
    if not given and node.attrs.get("noop_with_empty_axes", 0):
        return list(dims)
    return _without(dims, given or list(range(len(dims))), keep=bool(node.attrs.get("keepdims", 1)))


@_on("ArgMax", "ArgMin")
def _arg(bounds: Bounds, node: gs.Node) -> Found:
    dims = bounds.dims(node.inputs[0])
    return _without(dims, [int(node.attrs.get("axis", 0))], keep=bool(node.attrs.get("keepdims", 1)))


def _without(dims: list[Dim], axes: list[int], *, keep: bool) -> list[Dim | None]:
    gone = {a % len(dims) for a in axes}
    return [ONE if a in gone else d for a, d in enumerate(dims) if keep or a not in gone]


@_on("Split")
def _split(bounds: Bounds, node: gs.Node) -> Found:
    """Of the first part, the axes that are not split."""
    dims: list[Dim | None] = list(bounds.dims(node.inputs[0]))
    dims[int(node.attrs.get("axis", 0)) % len(dims)] = None
    return dims


@_on("OneHot")
def _one_hot(bounds: Bounds, node: gs.Node) -> Found:
    dims: list[Dim | None] = list(bounds.dims(node.inputs[0]))
    depth = bounds.elements(node.inputs[1])
    axis = int(node.attrs.get("axis", -1)) % (len(dims) + 1)
    dims.insert(axis, None if depth is None else depth.reshape(-1)[0])
    return dims


@_on("Einsum")
def _einsum(bounds: Bounds, node: gs.Node) -> Found:
    terms, result = equation_of(node)
    known: dict[str, Dim] = {}
    for letters, tensor in zip(terms, node.inputs, strict=True):
        for letter, dim in zip(letters, bounds.dims(tensor), strict=True):
            if letter not in known or known[letter] == ONE or dim.number not in (None, 1):
                known[letter] = dim
    return [known[letter] for letter in result]
