"""Embeddings and positions of com.microsoft."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.attention import entry, length, places, reject
from surgery.rules.contrib.common import MS, ms
from surgery.rules.contrib.normalizations import normalized
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site


@lowering(
    "ms-embed-layernorm",
    "EmbedLayerNormalization",
    domain=MS,
    why="The sum of word, position and segment embeddings, normalized, as ONNX Runtime's transformer optimizer "
    "fuses it.",
    samples=[
        ms(
            "(int32[2, 3] i, int32[2, 3] s, float[9, 4] w, float[5, 4] p, float[2, 4] t, float[4] g, float[4] c, "
            "int32[2, 3] m) => (float[2, 3, 4] y, int32[2] n, float[2, 3, 4] e) "
            "{ y, n, e = @EmbedLayerNormalization <epsilon = 0.01> (i, s, w, p, t, g, c, m) }",
            i=(0, 9),
            s=(0, 2),
            m=(0, 2),
        ),
        ms(
            "(int32[b, s] i, float[9, 4] w, float[5, 4] p, float[4] g, float[4] c) => (float[b, s, 4] y, int32[b] n) "
            "{ y, n = @EmbedLayerNormalization <epsilon = 0.01> (i, , w, p, , g, c) }",
            i=(0, 9),
        ),
        ms(
            "(int32[2, 3] i, float[9, 4] w, float[5, 4] p, float[4] g, float[4] c, int32[1, 3] o) => "
            "(float[2, 3, 4] y, int32[2] n) { y, n = @EmbedLayerNormalization <epsilon = 0.01> "
            "(i, , w, p, , g, c, , o) }",
            i=(0, 9),
            o=(0, 5),
        ),
    ],
    near_misses=["(float[2, 4] x, float[4] w) => (float[2, 4] y) { y = LayerNormalization (x, w) }"],
)
def embed_layernorm(site: Site, b: Body) -> list[str | None]:
    """Gathers, sum, normalization; the count of each sample's mask."""
    ids = site.x(0)
    total = b.gather(site.x(2), ids, axis=0)
    if site.has(8):
        total = b.add(total, b.gather(site.x(3), site.x(8), axis=0))
    else:
        used = b.unsqueeze(length(b, ids, 1), 0)
        total = b.add(total, b.op("Slice", site.x(3), b.ints(0), used, b.ints(0)))
    if site.has(1):
        total = b.add(total, b.gather(site.x(4), site.x(1), axis=0))
    epsilon = float(site.attr("epsilon", 1e-12))
    y, _, _ = normalized(b, total, site.x(5), site.x(6), site.dtype(2), -1, 3, epsilon, True)
    count = None
    if site.used(1):
        seen = site.x(7) if site.has(7) else b.mul(ids, b.const(0, site.dtype(0)))
        ones = b.cast(b.equal(seen, b.const(1, np.int32)), np.int32)
        count = b.reduce("ReduceSum", ones, 1, keepdims=False)
    return [y, count, total]


@lowering(
    "ms-rotary-embedding",
    "RotaryEmbedding",
    domain=MS,
    why="Rotation of query or key by position, as ONNX Runtime's transformer optimizer fuses it.",
    samples=[
        ms(
            "(float[2, 3, 8] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 8] y) "
            "{ y = @RotaryEmbedding (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float[b, t, 12] x, int64[1] p, float[6, 2] c, float[6, 2] s) => (float[b, t, 12] y) "
            "{ y = @RotaryEmbedding <interleaved = 1, num_heads = 3> (x, p, c, s) }",
            p=[1],
        ),
        ms(
            "(float[2, 3, 3, 8] x, int64[2, 3] p, float[6, 4] c, float[6, 4] s) => (float[2, 3, 3, 8] y) "
            "{ y = @RotaryEmbedding (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float[2, 3, 16] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 16] y) "
            "{ y = @RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4> (x, p, c, s) }",
            p=(0, 6),
        ),
        ms(
            "(float16[2, 3, 8] x, int64[2, 3] p, float16[6, 2] c, float16[6, 2] s) => (float16[2, 3, 8] y) "
            "{ y = @RotaryEmbedding <interleaved = 1> (x, p, c, s) }",
            p=(0, 6),
        ),
    ],
    near_misses=[
        ms(
            "(float[2, 3, 8] x, int64[2, 3] p, float[6, 2] c, float[6, 2] s) => (float[2, 3, 8] y) "
            "{ y = @RotaryEmbedding <is_packed_batching = 1> (x, p, c, s) }"
        )
    ],
)
def rotary_embedding(site: Site, b: Body) -> str:
    """Cosines and sines of the positions, the two halves (or alternating elements) rotated, the rest kept."""
    reject(site, "is_packed_batching")
    x = site.input(0)
    half = site.input(2).dim(1) if site.input(2).rank == 2 else None
    if not isinstance(half, int):
        raise NoMatch("the size of the rotated part is not known")
    rotated = 2 * half
    data, size = x.name, rotated
    if x.rank == 3:
        heads, hidden = int(site.attr("num_heads", 0)), x.dim(2)
        if heads:
            if not isinstance(hidden, int):
                raise NoMatch("the hidden size is not known")
            size = hidden // heads
        data = b.transpose(b.reshape(data, 0, 0, -1, size), 0, 2, 1, 3)
    else:
        whole = x.dim(3)
        size = whole if isinstance(whole, int) else rotated
    angles = angle_positions(site, b, length(b, data, 2))
    cosine, sine = (b.unsqueeze(b.gather(site.x(i), angles, axis=0), 1) for i in (2, 3))
    turning = data if size == rotated else b.slice(data, -1, 0, rotated)
    done = turned(b, turning, cosine, sine, half, bool(site.attr("interleaved", 0)))
    if size != rotated:
        done = b.concat([done, b.slice(data, -1, rotated, size)], -1)
    return b.reshape(b.transpose(done, 0, 2, 1, 3), 0, 0, -1) if x.rank == 3 else done


def angle_positions(site: Site, b: Body, queries: str) -> str:
    """Positions (batch or 1, sequence): given, or counted from the one that is given."""
    positions = site.input(1)
    if positions.rank == 2:
        return positions.name
    if positions.rank != 1:
        raise NoMatch(f"positions have rank {positions.rank}")
    return b.unsqueeze(b.add(places(b, queries), positions.name), 0)


def turned(b: Body, x: str, cosine: str, sine: str, half: int, alternating: bool) -> str:
    """Pairs of elements rotated: the two halves, or neighbours."""
    if alternating:
        pairs = b.reshape(x, 0, 0, 0, half, 2)
        one, two = entry(b, pairs, -1, 0), entry(b, pairs, -1, 1)
    else:
        one, two = b.slice(x, -1, 0, half), b.slice(x, -1, half, 2 * half)
    real = b.sub(b.mul(one, cosine), b.mul(two, sine))
    imaginary = b.add(b.mul(one, sine), b.mul(two, cosine))
    if not alternating:
        return b.concat([real, imaginary], -1)
    both = b.concat([b.unsqueeze(real, 4), b.unsqueeze(imaginary, 4)], 4)
    return b.reshape(both, 0, 0, 0, 2 * half)
