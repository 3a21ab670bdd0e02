"""Sizes that depend on data: fixed sizes, counts beside them, and true sizes wherever a shape is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import ConversionError
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.following import follow
from surgery.graph.bounded.nothing import full_branch, guards_nothing
from surgery.graph.bounded.values import limited
from surgery.graph.bounded.wanted import same_number, shape_from_data
from surgery.graph.bounded.work import Bounds, Unbounded
from surgery.graph.by_mask import RULE, assign_by_mask
from surgery.graph.fold import fold_constants
from surgery.graph.infer import infer_foreign_types, infer_types
from surgery.graph.measure import measure
from surgery.graph.merge import merge_equal
from surgery.graph.tidy import drop_unused_outputs
from surgery.report import Edit, IoChange
from surgery.stages.because import because

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State
    from surgery.rules.engine.run import Engine, Outcome
    from surgery.stages.oracle import Oracle

SELECTING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Operators the size of whose results always depends on data."""


LOGIC = frozenset(
    {
        "Cast",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Not",
        "And",
        "Or",
        "Identity",
        "Squeeze",
    }
)
"""Operators between sizes and the condition that they decide."""

MOST_STEPS = 64
"""Tensors that are looked at to see what decides a condition."""


def _open_slice(node: Any) -> bool:
    """Whether the bounds of a Slice may come from data."""
    import onnx_graphsurgeon as gs

    return node.op == "Slice" and any(t.name and not isinstance(t, gs.Constant) for t in node.inputs[1:3])


def _size(tensor: Any, axis: int) -> Any:
    return tensor.shape[axis] if tensor.shape is not None and axis < len(tensor.shape) else None


class Sizes:
    """Replaces operators whose output size depends on data, one after another, and follows the padding.

    Args:
        state: The run.
        engine: Rules.
        oracle: What the target takes.
        limits: Tensor of numbers from data that decide sizes to the largest that they can be.
    """

    def __init__(
        self, state: State, engine: Engine, oracle: Oracle, limits: Mapping[str, int] | None = None
    ) -> None:
        self.state, self.engine, self.oracle = state, engine, oracle
        self.limits = dict(limits or {})
        self.bounds = Bounds(state.provenance, refuses=lambda node: bool(self._refused(node)))
        self._given_up: set[str] = set()
        self._held: list[Any] = []
        self._refused: Any = lambda node: False

    def resolve(self) -> Outcome | None:
        """Replace what the target refuses; what the rules did, None if there is nothing of the kind.

        Raises:
            ConversionError: a node behind one of these cannot work on padded tensors.
        """
        state = self.state
        self._refused = self.engine.refuses(state.graph)
        nodes = list(state.graph.nodes)
        sure = bool(self.bounds.open) or any(
            n.op in SELECTING or (n.op == "If" and guards_nothing(n)) for n in nodes
        )
        # What limits a number is looked at on the way; beforehand only where nothing else leads there.
        if not sure and not any(_open_slice(n) for n in nodes):
            if not any(limited(self.bounds, n) for n in nodes) and not self.bounds.open:
                return None
            sure = True
        # Where Slices are all, mostly nothing is padded in the end, and the graph is better left as it is.
        untouched = None if sure else (state.graph.copy(), len(state.report.edits))
        whole: Outcome | None = None
        merge_equal(state.graph)  # what is chosen twice by the same condition is of the same size
        self._assign()
        while True:
            fold_constants(state.graph)
            drop_unused_outputs(state.graph)
            if infer_foreign_types(state.graph):
                infer_types(state.graph)
            self._refused = self.engine.refuses(state.graph)
            found = self._follow()
            if self._limit():
                continue
            if not found:
                break
            branches = [n for n in found if n.op == "If"]
            if branches:
                for node in branches:
                    self._take_branch(node)
                continue
            measure(state.graph, [t for n in found for t in n.inputs if t.name])
            before = {id(n) for n in state.graph.nodes}
            outcome = self.engine.run(state.graph, state.provenance, only=found)
            self.bounds.written(n for n in state.graph.nodes if id(n) not in before)
            self._given_up.update(n.outputs[0].name for n in found if n.outputs)
            self.take(outcome)
            self._follow()  # before folding, which would take rooms for sizes
            if whole is None:
                whole = outcome
            else:
                whole.edits.extend(outcome.edits)
        if untouched is not None and whole is None and self._left_alone(*untouched):
            return None
        self.tell()
        return whole

    def _left_alone(self, before: gs.Graph, edits: int) -> bool:
        """Take back what has been written, if nothing was padded, bounded or replaced; whether that is so."""
        state = self.state
        if self.bounds.padded or self.bounds.given or len(state.report.edits) > edits:
            return False
        state.graph = before
        self.bounds = Bounds(state.provenance, refuses=lambda node: bool(self._refused(node)))
        self._held.clear()
        self._refused = self.engine.refuses(before)
        return True

    def _limit(self) -> bool:
        """Bound numbers from data that nothing in the model bounds; whether there was one."""
        from surgery.stages.limits import limits_for

        names = self.state.graph.tensors()
        wanted = {
            name: node
            for name, (_, node) in self.bounds.open.items()
            if name not in self.bounds.given and name in names
        }
        if not wanted:
            return False
        alike: dict[str, list[str]] = {}
        for name in wanted:
            alike.setdefault(same_number(self.bounds, self.bounds.open[name][0]), []).append(name)
        first = {next((n for n in same if n in self.limits), same[0]): same for same in alike.values()}
        for name, limit in limits_for(self.state, {n: wanted[n] for n in first}, self.limits).items():
            self.bounds.given.update(dict.fromkeys(first[name], limit))
        return True

    def _assign(self) -> None:
        """Assignments to what a mask chooses need no sizes; the report gets an edit for each."""
        for name, made in assign_by_mask(self.state.graph, self.state.provenance):
            self.state.report.edits.append(
                Edit(RULE, "rewrite", (name,), tuple(made), "skipped: compared as a whole by verify")
            )

    def take(self, outcome: Outcome) -> None:
        """Take note of what rules have padded."""
        tensors = self.state.graph.tensors()
        for name, (axis, count) in outcome.bounded.items():
            tensor = tensors.get(name)
            if tensor is None:
                continue
            if not isinstance(_size(tensor, axis), int):
                tensor.shape = None  # what was declared holds for the true size
                infer_types(self.state.graph)
            if tensor.shape is None:
                raise self._error(name, "its rank is not known")
            self.bounds.add(tensor, axis, tensors[count])
        self._hold()

    def take_grown(self, padded: Iterable[tuple[Any, int, Any]]) -> None:
        """Take note of what loops have padded.

        Args:
            padded: Tensor, its padded axis, and the count.
        """
        for tensor, axis, count in padded:
            self.bounds.add(tensor, axis, count)
        self._hold()
        self._refused = self.engine.refuses(self.state.graph)
        self._follow()
        self.tell()

    def _hold(self) -> None:
        """Keep what is known of counts alive through folding, as outputs, until :meth:`release`."""
        own = {id(t) for t in self.state.graph.outputs}
        fresh = [t for t in self.bounds.values() if id(t) not in own]
        self._held += fresh
        self.state.graph.outputs.extend(fresh)

    def release(self) -> None:
        """Take off the outputs that were there to keep counts alive."""
        held = {id(t) for t in self._held}
        self.state.graph.outputs = [t for t in self.state.graph.outputs if id(t) not in held]
        self._held.clear()

    def follow(self) -> None:
        """Follow the padding through the graph, after rules have been applied everywhere."""
        self._refused = lambda node: False
        self._follow()
        self.tell()

    def _follow(self) -> list[Any]:
        try:
            found = follow(self.bounds, self.state.graph, self._waits)
        except Unbounded as error:
            raise self._error(error.tensor, error.why, error.node.name) from error
        self._hold()
        return found

    def _waits(self, node: Any) -> bool:
        if (
            not node.outputs
            or node.outputs[0].name in self._given_up
            or node.domain not in (None, "", "ai.onnx")
        ):
            return False
        if node.op == "If":
            return guards_nothing(node) or self._by_size(node)
        if node.op in SELECTING:
            return node.op in self.oracle.said or bool(self._refused(node))
        if node.op != "Slice" or len(node.inputs) < 3:
            return False
        shape_from_data(self.bounds, node)
        known = [self.bounds.elements(t) is not None for t in node.inputs[1:3]]
        return not all(known) and bool(self._refused(node))

    def _by_size(self, node: Any) -> bool:
        """Whether an If is decided by sizes that depend on data: is there anything at all?"""
        stack, seen = [node.inputs[0]], 0
        found = False
        while stack:
            tensor = stack.pop()
            seen += 1
            if self.bounds.elements(tensor) is not None:
                found |= any(not d.exact for d in self.bounds.elements(tensor).reshape(-1))  # type: ignore[union-attr]
                continue
            if seen > MOST_STEPS or not tensor.inputs or tensor.inputs[0].op not in LOGIC:
                return False
            stack += [t for t in tensor.inputs[0].inputs if t.name]
        return found and full_branch(node) is not None

    def _take_branch(self, node: Any) -> None:
        """With nothing chosen, what is computed from nothing is empty too, so the full branch does for both."""
        from surgery.graph.control_flow import inline_branch

        name = full_branch(node)
        assert name is not None
        self.bounds.renewed(t.name for t in node.outputs)
        made = inline_branch(self.state.graph, node, name)
        for new in made:
            output = next(t.name for t in new.outputs if t.name)
            self.state.provenance.setdefault(output, {"surgery.rule": "keep-sizes"})
        self.state.report.edits.append(
            Edit(
                "keep-sizes", "rewrite", (node.name,), tuple(n.name for n in made),
                "skipped: compared as a whole by verify", None,
                ("the branch for nothing at all gives nothing, as the other does on nothing",),
            )
        )  # fmt: skip

    def tell(self) -> None:
        """Make the counts of padded outputs outputs too, and say how to get the true sizes back."""
        state = self.state
        for assumption in self.bounds.assumptions:
            state.warn(assumption)
        told = {c.name for c in state.report.io_changes if (c.inverse or {}).get("op") == "slice_by_count"}
        counts: dict[str, str] = {}
        for output in list(state.graph.outputs):
            if output.name in told:
                continue
            for axis, dim in sorted(self.bounds.padded.get(output.name, {}).items()):
                key = str(dim)
                if key not in counts:
                    name = f"{output.name}_count" + (
                        f"_{axis}" if f"{output.name}_count" in counts.values() else ""
                    )
                    state.graph.outputs.append(self.bounds.append_value(state.graph, dim, name))
                    counts[key] = name
                state.report.io_changes.append(
                    IoChange(
                        output.name,
                        f"its size depends on the data: padded along axis {axis}, {counts[key]} says how much counts",
                        {"name": output.name},
                        {"name": output.name, "count": counts[key], "axis": axis},
                        {
                            "op": "slice_by_count",
                            "name": output.name,
                            "count": counts[key],
                            "axis": axis,
                            "added": True,
                        },
                    )
                )

        self._tell_limits(told | {o.name for o in state.graph.outputs if o.name in self.bounds.padded})

    def _tell_limits(self, padded: set[str]) -> None:
        """Make numbers that nothing bounds outputs, where the count of no output says that there is no room."""
        state = self.state
        said = {a for name in padded for d in self.bounds.padded.get(name, {}).values() for a in d.atoms}
        known = {str((c.inverse or {}).get("of")) for c in state.report.io_changes}
        for number, limit in self.bounds.limited.items():
            if number in said or number in known:
                continue
            name = f"{self.bounds.sources[number].tensor.name}/needed"
            state.graph.outputs.append(self.bounds.append_value(state.graph, Dim(1, (number,)), name))
            state.report.io_changes.append(
                IoChange(
                    name,
                    f"a size depends on the data: the result is valid where this is at most {limit}",
                    {},
                    {"name": name, "limit": limit},
                    {
                        "op": "at_most",
                        "name": name,
                        "count": name,
                        "limit": limit,
                        "of": number,
                        "added": True,
                    },
                )
            )

    def _error(self, tensor: str, why: str, node: str = "") -> ConversionError:
        refused = [op for op in self.oracle.said if op in SELECTING or op == "Slice"]
        known = (
            because(self.oracle.said[refused[0]], self.state.source.proto, op=refused[0]) if refused else None
        )
        return ConversionError(
            f"the size of {tensor!r} depends on the data, and what follows cannot work on a padded tensor: {why}",
            code="data-dependent-shape",
            where=self.state.source.name,
            node=node or None,
            cause="TensorRT needs sizes that follow from the sizes of the inputs"
            + (f" [{known.id}]" if known is not None and known.id else ""),
            fix="end the model at that tensor, or replace what follows by a form of fixed size",
        )
