"""The inputs of a run's verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from surgery.pipeline import State
    from surgery.verify.cases import Case


def cases_for(
    state: State, model: onnx.ModelProto, profiles: Sequence[Mapping[str, Any]], per_point: int
) -> list[Case]:
    """Seeded cases on which the original runs, as far as such can be found."""
    from surgery.graph.bfloat import has_bfloat16
    from surgery.stages.trt_model import on_disk
    from surgery.verify.cases import make_cases
    from surgery.verify.search import Search

    if has_bfloat16(state.source.proto):
        state.note(
            "bfloat16 operators that ONNX Runtime has no kernels for are computed in float32 in verification, and "
            "their results rounded to bfloat16"
        )
    with on_disk(state.source.proto, state.source) as original:
        return make_cases(
            state.source.proto,
            model,
            profiles,
            per_point=per_point,
            seed=state.options.seed,
            given=state.options.inputs,
            constants=state.options.constants,
            search=Search(state.source.proto, original, state.options.inputs),
        )
