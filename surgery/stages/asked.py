"""What the caller gave beside the pipeline, held against the model before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError
from surgery.pipeline import State
from surgery.stages.kept import check_kept
from surgery.stages.profiles import check_shapes, working_sizes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.verify.search import Search

WHERE = "--inputs"


def check_asked(state: State) -> None:
    """Make sure that plugins to keep are known, and the original takes the given values and shapes.

    Nothing here costs more than a run that comes to its end. A model that may run without end, or in which a tensor
    would be larger than TensorRT takes, is not run: whether it takes them is left to verification.

    Shapes are those of the network behind a cut at the front; where there is one, the stage that cuts looks at them.

    Raises:
        ConfigError: an input that is not there, another dtype or rank, sizes or values on which the original does not
            run in ONNX Runtime; a plugin to keep that has no definition.
    """
    check_kept(state)
    declare_ranks(state)
    if state.options.inputs is not None:
        check_values(state)
    if not any(getattr(stage, "cut_input", None) for stage in state.config.stages):
        check_shapes(state, interface(state))


def declare_ranks(state: State) -> None:
    """Give inputs without a shape the one that was asked for, in the current graph: TensorRT has to know ranks."""
    given = {
        **{name: (p.min, p.opt, p.max) for name, p in state.config.profiles.items()},
        **state.options.shapes,
    }
    for tensor in state.graph.inputs:
        if tensor.shape is None and tensor.name in given:
            sizes = zip(*given[tensor.name], strict=True)
            tensor.shape = [
                dims[0] if len(set(dims)) == 1 else f"{tensor.name}_{axis}" for axis, dims in enumerate(sizes)
            ]


def interface(state: State) -> onnx.ModelProto:
    """A model of nothing but the inputs that the network has now."""
    import onnx

    from surgery.graph.convert import declare

    model = onnx.ModelProto()
    for tensor in state.graph.inputs:
        declare(model.graph.input.add(), tensor, {})
    return model


def check_values(state: State) -> None:
    """Hold the user's values against what the original declares, and run it on them where that ends.

    A model that ONNX Runtime does not load says nothing about the values, and is left to verification.

    Raises:
        ConfigError: as :func:`check_asked`.
    """
    from surgery.graph.open_end import has_open_loop
    from surgery.graph.skeleton import skeleton
    from surgery.graph.volumes import MOST, largest
    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import specs_of
    from surgery.verify.inputs import check_given
    from surgery.verify.search import Search

    assert state.options.inputs is not None
    proto = state.source.proto
    values = check_given({**state.options.constants, **state.options.inputs}, specs_of(proto))
    if has_open_loop(proto) or largest(skeleton(proto), {n: v.shape for n, v in values.items()}) > MOST:
        return
    with on_disk(proto, state.source) as original:
        search = Search(proto, original)
        if search.judge(values) == 0:
            raise _refused(state, values, search)


def _refused(state: State, values: Mapping[str, NDArray[Any]], search: Search) -> ConfigError:
    """Which of the values the model does not take, as far as that can be told."""
    from surgery.verify.refusal import in_words

    cause = f"the model in ONNX Runtime: {in_words(search.error or '')}"
    found = _out_of_range(values, search) or _uneven(state, values)
    if found is not None:
        message, fix = found
        return ConfigError(message, code="input-refused", where=WHERE, cause=cause, fix=fix)
    given = ", ".join(f"{n} {list(v.shape)}" for n, v in values.items())
    if _runs_at_these_sizes(state, values, search):
        return ConfigError(
            f"the model does not run on these values, though it runs on others of these shapes: {given}",
            code="input-refused",
            where=WHERE,
            cause=cause,
            fix="give values as the model gets them in use",
        )
    working = working_sizes(state, _declared(state))
    return ConfigError(
        f"the model does not run on inputs of these shapes: {given}",
        code="input-refused",
        where=WHERE,
        cause=cause,
        fix=f"it runs with sizes from the first to the last of {working.replace('--shape ', '')}"
        if working
        else "give values as the model gets them in use",
    )


def _out_of_range(values: Mapping[str, NDArray[Any]], search: Search) -> tuple[str, str] | None:
    """Whole numbers that index something shorter; negative ones count from its end."""
    for name, (_, end) in search.used.items():
        value = values.get(name)
        if value is None or value.size == 0 or value.dtype.kind not in "ui":
            continue
        low, high = int(value.min()), int(value.max())
        if low < -end or high >= end:
            return (
                f"input {name!r} has numbers from {low} to {high}, and the model looks them up among {int(end)}",
                f"give {name} numbers from 0 to {int(end) - 1}",
            )
    return None


def _uneven(state: State, values: Mapping[str, NDArray[Any]]) -> tuple[str, str] | None:
    """A dim of one name that has two sizes."""
    from surgery.verify.cases import specs_of

    seen: dict[str, tuple[str, int]] = {}
    for name, (_, dims) in specs_of(state.source.proto).items():
        for dim, size in zip(dims or (), values[name].shape, strict=False):
            if not isinstance(dim, str):
                continue
            first, other = seen.setdefault(dim, (name, size))
            if size != other:
                return (
                    f"the dim {dim!r} is {other} in input {first!r} and {size} in input {name!r}",
                    f"give all inputs the same size for {dim}",
                )
    return None


def _runs_at_these_sizes(state: State, values: Mapping[str, NDArray[Any]], search: Search) -> bool:
    from surgery.verify.cases import probe

    entries = [{"input": n, "min": v.shape, "opt": v.shape, "max": v.shape} for n, v in values.items()]
    error, _ = probe(
        state.source.proto, _declared(state), entries,
        seed=state.options.seed, constants=state.options.constants, search=search, most=search.attempts,
    )  # fmt: skip
    return error is None


def _declared(state: State) -> onnx.ModelProto:
    """The original's own inputs, without those that are constants."""
    import onnx

    model = onnx.ModelProto()
    initial = {t.name for t in state.source.proto.graph.initializer}
    for value in state.source.proto.graph.input:
        if value.name not in initial and value.name not in state.options.constants:
            model.graph.input.add().CopyFrom(value)
    return model
