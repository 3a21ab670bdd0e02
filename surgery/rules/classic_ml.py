"""Operators of classic machine learning (``ai.onnx.ml``) on numbers: scaling, linear models, trees, machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering
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


# -- transforms of scores ---------------------------------------------------------------------------


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


# -- features ---------------------------------------------------------------------------------------


@lowering(
    "arrayfeatureextractor-as-gather",
    "ArrayFeatureExtractor",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a gather along the last axis.",
    samples=[
        ml("(float[2, 5] x, int64[1, 3] i) => (float[2, 3] y) { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }"),
        ml("(int64[n, 2, 5] x, int64[3] i) => (int64[n, 2, 3] y) { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }",
           i=(0, 5)),
        ml("(int32[5] x, int64[3] i) => (int32[1, 3] y) { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }", i=(0, 5)),
        ml("(double[5] x) => (double[1, 1] y) <int64[1] i = {2}> { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }"),
    ],
    near_misses=[
        ml("(string[5] x, int64[3] i) => (string[1, 3] y) { y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }"),
    ],
)  # fmt: skip
def array_feature_extractor(site: Site, b: Body) -> str:
    """Columns; a vector counts as one row."""
    if site.kind(0) not in "fiu":
        raise NoMatch("strings")
    found = b.gather(site.x(0), b.reshape(site.x(1), -1), -1)
    return b.unsqueeze(found, 0) if site.input(0).rank == 1 else found


@lowering(
    "binarizer-as-comparison",
    "Binarizer",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a comparison.",
    samples=[
        ml("(float[n, 5] x) => (float[n, 5] y) { y = ai.onnx.ml.Binarizer <threshold = 0.5> (x) }"),
        ml("(float[5] x) => (float[5] y) { y = ai.onnx.ml.Binarizer (x) }"),
    ],
    near_misses=[ml("(float[5] x) => (float[5] y) { y = Relu (x) }")],
)
def binarizer(site: Site, b: Body) -> str:
    """1 above the threshold, else 0."""
    dtype = site.dtype(0)
    if dtype.kind == "f":
        return b.cast(b.greater(site.x(0), b.const(site.attr("threshold", 0.0), dtype)), dtype)
    wide = b.cast(site.x(0), np.float64)
    return b.cast(b.greater(wide, b.const(site.attr("threshold", 0.0), np.float64)), dtype)


def per_feature(site: Site, values: Sequence[float], dtype: Any) -> NDArray[Any]:
    """Values for one or all features, to broadcast against the input; NoMatch if they fit neither."""
    x = site.input(0)
    features = (x.shape or (None,))[-1]
    if len(values) == 1:
        return np.asarray(values[0], dtype)
    if x.rank not in (1, 2) or (isinstance(features, int) and features != len(values)):
        raise NoMatch(f"{len(values)} values for {features} features")
    return np.asarray(values, dtype)


@lowering(
    "scaler-as-arithmetic",
    "Scaler",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a difference and a product.",
    samples=[
        ml("(float[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x) }"),
        ml("(double[n, 2] x) => (float[n, 2] y)"
           " { y = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 0.1]> (x) }"),
        ml("(int64[2] x) => (float[2] y) { y = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 0.1]> (x) }"),
        ml("(int32[n, 3, 2] x) => (float[n, 3, 2] y) { y = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x) }"),
    ],
    near_misses=[
        ml("(float[2, 3] x) => (float[2, 3] y)"
           " { y = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 0.1]> (x) }"),
    ],
)  # fmt: skip
def scaler(site: Site, b: Body) -> str:
    """(x - offset) * scale, in double for doubles; the result is float."""
    wide = np.float64 if site.dtype(0) == np.float64 else np.float32
    x = b.cast(site.x(0), wide) if site.dtype(0) != np.dtype(wide) else site.x(0)
    scale, offset = (per_feature(site, site.attr(name, [0.0]), wide) for name in ("scale", "offset"))
    scaled = b.mul(b.sub(x, b.const(offset, wide)), b.const(scale, wide))
    return b.cast(scaled, np.float32) if wide is np.float64 else scaled


@lowering(
    "normalizer-as-arithmetic",
    "Normalizer",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one divides rows by their norm unless that is 0.",
    samples=[
        ml("(float[n, 3] x) => (float[n, 3] y) { y = ai.onnx.ml.Normalizer <norm = 'MAX'> (x) }"),
        ml("(float[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.Normalizer <norm = 'L1'> (x) }",
           x=[[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]),
        ml("(double[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.Normalizer <norm = 'L2'> (x) }"),
        ml("(int64[3] x) => (float[3] y) { y = ai.onnx.ml.Normalizer <norm = 'L2'> (x) }", x=(-3, 9)),
        ml("(int32[3] x) => (float[3] y) { y = ai.onnx.ml.Normalizer <norm = 'MAX'> (x) }", x=(-3, 9)),
    ],
    near_misses=[ml("(float[2, 3, 2] x) => (float[2, 3, 2] y) { y = ai.onnx.ml.Normalizer <norm = 'L1'> (x) }")],
)  # fmt: skip
def normalizer(site: Site, b: Body) -> str:
    """Rows over their norm; rows whose norm is 0 stay."""
    if site.input(0).rank > 2:
        raise NoMatch("an input of more than two dims")
    x = site.x(0) if site.dtype(0) == np.float32 else b.cast(site.x(0), np.float32)
    norm = str(site.attr("norm", "MAX"))
    zero = b.scalar(0.0)
    if norm == "L2":
        square = b.mul(x, x)
        size = b.reduce("ReduceSum", square, -1)
        root = b.op("Sqrt", b.div(square, size))
        scaled = b.where(b.less(x, zero), b.op("Neg", root), root)
    else:
        size = b.reduce("ReduceMax", x, -1) if norm == "MAX" else b.reduce("ReduceSum", b.op("Abs", x), -1)
        scaled = b.div(x, size)
    return b.where(b.equal(size, zero), x, scaled)


@lowering(
    "imputer-as-selection",
    "Imputer",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one replaces a value, or NaN, by another.",
    samples=[
        ml("(float[n, 3] x) => (float[n, 3] y) { y = ai.onnx.ml.Imputer"
           " <imputed_value_floats = [5.0, 6.0, 7.0], replaced_value_float = 0.0> (x) }", x=(0.0, 1.0)),
        ml("(float[4] x) => (float[4] y) { y = ai.onnx.ml.Imputer"
           " <imputed_value_floats = [5.0], replaced_value_float = 2.0> (x) }", x=[1.0, 2.0, 3.0, 2.0]),
        ml("(int64[2, 3] x) => (int64[2, 3] y) { y = ai.onnx.ml.Imputer"
           " <imputed_value_int64s = [5, 6, 7], replaced_value_int64 = 1> (x) }", x=(0, 3)),
    ],
    near_misses=[
        ml("(float[2, 3, 3] x) => (float[2, 3, 3] y) { y = ai.onnx.ml.Imputer"
           " <imputed_value_floats = [5.0, 6.0, 7.0], replaced_value_float = 0.0> (x) }"),
    ],
)  # fmt: skip
def imputer(site: Site, b: Body) -> str:
    """The value of the feature where the input equals the replaced one."""
    dtype, x = site.dtype(0), site.x(0)
    whole = dtype.kind in "iu"
    values = site.attr("imputed_value_int64s" if whole else "imputed_value_floats")
    replaced = site.attr("replaced_value_int64" if whole else "replaced_value_float", 0)
    if not values:
        raise NoMatch("no value to impute")
    features = (site.input(0).shape or (None,))[-1]
    if len(values) > 1 and isinstance(features, int) and features != len(values):
        values = values[:1]
    hit = b.op("IsNaN", x) if np.isnan(replaced) else b.equal(x, b.const(replaced, dtype))
    return b.where(hit, b.const(per_feature(site, values, dtype), dtype), x)


@lowering(
    "featurevectorizer-as-concat",
    "FeatureVectorizer",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one puts features of several inputs side by side.",
    samples=[
        ml("(float[n, 3] x, float[n, 2] z) => (float[n, 6] y)"
           " { y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [2, 4]> (x, z) }"),
        ml("(int64[3] x) => (float[1, 3] y) { y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3]> (x) }"),
        ml("(double[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3]> (x) }"),
        ml("(int32[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3]> (x) }"),
    ],
    near_misses=[
        ml("(float[2, k] x) => (float[2, 3] y) { y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3]> (x) }"),
    ],
)  # fmt: skip
def feature_vectorizer(site: Site, b: Body) -> str:
    """Each input cut or padded with zeros to its number of features."""
    parts = []
    for i, wanted in enumerate(site.attr("inputdimensions", [])):
        x = site.input(i)
        size = (x.shape or (None,))[-1]
        if x.rank not in (1, 2) or not isinstance(size, int):
            raise NoMatch("the number of features is not known")
        value = b.cast(x.name, np.float32)
        value = value if x.rank == 2 else b.unsqueeze(value, 0)
        if size > wanted:
            value = b.slice(value, 1, 0, int(wanted))
        elif size < wanted:
            value = b.op("Pad", value, b.ints(0, 0, 0, int(wanted) - size), b.scalar(0.0))
        parts.append(value)
    return b.concat(parts, 1)


@lowering(
    "onehotencoder-as-comparison",
    "OneHotEncoder",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one compares with all categories.",
    samples=[
        ml("(int64[n, 3] x) => (float[n, 3, 4] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2, 3, 7]> (x) }",
           x=(0, 8)),
        ml("(float[3] x) => (float[3, 2] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2]> (x) }",
           x=(-1.0, 3.0)),
        ml("(double[3] x) => (float[3, 2] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2]> (x) }",
           x=(-1.0, 3.0)),
    ],
    near_misses=[
        ml("(string[3] x) => (float[3, 2] y) { y = ai.onnx.ml.OneHotEncoder <cats_strings = ['a', 'b']> (x) }"),
    ],
)  # fmt: skip
def one_hot_encoder(site: Site, b: Body) -> str:
    """1 at the category that the input is, all 0 if it is none."""
    categories = site.attr("cats_int64s")
    if not categories or site.kind(0) not in "fiu":
        raise NoMatch("categories are strings")
    if len(set(categories)) < len(categories):
        raise NoMatch("a category is there twice")
    x = b.unsqueeze(b.cast(site.x(0), np.int64), site.input(0).rank)
    return b.cast(b.equal(x, b.const(categories, np.int64)), np.float32)


@lowering(
    "labelencoder-as-lookup",
    "LabelEncoder",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. Numbers are compared with all keys and looked up in a table.",
    samples=[
        ml("(int64[n, 3] x) => (float[n, 3] y) { y = ai.onnx.ml.LabelEncoder"
           " <keys_int64s = [0, 2, 3], values_floats = [0.5, 1.5, 2.5], default_float = 9.0> (x) }", x=(0, 5)),
        ml("(float[4] x) => (int64[4] y) { y = ai.onnx.ml.LabelEncoder"
           " <keys_floats = [0.5, 2.0], values_int64s = [7, 8]> (x) }", x=[0.5, 1.0, 2.0, 0.5]),
        ml("(float[4] x) => (float[4] y) { y = ai.onnx.ml.LabelEncoder"
           " <keys_floats = [0.5, 2.0], values_floats = [7.0, 8.0]> (x) }", x=[0.5, 1.0, 2.0, 0.5]),
        ml("(int64[4] x) => (int64[4] y) { y = ai.onnx.ml.LabelEncoder"
           " <keys_int64s = [0, 2], values_int64s = [7, 8], default_int64 = 4> (x) }", x=(0, 3)),
        ml("(double[4] x) => (double[4] y) { y = ai.onnx.ml.LabelEncoder <keys_tensor = double[2] {1.0, 2.0},"
           " values_tensor = double[2] {3.0, 4.0}, default_tensor = double[1] {5.0}> (x) }", 4,
           x=[1.0, 2.0, 3.0, 1.0]),
    ],
    near_misses=[
        ml("(string[4] x) => (int64[4] y) { y = ai.onnx.ml.LabelEncoder"
           " <keys_strings = ['a', 'b'], values_int64s = [7, 8]> (x) }"),
    ],
)  # fmt: skip
def label_encoder(site: Site, b: Body) -> str:
    """The position among the keys, and the value there; the default in front of the values."""
    keys = _first(site, "keys_tensor", "keys_int64s", "keys_floats")
    values = _first(site, "values_tensor", "values_int64s", "values_floats")
    if keys is None or values is None or site.kind(0) not in "fiu" or values.dtype.kind not in "fiu":
        raise NoMatch("keys or values are strings")
    default = _first(site, "default_tensor")
    if default is None:
        whole = values.dtype.kind in "iu"
        default = np.asarray(site.attr("default_int64", -1) if whole else site.attr("default_float", -0.0))
    seen: dict[Any, int] = {}
    for k, key in enumerate(keys.reshape(-1).tolist()):
        seen.setdefault("nan" if key != key else key, k)
    places = list(seen.values())
    chosen = keys.reshape(-1)[places]
    if len(chosen) > PAIR_LIMIT // 256:
        raise NoMatch(f"{len(chosen)} keys")
    table = np.concatenate([default.reshape(-1)[:1].astype(values.dtype), values.reshape(-1)[places]])
    x = b.unsqueeze(site.x(0), site.input(0).rank)
    hit = b.equal(x, b.const(np.nan_to_num(chosen), site.dtype(0)))
    if "nan" in seen:
        hit = b.where(b.const(np.isnan(chosen), np.bool_), b.op("IsNaN", x), hit)
    number = b.where(hit, b.const(np.arange(1, len(chosen) + 1), np.int64), b.const(0, np.int64))
    at = b.reduce("ReduceMax", number, -1, keepdims=False)
    return b.gather(b.const(table, table.dtype), at, 0)


def _first(site: Site, *names: str) -> NDArray[Any] | None:
    """The first of some attributes that is there, as an array."""
    for name in names:
        value = site.attributes.get(name)
        if value is not None and np.size(value):
            dtype = np.int64 if "int64" in name else np.float32 if "float" in name else None
            return np.asarray(value, dtype)
    return None


# -- linear models ----------------------------------------------------------------------------------


def affine(b: Body, x: str, weights: NDArray[Any], bias: NDArray[Any] | None) -> str:
    """Rows [N, F] times weights [K, F] transposed, plus a bias [K]."""
    product = b.op("MatMul", x, b.const(weights.T, np.float32))
    return product if bias is None else b.add(product, b.const(bias, np.float32))


def labels_of(site: Site, *names: str) -> NDArray[Any]:
    """Labels of the classes; NoMatch if they are not whole numbers."""
    found = _first(site, *names)
    if site.attributes.get("classlabels_strings"):
        raise NoMatch("labels are strings")
    return np.zeros(0, np.int64) if found is None else found


@lowering(
    "linearregressor-as-product",
    "LinearRegressor",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. This one is a matrix product.",
    samples=[
        ml("(float[n, 3] x) => (float[n, 2] y) { y = ai.onnx.ml.LinearRegressor <targets = 2, coefficients ="
           f" [0.3, 0.5, -1.0, 2.0, 1.0, 0.1], intercepts = [0.5, 1.0], post_transform = '{t}'> (x) }}")
        for t in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    ] + [
        ml("(float[3] x) => (float[1, 1] y)"
           " { y = ai.onnx.ml.LinearRegressor <targets = 1, coefficients = [0.3, 0.5, -1.0]> (x) }"),
        ml("(float[2, 1] x) => (float[2, 1] y) { y = ai.onnx.ml.LinearRegressor"
           " <targets = 1, coefficients = [0.3], post_transform = 'PROBIT'> (x) }", x=(0.1, 0.9)),
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
