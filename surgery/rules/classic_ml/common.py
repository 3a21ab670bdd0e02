"""What the rules for ai.onnx.ml share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, samples_in
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

ML = "ai.onnx.ml"

NODE_LIMIT = 2**16
"""Most nodes of trees that are compared all at once; larger forests are walked with all trees in step."""

MOST_STEPS = 512
"""Deepest tree that is walked."""

PAIR_LIMIT = 2**24
"""Most (entry, key) or (vector, feature) pairs per sample that are compared at once."""


def ml(text: str, version: int = 3, **feeds: Any) -> Sample:
    """A sample with a version of the domain; quotes may be written as apostrophes."""
    return Sample(text.replace("'", '"'), feeds=feeds, domains={ML: version})


def ml_in(dtypes: str, text: str, **feeds: Any) -> list[Sample]:
    """One sample for each of several dtypes, in ONNX's names and separated by spaces: each T in the text is one."""
    return samples_in(dtypes, text, feeds=feeds, domains={ML: 3})


def ml_of(op: str, given: str, made: str, attributes: str, **feeds: Any) -> Sample:
    """A sample of an operator from one tensor to another one, both as ``float[n, 3]``."""
    return ml(f"({given} x) => ({made} y) {{ y = {ML}.{op} <{attributes}> (x) }}", **feeds)


def first_of(site: Site, *names: str) -> NDArray[Any] | None:
    """The first of some attributes that is there, as an array."""
    for name in names:
        value = site.attributes.get(name)
        if value is not None and np.size(value):
            dtype = np.int64 if "int64" in name else np.float32 if "float" in name else None
            return np.asarray(value, dtype)
    return None


def rows_of(site: Site, b: Body, dtype: Any = np.float32) -> str:
    """The first input as [N, F]: a vector is one row."""
    x = site.input(0)
    if x.rank not in (1, 2):
        raise NoMatch(f"an input of rank {x.rank}")
    name = b.cast(x.name, dtype) if x.dtype != np.dtype(dtype) else x.name
    return name if x.rank == 2 else b.unsqueeze(name, 0)


def first_of_largest(b: Body, scores: str, count: int) -> str:
    """Position [N] of the largest of scores [N, count]; the first of equal ones (ArgMax promises no order)."""
    largest = b.equal(scores, b.reduce("ReduceMax", scores, 1))
    place = b.where(largest, b.const(np.arange(count).reshape(1, -1), np.int64), b.const(count - 1, np.int64))
    return b.reduce("ReduceMin", place, 1, keepdims=False)


def probit(b: Body, x: str) -> str:
    """The approximation that ONNX Runtime computes; constants as in its source."""
    two, one = b.scalar(2.0), b.scalar(1.0)
    x = b.sub(b.mul(two, x), one)
    log = b.op("Log", b.mul(b.sub(one, x), b.add(one, x)))
    v = b.add(b.scalar(2.0 / (3.14159 * 0.147)), b.mul(b.scalar(0.5), log))
    v2 = b.mul(b.scalar(1.0 / 0.147), log)
    root = b.op("Sqrt", b.sub(b.op("Sqrt", b.sub(b.mul(v, v), v2)), v))
    signed = b.where(b.less(x, b.scalar(0.0)), b.op("Neg", root), root)
    return b.mul(b.scalar(1.41421356), signed)


def softmax_zero(b: Body, x: str) -> str:
    """Softmax that leaves zeros out of the sum."""
    counts = b.greater(b.op("Abs", x), b.scalar(0.0000001))
    peak = b.reduce("ReduceMax", x, 1)
    value = b.where(counts, b.op("Exp", b.sub(x, peak)), b.mul(x, b.op("Exp", b.op("Neg", peak))))
    return b.div(value, b.reduce("ReduceSum", b.where(counts, value, b.scalar(0.0)), 1))


def transformed(b: Body, scores: str, transform: str) -> str:
    """Two or more scores per row under a post transform."""
    if transform == "LOGISTIC":
        return b.op("Sigmoid", scores)
    if transform == "SOFTMAX":
        return b.op("Softmax", scores, axis=1)
    if transform == "SOFTMAX_ZERO":
        return softmax_zero(b, scores)
    return probit(b, scores) if transform == "PROBIT" else scores


def single(b: Body, score: str, transform: str) -> str:
    """One score per row: ONNX Runtime applies no transform but PROBIT."""
    return probit(b, score) if transform == "PROBIT" else score


def two_classes(b: Body, score: str, transform: str, *, complement: bool) -> str:
    """The scores of both classes from one: the complement to 1, or the negative."""
    if transform == "PROBIT":
        raise NoMatch("the second score is not defined under PROBIT")
    if complement:
        return b.concat([b.sub(b.scalar(1.0), score), score], 1)
    both = b.concat([b.op("Neg", score), score], 1)
    return b.op("Sigmoid", both) if transform == "LOGISTIC" else both
