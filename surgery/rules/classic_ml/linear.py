"""Linear models of ai.onnx.ml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.classic_ml.common import (
    ML,
    first_of,
    first_of_largest,
    ml,
    ml_of,
    rows_of,
    single,
    transformed,
    two_classes,
)
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray


def affine(b: Body, x: str, weights: NDArray[Any], bias: NDArray[Any] | None) -> str:
    """Rows [N, F] times weights [K, F] transposed, plus a bias [K]."""
    product = b.op("MatMul", x, b.const(weights.T, np.float32))
    return product if bias is None else b.add(product, b.const(bias, np.float32))


def labels_of(site: Site, *names: str) -> NDArray[Any]:
    """Labels of the classes; NoMatch if they are not whole numbers."""
    found = first_of(site, *names)
    if site.attributes.get("classlabels_strings"):
        raise NoMatch("labels are strings")
    return np.zeros(0, np.int64) if found is None else found


@lowering(
    "linearregressor-as-product",
    "LinearRegressor",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a matrix product.",
    samples=[
        ml_of("LinearRegressor", "float[n, 3]", "float[n, 2]", "targets = 2, coefficients ="
              f" [0.3, 0.5, -1.0, 2.0, 1.0, 0.1], intercepts = [0.5, 1.0], post_transform = '{t}'")
        for t in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    ] + [
        ml_of("LinearRegressor", "float[3]", "float[1, 1]", "targets = 1, coefficients = [0.3, 0.5, -1.0]"),
        ml_of("LinearRegressor", "float[2, 1]", "float[2, 1]",
              "targets = 1, coefficients = [0.3], post_transform = 'PROBIT'", x=(0.1, 0.9)),
    ],
    near_misses=[ml("(float[3, 3] x) => (float[3, 3] y) { y = Identity (x) }")],
)  # fmt: skip
def linear_regressor(site: Site, b: Body) -> str:
    """One score per target, transformed."""
    targets, transform = int(site.attr("targets", 1)), str(site.attr("post_transform", "NONE"))
    weights = np.asarray(site.attr("coefficients"), np.float32).reshape(targets, -1)
    bias = np.asarray(site.attr("intercepts", []), np.float32)
    scores = affine(b, rows_of(site, b), weights, bias if len(bias) == targets else None)
    return transformed(b, scores, transform) if targets > 1 else single(b, scores, transform)


@lowering(
    "linearclassifier-as-product",
    "LinearClassifier",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a matrix product and a search for the largest score.",
    samples=[
        ml("(float[n, 2] x) => (int64[n] l, float[n, 3] y) { l, y = ai.onnx.ml.LinearClassifier <coefficients ="
           " [0.3, 0.5, -1.0, 2.0, 1.0, 0.1], intercepts = [0.5, 1.0, 0.0], classlabels_ints = [3, 5, 9],"
           f" post_transform = '{t}'> (x) }}")
        for t in ("NONE", "SOFTMAX", "LOGISTIC")
    ] + [
        ml("(double[n, 2] x) => (int64[n] l, float[n, 2] y) { l, y = ai.onnx.ml.LinearClassifier"
           " <coefficients = [0.3, 0.5], intercepts = [0.1], classlabels_ints = [3, 5]> (x) }"),
        ml("(int64[2] x) => (int64[1] l, float[1, 2] y) { l, y = ai.onnx.ml.LinearClassifier"
           " <coefficients = [0.3, 0.5], intercepts = [0.1], classlabels_ints = [3, 7]> (x) }", x=(-2, 3)),
        ml("(int32[2, 2] x) => (int64[2] l, float[2, 2] y) { l, y = ai.onnx.ml.LinearClassifier"
           " <coefficients = [0.3, 0.5, -0.3, -0.5], intercepts = [0.1, 0.0], classlabels_ints = [3, 4]> (x) }"),
    ],
    near_misses=[
        ml("(float[2, 2] x) => (string[2] l, float[2, 2] y) { l, y = ai.onnx.ml.LinearClassifier"
           " <coefficients = [0.3, 0.5], intercepts = [0.1], classlabels_strings = ['a', 'b']> (x) }"),
    ],
)  # fmt: skip
def linear_classifier(site: Site, b: Body) -> list[str]:
    """Scores per class; one score alone decides by its sign."""
    labels = labels_of(site, "classlabels_ints")
    bias = np.asarray(site.attr("intercepts", []), np.float32)
    transform, count = str(site.attr("post_transform", "NONE")), len(bias)
    if not count:
        raise NoMatch("no intercepts")
    weights = np.asarray(site.attr("coefficients"), np.float32).reshape(count, -1)
    scores = affine(b, rows_of(site, b), weights, bias)
    if count > 1:
        at = first_of_largest(b, scores, count)
        return [b.gather(b.const(labels, np.int64), at, 0), transformed(b, scores, transform)]
    both = len(labels) == 2
    positive = b.squeeze(b.greater(scores, b.scalar(0.0)), 1)
    low, high = (int(labels[0]), int(labels[1])) if both else (0, 1)
    label = b.where(positive, b.const(high, np.int64), b.const(low, np.int64))
    if both:
        return [label, two_classes(b, scores, transform, complement=True)]
    return [label, single(b, scores, transform)]
