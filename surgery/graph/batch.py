"""A fixed batch made free: sizes that exporters left as constants are taken from the input instead.

Where the batch is in a tensor is followed from the inputs through the graph. What would mix samples (a Softmax along
the batch, one list of boxes for all) is refused with the reason. Following is only a proposal: whoever calls this
runs the result on several batches and compares each sample with the original (:mod:`surgery.stages.batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.graph.batch_inputs import MixingError, NoBatchError, batched_inputs
from surgery.graph.batch_loop import HEAVY, Crossing, per_sample, reads, rename
from surgery.graph.batch_operators import Operators
from surgery.graph.batch_way import copied, identity_of

if TYPE_CHECKING:
    import onnx

MOST_WAYS = 40
"""Sets of choices, where the batch goes in a Reshape of one sample, that are tried."""


@dataclass(frozen=True, slots=True)
class Freed:
    """A model with a free batch.

    Attributes:
        model: The model.
        apart: Nodes of the given model that run sample by sample, in a Loop at the end.
        crossings: What these read that has the batch.
        reason: Why they do.
    """

    model: onnx.ModelProto
    apart: tuple[onnx.NodeProto, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    reason: str = ""


def with_free_batch(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], *, lists: bool = False
) -> Freed:
    """A copy with a free batch, whose constant sizes follow the batch of the input.

    What chooses boxes by value at the end of the model, and hands out as many for each picture, goes into a Loop over
    the samples.

    Args:
        model: The model, with a fixed batch.
        shapes: Shape of every tensor of the main graph when it runs at its fixed batch; dims that are free for other
            reasons are what they were in that run.
        lists: Leave suppression of boxes as it is: it makes one list for all samples, whose rows say which sample
            they are from. Whether anything comes of that is for comparing to say.

    Raises:
        NoBatchError: why not, and at which node.
    """
    try:
        return _first_way(model, shapes, lists=lists)
    except NoBatchError as error:
        try:
            return _first_way(model, shapes, lists=lists, show=True)
        except NoBatchError:
            raise error from None


def _first_way(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], **options: bool) -> Freed:
    """The first set of choices with which every node can be followed."""
    choices: dict[str, int] = {}
    first: NoBatchError | None = None
    for _ in range(MOST_WAYS):
        way = _Freeing(model, shapes, choices=choices, **options)
        try:
            return way.run()
        except NoBatchError as error:
            first = first or error
            found = way.other_choices()
            if found is None:
                break
            choices = found
    assert first is not None
    raise first


class _Freeing(Operators):
    """A model's nodes followed in order: what :func:`with_free_batch` tries once."""

    def run(self) -> Freed:
        inputs = batched_inputs(self.model, self.size)
        self.axes = {v.name: 0 for v in inputs}
        # The number of samples, for what has to be made as long.
        self.samples = self.emit("Gather", [self.emit("Shape", [inputs[0].name]), self.ints([0])], axis=0)
        for node in self.model.graph.node:
            self.sources.update({made: [n for n in reads(node) if n] for made in node.output})
            self.failed = self.sources[node.output[0]]
            self.follow(node)
        self.failed = []
        for name in self.outputs:
            self.hand_out(name)
        crossings = self.loop() if self.apart else ()
        del self.model.graph.node[:]
        self.model.graph.node.extend(self.nodes)
        return Freed(self.model, tuple(self.apart), crossings, str(self.reason or ""))

    def hand_out(self, name: str) -> None:
        """Bring the batch of an output that shares an axis with something else to an axis of its own."""
        if name not in self.axes or not self.static or self.size != 1:
            return
        dims, axis = self.dims(name), self.axes[name]
        single = [j for j, d in enumerate(dims) if d == 1]
        if dims[axis] == 1 or not single:
            return
        inner = f"surgery/batch/{name}"
        for node in [*self.nodes, *self.apart]:
            rename(node, {name: inner})
            node.output[:] = [inner if n == name else n for n in node.output]
        self.shapes[inner], self.axes[inner] = tuple(dims), axis
        self.moved(identity_of(inner, name), inner, axis, single[0])

    def other_choices(self) -> dict[str, int] | None:
        """Other choices, of which the last one before the node that failed differs; None if there are no more."""
        before: set[str] = set()
        stack = list(self.failed)
        while stack:
            name = stack.pop()
            if name not in before:
                before.add(name)
                stack += self.sources.get(name, [])
        order = list(self.chosen)
        for name in reversed(order):
            picked, count = self.chosen[name]
            if name in before and picked + 1 < count:
                kept = {n: self.chosen[n][0] for n in order[: order.index(name)]}
                return {**kept, name: picked + 1}
        return None

    def loop(self) -> tuple[Crossing, ...]:
        """Put the nodes that were set apart into a loop behind all others."""
        assert self.reason is not None
        if self.size != 1:
            raise self.reason
        for node in self.apart:
            if node.op_type in HEAVY:
                raise NoBatchError(f"{self.reason}; and {node.op_type} {node.name!r} comes after it")
        again = self.sizes_read()
        crossings: dict[str, Crossing] = {}
        for name in (n for node in [*again, *self.apart] for n in reads(node)):
            if name in self.hidden:
                crossings[name] = Crossing(name, None)
            elif name in self.axes:
                crossings[name] = Crossing(name, self.axes[name], self.dims(name)[self.axes[name]])
        if not self.static and any(c.size != 1 for c in crossings.values()):
            raise self.reason  # how much a sample has is not known
        outputs = [v for n, v in self.outputs.items() if n in self.behind]
        for value in outputs:
            dims = self.dims(value.name)
            if not dims or dims[0] != 1:
                raise NoBatchError(f"{self.reason}; the output {value.name!r} {dims} has no axis for samples")
        found = tuple(crossings.values())
        self.nodes += per_sample(self.apart, found, again, outputs, self.opset)
        return found

    def sizes_read(self) -> list[onnx.NodeProto]:
        """Nodes that compute sizes of samples for the nodes set apart, which read them of one sample each."""
        wanted: dict[int, onnx.NodeProto] = {}
        stack = [n for node in self.apart for n in reads(node)]
        while stack:
            node = self.sized.get(stack.pop(), (None, None))[0]
            if node is not None and id(node) not in wanted:
                wanted[id(node)] = node
                stack += reads(node)
        order = {id(n): i for i, (n, _) in enumerate(self.sized.values())}
        return sorted(wanted.values(), key=lambda n: order[id(n)])

    def follow(self, node: onnx.NodeProto) -> None:
        read = reads(node)
        if any(n in self.behind for n in read):
            self.set_apart(node)
        elif self.lists is not None and any(n in self.lists for n in read):
            if any(n in self.hidden for n in read):
                raise NoBatchError(
                    f"{node.op_type} {node.name!r}: the list of all boxes is read with one sample"
                )
            self.lists.update(node.output)
            self.nodes.append(node)
        elif not any(n in self.hidden or n in self.axes for n in read):
            self.nodes.append(node)
            self.follow_size(node)
        else:
            start = len(self.nodes)
            try:
                self.batched(node)
            except MixingError as error:
                del self.nodes[start:]
                self.reason = self.reason or error
                self.set_apart(node)

    def set_apart(self, node: onnx.NodeProto) -> None:
        """Leave a node, and with it all that comes after it, to the loop."""
        self.apart.append(copied(node))
        self.behind.update(n for n in node.output if n)
