"""fold: nodes that depend only on constants and static shapes become constants."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from surgery.pipeline import StageResult, State
from surgery.report import CutEntry


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Fold:
    """Fold constants, and shapes where they are static.

    Attributes:
        max_bytes: Largest constant to make, in bytes; larger results stay computed.
        record: Cuts to look up before folding, because folding may dissolve them (anchors, say).
    """

    name: ClassVar[str] = "fold"
    max_bytes: int = Field(default=64 << 20, gt=0)
    record: tuple[str, ...] = ()

    def run(self, state: State) -> StageResult:
        """Fold the current graph in place."""
        from surgery.graph.fold import fold_constants
        from surgery.stages.cuts import find_cut

        for wanted in self.record:
            found = find_cut(state, wanted, required=False)
            if found is not None:
                view, cut = found
                names = tuple(n.name for n in cut.nodes(view))
                state.record_cut(CutEntry(cut.name, names, cut.inputs, cut.outputs, cut.found_by))
        result = fold_constants(state.graph, max_bytes=self.max_bytes)
        for node, reason in result.refused:
            state.note(f"node {node!r} depends on constants alone but cannot be evaluated: {reason}")
        return StageResult(result.removed > 0, f"{result.removed} nodes folded")
