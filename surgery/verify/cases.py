"""The inputs that original and result are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.infer import dims_of
from surgery.verify.inputs import check_given, derive_input
from surgery.verify.sizes import free_dims

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.verify.search import Search

IMAGE_SIZES = ((300, 300), (240, 400), (416, 312))
"""Sizes (height, width) of images for models that take any size; one is square."""

MIN_CASES = 3

BATCHES = (1, 2, 4)
"""Batches that are compared wherever the ranges allow them."""

Dims = list[int | str | None]
Specs = dict[str, tuple[Any, Dims | None]]
"""Dtype and declared dims of each input of the original that is none of the weights."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input: a name and the values of the original model's inputs."""

    name: str
    feeds: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Point:
    """Sizes at one place of the ranges.

    Attributes:
        label: Its name.
        known: Symbolic dims of the result's inputs.
        placed: Whole shapes of inputs that original and result share: a dim without a name is found by its place.
    """

    label: str
    known: dict[str, int]
    placed: dict[str, Dims]

    def shapes(self, specs: Specs, number: int = 0) -> dict[str, list[int]]:
        """Shapes of the original's inputs in the case of that number."""
        return {n: _shape(self.placed.get(n, dims), self.known, number) for n, (_, dims) in specs.items()}


def make_cases(
    original: onnx.ModelProto,
    result: onnx.ModelProto,
    profiles: Sequence[Mapping[str, Any]],
    *,
    per_point: int,
    seed: int,
    given: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    search: Search | None = None,
) -> list[Case]:
    """Seeded inputs for every point (minimum, optimum, maximum) of the profiles.

    A free dim of the original gets the profile's value if one of the result's inputs has a dim of that name,
    or has the input's own name and the same layout (dims need not have names); other free dims are one
    image, or an image size that changes from case to case. Batches of :data:`BATCHES` that no point has and the
    ranges allow get one case each, other dims at the optimum, where the original runs with them.

    Args:
        original: The original model.
        result: The prepared model, whose inputs the profiles are for.
        profiles: Entries with input, min, opt, max.
        per_point: Cases per point; at least three in all.
        seed: Seed.
        given: The user's own values, one more case.
        constants: Inputs with a fixed value.
        search: Draws values until the original runs on them; without it the first draw stands.
    """
    fixed = dict(constants or {})
    specs = specs_of(original)
    points = _points(result, profiles, specs)
    rounds = max(per_point, -(-MIN_CASES // len(points)))
    cases: list[Case] = []
    for point in points:
        for k in range(rounds):
            number = len(cases)
            feeds = _draw(specs, point.shapes(specs, number), fixed, search, seed, number)
            cases.append(Case(f"{point.label}-{k}", feeds))
    for point in _batches(result, profiles, specs):
        feeds = _draw(specs, point.shapes(specs), fixed, search, seed, len(cases))
        if search is None or search.judge(feeds):
            cases.append(Case(point.label, feeds))
    if given is not None:
        cases.append(Case("inputs", check_given({**fixed, **given}, specs)))
    return cases


def probe(
    original: onnx.ModelProto,
    result: onnx.ModelProto,
    profiles: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    constants: Mapping[str, Any],
    search: Search,
    most: int,
) -> tuple[str | None, int]:
    """Whether the original runs at one point of the profiles.

    Args:
        original: The original model.
        result: The prepared model, whose inputs the profiles are for.
        profiles: Entries with input, min, opt and max, of which only opt counts.
        seed: Seed.
        constants: Inputs with a fixed value.
        search: Draws values and runs the original.
        most: Draws, at most.

    Returns:
        Why not, in ONNX Runtime's words, or None; and the draws it took.
    """
    specs, shapes = _first_point(original, result, profiles)
    for attempt in range(min(search.attempts, most)):
        if search.judge(_values(specs, shapes, constants, search, [seed, 0], attempt)):
            return search.error, attempt + 1
    return search.error or "ONNX Runtime gives no reason", min(search.attempts, most)


def first_draw(
    original: onnx.ModelProto,
    result: onnx.ModelProto,
    profiles: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    constants: Mapping[str, Any],
    search: Search,
) -> dict[str, NDArray[Any]]:
    """The first values that :func:`probe` tries."""
    specs, shapes = _first_point(original, result, profiles)
    return _values(specs, shapes, constants, search, [seed, 0], 0)


def _first_point(
    original: onnx.ModelProto, result: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]]
) -> tuple[Specs, dict[str, list[int]]]:
    """The original's inputs, and their shapes at the first point of the profiles."""
    specs = specs_of(original)
    return specs, _points(result, profiles, specs)[0].shapes(specs)


def specs_of(original: onnx.ModelProto) -> Specs:
    """Dtype and declared dims of each input that is none of the weights."""
    import onnx

    initial = {i.name for i in original.graph.initializer}
    specs: Specs = {}
    for value in original.graph.input:
        if value.name not in initial:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            specs[value.name] = (dtype, dims_of(value))
    return specs


def _values(
    specs: Specs,
    shapes: Mapping[str, Sequence[int]],
    fixed: Mapping[str, Any],
    search: Search | None,
    seed: Sequence[int],
    attempt: int,
) -> dict[str, NDArray[Any]]:
    """Values of one draw."""
    rng = np.random.default_rng([*seed, attempt] if attempt else list(seed))
    spans = search.spans(attempt, rng) if search is not None else {}
    feeds = {
        name: np.asarray(fixed[name], dtype)
        if name in fixed
        else derive_input(name, dtype, shapes[name], rng, spans.get(name))
        for name, (dtype, _) in specs.items()
    }
    if search is not None:
        feeds.update({n: v for n, v in search.values(shapes, rng, attempt).items() if n not in fixed})
    return feeds


def _draw(
    specs: Specs,
    shapes: Mapping[str, Sequence[int]],
    fixed: Mapping[str, Any],
    search: Search | None,
    seed: int,
    number: int,
) -> dict[str, NDArray[Any]]:
    """Values of a case: the first draw that the model takes wholly, else the best one."""
    best: tuple[int, dict[str, NDArray[Any]]] | None = None
    for attempt in range(search.attempts if search is not None else 1):
        feeds = _values(specs, shapes, fixed, search, [seed, number], attempt)
        grade = 2 if search is None or search.attempts == 1 else search.judge(feeds)
        if best is None or grade > best[0]:
            best = grade, feeds
        if search is None or grade >= search.enough:
            break
    assert best is not None
    return best[1]


def _points(result: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]], specs: Specs) -> list[_Point]:
    """Each point of the profiles, equal points once."""
    points: list[_Point] = []
    for label in ("opt", "min", "max"):
        sizes = {p["input"]: [int(size) for size in p[label]] for p in profiles}
        new = _point(label if profiles else "static", result, sizes, specs)
        if all((new.known, new.placed) != (p.known, p.placed) for p in points):
            points.append(new)
    return points


def _point(label: str, result: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], specs: Specs) -> _Point:
    """The point where inputs of the result have given sizes."""
    inputs = {v.name: dims_of(v) or [] for v in result.graph.input}
    point = _Point(label, {}, {})
    for name, shape in sizes.items():
        point.known.update({d: n for d, n in zip(inputs[name], shape, strict=True) if isinstance(d, str)})
        own = specs[name][1] if name in specs else None
        if name in specs and (own is None or _fits(own, shape)):
            point.placed[name] = list(shape)
    return point


def _batches(result: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]], specs: Specs) -> list[_Point]:
    """Points of usual batches that minimum, optimum and maximum leave out."""
    given = {p["input"] for p in profiles}
    free = free_dims([v for v in result.graph.input if v.name in given])
    places = {at for d in free if d.role == "batch" for at in d.places}
    ranges = {p["input"]: [tuple(int(p[k][a]) for k in ("min", "opt", "max")) for a in range(len(p["opt"]))]
              for p in profiles}  # fmt: skip
    found = {ranges[n][a] for n, a in places}
    points = []
    for batch in BATCHES:
        if not any(low < batch < high and batch != best for low, best, high in found):
            continue
        sizes = {
            name: [
                batch if (name, axis) in places and low <= batch <= high else best
                for axis, (low, best, high) in enumerate(shape)
            ]
            for name, shape in ranges.items()
        }
        points.append(_point(f"batch-{batch}", result, sizes, specs))
    return points


def _fits(dims: Dims, sizes: Sequence[int]) -> bool:
    """Whether the sizes are possible; if not, the input has another layout than the result's of that name."""
    return len(dims) == len(sizes) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, sizes, strict=True)
    )


def _shape(dims: Dims | None, known: Mapping[str, int], number: int) -> list[int]:
    shape = []
    size = iter(IMAGE_SIZES[number % len(IMAGE_SIZES)] * 4)
    for axis, dim in enumerate(dims or ()):
        if isinstance(dim, int):
            shape.append(dim)
        elif isinstance(dim, str) and dim in known:
            shape.append(known[dim])
        elif axis == 0:
            shape.append(1)
        else:
            shape.append(next(size) if len(dims or ()) == 4 else 16)
    return shape
