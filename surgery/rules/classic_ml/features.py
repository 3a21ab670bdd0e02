"""Operators of ai.onnx.ml that make features: scaling, encoding, filling in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.classic_ml.common import ML, PAIR_LIMIT, first_of, ml, ml_in
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        *ml_in(
            "double int64 int32",
            "(T[n, 5] x) => (T[n, 5] y) { y = ai.onnx.ml.Binarizer <threshold = 0.5> (x) }",
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
        *ml_in("float double", "(T[n, 3] x) => (T[n, 3] y) { y = ai.onnx.ml.Imputer"
               " <imputed_value_floats = [5.0, 6.0, 7.0], replaced_value_float = 0.0> (x) }", x=(0.0, 1.0)),
        ml("(float[4] x) => (float[4] y) { y = ai.onnx.ml.Imputer"
           " <imputed_value_floats = [5.0], replaced_value_float = 2.0> (x) }", x=[1.0, 2.0, 3.0, 2.0]),
        *ml_in("int64 int32", "(T[2, 3] x) => (T[2, 3] y) { y = ai.onnx.ml.Imputer"
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
        *ml_in("int64 int32",
               "(T[n, 3] x) => (float[n, 3, 4] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2, 3, 7]> (x) }",
               x=(0, 8)),
        *ml_in("float double",
               "(T[3] x) => (float[3, 2] y) { y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 2]> (x) }",
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


LOOKUP = (
    "{ y = ai.onnx.ml.LabelEncoder"
    " <keys_int64s = [0, 2, 3], values_floats = [0.5, 1.5, 2.5], default_float = 9.0> (x) }"
)


@lowering(
    "labelencoder-as-lookup",
    "LabelEncoder",
    domain=ML,
    why="TensorRT has no operators of ai.onnx.ml. Numbers are compared with all keys and looked up in a table.",
    samples=[
        *ml_in("int64 int32 int16", f"(T[n, 3] x) => (float[n, 3] y) {LOOKUP}", x=(0, 5)),
        *ml_in("int32 int16", f"(int64[n, 3] x) => (T[n, 3] y) {LOOKUP}", x=(0, 5)),
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
    keys = first_of(site, "keys_tensor", "keys_int64s", "keys_floats")
    values = first_of(site, "values_tensor", "values_int64s", "values_floats")
    if keys is None or values is None or site.kind(0) not in "fiu" or values.dtype.kind not in "fiu":
        raise NoMatch("keys or values are strings")
    default = first_of(site, "default_tensor")
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
