"""What each operator makes of the batch: where it goes, what has to be as long as it, and what would mix samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph import batch_layout, batch_products, batch_reading  # noqa: F401 - they register handlers
from surgery.graph.batch_handlers import HANDLERS
from surgery.graph.batch_inputs import MixingError, NoBatchError
from surgery.graph.batch_loop import count, reads
from surgery.graph.batch_way import Way, copied, identity

if TYPE_CHECKING:
    import onnx

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
        handler = HANDLERS.get(node.op_type)
        try:
            if handler is not None:
                handler(self, node, held)
            elif node.op_type in FIRST or _is_plugin(node):
                self.first(node, held)
            elif node.op_type in REDUCING or node.op_type in ALONG:
                self.along(node)
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

    def along(self, node: onnx.NodeProto) -> None:
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


def _is_plugin(node: onnx.NodeProto) -> bool:
    """Plugins have the batch first in everything that has one."""
    import onnx

    return node.domain not in ("", "ai.onnx", "com.microsoft") or not (
        node.domain or onnx.defs.has(node.op_type)
    )
