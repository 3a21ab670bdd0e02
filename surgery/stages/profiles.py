"""Optimization profiles: from the command line, from the pipeline, or derived from the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError, ConversionError
from surgery.graph.infer import dims_of
from surgery.pipeline import State

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import ShapeProfile

DERIVED_BATCH = (1, 1, 4)
"""Minimum, optimum and maximum of a free leading dim: one image as a rule, small batches possible."""

DERIVED_SIZE = (224, 320, 640)
"""The same for other free dims of a rank-4 input: sizes that image networks are commonly run at."""

DERIVED_OTHER = (1, 16, 128)
"""The same for free dims of anything else (sequence lengths, point counts)."""

Range = tuple[int, int, int]


def profiles_for(state: State, model: onnx.ModelProto) -> list[ShapeProfile]:
    """One profile entry per input with free dims; recorded in the report with its source.

    One symbolic dim name has one range everywhere. --shape goes before the pipeline's ``profiles``, which go
    before derived ranges.

    Raises:
        ConfigError: an unknown input, a wrong rank, a fixed dim changed, min > opt or opt > max, or two
            ranges for one dim name.
    """
    from surgery.trt.types import ShapeProfile

    inputs = {v.name: v for v in model.graph.input}
    given: dict[str, tuple[Any, str]] = {}
    for name, profile in state.config.profiles.items():
        given[name] = ((tuple(profile.min), tuple(profile.opt), tuple(profile.max)), f"profiles.{name}")
    for name, shapes in state.options.shapes.items():
        given[name] = (shapes, f"--shape {name}")
    for name, (_, where) in given.items():
        if name not in inputs:
            raise ConfigError(
                f"there is no input {name!r}",
                code="unknown-input",
                where=where,
                fix=f"inputs of the network: {', '.join(inputs)}",
            )
    known: dict[str, Range] = {}
    for name, (shapes, where) in given.items():
        _check(name, dims_of(inputs[name]), shapes, where)
        for axis, dim in enumerate(dims_of(inputs[name]) or []):
            if isinstance(dim, str):
                value = (shapes[0][axis], shapes[1][axis], shapes[2][axis])
                if known.setdefault(dim, value) != value:
                    raise ConfigError(
                        f"dim {dim!r} has two ranges: {known[dim]} and {value}",
                        code="profile-conflict",
                        where=where,
                        fix="give the inputs that share a dim the same range for it",
                    )
    result = []
    for name, info in inputs.items():
        dims = dims_of(info)
        if dims is None:
            raise ConversionError(
                f"input {name!r} has no shape",
                code="input-without-shape",
                where=name,
                fix=f"give one: --shape {name}=1x3x224x224",
            )
        if name in given:
            shapes, source = given[name]
            ranges = list(zip(*shapes, strict=True))
        elif all(isinstance(d, int) for d in dims):
            continue
        else:
            ranges = [_range(dim, axis, len(dims), known) for axis, dim in enumerate(dims)]
            source = "derived"
        low, opt, high = (tuple(int(r[i]) for r in ranges) for i in range(3))
        result.append(ShapeProfile(name, low, opt, high))
        state.report.profiles.append(
            {"input": name, "min": list(low), "opt": list(opt), "max": list(high), "source": source}
        )
    return result


def checked_profiles(state: State, model: onnx.ModelProto) -> list[ShapeProfile]:
    """Profiles at whose minimum, optimum and maximum the original model runs in ONNX Runtime.

    A derived minimum or maximum at which it does not run is replaced by the optimum, with a warning.

    Raises:
        ConfigError: as :func:`profiles_for`; or the original does not run at a shape that was asked for.
        ConversionError: as :func:`profiles_for`; or the original does not run at any shape that was derived.
    """
    from surgery.stages.cases import cases_for
    from surgery.stages.trt_model import on_disk
    from surgery.trt.types import ShapeProfile
    from surgery.verify.runner import RunError, run_onnx

    profiles = profiles_for(state, model)
    entries = state.report.profiles
    if not entries:
        return profiles
    with on_disk(state.source.proto, state.source) as original:
        for label in ("opt", "min", "max"):
            point = [{**e, "min": e[label], "opt": e[label], "max": e[label]} for e in entries]
            case = cases_for(state, model, point, 1)[0]
            try:
                run_onnx(original, [case.feeds], "the model")
            except RunError as error:
                given = [e for e in entries if e["source"] != "derived"]
                if label == "opt" or all(e["source"] != "derived" or e[label] == e["opt"] for e in entries):
                    # A range that the user gave is a mistake of the command; one that was derived is not.
                    kind = ConfigError if given else ConversionError
                    raise kind(
                        f"the model does not run at the {label} of its profile",
                        code="profile-impossible",
                        where="; ".join(f"{e['source']}: {e['input']} {e[label]}" for e in given or entries),
                        cause=str(error),
                        fix="give shapes that the model takes: --shape NAME=MIN:OPT:MAX, e.g. "
                        + "x".join(str(d) for d in entries[0]["opt"]),
                    ) from error
                state.warn(
                    f"the model does not run at the derived {label}: the profile stops at the optimum ({error})"
                )
                for entry in entries:
                    if entry["source"] == "derived":
                        entry[label] = list(entry["opt"])
    return [ShapeProfile(e["input"], tuple(e["min"]), tuple(e["opt"]), tuple(e["max"])) for e in entries]


def _range(dim: int | str | None, axis: int, rank: int, known: dict[str, Range]) -> Range:
    if isinstance(dim, int):
        return dim, dim, dim
    derived = DERIVED_BATCH if axis == 0 else DERIVED_SIZE if rank == 4 else DERIVED_OTHER
    return known.setdefault(dim, derived) if isinstance(dim, str) else derived


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
