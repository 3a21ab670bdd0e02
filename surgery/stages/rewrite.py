"""rewrite: changes that leave the computed function as it is, and the cut at the front."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from surgery.pipeline import StageResult, State
from surgery.report import CutEntry, Edit, IoChange


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CutInput:
    """Cut off preprocessing.

    Attributes:
        cut: Name of the cut to take off.
        input: ``normalized``: the network reads what the preprocessing makes. ``uint8``: the network keeps
            the original image input and the arithmetic; only loops over the images of a batch are resolved.
        name: Name of the new input; without it, the tensor keeps its own.
    """

    cut: str
    input: Literal["normalized", "uint8"] = "normalized"
    name: str | None = "image"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rewrite:
    """Rewrite the graph.

    Attributes:
        cut_input: Preprocessing to cut off, or nothing.
        migrate: Make plugin nodes that the target lacks what it has in their place, or else standard nodes.
        keep_plugins: Names of plugins that a library of yours has; their nodes stay.
        rules: Apply the rewrite rules to what the target refuses or computes wrongly; see `surgery list rules`.
        rule_files: YAML or Python files with rules of your own, relative to this file; they come before the others.
        optional_rules: Names of rules that only change the form of what the target takes, and wait to be asked for.
        most_rounds: Rounds that a loop makes at most, where what it makes grows and its condition does not say.
        limits: Largest values of numbers from data that decide sizes and that nothing in the model bounds (lengths,
            durations), by tensor; measured on derived inputs without it.
    """

    name: ClassVar[str] = "rewrite"
    cut_input: CutInput | None = None
    migrate: bool = False
    keep_plugins: tuple[str, ...] = ()
    rules: bool = False
    rule_files: tuple[str, ...] = ()
    optional_rules: tuple[str, ...] = ()
    most_rounds: int | None = Field(default=None, ge=1)
    limits: dict[str, int] = Field(default_factory=dict)

    def run(self, state: State) -> StageResult:
        """Apply in place."""
        from surgery.stages.asked import interface
        from surgery.stages.profiles import check_shapes
        from surgery.stages.rules import apply_rules
        from surgery.stages.told import NOTHING

        texts, changed = [], False
        if self.cut_input is not None:
            result = self._cut_input(state, self.cut_input)
            check_shapes(state, interface(state))
            changed |= result.changed
            texts.append(result.summary)
        if self.migrate:
            from surgery.stages.migrate import migrate_plugins

            migrated = migrate_plugins(state, keep=self.keep_plugins)
            changed |= bool(migrated)
            texts.extend(migrated)
        if self.rules or self.rule_files or self.optional_rules:
            edits = len(state.report.edits)
            told = apply_rules(
                state,
                shipped=self.rules,
                files=self.rule_files,
                optional=self.optional_rules,
                most_rounds=self.most_rounds,
                limits=self.limits,
            )
            if told != NOTHING or not texts:
                texts.append(told)
            changed |= len(state.report.edits) > edits
        return StageResult(changed, "; ".join(texts) or "nothing to do")

    def _cut_input(self, state: State, options: CutInput) -> StageResult:
        from surgery.graph.fold import fold_constants
        from surgery.heads.front import cut_front, keep_front
        from surgery.stages.cuts import find_cut

        found = find_cut(state, options.cut)
        if found is None:
            return StageResult(False, f"no {options.cut} in this model")
        view, cut = found
        nodes = cut.nodes(view)
        names = tuple(n.name for n in nodes)
        state.record_cut(CutEntry(cut.name, names, cut.inputs, cut.outputs, cut.found_by))
        before = {t.name: _contract(t) for t in state.graph.inputs if t.name in cut.inputs}
        if options.input == "uint8":
            loops = keep_front(state.graph, cut, state.provenance, seed=state.options.seed)
            fold_constants(state.graph)
            for loop in loops:
                state.report.edits.append(
                    Edit(
                        "resolve-image-loop", "rewrite", (loop.node,), loop.nodes_after, "passed",
                        loop.max_abs_error, (), {"form": loop.form},
                    )
                )  # fmt: skip
            kept = ", ".join(f"{n} {d['dtype']}{d['shape']}" for n, d in before.items())
            return StageResult(bool(loops), f"input kept as {kept}; {len(loops)} image loops resolved")
        front = cut_front(state.graph, cut, name=options.name, seed=state.options.seed)
        state.pre = front.pre
        fold_constants(state.graph)
        after = {n.name: {"dtype": n.dtype, "shape": list(n.shape)} for n in front.inputs}
        for name, contract in before.items():
            state.report.io_changes.append(
                IoChange(
                    name,
                    f"the input is what the cut {cut.name!r} makes of it; {front.evidence}",
                    {"name": name, **contract},
                    {"inputs": [{"name": n, **d} for n, d in after.items()]},
                    {
                        "op": "apply",
                        "model": f"{state.source.name}.pre.onnx",
                        "from": name,
                        "to": list(after),
                    },
                )
            )
        state.report.edits.append(
            Edit(
                "cut-input",
                "cut",
                names,
                (),
                "skipped: kept as a model of its own and compared through it by verify",
                None,
                (),
                {"inputs": after, "constant": list(front.constants), "shapes": front.evidence},
            )
        )
        text = ", ".join(f"{n} {d['dtype']}{d['shape']}" for n, d in after.items())
        return StageResult(True, f"{len(names)} nodes of {cut.name} cut off; input is now {text}")


def _contract(tensor: Any) -> dict[str, Any]:
    dtype = np.dtype(tensor.dtype).name if tensor.dtype is not None else None
    return {"dtype": dtype, "shape": list(tensor.shape) if tensor.shape is not None else None}
