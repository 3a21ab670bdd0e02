"""Optimization profiles: from the command line, from the pipeline, or derived from the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConfigError, ConversionError
from surgery.graph.infer import dims_of
from surgery.graph.open_end import has_open_loop
from surgery.pipeline import State
from surgery.text import did_you_mean
from surgery.verify.refusal import in_words

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import ShapeProfile
    from surgery.verify.sizes import Fit, FreeDim, NoFitError
    from surgery.verify.weights import Fixed

DERIVED_SIZE = (224, 320, 640)
"""Minimum, optimum and maximum of heights and widths that are proposed first."""

DERIVED_OTHER = (1, 16, 128)
"""The same for free dims of anything else (sequence lengths, point counts)."""

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
    from surgery.verify.sizes import dim_key, free_dims

    initial = {t.name for t in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in initial}
    given, known = _given(state, inputs)
    check_ranks(inputs.values())
    # A size that --shape fixes is fixed by now in every input that shares it; the original has it free.
    free = {
        v.name
        for v in state.source.proto.graph.input
        if any(not isinstance(d, int) for d in dims_of(v) or [])
    }
    shapes: dict[str, list[int | str]] = {}
    for name, info in inputs.items():
        dims = dims_of(info) or []
        if name in given or name in free or any(not isinstance(d, int) for d in dims):
            shapes[name] = [d if isinstance(d, int) else dim_key(name, i, d) for i, d in enumerate(dims)]
    if not shapes:
        return []
    found = _fitted(
        state, model, shapes, free_dims(list(inputs.values()), state.source.proto.graph.input), given, known
    )
    result = []
    for name, sizes in shapes.items():
        low, best, high = ([d if isinstance(d, int) else found.ranges[d][i] for d in sizes] for i in range(3))
        follows = [f"{d} = {found.relations[d]}" for d in sizes if d in found.relations]
        follows += [f"{d} is {found.reasons[d]}" for d in sizes if d in found.reasons]
        source = (
            given[name][1] if name in given else ": ".join(["derived", *filter(None, [", ".join(follows)])])
        )
        state.report.profiles.append({"input": name, "min": low, "opt": best, "max": high, "source": source})
        result.append(ShapeProfile(name, tuple(low), tuple(best), tuple(high)))
    _tell_stuck(state, found)
    return result


def check_ranks(inputs: Iterable[onnx.ValueInfoProto]) -> None:
    """Make sure that every input has a rank; TensorRT's parser takes one without for a number.

    Raises:
        ConversionError: one has none.
    """
    for info in inputs:
        if info.type.HasField("tensor_type") and dims_of(info) is None:
            raise ConversionError(
                f"input {info.name!r} has no shape",
                code="input-without-shape",
                where=info.name,
                fix=f"give one, with as many dims as it has: --shape {info.name}=1x3x224x224",
            )


def check_shapes(state: State, interface: onnx.ModelProto) -> None:
    """Make sure that the original runs at every shape that was asked for, before anything is done with it.

    A model that may run without end is not run: names, ranks and fixed dims are looked at, the rest is left to the
    stage that needs the profiles.

    Args:
        state: The run.
        interface: The network's inputs.

    Raises:
        ConfigError: as :func:`checked_profiles`.
    """
    if not state.config.profiles and not state.options.shapes:
        return
    if has_open_loop(state.source.proto):
        _given(state, {v.name: v for v in interface.graph.input})
        return
    kept, warnings = list(state.report.profiles), list(state.report.warnings)
    try:
        checked_profiles(state, interface)
    finally:
        state.report.profiles[:] = kept
        state.report.warnings[:] = warnings


def working_sizes(state: State, interface: onnx.ModelProto) -> str | None:
    """Ranges of inputs at which the original runs, as ``--shape`` takes them; None if none were found.

    Args:
        state: The run; what was asked for is left out of account.
        interface: The network's inputs.
    """
    from surgery.verify.sizes import dim_key, free_dims

    initial = {t.name for t in interface.graph.initializer}
    inputs = {v.name: v for v in interface.graph.input if v.name not in initial}
    shapes = {
        name: [d if isinstance(d, int) else dim_key(name, i, d) for i, d in enumerate(dims_of(info) or [])]
        for name, info in inputs.items()
        if any(not isinstance(d, int) for d in dims_of(info) or [])
    }
    try:
        found = _fitted(
            state, interface, shapes, free_dims(list(inputs.values()), state.source.proto.graph.input), {}, {}
        )
    except ConversionError:
        return None
    return " ".join(
        f"--shape {name}="
        + ":".join(
            "x".join(str(d if isinstance(d, int) else found.ranges[d][i]) for d in dims) for i in range(3)
        )
        for name, dims in shapes.items()
    )


def _fitted(
    state: State,
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int | str]],
    free: Sequence[FreeDim],
    given: Mapping[str, tuple[Any, str]],
    known: Mapping[str, Range],
) -> Fit:
    """Sizes for the free dims; for what was asked for, they are looked for once in a run."""
    from surgery.verify.size_hints import hints_of
    from surgery.verify.sizes import NoFitError, fit

    key = (
        tuple((name, tuple(dims)) for name, dims in shapes.items()),
        tuple((name, sizes) for name, (sizes, _) in given.items()),
    )
    # Derived sizes are held to how large the tensors of the result become, too.
    found = state.fits.get(key) if given else None
    if found is not None:
        return found  # type: ignore[no-any-return]
    inputs = [v for v in model.graph.input if v.name in shapes]
    hints = hints_of(state.source.proto, inputs)
    fixed = {k: f for k, f in _from_weights(state).items() if k not in known and k in {d.key for d in free}}
    with _judge(state, model, shapes, free, asked=bool(given)) as judge:
        try:
            try:
                sure = {k: (f.size,) * 3 for k, f in fixed.items()}
                found = fit(free, judge, {**known, **sure}, hints)
                found.reasons.update({k: str(f) for k, f in fixed.items()})
            except NoFitError:
                if not fixed:
                    raise
                found = fit(free, judge, known, hints)
        except NoFitError as error:
            raise _impossible(state, model, shapes, given, error) from error
        _make_room(state, shapes, given, found, judge)
    if given:
        state.fits[key] = found
    return found


def _make_room(
    state: State,
    shapes: Mapping[str, Sequence[int | str]],
    given: Mapping[str, tuple[Any, str]],
    found: Fit,
    judge: Callable[[Mapping[str, int]], str | None],
) -> None:
    """Widen derived ranges to the sizes of ``--inputs``, on which the engine is run as well.

    Raises:
        ConfigError: a range that was asked for does not hold them.
    """
    sizes: dict[str, int] = {}
    for name, value in (state.options.inputs or {}).items():
        dims, have = shapes.get(name, ()), np.shape(value)
        if len(dims) != len(have) or any(
            isinstance(d, int) and d != n for d, n in zip(dims, have, strict=True)
        ):
            continue  # fixed, or not what the network behind a cut reads
        for dim, size in zip(dims, have, strict=True):
            if not isinstance(dim, str):
                continue
            low, _, high = found.ranges[dim]
            if low <= size <= high:
                continue
            if name in given:
                raise ConfigError(
                    f"{name!r} has {size} for {dim}, which is outside of {low} to {high} of {given[name][1]}",
                    code="input-outside-profile",
                    where="--inputs",
                    fix="give a range that holds the sizes of --inputs, or other inputs",
                )
            sizes[dim] = size
    if not sizes:
        return
    wide = {
        k: (min(r[0], sizes.get(k, r[0])), r[1], max(r[2], sizes.get(k, r[2])))
        for k, r in found.ranges.items()
    }
    if any(judge({k: r[end] for k, r in wide.items()}) is not None for end in (0, 2)):
        wide = {**found.ranges, **{k: (n, n, n) for k, n in sizes.items()}}
    found.ranges = wide


def _from_weights(state: State) -> dict[str, Fixed]:
    """Sizes of free dims of the original that its weights leave no choice about."""
    from surgery.graph.functions import PLUGIN_DOMAIN, inline_functions
    from surgery.verify.weights import sizes_from_weights

    found = state.fits.get("weights")
    if found is None:
        model = state.source.proto
        functions = any(f.domain != PLUGIN_DOMAIN for f in model.functions)
        found = state.fits["weights"] = sizes_from_weights(inline_functions(model) if functions else model)
    return found


def _tell_stuck(state: State, found: Fit) -> None:
    """Warn of dims that have one size only because the model does not run at others."""
    reasons: dict[str, list[str]] = {}
    for key, why in found.stuck.items():
        if len(set(found.ranges[key])) == 1:
            reasons.setdefault(why, []).append(f"{key} stays at {found.ranges[key][1]}")
    for why, keys in reasons.items():
        state.warn(f"{', '.join(keys)}: at other sizes the model does not run ({in_words(why)})")


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
                fix=f"{did_you_mean(name, inputs)} inputs of the network: {', '.join(inputs)}".lstrip(),
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
    *,
    asked: bool,
) -> Iterator[Callable[[Mapping[str, int]], str | None]]:
    """What runs the original with sizes of free dims, and says why it does not."""
    from surgery.graph.skeleton import skeleton
    from surgery.graph.volumes import MOST, largest
    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import first_draw, probe
    from surgery.verify.growth import Growth
    from surgery.verify.search import Search

    with on_disk(state.source.proto, state.source) as original:
        search = Search(state.source.proto, original, state.options.inputs)
        bare = skeleton(state.source.proto if asked else model)

        def draw(sizes: Mapping[str, int]) -> dict[str, Any]:
            chosen = {n: [d if isinstance(d, int) else sizes[d] for d in dims] for n, dims in shapes.items()}
            entries = [{"input": n, "min": shape, "opt": shape, "max": shape} for n, shape in chosen.items()]
            return first_draw(
                state.source.proto, model, entries,
                seed=state.options.seed, constants=state.options.constants, search=search,
            )  # fmt: skip

        growth = Growth(state.source.proto, draw, free)
        images = [d.key for d in free if d.role == "image"]
        limit = MOST if asked else MOST_ELEMENTS
        most = search.attempts

        def judge(sizes: Mapping[str, int]) -> str | None:
            nonlocal most
            chosen = {n: [d if isinstance(d, int) else sizes[d] for d in dims] for n, dims in shapes.items()}
            entries = [{"input": n, "min": shape, "opt": shape, "max": shape} for n, shape in chosen.items()]
            elements = largest(bare, chosen)
            if not asked and images:
                batch = max((sizes[d.key] for d in free if d.role == "batch"), default=1)
                pairs = growth.at({k: sizes[k] for k in images}) * batch
                if pairs > MOST_PAIRS:
                    return f"attention would have {pairs:.3g} pairs"
            if elements > limit:
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
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int | str]],
    given: Mapping[str, tuple[Any, str]],
    error: NoFitError,
) -> ConfigError | ConversionError:
    """A range that the user gave is a mistake of the command; one that was derived is not."""
    cause = f"the model in ONNX Runtime: {in_words(str(error))}"
    if "NOT_IMPLEMENTED" in str(error):
        return ConversionError(
            "ONNX Runtime does not run the model, so nothing says which sizes it takes or what it computes",
            code="original-not-run",
            where=state.source.name,
            cause=cause,
            fix="export the model with operators and types that ONNX Runtime has on a processor, e.g. of an older "
            "operator set: no result is given that was not compared with the model",
        )
    if not given:
        return ConversionError(
            "the model does not run at any of the sizes that were tried",
            code="profile-impossible",
            where="; ".join(f"{n} {_dims(dims)}" for n, dims in shapes.items()),
            cause=cause,
            fix="give the sizes that you use: "
            + " ".join(f"--shape {n}={'x'.join(str(d) for d in dims)}" for n, dims in shapes.items())
            + " with numbers for the names",
        )
    label = ("min", "opt", "max")[error.end]
    asked = [f"{where}: {name} {list(sizes[error.end])}" for name, (sizes, where) in given.items()]
    working = working_sizes(state, model)
    alone = all(low == high for (low, _, high), _ in given.values())
    return ConfigError(
        "the model does not run at this shape"
        if alone
        else f"the model does not run at the {label} of its profile",
        code="profile-impossible",
        where="; ".join(asked),
        cause=cause,
        fix=f"it runs with {working}" if working else "give shapes that the model was exported with",
    )


def _dims(dims: Sequence[int | str | None]) -> str:
    """Dims as a declaration has them, without quotes around names."""
    return f"[{', '.join('?' if d is None else str(d) for d in dims)}]"


def _check(name: str, dims: list[int | str | None] | None, shapes: Any, where: str) -> None:
    low, opt, high = shapes
    if len({len(low), len(opt), len(high)}) != 1 or (dims is not None and len(dims) != len(opt)):
        declared = f"; the input has {len(dims)}" if dims is not None else ""
        ranks = [len(low), len(opt), len(high)]
        said = str(ranks[0]) if len(set(ranks)) == 1 else f"{ranks[0]}, {ranks[1]} and {ranks[2]}"
        raise ConfigError(
            f"shapes of {name!r} have {said} {'dim' if said == '1' else 'dims'}{declared}",
            code="profile-rank",
            where=where,
            fix=f"declared shape: {_dims(dims)}" if dims is not None else "give all three the same rank",
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
                f"dim {axis} of {name!r} is fixed at {dims[axis]}, not {a if a == c else f'{a} to {c}'}",
                code="profile-fixed-dim",
                where=where,
                fix=f"declared shape: {_dims(dims)}",
            )
