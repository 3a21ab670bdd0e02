"""Trees as tables, and walking them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.classic_ml.common import MOST_STEPS, NODE_LIMIT
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    return b.where(any_tree(b, given), best, b.const(0, forest.weights.dtype))


def any_tree(b: Body, given: str) -> str:
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
        if given[k, target] and prefix == "class":
            raise NoMatch("a leaf names a class twice")
        # ONNX does not say what a leaf means that names a target twice. ONNX Runtime keeps the first weight where
        # there is one target, on which exporters of decision paths rely, and adds them up where there are more.
        if not given[k, target] or targets > 1:
            weights[k, target] += value
        given[k, target] = True
    missing = np.asarray(site.attr("nodes_missing_value_tracks_true", []) or [0] * count) == 1
    return Forest(
        np.where(leaf, 0, np.asarray(site.attr("nodes_featureids"))), numbers(site, "nodes_values", dtype),
        tuple("" if m == "LEAF" else m for m in modes), yes, no, missing & ~leaf,
        np.asarray([k for k in range(count) if not k or trees[k] != trees[k - 1]]), weights, given,
    )  # fmt: skip


def comparing_dtype(site: Site) -> np.dtype[Any]:
    """What thresholds are compared in: double for doubles, else float."""
    return np.dtype(np.float64 if site.dtype(0) == np.float64 else np.float32)


def with_base(b: Body, forest: Forest, at: str, scores: str, base: NDArray[Any]) -> str:
    """Base values added; as in ONNX Runtime, not to a target that no leaf says anything about."""
    targets = forest.given.shape[1]
    if len(base) != targets:
        return scores
    moved = b.add(scores, b.const(base.reshape(1, -1), base.dtype))
    if targets == 1 or all(forest.says(k) for k in range(targets)):
        return moved
    return b.where(any_tree(b, b.gather(b.const(forest.given, np.bool_), at, 0)), moved, scores)
