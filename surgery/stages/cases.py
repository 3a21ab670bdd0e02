"""The inputs of a run's verification: values on which the original runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from surgery.pipeline import State
    from surgery.verify.cases import Case
    from surgery.verify.ranges import Span

FURTHER = ((0, 2), (1, 2), (1, 3), (0, 1), (0, 4))
"""Ranges tried for whole numbers whose meaning the graph does not show, after the usual ones."""


def cases_for(
    state: State, model: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]], per_point: int
) -> tuple[list[Case], dict[str, Span]]:
    """Seeded cases, with ranges of whole numbers in which the original runs.

    Ranges come from use where inputs index something. Where the original still refuses the values, further
    small ranges are tried; if none works, the user's own inputs stand alone, or the first cases do.

    Returns:
        The cases, and the ranges of whole numbers that they were made with.
    """
    import onnx

    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import make_cases
    from surgery.verify.ranges import ranges_from_use
    from surgery.verify.runner import RunError, run_onnx

    used = ranges_from_use(state.source.proto)
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL)
    graph = state.source.proto.graph
    known = {*used, *state.options.constants, *(t.name for t in graph.initializer)}
    whole = [
        v.name for v in graph.input if v.name not in known and v.type.tensor_type.elem_type not in kinds
    ]
    first: tuple[list[Case], dict[str, Span]] | None = None
    with on_disk(state.source.proto, state.source) as original:
        for span in (None, *FURTHER):
            spans = {**(dict.fromkeys(whole, span) if span else {}), **used}
            cases = make_cases(
                state.source.proto, model, profiles, per_point=per_point, seed=state.options.seed,
                given=state.options.inputs, constants=state.options.constants, spans=spans,
            )  # fmt: skip
            first = first or (cases, spans)
            if not whole:
                break  # nothing that another range could change
            try:
                run_onnx(original, [c.feeds for c in cases if c.name != "inputs"], "the original")
            except RunError:
                continue
            return cases, spans
    assert first is not None
    own = [c for c in first[0] if c.name == "inputs"] if whole else []
    return own or first[0], first[1]
