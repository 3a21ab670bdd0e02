"""Attention and what comes with it: caches that are written in place, statistics of normalizations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Operand, Site

HALVES = ("float16", "bfloat16")


def range_of(b: Body, x: str, operand_shape: tuple[Any, ...], axis: int) -> str:
    """0, 1, ... along one axis of a tensor, rank 1, int64; a constant where the size is known."""
    size = operand_shape[axis]
    if isinstance(size, int):
        return b.const(np.arange(size), np.int64)
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    return b.op("Range", zero, b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0), one)


def size_of(b: Body, x: str, size: Any, axis: int) -> str:
    """Size of an axis, rank 0, int64."""
    if isinstance(size, int):
        return b.const(size, np.int64)
    return b.gather(b.op("Shape", x), b.const(axis, np.int64), axis=0)


@dataclass(frozen=True)
class Heads:
    """Query, key or value as (batch, heads, sequence, head size).

    Attributes:
        name: The tensor.
        shape: Its dims as far as they are known.
        flat: Whether the operator has it as (batch, sequence, heads * head size).
    """

    name: str
    shape: tuple[Any, ...]
    flat: bool = False


def split_heads(b: Body, x: Operand, heads: int | None) -> Heads:
    """(batch, sequence, heads * size) as (batch, heads, sequence, size); rank 4 stays."""
    if x.rank == 4:
        return Heads(x.name, tuple(x.shape or ()))
    if x.rank != 3:
        raise NoMatch(f"{x.name} has rank {x.rank}, not 3 or 4")
    if not heads:
        raise NoMatch("inputs of rank 3 need the numbers of heads")
    batch, length, hidden = x.shape or ()
    if isinstance(hidden, int) and hidden % heads:
        raise NoMatch(f"{hidden} is not a multiple of {heads} heads")
    size = hidden // heads if isinstance(hidden, int) else None
    split = b.transpose(b.reshape(x.name, 0, 0, heads, size if size is not None else -1), 0, 2, 1, 3)
    return Heads(split, (batch, heads, length, size), flat=True)


def merge_heads(b: Body, y: str) -> str:
    """(batch, heads, sequence, size) as (batch, sequence, heads * size)."""
    return b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def extend(b: Body, past: Operand | None, new: Heads) -> Heads:
    """A cache and what is added to it along the sequence."""
    if past is None or (past.shape is not None and past.shape[2] == 0):
        return new
    old, add = past.shape[2] if past.shape is not None else None, new.shape[2]
    length = old + add if isinstance(old, int) and isinstance(add, int) else None
    return Heads(b.concat([past.name, new.name], 2), (*new.shape[:2], length, new.shape[3]))


def groups(q: Heads, k: Heads) -> int:
    """How many query heads share a key head."""
    ours, theirs = q.shape[1], k.shape[1]
    if ours is not None and ours == theirs:
        return 1
    if not isinstance(ours, int) or not isinstance(theirs, int):
        raise NoMatch("the numbers of heads are not known")
    if theirs == 0 or ours % theirs:
        raise NoMatch(f"{ours} query heads do not share {theirs} key heads evenly")
    return ours // theirs


def grouped_matmul(b: Body, left: str, right: str, q_heads: Any, share: int) -> str:
    """Product per head where `share` heads of the left one have one of the right.

    The heads that share become rows of one matrix, so nothing is repeated in memory.
    """
    if share == 1:
        return b.op("MatMul", left, right)
    rows = b.reshape(left, 0, q_heads // share, -1, 0)
    return b.reshape(b.op("MatMul", rows, right), 0, q_heads, -1, 0)


@dataclass(frozen=True)
class Scores:
    """What the mask is made for: sizes of the query block and of all keys.

    Attributes:
        q: Query.
        k: Keys, the cache included.
        dtype: Dtype that scores are computed in.
    """

    q: Heads
    k: Heads
    dtype: np.dtype[Any]

    def rows(self, b: Body) -> str:
        """Positions of the queries in their block, (queries, 1)."""
        return b.unsqueeze(range_of(b, self.q.name, self.q.shape, 2), 1)

    def columns(self, b: Body) -> str:
        """Positions of the keys, (keys)."""
        return range_of(b, self.k.name, self.k.shape, 2)


def visible(site: Site, b: Body, scores: Scores) -> str | None:
    """Which keys a query may see by its position, or None for all: causal, windows, filled part of the cache."""
    causal = bool(site.attr("is_causal", 0))
    left = int(site.attr("left_window_size", -1))
    right = int(site.attr("right_window_size", -1))
    filled = site.x(6) if site.has(6) else None
    parts: list[str] = []
    columns = scores.columns(b)
    if causal or left >= 0 or right >= 0:
        at = absolute(site, b, scores, filled)
        if causal or right >= 0:
            ahead = at if causal or not right else b.add(at, b.const(right, np.int64))
            parts.append(b.op("LessOrEqual", columns, ahead))
        if left >= 0:
            parts.append(b.greater_equal(columns, b.sub(at, b.const(left, np.int64))))
    if filled is not None:
        parts.append(b.less(columns, b.unsqueeze(filled, 1, 2, 3)))
    allowed: str | None = None
    for part in parts:
        allowed = part if allowed is None else b.logical_and(allowed, part)
    return allowed


def absolute(site: Site, b: Body, scores: Scores, filled: str | None) -> str:
    """Positions of the queries among the keys, (queries, 1) or (batch, 1, queries, 1)."""
    rows = scores.rows(b)
    if site.has(4):
        past = site.input(4)
        return b.add(rows, size_of(b, past.name, past.shape[2] if past.shape else None, 2))
    if filled is not None:
        before = b.sub(filled, size_of(b, scores.q.name, scores.q.shape[2], 2))
        return b.add(rows, b.unsqueeze(before, 1, 2, 3))
    return rows


def bias_of(site: Site, b: Body, scores: Scores) -> tuple[str | None, bool]:
    """What is added to the scores, and whether it may disallow every key of a query."""
    forbidden = b.const(-np.inf, scores.dtype)
    zero = b.const(0, scores.dtype)
    allowed = visible(site, b, scores)
    if not site.has(3):
        if allowed is None:
            return None, False
        # A causal mask or a window always leaves a query its own position.
        return b.where(allowed, zero, forbidden), site.has(6) or int(site.attr("left_window_size", -1)) >= 0
    mask = site.input(3)
    kind = site.kind(3)
    if kind not in "bf":
        raise NoMatch("masks of whole numbers are not defined")
    name, reaches = lengthen(b, mask, scores)
    if reaches is not None:
        allowed = reaches if allowed is None else b.logical_and(allowed, reaches)
    if kind == "b":
        both = name if allowed is None else b.logical_and(allowed, name)
        return b.where(both, zero, forbidden), True
    if mask.dtype != scores.dtype:
        name = b.cast(name, scores.dtype)
    return (name if allowed is None else b.where(allowed, name, forbidden)), True


def lengthen(b: Body, mask: Operand, scores: Scores) -> tuple[str, str | None]:
    """The mask for all keys, and for which of them it has a value (None for all)."""
    given = mask.shape[-1] if mask.shape else None
    if mask.rank < 1:
        raise NoMatch("a mask has an axis for keys")
    if given is not None and given == scores.k.shape[2]:
        return mask.name, None
    last = mask.rank - 1
    columns = scores.columns(b)
    end = size_of(b, mask.name, given, last)
    inside = b.op("Min", columns, b.sub(end, b.const(1, np.int64)))
    return b.gather(mask.name, inside, axis=-1), b.less(columns, end)


def scaled(site: Site, b: Body, q: Heads, k: Heads) -> tuple[str, str]:
    """Query and key, each times the root of the scale, as the operator has it against overflow."""
    dtype = site.dtype(0)
    scale = site.attr("scale")
    if scale is None and isinstance(q.shape[3], int):
        scale = 1 / np.sqrt(np.float32(q.shape[3]))
    if scale is not None:
        if scale < 0:
            raise NoMatch("the root of a negative scale is not a number")
        root = b.const(np.sqrt(np.float32(scale)), dtype)
    else:
        size = b.cast(size_of(b, q.name, None, 3), np.float32)
        root = b.cast(b.op("Sqrt", b.div(b.scalar(1), b.op("Sqrt", size))), dtype)
    return b.mul(q.name, root), b.mul(b.transpose(k.name, 0, 1, 3, 2), root)


def working_dtype(site: Site) -> np.dtype[Any]:
    """Dtype for scores and softmax: never narrower than float32."""
    dtype = site.dtype(0)
    wanted = site.attr("softmax_precision")
    if dtype.name == "float64" or wanted == 11:
        return np.dtype(np.float64)
    return np.dtype(np.float32)


def to(b: Body, x: str, have: np.dtype[Any], want: np.dtype[Any]) -> str:
    """Cast where the dtypes differ."""
    return x if have == want else b.cast(x, want)


SELF = "float[2, 4, 5, 8] q, float[2, 4, 5, 8] k, float[2, 4, 5, 8] v"
GROUPED = "float[2, 6, 3, 8] q, float[2, 2, 5, 8] k, float[2, 2, 5, 6] v"
FLAT = "float[2, 3, 24] q, float[2, 5, 24] k, float[2, 5, 30] v"
PAST = "float[2, 2, 4, 8] pk, float[2, 2, 4, 6] pv"

ATTENTION_SAMPLES = [
    Sample(text, opset=opset, feeds=feeds)
    for opset, text, feeds in (
        (23, f"({SELF}) => (float[2, 4, 5, 8] y) {{ y = Attention (q, k, v) }}", {}),
        (23, f"({SELF}) => (float[2, 4, 5, 8] y) {{ y = Attention <is_causal = 1> (q, k, v) }}", {}),
        (
            23,
            f"({SELF}, float[5, 5] m) => (float[2, 4, 5, 8] y) {{ y = Attention <scale = 0.3> (q, k, v, m) }}",
            {},
        ),
        (23, f"({SELF}, bool[2, 1, 5, 5] m) => (float[2, 4, 5, 8] y) {{ y = Attention (q, k, v, m) }}", {}),
        (
            24,
            f"({GROUPED}, bool[6, 3, 5] m) => (float[2, 6, 3, 6] y) {{ y = Attention <softcap = 2.0> (q, k, v, m) }}",
            {},
        ),
        (
            24,
            f"({GROUPED}, float[3, 9] m, {PAST}) => (float[2, 6, 3, 6] y, float[2, 2, 9, 8] a, float[2, 2, 9, 6] b)"
            " { y, a, b = Attention <is_causal = 1> (q, k, v, m, pk, pv) }",
            {},
        ),
        (
            24,
            f"({FLAT}, bool[3, 5] m) => (float[2, 3, 30] y, float[2, 3, 3, 5] s) "
            "{ y, , , s = Attention <q_num_heads = 3, kv_num_heads = 3, qk_matmul_output_mode = 3, is_causal = 1>"
            " (q, k, v, m) }",
            {},
        ),
        *(
            (
                24,
                f"({FLAT}, float[2, 1, 3, 5] m) => (float[2, 3, 30] y, float[2, 3, 3, 5] s) {{ y, , , s = Attention"
                f" <q_num_heads = 3, kv_num_heads = 3, qk_matmul_output_mode = {mode}, softcap = 3.0>"
                " (q, k, v, m) }",
                {},
            )
            for mode in (0, 1, 2)
        ),
        (
            24,
            f"({GROUPED}, float[2, 1, 3, 4] m, int64[2] n) => (float[2, 6, 3, 6] y) "
            "{ y = Attention <is_causal = 1> (q, k, v, m, , , n) }",
            {"n": (0, 5)},
        ),
        (
            24,
            f"({SELF}, int64[2] n) => (float[2, 4, 5, 8] y) {{ y = Attention (q, k, v, , , , n) }}",
            {"n": (0, 6)},
        ),
        (
            23,
            "(float16[1, 2, 4, 8] q, float16[1, 2, 4, 8] k, float16[1, 2, 4, 8] v, float16[4, 4] m) => "
            "(float16[1, 2, 4, 8] y) { y = Attention <softmax_precision = 1, softcap = 5.0> (q, k, v, m) }",
            {},
        ),
        (
            23,
            "(double[1, 2, 4, 8] q, double[1, 2, 4, 8] k, double[1, 2, 4, 8] v) => "
            "(double[1, 2, 4, 8] y) { y = Attention <is_causal = 1> (q, k, v) }",
            {},
        ),
        (
            23,
            "(bfloat16[1, 2, 4, 8] q, bfloat16[1, 2, 4, 8] k, bfloat16[1, 2, 4, 8] v) => "
            "(bfloat16[1, 2, 4, 8] y) { y = Attention <is_causal = 1> (q, k, v) }",
            {},
        ),
        (
            24,
            "(float[b, s, 24] q, float[b, t, 12] k, float[b, t, 12] v, bool[b, 1, s, u] m, float[b, 2, p, 6] pk,"
            " float[b, 2, p, 6] pv) => (float[b, s, 24] y, float[b, 2, u, 6] a, float[b, 2, u, 6] c) { y, a, c = "
            "Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1> (q, k, v, m, pk, pv) }",
            {},
        ),
    )
]
ATTENTION_SAMPLES += [
    Sample(
        f"({GROUPED}, {PAST}) => (float[2, 6, 3, 6] y) "
        f"{{ y = Attention <left_window_size = 3, right_window_size = {right}> (q, k, v, , pk, pv) }}",
        opset=25,
    )
    for right in (-1, 0, 2)
]
ATTENTION_SAMPLES += [
    Sample(
        f"({GROUPED}, int64[2] n) => (float[2, 6, 3, 6] y) "
        "{ y = Attention <left_window_size = 1, is_causal = 1> (q, k, v, , , , n) }",
        opset=25,
        feeds={"n": (1, 6)},
    )
]


def written_out(site: Site, b: Body) -> list[str | None]:
    """Scaled products, soft cap, additive bias, softmax, zero for queries that see no key."""
    dtype, work = site.dtype(0), working_dtype(site)
    q = split_heads(b, site.input(0), site.attr("q_num_heads"))
    k = split_heads(b, site.input(1), site.attr("kv_num_heads"))
    v = split_heads(b, site.input(2), site.attr("kv_num_heads"))
    share = groups(q, k)
    k = extend(b, site.input(4) if site.has(4) else None, k)
    v = extend(b, site.input(5) if site.has(5) else None, v)
    mode = int(site.attr("qk_matmul_output_mode", 0))

    left, right = scaled(site, b, q, k)
    x = to(b, grouped_matmul(b, left, right, q.shape[1], share), dtype, work)
    stages = [x]
    softcap = float(site.attr("softcap", 0.0))
    if softcap > 0:
        cap = b.const(softcap, work)
        x = b.mul(b.op("Tanh", b.div(x, cap)), cap)
    stages.append(x)
    bias, may_be_empty = bias_of(site, b, Scores(q, k, work))
    if bias is not None:
        x = b.add(x, bias)
    stages.append(x)
    p = b.op("Softmax", x, axis=-1)
    empty = ""
    if bias is not None and may_be_empty:
        empty = b.equal(b.reduce("ReduceMax", bias, -1), b.const(-np.inf, work))
    stages.append(p)
    second = site.dtype(2)
    y = grouped_matmul(b, to(b, p, work, second), v.name, q.shape[1], share)
    y = to(b, y, second, dtype)
    if empty:
        # Selected after the product: the row of a query without keys is not a number until here.
        y = b.where(empty, b.const(0, dtype), y)
    outputs: list[str | None] = [merge_heads(b, y) if q.flat else y, k.name, v.name, None]
    if site.used(3):
        out = stages[mode]
        if mode == 3 and empty:
            out = b.where(empty, b.const(0, work), out)
        outputs[3] = to(b, out, work, dtype)
    return outputs


@lowering(
    "attention-by-matmul",
    "Attention",
    why="TensorRT-RTX takes few configurations of Attention: one output, no softcap, no cache, causal or a "
    "mask but not both, and not every number and size of heads. Written out as in ONNX's function body.",
    since=23,
    samples=[
        *ATTENTION_SAMPLES,
        *samples_in(
            "bfloat16 double",
            "(float[2, 4, 5, 8] q, float[2, 4, 5, 8] k, float[2, 4, 5, 8] v, T[5, 5] m) => (float[2, "
            "4, 5, 8] y) { y = Attention <scale = 0.3> (q, k, v, m) }",
            opset=23,
        ),
    ],
    near_misses=[
        Sample(
            "(float[2, a, 5, 8] q, float[2, b, 5, 8] k, float[2, b, 5, 8] v) => (float[2, a, 5, 8] y) "
            "{ y = Attention (q, k, v) }",
            opset=23,
        ),
        Sample(
            f"({SELF}, int32[5, 5] m) => (float[2, 4, 5, 8] y) {{ y = Attention (q, k, v, m) }}", opset=23
        ),
    ],
)
def attention(site: Site, b: Body) -> list[str | None]:
    """As ONNX defines it."""
    return written_out(site, b)


@lowering(
    "attention-with-hidden-limits",
    "Attention",
    why="TensorRT's parser reads neither nonpad_kv_seqlen nor the sizes of windows, and says nothing: every query "
    "sees the padding of the cache, and what is outside its window.",
    since=24,
    samples=[
        Sample(
            f"({text}, int64[2] n) => ({result} y) {{ y = Attention <is_causal = {causal}> (q, k, v, , , , n) }}",
            opset=24,
            feeds={"n": (low, 6)},
        )
        for text, result, causal, low in (
            (SELF, "float[2, 4, 5, 8]", 0, 1),
            (SELF, "float[2, 4, 5, 8]", 1, 0),
            (GROUPED, "float[2, 6, 3, 6]", 1, 0),
            (SELF.replace("float", "float16"), "float16[2, 4, 5, 8]", 1, 1),
            (SELF.replace("float", "double"), "double[2, 4, 5, 8]", 0, 1),
            (SELF.replace("float", "bfloat16"), "bfloat16[2, 4, 5, 8]", 0, 1),
        )
    ]
    + [
        Sample(
            f"({SELF}) => (float[2, 4, 5, 8] y) {{ y = Attention <{limits}> (q, k, v) }}",
            opset=25,
        )
        for limits in ("left_window_size = 1", "right_window_size = 0", "left_window_size = 0, is_causal = 1")
    ],
    near_misses=[
        Sample(f"({SELF}) => (float[2, 4, 5, 8] y) {{ y = Attention <is_causal = 1> (q, k, v) }}", opset=24),
    ],
    when="always",
)
def attention_with_limits(site: Site, b: Body) -> list[str | None]:
    """As the rule for refused forms, wherever the filled part of the cache or a window limits what is seen."""
    windows = [int(site.attr(f"{side}_window_size", -1)) for side in ("left", "right")]
    if not site.has(6) and max(windows) < 0:
        raise NoMatch("every key may be seen, or a mask says which")
    return written_out(site, b)


@lowering(
    "tensorscatter-by-scatternd",
    "TensorScatter",
    why="TensorRT-RTX has TensorScatter for caches of rank 4 written in a straight line only. The positions of "
    "what is written, wrapped around if circular, are indices of a ScatterND.",
    since=24,
    samples=[
        Sample(
            "(float[2, 3, 6, 4] c, float[2, 3, 2, 4] u, int64[2] w) => (float[2, 3, 6, 4] y) "
            '{ y = TensorScatter <mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
        Sample(
            "(float16[2, 6, 4] c, float16[2, 2, 4] u, int64[2] w) => (float16[2, 6, 4] y) "
            "{ y = TensorScatter (c, u, w) }",
            opset=24,
            feeds={"w": (0, 5)},
        ),
        Sample(
            "(int32[b, t, 4] c, int32[b, s, 4] u) => (int32[b, t, 4] y) { y = TensorScatter (c, u) }",
            opset=24,
        ),
        Sample(
            "(double[2, 3, 6] c, double[2, 3, 4] u, int64[2] w) => (double[2, 3, 6] y) "
            '{ y = TensorScatter <axis = 2, mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
        Sample(
            "(int64[2, 6, 3, 2, 2] c, int64[2, 5, 3, 2, 2] u, int64[2] w) => (int64[2, 6, 3, 2, 2] y) "
            "{ y = TensorScatter <axis = 1> (c, u, w) }",
            opset=24,
            feeds={"w": (0, 2)},
        ),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 bfloat16 bool",
            "(T[2, 3, 6, 4] c, T[2, 3, 2, 4] u, int64[2] w) => (T[2, 3, 6, 4] y) { y = TensorScatter "
            '<mode = "circular"> (c, u, w) }',
            opset=24,
            feeds={"w": (0, 6)},
        ),
    ],
    near_misses=[
        Sample(
            "(float[2, 3] c, float[1, 3] u) => (float[2, 3] y) { y = TensorScatter <axis = 0> (c, u) }",
            opset=24,
        )
    ],
)
def tensor_scatter(site: Site, b: Body) -> str:
    """Indices (sample, ..., position) for each row that is written, then one ScatterND."""
    cache, update = site.input(0), site.input(1)
    rank = cache.rank
    axis = int(site.attr("axis", -2)) % rank
    if axis == 0 or update.shape is None:
        raise NoMatch("the axis that is written is not the samples' own")
    parts = []
    for d in range(axis + 1):
        part = b.unsqueeze(range_of(b, update.name, update.shape, d), *(k for k in range(axis + 1) if k != d))
        if d == axis:
            part = written_positions(site, b, part, axis)
        parts.append(part)
    ahead = b.op("Slice", b.op("Shape", update.name), b.ints(0), b.ints(axis + 1))
    where = [b.unsqueeze(b.op("Expand", p, ahead), axis + 1) for p in parts]
    return b.op("ScatterND", cache.name, b.concat(where, axis + 1), update.name)


def written_positions(site: Site, b: Body, steps: str, axis: int) -> str:
    """Where along the cache's axis each row of the update goes, per sample."""
    if site.has(2):
        steps = b.add(steps, b.unsqueeze(site.x(2), *range(1, axis + 1)))
    if site.attr("mode", "linear") != "circular":
        return steps
    cache = site.input(0)
    return b.op("Mod", steps, size_of(b, cache.name, cache.shape[axis] if cache.shape else None, axis))


@lowering(
    "layernorm-statistics",
    "LayerNormalization",
    why="TensorRT's LayerNormalization has one output. The mean and the reciprocal of the standard deviation "
    "are reductions beside it.",
    since=17,
    samples=[
        "(float[2, 3, 4] x, float[4] w, float[4] c) => (float[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) "
        "{ y, m, s = LayerNormalization (x, w, c) }",
        "(float[n, 3, 4] x, float[3, 4] w) => (float[n, 3, 4] y, float[n, 1, 1] m) "
        "{ y, m = LayerNormalization <axis = 1, epsilon = 0.1> (x, w) }",
        "(float16[2, 3, 4] x, float16[4] w) => (float16[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) "
        "{ y, m, s = LayerNormalization (x, w) }",
        "(float[2, 3, 4] x, float[2, 3, 4] w) => (float[2, 3, 4] y, float[1, 1, 1] m, float[1, 1, 1] s) "
        "{ y, m, s = LayerNormalization <axis = -3> (x, w) }",
        *samples_in(
            "double",
            "(T[2, 3, 4] x, T[4] w, T[4] c) => (T[2, 3, 4] y, float[2, 3, 1] m, float[2, 3, 1] s) { "
            "y, m, s = LayerNormalization (x, w, c) }",
        ),
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def layer_norm_statistics(site: Site, b: Body) -> list[str | None]:
    """One LayerNormalization for the result; mean and deviation by reductions."""
    if not site.used(1) and not site.used(2):
        raise NoMatch("its statistics are not used")
    x = site.input(0)
    axis = int(site.attr("axis", -1)) % x.rank
    dtype = site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    wanted = next((o.dtype for o in site.outputs[1:] if o is not None and o.dtype is not None), work)
    axes = range(axis, x.rank)
    wide = to(b, x.name, dtype, work)
    mean = reduce_mean(b, wide, axes)
    y = None
    if site.used(0):
        inputs = [o.name for o in site.inputs if o is not None]
        y = b.op("LayerNormalization", *inputs, **site.attributes)
    deviation = None
    if site.used(2):
        centred = b.sub(wide, mean)
        variance = reduce_mean(b, b.mul(centred, centred), axes)
        root = b.op("Sqrt", b.add(variance, b.const(site.attr("epsilon", 1e-5), work)))
        deviation = to(b, b.op("Reciprocal", root), work, wanted)
    return [y, to(b, mean, work, wanted), deviation]


def reduce_mean(b: Body, x: str, axes: range) -> str:
    """Mean over axes, which stay with size 1 (ReduceMean takes them as an input from opset 18)."""
    if b.opset >= 18:
        return b.op("ReduceMean", x, b.ints(*axes), keepdims=1)
    return b.op("ReduceMean", x, axes=list(axes), keepdims=1)
