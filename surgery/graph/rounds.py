"""Loops with an open end that put something together: written out up to a bound, each round under a guard.

What a loop carries may grow from round to round, and what it stacks is as long as it has rounds. Where the number of
rounds depends on data, every round up to a bound is written out; a round that the loop would not have made changes
nothing that is kept. What has grown is padded to the size after the last round, and a count says how much is real.
The bound is the round after which the condition is surely false, whatever the data, or one that the user gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body_types import body_types, surely_equal
from surgery.graph.bounded.by_entry import PER_ENTRY
from surgery.graph.bounded.dims import FREE
from surgery.graph.bounded.work import Bounds, No
from surgery.graph.cloner import Cloner, prefix_of
from surgery.graph.convert import value_of
from surgery.graph.decided import Conditions
from surgery.graph.nodes import choose, detach, make_node, put_constant
from surgery.graph.scope import Scope, any_used, known_value
from surgery.graph.unresolved import Unresolved
from surgery.graph.unroll import SCANNED, SMALL, SMALL_NODES

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    from surgery.graph.bounded.dims import Dim


CHANGES = "loop-state-shape-changes"
"""Class of loops that carry a tensor whose shape changes."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A loop that was written out, and what it made of a size that depends on data.

    Attributes:
        node: Its name.
        rounds: How many rounds were written out.
        given: Whether the user gave the bound, and the condition does not.
        padded: Tensor, its padded axis, and the count: an int64 tensor of rank 0.
        made: Names of the new nodes.
        loop: Whether it is a loop still, with buffers.
    """

    node: str
    rounds: int
    given: bool
    padded: tuple[tuple[Any, int, Any], ...]
    made: tuple[str, ...]
    loop: bool = False


def write_out_rounds(graph: gs.Graph, names: Sequence[str], most: int | None) -> list[Grown | Unresolved]:
    """Write out loops of the outermost graph whose number of rounds is bounded, in place.

    Args:
        graph: The graph, in topological order, with types inferred.
        names: Names of the loops.
        most: Rounds that a loop makes at most, where its condition does not say.

    Returns:
        One entry for each loop that is found: what became of it, or why it cannot be written out.
    """
    found: list[Grown | Unresolved] = []
    for node in [n for n in graph.nodes if n.op == "Loop" and (n.name or n.outputs[0].name) in names]:
        try:
            found.append(_written(graph, node, most))
        except Stuck as stuck:
            name = node.name or node.outputs[0].name
            found.append(Unresolved(name, "Loop", "", str(stuck), stuck.known_as, stuck.fix))
    return found


def _written(graph: gs.Graph, node: gs.Node, most: int | None) -> Grown:
    """The rounds written out, or where they are too many, a loop with buffers."""
    from surgery.graph.buffers import Buffers

    body, states = node.attrs["body"], max(0, len(node.inputs) - 2)
    if len(body.inputs) != states + 2 or len(body.outputs) <= states:
        raise Stuck(
            f"its body has {len(body.inputs)} inputs and {len(body.outputs)} outputs for {states} states"
        )
    ways = (_Rounds(graph, node, most), Buffers(graph, node, most))
    for way in ways:
        try:
            return way.write()
        except Stuck as stuck:
            detach(way.made)
            if way is ways[-1] or not stuck.long:
                raise
    raise AssertionError


def changes_size(body: gs.Graph, before: Any, after: Any) -> bool:
    """Whether a round surely makes a carried tensor longer, or shorter, whatever its size.

    Args:
        body: The body of the loop.
        before: The body's input.
        after: The body's output.
    """
    producers = {t.name: n for n in body.nodes for t in n.outputs if t.name}
    stack: list[tuple[Any, frozenset[str]]] = [(after, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while stack:
        tensor, ways = stack.pop()
        if tensor.name == before.name and len(ways) == 1:
            return True
        node = producers.get(tensor.name)
        if (tensor.name, ways) in seen or node is None or node.domain not in (None, "", "ai.onnx"):
            continue
        seen.add((tensor.name, ways))
        if node.op in PER_ENTRY:
            stack += [(t, ways) for t in node.inputs if t.name]
        elif node.op == "Concat" and len(node.inputs) > 1:
            stack += [(t, ways | {"longer"}) for t in node.inputs]
        elif node.op == "Slice" and len(node.inputs) > 2 and _shortens(node):
            stack.append((node.inputs[0], ways | {"shorter"}))
    return False


def _shortens(node: gs.Node) -> bool:
    """Whether a Slice leaves something out at one end."""
    import onnx_graphsurgeon as gs

    starts, ends = (value_of(t) if isinstance(t, gs.Constant) else None for t in node.inputs[1:3])
    return (starts is not None and bool((starts > 0).any())) or (ends is not None and bool((ends < 0).any()))


class Stuck(Exception):  # noqa: N818 - an answer
    """Why a loop cannot be written out."""

    def __init__(self, why: str, known_as: str = CHANGES, fix: str = "", *, long: bool = False) -> None:
        super().__init__(why)
        self.known_as, self.fix, self.long = known_as, fix, long


@dataclass
class _State:
    """What a carried tensor is before each round, and what it would be if all rounds were made.

    Attributes:
        values: One tensor for each number of rounds made.
        kept: The value that is kept: the last one under the guards; None once it has changed its shape.
        known: Whether the last of the values depends on no data.
    """

    values: list[Any]
    kept: Any
    known: bool


class _Rounds:
    """Writes out one loop."""

    def __init__(self, graph: gs.Graph, node: gs.Node, most: int | None) -> None:
        self.graph, self.node, self.body = graph, node, node.attrs["body"]
        self.most = SMALL if most is None else min(most, SMALL)
        self.given = most
        self.cloner, self.prefix = Cloner(graph), prefix_of(node)
        self.scope = Scope(graph)
        self.bounds = Bounds({}, opset=int(graph.opset))
        self.conditions = Conditions(self.bounds)
        self.bounds.named = frozenset(d for t in graph.inputs for d in t.shape or () if isinstance(d, str))
        self.made: list[Any] = []
        self.count = len(node.inputs) - 2

    # -- writing ------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Any, dtype: Any = None, **attributes: Any) -> Any:
        """Write a node; its output."""
        import onnx_graphsurgeon as gs

        name = self.cloner.fresh(f"{self.prefix}{op.lower()}")
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        out = gs.Variable(name, np.dtype(dtype or operands[0].dtype))
        node = make_node(op, name, operands, [out], attributes)
        self.add(node)
        return out

    def const(self, value: NDArray[Any]) -> Any:
        """A constant."""
        return put_constant(self.cloner.fresh(f"{self.prefix}constant"), value, value.dtype)

    def add(self, node: gs.Node) -> None:
        """Take a node for written, and find out what it makes."""
        self.made.append(node)
        self.scope.add(node)
        for tensor in node.inputs:
            self._name_sizes(tensor)
        if node.op == "If":
            types = [body_types(node.attrs[b], self.scope) for b in ("then_branch", "else_branch")]
            for tensor, left, right in zip(node.outputs, *types, strict=True):
                if surely_equal(left, right):
                    tensor.shape = left[1]
        else:
            self.bounds.infer(node)

    def _name_sizes(self, tensor: Any) -> None:
        """Give sizes that are those of an input their names, which inference did not find."""
        import onnx_graphsurgeon as gs

        if isinstance(tensor, gs.Constant) or tensor.shape is None or None not in tensor.shape:
            return
        shape = list(tensor.shape)
        for axis, dim in self.bounds.exact_dims(tensor).items():
            name = dim.atoms[0].removeprefix(FREE) if len(dim.atoms) == dim.factor == 1 else ""
            if shape[axis] is None and name in self.bounds.named:
                shape[axis] = name
        tensor.shape = shape

    # -- the loop -----------------------------------------------------------------------------------

    def write(self) -> Grown:
        """Write it out."""
        node, body, scope = self.node, self.body, self.scope
        states = [
            _State([t], t, known_value(t, scope) is not None) for t in map(scope.tensor, node.inputs[2:])
        ]
        if any(getattr(s.kept, "type", "tensor_type") != "tensor_type" for s in states):
            raise Stuck("it carries sequences, and how many rounds it makes depends on data")
        scanned: list[list[Any]] = [[] for _ in body.outputs[1 + self.count :]]
        guard, sure = self._start()
        guards = []  # one for each round: None if it is surely made
        true = put_constant(self.cloner.fresh(f"{self.prefix}true"), True, np.bool_)
        trips = scope.tensor(node.inputs[0]) if node.inputs[0].name else None
        limit = known_value(trips, scope) if trips is not None else None
        last = None if limit is None else int(limit.reshape(-1)[0])
        ended = last is not None and last < 1
        k = 0
        while not ended:
            if k >= self.most or (k + 1) * max(1, len(body.nodes)) > SMALL_NODES:
                self._check_end(k)
                break
            if trips is not None and last is None:
                more = self.emit("Greater", self._scalar(trips), np.asarray(k, np.int64), dtype=np.bool_)
                guard, sure = more if sure and k == 0 else self.emit("And", guard, more), False
            guards.append(None if sure else guard)
            names: dict[str, Any] = {
                body.inputs[0].name: put_constant(self.cloner.fresh(f"{self.prefix}{k}/round"), k),
                body.inputs[1].name: true,
                **{i.name: self._before(s) for i, s in zip(body.inputs[2:], states, strict=True)},
            }
            for one in self.cloner.nodes(body, names, scope, f"{self.prefix}{k}/", shapes=False):
                self.add(one)
            results = [self.cloner.tensor(t, names, scope, f"{self.prefix}{k}/") for t in body.outputs]
            for state, value in zip(states, results[1:], strict=False):
                self._carry(state, value, guards[-1])
            for values, value in zip(scanned, results[1 + self.count :], strict=True):
                values.append(value)
            goes_on = self.conditions.decided(results[0], scope)
            k += 1
            ended = goes_on is False or k == last
            if goes_on is None and not ended:
                condition = self._scalar(results[0])
                guard = condition if sure else self.emit("And", guard, condition)
                sure = False
        return self._finish(states, scanned, guards, k, given=not ended)

    def _start(self) -> tuple[Any, bool]:
        """The condition before the first round, and whether it surely holds."""
        if len(self.node.inputs) < 2 or not self.node.inputs[1].name:
            return None, True
        condition = self.scope.tensor(self.node.inputs[1])
        known = self.conditions.decided(condition, self.scope)
        if known is False:
            raise Stuck("it makes no round at all")
        return (None, True) if known else (self._scalar(condition), False)

    def _check_end(self, rounds: int) -> None:
        """Make sure that the user has said that there are no more rounds."""
        if self.given is not None and rounds >= self.given:
            return
        raise Stuck(f"{rounds} rounds of {len(self.body.nodes)} nodes do not end it", long=True)

    def _scalar(self, tensor: Any) -> Any:
        """The one element of a tensor, as one of rank 0."""
        if tensor.shape is not None and len(tensor.shape) == 0:
            return tensor
        return self.emit("Reshape", tensor, np.asarray([], np.int64))

    @staticmethod
    def _before(state: _State) -> Any:
        """What a round reads: the value that is kept; the latest one if that is known, or changes its shape."""
        return state.values[-1] if state.kept is None or state.known else state.kept

    def _carry(self, state: _State, value: Any, guard: Any) -> None:
        """Take note of a state after a round."""
        before = state.kept
        state.values.append(value)
        state.known = known_value(value, self.scope) is not None
        if before is None or not self._alike(before, value):
            state.kept = None
        elif guard is None or value.name == before.name:
            state.kept = value
        else:
            state.kept = self._chosen(guard, value, before)

    def _chosen(self, guard: Any, value: Any, other: Any) -> Any:
        """`value` where the guard holds, else `other`."""
        import onnx_graphsurgeon as gs

        out = gs.Variable(self.cloner.fresh(f"{self.prefix}kept"), value.dtype or other.dtype)
        for node in choose(self.cloner.fresh, guard, value, other, out, out.name):
            self.add(node)
        return out

    def _alike(self, one: Any, other: Any) -> bool:
        """Whether two tensors surely have the same shape."""
        try:
            return self.bounds.dims(one) == self.bounds.dims(other)
        except No:
            return False

    # -- what comes out -----------------------------------------------------------------------------

    def _finish(
        self, states: list[_State], scanned: list[list[Any]], guards: list[Any], rounds: int, *, given: bool
    ) -> Grown:
        """Let what was written make the loop's outputs."""
        done: Any = None  # how many rounds are made; None if all are
        if any(g is not None for g in guards):
            done = self.const(np.asarray(sum(g is None for g in guards), np.int64))
            for guard in guards:
                if guard is not None:
                    done = self.emit("Add", done, self.emit("Cast", guard, dtype=np.int64, to=7))
        ends: list[tuple[Any, Any, int | None, Any]] = []
        for state, target in zip(states, self.node.outputs[: self.count], strict=False):
            if any_used([target], self.scope):
                ends.append((target, *self._result(state, done)))
        for values, target in zip(scanned, self.node.outputs[self.count :], strict=False):
            if not any_used([target], self.scope):
                continue
            if not values:
                raise Stuck("it stacks what its rounds make, and makes none", SCANNED)
            ends.append((target, self._stacked(values), None if done is None else 0, done))
        for target, value, _, _ in ends:
            if target.dtype is None:
                target.dtype = value.dtype
            target.shape = None if value.shape is None else list(value.shape)
            self.made.append(make_node("Identity", f"{self.prefix}{target.name}", [value], [target]))
        place = next(i for i, n in enumerate(self.graph.nodes) if n is self.node)
        detach([self.node])
        nodes = list(self.graph.nodes)
        self.graph.nodes.clear()
        self.graph.nodes.extend([*nodes[:place], *self.made, *nodes[place + 1 :]])
        padded = tuple((target, axis, count) for target, _, axis, count in ends if axis is not None)
        return Grown(
            self.node.name or self.node.outputs[0].name,
            rounds,
            given,
            padded,
            tuple(n.name for n in self.made),
        )

    def _stacked(self, values: list[Any]) -> Any:
        """What the rounds gave, along a new axis in front."""
        if int(self.graph.opset) >= 13:
            parts = [self.emit("Unsqueeze", v, np.asarray([0], np.int64)) for v in values]
        else:
            parts = [self.emit("Unsqueeze", v, axes=[0]) for v in values]
        return self.emit("Concat", *parts, axis=0)

    def _result(self, state: _State, done: Any) -> tuple[Any, int | None, Any]:
        """What is left of a carried tensor: the value, its padded axis, and its true size."""
        if state.kept is not None:
            return state.kept, None, None
        if done is None:
            return state.values[-1], None, None
        ranks = {None if v.shape is None else len(v.shape) for v in state.values}
        if len(ranks) > 1 or None in ranks:
            raise Stuck("it carries a tensor whose rank changes, or is not known")
        ways = {self._continues(one, other) for one, other in pairwise(state.values)}
        axis = ways.pop() if len(ways) == 1 else None
        begins = axis is not None
        shapes = [self.bounds.dims(v) for v in state.values]
        if axis is None:
            axes = [a for a in range(len(shapes[0])) if len({s[a] for s in shapes}) > 1]
            if len(axes) != 1:
                raise Stuck("it carries a tensor that changes along more than one axis, or may do so")
            (axis,) = axes
        dims = [s[axis] for s in shapes]
        count = self.emit("Gather", self._sizes(state.values, dims, axis), done, axis=0)
        if begins:
            return state.values[-1], axis, count
        return self._selected(state.values, [d.number for d in dims], axis, done), axis, count

    def _sizes(self, values: list[Any], dims: list[Dim], axis: int) -> Any:
        """Sizes along an axis after each number of rounds, int64 [rounds + 1]."""
        if all(d.number is not None for d in dims):
            return self.const(np.asarray([d.factor for d in dims], np.int64))
        place = np.asarray([axis], np.int64)
        parts = [self.emit("Gather", self.emit("Shape", v, dtype=np.int64), place, axis=0) for v in values]
        return self.emit("Concat", *parts, axis=0)

    def _continues(self, before: Any, after: Any) -> int | None:
        """The axis along which something has been put behind a tensor, and nothing else been done to it."""
        owner = self.scope.owner(after.name)
        node = None if owner is None else owner.producers.get(after.name)
        if node is None:
            return None
        if node.op == "Identity":
            return self._continues(before, node.inputs[0])
        if node.op != "Concat":
            return None
        axis = int(node.attrs["axis"]) % len(before.shape)
        first = node.inputs[0]
        return axis if first.name == before.name or self._continues(before, first) == axis else None

    def _selected(self, values: list[Any], sizes: list[int | None], axis: int, done: Any) -> Any:
        """The value after as many rounds as are made, each padded to the size of the largest."""
        if all(n is not None for n in sizes):
            room = max(n for n in sizes if n is not None)
            places: Any = np.arange(room, dtype=np.int64)
            ends: list[Any] = [None if n is None else n - 1 for n in sizes]
        else:
            ends = []
            largest: Any = None
            for value in values:
                shape = self.emit("Shape", value, dtype=np.int64)
                size = self.emit("Gather", shape, np.asarray(axis, np.int64), axis=0)
                ends.append(self.emit("Sub", size, np.asarray(1, np.int64)))
                if largest is None:
                    largest = size
                else:
                    less = self.emit("Less", largest, size, dtype=np.bool_)
                    largest = self.emit("Where", less, size, largest, dtype=np.int64)
            places = self.emit("Range", np.asarray(0, np.int64), largest, np.asarray(1, np.int64))
        found: Any = None
        for number, (value, end) in enumerate(zip(values, ends, strict=True)):
            if isinstance(end, int) and end < 0:
                continue  # nothing of it is real, so anything will do
            if isinstance(end, int):
                index: Any = np.minimum(places, end)
            else:
                inside = self.emit("Less", places, end, dtype=np.bool_)
                index = self.emit("Where", inside, places, end, dtype=np.int64)
            part = self.emit("Gather", value, index, axis=axis)
            here = self.emit("Equal", done, np.asarray(number, np.int64), dtype=np.bool_)
            found = part if found is None else self._chosen(here, part, found)
        return found
