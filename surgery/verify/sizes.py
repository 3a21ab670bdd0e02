"""Sizes for the free dims of a model that fit together, found by trying them.

The graph says little about which sizes go together: that a mask is as long as a cache and the new tokens, that an
image has to be a multiple of a patch, that a table of positions ends somewhere. So sizes are proposed, the most
usual ones first, and whether the model runs on them decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from surgery.graph.infer import dims_of
from surgery.verify.inputs import CHANNELS

if TYPE_CHECKING:
    import onnx

Role = Literal["batch", "image", "length"]
Range = tuple[int, int, int]
Judge = Callable[[Mapping[str, int]], "str | None"]
"""Why the model does not run with these sizes by dim; None if it does."""

BATCH = (1, 2, 4, 8, 3, 16)
IMAGE = (320, 224, 256, 384, 512, 64, 128, 448, 640, 32, 96, 336, 300, 299, 518, 1024)
LENGTH = (16, 8, 64, 4, 512, 1024, 4000, 16000, 32, 128, 48000, 80000, 2)
"""Optimum by role, the most usual first. A sequence is tokens, or samples of sound."""

SAMPLES = (1, 100, 1000)
"""Samples of sound for each token, the first choice first."""

MANY = (128, 1)
"""How many times as long a list of points is as one of tokens, the first choice first."""

POINTS = ("pillar", "voxel", "point")
"""Parts of the names of dims that count points of a cloud, or cells with points: their lists have no batch."""

SMALLER = (256, 128, 64)
"""Heights and widths that leave room for several pictures at once, where larger ones do not."""

MOST_BATCH = 4
"""The largest batch, times that of the optimum."""

SPREAD = (1.0, 1.5, 0.75, 1.25, 1.75, 2.0)
"""Lengths of independent dims, times the length: different, so that one that has to equal another is noticed."""

MOST_TRIES, MOST_END_TRIES = 160, 60
"""Sets of sizes tried for the optimum, and for the minimum and maximum each."""

SHORTEST = 8
"""Pixels along an axis of a picture, at least."""

STEP = 64
"""Heights and widths of networks that halve a picture six times, or five times and take it in patches of two."""

SHARED_BY_IMAGES = 3
"""A dim that more inputs share is no height or width: caches share theirs."""


@dataclass(frozen=True, slots=True)
class FreeDim:
    """A free dim of a model's inputs.

    Attributes:
        key: Its name; ``input[axis]`` where it has none.
        role: What it counts, by where it stands.
        places: Inputs and axes that have it.
        many: It counts points of a cloud: thousands, and never a few samples.
    """

    key: str
    role: Role
    places: tuple[tuple[str, int], ...]
    many: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A dim that is the sum of other dims and a number, or a multiple of one."""

    terms: tuple[str, ...]
    plus: int = 0
    times: int = 1

    def value(self, sizes: Mapping[str, int]) -> int:
        """The sum."""
        return self.times * sum(sizes[t] for t in self.terms) + self.plus

    def __str__(self) -> str:
        terms = [f"{self.times} * {t}" if self.times > 1 else t for t in self.terms]
        return " + ".join([*terms, *([str(self.plus)] if self.plus else [])])


@dataclass(slots=True)
class Fit:
    """Sizes that fit together.

    Attributes:
        ranges: Minimum, optimum and maximum by dim.
        relations: Dims that follow from others.
        stuck: Dim to why it stays at its optimum.
        reasons: Dim that has one size to why.
        tries: Sets of sizes that were tried.
    """

    ranges: dict[str, Range]
    relations: dict[str, Relation] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    tries: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


class NoFitError(Exception):
    """The model runs on none of the sizes.

    Attributes:
        end: Which end of the ranges: 0 for the minimum, 1 for the optimum, 2 for the maximum.
    """

    def __init__(self, text: str, end: int) -> None:
        super().__init__(text)
        self.end = end


@dataclass(frozen=True, slots=True)
class Hints:
    """What the graph says about sizes.

    Attributes:
        steps: Numbers of new tokens that inputs of fixed size bring.
        baked: Sizes that reshapes have as constants, the most frequent first: an exporter that traced the model has
            left the sizes of its example there.
        sums: A length and two others that it may be the sum of: a mask over what caches hold and what is new.
        signals: Lengths of sound beside tokens, which are much shorter.
        multiples: A batch, another one, and how many times the other it may be: rows of several beams.
    """

    steps: Sequence[int] = ()
    baked: Sequence[int] = ()
    sums: Sequence[tuple[str, str, str]] = ()
    signals: Collection[str] = ()
    multiples: Sequence[tuple[str, str, int]] = ()


def dim_key(name: str, axis: int, dim: int | str | None) -> str:
    """The key of a free dim."""
    return dim if isinstance(dim, str) else f"{name}[{axis}]"


def free_dims(
    inputs: Sequence[onnx.ValueInfoProto], original: Sequence[onnx.ValueInfoProto] = ()
) -> list[FreeDim]:
    """The free dims of inputs, in order of appearance.

    Args:
        inputs: The inputs of the network.
        original: Those of the model that it was made of: the dtypes in it tell a picture of bytes, which TensorRT
            reads as int32, from other whole numbers.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    shapes = {v.name: dims_of(v) or [] for v in inputs}
    for name, dims in shapes.items():
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int):
                places.setdefault(dim_key(name, axis, dim), []).append((name, axis))
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inputs, *original)}
    spatial = {v.name: _spatial(shapes[v.name], kinds[v.name]) for v in inputs}
    found = [FreeDim(key, _role(at, spatial), tuple(at)) for key, at in places.items()]
    return [replace(d, role="length", many=True) if _counts_points(d) else d for d in found]


def _counts_points(dim: FreeDim) -> bool:
    """Whether a dim in front of every input that has it is named after points, pillars or voxels."""
    if dim.role != "batch" or any(axis or dim.key == dim_key(name, axis, None) for name, axis in dim.places):
        return False  # a dim without a name has that of its input
    return any(word in dim.key.lower() for word in POINTS)


def _role(places: Sequence[tuple[str, int]], spatial: Mapping[str, Sequence[int]]) -> Role:
    if len(places) < SHARED_BY_IMAGES and any(axis in spatial[name] for name, axis in places):
        return "image"
    return "batch" if any(axis == 0 for _, axis in places) else "length"


def _spatial(dims: Sequence[int | str | None], kind: int) -> tuple[int, ...]:
    """The axes of height and width, where a tensor of these dims and this dtype can be a picture."""
    import onnx

    kinds = onnx.TensorProto
    floats = (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16)
    if len(dims) not in (3, 4) or kind not in (*floats, kinds.UINT8):
        return ()
    last, first = dims[-1], dims[-3]
    if isinstance(last, int) and last in CHANNELS and not isinstance(dims[-2], int):
        # [batch, points, 3] are coordinates, unless they are bytes.
        return _if_large(dims, len(dims) - 3) if len(dims) == 4 or kind == kinds.UINT8 else ()
    if isinstance(first, int) and (first in CHANNELS if len(dims) == 4 else first in CHANNELS[1:]):
        return _if_large(dims, len(dims) - 2)
    if len(dims) == 4 and not isinstance(dims[2], int) and not isinstance(last, int):
        return (2, 3)
    return ()


def _if_large(dims: Sequence[int | str | None], first: int) -> tuple[int, ...]:
    """Two axes from a first one, unless one of them is too short for a picture."""
    axes = (first, first + 1)
    return () if any(isinstance(d, int) and d < SHORTEST for d in (dims[a] for a in axes)) else axes


def fit(dims: Sequence[FreeDim], judge: Judge, fixed: Mapping[str, Range], hints: Hints | None = None) -> Fit:
    """Ranges of free dims at whose minimum, optimum and maximum a model runs.

    Args:
        dims: The free dims.
        judge: Says whether the model runs with sizes by dim.
        fixed: Dims whose range is given.
        hints: What the graph says about sizes.

    Raises:
        NoFitError: no set of sizes was found for the optimum, or the model does not run at an end of a given range.
    """
    open_dims = [d for d in dims if d.key not in fixed]
    at = {k: r[1] for k, r in fixed.items()}
    try:
        relations, sizes, tries = _optimum(open_dims, judge, at, hints or Hints())
    except NoFitError:
        # Masks of scores [batch, 1, queries, keys] look like pictures of one channel.
        if all(d.role != "image" for d in open_dims):
            raise
        open_dims = [replace(d, role="length") if d.role == "image" else d for d in open_dims]
        relations, sizes, tries = _optimum(open_dims, judge, at, hints or Hints())
    roots = [d for d in open_dims if d.key not in relations]

    def both_ends() -> tuple[Fit, list[dict[str, int]]]:
        fresh = Fit({}, relations, tries=tries)
        known = [{k: r[i] for k, r in fixed.items()} for i in (0, 2)]
        return fresh, [
            _end(roots, judge, k, relations, sizes, fresh, i) for k, i in zip(known, (0, 2), strict=True)
        ]

    found, ends = both_ends()
    if any(d.role == "batch" and ends[1][d.key] == sizes[d.key] for d in roots):
        smaller = _with_room(roots, judge, sizes)
        if smaller != sizes:
            sizes = smaller
            found, ends = both_ends()
    found.ranges = {d.key: fixed.get(d.key) or (ends[0][d.key], sizes[d.key], ends[1][d.key]) for d in dims}
    return found


def _optimum(
    dims: Sequence[FreeDim], judge: Judge, known: Mapping[str, int], hints: Hints
) -> tuple[dict[str, Relation], dict[str, int], int]:
    first: str | None = None
    proposals = itertools.chain(
        itertools.islice(_usual(dims, known, hints), MOST_TRIES),
        itertools.islice(_baked(dims, known, hints.baked), MOST_TRIES),
    )
    for tries, (relations, sizes) in enumerate(proposals, 1):
        error = judge(sizes)
        if error is None:
            return relations, sizes, tries
        first = first or error
    raise NoFitError(first or "nothing was tried", 1)


def _with_room(dims: Sequence[FreeDim], judge: Judge, sizes: dict[str, int]) -> dict[str, int]:
    """Smaller pictures, where a model of pictures takes several of these and not several of the usual size."""
    batch = [d.key for d in dims if d.role == "batch"]
    images = [d.key for d in dims if d.role == "image"]
    if not batch or not images:
        return sizes

    for size in SMALLER:
        smaller = {**sizes, **dict.fromkeys(images, size)}
        several = {**smaller, **{k: MOST_BATCH * smaller[k] for k in batch}}
        if size < min(sizes[k] for k in images) and judge(smaller) is None and judge(several) is None:
            return smaller
    return sizes


def _usual(
    dims: Sequence[FreeDim], known: Mapping[str, int], hints: Hints
) -> Iterator[tuple[dict[str, Relation], dict[str, int]]]:
    """Sizes that are usual for each role, with lengths that may follow from each other."""
    roles = {d.role for d in dims}
    lengths = [d.key for d in dims if d.role == "length"]
    hypotheses = list(_hypotheses(lengths, [k for k in known if k not in lengths], hints))
    open_batches = {d.key for d in dims if d.role == "batch"}
    multiples: list[dict[str, Relation]] = [{}]
    for rows, batch, times in hints.multiples:
        if rows in open_batches and (batch in open_batches or batch in known):
            multiples.append({rows: Relation((batch,), times=times)})
    choices: list[Sequence[object]] = [
        hypotheses,
        BATCH if "batch" in roles else (1,),
        IMAGE if "image" in roles else (1,),
        LENGTH if lengths else (1,),
        SAMPLES if any(k in hints.signals for k in lengths) else (1,),
        multiples,
        MANY if any(d.many for d in dims) else (1,),
    ]
    for picked in best_first([len(c) for c in choices]):
        relations = {**hypotheses[picked[0]], **multiples[picked[5]]}
        usual = {"batch": BATCH[picked[1]], "image": IMAGE[picked[2]]}
        sizes = dict(known)
        spread = itertools.cycle(SPREAD)
        for dim in dims:
            if dim.role != "length":
                sizes[dim.key] = usual[dim.role]
            elif dim.key not in relations:
                longer = (
                    SAMPLES[picked[4]] if dim.key in hints.signals else MANY[picked[-1]] if dim.many else 1
                )
                sizes[dim.key] = max(1, int(LENGTH[picked[3]] * next(spread)) * longer)
        for key, relation in relations.items():
            sizes[key] = relation.value(sizes)
        yield relations, sizes


def _baked(
    dims: Sequence[FreeDim], known: Mapping[str, int], baked: Sequence[int]
) -> Iterator[tuple[dict[str, Relation], dict[str, int]]]:
    """Sizes of the example that the model was exported with, as far as constants in the graph tell."""
    groups = [[d.key for d in dims if d.role == role] for role in ("batch", "image")]
    groups += [[d.key] for d in dims if d.role == "length"]
    groups = [g for g in groups if g]
    if not groups or not baked:
        return
    batches = list(dict.fromkeys((1, 2, *baked)))
    batch = {d.key for d in dims if d.role == "batch"}
    choices = [batches if g[0] in batch else list(baked) for g in groups]
    for picked in best_first([len(c) for c in choices]):
        sizes = dict(known)
        for group, values, index in zip(groups, choices, picked, strict=True):
            sizes.update(dict.fromkeys(group, values[index]))
        yield {}, sizes


def _hypotheses(lengths: Sequence[str], others: Sequence[str], hints: Hints) -> Iterator[dict[str, Relation]]:
    """How lengths may follow from each other: not at all, all the same, one from another or from two others."""
    yield {}
    for key, one, two in hints.sums:
        if key in lengths:
            yield {key: Relation((one, two))}
    if len(lengths) > 1:
        yield {key: Relation((lengths[0],)) for key in lengths[1:]}
    plus = list(dict.fromkeys([*hints.steps, 1, 0]))
    for more in plus:
        for key, other in itertools.permutations(lengths, 2):
            yield {key: Relation((other,), more)}
    for key, one, two in itertools.permutations(lengths, 3):
        if one < two:
            yield {key: Relation((one, two))}
    for key in lengths:
        for other in others:
            yield {key: Relation((other,))}


def _end(
    roots: Sequence[FreeDim],
    judge: Judge,
    known: Mapping[str, int],
    relations: Mapping[str, Relation],
    optimum: Mapping[str, int],
    found: Fit,
    end: int,
) -> dict[str, int]:
    """The widest sizes at the minimum (0) or maximum (2) that the model takes."""
    groups: list[tuple[list[FreeDim], list[int]]] = []
    for role in ("batch", "image"):
        members = [d for d in roots if d.role == role]
        if members:
            groups.append((members, _ends(role, optimum[members[0].key], end)))
    groups += [([d], _ends("length", optimum[d.key], end)) for d in roots if d.role == "length"]
    first: str | None = None
    for picked in itertools.islice(best_first([len(c) for _, c in groups]), MOST_END_TRIES):
        sizes = dict(known)
        for (members, values), index in zip(groups, picked, strict=True):
            sizes.update({d.key: values[index] for d in members})
        for key, relation in relations.items():
            sizes[key] = relation.value(sizes)
        found.tries += 1
        error = judge(sizes)
        if error is None:
            break
        first = first or error
    else:
        if any(optimum.get(key) != size for key, size in known.items()):
            raise NoFitError(first or "nothing was tried", end)
        sizes = dict(optimum)
    if first is not None:
        for members, _ in groups:
            for dim in members:
                if sizes[dim.key] == optimum[dim.key]:
                    found.stuck.setdefault(dim.key, first)
    return sizes


def _ends(role: str, optimum: int, end: int) -> list[int]:
    """Sizes of an end of a range, the widest range first, the optimum last."""
    if role == "batch":
        values = (
            [1, optimum]
            if end == 0
            else [MOST_BATCH * optimum, 3 * optimum, 2 * optimum, optimum + 1, optimum]
        )
    elif role == "image":
        near, whole = max(1, optimum * 7 // 10 // 32 * 32), optimum // STEP * STEP
        if end == 0:
            values = [near, optimum // 2, optimum // 2 // STEP * STEP, whole - STEP, optimum]
        else:
            values = [2 * optimum, optimum * 3 // 2, optimum * 3 // 2 // STEP * STEP, whole + STEP, optimum]
    elif end == 0:
        values = [1, 2, 4, optimum // 2, optimum]
    else:
        values = [8 * optimum, 4 * optimum, 2 * optimum, optimum]
    keep = [v for v in values if v > 0 and (v <= optimum if end == 0 else v >= optimum)]
    return list(dict.fromkeys(keep))


def best_first(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Tuples of indices, those with the smallest sum first, so that the first choices are tried most.

    Args:
        counts: How many choices each place has.
    """
    for total in range(sum(c - 1 for c in counts) + 1):
        yield from _with_sum(total, counts)


def _with_sum(total: int, counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not counts:
        if total == 0:
            yield ()
        return
    rest = sum(c - 1 for c in counts[1:])
    for index in range(max(0, total - rest), min(total, counts[0] - 1) + 1):
        for more in _with_sum(total - index, counts[1:]):
            yield (index, *more)
