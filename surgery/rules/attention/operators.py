"""Attention written out as products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.attention.heads import (
    Scores,
    bias_of,
    extend,
    grouped_matmul,
    groups,
    merge_heads,
    scaled,
    split_heads,
)
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.precision import to

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


def working_dtype(site: Site) -> np.dtype[Any]:
    """Dtype for scores and softmax: never narrower than float32."""
    dtype = site.dtype(0)
    wanted = site.attr("softmax_precision")
    if dtype.name == "float64" or wanted == 11:
        return np.dtype(np.float64)
    return np.dtype(np.float32)


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
