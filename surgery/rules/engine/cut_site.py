"""What a rule for several nodes sees: the cut as a site, with what the pattern captured, and its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.convert import is_external
from surgery.graph.matching import Match, Scope
from surgery.graph.values import constant_value, plain, tensor_dtype
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Operand, Site

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SMALL = 4096
"""Bytes up to which the value of a constant is part of a cut's class."""


@dataclass(frozen=True)
class CutSite(Site):
    """A cut as rules see it.

    Inputs are the tensors that it reads, outputs those it makes; `op` and `attributes` are those of the node
    that makes the first output.

    Attributes:
        tensors: Captured tensors by name.
        lists: Captured further inputs by name.
        nodes: Captured nodes by name.
        values: Captured attributes by name.
    """

    tensors: Mapping[str, Operand] = field(default_factory=dict)
    lists: Mapping[str, tuple[Operand, ...]] = field(default_factory=dict)
    nodes: Mapping[str, Site] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        """Whether something was captured by that name."""
        return name in self.tensors or name in self.lists or name in self.nodes or name in self.values

    def tensor(self, name: str) -> Operand:
        """A captured tensor; NoMatch if there is none of that name (another alternative, an input left out)."""
        if name not in self.tensors:
            raise NoMatch(f"there is no {name} in this form of the pattern")
        return self.tensors[name]

    def name(self, name: str) -> str:
        """Name to use for a captured tensor."""
        return self.tensor(name).name

    def constant(self, name: str) -> NDArray[Any]:
        """Value of a captured tensor; NoMatch if it is not constant."""
        found = self.tensor(name).value
        if found is None:
            raise NoMatch(f"{name} is not constant")
        return found

    def rest(self, name: str) -> tuple[Operand, ...]:
        """Captured further inputs."""
        return self.lists.get(name, ())

    def node(self, name: str) -> Site:
        """A captured node, for its attributes; NoMatch if there is none of that name."""
        if name not in self.nodes:
            raise NoMatch(f"there is no {name} in this form of the pattern")
        return self.nodes[name]


class Cut:
    """One match, ready to be replaced.

    Its class is worked out at once, what a rule sees of it only where the class is new.

    Args:
        match: What the pattern found.
        scope: The graph around it.
        host: Names of tensors that depend on shapes alone.
        target: Name of the target.

    Attributes:
        inputs: The tensors of the graph that it reads, by the site's names.
        weights: The site's names of constants whose value is not part of the class.
        reads: Those among them that a rule read.

    Raises:
        NoMatch: a node of it has bodies.
    """

    def __init__(self, match: Match, scope: Scope, host: set[str], target: str) -> None:
        self.match, self.scope, self.host, self.target = match, scope, host, target
        self.inputs: dict[str, Any] = {}
        self.weights: list[str] = []
        self.reads: set[str] = set()
        self._names: dict[int, str] = {}
        self._fixed = {id(t) for t in match.constants}
        self._results: dict[int, int] = {}
        for place, tensor in enumerate(match.outputs):
            if tensor is not None:
                self._results.setdefault(id(tensor), place)
        self._nodes = _in_order(match, scope)
        self._inside: dict[int, Any] = {}
        self.key = self._class()

    def key_with(self, names: Sequence[str]) -> Any:
        """The class, with the values of the named weights."""
        return (self.key, tuple((n, _part(self.inputs[n])) for n in names))

    def _class(self) -> Any:
        parts: list[Any] = [self.scope.opset]
        for node in self._nodes:
            attributes: tuple[Any, ...] = ()
            if node.attrs:
                attributes = tuple(sorted((k, _frozen(plain(v), node.op)) for k, v in node.attrs.items()))
            inputs = tuple([self._read(t, parts) if t.name else "" for t in node.inputs])
            outputs = tuple([self._made(t, parts) if t.name else "" for t in node.outputs])
            parts.append((node.op, node.domain or "", attributes, inputs, outputs))
        match, names = self.match, self._names
        place = {id(n): i for i, n in enumerate(self._nodes)}
        parts.append(tuple(sorted((k, names.get(id(t))) for k, t in match.tensors.items())))
        if match.lists:
            lists = ((k, tuple(names.get(id(t)) for t in ts)) for k, ts in match.lists.items())
            parts.append(tuple(sorted(lists)))
        if match.named or match.kept:
            parts.append(tuple(sorted((k, place[id(n)]) for k, n in match.named.items())))
            parts.append(tuple(sorted(place[id(n)] for n in match.kept)))
        return tuple(parts)

    def _read(self, tensor: Any, parts: list[Any]) -> str:
        """Name of something that a node reads; what it is, where it comes from outside."""
        name = self._names.get(id(tensor))
        if name is not None:
            return name
        name = self._names[id(tensor)] = f"in{len(self.inputs)}"
        self.inputs[name] = tensor
        shape = tuple(tensor.shape) if tensor.shape is not None else None
        dtype = tensor_dtype(tensor)
        size = _bytes(tensor, dtype)
        if size is None:
            parts.append((dtype, shape, tensor.name in self.host))
        elif id(tensor) in self._fixed or (dtype is not None and dtype.kind in "iub" and size <= SMALL):
            parts.append((dtype, shape, _part(tensor)))
        else:
            self.weights.append(name)
            parts.append((dtype, shape, "weight"))
        return name

    def _made(self, tensor: Any, parts: list[Any]) -> str:
        place = self._results.get(id(tensor))
        used = self.scope.used(tensor)
        if place is None:
            name = f"v{len(self._names)}" if used else ""
        else:
            name = f"out{place}"
            shape = tuple(tensor.shape) if tensor.shape is not None else None
            parts.append((place, used, tensor_dtype(tensor), shape))
        self._names[id(tensor)] = name
        self._inside[id(tensor)] = tensor
        return name

    def protos(self) -> list[onnx.NodeProto]:
        """Its nodes with the site's names, producers first, those that stay included."""
        from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

        found = []
        for node in self._nodes:
            proto: onnx.NodeProto = OnnxExporter.export_node(node)
            del proto.input[:], proto.output[:]
            proto.input.extend(self._names[id(t)] if t.name else "" for t in node.inputs)
            for tensor in node.outputs:
                known = tensor.name and self.scope.used(tensor)
                proto.output.append(self._names[id(tensor)] if known else "")
            while proto.output and not proto.output[-1]:
                del proto.output[-1]
            found.append(proto)
        return found

    def site(self) -> CutSite:
        """What a rule sees; weights that it reads are noted in `reads`."""
        match = self.match
        operands = {id(t): self._operand(n, t) for n, t in self.inputs.items()}
        inputs = tuple(operands.values())
        for tensor in self._inside.values():
            shape = tuple(tensor.shape) if tensor.shape is not None else None
            used = self.scope.used(tensor)
            name = self._names[id(tensor)]
            operands[id(tensor)] = Operand(name, tensor_dtype(tensor), shape, used=used)
        first = match.nodes[0]
        return CutSite(
            first.op,
            first.domain or "",
            self.scope.opset,
            {k: plain(v) for k, v in first.attrs.items()},
            inputs,
            tuple(operands[id(t)] if t is not None else None for t in match.outputs),
            self.target,
            {k: operands[id(t)] for k, t in match.tensors.items() if id(t) not in self._inside},
            {k: tuple(operands[id(t)] for t in ts) for k, ts in match.lists.items()},
            {k: self._node(n, operands) for k, n in match.named.items()},
            match.attributes,
        )

    def _operand(self, name: str, tensor: Any) -> Operand:
        dtype, shape = tensor_dtype(tensor), tuple(tensor.shape) if tensor.shape is not None else None
        value = constant_value(tensor)
        if value is None:
            return Operand(name, dtype, shape, shape_only=tensor.name in self.host)

        def read() -> NDArray[Any]:
            self.reads.add(name)
            return value

        return Operand(name, dtype, shape, constant=True, read=read)

    def _node(self, node: Any, operands: Mapping[int, Operand]) -> Site:
        return Site(
            node.op,
            node.domain or "",
            self.scope.opset,
            {k: plain(v) for k, v in node.attrs.items()},
            tuple(operands.get(id(t)) for t in node.inputs),
            tuple(operands.get(id(t)) for t in node.outputs),
            self.target,
        )

    def closed(self, site: CutSite) -> CutSite:
        """The site without the values of weights that no rule read: what is proven holds for any values."""
        hidden = set(self.weights) - self.reads
        inputs = tuple(
            replace(o, constant=False, read=None) if o is not None and o.name in hidden else o
            for o in site.inputs
        )
        return replace(site, inputs=inputs)

    def feeds(self) -> dict[str, NDArray[Any]]:
        """The values of weights, for proofs: real ones show more than random ones."""
        values = {n: constant_value(self.inputs[n]) for n in self.weights}
        return {n: v for n, v in values.items() if v is not None}


def _in_order(match: Match, scope: Scope) -> list[Any]:
    """The nodes of the cut, producers first."""
    inside = {id(n) for n in (*match.nodes, *match.kept)}
    ordered: list[Any] = []
    done: set[int] = set()

    def visit(node: Any) -> None:
        done.add(id(node))
        for tensor in node.inputs:
            maker = scope.producer(tensor) if tensor.name else None
            if maker is not None and id(maker) in inside and id(maker) not in done:
                visit(maker)
        ordered.append(node)

    for node in (*match.nodes, *match.kept):
        if id(node) not in done:
            visit(node)
    return ordered


def _bytes(tensor: Any, dtype: np.dtype[Any] | None) -> int | None:
    """Size of a constant whose data is in the model, else None."""
    if not isinstance(tensor, gs.Constant) or is_external(tensor):
        return None
    size = dtype.itemsize if dtype is not None else 1
    for dim in tensor.shape:
        size *= dim
    return size


def _part(tensor: Any) -> Any:
    value = constant_value(tensor)
    return value.tobytes() if value is not None and value.nbytes <= SMALL else id(tensor)


def _frozen(value: Any, op: str) -> Any:
    if isinstance(value, gs.Graph):
        raise NoMatch(f"{op} has bodies; rules for several nodes do not look into them")
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v, op) for v in value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return value
