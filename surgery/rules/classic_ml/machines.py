"""Support vector machines of ai.onnx.ml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.classic_ml.common import (
    ML,
    PAIR_LIMIT,
    first_of_largest,
    ml,
    ml_of,
    rows_of,
    transformed,
    two_classes,
)
from surgery.rules.classic_ml.linear import affine, labels_of
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray


def kernel(site: Site, b: Body, x: str, vectors: NDArray[Any]) -> str:
    """The kernel of rows [N, F] and support vectors [V, F]: [N, V]."""
    kind = str(site.attr("kernel_type", "LINEAR"))
    gamma, offset, degree = [*site.attr("kernel_params", []), 0.0, 0.0, 0.0][:3]
    if kind == "RBF":
        if vectors.size > PAIR_LIMIT:
            raise NoMatch(f"{len(vectors)} support vectors")
        apart = b.sub(b.unsqueeze(x, 1), b.const(vectors[None], np.float32))
        distance = b.reduce("ReduceSum", b.mul(apart, apart), 2, keepdims=False)
        return b.op("Exp", b.mul(b.scalar(-gamma), distance))
    product = affine(b, x, vectors, None)
    if kind == "LINEAR":
        return product
    product = b.add(b.mul(b.scalar(gamma), product), b.scalar(offset))
    if kind == "SIGMOID":
        return b.op("Tanh", product)
    if degree in (2.0, 3.0):
        square = b.mul(product, product)
        return square if degree == 2.0 else b.mul(square, product)
    return b.op("Pow", product, b.scalar(degree))


MACHINE = "kernel_params = [0.5, 0.1, 3.0], support_vectors = [0.1, 0.2, -0.5, 1.0, 0.3, -0.7]"


@lowering(
    "svmregressor-as-products",
    "SVMRegressor",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. Kernels are matrix products, or sums of squared differences.",
    samples=[
        ml_of("SVMRegressor", "float[n, 2]", "float[n, 1]",
              f"coefficients = [1.0, -0.5, 2.0], {MACHINE}, n_supports = 3, rho = [0.3], kernel_type = '{k}'")
        for k in ("RBF", "LINEAR", "POLY", "SIGMOID")
    ] + [
        ml_of("SVMRegressor", "float[2]", "float[1, 1]", "coefficients = [1.0, -0.5],"
              " kernel_params = [0.5, 0.1, 3.0], rho = [0.3], n_supports = 0, one_class = 1"),
    ],
    near_misses=[
        ml_of("SVMRegressor", "float[2, 2]", "float[2, 1]", "coefficients = [1.0], n_supports = 0"),
    ],
)  # fmt: skip
def svm_regressor(site: Site, b: Body) -> str:
    """The kernel's values, weighted, plus an offset."""
    rho = site.attr("rho", [])
    if not len(rho):
        raise NoMatch("no rho")
    x, supports = rows_of(site, b), int(site.attr("n_supports", 0))
    weights = np.asarray(site.attr("coefficients"), np.float32).reshape(1, -1)
    if supports:
        x = kernel(site, b, x, np.asarray(site.attr("support_vectors"), np.float32).reshape(supports, -1))
    score = affine(b, x, weights, np.asarray(rho[:1], np.float32))
    if site.attr("one_class", 0):
        return b.where(b.greater(score, b.scalar(0.0)), b.scalar(1.0), b.scalar(-1.0))
    return score


def _machine(classes: str, rest: str, kind: str = "float") -> str:
    """Text of a sample with three classes or two."""
    count = classes.count(",") + 1
    vectors = "[2, 1]" if count == 2 else "[1, 1, 1]"
    coefficients = "[1.0, -0.5, 2.0]" if count == 2 else "[1.0, -0.5, 2.0, 0.3, 0.7, -1.1]"
    rho = "[0.1]" if count == 2 else "[0.1, -0.2, 0.3]"
    return (
        f"({kind}[5, 2] x) => (int64[5] l, float[5, {count}] y) {{ l, y = ai.onnx.ml.SVMClassifier"
        f" <classlabels_ints = [{classes}], coefficients = {coefficients}, {MACHINE}, rho = {rho},"
        f" vectors_per_class = {vectors}, {rest}> (x) }}"
    )


@lowering(
    "svmclassifier-as-products",
    "SVMClassifier",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. One score per pair of classes, and votes.",
    samples=[
        ml(_machine("3, 5, 9", "kernel_type = 'RBF'")),
        ml(_machine("3, 5, 9", "kernel_type = 'LINEAR', post_transform = 'SOFTMAX'", "double")),
        ml(_machine("3, 5", "kernel_type = 'POLY'", "int64"), x=(-2, 3)),
        ml(_machine("3, 5", "kernel_type = 'SIGMOID', post_transform = 'LOGISTIC'")),
        ml(_machine("3, 5", "kernel_type = 'RBF', prob_a = [-1.5], prob_b = [0.1]")),
        ml(_machine("3, 5, 9", "kernel_type = 'RBF', prob_a = [-1.5, -1.0, -0.7], prob_b = [0.1, 0.0, -0.2]")),
        ml("(int32[5, 2] x) => (int64[5] l, float[5, 3] y) { l, y = ai.onnx.ml.SVMClassifier"
           " <classlabels_ints = [3, 5, 9], coefficients = [1.0, -0.5, 2.0, 0.3, 0.7, -1.1],"
           " kernel_params = [0.5, 0.1, 3.0], rho = [0.1]> (x) }", x=(-3, 4)),
    ],
    near_misses=[
        ml(_machine("3, 5", "kernel_type = 'RBF'").replace("int64[5] l", "string[5] l").replace(
            "classlabels_ints = [3, 5]", "classlabels_strings = ['a', 'b']")),
    ],
)  # fmt: skip
def svm_classifier(site: Site, b: Body) -> list[str]:
    """Scores of all pairs of classes; the class with most votes, or the largest score of a linear machine."""
    labels = labels_of(site, "classlabels_ints")
    classes, rho = len(labels), np.asarray(site.attr("rho", []), np.float32)
    transform = str(site.attr("post_transform", "NONE"))
    if classes < 2 or not len(rho):
        raise NoMatch("no labels, or no rho")
    x = rows_of(site, b)
    coefficients = np.asarray(site.attr("coefficients"), np.float32)
    sizes = [int(v) for v in site.attr("vectors_per_class", [])]
    if not sum(sizes):
        return _linear_machine(b, affine(b, x, coefficients.reshape(classes, -1), None), site)
    vectors = np.asarray(site.attr("support_vectors"), np.float32).reshape(sum(sizes), -1)
    mixing, pairs = _pair_weights(coefficients.reshape(classes - 1, -1), sizes)
    scores = affine(b, kernel(site, b, x, vectors), mixing, rho[: len(pairs)])
    wins = b.greater(scores, b.scalar(0.0))
    votes = ""
    for place in (0, 1):
        member = np.asarray([[float(pair[place] == k) for k in range(classes)] for pair in pairs])
        flags = b.cast(wins if not place else b.logical_not(wins), np.float32)
        part = b.op("MatMul", flags, b.const(member, np.float32))
        votes = b.add(votes, part) if votes else part
    label = b.gather(b.const(labels, np.int64), first_of_largest(b, votes, classes), 0)
    if site.attr("prob_a", []):
        chances = _pair_chances(b, scores, site, len(pairs))
        return [label, transformed(b, _coupled(b, chances, pairs, classes), transform)]
    if classes == 2:
        complement = transform in ("SOFTMAX", "SOFTMAX_ZERO")
        return [label, two_classes(b, scores, transform, complement=complement)]
    return [label, transformed(b, scores, transform)]


def _pair_weights(coefficients: NDArray[Any], sizes: list[int]) -> tuple[NDArray[Any], list[tuple[int, int]]]:
    """Weights [pairs, vectors] that make scores of kernels, and the pairs of classes."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pairs = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
    mixing = np.zeros((len(pairs), starts[-1]), np.float32)
    for row, (i, j) in enumerate(pairs):
        mine, other = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        mixing[row, mine] = coefficients[j - 1, mine]
        mixing[row, other] = coefficients[i, other]
    return mixing, pairs


def _linear_machine(b: Body, scores: str, site: Site) -> list[str]:
    """A machine without support vectors: one score per class."""
    labels = labels_of(site, "classlabels_ints")
    classes = len(labels)
    scores = b.add(scores, b.scalar(float(site.attr("rho")[0])))
    label = b.gather(b.const(labels, np.int64), first_of_largest(b, scores, classes), 0)
    if classes == 2 and not site.attr("prob_a", []):
        positive = min(site.attr("coefficients")) >= 0
        best = b.reduce("ReduceMax", scores, 1, keepdims=False)
        limit = b.scalar(0.5 if positive else 0.0)
        above = b.greater_equal(best, limit) if positive else b.greater(best, limit)
        label = b.where(above, b.const(int(labels[1]), np.int64), label)
    return [label, transformed(b, scores, str(site.attr("post_transform", "NONE")))]


def _pair_chances(b: Body, scores: str, site: Site, pairs: int) -> str:
    """Chances [N, pairs] of the first class of each pair, within 1e-7 and 1 - 1e-7."""
    a, offset = (np.asarray(site.attr(k)[:pairs], np.float32) for k in ("prob_a", "prob_b"))
    score = b.add(b.mul(scores, b.const(a, np.float32)), b.const(offset, np.float32))
    chance = b.op("Sigmoid", b.op("Neg", score))
    return b.minimum(b.maximum(chance, b.scalar(1e-7)), b.scalar(float(np.float32(1) - np.float32(1e-7))))


def _coupled(b: Body, chances: str, pairs: list[tuple[int, int]], classes: int) -> str:
    """Chances of classes from those of pairs: up to 100 rounds, in each of which a settled row stays as it is.

    Wu, Lin and Weng, Probability estimates for multi-class classification by pairwise coupling (2004),
    second method, with the stopping rule of libsvm.
    """
    columns = b.concat([chances, b.sub(b.scalar(1.0), chances)], 1)
    order = {pair: k for k, pair in enumerate([*pairs, *((j, i) for i, j in pairs)])}
    table = [[order.get((i, j), 0) for j in range(classes)] for i in range(classes)]
    off = np.asarray(1.0 - np.eye(classes), np.float32)
    r = b.mul(
        b.reshape(b.gather(columns, b.const(np.ravel(table), np.int64), 1), -1, classes, classes),
        b.const(off),
    )
    mirrored = b.transpose(r, 0, 2, 1)  # [N, i, j]: chance of j against i
    diagonal = b.reduce("ReduceSum", b.mul(mirrored, mirrored), 2)  # [N, C, 1]
    eye = b.const(np.eye(classes, dtype=np.float32))
    q = b.sub(b.mul(diagonal, eye), b.mul(mirrored, r))
    start = b.add(b.mul(b.squeeze(diagonal, 2), b.scalar(0.0)), b.scalar(1.0 / classes))

    inner = b.nested()
    step, go, p = inner.fresh("iteration"), inner.fresh("condition"), inner.fresh("chances")
    one, two = b.scalar(1.0), b.scalar(2.0)
    qp = inner.squeeze(inner.op("MatMul", q, inner.unsqueeze(p, 2)), 2)  # [N, C]
    pqp = inner.reduce("ReduceSum", inner.mul(p, qp), 1)  # [N, 1]
    error = inner.reduce("ReduceMax", inner.op("Abs", inner.sub(qp, pqp)), 1)
    settled = inner.less(error, b.scalar(0.005 / classes))
    moved = p
    for k in range(classes):
        row = b.squeeze(b.slice(q, 1, k, k + 1), 1)  # [N, C]
        own = b.slice(row, 1, k, k + 1)
        here = inner.slice(qp, 1, k, k + 1)
        diff = inner.div(inner.sub(pqp, here), own)
        grown = inner.add(one, diff)
        only = np.zeros((1, classes), np.float32)
        only[0, k] = 1.0
        moved = inner.div(inner.add(moved, inner.mul(diff, b.const(only))), grown)
        more = inner.mul(diff, inner.add(inner.mul(diff, own), inner.mul(two, here)))
        pqp = inner.div(inner.div(inner.add(pqp, more), grown), grown)
        qp = inner.div(inner.add(qp, inner.mul(diff, row)), grown)
    graph = inner.subgraph(
        "couple_chances",
        [(step, np.int64), (go, np.bool_), (p, np.float32)],
        [(inner.always(), np.bool_), (inner.where(settled, p, moved), np.float32)],
    )
    (found,) = b.loop(100, [start], graph)
    return found
