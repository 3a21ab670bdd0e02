"""What can be seen in a model without running it: where each node is, types, constants, where a value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx

KNOWN = 1 << 15
"""Bytes of a constant up to which its value is shown to shape inference."""

LONGEST_DIM = 24
"""Characters up to which the name of a dim is shown."""

SHAPES = frozenset({"Shape", "Size"})
"""Operators whose result depends on the shape of what they read, not on its values."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a tensor: element type (``float32``; None if unknown) and dims (None if unknown)."""

    dtype: str | None
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.dims is None:
            return f"{self.dtype or 'unknown dtype'}, shape unknown"
        return f"{self.dtype or 'unknown dtype'}[{', '.join(map(shown_dim, self.dims))}]"


def shown_dim(dim: int | str | None) -> str:
    """A dim in words; names that shape inference made up, as long as a path, say nothing."""
    return "?" if dim is None or (isinstance(dim, str) and len(dim) > LONGEST_DIM) else str(dim)


@dataclass(slots=True)
class Scope:
    """The main graph, a body or a function: names and what they stand for."""

    graph: Any
    parent: Scope | None
    kinds: dict[str, Kind] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    constants: dict[str, Any] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    producers: dict[str, Place] = field(default_factory=dict)

    def holder(self, name: str) -> Scope | None:
        """The innermost scope that defines a name."""
        here: Scope | None = self
        while here is not None:
            if name in here.producers or name in here.constants or name in here.inputs or name in here.sparse:
                return here
            here = here.parent
        return None

    def kind(self, name: str) -> Kind:
        """What is known of a tensor, seen from here."""
        here: Scope | None = self
        while here is not None:
            if name in here.kinds:
                return here.kinds[name]
            here = here.parent
        return Kind(None, None)


@dataclass(slots=True)
class Place:
    """A node and where it is.

    Attributes:
        node: The node.
        scope: Names that it sees.
        path: Labels of the nodes whose bodies it lies in, outermost first.
        owners: Those nodes' places.
        function: Name of the model-local function that it belongs to, or None.
    """

    node: onnx.NodeProto
    scope: Scope
    path: tuple[str, ...]
    owners: tuple[Place, ...]
    function: str | None = None

    @property
    def label(self) -> str:
        """The node's name, or what it makes where it has none."""
        return label(self.node)


def label(node: onnx.NodeProto) -> str:
    """The node's name, or what it makes where it has none."""
    return node.name or f"{node.op_type} -> {', '.join(o for o in node.output if o)}"


class Facts:
    """A model read once for many questions; the model is not changed.

    Attributes:
        model: The model.
        places: All its nodes: the main graph's, those of bodies and of model-local functions.
        main: The main graph's scope.
        opsets: Version of each operator set.
        functions: Domain and name of each model-local function.
        inlined: Names of nodes that stood in a model-local function before it was expanded.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.inlined: frozenset[str] = frozenset()
        self.opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.places: list[Place] = []
        self.main = self._read(_inferred(model).graph, model.graph, None, (), (), None)
        for function in model.functions:
            self._read(None, function, None, (), (), function.name)
        self.functions = {(f.domain, f.name) for f in model.functions}
        self._by_name: dict[str, list[Place]] = {}
        for place in self.places:
            self._by_name.setdefault(place.node.name, []).append(place)

    def _read(
        self,
        typed: Any,
        graph: Any,
        parent: Scope | None,
        path: tuple[str, ...],
        owners: tuple[Place, ...],
        function: str | None,
    ) -> Scope:
        scope = Scope(graph, parent)
        if function is not None and parent is None:
            scope.inputs.update(graph.input)
        else:
            scope.inputs.update(v.name for v in graph.input)
            for value in (*(typed or graph).value_info, *graph.input, *(typed or graph).output):
                known = kind_of(value)
                if known.dtype is not None or known.dims is not None:
                    scope.kinds.setdefault(value.name, known)
            for tensor in graph.initializer:
                scope.constants[tensor.name] = tensor
                scope.kinds[tensor.name] = Kind(dtype_name(tensor.data_type), tuple(tensor.dims))
            for sparse in graph.sparse_initializer:
                scope.sparse.add(sparse.values.name)
                scope.kinds[sparse.values.name] = Kind(
                    dtype_name(sparse.values.data_type), tuple(sparse.dims)
                )
        typed_nodes = typed.node if typed is not None and len(typed.node) == len(graph.node) else None
        for i, node in enumerate(graph.node):
            place = Place(node, scope, path, owners, function)
            self.places.append(place)
            for name in node.output:
                if name:
                    scope.producers.setdefault(name, place)
            bodies = {a.name: a.g for a in typed_nodes[i].attribute if a.HasField("g")} if typed_nodes else {}
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    inner = f"{node.op_type} {label(node)!r} {attribute.name}"
                    self._read(
                        bodies.get(attribute.name),
                        attribute.g,
                        scope,
                        (*path, inner),
                        (*owners, place),
                        function,
                    )
        return scope

    def find(self, name: str, op: str | None = None, index: int | None = None) -> Place | None:
        """The node of a name; where several share it, the one with that operator and position."""
        same = [p for p in self._by_name.get(name, ()) if not op or p.node.op_type == op]
        if len(same) > 1 and index is not None and index >= 0:
            exact = [p for p in same if list(p.scope.graph.node).index(p.node) == index]
            same = exact or same
        return same[0] if same else None

    def constant(self, place: Place, position: int) -> bool | None:
        """Whether an operand is constant; None if the node has no such operand."""
        if position >= len(place.node.input) or not place.node.input[position]:
            return None
        return not self.sources(place.scope, place.node.input[position], through_shapes=True)

    def sources(self, scope: Scope, name: str, *, through_shapes: bool = False) -> list[str]:
        """Inputs of the model (or of a function or a loop body) whose values a tensor depends on.

        Args:
            scope: Where the name is seen from.
            name: The tensor.
            through_shapes: Count what is read for its shape alone, where that shape is not fixed.
        """
        found: dict[str, None] = {}
        stack: list[tuple[Scope, str]] = [(scope, name)]
        seen: set[tuple[int, str]] = set()
        while stack:
            here, wanted = stack.pop()
            holder = here.holder(wanted)
            if holder is None or (id(holder), wanted) in seen:
                continue
            seen.add((id(holder), wanted))
            if wanted in holder.inputs and wanted not in holder.constants:
                found[wanted] = None
                continue
            place = holder.producers.get(wanted)
            if place is None:
                continue
            if place.node.op_type in SHAPES:
                dims = holder.kind(place.node.input[0]).dims
                if not through_shapes or (dims is not None and all(isinstance(d, int) for d in dims)):
                    continue
            stack.extend((place.scope, n) for n in used(place.node))
        return sorted(found)

    def alive(self, place: Place) -> bool:
        """Whether an output of the model (or of the function) depends on a node."""
        outermost = place.owners[0] if place.owners else place
        graph = outermost.scope.graph
        wanted = [o if isinstance(o, str) else o.name for o in graph.output]
        producers = outermost.scope.producers
        seen: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name in seen:
                continue
            seen.add(name)
            made = producers.get(name)
            if made is None:
                continue
            if made.node is outermost.node:
                return True
            wanted.extend(used(made.node))
        return False

    def chain(self, scope: Scope, name: str, limit: int = 6) -> list[str]:
        """How a tensor comes about, nearest first: ``Concat 'c' <- Shape 's' <- input x float32[n, 3]``."""
        steps: list[str] = []
        here, wanted = scope, name
        while len(steps) < limit:
            holder = here.holder(wanted)
            if holder is None:
                steps.append(f"{wanted!r}, which nothing defines")
                break
            if wanted in holder.constants or wanted in holder.sparse:
                steps.append(f"constant {wanted!r} {holder.kind(wanted)}")
                break
            place = holder.producers.get(wanted)
            if place is None:
                steps.append(f"input {wanted!r} {holder.kind(wanted)}")
                break
            steps.append(f"{place.node.op_type} {place.label!r}")
            varying = [n for n in place.node.input if n and self.sources(place.scope, n, through_shapes=True)]
            following = varying or [n for n in place.node.input if n]
            if not following:
                break
            here, wanted = place.scope, following[0]
        return steps


def used(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its bodies capture included."""
    for name in node.input:
        if name:
            yield name
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inner = {v.name for v in attribute.g.input} | {t.name for t in attribute.g.initializer}
            inner.update(o for n in attribute.g.node for o in n.output)
            for child in attribute.g.node:
                yield from (n for n in used(child) if n not in inner)
            yield from (v.name for v in attribute.g.output if v.name not in inner)


def dtype_name(element: int) -> str | None:
    """ONNX's element type as numpy names it: ``float32``, ``uint8``, ``string``."""
    import onnx

    if not element or element not in onnx.TensorProto.DataType.values():
        return None
    name = onnx.TensorProto.DataType.Name(element).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def kind_of(value: onnx.ValueInfoProto) -> Kind:
    """What a declaration says."""
    from surgery.graph.infer import dims_of

    if not value.type.HasField("tensor_type"):
        which = value.type.WhichOneof("value")
        return Kind(which.removesuffix("_type") if which else None, None)
    dims = dims_of(value)
    return Kind(dtype_name(value.type.tensor_type.elem_type), None if dims is None else tuple(dims))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with what shape inference finds; large weights are declared, not copied."""
    from surgery.graph.skeleton import skeleton

    copy = skeleton(model, KNOWN)
    try:
        return infer_shapes(copy, data_prop=True)
    except Exception:  # onnx raises many types, none documented; types are a help, never a condition
        return copy
