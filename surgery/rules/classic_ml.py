"""Operators of classic machine learning (``ai.onnx.ml``) on numbers: scaling, linear models, trees, machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
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
        *samples_in(
            "double int64 int32",
            "(T[n, 5] x) => (T[n, 5] y) { y = ai.onnx.ml.Binarizer <threshold = 0.5> (x) }",
            domains={"ai.onnx.ml": 3},
        ),
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
        *samples_in(
            "double",
            "(T[n, 3] x) => (T[n, 3] y) { y = ai.onnx.ml.Imputer <imputed_value_floats = [5.0, 6.0, "
            "7.0], replaced_value_float = 0.0> (x) }",
            feeds={"x": (0.0, 1.0)},
            domains={"ai.onnx.ml": 3},
        ),
        *samples_in(
            "int32",
            "(T[2, 3] x) => (T[2, 3] y) { y = ai.onnx.ml.Imputer <imputed_value_int64s = [5, 6, 7], "
            "replaced_value_int64 = 1> (x) }",
            feeds={"x": (0, 3)},
            domains={"ai.onnx.ml": 3},
        ),
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
        *samples_in(
            "int32",
            "(T[n, 3] x) => (float[n, 3, 4] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2, "
            "3, 7]> (x) }",
            feeds={"x": (0, 8)},
            domains={"ai.onnx.ml": 3},
        ),
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
        *samples_in(
            "int32 int16",
            "(T[n, 3] x) => (float[n, 3] y) { y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 2, 3], "
            "values_floats = [0.5, 1.5, 2.5], default_float = 9.0> (x) }",
            feeds={"x": (0, 5)},
            domains={"ai.onnx.ml": 3},
        ),
        *samples_in(
            "int32 int16",
            "(int64[n, 3] x) => (T[n, 3] y) { y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 2, 3], "
            "values_floats = [0.5, 1.5, 2.5], default_float = 9.0> (x) }",
            feeds={"x": (0, 5)},
            domains={"ai.onnx.ml": 3},
        ),
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


# -- trees ------------------------------------------------------------------------------------------

COMPARISONS = {
    "BRANCH_LEQ": "LessOrEqual",
    "BRANCH_LT": "Less",
    "BRANCH_GTE": "GreaterOrEqual",
    "BRANCH_GT": "Greater",
    "BRANCH_EQ": "Equal",
    "BRANCH_NEQ": "Equal",
}
MODES = (*COMPARISONS, "BRANCH_MEMBER")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass(frozen=True)
class Forest:
    """Trees as arrays over all nodes; leaves are nodes that lead to themselves.

    Attributes:
        features: Feature that a node looks at.
        splits: What it is compared with, in the dtype of the comparison.
        modes: Kind of comparison; "" for a leaf.
        yes: Next node where the comparison holds.
        no: Next node where it does not.
        missing: Whether it holds for NaN.
        roots: Root of each tree.
        weights: What a node adds to each target [nodes, targets]; 0 but for leaves.
        given: Whether a node says anything about a target.
    """

    features: NDArray[Any]
    splits: NDArray[Any]
    modes: tuple[str, ...]
    yes: NDArray[Any]
    no: NDArray[Any]
    missing: NDArray[Any]
    roots: NDArray[Any]
    weights: NDArray[Any]
    given: NDArray[Any]

    def steps(self) -> int:
        """Comparisons on the longest way from a root to a leaf."""
        leaf = self.yes == np.arange(len(self.yes))
        at, count = np.unique(self.roots), 0
        while not leaf[at].all():
            inner = at[~leaf[at]]
            at = np.unique(np.concatenate([self.yes[inner], self.no[inner]]))
            count += 1
            if count > MOST_STEPS:
                raise NoMatch(f"trees of more than {MOST_STEPS} levels")
        return count

    def leaves(self) -> list[NDArray[Any]]:
        """Leaves of each tree that can be reached."""
        leaf = self.yes == np.arange(len(self.yes))
        found = []
        for root in self.roots:
            at, ends = np.array([root]), []
            for _ in range(MOST_STEPS + 2):
                ends.append(at[leaf[at]])
                inner = at[~leaf[at]]
                if not len(inner):
                    break
                at = np.unique(np.concatenate([self.yes[inner], self.no[inner]]))
            found.append(np.unique(np.concatenate(ends)))
        return found

    def says(self, target: int) -> bool | None:
        """Whether some leaf is always, or never, reached that says something about a target; None if it depends."""
        trees = [self.given[leaves, target] for leaves in self.leaves()]
        if any(t.all() for t in trees):
            return True
        return None if any(t.any() for t in trees) else False


def walked(b: Body, forest: Forest, x: str) -> str:
    """The leaf of every tree for rows x [N, F]: int64 [N, trees]."""
    steps = forest.steps()
    rows = b.slice(b.op("Shape", x), 0, 0, 1)
    trees = len(forest.roots)
    at = b.op("Expand", b.const(forest.roots.reshape(1, -1), np.int64), b.concat([rows, b.ints(trees)], 0))
    if not steps:
        return at
    nodes = len(forest.features)
    if nodes > max(NODE_LIMIT, 8 * trees * steps):
        for _ in range(steps):
            at = _step(b, forest, x, at)
        return at
    following = _step(b, forest, x, "")  # [N, nodes]: every node at once
    for _ in range(steps):
        at = b.gather_elements(following, at, 1)
    return at


def _step(b: Body, forest: Forest, x: str, at: str) -> str:
    """The next node of nodes [N, T], or of all nodes if none are named."""

    def here(values: NDArray[Any], dtype: Any) -> str:
        if not at:
            return b.const(values.reshape(1, -1), dtype)
        return b.gather(b.const(values, dtype), at, 0)

    if at:
        seen = b.gather_elements(x, here(forest.features, np.int64), 1)
    else:
        seen = b.gather(x, b.const(forest.features, np.int64), 1)
    splits = here(forest.splits, forest.splits.dtype)
    modes = sorted(set(forest.modes) - {""})
    holds = ""
    for mode in modes:
        answer = _compared(b, mode, seen, splits)
        if len(modes) > 1:
            own = np.asarray([m == mode for m in forest.modes])
            answer = b.logical_and(answer, here(own, np.bool_))
        holds = b.logical_or(holds, answer) if holds else answer
    if forest.missing.any():
        holds = b.logical_or(holds, b.logical_and(here(forest.missing, np.bool_), b.op("IsNaN", seen)))
    return b.where(holds, here(forest.yes, np.int64), here(forest.no, np.int64))


def _compared(b: Body, mode: str, seen: str, splits: str) -> str:
    if mode == "BRANCH_LEQ":
        return b.op("LessOrEqual", seen, splits) if b.opset >= 12 else _either(b, "Less", seen, splits)
    if mode == "BRANCH_GTE":
        return b.op("GreaterOrEqual", seen, splits) if b.opset >= 12 else _either(b, "Greater", seen, splits)
    answer = b.op(COMPARISONS[mode], seen, splits)
    return b.logical_not(answer) if mode == "BRANCH_NEQ" else answer


def _either(b: Body, op: str, one: str, two: str) -> str:
    return b.logical_or(b.op(op, one, two), b.equal(one, two))


def aggregated(b: Body, forest: Forest, at: str, aggregate: str) -> str:
    """Scores [N, targets] of leaves [N, trees]; targets that no leaf says anything about are 0."""
    values = b.gather(b.const(forest.weights, forest.weights.dtype), at, 0)  # [N, trees, targets]
    if aggregate in ("SUM", "AVERAGE"):
        total = b.reduce("ReduceSum", values, 1, keepdims=False)
        if aggregate == "SUM":
            return total
        return b.div(total, b.const(len(forest.roots), forest.weights.dtype))
    kind = "ReduceMin" if aggregate == "MIN" else "ReduceMax"
    ends = np.unique(np.concatenate(forest.leaves()))
    if forest.given[ends].all():
        return b.reduce(kind, values, 1, keepdims=False)
    largest = np.finfo(forest.weights.dtype).max
    far = b.const(largest if aggregate == "MIN" else -largest, forest.weights.dtype)
    given = b.gather(b.const(forest.given, np.bool_), at, 0)
    best = b.reduce(kind, b.where(given, values, far), 1, keepdims=False)
    return b.where(_any(b, given), best, b.const(0, forest.weights.dtype))


def _any(b: Body, given: str) -> str:
    """Whether any of the trees [N, trees, targets] holds."""
    return b.cast(b.reduce("ReduceMax", b.cast(given, np.int32), 1, keepdims=False), np.bool_)


def numbers(site: Site, name: str, dtype: Any) -> NDArray[Any]:
    """An attribute of numbers, or the tensor form of it; empty if it is in neither."""
    tensor = site.attributes.get(f"{name}_as_tensor")
    if tensor is not None and np.size(tensor):
        return np.asarray(tensor, dtype).reshape(-1)
    # Numbers in plain attributes are floats, whatever they are compared with.
    return np.asarray(site.attributes.get(name, []), np.float32).astype(dtype)


def old_forest(site: Site, dtype: Any, targets: int, prefix: str) -> Forest:
    """The forest of TreeEnsembleRegressor and TreeEnsembleClassifier."""
    trees, ids = (list(site.attr(f"nodes_{k}", [])) for k in ("treeids", "nodeids"))
    place = {pair: k for k, pair in enumerate(zip(trees, ids, strict=True))}
    count = len(trees)
    modes = [str(m) for m in site.attr("nodes_modes", [])]
    if not count or len(place) < count or not all(m in COMPARISONS or m == "LEAF" for m in modes):
        raise NoMatch("the trees are not well formed")
    leaf = np.asarray([m == "LEAF" for m in modes])
    here = np.arange(count)
    yes, no = here.copy(), here.copy()
    for name, to in (("true", yes), ("false", no)):
        for k, target in enumerate(site.attr(f"nodes_{name}nodeids")):
            if not leaf[k]:
                to[k] = place.get((trees[k], target), -1)
    if min(yes.min(), no.min()) < 0:
        raise NoMatch("a branch leads nowhere")
    weights, given = np.zeros((count, targets), dtype), np.zeros((count, targets), bool)
    values = numbers(site, f"{prefix}_weights", dtype)
    where = zip(site.attr(f"{prefix}_treeids", []), site.attr(f"{prefix}_nodeids", []), strict=True)
    for tree, target, value in zip(where, site.attr(f"{prefix}_ids", []), values, strict=True):
        k = place[tree]
        if given[k, target]:
            raise NoMatch("a leaf names a target twice")
        weights[k, target], given[k, target] = value, True
    missing = np.asarray(site.attr("nodes_missing_value_tracks_true", []) or [0] * count) == 1
    return Forest(
        np.where(leaf, 0, np.asarray(site.attr("nodes_featureids"))), numbers(site, "nodes_values", dtype),
        tuple("" if m == "LEAF" else m for m in modes), yes, no, missing & ~leaf,
        np.asarray([k for k in range(count) if not k or trees[k] != trees[k - 1]]), weights, given,
    )  # fmt: skip


def comparing_dtype(site: Site) -> np.dtype[Any]:
    """What thresholds are compared in: double for doubles, else float."""
    return np.dtype(np.float64 if site.dtype(0) == np.float64 else np.float32)


def _with_base(b: Body, forest: Forest, at: str, scores: str, base: NDArray[Any]) -> str:
    """Base values added; as in ONNX Runtime, not to a target that no leaf says anything about."""
    targets = forest.given.shape[1]
    if len(base) != targets:
        return scores
    moved = b.add(scores, b.const(base.reshape(1, -1), base.dtype))
    if targets == 1 or all(forest.says(k) for k in range(targets)):
        return moved
    return b.where(_any(b, b.gather(b.const(forest.given, np.bool_), at, 0)), moved, scores)


STUMPS = (
    "nodes_treeids = [0, 0, 0, 1, 1, 1, 1, 1], nodes_nodeids = [0, 1, 2, 0, 1, 2, 3, 4],"
    " nodes_featureids = [0, 0, 0, 2, 1, 0, 0, 0], nodes_values = [0.1, 0.0, 0.0, -0.2, 0.4, 0.0, 0.0, 0.0],"
    " nodes_truenodeids = [1, 0, 0, 1, 3, 0, 0, 0], nodes_falsenodeids = [2, 0, 0, 2, 4, 0, 0, 0]"
)
LEQ = "'BRANCH_LEQ', 'LEAF', 'LEAF', 'BRANCH_LEQ', 'BRANCH_LEQ', 'LEAF', 'LEAF', 'LEAF'"
MIXED = "'BRANCH_GT', 'LEAF', 'LEAF', 'BRANCH_LT', 'BRANCH_NEQ', 'LEAF', 'LEAF', 'LEAF'"


def _regressor(kind: str, out: str, rest: str, modes: str = LEQ) -> str:
    """Text of a sample: two small trees."""
    return (
        f"({kind} x) => ({out} y) {{ y = ai.onnx.ml.TreeEnsembleRegressor <{STUMPS}, nodes_modes = [{modes}],"
        f" {rest}> (x) }}"
    )


ONE_TARGET = (
    "target_treeids = [0, 0, 1, 1, 1], target_nodeids = [1, 2, 2, 3, 4], target_ids = [0, 0, 0, 0, 0],"
    " target_weights = [0.5, -1.5, 2.5, 3.5, -4.5], n_targets = 1"
)
TWO_TARGETS = ONE_TARGET.replace("target_ids = [0, 0, 0, 0, 0]", "target_ids = [0, 1, 0, 1, 1]").replace(
    "n_targets = 1", "n_targets = 2"
)


@lowering(
    "treeensembleregressor-as-walk",
    "TreeEnsembleRegressor",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. All comparisons are made at once, and all trees walked in step.",
    samples=[
        ml(_regressor("float[n, 3]", "float[n, 1]", ONE_TARGET + ", base_values = [0.7]")),
        ml(_regressor("double[4, 3]", "float[4, 1]", ONE_TARGET + ", aggregate_function = 'AVERAGE'", MIXED)),
        ml(_regressor("float[4, 3]", "float[4, 2]", TWO_TARGETS + ", post_transform = 'SOFTMAX'")),
        ml(_regressor("float[4, 3]", "float[4, 2]", TWO_TARGETS + ", aggregate_function = 'MIN'")),
        ml(_regressor("float[4, 3]", "float[4, 1]", ONE_TARGET + ", aggregate_function = 'MAX',"
                      " nodes_missing_value_tracks_true = [1, 0, 0, 0, 1, 0, 0, 0]"),
           x=[[np.nan, 0, 0], [0, np.nan, -1], [0, 1, np.nan], [0, 0, 0]]),
        ml(_regressor("float[2, 3]", "float[2, 2]", TWO_TARGETS + ", base_values = [0.5, 0.1]", MIXED)),
        ml(_regressor("float[4, 3]", "float[4, 2]", TWO_TARGETS + ", base_values = [0.5, 0.1],"
                      " aggregate_function = 'AVERAGE'")),
        ml(_regressor("float[4, 3]", "float[4, 2]", TWO_TARGETS + ", base_values = [0.5, 0.1],"
                      " aggregate_function = 'MAX'")),
    ],
    near_misses=[
        ml(_regressor("float[3, 3]", "float[3, 1]", ONE_TARGET).replace("2, 4, 0", "2, 9, 0")),
    ],
)  # fmt: skip
def tree_ensemble_regressor(site: Site, b: Body) -> str:
    """Sum, mean or extreme of the leaves' weights, and a base value."""
    targets, dtype = int(site.attr("n_targets", 1)), comparing_dtype(site)
    forest = old_forest(site, dtype, targets, "target")
    at = walked(b, forest, rows_of(site, b, dtype))
    scores = aggregated(b, forest, at, str(site.attr("aggregate_function", "SUM")))
    scores = b.cast(_with_base(b, forest, at, scores, numbers(site, "base_values", dtype)), np.float32)
    transform = str(site.attr("post_transform", "NONE"))
    return single(b, scores, transform) if targets == 1 else transformed(b, scores, transform)


def _classifier(
    kind: str, classes: str, ids: str, rest: str = "", weights: str = "0.5, -1.5, 2.5, 3.5, -4.5"
) -> str:
    """Text of a sample: two small trees with classes."""
    count = classes.count(",") + 1
    return (
        f"({kind} x) => (int64[4] l, float[4, {count}] y) {{ l, y = ai.onnx.ml.TreeEnsembleClassifier <{STUMPS},"
        f" nodes_modes = [{LEQ}], class_treeids = [0, 0, 1, 1, 1], class_nodeids = [1, 2, 2, 3, 4],"
        f" class_ids = [{ids}], class_weights = [{weights}], classlabels_int64s = [{classes}]{rest}> (x) }}"
    )


@lowering(
    "treeensembleclassifier-as-walk",
    "TreeEnsembleClassifier",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. All comparisons are made at once, and all trees walked in step.",
    samples=[
        ml(_classifier("float[4, 3]", "3, 5, 9", "0, 1, 2, 0, 1", ", base_values = [0.1, 0.2, 0.3]")),
        ml(_classifier("float[4, 3]", "3, 5, 9", "0, 1, 2, 0, 1", ", post_transform = 'SOFTMAX'")),
        ml(_classifier("int64[4, 3]", "3, 5", "0, 0, 0, 0, 0", ", post_transform = 'LOGISTIC'"), x=(-2, 3)),
        ml(_classifier("double[4, 3]", "3, 5", "1, 1, 1, 1, 1", "", "0.1, 0.2, 0.3, 0.4, 0.5")),
        ml(_classifier("int32[4, 3]", "3, 5", "0, 0, 0, 0, 0", ", base_values = [0.4]"), x=(-2, 3)),
    ],
    near_misses=[
        ml(_classifier("float[4, 3]", "3, 5", "0, 1, 1, 1, 1").replace("2, 4, 0", "2, 9, 0")),
    ],
)  # fmt: skip
def tree_ensemble_classifier(site: Site, b: Body) -> list[str]:
    """Sums per class; with one or two classes, the rules of ONNX Runtime for the binary case."""
    labels = labels_of(site, "classlabels_int64s")
    classes, dtype = len(labels), comparing_dtype(site)
    if not classes:
        raise NoMatch("no labels")
    forest = old_forest(site, dtype, classes, "class")
    at = walked(b, forest, rows_of(site, b, dtype))
    scores = aggregated(b, forest, at, "SUM")
    base = numbers(site, "base_values", dtype)
    transform = str(site.attr("post_transform", "NONE"))
    if classes <= 2:
        return _binary(site, b, forest, scores, base)
    says = [forest.says(k) for k in range(classes)]
    ranked = scores
    if len(base):
        scores = ranked = b.add(scores, b.const(base, dtype))
    elif not all(says):
        given = _any(b, b.gather(b.const(forest.given, np.bool_), at, 0))
        ranked = b.where(given, scores, b.const(np.finfo(dtype).min, dtype))
    label = b.gather(b.const(labels, np.int64), first_of_largest(b, ranked, classes), 0)
    return [label, transformed(b, b.cast(scores, np.float32), transform)]


def _binary(site: Site, b: Body, forest: Forest, scores: str, base: NDArray[Any]) -> list[str]:
    """One or two classes. Scores of a class that no leaf names do not exist, and one score may stand for both."""
    labels, dtype = labels_of(site, "classlabels_int64s"), forest.weights.dtype
    transform = str(site.attr("post_transform", "NONE"))
    says = [forest.says(k) for k in range(len(labels))]
    if None in says or (len(labels) == 1 and len(base) > 1):
        raise NoMatch("which classes have a score depends on the data")
    one = b.slice(scores, 1, 0, 1)
    binary = len(labels) == 2 and len(np.flatnonzero(forest.given.any(0))) == 1
    positive = bool((forest.weights[forest.given] >= 0).all())

    def shifted(score: str, k: int) -> str:
        return b.add(score, b.const(base[k], dtype)) if k < len(base) else score

    two = ""
    if len(labels) == 2 and len(base) == 2 and says[1]:
        two = shifted(one, 1)
        one, decides = b.op("Neg", two), two
    elif len(labels) == 2 and (says[1] or len(base) == 2):
        one = shifted(one, 0)
        two = b.slice(scores, 1, 1, 2)
        two = shifted(two, 1)
        decides = two if says[1] else one
    else:
        one = decides = shifted(one, 0)
    limit = 0.5 if binary and positive else 0.0
    low, high = (int(labels[0]), int(labels[1])) if binary else (0, 1)
    above = b.squeeze(b.greater(decides, b.const(limit, dtype)), 1)
    label = b.where(above, b.const(high, np.int64), b.const(low, np.int64))
    one = b.cast(one, np.float32)
    if two:
        return [label, transformed(b, b.concat([one, b.cast(two, np.float32)], 1), transform)]
    if len(labels) == 1:
        return [label, single(b, one, transform)]
    if not binary and len(base):
        raise NoMatch("the second score is not defined")
    return [label, two_classes(b, one, transform, complement=binary and positive)]


def new_forest(site: Site, dtype: Any) -> Forest:
    """The forest of TreeEnsemble: nodes, then leaves; a test for membership becomes a chain of equalities."""
    targets = int(site.attr("n_targets", 1))
    modes = [MODES[int(m)] for m in np.asarray(site.attr("nodes_modes")).reshape(-1)]
    features = [int(f) for f in site.attr("nodes_featureids")]
    splits = [float(s) for s in np.asarray(site.attr("nodes_splits"), np.float64).reshape(-1)]
    missing = [bool(m) for m in site.attr("nodes_missing_value_tracks_true", []) or [0] * len(modes)]
    inner, leaves = len(modes), [int(t) for t in site.attr("leaf_targetids")]
    sides = []
    for name in ("true", "false"):
        ends = site.attr(f"nodes_{name}leafs")
        to = site.attr(f"nodes_{name}nodeids")
        sides.append([int(t) + (inner if end else 0) for end, t in zip(ends, to, strict=True)])
    yes, no = sides
    # Leaves keep their place behind the nodes; what chains add comes behind them.
    modes += [""] * len(leaves)
    here = range(inner, inner + len(leaves))
    yes, no = [*yes, *here], [*no, *here]
    features += [0] * len(leaves)
    splits += [0.0] * len(leaves)
    missing += [False] * len(leaves)
    sets = _membership_sets(site)
    for k in range(inner):
        if modes[k] != "BRANCH_MEMBER":
            continue
        members = next(sets, [])
        if not members:
            raise NoMatch("a set without members")
        otherwise, at = no[k], k
        for number, member in enumerate(members):
            modes[at], splits[at] = "BRANCH_EQ", member
            if number + 1 < len(members):
                no[at] = len(modes)
                modes.append("")
                features.append(features[k])
                splits.append(0.0)
                missing.append(missing[k])
                yes.append(yes[k])
                no.append(0)
                at = no[at]
        no[at] = otherwise
    weights, given = np.zeros((len(modes), targets), dtype), np.zeros((len(modes), targets), bool)
    weights[list(here), leaves] = np.asarray(site.attr("leaf_weights"), dtype).reshape(-1)
    given[list(here), leaves] = True
    return Forest(
        np.asarray(features), np.asarray(splits, dtype), tuple(modes), np.asarray(yes), np.asarray(no),
        np.asarray(missing, bool), np.asarray(site.attr("tree_roots")), weights, given,
    )  # fmt: skip


def _membership_sets(site: Site) -> Iterator[list[float]]:
    """The sets in the order of the nodes that use them; NaN ends a set."""
    members: list[float] = []
    given = site.attr("membership_values")
    for value in np.asarray([] if given is None else given, np.float64).reshape(-1).tolist():
        if value != value:
            yield members
            members = []
        else:
            members.append(value)
    yield members


def _ensemble(kind: str, rest: str) -> str:
    """Text of a sample: a tree of three nodes and four leaves."""
    return (
        f"({kind}[4, 3] x) => ({kind}[4, 2] y) {{ y = ai.onnx.ml.TreeEnsemble <n_targets = 2, tree_roots = [0],"
        f" nodes_featureids = [0, 2, 1], nodes_splits = {kind}[3] {{0.5, 1.5, -0.25}},"
        " nodes_truenodeids = [1, 0, 2], nodes_trueleafs = [0, 1, 1], nodes_falsenodeids = [2, 1, 3],"
        f" nodes_falseleafs = [0, 1, 1], leaf_targetids = [0, 1, 0, 1],"
        f" leaf_weights = {kind}[4] {{5.5, 12.0, -3.0, 1.0}}, {rest}> (x) }}"
    )


@lowering(
    "treeensemble-as-walk",
    "TreeEnsemble",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. All comparisons are made at once, and all trees walked in step.",
    samples=[
        ml(_ensemble("float", "nodes_modes = uint8[3] {0, 1, 3}"), 5),
        ml(_ensemble("double", "nodes_modes = uint8[3] {2, 4, 5}, post_transform = 3"), 5),
        ml(_ensemble("float", "nodes_modes = uint8[3] {0, 0, 0}, aggregate_function = 2,"
                     " nodes_missing_value_tracks_true = [1, 0, 1]"), 5,
           x=[[np.nan, 0, 0], [0, np.nan, -1], [0, 1, np.nan], [0, 0, 0]]),
        ml(_ensemble("float", "nodes_modes = uint8[3] {0, 6, 6},"
                     " membership_values = float[6] {1.0, 2.0, nan, 0.0, 3.0, nan}").replace("nan", "-nan"), 5,
           x=(0, 4)),
        *samples_in(
            "float16",
            "(T[4, 3] x) => (T[4, 2] y) { y = ai.onnx.ml.TreeEnsemble <n_targets = 2, tree_roots = "
            "[0], nodes_featureids = [0, 2, 1], nodes_splits = float[3] {0.5, 1.5, -0.25}, "
            "nodes_truenodeids = [1, 0, 2], nodes_trueleafs = [0, 1, 1], nodes_falsenodeids = [2, 1, "
            "3], nodes_falseleafs = [0, 1, 1], leaf_targetids = [0, 1, 0, 1], leaf_weights = "
            "float[4] {5.5, 12.0, -3.0, 1.0}, nodes_modes = uint8[3] {0, 1, 3}> (x) }",
            domains={"ai.onnx.ml": 5},
        ),
    ],
    near_misses=[
        ml(_ensemble("float", "nodes_modes = uint8[3] {0, 6, 6}"), 5),
        ml(_ensemble("float", "nodes_modes = uint8[3] {0, 0, 0}, post_transform = 1"), 5),
    ],
)  # fmt: skip
def tree_ensemble(site: Site, b: Body) -> str:
    """Sum, mean or extreme of the leaves' weights."""
    dtype = comparing_dtype(site)
    forest = new_forest(site, dtype)
    at = walked(b, forest, rows_of(site, b, dtype))
    scores = aggregated(b, forest, at, AGGREGATES[int(site.attr("aggregate_function", 1))])
    targets, transform = int(site.attr("n_targets", 1)), TRANSFORMS[int(site.attr("post_transform", 0))]
    if transform in ("SOFTMAX", "LOGISTIC") and targets > 1:
        raise NoMatch(f"ONNX and ONNX Runtime mean different transforms by the number of {transform}")
    if transform != "NONE":
        scores = b.cast(scores, np.float32)
        scores = single(b, scores, transform) if targets == 1 else transformed(b, scores, transform)
    return b.cast(scores, site.dtype(0))


# -- support vector machines ------------------------------------------------------------------------


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
        ml("(float[n, 2] x) => (float[n, 1] y) { y = ai.onnx.ml.SVMRegressor <coefficients = [1.0, -0.5, 2.0],"
           f" {MACHINE}, n_supports = 3, rho = [0.3], kernel_type = '{k}'> (x) }}")
        for k in ("RBF", "LINEAR", "POLY", "SIGMOID")
    ] + [
        ml("(float[2] x) => (float[1, 1] y) { y = ai.onnx.ml.SVMRegressor <coefficients = [1.0, -0.5],"
           " kernel_params = [0.5, 0.1, 3.0], rho = [0.3], n_supports = 0, one_class = 1> (x) }"),
    ],
    near_misses=[
        ml("(float[2, 2] x) => (float[2, 1] y) { y = ai.onnx.ml.SVMRegressor"
           " <coefficients = [1.0], n_supports = 0> (x) }"),
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
