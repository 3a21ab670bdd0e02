"""What following the batch through a model is written with: nodes, sizes that follow the batch, moves of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.batch_inputs import MixingError, NoBatchError, fixed_batch, relabeled
from surgery.graph.infer import dims_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


class Way:
    """One way to give a model a free batch: what is known of its tensors, and the nodes so far.

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
        self.samples = ""
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))

    def emit(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; the name of what it makes."""
        import onnx

        self.count += 1
        name = f"surgery/batch/{self.count}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def ints(self, values: list[int]) -> str:
        """The name of a constant list of int64."""
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
        """A constant's value; None if it is none, or lies in another file."""
        import onnx

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)

    def dims(self, name: str) -> list[int]:
        """Shape of a tensor at the fixed batch."""
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

    def spread_others(self, node: onnx.NodeProto, held: list[int], axis: int) -> None:
        """Give a node the operands without a batch as often as there are samples, along an axis."""
        for i, name in enumerate(node.input):
            if i not in held:
                node.input[i] = self.spread(name, axis)

    def spread_like(self, name: str, rank: int) -> str:
        """A tensor of so many axes, the first of one entry, with an entry for each sample."""
        repeats = [self.samples, *([self.ints([1] * (rank - 1))] if rank > 1 else [])]
        return self.emit("Tile", [name, self.emit("Concat", repeats, axis=0) if rank > 1 else repeats[0]])

    def row(self, name: str, axis: int) -> str:
        """The first entry along an axis, which stays."""
        if self.grows(name, axis):
            return name
        return self.emit("Gather", [name, self.ints([0])], axis=axis)

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
        self.sized[node.output[0]] = copied(node), where

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
                self.sized[name] = copied(node), where

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
        self.moved(identity_of(name, made), name, axis, place)
        return made

    def length(self, name: str, axis: int) -> str:
        """How many entries a sample has along an axis, [1]."""
        whole = self.emit("Gather", [self.emit("Shape", [name]), self.ints([axis])], axis=0)
        return self.emit("Div", [whole, self.samples]) if axis == self.axes.get(name) else whole

    def made(self, node: onnx.NodeProto, axis: int) -> None:
        """Note the axis of the batch in what a node makes."""
        self.axes.update({n: axis for n in node.output if n})

    def finish(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: Any) -> None:
        """Put another node in a node's place, with the batch in front."""
        self.replace(node, op, inputs, **attributes)
        self.made(node, 0)

    def replace(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: Any) -> None:
        """Put another node in a node's place."""
        import onnx

        self.nodes.append(onnx.helper.make_node(op, inputs, [node.output[0]], name=node.name, **attributes))

    def hide(self, node: onnx.NodeProto) -> bool:
        """Leave the batch in front where a node would take the only sample out of it."""
        if self.size != 1 or self.axes[node.input[0]] != 0:
            return False
        self.hidden[node.output[0]] = f"{node.op_type} {node.name!r}"
        self.nodes.append(identity(node))
        return True

    def axes_of(self, node: onnx.NodeProto) -> list[int] | None:
        """Constant axes of a Squeeze, Unsqueeze or reduction; None if they are not known."""
        if len(node.input) > 1 and node.input[1]:
            value = self.value(node.input[1])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        return next((list(a.ints) for a in node.attribute if a.name == "axes"), None)


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def identity(node: onnx.NodeProto) -> onnx.NodeProto:
    """What hands on the first operand under the node's own name and output."""
    made = identity_of(node.input[0], node.output[0])
    made.name = node.name
    return made


def identity_of(given: str, made: str) -> onnx.NodeProto:
    """A node that hands on a tensor under another name."""
    import onnx

    return onnx.helper.make_node("Identity", [given], [made], name=made)
