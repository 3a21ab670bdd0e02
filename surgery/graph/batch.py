"""A fixed batch made free: sizes that exporters left as constants are taken from the input instead.

Where the batch is in a tensor is followed from the inputs through the graph. What would mix samples (a Softmax along
the batch, one list of boxes for all) is refused with the reason. Following is only a proposal: whoever calls this
runs the result on several batches and compares each sample with the original (:mod:`surgery.stages.batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph import batch_index as by_index
from surgery.graph.batch_loop import HEAVY, Crossing, count, per_sample, reads, rename
from surgery.graph.infer import dims_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Shape = list[int | str | None]

NAME = "batch"
"""Name of the free dim."""

REDUCING = frozenset(
    {
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceSumSquare",
    }
)  # fmt: skip

ALONG = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK", "CumSum", "LpNormalization"}
)
"""Operators that work along one axis."""

FIRST = frozenset(
    {
        "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
        "GlobalLpPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace",
        "SpaceToDepth", "GridSample", "DeformConv", "QLinearConv", "ConvInteger", "AffineGrid",
    }
)  # fmt: skip
"""Operators whose batch is the first axis of what they read and make."""

MIXING = {
    "NonMaxSuppression": "it makes one list of boxes for all pictures",
    "NonZero": "it makes one list of places for all samples",
    "Compress": "it keeps as many entries as the values say",
    "Unique": "it looks for equal values in all samples",
    "RoiAlign": "its regions belong to pictures by index",
    "MaxRoiPool": "its regions belong to pictures by index",
    "SplitToSequence": "it makes a sequence",
    "SequenceConstruct": "it makes a sequence",
    "DynamicQuantizeLinear": "its scale is that of all samples together",
    "Loop": "its body is not looked into",
    "Scan": "its body is not looked into",
    "If": "its branches are not looked into",
    "Det": "it works on whole matrices",
}


EACH = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Cast", "Identity", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs",
        "Clip", "Max", "Min", "Pow", "Floor", "Ceil", "Round", "Where", "Equal", "Greater", "Less", "Not", "And",
        "Or",
    }
)  # fmt: skip
"""Operators that work number by number."""

BROADCASTING = EACH | {"Xor", "GreaterOrEqual", "LessOrEqual", "Mod", "Sum", "Mean", "PRelu", "BitShift"}
"""Operators whose operands are made as long as the longest one."""


MOST_WAYS = 40
"""Sets of choices, where the batch goes in a Reshape of one sample, that are tried."""


class NoBatchError(Exception):
    """A batch makes no sense for this model, or it is not known how; the text says why."""


class MixingError(NoBatchError):
    """A node would mix samples, or is for one; sample by sample it does not."""


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


def relabeled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs have a free first dim, and nothing else changed.

    Raises:
        NoBatchError: no input has a fixed batch.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    size = fixed_batch(model)
    del copy.graph.value_info[:]
    for value in batched_inputs(copy, size):
        dim = value.type.tensor_type.shape.dim[0]
        dim.ClearField("dim_value")
        dim.dim_param = NAME
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return copy


def fixed_batch(model: onnx.ModelProto) -> int:
    """The batch that the model is made for: the first dim that most of its inputs share.

    Raises:
        NoBatchError: the model's batch is free already, or it has no inputs of two or more axes.
    """
    initial = {t.name for t in model.graph.initializer}
    shapes = [dims_of(v) or [] for v in model.graph.input if v.name not in initial]
    if any(s and not isinstance(s[0], int) for s in shapes):
        raise NoBatchError("the first dim of an input is free already")
    sizes = [s[0] for s in shapes if len(s) >= 1 and isinstance(s[0], int)]
    if not sizes:
        raise NoBatchError("no input has an axis that could be a batch")
    if any(len(s) == 3 and s[0] in (3, 4) and len(shapes) == 1 for s in shapes):
        raise NoBatchError(f"the only input is one picture {shapes[0]}, without an axis for a batch")
    return max(set(sizes), key=lambda d: (sizes.count(d), -d))


def batched_inputs(model: onnx.ModelProto, size: int) -> list[onnx.ValueInfoProto]:
    """Inputs whose first dim is the batch."""
    initial = {t.name for t in model.graph.initializer}
    found = []
    for value in model.graph.input:
        dims = dims_of(value) or []
        if value.name not in initial and dims and (dims[0] == size or dims[0] == NAME):
            found.append(value)
    return found


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


class _Freeing:
    """One model's way: what :func:`with_free_batch` tries once.

    Args:
        model: The model.
        shapes: Measured shapes.
        lists: Whether lists of boxes of all samples stay lists.
        show: Whether what takes the only sample out of the batch is followed further; else a loop starts there.
        choices: Which of the possible axes the batch goes to, by the output of a Reshape; else the first.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: dict[str, tuple[int, ...]],
        *,
        lists: bool = False,
        show: bool = False,
        choices: Mapping[str, int] | None = None,
    ) -> None:
        self.size = fixed_batch(model)
        self.model = relabeled(model)
        self.outputs = {v.name: v for v in model.graph.output}
        self.shapes, self.show = dict(shapes), show
        self.choices = dict(choices or {})
        self.chosen: dict[str, tuple[int, int]] = {}
        self.sources: dict[str, list[str]] = {}
        self.failed: list[str] = []
        self.static = all(isinstance(d, int) for v in model.graph.input for d in dims_of(v) or [])
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.axes: dict[str, int] = {}
        self.hidden: dict[str, str] = {}
        self.lists: set[str] | None = set() if lists else None
        self.sized: dict[str, tuple[onnx.NodeProto, frozenset[int] | None]] = {}
        self.apart: list[onnx.NodeProto] = []
        self.behind: set[str] = set()
        self.reason: MixingError | None = None
        self.nodes: list[onnx.NodeProto] = []
        self.count = 0
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))

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
        self.moved(_identity_of(inner, name), inner, axis, single[0])

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

    # -- writing ---------------------------------------------------------------------------------------

    def emit(self, op: str, inputs: list[str], **attributes: Any) -> str:
        import onnx

        self.count += 1
        name = f"surgery/batch/{self.count}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def ints(self, values: list[int]) -> str:
        import onnx

        self.count += 1
        name = f"surgery/batch/{self.count}"
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def times(self, dim: int) -> str:
        """[dim / fixed batch * samples at run time], where dim is that of the fixed batch."""
        if dim % self.size:
            raise NoBatchError(f"a size of {dim} is no multiple of the batch {self.size}")
        factor = dim // self.size
        return self.samples if factor == 1 else self.emit("Mul", [self.samples, self.ints([factor])])

    def sizes(self, dims: list[int], axis: int) -> str:
        """A shape with the batch at an axis, the other dims as they are."""
        parts = [
            *([self.ints(dims[:axis])] if axis else []),
            self.times(dims[axis]),
            *([self.ints(dims[axis + 1 :])] if axis + 1 < len(dims) else []),
        ]
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, axis=0)

    def value(self, name: str) -> NDArray[Any] | None:
        import onnx

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)

    def dims(self, name: str) -> list[int]:
        if name in self.shapes:
            return list(self.shapes[name])
        if name in self.constants:
            return list(self.constants[name].dims)
        raise NoBatchError(f"the shape of {name!r} is not known")

    def spread(self, name: str, axis: int) -> str:
        """A tensor without a batch, as often as there are samples, along an axis.

        Where it has rows for each sample of the fixed batch they are taken to be equal, which comparing will tell.
        """
        if self.grows(name, axis):
            return name
        dims = self.dims(name)
        if self.size > 1 and dims[axis] % self.size == 0:
            each = dims[axis] // self.size
            value = self.value(name)
            if value is not None:
                blocks = np.split(value, self.size, axis)
                if any(not np.array_equal(blocks[0], b) for b in blocks):
                    raise NoBatchError(f"{name!r} has values of its own for each sample")
            name = self.emit("Gather", [name, self.ints(list(range(each)))], axis=axis)
        repeats = [
            *([self.ints([1] * axis)] if axis else []), self.samples,
            *([self.ints([1] * (len(dims) - axis - 1))] if axis + 1 < len(dims) else []),
        ]  # fmt: skip
        return self.emit(
            "Tile", [name, self.emit("Concat", repeats, axis=0) if len(repeats) > 1 else repeats[0]]
        )

    def spread_like(self, name: str, rank: int) -> str:
        """A tensor of so many axes, the first of one entry, with an entry for each sample."""
        repeats = [self.samples, *([self.ints([1] * (rank - 1))] if rank > 1 else [])]
        return self.emit("Tile", [name, self.emit("Concat", repeats, axis=0) if rank > 1 else repeats[0]])

    def row(self, name: str, axis: int) -> str:
        """The first entry along an axis, which stays."""
        if self.grows(name, axis):
            return name
        return self.emit("Gather", [name, self.ints([0])], axis=axis)

    # -- following -------------------------------------------------------------------------------------

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
        self.apart.append(_copied(node))
        self.behind.update(n for n in node.output if n)

    def batched(self, node: onnx.NodeProto) -> None:
        """A node that reads samples."""
        held = [i for i, n in enumerate(node.input) if n in self.axes]
        if any(n in self.hidden for n in reads(node)):
            self.alone(node)
            return
        if node.op_type == "NonMaxSuppression" and self.lists is not None and self.listed(node, held):
            return
        if node.op_type == "Loop" and self.each_in_turn(node):
            return
        if node.op_type in MIXING:
            raise MixingError(f"{node.op_type} {node.name!r}: {MIXING[node.op_type]}")
        if not held:
            raise NoBatchError(f"{node.op_type} {node.name!r}: its body reads samples")
        handler = _HANDLERS.get(node.op_type)
        try:
            if handler is not None:
                handler(self, node, held)
            elif node.op_type in FIRST or _is_plugin(node):
                self.first(node, held)
            elif node.op_type in REDUCING or node.op_type in ALONG:
                self.along(node, held)
            elif node.op_type in ("Shape", "Size"):
                self.shape_of(node)
            else:
                self.elementwise(node, held)
        except NoBatchError as error:
            text = str(error)
            raise type(error)(
                text if text.startswith(node.op_type) else f"{node.op_type} {node.name!r}: {text}"
            ) from None
        if not self.nodes or self.nodes[-1].output[0] != node.output[0]:
            self.nodes.append(node)

    def shape_of(self, node: onnx.NodeProto) -> None:
        """Note where the number of samples is in what a Shape or Size gives."""
        where: frozenset[int] | None = None
        if node.op_type == "Shape":
            ends = {a.name: a.i for a in node.attribute}
            rank = len(self.dims(node.input[0]))
            taken = list(range(rank))[slice(ends.get("start", 0), ends.get("end", rank))]
            where = frozenset(i for i, axis in enumerate(taken) if axis == self.axes[node.input[0]])
            if not where:
                return
        self.sized[node.output[0]] = _copied(node), where

    def grows(self, name: str, axis: int) -> bool:
        """Whether a tensor is made as long as the batch is, along an axis."""
        if name not in self.sized:
            return False
        where = self.sized[name][1]
        return where is None or axis in where

    def follow_size(self, node: onnx.NodeProto) -> None:
        """Note what is computed from the number of samples: entries of lists of sizes, axes of what they make."""
        places = [self.sized[n][1] if n in self.sized else frozenset() for n in node.input]
        if all(p is not None and not p for p in places):
            return
        given = places[0] if places else None
        where: frozenset[int] | None = None
        if node.op_type == "Gather" and given:
            index = self.value(node.input[1])
            if index is not None and index.ndim <= 1:
                length = self.dims(node.input[0])[0]
                taken = [int(i) % length in given for i in index.reshape(-1)]
                if not any(taken):
                    return
                where = frozenset(i for i, t in enumerate(taken) if t) if index.ndim else None
        elif node.op_type == "Slice" and given and len(self.dims(node.input[0])) == 1:
            chosen = self.sliced(node)
            if chosen is not None:
                where = frozenset(i for i, k in enumerate(chosen) if k in given)
                if not where:
                    return
        elif node.op_type in ("Cast", "Identity", "ConstantOfShape"):
            where = given
        elif node.op_type == "Concat":
            found, start = set(), 0
            for name, place in zip(node.input, places, strict=True):
                found |= {start} if place is None else {start + p for p in place}
                start += (self.dims(name) or [1])[0]
            where = frozenset(found) if len(self.dims(node.output[0])) == 1 else None
        elif node.op_type == "Expand" and not places[0] and places[0] is not None:
            where = places[1]
        for name in node.output:
            if name:
                self.sized[name] = _copied(node), where

    def sliced(self, node: onnx.NodeProto) -> list[int] | None:
        """Which entries of a list a Slice takes; None if that is not known."""
        length = self.dims(node.input[0])[0]
        attributes = {a.name: list(a.ints) for a in node.attribute}
        if attributes:
            parts = [attributes.get("starts", [0])[0], attributes.get("ends", [length])[0], 1]
        else:
            values = [self.value(n) for n in node.input[1:3]]
            step = (
                self.value(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1, np.int64)
            )
            if any(v is None for v in (*values, step)):
                return None
            parts = [int(v.reshape(-1)[0]) for v in (*values, step)]  # type: ignore[union-attr]
        return list(range(length))[slice(*parts)]

    def listed(self, node: onnx.NodeProto, held: list[int]) -> bool:
        """A suppression for all samples, whose list tells them apart."""
        assert self.lists is not None
        if held[:2] != [0, 1] or any(self.axes[node.input[i]] for i in held):
            return False
        self.lists.update(node.output)
        self.nodes.append(node)
        return True

    def each_in_turn(self, node: onnx.NodeProto) -> bool:
        """A Loop with one turn for each sample, and so with one turn: TensorFlow's ``map_fn``.

        It turns as often as there are samples. Values that go from turn to turn have to be none of the samples'.
        """
        import onnx

        turns = self.value(node.input[0]) if node.input[0] else None
        if self.size != 1 or turns is None or turns.reshape(-1).tolist() != [1]:
            return False
        if any(n in self.axes or n in self.hidden for n in node.input):
            return False
        body = next(a.g for a in node.attribute if a.name == "body")
        carried = len(node.input) - 2
        stacked = [n for n in node.output[carried:] if n]
        if not stacked or any(self.dims(n)[0] != 1 for n in stacked):
            return False
        source = next((n for n in reads(node) if n in self.axes and self.dims(n)[self.axes[n]] == 1), None)
        if source is None:
            return False
        copy = _copied(node)
        copy.input[0] = f"{node.name}/samples"
        self.nodes += count(source, self.axes[source], copy.input[0])
        copy.input[1] = ""
        inside = next(a.g for a in copy.attribute if a.name == "body")
        self.count += 1
        go = f"surgery/batch/{self.count}"
        inside.node.append(onnx.helper.make_node("Identity", [body.input[1].name], [go], name=go))
        inside.output[0].name = go
        self.nodes.append(copy)
        self.axes.update(dict.fromkeys(stacked, 0))
        return True

    def made(self, node: onnx.NodeProto, axis: int) -> None:
        self.axes.update({n: axis for n in node.output if n})

    def elementwise(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Operators of which each output is as long as the longest operand, axes counted from the end."""
        rank = len(self.dims(node.output[0]))
        places = {rank - len(self.dims(node.input[i])) + self.axes[node.input[i]] for i in held}
        if len(places) != 1:
            places = {self.one_place(node, held, rank)}
        axis = places.pop()
        if axis < 0:
            raise NoBatchError("it has no axis for the batch")
        whole = self.dims(node.output[0])[axis]
        for i, name in enumerate(node.input):
            if not name or node.op_type not in BROADCASTING:
                continue
            dims = self.dims(name)
            at = len(dims) - rank + axis
            if i in held:
                if dims[at] != whole:
                    raise NoBatchError("the batch is where another operand has more entries")
            elif at >= 0 and dims[at] == whole and whole > 1:
                node.input[i] = self.row(name, at) if whole == self.size else self.spread(name, at)
        self.made(node, axis)

    def one_place(self, node: onnx.NodeProto, held: list[int], rank: int) -> int:
        """Bring the batches of operands to one axis."""
        shapes = {i: self.dims(node.input[i]) for i in held}
        whole = self.dims(node.output[0])
        # An axis that all of them have, and have whole; one without other entries is best.
        shared = [
            a
            for a in range(rank)
            if all(a >= rank - len(d) and d[a - rank] == whole[a] for d in shapes.values())
        ]
        if self.size != 1 or not self.static or not shared or node.op_type not in BROADCASTING:
            raise NoBatchError("the batches of its operands are in different axes")
        place = min(shared, key=lambda a: (whole[a] != 1, a))
        for i, dims in shapes.items():
            own, wanted = self.axes[node.input[i]], place - rank + len(dims)
            if own != wanted:
                node.input[i] = self.aligned(node.input[i], own, wanted)
        return place

    def first(self, node: onnx.NodeProto, held: list[int]) -> None:
        if any(self.axes[node.input[i]] != 0 for i in held):
            raise NoBatchError("the batch is not in its first axis")
        if 0 not in held:
            node.input[0] = self.spread(node.input[0], 0)
        if node.op_type in ("GridSample", "DeformConv"):
            for i in (1,) if node.op_type == "GridSample" else (2, 4):
                if i < len(node.input) and node.input[i] and i not in held:
                    node.input[i] = self.spread(node.input[i], 0)
        elif held != [0] and node.op_type in ("Conv", "ConvTranspose"):
            raise NoBatchError("its weights depend on the sample")
        self.made(node, 0)

    def along(self, node: onnx.NodeProto, held: list[int]) -> None:
        attributes = {a.name: a for a in node.attribute}
        axis, rank = self.axes[node.input[0]], len(self.dims(node.input[0]))
        default = 1 if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and self.opset < 13 else -1
        if node.op_type in ("ArgMax", "ArgMin"):
            default = 0
        if node.op_type in REDUCING:
            value = self.value(node.input[1]) if len(node.input) > 1 and node.input[1] else None
            if value is not None:
                axes = [int(v) for v in value.reshape(-1)]
            elif "axes" in attributes:
                axes = list(attributes["axes"].ints)
            else:
                axes = list(range(rank))
        elif node.op_type == "CumSum":
            value = self.value(node.input[1])
            axes = [int(value.reshape(-1)[0])] if value is not None else [axis]
        else:
            axes = [attributes["axis"].i if "axis" in attributes else default]
            if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and self.opset < 13:
                axes = list(range(axes[0] % rank, rank))  # the last axes are one, then
        axes = [a % rank for a in axes]
        if axis in axes:
            raise NoBatchError("it works along the batch")
        keep = attributes["keepdims"].i if "keepdims" in attributes else 1
        shrinks = node.op_type in REDUCING or node.op_type in ("ArgMax", "ArgMin")
        self.made(node, axis - sum(a < axis for a in axes) if shrinks and not keep else axis)

    def reshape(self, node: onnx.NodeProto, held: list[int]) -> None:
        if 0 not in held:
            raise NoBatchError("its shape depends on the values of samples")
        axis, old, new = self.axes[node.input[0]], self.dims(node.input[0]), self.dims(node.output[0])
        place = self.choose(node, axis, old, new)
        if not self.natural(axis, old, place, new):
            self.moved(node, node.input[0], axis, place)
            return
        target = self.value(node.input[1]) if len(node.input) > 1 else None
        if target is not None:
            written = [int(v) for v in target.reshape(-1)]
            attributes = {a.name: a.i for a in node.attribute}
            copies = written[place] == 0 and not attributes.get("allowzero", 0) and place == axis
            if not copies and written[place] != -1:
                if self.static or -1 not in written:
                    full = [d if w == -1 else w for w, d in zip(written, new, strict=True)]
                    full[place] = -1
                    node.input[1] = self.ints(full)
                else:
                    node.input[1] = self.sizes([*written[:place], new[place], *written[place + 1 :]], place)
        self.made(node, place)

    def natural(self, axis: int, old: list[int], place: int, new: list[int]) -> bool:
        """Whether the batch is in the new axis as it was in the old one, in front of everything behind it."""
        before = int(np.prod(old[:axis], dtype=np.int64))
        return int(np.prod(new[:place], dtype=np.int64)) == before and new[place] % self.size == 0

    def choose(self, node: onnx.NodeProto, axis: int, old: list[int], new: list[int]) -> int:
        """The axis that the batch goes to."""
        places = [j for j in range(len(new)) if self.natural(axis, old, j, new)]
        if self.size == 1 and self.static and new:
            # With one sample the batch may go anywhere; least of all among entries of something else.
            single = [j for j, d in enumerate(new) if d == 1]
            places = list(dict.fromkeys([*places[:1], *single, 0, *places]))
        if not places:
            raise NoBatchError(f"{old} to {new}: the batch is joined with an axis in front of it")
        picked = self.choices.get(node.output[0], 0)
        self.chosen[node.output[0]] = picked, len(places)
        return places[picked]

    def moved(self, node: onnx.NodeProto, given: str, axis: int, place: int) -> None:
        """A Reshape, or nothing but a move, that takes the batch of one sample from an axis to any other one."""
        old, new = self.dims(given), self.dims(node.output[0])
        data = self.emit("Reshape", [given, self.ints([*old[:axis], -1, *old[axis:]])])
        if axis:
            order = [axis, *(a for a in range(len(old) + 1) if a != axis)]
            data = self.emit("Transpose", [data], perm=order)
        if old != new:
            data = self.emit("Reshape", [data, self.ints([-1, *new])])
        if place:
            data = self.emit(
                "Transpose", [data], perm=[*range(1, place + 1), 0, *range(place + 1, len(new) + 1)]
            )
        self.replace(node, "Reshape", [data, self.ints([*new[:place], -1, *new[place + 1 :]])])
        self.made(node, place)

    def aligned(self, name: str, axis: int, place: int) -> str:
        """A tensor with the batch of one sample at another axis."""
        self.count += 1
        made = f"surgery/batch/{self.count}"
        self.shapes[made] = tuple(self.dims(name))
        self.moved(_identity_of(name, made), name, axis, place)
        return made

    def length(self, name: str, axis: int) -> str:
        """How many entries a sample has along an axis, [1]."""
        whole = self.emit("Gather", [self.emit("Shape", [name]), self.ints([axis])], axis=0)
        return self.emit("Div", [whole, self.samples]) if axis == self.axes.get(name) else whole

    def flatten(self, node: onnx.NodeProto, held: list[int]) -> None:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if self.axes[node.input[0]] == 0 and axis != 0:
            self.made(node, 0)
            return
        if not self.static or self.size != 1:
            raise NoBatchError("the batch is joined with other axes")
        old, new = self.dims(node.input[0]), self.dims(node.output[0])
        self.moved(
            node,
            node.input[0],
            self.axes[node.input[0]],
            self.choose(node, self.axes[node.input[0]], old, new),
        )

    def alone(self, node: onnx.NodeProto) -> None:
        """A node on samples without the axis of the batch, of which there was one: they keep it in front."""
        taken = next(self.hidden[n] for n in reads(node) if n in self.hidden)
        refused = MixingError(
            f"{node.op_type} {node.name!r}: {taken} takes the only sample out of the batch, and this is for one"
        )
        if node.op_type in MIXING:
            raise refused
        if node.op_type == "Shape" and len(node.attribute) == 0:
            whole = self.emit("Shape", [node.input[0]])
            self.replace(node, "Slice", [whole, *(self.ints([v]) for v in (1, 1 << 30))])
            return
        if node.op_type == "Unsqueeze" and (self.axes_of(node) or [1])[0] == 0:
            self.nodes.append(_identity(node))
            self.axes[node.output[0]] = 0
            return
        rank = len(self.dims(node.output[0])) if node.output[0] else 0
        perm = next((a for a in node.attribute if a.name == "perm"), None)
        plain = node.op_type in EACH and not any(
            n in self.axes or (len(self.dims(n)) != rank if n in self.hidden else len(self.dims(n)) > rank)
            for n in node.input
            if n
        )
        if node.op_type == "Transpose" and perm is not None:
            perm.ints[:] = [0, *(p + 1 for p in perm.ints)]
        elif not plain:
            self.shown(node, refused)
            return
        self.hidden.update({n: taken for n in node.output if n})
        self.nodes.append(node)

    def shown(self, node: onnx.NodeProto, refused: MixingError) -> None:
        """A node on samples without the axis of the batch, which get it in front of their first axis."""
        known = all(self.dims(n) for n in node.input if n in self.hidden)
        if not (self.show and self.static and known) or any(
            n in self.hidden for n in reads(node)[len(node.input) :]
        ):
            raise refused
        for i, name in enumerate(node.input):
            if name in self.hidden:
                dims = self.dims(name)
                node.input[i] = self.emit("Reshape", [name, self.ints([-1, *dims[1:]])])
                self.shapes[node.input[i]] = tuple(dims)
                self.axes[node.input[i]] = 0
        try:
            self.batched(node)
        except NoBatchError:
            raise refused from None

    def hide(self, node: onnx.NodeProto) -> bool:
        """Leave the batch in front where a node would take the only sample out of it."""
        if self.size != 1 or self.axes[node.input[0]] != 0:
            return False
        self.hidden[node.output[0]] = f"{node.op_type} {node.name!r}"
        self.nodes.append(_identity(node))
        return True

    def transpose(self, node: onnx.NodeProto, held: list[int]) -> None:
        rank = len(self.dims(node.input[0]))
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
        self.made(node, perm.index(self.axes[node.input[0]]))

    def axes_of(self, node: onnx.NodeProto) -> list[int] | None:
        if len(node.input) > 1 and node.input[1]:
            value = self.value(node.input[1])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        return next((list(a.ints) for a in node.attribute if a.name == "axes"), None)

    def squeeze(self, node: onnx.NodeProto, held: list[int]) -> None:
        axis, dims = self.axes[node.input[0]], self.dims(node.input[0])
        wanted = self.axes_of(node)
        gone = (
            [a % len(dims) for a in wanted]
            if wanted is not None
            else [i for i, d in enumerate(dims) if d == 1]
        )
        if gone == [axis] and self.hide(node):
            return
        if axis in gone:
            raise MixingError("the axis of the batch is taken away: there is room for one sample only")
        self.made(node, axis - sum(g < axis for g in gone))

    def unsqueeze(self, node: onnx.NodeProto, held: list[int]) -> None:
        wanted = self.axes_of(node)
        if wanted is None:
            raise NoBatchError("its axes are not constant")
        rank = len(self.dims(node.input[0])) + len(wanted)
        new = {a % rank for a in wanted}
        old = [i for i in range(rank) if i not in new]
        self.made(node, old[self.axes[node.input[0]]])

    def concat(self, node: onnx.NodeProto, held: list[int]) -> None:
        if len(node.input) == 1:
            self.made(node, self.axes[node.input[0]])
            return
        places = {self.axes[node.input[i]] for i in held}
        along = next(a.i for a in node.attribute if a.name == "axis") % len(self.dims(node.output[0]))
        if len(places) != 1 or along in places:
            raise NoBatchError("samples are joined along the batch")
        axis = places.pop()
        for i, name in enumerate(node.input):
            if i not in held:
                node.input[i] = self.spread(name, axis)
        self.made(node, axis)

    def expand(self, node: onnx.NodeProto, held: list[int]) -> None:
        rank = len(self.dims(node.output[0]))
        axis = self.axes[node.input[0]] + rank - len(self.dims(node.input[0]))
        target = self.value(node.input[1])
        if target is not None:
            written = [int(v) for v in target.reshape(-1)]
            at = axis - (rank - len(written))
            if at >= 0 and written[at] != 1:
                written[at] = 1  # stays as long as it is
                node.input[1] = self.ints(written)
        self.made(node, axis)

    def kept(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Operators along an axis, or with sizes by axis, that must leave the batch alone."""
        axis = self.axes[node.input[0]] if 0 in held else -1
        along = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if axis < 0:
            raise NoBatchError("what it reads from is the same for all samples, and where it reads is not")
        if along % len(self.dims(node.input[0])) == axis:
            raise NoBatchError("samples are taken apart along the batch")
        self.made(node, axis)

    def gather(self, node: onnx.NodeProto, held: list[int]) -> None:
        along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(self.dims(node.input[0]))
        if held == [1]:
            self.made(node, along + self.axes[node.input[1]])
            return
        axis = self.axes[node.input[0]]
        index = self.value(node.input[1])
        if along != axis:
            if len(held) > 1:
                raise NoBatchError("both what is read and where it is read depend on the sample")
            self.made(node, axis if axis < along else axis - 1 + len(self.dims(node.input[1])))
            return
        if index is not None and index.ndim == 0 and self.dims(node.input[0])[axis] == 1 and self.hide(node):
            return
        if index is not None and self.from_each(node, index):
            return
        if self.size != 1 or not by_index.gather(self, node, held, along):
            raise MixingError("one sample is taken out of the batch")

    def from_each(self, node: onnx.NodeProto, index: NDArray[Any]) -> bool:
        """A Gather from one sample's numbers in a row, as attention masks are read: from each sample, then."""
        dims = self.dims(node.input[0])
        if self.size != 1 or self.axes[node.input[0]] != 0 or index.ndim == 0 or index.shape[0] != 1:
            return False
        if not self.static:
            return False
        data = self.emit("Reshape", [node.input[0], self.ints([-1, *dims])])
        each = self.emit("Gather", [data, node.input[1]], axis=1)
        shape = self.ints([-1, *index.shape[1:], *dims[1:]])
        self.finish(node, "Reshape", [each, shape])
        return True

    def finish(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: Any) -> None:
        """Put another node in a node's place, with the batch in front."""
        self.replace(node, op, inputs, **attributes)
        self.made(node, 0)

    def replace(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: Any) -> None:
        """Put another node in a node's place."""
        import onnx

        self.nodes.append(onnx.helper.make_node(op, inputs, [node.output[0]], name=node.name, **attributes))

    def gather_elements(self, node: onnx.NodeProto, held: list[int]) -> None:
        along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(self.dims(node.input[0]))
        places = {self.axes[node.input[i]] for i in held}
        if along in places:
            if self.size != 1 or not by_index.elements(self, node, held, along):
                raise NoBatchError("it reads along the batch")
            return
        if len(places) != 1:
            raise NoBatchError("the batches of its operands are in different axes")
        axis = places.pop()
        for i, name in enumerate(node.input):
            if i not in held:
                node.input[i] = self.spread(name, axis)
        self.made(node, axis)

    def slice(self, node: onnx.NodeProto, held: list[int]) -> None:
        axis, dims = self.axes[node.input[0]], self.dims(node.input[0])
        attributes = {a.name: list(a.ints) for a in node.attribute}

        def operand(place: int, name: str) -> list[int] | None:
            if len(node.input) > place and node.input[place]:
                value = self.value(node.input[place])
                return None if value is None else [int(v) for v in value.reshape(-1)]
            return attributes.get(name)

        starts, ends, axes = operand(1, "starts"), operand(2, "ends"), operand(3, "axes")
        count = len(starts or ends or [])
        where = [a % len(dims) for a in axes] if axes is not None else list(range(count))
        if axis in where:
            k = where.index(axis)
            if starts is None or ends is None or starts[k] != 0 or ends[k] < dims[axis]:
                raise NoBatchError("samples are cut out of the batch")
            if ends[k] < 1 << 30:
                ends[k] = 1 << 62
                if len(node.input) > 2:
                    node.input[2] = self.ints(ends)
                else:
                    next(a for a in node.attribute if a.name == "ends").ints[:] = [
                        min(e, (1 << 31) - 1) for e in ends
                    ]
        self.made(node, axis)

    def matmul(self, node: onnx.NodeProto, held: list[int]) -> None:
        ranks = [len(self.dims(n)) for n in node.input[:2]]
        rank = len(self.dims(node.output[0]))
        places = set()
        for i in held:
            axis = self.axes[node.input[i]]
            from_end = ranks[i] - axis
            if (i == 0 and from_end == 1) or (i == 1 and from_end == 2) or (i == 1 and ranks[1] == 1):
                raise NoBatchError("it sums along the batch")
            if (i == 1 and from_end == 1) or (i == 0 and from_end == 2 and ranks[1] == 1):
                places.add(rank - 1)
            else:
                places.add(rank - from_end)
        if len(places) != 1:
            raise NoBatchError("the batches of its operands are in different axes")
        axis = places.pop()
        for i in (0, 1):
            at = ranks[i] - rank + axis
            if i not in held and axis < rank - 2 and at >= 0 and self.dims(node.input[i])[at] > 1:
                node.input[i] = self.spread(node.input[i], at)
        self.made(node, axis)

    def one_hot(self, node: onnx.NodeProto, held: list[int]) -> None:
        if held != [0]:
            raise NoBatchError("what it makes depends on the sample")
        rank = len(self.dims(node.output[0]))
        along = next((a.i for a in node.attribute if a.name == "axis"), -1) % rank
        axis = self.axes[node.input[0]]
        self.made(node, axis if axis < along else axis + 1)

    def gemm(self, node: onnx.NodeProto, held: list[int]) -> None:
        turned = next((a.i for a in node.attribute if a.name == "transA"), 0)
        if held[0] != 0 or 1 in held or self.axes[node.input[0]] != (1 if turned else 0):
            raise NoBatchError("it sums along the batch")
        self.made(node, 0)

    def resize(self, node: onnx.NodeProto, held: list[int]) -> None:
        axis = self.axes[node.input[0]]
        has_axes = any(a.name == "axes" for a in node.attribute)
        if len(node.input) > 3 and node.input[3] and not has_axes:
            dims = self.dims(node.output[0])
            if self.value(node.input[3]) is not None:
                node.input[3] = self.sizes(dims, axis)
        self.made(node, axis)

    def split(self, node: onnx.NodeProto, held: list[int]) -> None:
        if len(node.output) == 1:
            self.made(node, self.axes[node.input[0]])
            self.nodes.append(_identity(node))
            return
        self.kept(node, held)

    def recurrent(self, node: onnx.NodeProto, held: list[int]) -> None:
        if any(a.name == "layout" and a.i for a in node.attribute) or self.axes.get(node.input[0]) != 1:
            raise NoBatchError("the batch is not in its second axis")
        for i in (5, 6):
            if i < len(node.input) and node.input[i] and i not in held:
                node.input[i] = self.spread(node.input[i], 1)
        if len(node.input) > 4 and node.input[4] and 4 not in held:
            node.input[4] = self.spread(node.input[4], 0)
        for i, name in enumerate(node.output):
            if name:
                self.axes[name] = 2 if i == 0 else 1

    def einsum(self, node: onnx.NodeProto, held: list[int]) -> None:
        text = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
        left, arrow, right = text.partition("->")
        terms = left.split(",")
        if not arrow:
            raise NoBatchError("its equation leaves axes open")
        if "." in text:
            terms, right = self.written_out(node, terms, right)
        letters = {terms[i][self.axes[node.input[i]]] for i in held}
        if len(letters) != 1 or not letters <= set(right):
            raise NoBatchError("it sums along the batch, or joins batches of different axes")
        letter = letters.pop()
        for i, name in enumerate(node.input):
            if i not in held and letter in terms[i]:
                node.input[i] = self.spread(name, terms[i].index(letter))
        self.made(node, right.index(letter))

    def written_out(self, node: onnx.NodeProto, terms: list[str], right: str) -> tuple[list[str], str]:
        """Terms of an Einsum with letters in the place of dots; those at the end stand for the same axes."""
        import string

        free = [c for c in string.ascii_letters if c not in right and all(c not in t for t in terms)]
        counts = [
            len(self.dims(n)) - len(t.replace("...", "")) for n, t in zip(node.input, terms, strict=True)
        ]
        most = max(c for c, t in zip(counts, terms, strict=True) if "..." in t)
        letters = "".join(free[:most])
        plain = [t.replace("...", letters[most - c :]) for t, c in zip(terms, counts, strict=True)]
        return plain, right.replace("...", letters)

    def gather_nd(self, node: onnx.NodeProto, held: list[int]) -> None:
        shared = next((a.i for a in node.attribute if a.name == "batch_dims"), 0)
        if shared == 0 and held == [1] and self.axes[node.input[1]] < len(self.dims(node.input[1])) - 1:
            self.made(node, self.axes[node.input[1]])
            return
        if shared == 0 and held == [0] and self.of_the_only_sample(node):
            # The first number of each index is that of the only sample.
            rank = len(self.dims(node.input[1]))
            rest = self.emit("Slice", [node.input[1], *(self.ints([v]) for v in (1, 1 << 30, -1))])
            self.finish(node, "GatherND", [node.input[0], self.spread_like(rest, rank)], batch_dims=1)
            return
        if shared == 0:
            if self.size != 1 or not by_index.nd(self, node, held):
                raise NoBatchError("its indices choose samples")
            return
        if any(self.axes[node.input[i]] >= shared for i in held):
            raise NoBatchError("its indices choose samples")
        for i in (0, 1):
            if i not in held:
                node.input[i] = self.spread(node.input[i], self.axes[node.input[held[0]]])
        self.made(node, self.axes[node.input[held[0]]])

    def of_the_only_sample(self, node: onnx.NodeProto) -> bool:
        """Whether constant indices, one set of them, name sample 0 and then something in it."""
        index = self.value(node.input[1])
        if self.size != 1 or index is None or self.axes[node.input[0]] != 0:
            return False
        return index.shape[0] == 1 and index.ndim > 1 and index.shape[-1] > 1 and not np.any(index[..., 0])

    def scatter_nd(self, node: onnx.NodeProto, held: list[int]) -> None:
        if self.size != 1 or not by_index.nd(self, node, held):
            raise NoBatchError("its indices choose samples")


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _identity(node: onnx.NodeProto) -> onnx.NodeProto:
    """What hands on the first operand under the node's own name and output."""
    made = _identity_of(node.input[0], node.output[0])
    made.name = node.name
    return made


def _identity_of(given: str, made: str) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Identity", [given], [made], name=made)


def _is_plugin(node: onnx.NodeProto) -> bool:
    """Plugins have the batch first in everything that has one."""
    import onnx

    return node.domain not in ("", "ai.onnx", "com.microsoft") or not (
        node.domain or onnx.defs.has(node.op_type)
    )


_Handler = Callable[[_Freeing, Any, list[int]], None]
_HANDLERS: dict[str, _Handler] = {
    "Reshape": _Freeing.reshape,
    "Flatten": _Freeing.flatten,
    "Transpose": _Freeing.transpose,
    "Squeeze": _Freeing.squeeze,
    "Unsqueeze": _Freeing.unsqueeze,
    "Concat": _Freeing.concat,
    "Expand": _Freeing.expand,
    "Split": _Freeing.split,
    "Gather": _Freeing.gather,
    "GatherElements": _Freeing.gather_elements,
    "ScatterElements": _Freeing.gather_elements,
    "GatherND": _Freeing.gather_nd,
    "ScatterND": _Freeing.scatter_nd,
    "Slice": _Freeing.slice,
    "MatMul": _Freeing.matmul,
    "MatMulInteger": _Freeing.matmul,
    "Gemm": _Freeing.gemm,
    "OneHot": _Freeing.one_hot,
    "Resize": _Freeing.resize,
    "Upsample": _Freeing.resize,
    "LSTM": _Freeing.recurrent,
    "GRU": _Freeing.recurrent,
    "RNN": _Freeing.recurrent,
    "Einsum": _Freeing.einsum,
}
