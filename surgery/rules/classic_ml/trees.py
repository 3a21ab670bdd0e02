"""Ensembles of trees of ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.classic_ml.common import (
    ML,
    first_of_largest,
    ml,
    rows_of,
    single,
    transformed,
    two_classes,
)
from surgery.rules.classic_ml.forest import (
    AGGREGATES,
    MODES,
    TRANSFORMS,
    Forest,
    aggregated,
    any_tree,
    comparing_dtype,
    numbers,
    old_forest,
    walked,
    with_base,
)
from surgery.rules.classic_ml.linear import labels_of
from surgery.rules.engine.rule import NoMatch, lowering, samples_in
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


TWICE = (
    "target_treeids = [0, 0, 0, 1, 1, 1], target_nodeids = [1, 1, 2, 2, 3, 4],"
    " target_weights = [0.5, 2.0, -1.5, 2.5, 3.5, -4.5]"
)
"""A leaf that names its target twice, as paths to leaves are exported."""


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
        ml(_regressor("float[4, 3]", "float[4, 1]", TWICE + ", target_ids = [0, 0, 0, 0, 0, 0], n_targets = 1")),
        ml(_regressor("float[4, 3]", "float[4, 2]", TWICE + ", target_ids = [0, 0, 1, 0, 1, 1], n_targets = 2")),
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
    scores = b.cast(with_base(b, forest, at, scores, numbers(site, "base_values", dtype)), np.float32)
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
        given = any_tree(b, b.gather(b.const(forest.given, np.bool_), at, 0))
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
