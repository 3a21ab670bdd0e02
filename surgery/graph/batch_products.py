"""Where the batch goes in products and recurrent layers."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from surgery.graph.batch_handlers import handles
from surgery.graph.batch_inputs import NoBatchError

if TYPE_CHECKING:
    import onnx

    from surgery.graph.batch_way import Way


@handles("MatMul", "MatMulInteger")
def _matmul(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch is among the axes in front, or rows or columns of one operand."""
    ranks = [len(way.dims(n)) for n in node.input[:2]]
    rank = len(way.dims(node.output[0]))
    places = set()
    for i in held:
        axis = way.axes[node.input[i]]
        from_end = ranks[i] - axis
        if (i == 0 and from_end == 1) or (i == 1 and from_end == 2) or (i == 1 and ranks[1] == 1):
            raise NoBatchError("it sums along the batch")
        if (i == 1 and from_end == 1) or (i == 0 and from_end == 2 and ranks[1] == 1):
            places.add(rank - 1)
        else:
            places.add(rank - from_end)
    if len(places) != 1:
        raise NoBatchError("the batches of its operands are in different axes")
    axis = places.pop()
    for i in (0, 1):
        at = ranks[i] - rank + axis
        if i not in held and axis < rank - 2 and at >= 0 and way.dims(node.input[i])[at] > 1:
            node.input[i] = way.spread(node.input[i], at)
    way.made(node, axis)


@handles("Gemm")
def _gemm(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The batch is in the rows."""
    turned = next((a.i for a in node.attribute if a.name == "transA"), 0)
    if held[0] != 0 or 1 in held or way.axes[node.input[0]] != (1 if turned else 0):
        raise NoBatchError("it sums along the batch")
    way.made(node, 0)


@handles("Einsum")
def _einsum(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """The letter of the batch stays in the result."""
    text = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not arrow:
        raise NoBatchError("its equation leaves axes open")
    if "." in text:
        terms, right = _written_out(way, node, terms, right)
    letters = {terms[i][way.axes[node.input[i]]] for i in held}
    if len(letters) != 1 or not letters <= set(right):
        raise NoBatchError("it sums along the batch, or joins batches of different axes")
    letter = letters.pop()
    for i, name in enumerate(node.input):
        if i not in held and letter in terms[i]:
            node.input[i] = way.spread(name, terms[i].index(letter))
    way.made(node, right.index(letter))


def _written_out(way: Way, node: onnx.NodeProto, terms: list[str], right: str) -> tuple[list[str], str]:
    """Terms of an Einsum with letters in the place of dots; those at the end stand for the same axes."""
    free = [c for c in string.ascii_letters if c not in right and all(c not in t for t in terms)]
    counts = [len(way.dims(n)) - len(t.replace("...", "")) for n, t in zip(node.input, terms, strict=True)]
    most = max(c for c, t in zip(counts, terms, strict=True) if "..." in t)
    letters = "".join(free[:most])
    plain = [t.replace("...", letters[most - c :]) for t, c in zip(terms, counts, strict=True)]
    return plain, right.replace("...", letters)


@handles("LSTM", "GRU", "RNN")
def _recurrent(way: Way, node: onnx.NodeProto, held: list[int]) -> None:
    """States that were for the fixed batch are repeated."""
    if any(a.name == "layout" and a.i for a in node.attribute) or way.axes.get(node.input[0]) != 1:
        raise NoBatchError("the batch is not in its second axis")
    for i in (5, 6):
        if i < len(node.input) and node.input[i] and i not in held:
            node.input[i] = way.spread(node.input[i], 1)
    if len(node.input) > 4 and node.input[4] and 4 not in held:
        node.input[4] = way.spread(node.input[4], 0)
    for i, name in enumerate(node.output):
        if name:
            way.axes[name] = 2 if i == 0 else 1
