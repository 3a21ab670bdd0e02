"""Attention of com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site


def heads_of(b: Body, x: str, heads: int) -> str:
    """(batch, sequence, heads * size) as (batch, heads, sequence, size)."""
    return b.transpose(b.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)


def entry(b: Body, x: str, axis: int, index: int) -> str:
    """One element along an axis, which goes."""
    return b.gather(x, b.const(index, np.int64), axis=axis)


def length(b: Body, x: str, axis: int) -> str:
    """Size of an axis, rank 0, int64."""
    return b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0)


def places(b: Body, size: str) -> str:
    """0, 1, ... size - 1."""
    return b.op("Range", b.const(0, np.int64), size, b.const(1, np.int64))


class Cell:
    """One scaled dot-product attention of ONNX Runtime: softmax(q k' scale + biases) v.

    Args:
        site: The node.
        b: What is written to.
        q: (batch, heads, queries, size).
        k: (batch, heads, all keys, size), the past included.
        v: (batch, heads, all keys, size of values).
        size: Size of a query's head if known.
    """

    def __init__(self, site: Site, b: Body, q: str, k: str, v: str, size: int | None) -> None:
        self.site, self.b, self.q, self.k, self.v = site, b, q, k, v
        scale = float(site.attr("scale", 0.0)) or None
        if scale is None and size is not None:
            scale = float(1 / np.sqrt(np.float32(size)))
        if scale is not None:
            factor = b.scalar(scale)
        else:
            factor = b.op("Reciprocal", b.op("Sqrt", b.cast(length(b, q, 3), np.float32)))
        self.scores = b.mul(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), factor)
        self.filter = float(site.attr("mask_filter_value", -10000.0))

    def bias(self, i: int) -> None:
        """Add input `i` to the scores, if it is there."""
        if self.site.has(i):
            self.scores = self.b.add(self.scores, self.site.x(i))

    def mask(self, i: int, batch: Any) -> None:
        """Hide what input `i` hides: whole numbers per key, or the ends (and starts) of each sample's keys."""
        if not self.site.has(i):
            return
        b, mask, name = self.b, self.site.input(i), self.site.x(i)
        if mask.rank == 2 and mask.dim(1) == 1:
            return  # one value per sample: ONNX Runtime takes that for no mask
        if mask.rank == 1:
            hidden = self._ends(name, mask.shape, batch)
        elif mask.rank in (2, 3):
            hidden = b.op("LessOrEqual", name, b.const(0, self.site.dtype(i)))
            hidden = b.unsqueeze(hidden, *((1, 2) if mask.rank == 2 else (1,)))
        else:
            raise NoMatch("masks of rank 4 are not defined on the CPU")
        self._hide(hidden)

    def _ends(self, name: str, shape: Any, batch: Any) -> str:
        b = self.b
        columns = b.cast(places(b, length(b, self.k, 2)), np.int32)
        if shape[0] is not None and shape[0] == batch:
            return b.greater_equal(columns, b.unsqueeze(name, 1, 2, 3))
        if not isinstance(shape[0], int) or not isinstance(batch, int) or shape[0] != 2 * batch:
            raise NoMatch("whether the mask has ends alone or ends and starts is not known")
        ends, starts = (b.unsqueeze(n, 1, 2, 3) for n in b.split(name, 0, 2))
        return b.logical_or(b.greater_equal(columns, ends), b.less(columns, starts))

    def _hide(self, hidden: str) -> None:
        b = self.b
        self.scores = b.add(self.scores, b.where(hidden, b.scalar(self.filter), b.scalar(0)))

    def causal(self) -> None:
        """Hide later keys; queries are the last of all positions."""
        b = self.b
        queries, keys = length(b, self.q, 2), length(b, self.k, 2)
        rows = b.unsqueeze(b.add(places(b, queries), b.sub(keys, queries)), 1)
        later = b.greater(b.unsqueeze(places(b, keys), 0), rows)
        self.scores = b.where(later, b.scalar(np.finfo(np.float32).min), self.scores)

    def result(self) -> str:
        """(batch, queries, heads * size)."""
        b = self.b
        y = b.op("MatMul", b.op("Softmax", self.scores, axis=-1), self.v)
        return b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def hidden_sizes(site: Site) -> list[int]:
    """Columns of the weights for queries, keys and values."""
    sizes = [int(v) for v in site.attr("qkv_hidden_sizes", [])]
    if sizes:
        return sizes
    columns = site.input(1).dim(1) if site.input(1).rank == 2 else None
    if not isinstance(columns, int):
        raise NoMatch("the size of the weights is not known")
    return [columns // 3] * 3


def reject(site: Site, *attributes: str) -> None:
    """Raise NoMatch if one of the attributes is set."""
    for name in attributes:
        if site.attr(name, 0):
            raise NoMatch(f"{name} is not written out")


def self_attention(
    site: Site, b: Body, product: str, mask: int, past: int, bias: int | None
) -> list[str | None]:
    """The rest of Attention and QAttention, from the product of input and weights on."""
    heads = int(site.attr("num_heads"))
    sizes = hidden_sizes(site)
    cuts = np.cumsum([0, *sizes]).tolist()
    q, k, v = (heads_of(b, b.slice(product, -1, cuts[i], cuts[i + 1]), heads) for i in range(3))
    if site.has(past):
        k = b.concat([entry(b, site.x(past), 0, 0), k], 2)
        v = b.concat([entry(b, site.x(past), 0, 1), v], 2)
    cell = Cell(site, b, q, k, v, sizes[0] // heads)
    if bias is not None:
        cell.bias(bias)
    shape = site.input(0).shape
    cell.mask(mask, shape[0] if shape else None)
    if site.attr("unidirectional", 0):
        cell.causal()
    present = None
    if site.used(1):
        present = b.concat([b.unsqueeze(k, 0), b.unsqueeze(v, 0)], 0)
    return [cell.result(), present]


ATTENTION_INPUTS = "float[2, 3, 8] x, float[8, 24] w, float[24] c"
ATTENTION_PAST = f"({ATTENTION_INPUTS}, int32[2, 7] m, float[2, 2, 2, 4, 4] p) =>"


@lowering(
    "ms-attention",
    "Attention",
    domain=MS,
    why="Self attention with its projection, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(f"({ATTENTION_INPUTS}) => (float[2, 3, 8] y) {{ y = @Attention <num_heads = 2> (x, w, c) }}"),
        ms(
            f"({ATTENTION_INPUTS}) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, unidirectional = 1, scale = 0.3> (x, w, c) }"
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, mask_filter_value = -3.0> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            "(float[b, s, 8] x, float[8, 24] w, float[24] c, int32[b, s] m) => (float[b, s, 8] y) "
            "{ y = @Attention <num_heads = 4> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 3, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2, unidirectional = 1> (x, w, c, m) }",
            m=[2, 1],
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 1] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({ATTENTION_INPUTS}, int32[4] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }",
            m=[3, 2, 1, 0],
        ),
        ms(
            f"{ATTENTION_PAST} (float[2, 3, 8] y, float[2, 2, 2, 7, 4] r) "
            "{ y, r = @Attention <num_heads = 2, unidirectional = 1, mask_filter_value = -2.0> (x, w, c, m, p) }",
            m=(0, 2),
        ),
        ms(
            "(float[2, 3, 8] x, float[8, 20] w, float[20] c, float[2, 2, 3, 3] e) => (float[2, 3, 4] y) "
            "{ y = @Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (x, w, c, , , e) }"
        ),
    ],
    near_misses=[
        ms(
            f"({ATTENTION_INPUTS}, int32[2, 1, 3, 3] m) => (float[2, 3, 8] y) "
            "{ y = @Attention <num_heads = 2> (x, w, c, m) }"
        )
    ],
)
def ms_attention(site: Site, b: Body) -> list[str | None]:
    """Projection, heads, scores with bias and mask, softmax, values."""
    reject(site, "do_rotary", "past_present_share_buffer")
    if not site.has(2):
        raise NoMatch(
            "ONNX Runtime's own kernel reads the bias even where it is left out, and ends the process"
        )
    product = b.add(b.op("MatMul", site.x(0), site.x(1)), site.x(2))
    return self_attention(site, b, product, mask=3, past=4, bias=5)


def operands_of_heads(site: Site, b: Body, heads: int) -> list[str]:
    """Query, key and value of MultiHeadAttention in (batch, heads, sequence, size), the bias added."""
    query = site.input(0)
    if query.rank == 5:
        return [b.transpose(entry(b, query.name, 3, i), 0, 2, 1, 3) for i in range(3)]
    names = [query.name]
    if site.input(1).rank == 5:
        packed = [b.transpose(entry(b, site.x(1), 3, i), 0, 2, 1, 3) for i in range(2)]
        return [heads_of(b, added(site, b, query.name, 0), heads), *packed]
    names += [site.x(1), site.x(2)]
    made = []
    for i, name in enumerate(names):
        if site.input(i).rank == 4:
            made.append(name)
        elif site.input(i).rank == 3:
            made.append(heads_of(b, added(site, b, name, i), heads))
        else:
            raise NoMatch(f"input {i} has rank {site.input(i).rank}")
    return made


def added(site: Site, b: Body, x: str, which: int) -> str:
    """Query, key or value plus its part of the bias."""
    if not site.has(3):
        return x
    hidden = site.input(0).dim(-1)
    if not isinstance(hidden, int):
        raise NoMatch("the hidden size is not known")
    end = (which + 1) * hidden if which < 2 else np.iinfo(np.int32).max
    return b.add(x, b.slice(site.x(3), 0, which * hidden, end))


MHA = "float[2, 3, 8] q, float[2, 5, 8] k, float[2, 5, 8] v"


@lowering(
    "ms-multi-head-attention",
    "MultiHeadAttention",
    domain=MS,
    why="Attention over projected queries, keys and values, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(f"({MHA}) => (float[2, 3, 8] y) {{ y = @MultiHeadAttention <num_heads = 2> (q, k, v) }}"),
        ms(
            "(float[b, s, 8] q, float[b, t, 8] k, float[b, t, 12] v, float[28] c, int32[b, t] m) => "
            "(float[b, s, 12] y) { y = @MultiHeadAttention <num_heads = 4> (q, k, v, c, m) }",
            m=(0, 2),
        ),
        ms(
            f"({MHA}, float[24] c, int32[2] m, float[1, 2, 3, 5] e) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2, scale = 0.2> (q, k, v, c, m, e) }",
            m=[3, 5],
        ),
        ms(
            "(float[2, 3, 8] q, float[2, 3, 8] k, float[2, 3, 8] v, float[2, 2, 4, 4] p, float[2, 2, 4, 4] r) => "
            "(float[2, 3, 8] y, float[2, 2, 7, 4] a, float[2, 2, 7, 4] d) { y, a, d = @MultiHeadAttention "
            "<num_heads = 2, unidirectional = 1> (q, k, v, , , , p, r) }"
        ),
        ms(
            "(float[2, 3, 8] q, float[2, 2, 5, 4] k, float[2, 2, 5, 4] v) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v) }"
        ),
        ms(
            f"({MHA}, int32[2, 3, 5] m) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v, , m) }",
            m=(0, 2),
        ),
    ],
    near_misses=[
        ms(
            f"({MHA}, int32[2, 1, 1, 5] m) => (float[2, 3, 8] y) "
            "{ y = @MultiHeadAttention <num_heads = 2> (q, k, v, , m) }"
        )
    ],
)
def multi_head_attention(site: Site, b: Body) -> list[str | None]:
    """Heads, past, scores with bias and mask, softmax, values."""
    if site.has(8) or site.has(9):
        raise NoMatch("caches that are shared between calls are not written out")
    heads = int(site.attr("num_heads"))
    q, k, v = operands_of_heads(site, b, heads)
    if site.has(6):
        k, v = b.concat([site.x(6), k], 2), b.concat([site.x(7), v], 2)
    shape = site.input(0).shape or ()
    hidden = shape[2] if len(shape) == 3 else None
    cell = Cell(site, b, q, k, v, hidden // heads if isinstance(hidden, int) else None)
    cell.bias(5)
    cell.mask(4, shape[0] if shape else None)
    if site.attr("unidirectional", 0):
        cell.causal()
    return [cell.result(), k, v, cell.scores]
