"""TfIdfVectorizer: n-grams counted by comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.sizes import ALL


@lowering(
    "tfidfvectorizer-by-comparison",
    "TfIdfVectorizer",
    why="No TensorRT has TfIdfVectorizer. All windows of the input are compared with all n-grams of the pool.",
    samples=[
        Sample(
            "(int32[12] x) => (float[7] y) { y = TfIdfVectorizer <mode = 'TF', min_gram_length = 1,"
            " max_gram_length = 2, max_skip_count = 5, ngram_counts = [0, 4], ngram_indexes = [0, 1, 2, 3, 4, 5, 6],"
            " pool_int64s = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]> (x) }".replace("'", '"'),
            feeds={"x": (2, 9)},
        ),
        Sample(
            "(int64[n, c] x) => (float[n, 7] y) { y = TfIdfVectorizer <mode = 'TFIDF', min_gram_length = 2,"
            " max_gram_length = 2, max_skip_count = 1, ngram_counts = [0, 4], ngram_indexes = [0, 1, 2, 3, 6, 4, 4],"
            " pool_int64s = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7], weights = [1., 2., 3., 4., 5., 6., 7.]> (x) }".replace(
                "'", '"'
            ),
            feeds={"x": (5, 9)},
        ),
        Sample(
            "(int64[2, 6] x) => (float[2, 3] y) { y = TfIdfVectorizer <mode = 'IDF', min_gram_length = 3,"
            " max_gram_length = 3, max_skip_count = 0, ngram_counts = [0, 0, 0], ngram_indexes = [2, 0],"
            " pool_int64s = [1, 1, 0, 0, 1, 1]> (x) }".replace("'", '"'),
            feeds={"x": (0, 2)},
        ),
    ],
    near_misses=[
        "(string[6] x) => (float[2] y) { y = TfIdfVectorizer <mode = 'TF', min_gram_length = 1,"
        " max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1],"
        " pool_strings = ['a', 'b']> (x) }".replace("'", '"')
    ],
)  # fmt: skip
def tf_idf(site: Site, b: Body) -> str:
    """Counts per n-gram of the pool, put into the columns that the n-grams name, and weighted."""
    pool = site.attributes.get("pool_int64s")
    if site.kind(0) not in "iu" or pool is None:
        raise NoMatch("the pool holds strings")
    indexes = [int(i) for i in site.attr("ngram_indexes")]
    x = b.cast(site.x(0), np.int64)
    rank = site.input(0).rank
    x = x if rank == 2 else b.reshape(x, 1, -1)
    found = _ngram_counts(site, b, x, [int(v) for v in pool])
    columns: list[list[int]] = [[] for _ in range(max(indexes) + 1)]
    for position, ngram in enumerate(found.numbers):
        columns[indexes[ngram]].append(position)
    counts = b.concat(found.counts, 1)
    weights = site.attributes.get("weights")
    mode = str(site.attr("mode"))
    if mode == "TFIDF" and weights is not None:
        counts = b.mul(counts, b.const([weights[n] for n in found.numbers], np.float32))
    # One more column that is always 0, for outputs without an n-gram.
    counts = b.concat([counts, b.mul(b.slice(counts, 1, 0, 1), b.scalar(0.0))], 1)
    out = ""
    for k in range(max(1, *(len(c) for c in columns))):
        chosen = [c[k] if k < len(c) else len(found.numbers) for c in columns]
        part = b.gather(counts, b.const(chosen, np.int64), 1)
        out = b.add(out, part) if out else part
    if mode == "IDF":
        present = b.cast(b.greater(out, b.scalar(0.0)), np.float32)
        out = b.mul(present, b.const(_column_weights(columns, found.numbers, weights), np.float32))
    return out if rank == 2 else b.squeeze(out, 0)


def _column_weights(columns: list[list[int]], numbers: list[int], weights: list[float] | None) -> list[float]:
    """The weight of each column where it does not depend on which of its n-grams occurs last."""
    if weights is None:
        return [1.0] * len(columns)
    found = [{weights[numbers[position]] for position in column} for column in columns]
    if any(len(f) > 1 for f in found):
        raise NoMatch("n-grams of one column have different weights")
    return [f.pop() if f else 0.0 for f in found]


@dataclass(frozen=True)
class NgramCounts:
    """Counts [B, N] of some n-grams, as tensors to concatenate, and the numbers of the n-grams in the pool."""

    counts: list[str]
    numbers: list[int]


def _ngram_counts(site: Site, b: Body, x: str, pool: list[int]) -> NgramCounts:
    shortest, longest = int(site.attr("min_gram_length")), int(site.attr("max_gram_length"))
    distances = int(site.attr("max_skip_count")) + 1
    starts = [int(s) for s in site.attr("ngram_counts")]
    room = distances * (longest - 1)
    if room:  # windows that do not fit contain a value that no n-gram has
        nothing = max(pool) + 1 if max(pool) < 2**62 else min(pool) - 1
        rows = b.slice(b.op("Shape", x), 0, 0, 1)
        behind = b.op("Expand", b.const(nothing, np.int64), b.concat([rows, b.ints(room)], 0))
        x = b.concat([x, behind], 1)
    counts: list[str] = []
    numbers: list[int] = []
    number = 0
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        ngrams = np.asarray(pool[start:end], np.int64).reshape(-1, size)
        here = range(number, number + len(ngrams))
        number += len(ngrams)
        if not len(ngrams) or not shortest <= size <= longest:
            continue
        total = ""
        for distance in range(1, distances + 1 if size > 1 else 2):
            same = ""
            for k in range(size):
                shifted = b.slice(x, 1, k * distance, k * distance - room or ALL) if room else x
                hit = b.equal(b.unsqueeze(shifted, 2), b.const(ngrams[:, k].reshape(1, 1, -1), np.int64))
                same = b.logical_and(same, hit) if same else hit
            part = b.reduce("ReduceSum", b.cast(same, np.float32), 1, keepdims=False)
            total = b.add(total, part) if total else part
        counts.append(total)
        numbers += here
    if not counts:
        raise NoMatch("no n-gram of the pool has a length that counts")
    return NgramCounts(counts, numbers)
