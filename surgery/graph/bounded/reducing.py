"""Operators that work along axes, behind padded operands: what is padding is made not to count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.dims import ONE, Dim, product
from surgery.graph.bounded.entrywise import per_entry
from surgery.graph.bounded.handlers import (
    equation_of,
    greatest,
    highest,
    least,
    lowest,
    on,
    only_first,
    whole_numbers,
)
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    "ReduceSum": lambda t: 0,
    "ReduceL1": lambda t: 0,
    "ReduceL2": lambda t: 0,
    "ReduceSumSquare": lambda t: 0,
    "ReduceLogSum": lambda t: 0,
    "ReduceProd": lambda t: 1,
    "ReduceMax": least,
    "ReduceLogSumExp": lowest,
    "ReduceMin": greatest,
    "ReduceMean": lambda t: 0,
}
"""What padding becomes so that it does not count."""


@on(*REDUCTIONS)
def _reduce(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    dims = bounds.dims(source)
    given = whole_numbers(bounds, node, 1, "axes")
    if given is None and node.attrs.get("noop_with_empty_axes", 0):
        return per_entry(bounds, node)
    axes = {a % len(dims) for a in given} if given else set(range(len(dims)))
    own = only_first(bounds, node)
    keep = bool(node.attrs.get("keepdims", 1))
    left = {a if keep else a - sum(x < a for x in axes): d for a, d in own.items() if a not in axes}
    inside = axes & set(own)
    if inside:
        node.inputs[0] = bounds.masked(source, REDUCTIONS[node.op](source), inside)
    if inside and node.op == "ReduceMean":
        node.op = "ReduceSum"
        if bounds.opset >= 13 and "axes" in node.attrs:
            node.inputs.append(bounds.const(np.asarray(node.attrs.pop("axes"), np.int64)))
        count = bounds.scalar(product([dims[a] for a in sorted(axes)]))
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(source.dtype))
        # The mean of nothing is open; ONNX Runtime makes 0 of it.
        none = bounds.emit("Less", count, np.asarray(1, np.int64), dtype=np.bool_)
        count = bounds.emit("Where", none, np.asarray(1, np.int64), count, dtype=np.int64)
        divisor = bounds.emit("Cast", count, dtype=source.dtype, to=kind)
        bounds.pad(bounds.then(node, "Div", divisor), left)
        return True
    bounds.pad(node.outputs[0], left)
    return False


@on("ArgMax", "ArgMin")
def _arg(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    axis = int(node.attrs.get("axis", 0)) % len(bounds.dims(source))
    own = bounds.padded[source.name]
    if axis in own:
        fill = lowest(source) if node.op == "ArgMax" else highest(source)
        node.inputs[0] = bounds.masked(source, fill, [axis])
    keep = bool(node.attrs.get("keepdims", 1))
    bounds.pad(node.outputs[0], {a if keep or a < axis else a - 1: d for a, d in own.items() if a != axis})
    return False


@on("Softmax", "LogSoftmax", "Hardmax")
def _softmax(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    rank = len(bounds.dims(source))
    own = bounds.padded[source.name]
    if bounds.opset < 13:
        start = int(node.attrs.get("axis", 1)) % rank
        axes = [a for a in own if a >= start]
    else:
        axes = [a for a in own if a == int(node.attrs.get("axis", -1)) % rank]
    if axes:
        node.inputs[0] = bounds.masked(source, lowest(source), axes)
    bounds.pad(node.outputs[0], own)
    return False


@on("CumSum")
def _cumsum(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    own = only_first(bounds, node)
    axis = whole_numbers(bounds, node, 1)
    if axis is None or (node.attrs.get("reverse", 0) and axis[0] % len(bounds.dims(source)) in own):
        node.inputs[0] = bounds.masked(source, 0)
    bounds.pad(node.outputs[0], own)
    return False


@on("TopK")
def _topk(bounds: Bounds, node: gs.Node) -> bool:
    source = node.inputs[0]
    dims = bounds.dims(source)
    axis = int(node.attrs.get("axis", -1)) % len(dims)
    own = dict(bounds.padded.get(source.name, {}))
    wanted = bounds.elements(node.inputs[1])
    if wanted is None:
        raise No("k of a TopK is computed from data")
    k = wanted.reshape(-1)[0]
    if axis in own:
        fill = lowest(source) if node.attrs.get("largest", 1) else highest(source)
        node.inputs[0] = bounds.masked(source, fill, [axis])
    if not k.exact:
        most = bounds.exact("Min", bounds.room(k), bounds.room(dims[axis]))
        node.inputs[1] = bounds.value([most])
    own[axis] = k
    for tensor in node.outputs:
        if tensor.name:
            bounds.pad(tensor, own)
    return False


@on("MatMul")
def _matmul(bounds: Bounds, node: gs.Node) -> bool:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    if len(left) < 2 or len(right) < 2:
        raise No("a MatMul with a vector")
    if not left[-1].exact or not right[-2].exact:
        node.inputs[0] = bounds.masked(node.inputs[0], 0, [len(left) - 1])
        node.inputs[1] = bounds.masked(node.inputs[1], 0, [len(right) - 2])
    rank = max(len(left), len(right))
    found: dict[int, Dim] = {rank - 2: left[-2], rank - 1: right[-1]}
    for axis in range(rank - 2):
        here = {d[axis - rank + len(d)] for d in (left, right) if axis - rank + len(d) >= 0} - {ONE}
        if len(here) > 1:
            raise No("sizes meet in a MatMul")
        found[axis] = next(iter(here), ONE)
    bounds.pad(node.outputs[0], found)
    return False


@on("Gemm")
def _gemm(bounds: Bounds, node: gs.Node) -> bool:
    left, right = (bounds.dims(t) for t in node.inputs[:2])
    turned = bool(node.attrs.get("transA", 0)), bool(node.attrs.get("transB", 0))
    inner = (0 if turned[0] else 1), (1 if turned[1] else 0)
    if not left[inner[0]].exact or not right[inner[1]].exact:
        node.inputs[0] = bounds.masked(node.inputs[0], 0, [inner[0]])
        node.inputs[1] = bounds.masked(node.inputs[1], 0, [inner[1]])
    bounds.pad(node.outputs[0], {0: left[1 - inner[0]], 1: right[1 - inner[1]]})
    return False


@on("Einsum")
def _einsum(bounds: Bounds, node: gs.Node) -> bool:
    """Along what is summed over, padding counts as 0."""
    terms, result = equation_of(node)
    known: dict[str, Dim] = {}
    for place, letters in enumerate(terms):
        dims = bounds.dims(node.inputs[place])
        if len(set(letters)) != len(letters):
            raise No("an Einsum of a diagonal")
        for letter, dim in zip(letters, dims, strict=True):
            if known.setdefault(letter, dim) != dim and ONE not in (known[letter], dim):
                raise No(f"sizes {known[letter]} and {dim} meet in an Einsum")
            known[letter] = dim if known[letter] == ONE else known[letter]
        inside = [a for a, letter in enumerate(letters) if letter not in result]
        node.inputs[place] = bounds.masked(node.inputs[place], 0, inside)
    bounds.pad(node.outputs[0], {a: known[letter] for a, letter in enumerate(result)})
    return False
