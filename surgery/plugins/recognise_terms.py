"""Graphs as expressions: what a value is computed from, whatever tensors and nodes are named or how they are ordered.

Two values with equal expressions are equal, so comparing expressions proves that a subgraph computes what a plugin's
body does. Identity nodes vanish, constants stand where they are read, attributes have their defaults, and values of
Loop, Scan and If bodies belong to the node that has the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["input", "constant", "node", "bound", "empty"]

COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Equal", "Min", "Max", "Sum", "BitwiseAnd", "BitwiseOr"}
)
"""Operators whose two operands may stand in either order."""

UNREPEATABLE = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
                          "Bernoulli", "Dropout"})  # fmt: skip
"""Operators that give something else each time: two such nodes are never the same expression."""

SMALL = 4096
"""Bytes up to which constants are told apart by their content, larger ones by their name."""


@dataclass(eq=False, slots=True)
class Op:
    """A node as part of an expression.

    Attributes:
        kind: Operator type, with its domain in front unless that is ONNX's own.
        attributes: Values by name, defaults of the operator included; numbers, text, lists, arrays.
        args: Operands; empty ones at the end are dropped.
        bodies: Name, number of inputs and results of each body inside, in order.
        nodes: Places in the list of nodes of the graph of all nodes that are this expression; none inside bodies.
        outputs: Names of the outputs of the first of these nodes.
    """

    kind: str
    attributes: dict[str, Any]
    args: tuple[Value, ...]
    bodies: tuple[tuple[str, int, tuple[Value, ...]], ...] = ()
    nodes: list[int] = field(default_factory=list)
    outputs: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Value:
    """A value: an input of the graph, a constant, an output of an `Op`, or what a body is given.

    Attributes:
        kind: Which of these; "empty" for an operand that is left out.
        name: Tensor name, where it has one.
        op: What makes it.
        index: Which output of `op`; which input of the body.
        depth: How deep the body is nested, 1 for one of a node of the graph.
        tensor: The constant.
    """

    kind: Kind
    name: str = ""
    op: Op | None = None
    index: int = 0
    depth: int = 0
    tensor: onnx.TensorProto | None = None
    _array: Array | None = None

    @property
    def array(self) -> Array:
        """The content of a constant.

        Raises:
            ValueError: its data is in another file.
        """
        assert self.tensor is not None
        if self.tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"the data of {self.name!r} is in another file")
        if self._array is None:
            self._array = onnx.numpy_helper.to_array(self.tensor)
        return self._array


EMPTY = Value("empty")


class Terms:
    """The expressions of a graph.

    Args:
        nodes: Its nodes, in topological order.
        inputs: Names of its inputs.
        constants: Its initializers.
        opset: Version of ONNX's own operators.
        merge: Whether equal expressions are one object.
    """

    def __init__(
        self,
        nodes: Iterable[onnx.NodeProto],
        inputs: Iterable[str],
        constants: Iterable[onnx.TensorProto],
        opset: int,
        *,
        merge: bool = True,
    ) -> None:
        self.opset = opset
        self.ops: list[Op] = []
        self.values: dict[str, Value] = {}
        self.readers: dict[str, set[int]] = {}
        self._merge = merge
        self._same: dict[Any, Any] = {}
        for name in inputs:
            self.values[name] = Value("input", name)
        for tensor in constants:
            self.values[tensor.name] = self._constant(tensor, tensor.name)
        for place, node in enumerate(nodes):
            self._add(node, self.values, 0, place)

    def by_kind(self) -> dict[str, list[Op]]:
        """The expressions made by nodes of the graph itself, by operator type."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            found.setdefault(op.kind, []).append(op)
        return found

    def _constant(self, tensor: onnx.TensorProto, name: str) -> Value:
        raw = len(tensor.raw_data) or 8 * int(np.prod(tensor.dims or [1]))
        if not self._merge or raw > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return Value("constant", name, tensor=tensor)
        array = onnx.numpy_helper.to_array(tensor)
        key = (
            "constant",
            tensor.data_type,
            array.shape,
            array.tobytes() if array.dtype != object else array.tolist().__repr__(),
        )
        found: Value = self._same.setdefault(key, Value("constant", name, tensor=tensor))
        return found

    def _add(self, node: onnx.NodeProto, scope: dict[str, Value], depth: int, place: int | None) -> None:
        if node.domain in ("", "ai.onnx"):
            if node.op_type == "Identity":
                scope[node.output[0]] = scope.get(node.input[0], EMPTY)
                return
            if node.op_type == "Constant":
                tensor = _constant_of(node)
                if tensor is not None:
                    scope[node.output[0]] = self._constant(tensor, node.output[0])
                    return
        op = self._op(node, scope, depth)
        if place is not None:
            if not op.nodes:
                self.ops.append(op)
                op.outputs = tuple(node.output)
            op.nodes.append(place)
        for index, name in enumerate(node.output):
            if name:
                scope[name] = self._result(op, index, name)

    def _result(self, op: Op, index: int, name: str) -> Value:
        key = ("result", id(op), index)
        found: Value | None = self._same.get(key)
        if found is None:
            found = self._same[key] = Value("node", name, op, index)
        return found

    def _op(self, node: onnx.NodeProto, scope: Mapping[str, Value], depth: int) -> Op:
        args = [scope.get(n) or Value("input", n) if n else EMPTY for n in node.input]
        while args and args[-1].kind == "empty":
            args.pop()
        own = node.domain in ("", "ai.onnx")
        attributes = dict(defaults_of(node.op_type, self.opset)) if own else {}
        bodies = []
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                bodies.append(self._body(attribute.name, attribute.g, scope, depth + 1))
            elif attribute.type != onnx.AttributeProto.GRAPHS:
                attributes[attribute.name] = _plain(attribute)
        kind = node.op_type if own else f"{node.domain}:{node.op_type}"
        op = Op(kind, attributes, tuple(args), tuple(sorted(bodies, key=lambda b: b[0])))
        if not self._merge or node.op_type in UNREPEATABLE:
            return op
        inside = tuple((name, count, tuple(map(id, results))) for name, count, results in op.bodies)
        frozen = tuple((k, _frozen(v)) for k, v in sorted(attributes.items()))
        key = ("op", kind, frozen, tuple(map(id, args)), inside, len(node.output))
        found: Op = self._same.setdefault(key, op)
        return found

    def _body(
        self, name: str, graph: onnx.GraphProto, scope: Mapping[str, Value], depth: int
    ) -> tuple[str, int, tuple[Value, ...]]:
        inner = dict(scope)
        for index, value in enumerate(graph.input):
            key = ("bound", depth, index)
            inner[value.name] = self._same.setdefault(key, Value("bound", index=index, depth=depth))
        for tensor in graph.initializer:
            inner[tensor.name] = self._constant(tensor, tensor.name)
        for node in graph.node:
            self._add(node, inner, depth, None)
        return name, len(graph.input), tuple(inner.get(v.name, EMPTY) for v in graph.output)


def terms_of(model: onnx.ModelProto) -> Terms:
    """The expressions of a model's graph."""
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 17)
    known = {t.name for t in model.graph.initializer}
    inputs = [v.name for v in model.graph.input if v.name not in known]
    return Terms(model.graph.node, inputs, model.graph.initializer, opset)


def below(values: Sequence[Value]) -> Iterator[Op]:
    """All parts of some expressions, each once, bodies included."""
    seen: set[int] = set()
    stack = list(values)
    while stack:
        op = stack.pop().op
        if op is None or id(op) in seen:
            continue
        seen.add(id(op))
        yield op
        stack.extend(op.args)
        for _, _, results in op.bodies:
            stack.extend(results)


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    from surgery.graph.editor import constant_proto

    return constant_proto(node) if len(node.attribute) == 1 else None


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, (int, float)):
        return value
    items = list(value)
    return [i.decode("utf-8", errors="replace") if isinstance(i, bytes) else i for i in items]


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(value) if isinstance(value, list) else (type(value).__name__, value)


@lru_cache(maxsize=4096)
def defaults_of(op_type: str, opset: int) -> tuple[tuple[str, Any], ...]:
    """Attributes that an operator has when a node does not say so."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return ()
    found = []
    for name, attribute in sorted(schema.attributes.items()):
        default = attribute.default_value
        if default.type not in (onnx.AttributeProto.UNDEFINED, onnx.AttributeProto.GRAPH):
            found.append((name, _plain(default)))
    return tuple(found)
