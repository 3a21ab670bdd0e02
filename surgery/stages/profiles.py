"""Optimization profiles: from the command line, from the pipeline, or derived from the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError, ConversionError
from surgery.graph.infer import dims_of
from surgery.pipeline import State

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import ShapeProfile
    from surgery.verify.sizes import Fit, FreeDim, NoFitError

DERIVED_SIZE = (224, 320, 640)
"""Minimum, optimum and maximum of heights and widths that are proposed first."""

DERIVED_OTHER = (1, 16, 128)
"""The same for free dims of anything else (sequence lengths, point counts)."""

MOST_REASON = 200
"""Characters of what ONNX Runtime says that go into a warning."""

MOST_ELEMENTS = 1 << 28
"""Elements of the largest tensor at derived sizes."""

MOST_PAIRS = 1 << 26
"""Pairs of pixels or tokens at derived sizes: attention over every pixel of a large picture fills any memory."""

PROBES = 4
"""Draws of values at sizes that are not the most usual ones."""

Range = tuple[int, int, int]


def checked_profiles(state: State, model: onnx.ModelProto) -> list[ShapeProfile]:
    """One profile entry per input with free dims, at whose minimum, optimum and maximum the original runs.

    One symbolic dim name has one range everywhere. --shape goes before the pipeline's ``profiles``, which go
    before derived ranges. Derived ranges are found by trying sizes that fit together (:mod:`surgery.verify.sizes`);
    the report gets each entry with its source, and a warning for each dim that had to stay at one size.

    Raises:
        ConfigError: an unknown input, a wrong rank, a fixed dim changed, min > opt or opt > max, two ranges for
            one dim name; or the original does not run at a shape that was asked for.
        ConversionError: an input has no shape, or the original does not run at any of the shapes that were tried.
    """
    from surgery.trt.types import ShapeProfile
    from surgery.verify.sizes import Hints, NoFitError, baked_sizes, dim_key, fit, free_dims, new_tokens

    initial = {t.name for t in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in initial}
    given, known = _given(state, inputs)
    for name, info in inputs.items():
        if dims_of(info) is None:
            raise ConversionError(
                f"input {name!r} has no shape",
                code="input-without-shape",
                where=name,
                fix=f"give one: --shape {name}=1x3x224x224",
            )
    shapes: dict[str, list[int | str]] = {}
    for name, info in inputs.items():
        dims = dims_of(info) or []
        if name in given or any(not isinstance(d, int) for d in dims):
            shapes[name] = [d if isinstance(d, int) else dim_key(name, i, d) for i, d in enumerate(dims)]
    if not shapes:
        return []
    free = free_dims(list(inputs.values()))
    with _judge(state, model, shapes, free) as judge:
        try:
            hints = Hints(new_tokens(list(inputs.values())), baked_sizes(state.source.proto))
            found = fit(free, judge, known, hints)
        except NoFitError as error:
            raise _impossible(state, shapes, given, known, error) from error
    result = []
    for name, sizes in shapes.items():
        low, best, high = ([d if isinstance(d, int) else found.ranges[d][i] for d in sizes] for i in range(3))
        follows = [f"{d} = {found.relations[d]}" for d in sizes if d in found.relations]
        source = (
            given[name][1] if name in given else ": ".join(["derived", *filter(None, [", ".join(follows)])])
        )
        state.report.profiles.append({"input": name, "min": low, "opt": best, "max": high, "source": source})
        result.append(ShapeProfile(name, tuple(low), tuple(best), tuple(high)))
    _tell_stuck(state, found)
    return result


def _tell_stuck(state: State, found: Fit) -> None:
    """Warn of dims that have one size only because the model does not run at others."""
    reasons: dict[str, list[str]] = {}
    for key, why in found.stuck.items():
        if len(set(found.ranges[key])) == 1:
            reasons.setdefault(why, []).append(f"{key} stays at {found.ranges[key][1]}")
    for why, keys in reasons.items():
        state.warn(f"{', '.join(keys)}: at other sizes the model does not run ({why[:MOST_REASON]})")


def _given(
    state: State, inputs: Mapping[str, onnx.ValueInfoProto]
) -> tuple[dict[str, tuple[Any, str]], dict[str, Range]]:
    """Shapes that were asked for, with who asked, and the ranges of free dims that follow from them."""
    from surgery.verify.sizes import dim_key

    given: dict[str, tuple[Any, str]] = {}
    for name, profile in state.config.profiles.items():
        given[name] = ((tuple(profile.min), tuple(profile.opt), tuple(profile.max)), f"profiles.{name}")
    for name, shapes in state.options.shapes.items():
        given[name] = (shapes, f"--shape {name}")
    known: dict[str, Range] = {}
    for name, (shapes, where) in given.items():
        if name not in inputs:
            raise ConfigError(
                f"there is no input {name!r}",
                code="unknown-input",
                where=where,
                fix=f"inputs of the network: {', '.join(inputs)}",
            )
        dims = dims_of(inputs[name])
        _check(name, dims, shapes, where)
        for axis, dim in enumerate(dims or []):
            if isinstance(dim, int):
                continue
            value = (shapes[0][axis], shapes[1][axis], shapes[2][axis])
            if known.setdefault(dim_key(name, axis, dim), value) != value:
                raise ConfigError(
                    f"dim {dim!r} has two ranges: {known[str(dim)]} and {value}",
                    code="profile-conflict",
                    where=where,
                    fix="give the inputs that share a dim the same range for it",
                )
    return given, known


@contextlib.contextmanager
def _judge(
    state: State,
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int | str]],
    free: Sequence[FreeDim],
) -> Iterator[Callable[[Mapping[str, int]], str | None]]:
    """What runs the original with sizes of free dims, and says why it does not."""
    from surgery.graph.volumes import largest, skeleton
    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import first_draw, probe
    from surgery.verify.growth import Growth
    from surgery.verify.search import Search

    with on_disk(state.source.proto, state.source) as original:
        search = Search(state.source.proto, original)
        bare = skeleton(model)

        def draw(sizes: Mapping[str, int]) -> dict[str, Any]:
            chosen = {n: [d if isinstance(d, int) else sizes[d] for d in dims] for n, dims in shapes.items()}
            entries = [{"input": n, "min": shape, "opt": shape, "max": shape} for n, shape in chosen.items()]
            return first_draw(
                state.source.proto, model, entries,
                seed=state.options.seed, constants=state.options.constants, search=search,
            )  # fmt: skip

        growth = Growth(state.source.proto, draw, free)
        images = [d.key for d in free if d.role == "image"]
        asked = bool(state.config.profiles or state.options.shapes)
        most = search.attempts

        def judge(sizes: Mapping[str, int]) -> str | None:
            nonlocal most
            chosen = {n: [d if isinstance(d, int) else sizes[d] for d in dims] for n, dims in shapes.items()}
            entries = [{"input": n, "min": shape, "opt": shape, "max": shape} for n, shape in chosen.items()]
            elements = largest(bare, chosen) if not asked else 0
            if not asked and images:
                batch = max((sizes[d.key] for d in free if d.role == "batch"), default=1)
                pairs = growth.at({k: sizes[k] for k in images}) * batch
                if pairs > MOST_PAIRS:
                    return f"attention would have {pairs:.3g} pairs"
            if elements > MOST_ELEMENTS:
                return f"a tensor would have {elements:.3g} elements"
            error, draws = probe(
                state.source.proto, model, entries,
                seed=state.options.seed, constants=state.options.constants, search=search, most=most,
            )  # fmt: skip
            # The usual sizes get every draw of values there is; others as many as it took before.
            most = max(PROBES, draws) if error is None else PROBES
            return error

        yield judge


def _impossible(
    state: State,
    shapes: Mapping[str, Sequence[int | str]],
    given: Mapping[str, tuple[Any, str]],
    known: Mapping[str, Range],
    error: NoFitError,
) -> ConfigError | ConversionError:
    """A range that the user gave is a mistake of the command; one that was derived is not."""
    label = ("min", "opt", "max")[error.end]
    asked = [f"{where}: {name} {list(sizes[error.end])}" for name, (sizes, where) in given.items()]
    first = next(iter(shapes.values()))
    kind = ConfigError if asked else ConversionError
    return kind(
        f"the model does not run at the {label} of its profile"
        if asked
        else "the model does not run at any of the sizes that were tried",
        code="profile-impossible",
        where="; ".join(asked) or "; ".join(f"{n} {list(dims)}" for n, dims in shapes.items()),
        cause=f"the model in ONNX Runtime: {error}",
        fix="give shapes that the model takes: --shape NAME=MIN:OPT:MAX, e.g. "
        + "x".join(str(d if isinstance(d, int) else known.get(d, DERIVED_OTHER)[1]) for d in first),
    )


def _check(name: str, dims: list[int | str | None] | None, shapes: Any, where: str) -> None:
    low, opt, high = shapes
    if len({len(low), len(opt), len(high)}) != 1 or (dims is not None and len(dims) != len(opt)):
        declared = f"; the input has {len(dims)}" if dims is not None else ""
        raise ConfigError(
            f"shapes of {name!r} have {len(low)}, {len(opt)} and {len(high)} dims{declared}",
            code="profile-rank",
            where=where,
            fix=f"declared shape: {dims}",
        )
    for axis, (a, b, c) in enumerate(zip(low, opt, high, strict=True)):
        if not 0 < a <= b <= c:
            raise ConfigError(
                f"dim {axis} of {name!r} has minimum {a}, optimum {b}, maximum {c}",
                code="profile-order",
                where=where,
                fix="give 0 < minimum <= optimum <= maximum",
            )
        if dims is not None and isinstance(dims[axis], int) and (a, c) != (dims[axis], dims[axis]):
            raise ConfigError(
                f"dim {axis} of {name!r} is fixed at {dims[axis]}, not {a}..{c}",
                code="profile-fixed-dim",
                where=where,
                fix=f"declared shape: {dims}",
            )
