"""Loops that stay loops though what they carry grows: buffers of the size after the last round, and true sizes.

Each tensor that grows is carried in a buffer that has room for all rounds, next to its true size; the body is
followed like any nodes behind a padded tensor. What the loop stacks is written into a buffer too, a row a round. How
many rounds there can be is found by following the numbers that do not depend on data from round to round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.following import follow
from surgery.graph.bounded.work import Bounds, No, Unbounded
from surgery.graph.cloner import Cloner, prefix_of
from surgery.graph.control_flow import Resolver
from surgery.graph.decided import Conditions
from surgery.graph.nodes import detach, make_node, put_constant, squeeze_like
from surgery.graph.rounds import Grown, Stuck, changes_size
from surgery.graph.scope import SEQUENCE_OPS, Scope, any_used, known_value
from surgery.graph.unroll import SCANNED
from surgery.graph.view import body_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.dims import Dim

MOST_ROUNDS = 2048
"""Rounds up to which a bound is looked for."""

PROBED = 64
"""Rounds for which a body is first followed, to see by how much things grow."""

APART = 1_000_000
"""Numbers in the names of new tensors that belong to one body."""

SELECTING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Operators the size of whose results always depends on data."""


@dataclass
class _Growing:
    """A carried tensor that grows.

    Attributes:
        index: Which of the carried tensors.
        axis: Its axis.
        size: Its size before the first round; None if that is free.
        by: By how much one round makes the buffer longer.
    """

    index: int
    axis: int
    size: int | None
    by: int

    def room(self, rounds: int) -> int | None:
        """Size of a buffer for so many rounds; None if it is free."""
        return None if self.size is None else self.size + rounds * max(0, self.by)


@dataclass
class _Body:
    """A copy of the body.

    Attributes:
        graph: The copy; its inputs are the round, the condition and carried tensors.
        bounds: What is padded in it.
        counts: True size of each tensor that grows.
    """

    graph: gs.Graph
    bounds: Bounds
    counts: list[Any]


class Buffers:
    """Gives one loop buffers.

    Args:
        graph: The graph around it, the outermost one.
        node: The loop.
        most: Rounds that it makes at most, where its condition does not say.
    """

    def __init__(self, graph: gs.Graph, node: gs.Node, most: int | None) -> None:
        self.graph, self.node, self.body, self.most = graph, node, node.attrs["body"], most
        self.cloner, self.prefix = Cloner(graph), prefix_of(node)
        self.scope = Scope(graph)
        self.starts = [self.scope.tensor(t) for t in node.inputs[2:]]
        self.made: list[Any] = []
        self.bodies = 0

    def write(self) -> Grown:
        """Put a loop with buffers in the place of the loop.

        Raises:
            Stuck: that is not possible.
        """
        inside = [*self.body.nodes, *(m for n in self.body.nodes for m in body_nodes(n))]
        if any(n.op in SEQUENCE_OPS for n in inside):
            raise Stuck("it carries sequences, and how many rounds it makes depends on data")
        growing = self._growing()
        probe = self._followed(growing, PROBED)
        for one in growing:
            one.by = self._growth(probe, one)
        rounds, given = self._rounds(growing, probe)
        return self._replace(growing, self._followed(growing, rounds), rounds, given)

    # -- the body -----------------------------------------------------------------------------------

    def _copied(self, shapes: Mapping[int, list[Any]], select: bool = False) -> _Body:
        """The body under names of its own, with types inferred.

        Args:
            shapes: Which of the carried tensors to its shape, where that is not the one before the first round.
            select: Whether to compute both branches of an If.
        """
        import onnx_graphsurgeon as gs

        self.bodies += 1
        prefix = f"{self.prefix}body{self.bodies}/" if self.bodies > 1 else f"{self.prefix}body/"
        names: dict[str, Any] = {}
        inputs = [self.cloner.output(t, names, prefix, shapes=False) for t in self.body.inputs]
        for tensor in inputs[:2]:
            tensor.shape = []
        for index, (tensor, start) in enumerate(zip(inputs[2:], self.starts, strict=True)):
            tensor.dtype = start.dtype
            tensor.shape = shapes.get(index, None if start.shape is None else list(start.shape))
        nodes = self.cloner.nodes(self.body, names, self.scope, prefix, shapes=False)
        outputs = [self.cloner.tensor(t, names, self.scope, prefix) for t in self.body.outputs]
        graph = gs.Graph(
            nodes, inputs, outputs, name=self.body.name, opset=self.graph.opset,
            import_domains=self.body.import_domains,
        )  # fmt: skip
        bounds = Bounds({}, opset=int(self.graph.opset), count=APART * self.bodies)
        for node in nodes:
            bounds.infer(node)
        if select:
            Resolver(self.graph, select=True, cloner=self.cloner).visit(graph, Scope(graph, self.scope))
            for node in graph.nodes:
                bounds.infer(node)
        return _Body(graph, bounds, [])

    def _growing(self) -> list[_Growing]:
        """The carried tensors that change their size, and where."""
        body = self._copied({})
        found = []
        pairs = zip(self.starts, body.graph.inputs[2:], body.graph.outputs[1:], strict=False)
        for index, (start, before, after) in enumerate(pairs):
            grows = changes_size(body.graph, before, after)
            if start.shape is None or after.shape is None or len(start.shape) != len(after.shape):
                if grows or (start.shape is not None and after.shape is not None):
                    raise Stuck("it carries a tensor whose rank changes, or is not known")
                continue
            axes = self._changing(body.bounds, before, after, grows)
            if len(axes) > 1:
                raise Stuck("it carries a tensor that changes along more than one axis, or may do so")
            for axis, by in axes.items():
                size = start.shape[axis]
                found.append(_Growing(index, axis, size if isinstance(size, int) else None, by))
        return found

    @staticmethod
    def _changing(bounds: Bounds, before: Any, after: Any, grows: bool) -> dict[int, int]:
        """Axes along which a tensor surely changes in a round, and by how much, as far as that is known (else 1).

        Where no axis surely does, but one of them has to: those that may.
        """
        try:
            one, other = bounds.dims(before), bounds.dims(after)
        except No:
            return {}
        found: dict[int, int] = {}
        perhaps: dict[int, int] = {}
        for axis, (a, b) in enumerate(zip(one, other, strict=True)):
            if a == b:
                continue
            by = bounds.exact("Sub", b, a).number if a.exact and b.exact else None
            if by is None:
                perhaps[axis] = 1
            else:
                found[axis] = by
        return found or (perhaps if grows else {})

    def _followed(self, growing: list[_Growing], rounds: int) -> _Body:
        """The body with buffers for so many rounds."""
        first: Stuck | None = None
        for select in (False, True):  # a branch that reads a buffer is computed in any case
            for shared in (True, False):  # what grows together has one true size
                try:
                    return self._followed_with(growing, rounds, shared, select)
                except Stuck as stuck:
                    first = first or stuck
            if not any(n.op == "If" for n in self.body.nodes):
                break
        assert first is not None
        raise first

    def _followed_with(self, growing: list[_Growing], rounds: int, shared: bool, select: bool) -> _Body:
        import onnx_graphsurgeon as gs

        shapes = {}
        for one in growing:
            shapes[one.index] = list(self.starts[one.index].shape)
            shapes[one.index][one.axis] = one.room(rounds)
        body = self._copied(shapes, select)
        counts: dict[Any, Any] = {}
        for one in growing:
            start = self.starts[one.index].shape[one.axis]
            key = (start, one.by) if shared and start is not None else one.index
            if key not in counts:
                name = self.cloner.fresh(f"{self.prefix}size")
                counts[key] = gs.Variable(name, np.dtype(np.int64), [])
            body.counts.append(counts[key])
            body.bounds.add(body.graph.inputs[2 + one.index], one.axis, counts[key])
        waiting: list[Any] = []
        try:
            waiting = follow(body.bounds, body.graph, lambda n: n.op in SELECTING)
        except Unbounded as error:
            raise Stuck(
                f"what it carries grows, and {error.node.name!r} cannot work on a buffer: {error.why}"
            ) from error
        if waiting:
            raise Stuck(f"what it carries grows, and {waiting[0].op} makes a size that depends on data")
        self._check(body, growing)
        return body

    def _check(self, body: _Body, growing: list[_Growing]) -> None:
        """Make sure that what grows is what is padded behind a round, and what grows together is of one size."""
        where = {1 + one.index: {one.axis} for one in growing}
        after: dict[str, Dim] = {}
        for place, tensor in enumerate(body.graph.outputs):
            padded = body.bounds.padded.get(tensor.name, {})
            if set(padded) != where.get(place, set()):
                raise Stuck(f"{tensor.name!r} grows along another axis than before, or ceases to grow")
        for one, count in zip(growing, body.counts, strict=True):
            dim = body.bounds.padded[body.graph.outputs[1 + one.index].name][one.axis]
            if after.setdefault(count.name, dim) != dim:
                raise Stuck("what is of one size grows by different sizes")

    @staticmethod
    def _growth(body: _Body, one: _Growing) -> int:
        """By how much a round makes a buffer longer."""
        before, after = body.graph.inputs[2 + one.index], body.graph.outputs[1 + one.index]
        sizes = [body.bounds.room(body.bounds.dims(t)[one.axis]) for t in (before, after)]
        by = body.bounds.exact("Sub", sizes[1], sizes[0]).number
        if by is None or by < 0:
            raise Stuck(
                "by how much a round makes longer what it carries is not known, or it makes it shorter"
            )
        return by

    # -- how many rounds ----------------------------------------------------------------------------

    def _rounds(self, growing: list[_Growing], body: _Body) -> tuple[int, bool]:
        """Rounds that the loop makes at most, and whether only the user says so.

        Raises:
            Stuck: nobody does.
        """
        trips = known_value(self.node.inputs[0], self.scope) if self.node.inputs[0].name else None
        limit = None if trips is None else int(trips.reshape(-1)[0])
        most = min(MOST_ROUNDS, *(n for n in (limit, self.most) if n is not None), MOST_ROUNDS)
        ended = self._end(growing, body, max(1, most))
        if ended is not None:
            return ended, False
        if limit == most:
            return most, False
        if self.most == most:
            return most, True
        what = "what it makes depends on how many rounds it makes"
        fix = "say how many rounds it makes at most, such as 100: --set rewrite.most_rounds=100"
        raise Stuck(f"{what}, and {most} rounds do not end it whatever the data", fix=fix)

    def _end(self, growing: list[_Growing], body: _Body, most: int) -> int | None:
        """The round after which the condition is surely false; None if there is none."""
        graph, bounds = body.graph, body.bounds
        after = [t.name for t in graph.outputs[1:]]
        known: dict[str, Any] = {}
        for inner, start in zip(graph.inputs[2:], self.starts, strict=True):
            known[inner.name] = known_value(start, self.scope)
        lengths = {}
        for one, count in zip(growing, body.counts, strict=True):
            known[graph.inputs[2 + one.index].name] = None
            known[count.name] = one.size
            name = self.cloner.fresh(f"{self.prefix}probed")
            lengths[count.name] = bounds.append_value(graph, bounds.padded[after[one.index]][one.axis], name)
        conditions = Conditions(bounds)
        for k in range(most):
            values = {n: np.asarray(v) for n, v in known.items() if v is not None}
            values |= {graph.inputs[0].name: np.asarray(k), graph.inputs[1].name: np.asarray(True)}
            scope = Scope(graph, self.scope, values)
            if conditions.decided(graph.outputs[0], scope) is False:
                return k + 1
            fresh: dict[str, Any] = {}
            for inner, tensor in zip(graph.inputs[2:], graph.outputs[1:], strict=False):
                fresh[inner.name] = None if known[inner.name] is None else known_value(tensor, scope)
            for name, tensor in lengths.items():
                fresh[name] = None if known[name] is None else known_value(tensor, scope)
            known = fresh
            if k and all(v is None for v in known.values()) and not self._counts(graph):
                return None
        return None

    @staticmethod
    def _counts(body: gs.Graph) -> bool:
        """Whether the body looks at the number of the round."""
        name = body.inputs[0].name
        inside = [*body.nodes, *(m for n in body.nodes for m in body_nodes(n))]
        return any(t.name == name for n in inside for t in n.inputs)

    # -- the new loop -------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Any, dtype: Any = None, shape: Any = None, **attributes: Any) -> Any:
        """Write a node in front of the loop; its output."""
        import onnx_graphsurgeon as gs

        name = self.cloner.fresh(f"{self.prefix}{op.lower()}")
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        out = gs.Variable(name, np.dtype(dtype or operands[0].dtype), shape)
        self.made.append(make_node(op, name, operands, [out], attributes))
        return out

    def const(self, value: Any) -> Any:
        """A constant."""
        value = np.asarray(value)
        return put_constant(self.cloner.fresh(f"{self.prefix}constant"), value, value.dtype)

    def _filled(self, dims: list[Any], dtype: Any) -> Any:
        """A tensor of zeros; each dim a number or an int64 tensor of one element."""
        parts = [self.const(np.asarray([d], np.int64)) if isinstance(d, int) else d for d in dims]
        shape = parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0)
        sizes = [d if isinstance(d, int) else None for d in dims]
        zero = self.const(np.zeros([1] * len(dims), np.dtype(dtype)))
        return self.emit("Expand", zero, shape, shape=sizes)

    def _size(self, tensor: Any, axis: int) -> Any:
        """A size of a tensor: a number, or an int64 tensor of one element."""
        dim = tensor.shape[axis]
        if isinstance(dim, int):
            return dim
        return self.emit(
            "Gather", self.emit("Shape", tensor, dtype=np.int64), np.asarray([axis], np.int64), axis=0
        )

    def _buffer(self, one: _Growing, rounds: int) -> tuple[Any, Any]:
        """What a tensor that grows is before the first round: the buffer and the true size."""
        start = self.starts[one.index]
        size = self._size(start, one.axis)
        count = self.const(np.asarray(size, np.int64)) if isinstance(size, int) else None
        if count is None:
            count = self.emit("Reshape", size, np.asarray([], np.int64), shape=[])
        more = rounds * one.by
        if not more:
            return start, count
        dims = [more if a == one.axis else self._size(start, a) for a in range(len(start.shape))]
        rest = self._filled(dims, start.dtype)
        if isinstance(size, int) and size == 0:
            return rest, count
        shape = [one.room(rounds) if a == one.axis else d for a, d in enumerate(start.shape)]
        return self.emit("Concat", start, rest, axis=one.axis, shape=shape), count

    def _cut_back(self, body: _Body, one: _Growing, rounds: int) -> Any:
        """What a round makes of a buffer, as long as the buffer; the room for more is never needed."""
        import onnx_graphsurgeon as gs

        before, after = body.graph.inputs[2 + one.index], body.graph.outputs[1 + one.index]
        if not one.by:
            return after
        room = one.room(rounds)
        name = self.cloner.fresh(f"{self.prefix}buffer")
        axis = self.const(np.asarray([one.axis], np.int64))
        if room is None:
            shape = gs.Variable(f"{name}/shape", np.dtype(np.int64))
            end: Any = gs.Variable(f"{name}/end", np.dtype(np.int64))
            body.graph.nodes.append(make_node("Shape", shape.name, [before], [shape]))
            body.graph.nodes.append(make_node("Gather", end.name, [shape, axis], [end], {"axis": 0}))
        else:
            end = self.const(np.asarray([room], np.int64))
        out = gs.Variable(name, after.dtype, list(before.shape))
        start = self.const(np.asarray([0], np.int64))
        body.graph.nodes.append(make_node("Slice", name, [after, start, end, axis], [out]))
        return out

    def _rows(self, body: _Body, value: Any, rounds: int) -> tuple[Any, Any, Any]:
        """A buffer that gets one row in each round: before a round, before the first one, and after a round."""
        import onnx_graphsurgeon as gs

        opset = int(self.graph.opset)
        if opset < 11 or value.shape is None:
            raise Stuck("the shape of what it stacks is not known", SCANNED)
        named = {
            d: (t, a) for t in self.graph.inputs for a, d in enumerate(t.shape or ()) if isinstance(d, str)
        }
        if any(not isinstance(d, int) and d not in named for d in value.shape):
            raise Stuck("the shape of what it stacks is not known", SCANNED)
        dims = [d if isinstance(d, int) else self._size(*named[d]) for d in value.shape]
        start = self._filled([rounds, *dims], value.dtype)
        name = self.cloner.fresh(f"{self.prefix}rows")
        before, after = (
            gs.Variable(f"{name}/{w}", value.dtype, [rounds, *value.shape]) for w in ("in", "out")
        )
        row = gs.Variable(f"{name}/row", value.dtype, [1, *value.shape])
        index = gs.Variable(f"{name}/index", np.dtype(np.int64), [1, 1])
        square = self.const(np.asarray([1, 1], np.int64))
        body.graph.nodes += [
            squeeze_like("Unsqueeze", self.graph, row.name, value, 0, row),
            make_node("Reshape", index.name, [body.graph.inputs[0], square], [index]),
            make_node("ScatterND", name, [before, index, row], [after]),
        ]
        return before, start, after

    def _counter(self, body: _Body) -> tuple[Any, Any, Any]:
        """How many rounds have been made: before a round, before the first one, and after a round."""
        import onnx_graphsurgeon as gs

        name = self.cloner.fresh(f"{self.prefix}done")
        before, after = (gs.Variable(f"{name}/{w}", np.dtype(np.int64), []) for w in ("in", "out"))
        one = self.const(np.asarray(1, np.int64))
        body.graph.nodes.append(make_node("Add", name, [body.graph.inputs[0], one], [after]))
        return before, self.const(np.asarray(0, np.int64)), after

    def _trips(self, rounds: int) -> Any:
        """The number of rounds at most."""
        trips = self.scope.tensor(self.node.inputs[0])
        known = known_value(trips, self.scope) if trips.name else None
        most = np.asarray(rounds, np.int64)
        if not trips.name or known is not None:
            return self.const(most)
        less = self.emit("Less", trips, most, dtype=np.bool_)
        return self.emit("Where", less, trips, most, dtype=np.int64, shape=trips.shape)

    def _replace(self, growing: list[_Growing], body: _Body, rounds: int, given: bool) -> Grown:
        """Write the new loop."""
        import onnx_graphsurgeon as gs

        node, graph, bounds = self.node, body.graph, body.bounds
        states, ends = list(self.starts), node.outputs[: len(self.starts)]
        inner = list(graph.outputs[: 1 + len(states)])
        sizes: dict[str, tuple[Any, Any, Any]] = {}
        for one, count in zip(growing, body.counts, strict=True):
            dim = bounds.padded[inner[1 + one.index].name][one.axis]
            states[one.index], start = self._buffer(one, rounds)
            if count.name not in sizes:
                after = bounds.append_value(graph, dim, self.cloner.fresh(f"{self.prefix}size_after"))
                sizes[count.name] = (count, start, after)
            inner[1 + one.index] = self._cut_back(body, one, rounds)
        pairs = zip(graph.outputs[1 + len(states) :], node.outputs[len(states) :], strict=False)
        stacked = [(value, target) for value, target in pairs if any_used([target], self.scope)]
        extra = [*sizes.values(), *(self._rows(body, value, rounds) for value, _ in stacked)]
        if stacked:
            extra.append(self._counter(body))
        graph.inputs = [*graph.inputs, *(e[0] for e in extra)]
        graph.outputs = [*inner, *(e[2] for e in extra)]
        outputs = [
            *ends,
            *(gs.Variable(self.cloner.fresh(f"{c}_after"), np.dtype(np.int64), []) for c in sizes),
            *(target for _, target in stacked),
        ]
        if stacked:
            outputs.append(gs.Variable(self.cloner.fresh(f"{self.prefix}rounds"), np.dtype(np.int64), []))
        for target, start in zip(outputs, [*states, *(e[1] for e in extra)], strict=True):
            if target.name:
                target.dtype = target.dtype or start.dtype
                target.shape = None if start.shape is None else list(start.shape)
        go = node.inputs[1] if len(node.inputs) > 1 and node.inputs[1].name else self.const(np.asarray(True))
        inputs = [self._trips(rounds), go, *states, *(e[1] for e in extra)]
        loop = make_node("Loop", node.name or f"{self.prefix}loop", inputs, outputs, {"body": graph})
        place = next(i for i, n in enumerate(self.graph.nodes) if n is node)
        detach([node])
        nodes = list(self.graph.nodes)
        self.graph.nodes.clear()
        self.graph.nodes.extend([*nodes[:place], *self.made, loop, *nodes[place + 1 :]])
        found = dict(zip(sizes, outputs[len(ends) :], strict=False))
        padded = [(ends[g.index], g.axis, found[c.name]) for g, c in zip(growing, body.counts, strict=True)]
        padded += [(target, 0, outputs[-1]) for _, target in stacked]
        used = tuple(p for p in padded if p[0].name)
        return Grown(loop.name, rounds, given, used, tuple(n.name for n in (*self.made, loop)), loop=True)
