"""parse: the target's real parser reads the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from surgery.errors import ConversionError
from surgery.pipeline import StageResult, State

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import ParserMessage


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Parse:
    """Ask the target's parser; skipped where that TensorRT is not installed."""

    name: ClassVar[str] = "parse"

    def run(self, state: State) -> StageResult:
        """Parse in a child process; fill ``unsupported.after``."""
        from surgery.stages.because import because
        from surgery.stages.inspect import unsupported
        from surgery.stages.kept import library_missing, without_kept
        from surgery.stages.profiles import check_ranks
        from surgery.stages.substitute import finish
        from surgery.stages.trt_model import handed_over, worker_for

        if state.target_model is None:
            finish(state)
        assert state.target_model is not None
        if not state.target.installed:
            refused = unsupported(state.target_model, state.target)
            state.report.unsupported["after"] = without_kept(state, refused)
        lacking = library_missing(state)
        if not state.target.installed:
            return StageResult(False, f"not run: {state.target.name} is not installed")
        if lacking is not None:
            return StageResult(False, lacking)
        check_ranks(state.target_model.graph.input)
        worker = worker_for(state)
        with handed_over(state) as model:
            outcome = worker.parse(model)
        if outcome.ok:
            return StageResult(False, f"{state.target.name} takes the model")
        if outcome.aborted or outcome.timed_out or outcome.out_of_memory:
            how = (
                "ran out of time" if outcome.timed_out
                else "ran out of memory" if outcome.out_of_memory
                else "aborted"
            )  # fmt: skip
            raise ConversionError(
                f"the parser {how}" + (f" at node {outcome.last_node!r}" if outcome.last_node else ""),
                code="parser-aborted" if outcome.aborted else "parser-limit",
                where=state.source.name,
                node=outcome.last_node,
                cause="TensorRT ended the process; nothing else is lost",
                fix="replace that node by standard operators, or try another target",
            )
        state.report.unsupported["after"] = [
            {"node": e.node_name, "op": e.node_op, "reason": f"{e.code}: {e.description}", "fix": None}
            for e in outcome.errors
        ]
        first = outcome.errors[0] if outcome.errors else None
        why = because(outcome.errors, state.target_model)
        raise ConversionError(
            _refusal(outcome.errors, state.target_model),
            code="parser-refused",
            where=state.source.name,
            node=first.node_name if first else None,
            cause=why.cause,
            fix=" ".join(
                [
                    *([why.fix] if why.fix else []),
                    f"All of them: surgery explain {state.source.path or 'MODEL'}",
                ]
            ),
        )


def _refusal(errors: Sequence[ParserMessage], model: onnx.ModelProto) -> str:
    """What the parser refuses: nodes, or inputs, for which it names none."""
    import onnx

    first = next((e for e in errors if e.node_op), None)
    if first is not None:
        count = "1 node" if len(errors) == 1 else f"{len(errors)} nodes"
        return f"the parser refuses {count}, first {first.node_name!r} ({first.node_op})"
    kinds = [
        f"{v.name!r} ({onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower()}, "
        f"{len(v.type.tensor_type.shape.dim)} dims)"
        for v in model.graph.input
    ]
    return f"the parser refuses an input: {', '.join(kinds)}" if errors else "the parser refuses the model"
