"""Carrying dtypes that a target lacks in dtypes that it has.

8- and 16-bit whole numbers fit into int32, unsigned 32-bit ones into int64, so everything that only moves or compares
values stays as it is, and arithmetic that can leave the range is brought back into it by a remainder: two's
complement, as ONNX Runtime computes. float64 becomes float32, which rounds; unsigned 64-bit numbers become int64 as
long as they are below 2**63. The inputs and outputs of the graph that change are told to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.view import body_nodes, has_bodies

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

CARRIERS: dict[str, str] = {
    "float64": "float32",
    "int8": "int32",
    "uint8": "int32",
    "int16": "int32",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
    "int4": "int32",
    "uint4": "int32",
    "int2": "int32",
    "uint2": "int32",
}
"""Dtype to the one that carries it."""

BITS = {
    "int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "uint32": 32, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2,
}  # fmt: skip

WRAPPING = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Pow", "Sum", "ReduceSum", "ReduceProd", "ReduceL1",
        "ReduceSumSquare", "MatMul", "Gemm", "CumSum", "CumProd", "BitwiseNot", "BitShift", "Mean", "ScatterND",
        "ScatterElements", "Einsum", "Cast", "CastLike",
    }
)  # fmt: skip
"""Operators whose exact result may lie outside the range of the operands' dtype."""

OWN_MEANING = frozenset(
    {
        "BitCast", "BitShift", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv",
        "QLinearMatMul", "ConvInteger", "MatMulInteger",
    }
)  # fmt: skip
"""Operators to which the dtype itself means something: they have to be written out before their dtype is changed."""

TYPED = ("to", "dtype")
"""Attributes that name a dtype."""


class CannotRetype(Exception):  # noqa: N818 - an answer
    """Some node cannot be computed in another dtype; the text says which and why."""


@dataclass
class Retyped:
    """What changed.

    Attributes:
        inputs: Graph input to (old dtype, new dtype), numpy's names.
        outputs: The same for graph outputs.
        nodes: Names of nodes that now compute in another dtype.
        made: Names of new nodes.
    """

    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    nodes: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


def odd(tensor: Any) -> str | None:
    """Name of the tensor's dtype if it is one that has a carrier."""
    return None if tensor.dtype is None else _odd(tensor.dtype)


@lru_cache(maxsize=256)
def _odd(kind: Any) -> str | None:
    import onnx

    if isinstance(kind, (int, np.integer)) and not isinstance(kind, type):
        kind = onnx.helper.tensor_dtype_to_np_dtype(int(kind))
    name = np.dtype(kind).name
    return name if name in CARRIERS else None


def components(graph: gs.Graph) -> list[list[int]]:
    """Positions of nodes that have to change together: those connected by tensors of such dtypes.

    Constants connect nothing: each use can have a copy of its own.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    touched: list[tuple[int, str | None]] = []
    for position, node in enumerate(graph.nodes):
        everything = list(_everywhere(node))
        names = list(dict.fromkeys(t.name for t in everything if t.name and odd(t) and not _constant(t)))
        for name in names[1:]:
            parent[root(name)] = root(names[0])
        if names or any(t.name and odd(t) for t in everything):
            touched.append((position, names[0] if names else None))
    groups: dict[str, list[int]] = {}
    for position, tensor in touched:
        groups.setdefault(root(tensor) if tensor else f"\0{position}", []).append(position)
    return list(groups.values())


def written_out_first(graph: gs.Graph, refused: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """Nodes that :func:`retype` would have to change but cannot, because the dtype itself means something to them."""
    nodes = list(graph.nodes)
    found = []
    for group in components(graph):
        own = [nodes[p] for p in group if nodes[p].op in OWN_MEANING]
        if own and any(refused(n) for p in group for n in (nodes[p], *body_nodes(nodes[p]))):
            found += own
    return found


def retype(graph: gs.Graph, refused: Callable[[gs.Node], bool], *, prefix: str = "surgery/retype") -> Retyped:
    """Retype, in place, every component in which a node is refused.

    Args:
        graph: The graph, with dtypes inferred.
        refused: Whether the target refuses a node as it stands.
        prefix: In front of the names of new nodes.

    Raises:
        CannotRetype: a node in such a component has no form in the carrier.
    """
    result = Retyped()
    nodes = list(graph.nodes)
    inserted: dict[int, list[Any]] = {}
    before: dict[int, list[Any]] = {}
    tensors: dict[int, Any] = {}
    for group in components(graph):
        if not any(refused(n) for p in group for n in (nodes[p], *body_nodes(nodes[p]))):
            continue
        for position in group:
            node = nodes[position]
            tensors.update({id(t): t for t in _everywhere(node) if t.name and odd(t) and not _constant(t)})
            before[position], inserted[position] = _change(graph, node, prefix, result)
    for tensor in graph.inputs:
        if odd(tensor) and not tensor.outputs:
            tensors[id(tensor)] = tensor  # nothing reads it, but a parser looks at it all the same
    if not tensors:
        return result
    _boundary(graph.inputs, tensors, result.inputs)
    _boundary(graph.outputs, tensors, result.outputs)
    for tensor in tensors.values():
        name = odd(tensor)
        if name is not None:
            tensor.dtype = np.dtype(CARRIERS[name])
    graph.nodes.clear()
    for position, node in enumerate(nodes):
        graph.nodes.extend([*before.get(position, ()), node, *inserted.get(position, ())])
    return result


def _change(graph: gs.Graph, node: Any, prefix: str, result: Retyped) -> tuple[list[Any], list[Any]]:
    """Retype a node and all in its bodies; the nodes that go before and after it."""
    if node.op in OWN_MEANING:
        raise CannotRetype(f"{node.name!r} is {node.op}, which reads or makes such a dtype on purpose")
    change = _Change(graph, node, f"{prefix}/{len(result.nodes)}")
    change.apply()
    result.nodes.append(node.name)
    result.made += [n.name for n in (*change.before, *change.after)]
    for body in node.subgraphs():
        inside: list[Any] = []
        for inner in body.nodes:
            if any(t.name and odd(t) for t in _everywhere(inner)):
                before, after = _change(graph, inner, prefix, result)
                inside += [*before, inner, *after]
            else:
                inside.append(inner)
        for i, tensor in enumerate(body.outputs):
            if _constant(tensor) and odd(tensor):
                body.outputs[i] = change.carried(tensor)
        body.nodes.clear()
        body.nodes.extend(inside)
    return change.before, change.after


def _everywhere(node: Any) -> Iterator[Any]:
    """The tensors of a node and of its bodies."""
    yield from _tensors(node)
    for body in node.subgraphs() if has_bodies(node) else ():
        yield from (*body.inputs, *body.outputs)
        for inner in body.nodes:
            yield from _everywhere(inner)


def _boundary(values: Iterable[Any], tensors: dict[int, Any], record: dict[str, tuple[str, str]]) -> None:
    for tensor in values:
        name = odd(tensor)
        if id(tensor) in tensors and name is not None:
            record[tensor.name] = (name, CARRIERS[name])


def _tensors(node: Any) -> list[Any]:
    return [*node.inputs, *node.outputs]


def _constant(tensor: Any) -> bool:
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant)


class _Change:
    """One node in the carrier's dtype."""

    def __init__(self, graph: gs.Graph, node: Any, prefix: str) -> None:
        self.graph, self.node, self.prefix = graph, node, prefix
        self.before: list[Any] = []
        self.after: list[Any] = []

    def apply(self) -> None:
        node = self.node
        kinds = [odd(t) if t.name else None for t in node.outputs]
        for i, tensor in enumerate(node.inputs):
            if tensor.name and _constant(tensor) and odd(tensor):
                node.inputs[i] = self.carried(tensor)
        self._attributes()
        if not self._schema_allows():
            self._through_float32()
        elif node.op in WRAPPING:
            for i, kind in enumerate(kinds):
                if kind in BITS:
                    self._wrap(i, kind)

    def carried(self, tensor: Any) -> Any:
        """The constant in its carrier's dtype."""
        if is_external(tensor):
            raise CannotRetype(f"the constant {tensor.name!r} lies in a file of its own")
        kind = odd(tensor)
        assert kind is not None
        value = value_of(tensor)
        carrier = np.dtype(CARRIERS[kind])
        if kind == "float64":
            # The most that float32 has, not infinity: such a number is a mask, and is added to or multiplied by 0.
            most = np.finfo(carrier).max
            value = np.where(np.isfinite(value), np.clip(value, -most, most), value)
        made = value.astype(carrier)
        if kind != "float64" and not np.array_equal(made.astype(value.dtype), value):
            raise CannotRetype(f"values of the constant {tensor.name!r} do not fit into {carrier}")
        if kind == "uint64" and np.any(value > np.uint64(2**63 - 1)):
            raise CannotRetype(f"values of the constant {tensor.name!r} are 2**63 and above")
        return constant(f"{self.prefix}/{tensor.name}", made)

    def _attributes(self) -> None:
        import onnx

        for name in TYPED:
            kind = self.node.attrs.get(name)
            if kind is None or not isinstance(kind, (int, np.integer, type, np.dtype)):
                continue
            dtype: np.dtype[Any]
            if isinstance(kind, (int, np.integer)):
                dtype = onnx.helper.tensor_dtype_to_np_dtype(int(kind))
            else:
                dtype = np.dtype(kind)
            if dtype.name in CARRIERS:
                carrier = np.dtype(CARRIERS[dtype.name])
                self.node.attrs[name] = onnx.helper.np_dtype_to_tensor_dtype(carrier)
        value = self.node.attrs.get("value")
        if value is not None and _constant(value) and odd(value):
            self.node.attrs["value"] = self.carried(value)

    def _schema_allows(self) -> bool:
        import onnx

        if self.node.domain not in (None, "", "ai.onnx"):
            raise CannotRetype(
                f"{self.node.name!r} is {self.node.domain}.{self.node.op}, which no rule writes in other operators"
            )
        schema = onnx.defs.get_schema(self.node.op, int(self.graph.opset))
        formal = [(t, schema.inputs) for t in enumerate(self.node.inputs)]
        formal += [(t, schema.outputs) for t in enumerate(self.node.outputs)]
        for (i, tensor), declared in formal:
            kind = odd(tensor) if tensor.name else None
            if kind is None or not declared:
                continue
            types = declared[min(i, len(declared) - 1)].types
            carrier = {"float32": "float"}.get(CARRIERS[kind], CARRIERS[kind])
            if f"tensor({carrier})" not in types:
                return False
        return True

    def _through_float32(self) -> None:
        """The node in float32, which holds whole numbers below 2**24 exactly, between two casts."""
        import onnx
        import onnx_graphsurgeon as gs

        node = self.node
        kinds = [odd(t) for t in _tensors(node) if t.name and odd(t)]
        if any(k not in BITS or BITS[k] > 16 for k in kinds) or node.op not in THROUGH_FLOAT:
            raise CannotRetype(f"{node.name!r} ({node.op}) does not take {CARRIERS[str(kinds[0])]}")
        for i, tensor in enumerate(node.inputs):
            if tensor.name and (odd(tensor) or (_constant(tensor) and tensor.name.startswith(self.prefix))):
                made = gs.Variable(f"{self.prefix}/in{i}", np.dtype(np.float32), tensor.shape)
                cast = gs.Node(
                    "Cast", f"{self.prefix}/cast{i}", {"to": onnx.TensorProto.FLOAT}, [tensor], [made]
                )
                self.before.append(cast)
                node.inputs[i] = made
        for i, tensor in enumerate(node.outputs):
            if tensor.name and odd(tensor):
                made = gs.Variable(f"{self.prefix}/out{i}", np.dtype(np.float32), tensor.shape)
                carrier = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(CARRIERS[str(odd(tensor))]))
                node.outputs[i] = made
                cast = gs.Node("Cast", f"{self.prefix}/back{i}", {"to": carrier}, [made], [tensor])
                self.after.append(cast)

    def _wrap(self, i: int, kind: str) -> None:
        """Bring output `i` back into the range of its dtype."""
        import onnx_graphsurgeon as gs

        tensor = self.node.outputs[i]
        carrier = np.dtype(CARRIERS[kind])
        raw = gs.Variable(f"{self.prefix}/raw{i}", carrier, tensor.shape)
        self.node.outputs[i] = raw
        modulus = constant(f"{self.prefix}/modulus{i}", np.asarray(2 ** BITS[kind], carrier))
        if kind.startswith("u"):
            self.after.append(gs.Node("Mod", f"{self.prefix}/wrap{i}", {}, [raw, modulus], [tensor]))
            return
        half = constant(f"{self.prefix}/half{i}", np.asarray(2 ** (BITS[kind] - 1), carrier))
        up = gs.Variable(f"{self.prefix}/up{i}", carrier, tensor.shape)
        rest = gs.Variable(f"{self.prefix}/rest{i}", carrier, tensor.shape)
        self.after += [
            gs.Node("Add", f"{self.prefix}/add{i}", {}, [raw, half], [up]),
            gs.Node("Mod", f"{self.prefix}/wrap{i}", {}, [up, modulus], [rest]),
            gs.Node("Sub", f"{self.prefix}/sub{i}", {}, [rest, half], [tensor]),
        ]


THROUGH_FLOAT = frozenset(
    {"MaxPool", "Resize", "GlobalMaxPool", "MaxUnpool", "Max", "Min", "Clip", "Relu", "Sign"}
)
"""Operators that select among their operands, so that computing in float32 changes nothing."""
