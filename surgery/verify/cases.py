"""The inputs that original and result are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.infer import dims_of
from surgery.verify.inputs import check_given, derive_input

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

IMAGE_SIZES = ((300, 300), (240, 400), (416, 312))
"""Sizes (height, width) of images for models that take any size; one is square."""

MIN_CASES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One input: a name and the values of the original model's inputs."""

    name: str
    feeds: dict[str, NDArray[Any]]


def make_cases(
    original: onnx.ModelProto,
    result: onnx.ModelProto,
    profiles: Sequence[Mapping[str, Any]],
    *,
    per_point: int,
    seed: int,
    given: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> list[Case]:
    """Seeded inputs for every point (minimum, optimum, maximum) of the profiles.

    A free dim of the original that goes by the same name as one of the result's inputs gets the profile's
    value; other free dims are one image, or an image size that changes from case to case.

    Args:
        original: The original model.
        result: The prepared model, whose inputs the profiles are for.
        profiles: Entries with input, min, opt, max.
        per_point: Cases per point; at least three in all.
        seed: Seed.
        given: The user's own values, one more case.
        constants: Inputs with a fixed value.
    """
    import onnx

    fixed = dict(constants or {})
    initial = {i.name for i in original.graph.initializer}
    specs: dict[str, tuple[Any, list[int | str | None] | None]] = {}
    for value in original.graph.input:
        if value.name not in initial:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            specs[value.name] = (dtype, dims_of(value))
    points = _points(result, profiles)
    rounds = max(per_point, -(-MIN_CASES // len(points)))
    cases: list[Case] = []
    for label, known in points:
        for k in range(rounds):
            number = len(cases)
            rng = np.random.default_rng([seed, number])
            feeds = {
                name: np.asarray(fixed[name], dtype)
                if name in fixed
                else derive_input(name, dtype, _shape(dims, known, number), rng)
                for name, (dtype, dims) in specs.items()
            }
            cases.append(Case(f"{label}-{k}", feeds))
    if given is not None:
        cases.append(Case("inputs", check_given({**fixed, **given}, specs)))
    return cases


def _points(
    result: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, int]]]:
    """Values of the symbolic dims at each point of the profiles, equal points once."""
    inputs = {v.name: v for v in result.graph.input}
    points: list[tuple[str, dict[str, int]]] = []
    for label in ("opt", "min", "max"):
        known: dict[str, int] = {}
        for profile in profiles:
            dims = dims_of(inputs[profile["input"]]) or []
            for dim, size in zip(dims, profile[label], strict=True):
                if isinstance(dim, str):
                    known[dim] = int(size)
        if all(known != other for _, other in points):
            points.append((label if profiles else "static", known))
    return points


def _shape(dims: list[int | str | None] | None, known: Mapping[str, int], number: int) -> list[int]:
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
