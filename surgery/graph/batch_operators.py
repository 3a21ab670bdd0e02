"""What each operator makes of the batch: where it goes, what has to be as long as it, and what would mix samples."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph import batch_index as by_index
from surgery.graph.batch_inputs import MixingError, NoBatchError
from surgery.graph.batch_loop import count, reads
from surgery.graph.batch_way import Way, copied, identity

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

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


class Operators(Way):
    """The operators, one method for each kind."""

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
        copy = copied(node)
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
        """Operators whose batch is the first axis."""
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
        """Operators along certain axes, which have to leave the batch alone."""
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
        """The batch goes where what is in front of it stays; constant sizes follow."""
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

    def flatten(self, node: onnx.NodeProto, held: list[int]) -> None:
        """As a Reshape to two axes."""
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
            self.nodes.append(identity(node))
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
        self.nodes.append(identity(node))
        return True

    def transpose(self, node: onnx.NodeProto, held: list[int]) -> None:
        """The batch moves with its axis."""
        rank = len(self.dims(node.input[0]))
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
        self.made(node, perm.index(self.axes[node.input[0]]))

    def squeeze(self, node: onnx.NodeProto, held: list[int]) -> None:
        """The batch loses axes in front of it, or its own."""
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
        """The batch gets axes in front of it."""
        wanted = self.axes_of(node)
        if wanted is None:
            raise NoBatchError("its axes are not constant")
        rank = len(self.dims(node.input[0])) + len(wanted)
        new = {a % rank for a in wanted}
        old = [i for i in range(rank) if i not in new]
        self.made(node, old[self.axes[node.input[0]]])

    def concat(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Joined along another axis; what is the same for all samples is repeated."""
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
        """Constant sizes leave the batch as it is."""
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
        """Read by index along the batch, or beside it."""
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

    def gather_elements(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Read or write entry by entry, along the batch or beside it."""
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
        """The batch is taken whole."""
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
        """The batch is among the axes in front, or rows or columns of one operand."""
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
        """One more axis."""
        if held != [0]:
            raise NoBatchError("what it makes depends on the sample")
        rank = len(self.dims(node.output[0]))
        along = next((a.i for a in node.attribute if a.name == "axis"), -1) % rank
        axis = self.axes[node.input[0]]
        self.made(node, axis if axis < along else axis + 1)

    def gemm(self, node: onnx.NodeProto, held: list[int]) -> None:
        """The batch is in the rows."""
        turned = next((a.i for a in node.attribute if a.name == "transA"), 0)
        if held[0] != 0 or 1 in held or self.axes[node.input[0]] != (1 if turned else 0):
            raise NoBatchError("it sums along the batch")
        self.made(node, 0)

    def resize(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Constant sizes follow the batch."""
        axis = self.axes[node.input[0]]
        has_axes = any(a.name == "axes" for a in node.attribute)
        if len(node.input) > 3 and node.input[3] and not has_axes:
            dims = self.dims(node.output[0])
            if self.value(node.input[3]) is not None:
                node.input[3] = self.sizes(dims, axis)
        self.made(node, axis)

    def split(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Not along the batch, unless into one."""
        if len(node.output) == 1:
            self.made(node, self.axes[node.input[0]])
            self.nodes.append(identity(node))
            return
        self.kept(node, held)

    def recurrent(self, node: onnx.NodeProto, held: list[int]) -> None:
        """States that were for the fixed batch are repeated."""
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
        """The letter of the batch stays in the result."""
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
        free = [c for c in string.ascii_letters if c not in right and all(c not in t for t in terms)]
        counts = [
            len(self.dims(n)) - len(t.replace("...", "")) for n, t in zip(node.input, terms, strict=True)
        ]
        most = max(c for c, t in zip(counts, terms, strict=True) if "..." in t)
        letters = "".join(free[:most])
        plain = [t.replace("...", letters[most - c :]) for t, c in zip(terms, counts, strict=True)]
        return plain, right.replace("...", letters)

    def gather_nd(self, node: onnx.NodeProto, held: list[int]) -> None:
        """Read by lists of indices."""
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
        """Write by lists of indices."""
        if self.size != 1 or not by_index.nd(self, node, held):
            raise NoBatchError("its indices choose samples")


def _is_plugin(node: onnx.NodeProto) -> bool:
    """Plugins have the batch first in everything that has one."""
    import onnx

    return node.domain not in ("", "ai.onnx", "com.microsoft") or not (
        node.domain or onnx.defs.has(node.op_type)
    )


_Handler = Callable[[Operators, Any, list[int]], None]
_HANDLERS: dict[str, _Handler] = {
    "Reshape": Operators.reshape,
    "Flatten": Operators.flatten,
    "Transpose": Operators.transpose,
    "Squeeze": Operators.squeeze,
    "Unsqueeze": Operators.unsqueeze,
    "Concat": Operators.concat,
    "Expand": Operators.expand,
    "Split": Operators.split,
    "Gather": Operators.gather,
    "GatherElements": Operators.gather_elements,
    "ScatterElements": Operators.gather_elements,
    "GatherND": Operators.gather_nd,
    "ScatterND": Operators.scatter_nd,
    "Slice": Operators.slice,
    "MatMul": Operators.matmul,
    "MatMulInteger": Operators.matmul,
    "Gemm": Operators.gemm,
    "OneHot": Operators.one_hot,
    "Resize": Operators.resize,
    "Upsample": Operators.resize,
    "LSTM": Operators.recurrent,
    "GRU": Operators.recurrent,
    "RNN": Operators.recurrent,
    "Einsum": Operators.einsum,
}
