"""`Body`: writes the nodes of a replacement or a model-local function, hiding what differs between ONNX opsets.

Every body is written for one opset and one configuration: axes, thresholds and sizes are baked in as
constants, and no attribute references are used, because TensorRT's parser turns nested ones into 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 11
"""Oldest default-domain opset a body can be written for (TopK, GatherElements, Range, Loop as used here)."""

MAX_OPSET = 28
"""Newest one that has been tried."""

SMALLEST = float(np.finfo(np.float32).min)
"""The lowest finite float32: sorts below every score that passes a threshold. Not an infinity, because
infinities turn into NaN in arithmetic that a builder is free to rearrange."""

# Version since which the axes are an input and no longer an attribute.
_AXES_INPUT_SINCE = {
    "ReduceSum": 13,
    "ReduceMax": 18,
    "ReduceMin": 18,
    "ReduceProd": 18,
    "ReduceMean": 18,
    "Squeeze": 13,
    "Unsqueeze": 13,
}


class Body:
    """Builder of a list of nodes with deterministic names.

    Every method appends nodes and returns the name of the value computed (or a tuple of names).
    Constants of equal dtype, shape and bytes are written once.

    Args:
        opset: Default-domain opset version.
        least: The oldest that what is written is right in.

    Raises:
        ValueError: the opset is out of range.
    """

    def __init__(self, opset: int, *, least: int = MIN_OPSET) -> None:
        if not least <= opset <= MAX_OPSET:
            raise ValueError(f"bodies are written for opsets {least} to {MAX_OPSET}, not {opset}")
        self._least = least
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._counter = [0]
        self._outer: Body | None = None

    def nested(self) -> Body:
        """A builder for a subgraph: shares the name counter; its constants go to the outermost body."""
        inner = Body(self.opset, least=self._least)
        inner._counter = self._counter
        inner._outer = self
        return inner

    # -- plumbing -----------------------------------------------------------------------------------

    def _fresh(self, stem: str) -> str:
        self._counter[0] += 1
        return f"{stem.lower()}_{self._counter[0]}"

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        outputs: int | Sequence[str] = 1,
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[str, ...]:
        """Append one node; `outputs` is their number or their names."""
        import onnx.helper

        names = [self._fresh(op_type) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        node = onnx.helper.make_node(op_type, list(inputs), names, name=f"n_{names[0]}", **(attributes or {}))
        self.nodes.append(node)
        return tuple(names)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output and return its name."""
        return self.node(op_type, inputs, attributes=attributes)[0]

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant tensor of the given numpy dtype."""
        if self._outer is not None:
            return self._outer.const(value, dtype)
        import onnx.numpy_helper

        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._fresh("const")
            tensor = onnx.numpy_helper.from_array(array, name)
            self.node("Constant", [], outputs=[name], attributes={"value": tensor})
            self._constants[key] = name
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A 1-D int64 constant (shapes, axes, starts and ends)."""
        return self.const(values, np.int64)

    def floats(self, *values: float) -> str:
        """A 1-D float32 constant."""
        return self.const(values, np.float32)

    def scalar(self, value: float) -> str:
        """A rank-0 float32 constant."""
        return self.const(value, np.float32)

    # -- elementwise --------------------------------------------------------------------------------

    def add(self, a: str, b: str) -> str:
        """Sum of both."""
        return self.op("Add", a, b)

    def sub(self, a: str, b: str) -> str:
        """First minus second."""
        return self.op("Sub", a, b)

    def mul(self, a: str, b: str) -> str:
        """Product of both."""
        return self.op("Mul", a, b)

    def div(self, a: str, b: str) -> str:
        """First over second; integer operands are truncated."""
        return self.op("Div", a, b)

    def minimum(self, a: str, b: str) -> str:
        """Elementwise minimum with broadcasting (float)."""
        return self.op("Min", a, b)

    def maximum(self, a: str, b: str) -> str:
        """Elementwise maximum with broadcasting (float)."""
        return self.op("Max", a, b)

    def greater(self, a: str, b: str) -> str:
        """Whether the first is greater."""
        return self.op("Greater", a, b)

    def less(self, a: str, b: str) -> str:
        """Whether the first is less."""
        return self.op("Less", a, b)

    def equal(self, a: str, b: str) -> str:
        """Whether both are equal."""
        return self.op("Equal", a, b)

    def greater_equal(self, a: str, b: str) -> str:
        """Whether the first is not less; false for NaN (GreaterOrEqual exists from opset 12)."""
        if self.opset >= 12:
            return self.op("GreaterOrEqual", a, b)
        return self.op("Or", self.op("Greater", a, b), self.op("Equal", a, b))

    def logical_and(self, a: str, b: str) -> str:
        """Both hold."""
        return self.op("And", a, b)

    def logical_or(self, a: str, b: str) -> str:
        """One or both hold."""
        return self.op("Or", a, b)

    def logical_not(self, a: str) -> str:
        """It does not hold."""
        return self.op("Not", a)

    def where(self, condition: str, a: str, b: str) -> str:
        """`a` where the condition holds, else `b`."""
        return self.op("Where", condition, a, b)

    def cast(self, a: str, dtype: Any) -> str:
        """Cast to a numpy dtype."""
        import onnx.helper

        return self.op("Cast", a, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # -- shape --------------------------------------------------------------------------------------

    def reshape(self, a: str, *shape: int) -> str:
        """Reshape; 0 copies a dimension, one -1 is inferred."""
        return self.op("Reshape", a, self.ints(*shape))

    def transpose(self, a: str, *perm: int) -> str:
        """Permute dimensions."""
        return self.op("Transpose", a, perm=list(perm))

    def unsqueeze(self, a: str, *axes: int) -> str:
        """Insert dimensions of size 1 at the given axes of the result."""
        return self._axes_op("Unsqueeze", a, axes)

    def squeeze(self, a: str, *axes: int) -> str:
        """Remove dimensions of size 1."""
        return self._axes_op("Squeeze", a, axes)

    def expand(self, a: str, *shape: int) -> str:
        """Broadcast against a shape; a 1 keeps the operand's own dimension."""
        return self.op("Expand", a, self.ints(*shape))

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Concatenate; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        return self.op("Concat", *parts, axis=axis)

    def slice(self, a: str, axis: int, start: int, end: int) -> str:
        """Elements start..end of one axis."""
        return self.op("Slice", a, self.ints(start), self.ints(end), self.ints(axis))

    def gather(self, a: str, indices: str, axis: int) -> str:
        """Gather whole slices."""
        return self.op("Gather", a, indices, axis=axis)

    def gather_elements(self, a: str, indices: str, axis: int) -> str:
        """Gather element by element along one axis."""
        return self.op("GatherElements", a, indices, axis=axis)

    def split(self, a: str, axis: int, parts: int) -> tuple[str, ...]:
        """So many parts of equal size."""
        attributes: dict[str, Any] = {"axis": axis}
        if self.opset >= 18:
            attributes["num_outputs"] = parts
        return self.node("Split", [a], outputs=parts, attributes=attributes)

    # -- reductions ---------------------------------------------------------------------------------

    def reduce(self, kind: str, a: str, *axes: int, keepdims: bool = True) -> str:
        """ReduceSum, -Max, -Min, -Prod or -Mean over the axes (all of them if none is given)."""
        return self._axes_op(kind, a, axes, keepdims=int(keepdims))

    def _axes_op(self, op_type: str, a: str, axes: Sequence[int], **attributes: Any) -> str:
        if not axes:
            return self.op(op_type, a, **attributes)
        if self.opset >= _AXES_INPUT_SINCE[op_type]:
            return self.op(op_type, a, self.ints(*axes), **attributes)
        return self.op(op_type, a, axes=list(axes), **attributes)

    def topk(self, a: str, k: int, axis: int = -1) -> tuple[str, str]:
        """The k largest values, descending, and their int64 positions; order among equals is open."""
        values, indices = self.node(
            "TopK", [a, self.ints(k)], outputs=2, attributes={"axis": axis, "largest": 1, "sorted": 1}
        )
        return values, indices

    # -- control flow -------------------------------------------------------------------------------

    def loop(
        self,
        trip_count: int,
        carried: Sequence[str],
        body: onnx.GraphProto,
        *,
        scans: int = 0,
        conditional: bool = False,
    ) -> tuple[str, ...]:
        """A Loop of `trip_count` rounds, or, if conditional, of as many until the body's condition is false.

        TensorRT takes either kind, with these two traps: a loop whose condition input is left out must not
        read the condition inside its body, and one that has both a condition and scan outputs is warned
        about (its outputs might come out shorter). So counted loops get no condition at all.
        """
        trips = self.const(trip_count, np.int64)
        go = self.const(True, np.bool_) if conditional else ""
        return self.node(
            "Loop", [trips, go, *carried], outputs=len(carried) + scans, attributes={"body": body}
        )

    def always(self) -> str:
        """True as a value of this very subgraph: the condition a counted loop's body has to return."""
        import onnx.numpy_helper

        name = self._fresh("always")
        true = onnx.numpy_helper.from_array(np.array(True), name)
        return self.node("Constant", [], outputs=[name], attributes={"value": true})[0]

    def subgraph(
        self, name: str, inputs: Sequence[tuple[str, Any]], outputs: Sequence[tuple[str, Any]]
    ) -> onnx.GraphProto:
        """These nodes as a graph; inputs and outputs are (name, numpy dtype), shapes are left open."""
        import onnx.helper

        def info(item: tuple[str, Any]) -> onnx.ValueInfoProto:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(item[1]))
            shape: list[int] | None = [] if item[0].startswith(("iteration", "condition")) else None
            return onnx.helper.make_tensor_value_info(item[0], dtype, shape)

        return onnx.helper.make_graph(self.nodes, name, [info(i) for i in inputs], [info(o) for o in outputs])

    def fresh(self, stem: str) -> str:
        """A name nothing else in this body has."""
        return self._fresh(stem)

    # -- result -------------------------------------------------------------------------------------

    def alias(self, value: str, name: str) -> None:
        """Give a value a second, fixed name (an output of the function)."""
        self.node("Identity", [value], outputs=[name])

    def function(
        self,
        domain: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        doc: str = "",
    ) -> onnx.FunctionProto:
        """Everything written so far as a model-local function."""
        import onnx.helper

        return onnx.helper.make_function(
            domain,
            name,
            list(inputs),
            list(outputs),
            self.nodes,
            [onnx.helper.make_opsetid("", self.opset)],
            doc_string=doc,
        )
