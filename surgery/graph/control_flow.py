"""If, Loop and Scan: branches whose condition is known are inlined, loops whose length is known are unrolled.

What stays is what TensorRT can run as it stands; for the rest, :class:`Unresolved` says why it could not be resolved
and which operand would decide it. graphsurgeon's bodies refer to outer tensors by object on import, and only by name
after edits or where a body hands an outer tensor through, so names are looked up again here, innermost graph first.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.evaluate import EvaluationError, evaluate_somehow
from surgery.graph.fold import RANDOM
from surgery.graph.infer import dims_of, infer_types, is_static
from surgery.graph.view import body_nodes

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    Types = tuple[int, list[int | str | None] | None]

SMALL = 64
"""Rounds up to which every loop of known length is unrolled."""

SMALL_NODES = 4096
"""Nodes up to which a loop is unrolled without need."""

MOST = 1024
"""Rounds up to which a loop is unrolled that TensorRT cannot run."""

MOST_NODES = 50_000
"""Nodes that one loop may become."""

DEEP = 16
"""Depth of bodies inside bodies from which both branches of an If are computed; TensorRT refuses more than 24."""

BOOL = 9
"""ONNX's number of the element type."""

MOST_VALUES = 1 << 20
"""Elements of a value that is computed here to see what a condition is."""

PLAIN: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Less": np.less, "LessOrEqual": np.less_equal,
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Equal": np.equal, "And": np.logical_and,
    "Or": np.logical_or, "Not": np.logical_not, "Identity": np.array,
}  # fmt: skip
"""Operators on whole numbers and booleans that numpy computes alike: counting rounds asks for many of them."""

SCANNED = "loop-scan-output-no-trip"
"""Class of loops whose number of rounds decides the size of what they put together."""

SEQUENCE_OPS = frozenset(
    {
        "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
        "SplitToSequence", "ConcatFromSequence", "SequenceMap", "Optional", "OptionalGetElement",
        "OptionalHasElement",
    }
)  # fmt: skip
"""Operators on sequences and optionals; no TensorRT has one of them."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A node that no TensorRT runs as it stands and that could not be resolved.

    Attributes:
        node: Its name.
        op: Its operator.
        tensor: Operand that decides it and is not known, or "".
        reason: What stands in the way.
        known_as: Class of failures in the catalogue of `surgery explain`, or "".
        fix: What would help, or "".
    """

    node: str
    op: str
    tensor: str
    reason: str
    known_as: str = ""
    fix: str = ""


@dataclass
class Scope:
    """A graph and the graphs around it: who makes a tensor, and what is known to hold here."""

    graph: gs.Graph
    parent: Scope | None = None
    assumed: Mapping[str, Any] = field(default_factory=dict)
    producers: dict[str, gs.Node] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    memo: dict[str, NDArray[Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {t.name: t for t in self.graph.inputs}
        for node in self.graph.nodes:
            self.add(node)

    def add(self, node: gs.Node) -> None:
        """Take note of a node of this graph."""
        for tensor in node.outputs:
            if tensor.name:
                self.producers[tensor.name] = node
                self.memo.pop(tensor.name, None)

    @property
    def depth(self) -> int:
        """How many graphs are around this one."""
        return 0 if self.parent is None else self.parent.depth + 1

    def owner(self, name: str) -> Scope | None:
        """The innermost graph that has a tensor of that name as an input or makes it."""
        if name in self.producers or name in self.inputs:
            return self
        return self.parent.owner(name) if self.parent is not None else None

    def tensor(self, tensor: Any) -> Any:
        """The object that stands for a tensor of that name here."""
        import onnx_graphsurgeon as gs

        if isinstance(tensor, gs.Constant) or not tensor.name:
            return tensor
        owner = self.owner(tensor.name)
        if owner is None:
            return tensor
        node = owner.producers.get(tensor.name)
        if node is None:
            return owner.inputs[tensor.name]
        return next(t for t in node.outputs if t.name == tensor.name)


def resolve_control_flow(
    graph: gs.Graph,
    *,
    small: int = SMALL,
    scans: bool = False,
    select: bool = False,
    products: list[str] | None = None,
    unresolved: list[Unresolved] | None = None,
) -> int:
    """Resolve what is known when the engine is built, in place, bodies inside bodies included.

    - If with a known condition: the branch alone stays. A condition counts as known inside its own branches.
    - Loop with a known number of rounds (and a condition that stays true, or can be computed): unrolled, if it is
      short, or carries sequences or tensors whose shape changes.
    - Scan of known length: unrolled if asked for.
    - If with another condition and branches of equal shapes: both computed and selected from, if asked for, and
      where bodies are nested too deep; small ones with products of free size, if asked for.

    Args:
        graph: The graph, in topological order; model-local functions have been inlined.
        small: Rounds up to which loops are unrolled without need.
        scans: Whether to unroll Scan nodes.
        select: Whether to compute both branches of an If.
        products: Gets the names of small Ifs that are computed both ways for the products in them; without it
            these stay.
        unresolved: Gets an entry for each node that stays and that TensorRT cannot run, or not rightly.

    Returns:
        How many nodes were resolved.
    """
    total = 0
    forget_optionals(graph)
    while True:
        infer_types(graph)
        resolver = _Resolver(graph, small, scans, select, products)
        resolver.visit(graph, Scope(graph))
        total += resolver.count
        if not resolver.count:
            break
    if unresolved is not None:
        unresolved.extend(resolver.remaining)
    return total


def inline_branch(graph: gs.Graph, node: gs.Node, name: str) -> list[gs.Node]:
    """Put the nodes of one branch in the place of an If, whatever its condition; the new nodes.

    Args:
        graph: The outermost graph, which the If belongs to.
        node: The If.
        name: ``then_branch`` or ``else_branch``.
    """
    resolver = _Resolver(graph, 0, False, False)
    made = resolver._inlined(
        node.attrs[name], {}, list(node.outputs), Scope(graph), Once(resolver._prefix(node))
    )
    place = next(i for i, n in enumerate(graph.nodes) if n is node)
    detach([node])
    nodes = list(graph.nodes)
    graph.nodes.clear()
    graph.nodes.extend([*nodes[:place], *made, *nodes[place + 1 :]])
    return made


def forget_optionals(graph: gs.Graph) -> None:
    """Drop declarations of inner values that graphsurgeon cannot write: those of optional types."""
    for one in _graphs(graph):
        boundary = () if one is graph else (*one.inputs, *one.outputs)
        for tensor in (*boundary, *(t for n in one.nodes for t in (*n.inputs, *n.outputs))):
            if getattr(tensor, "type", "") == "optional_type":
                tensor.dtype = tensor.shape = None


def detach(nodes: Iterable[gs.Node]) -> None:
    """Take nodes, and those in their bodies, out of the lists of the tensors they touch."""
    gone: dict[int, Any] = {}
    touched: dict[int, Any] = {}
    for node in nodes:
        for one in (node, *body_nodes(node)):
            gone[id(one)] = one
            touched.update({id(t): t for t in (*one.inputs, *one.outputs)})
    # By identity and in bulk: graphsurgeon's lists compare nodes by content, one at a time.
    for tensor in touched.values():
        for users in (tensor.outputs, tensor.inputs):
            list.__setitem__(users, slice(None), [u for u in users if id(u) not in gone])


def put_constant(name: str, value: Any, dtype: Any = np.int64) -> gs.Constant:
    """A constant tensor."""
    return constant(name, np.asarray(value, dtype))


def make_node(
    op: str,
    name: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    attributes: Mapping[str, Any] | None = None,
) -> gs.Node:
    """A node that makes these tensors, whatever made them before."""
    import onnx_graphsurgeon as gs

    for tensor in outputs:
        list.clear(tensor.inputs)
    return gs.Node(op, name, dict(attributes or {}), list(inputs), list(outputs))


def squeeze_like(op: str, graph: gs.Graph, name: str, tensor: Any, axis: int, output: Any) -> gs.Node:
    """Squeeze or Unsqueeze of one axis, as the graph's opset writes it."""
    if int(graph.opset) >= 13:
        axes = put_constant(f"{name}/axes", [axis])
        return make_node(op, name, [tensor, axes], [output])
    return make_node(op, name, [tensor], [output], {"axes": [axis]})


def known_value(tensor: Any, scope: Scope, depth: int = 200) -> NDArray[Any] | None:
    """The value of a tensor that depends on constants and static shapes alone, if it is small."""
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        if is_external(tensor) or int(np.prod(tensor.shape, dtype=np.int64)) > MOST_VALUES:
            return None
        return value_of(tensor)
    here: Scope | None = scope
    while here is not None:
        if tensor.name in here.assumed:
            return np.asarray(here.assumed[tensor.name])
        here = here.parent
    owner = scope.owner(tensor.name) if tensor.name else None
    if owner is None or tensor.name not in owner.producers or depth == 0:
        return None
    if tensor.name not in owner.memo:
        owner.memo[tensor.name] = None
        owner.memo.update(_computed(owner.producers[tensor.name], owner, depth - 1))
    return owner.memo[tensor.name]


def _computed(node: gs.Node, scope: Scope, depth: int) -> dict[str, NDArray[Any] | None]:
    """Values of a node's outputs, if they are known."""
    if node.domain not in (None, "", "ai.onnx") or node.op in RANDOM or node.op in SEQUENCE_OPS:
        return {}
    if any(True for _ in node.subgraphs()):
        return {}
    if node.op in ("Shape", "Size") and not isinstance(known_value(node.inputs[0], scope, depth), np.ndarray):
        shape = scope.tensor(node.inputs[0]).shape
        if not is_static(shape):
            return {}
        dims = np.asarray(shape, np.int64)
        start, end = node.attrs.get("start", 0), node.attrs.get("end", len(dims))
        found = dims[start:end] if node.op == "Shape" else np.asarray(np.prod(dims, dtype=np.int64))
        return {node.outputs[0].name: found}
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in node.inputs:
        value = known_value(tensor, scope, depth) if tensor.name else None
        if tensor.name and value is None:
            return {}
        if value is not None:
            feeds[tensor.name] = value
    return _run(node, feeds, int(scope.graph.opset))


def _run(node: gs.Node, feeds: Mapping[str, NDArray[Any]], opset: int) -> dict[str, NDArray[Any] | None]:
    import onnx
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    plain = PLAIN.get(node.op)
    if plain is not None and opset >= 7 and all(v.dtype.kind in "iub" for v in feeds.values()):
        return {node.outputs[0].name: np.asarray(plain(*(feeds[t.name] for t in node.inputs)))}
    helper = onnx.helper
    outputs = [helper.make_empty_tensor_value_info(t.name) for t in node.outputs if t.name]
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in feeds.items()]
    graph = helper.make_graph([OnnxExporter.export_node(node)], "value", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        return dict(evaluate_somehow(model, {}))
    except EvaluationError:
        return {}


def body_types(body: gs.Graph, scope: Scope, bound: Mapping[str, Any] | None = None) -> list[Types]:
    """Element type and shape of a body's outputs, as inference finds them; 0 and None where it does not.

    Args:
        body: The body.
        scope: The graph around it.
        bound: Name of an input of the body to a tensor that has its type.
    """
    import onnx
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    proto = onnx.GraphProto()
    proto.CopyFrom(OnnxExporter.export_graph(body, do_type_check=False))
    for value in proto.input:
        if value.name in (bound or {}):
            value.CopyFrom(_declared(value.name, (bound or {})[value.name]))
    if bound:
        del proto.value_info[:]  # these may say what holds in the first round alone
        for value in proto.output:
            value.ClearField("type")
    inner = {v.name for v in proto.input} | {t.name for t in proto.initializer}
    inner |= {o for n in proto.node for o in n.output}
    for name in captured_names(body):
        if name not in inner:
            proto.input.append(_declared(name, scope.tensor(_named(name))))
    imports = [onnx.helper.make_opsetid("", int(scope.graph.opset))]
    model = onnx.helper.make_model(proto, opset_imports=imports, ir_version=8)
    with contextlib.suppress(Exception):  # inference is a help; onnx raises many undocumented types
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = {v.name: v for v in (*model.graph.input, *model.graph.output)}
    return [_type_of(known[t.name], t) for t in body.outputs]


def _type_of(value: onnx.ValueInfoProto, tensor: Any) -> Types:
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        array = value_of(tensor)
        return _onnx_type(array.dtype), list(array.shape)
    return value.type.tensor_type.elem_type, dims_of(value) if value.type.HasField("tensor_type") else None


def _onnx_type(dtype: Any) -> int:
    import onnx

    if isinstance(dtype, (int, np.integer)) and not isinstance(dtype, type):
        return int(dtype)
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _named(name: str) -> Any:
    import onnx_graphsurgeon as gs

    return gs.Variable(name)


def _declared(name: str, tensor: Any) -> onnx.ValueInfoProto:
    import onnx

    if tensor.dtype is None or getattr(tensor, "type", "tensor_type") != "tensor_type":
        return onnx.helper.make_empty_tensor_value_info(name)
    shape = list(tensor.shape) if tensor.shape is not None else None
    return onnx.helper.make_tensor_value_info(name, _onnx_type(tensor.dtype), shape)


def captured_names(body: gs.Graph) -> Iterator[str]:
    """Names that a body and the bodies inside it read; the body's own are among them."""
    import onnx_graphsurgeon as gs

    for node in body.nodes:
        yield from (t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant))
        for inner in node.subgraphs():
            own = {t.name for t in inner.inputs} | {t.name for n in inner.nodes for t in n.outputs}
            yield from (n for n in captured_names(inner) if n not in own)
    yield from (t.name for t in body.outputs if not isinstance(t, gs.Constant))


class Once(str):
    """A prefix for the names of a body that is written only once: it goes before those alone that clash."""

    __slots__ = ()


class Cloner:
    """Copies bodies under new names.

    Args:
        graph: The outermost graph; new names differ from all that are in it.
    """

    def __init__(self, graph: gs.Graph) -> None:
        import onnx_graphsurgeon as gs

        self.used: set[str] = set()
        self.defined: Counter[str] = Counter()
        self.titled: Counter[str] = Counter()
        self.constants: dict[str, Any] = {}
        self._renamed: dict[int, tuple[Any, Any]] = {}
        for one in _graphs(graph):
            self.used.update(t.name for t in one.inputs)
            self.defined.update(t.name for t in one.inputs)
            for node in one.nodes:
                self.defined.update(t.name for t in node.outputs)
                self.titled[node.name] += 1
                self.used.update(t.name for t in (*node.inputs, *node.outputs) if t.name)
                self.constants.update({t.name: t for t in node.inputs if isinstance(t, gs.Constant)})

    def fresh(self, name: str) -> str:
        """The name, or one like it that is not in use."""
        found, number = name, 0
        while found in self.used:
            number += 1
            found = f"{name}_{number}"
        self.used.add(found)
        return found

    def below(self, prefix: str, name: str) -> str:
        """A name for the copy of something; components that it shares with the prefix are not repeated."""
        if isinstance(prefix, Once) and self.defined[name] <= 1 and self.titled[name] <= 1:
            return name
        parts, own = prefix.split("/"), name.split("/")
        shared = 0
        while shared < min(len(parts), len(own)) - 1 and parts[shared] == own[shared]:
            shared += 1
        return self.fresh(prefix + "/".join(own[shared:]))

    def nodes(
        self,
        body: gs.Graph,
        names: dict[str, Any],
        scope: Scope,
        prefix: str,
        *,
        shapes: bool = True,
        results: Mapping[str, Any] | None = None,
    ) -> list[gs.Node]:
        """Copies of a body's nodes.

        Args:
            body: The body.
            names: Name in the body to the tensor that stands for it; what the body makes is added.
            scope: The graph that the copies are for.
            prefix: In front of new names.
            shapes: Whether what the body says about shapes holds for the copy.
            results: Name in the body to an existing tensor that the copy is to make.
        """
        import onnx_graphsurgeon as gs

        made = []
        for node in body.nodes:
            value = node.attrs.get("value") if node.op == "Constant" else None
            if isinstance(value, gs.Constant) and node.outputs[0].name not in (results or {}):
                output = node.outputs[0]
                names[output.name] = self._copied(node, value, prefix, output.name)
                continue
            inputs = [self._tensor(t, names, scope, prefix) for t in node.inputs]
            attributes = {
                k: self._graph(v, names, scope, prefix, shapes)
                if isinstance(v, gs.Graph)
                else _own(v, v.name)
                if isinstance(v, gs.Constant)
                else v
                for k, v in node.attrs.items()
            }
            outputs = [self._output(t, names, prefix, shapes, results or {}) for t in node.outputs]
            first = next((t.name for t in outputs if t.name), node.op)
            name = self.below(prefix, node.name) if node.name else first
            made.append(gs.Node(node.op, name, attributes, inputs, outputs, domain=node.domain))
        return made

    def _tensor(self, tensor: Any, names: Mapping[str, Any], scope: Scope, prefix: str) -> Any:
        import onnx_graphsurgeon as gs

        if not tensor.name:
            return gs.Variable.empty()
        if tensor.name in names:
            return names[tensor.name]
        if not isinstance(tensor, gs.Constant):
            return scope.tensor(tensor)
        return self._constant(tensor, prefix)

    def _constant(self, tensor: Any, prefix: str) -> Any:
        known = self.constants.setdefault(tensor.name, tensor)
        if known is tensor:
            return tensor
        # Another body has a constant of the same name.
        return self._copied(tensor, tensor, str(prefix), tensor.name)

    def _copied(self, key: Any, tensor: Any, prefix: str, name: str) -> Any:
        """A constant of another name, made once for each `key`."""
        if id(key) not in self._renamed:
            # The key is kept, so that its id stays its own.
            self._renamed[id(key)] = (key, _own(tensor, self.below(prefix, name)))
        return self._renamed[id(key)][1]

    def _output(
        self, tensor: Any, names: dict[str, Any], prefix: str, shapes: bool, results: Mapping[str, Any]
    ) -> Any:
        import onnx_graphsurgeon as gs

        if not tensor.name:
            return gs.Variable.empty()
        if tensor.name in results:
            made = results[tensor.name]
            list.clear(made.inputs)
            take_type(made, tensor, shapes)
        else:
            shape = tensor.shape if shapes else None
            made = gs.Variable(self.below(prefix, tensor.name), tensor.dtype, shape, tensor.type)
        names[tensor.name] = made
        return made

    def _graph(
        self, body: gs.Graph, outer: Mapping[str, Any], scope: Scope, prefix: str, shapes: bool
    ) -> gs.Graph:
        import onnx_graphsurgeon as gs

        names = dict(outer)
        inputs = [self._output(t, names, prefix, shapes, {}) for t in body.inputs]
        nodes = self.nodes(body, names, scope, prefix, shapes=shapes)
        return gs.Graph(
            nodes,
            inputs,
            [self._tensor(t, names, scope, prefix) for t in body.outputs],
            name=body.name,
            opset=body.opset,
            import_domains=body.import_domains,
        )


def _own(tensor: Any, name: str) -> Any:
    """A constant of the same value that shares no proto: export writes names into these."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.ir.tensor import LazyValues

    values = tensor._values
    if hasattr(values, "tensor") and isinstance(values.tensor, onnx.TensorProto):
        proto = onnx.TensorProto()
        proto.CopyFrom(values.tensor)
        values = LazyValues(proto)
    return gs.Constant(name, values, data_location=tensor.data_location)


def take_type(target: Any, source: Any, shapes: bool = True) -> None:
    """Let a tensor know the type of what now makes it."""
    import onnx_graphsurgeon as gs

    if isinstance(target, gs.Constant):
        return
    if target.dtype is None:
        target.dtype = source.dtype
    target.type = getattr(source, "type", "tensor_type")
    if shapes and source.shape is not None and not is_static(target.shape):
        known = target.shape is not None and len(target.shape) == len(source.shape)
        if not known or is_static(source.shape):
            target.shape = list(source.shape)


def _graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    yield graph
    for node in graph.nodes:
        for body in node.subgraphs():
            yield from _graphs(body)


class _Resolver:
    """One pass over a graph and the bodies inside it."""

    def __init__(
        self, graph: gs.Graph, small: int, scans: bool, select: bool, products: list[str] | None = None
    ) -> None:
        self.small, self.scans, self.select, self.products = small, scans, select, products
        self.cloner = Cloner(graph)
        self.count = 0
        self.remaining: list[Unresolved] = []

    def visit(self, graph: gs.Graph, scope: Scope) -> None:
        """Resolve the nodes of one graph; what comes out of a node is looked at again."""
        queue = deque(graph.nodes)
        done: list[Any] = []
        while queue:
            node = queue.popleft()
            made = self._resolved(node, scope) if node.op in ("If", "Loop", "Scan") else None
            if made is None:
                for body, assumed in _bodies(node):
                    self.visit(body, Scope(body, scope, assumed))
                done.append(node)
                continue
            self.count += 1
            detach([node])
            for new in made:
                scope.add(new)
            queue.extendleft(reversed(made))
        graph.nodes.clear()
        graph.nodes.extend(done)

    def _resolved(self, node: gs.Node, scope: Scope) -> list[gs.Node] | None:
        found = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.op](node, scope)
        if isinstance(found, Unresolved):
            self.remaining.append(found)
            return None
        return found

    def _miss(self, node: gs.Node, reason: str, operand: int | None = None, known_as: str = "") -> Unresolved:
        tensor = node.inputs[operand].name if operand is not None else ""
        return Unresolved(node.name or node.outputs[0].name, node.op, tensor, reason, known_as)

    def _prefix(self, node: gs.Node) -> str:
        return f"{node.name or next(t.name for t in node.outputs if t.name)}/"

    # -- If -----------------------------------------------------------------------------------------

    def _if(self, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
        from surgery.graph.both_branches import worth_both
        from surgery.graph.conditions import implied, same_branches

        condition = known_value(node.inputs[0], scope)
        if condition is None and (value := implied(node.inputs[0], scope)) is not None:
            condition = np.asarray(value)
        if condition is not None and condition.size == 1:
            branch = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
            return self._inlined(branch, {}, list(node.outputs), scope, Once(self._prefix(node)))
        same = same_branches(node, scope)
        if same is not None:
            prefix = self._prefix(node)
            pairs = [(a, b) for a, b in zip(same, node.outputs, strict=False) if b.name]
            return [make_node("Identity", f"{prefix}{b.name}", [a], [b]) for a, b in pairs]
        branches = [node.attrs["then_branch"], node.attrs["else_branch"]]
        types = [body_types(b, scope) for b in branches]
        for output, left, right in zip(node.outputs, *types, strict=False):
            reason = _unlike(left, right) if output.name else ""
            if reason:
                said = f"the branches make {output.name!r} {reason}, so the condition has to be known"
                return self._miss(node, said, 0, "if-branch-shape-mismatch")
        wanted = self.select or scope.depth >= DEEP
        if not wanted and (self.products is None or not worth_both(branches, scope)):
            return None
        if not all(_equal(a, b) for a, b in zip(*types, strict=True)):
            return None
        made = self._selected(node, branches, scope)
        if made is not None and not wanted and self.products is not None:
            self.products.append(node.name or node.outputs[0].name)
        return made

    def _inlined(
        self, body: gs.Graph, names: dict[str, Any], targets: Sequence[Any], scope: Scope, prefix: str,
        *, shapes: bool = True,
    ) -> list[gs.Node]:  # fmt: skip
        """The body's nodes, making `targets`; an empty one is not wanted."""
        own = {t.name for n in body.nodes for t in n.outputs if t.name}
        results: dict[str, Any] = {}
        late: list[tuple[Any, Any]] = []
        for inner, target in zip(body.outputs, targets, strict=False):
            if not target.name:
                continue
            if inner.name in own and inner.name not in results:
                results[inner.name] = target
            else:
                late.append((inner, target))
        made = self.cloner.nodes(body, names, scope, prefix, shapes=shapes, results=results)
        for inner, target in late:
            source = self.cloner._tensor(inner, names, scope, prefix)
            take_type(target, source, shapes)
            made.append(make_node("Identity", f"{prefix}{target.name}", [source], [target]))
        return made

    def _selected(self, node: gs.Node, branches: Sequence[gs.Graph], scope: Scope) -> list[gs.Node] | None:
        """Both branches, and a choice between their results."""
        import onnx_graphsurgeon as gs

        condition = scope.tensor(node.inputs[0])
        if condition.shape is None or len(condition.shape) > 1:
            return None
        prefix = self._prefix(node)
        made: list[gs.Node] = []
        if len(condition.shape) == 1:
            flat = gs.Variable(self.cloner.fresh(f"{prefix}condition"), np.dtype(np.bool_), [])
            made.append(squeeze_like("Squeeze", scope.graph, flat.name, condition, 0, flat))
            condition = flat
        results: list[list[Any]] = []
        for branch, label in zip(branches, ("then", "else"), strict=True):
            # What the condition decides inside is decided now: in the graph around, it holds no more.
            self.visit(branch, Scope(branch, scope, {node.inputs[0].name: label == "then"}))
            targets = [
                gs.Variable(self.cloner.fresh(f"{prefix}{label}/{t.name}"), t.dtype, t.shape) if t.name
                else gs.Variable.empty()
                for t in node.outputs
            ]  # fmt: skip
            made += self._inlined(branch, {}, targets, scope, Once(f"{prefix}{label}/"))
            results.append(targets)
        for output, left, right in zip(node.outputs, *results, strict=True):
            if output.name:
                take_type(output, left)
                made += self._chosen(condition, left, right, output, f"{prefix}{output.name}")
        return made

    def _chosen(self, condition: Any, left: Any, right: Any, output: Any, name: str) -> list[gs.Node]:
        """`left` where the condition holds, else `right`; ONNX Runtime has no Where of booleans."""
        import onnx_graphsurgeon as gs

        if output.dtype is None or _onnx_type(output.dtype) != BOOL:
            return [make_node("Where", name, [condition, left, right], [output])]
        no, one, other = (
            gs.Variable(self.cloner.fresh(f"{name}/{part}"), np.dtype(np.bool_))
            for part in ("not", "then", "else")
        )
        return [
            make_node("Not", no.name, [condition], [no]),
            make_node("And", one.name, [condition, left], [one]),
            make_node("And", other.name, [no, right], [other]),
            make_node("Or", name, [one, other], [output]),
        ]

    # -- Loop ---------------------------------------------------------------------------------------

    def _loop(self, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
        body = node.attrs["body"]
        has_trips = bool(node.inputs) and bool(node.inputs[0].name)
        has_condition = len(node.inputs) > 1 and bool(node.inputs[1].name)
        trips = known_value(node.inputs[0], scope) if has_trips else None
        start = known_value(node.inputs[1], scope) if has_condition else np.asarray(True)
        needed = self._needed(node, body, scope)
        limit = MOST if needed else self.small
        nodes = MOST_NODES if needed else SMALL_NODES
        size = max(1, len(body.nodes))
        rounds = int(trips.reshape(-1)[0]) if trips is not None else None
        if start is not None and not bool(start.reshape(-1)[0]):
            rounds = 0
        if start is not None and (rounds is not None or not has_trips):
            made = self._unrolled(node, body, scope, rounds, min(limit, nodes // size))
            if made is not None:
                return made
        scanned = _any_used(node.outputs[len(body.inputs) - 2 :], scope)
        if needed:
            what = (
                "is not known"
                if rounds is None
                else f"({rounds}) is too large to unroll it, or its end is open"
            )
            return self._miss(
                node,
                f"it carries {needed}, and the number of rounds {what}",
                0 if has_trips and rounds is None else None,
                "loop-state-shape-changes",
            )
        if scanned and has_trips and trips is None:
            if start is None:
                self.remaining.append(self._miss(node, "whether it runs at all decides a shape", 1, SCANNED))
            return self._miss(node, "the number of rounds decides a shape", 0, SCANNED)
        if scanned and self._open_end(body, scope, start):
            operand = 1 if has_condition and start is None else None
            return self._miss(
                node, "its condition, computed while it runs, decides a shape", operand, SCANNED
            )
        if not has_condition and body.inputs[1].name in set(captured_names(body)):
            return self._closed(node, body, scope)
        return None

    def _closed(self, node: gs.Node, body: gs.Graph, scope: Scope) -> list[gs.Node]:
        """A counted loop whose body does not read the condition that it was not given."""
        import onnx_graphsurgeon as gs

        prefix = self._prefix(node)
        true = gs.Variable(self.cloner.fresh(f"{prefix}always"), np.dtype(np.bool_), [])
        value = put_constant(self.cloner.fresh(f"{prefix}true"), True, np.bool_)
        names: dict[str, Any] = {body.inputs[1].name: true}
        inputs = [self.cloner._output(t, names, prefix, True, {}) for t in (body.inputs[0], *body.inputs[2:])]
        ignored = gs.Variable(self.cloner.fresh(f"{prefix}ignored"), np.dtype(np.bool_), [])
        nodes = [make_node("Constant", f"{prefix}always", [], [true], {"value": value})]
        nodes += self.cloner.nodes(body, names, scope, prefix)
        new = gs.Graph(
            nodes,
            [inputs[0], ignored, *inputs[1:]],
            [self.cloner._tensor(t, names, scope, prefix) for t in body.outputs],
            name=body.name,
            opset=body.opset,
            import_domains=body.import_domains,
        )
        outputs = list(node.outputs)
        return [make_node("Loop", node.name, list(node.inputs), outputs, {**node.attrs, "body": new})]

    def _open_end(self, body: gs.Graph, scope: Scope, start: Any) -> bool:
        """Whether the condition can become false after a number of rounds that is not known."""
        if start is None:
            return True
        inner = Scope(body, scope, {body.inputs[1].name: True})
        value = known_value(body.outputs[0], inner)
        return value is None or not bool(value.reshape(-1)[0])

    def _needed(self, node: gs.Node, body: gs.Graph, scope: Scope) -> str:
        """What TensorRT cannot carry from round to round, or ""."""
        from surgery.graph.rounds import changes_size

        if any(n.op in SEQUENCE_OPS for n in (*body.nodes, *(m for k in body.nodes for m in body_nodes(k)))):
            return "sequences"
        starts = [scope.tensor(t) for t in node.inputs[2:]]
        if any(getattr(t, "type", "tensor_type") != "tensor_type" for t in starts):
            return "sequences"
        bound = {inner.name: t for inner, t in zip(body.inputs[2:], starts, strict=False)}
        after = body_types(body, scope, bound)[1 : 1 + len(starts)]
        for start, (_, dims) in zip(starts, after, strict=False):
            if start.shape is None or dims is None:
                continue
            if len(start.shape) != len(dims) or any(
                isinstance(a, int) and isinstance(b, int) and a != b
                for a, b in zip(start.shape, dims, strict=True)
            ):
                return "a tensor whose shape changes"
        if any(changes_size(body, a, b) for a, b in zip(body.inputs[2:], body.outputs[1:], strict=False)):
            return "a tensor whose shape changes"
        return ""

    def _unrolled(
        self, node: gs.Node, body: gs.Graph, scope: Scope, rounds: int | None, most: int
    ) -> list[gs.Node] | None:
        """Every round written out; None if the end does not come, or cannot be told, within `most` rounds."""
        if rounds is not None and rounds > most and not self._open_end(body, scope, np.asarray(True)):
            return None
        prefix = self._prefix(node)
        carried = [scope.tensor(t) for t in node.inputs[2:]]
        count = len(carried)
        made: list[gs.Node] = []
        scanned: list[list[Any]] = [[] for _ in body.outputs[1 + count :]]
        true = put_constant(self.cloner.fresh(f"{prefix}true"), True, np.bool_)
        done = rounds == 0
        k = 0
        while not done:
            if k >= most:
                detach(made)
                return None
            names: dict[str, Any] = {
                body.inputs[0].name: put_constant(self.cloner.fresh(f"{prefix}{k}/round"), k),
                body.inputs[1].name: true,
                **{inner.name: t for inner, t in zip(body.inputs[2:], carried, strict=True)},
            }
            new = self.cloner.nodes(body, names, scope, f"{prefix}{k}/", shapes=False)
            for one in new:
                scope.add(one)
            made += new
            results = [self.cloner._tensor(t, names, scope, f"{prefix}{k}/") for t in body.outputs]
            goes_on = known_value(results[0], scope)
            if goes_on is None:
                detach(made)
                return None
            carried = results[1 : 1 + count]
            for values, value in zip(scanned, results[1 + count :], strict=True):
                values.append(value)
            k += 1
            done = not bool(goes_on.reshape(-1)[0]) or k == rounds
        for value, target in zip(carried, node.outputs[:count], strict=False):
            if target.name:
                take_type(target, value)
                made.append(make_node("Identity", f"{prefix}{target.name}", [value], [target]))
        ends = [(v, t) for v, t in zip(scanned, node.outputs[count:], strict=False) if t.name]
        if not k and _any_used([t for _, t in ends], scope):
            return None  # a tensor of no elements; no TensorRT has them
        for values, target in ends:
            made += self._stacked(values, target, 0, scope, prefix)
        return made

    def _stacked(
        self, values: Sequence[Any], target: Any, axis: int, scope: Scope, prefix: str
    ) -> list[gs.Node]:
        """What the rounds gave, along a new axis."""
        import onnx_graphsurgeon as gs

        made, parts = [], []
        for k, value in enumerate(values):
            part = gs.Variable(self.cloner.fresh(f"{prefix}{k}/{target.name}"), value.dtype)
            made.append(squeeze_like("Unsqueeze", scope.graph, part.name, value, axis, part))
            parts.append(part)
        if parts:
            made.append(make_node("Concat", f"{prefix}{target.name}", parts, [target], {"axis": axis}))
        return made

    # -- Scan ---------------------------------------------------------------------------------------

    def _scan(self, node: gs.Node, scope: Scope) -> list[gs.Node] | Unresolved | None:
        if not self.scans or int(scope.graph.opset) < 9:
            return None
        import onnx_graphsurgeon as gs

        body, sources = node.attrs["body"], [scope.tensor(t) for t in node.inputs]
        scans = int(node.attrs["num_scan_inputs"])
        count = len(sources) - scans
        axes = list(node.attrs.get("scan_input_axes") or [0] * scans)
        backwards = list(node.attrs.get("scan_input_directions") or [0] * scans)
        lengths = [
            t.shape[a] for t, a in zip(sources[count:], axes, strict=True)
            if t.shape is not None and isinstance(t.shape[a], int)
        ]  # fmt: skip
        if not lengths:
            return self._miss(node, "the number of steps is not known")
        length = int(lengths[0])
        if length < 1 or length > MOST or length * len(body.nodes) > MOST_NODES:
            return self._miss(node, f"{length} steps are too many to unroll")
        prefix, made, carried = self._prefix(node), [], sources[:count]
        outputs: list[list[Any]] = [[] for _ in body.outputs[count:]]
        for k in range(length):
            names = {inner.name: t for inner, t in zip(body.inputs, carried, strict=False)}
            for inner, source, axis, back in zip(
                body.inputs[count:], sources[count:], axes, backwards, strict=True
            ):
                step = put_constant(self.cloner.fresh(f"{prefix}{k}/step"), length - 1 - k if back else k)
                part = gs.Variable(self.cloner.fresh(f"{prefix}{k}/{inner.name}"), source.dtype)
                made.append(make_node("Gather", part.name, [source, step], [part], {"axis": axis}))
                names[inner.name] = part
            made += self.cloner.nodes(body, names, scope, f"{prefix}{k}/")
            results = [self.cloner._tensor(t, names, scope, f"{prefix}{k}/") for t in body.outputs]
            carried = results[:count]
            for values, value in zip(outputs, results[count:], strict=True):
                values.append(value)
        for value, target in zip(carried, node.outputs[:count], strict=False):
            if target.name:
                take_type(target, value)
                made.append(make_node("Identity", f"{prefix}{target.name}", [value], [target]))
        out_axes = list(node.attrs.get("scan_output_axes") or [0] * len(outputs))
        out_back = list(node.attrs.get("scan_output_directions") or [0] * len(outputs))
        for values, target, axis, back in zip(
            outputs, node.outputs[count:], out_axes, out_back, strict=False
        ):
            if target.name:
                made += self._stacked(values[::-1] if back else values, target, axis, scope, prefix)
        return made


def _bodies(node: gs.Node) -> Iterator[tuple[gs.Graph, dict[str, bool]]]:
    """The bodies of a node, each with what is known to hold in it."""
    import onnx_graphsurgeon as gs

    for name, value in node.attrs.items():
        if not isinstance(value, gs.Graph):
            continue
        known = node.op == "If" and bool(node.inputs[0].name)
        yield value, {node.inputs[0].name: name == "then_branch"} if known else {}


def _any_used(tensors: Sequence[Any], scope: Scope) -> bool:
    """Whether anything reads one of the tensors that a node makes."""
    outputs = {t.name for t in scope.graph.outputs}
    return any(t.name and (t.outputs or t.name in outputs) for t in tensors)


def _unlike(left: Types, right: Types) -> str:
    """How two branches' results differ where TensorRT wants them alike; "" if they may be alike."""
    a, b = left[1], right[1]
    if a is None or b is None:
        return ""
    if len(a) != len(b):
        return f"of rank {len(a)} and {len(b)}"
    if any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a, b, strict=True)):
        return f"of shape {a} and {b}"
    return ""


def _equal(left: Types, right: Types) -> bool:
    """Whether two results surely have the same type and shape."""
    if not left[0] or left[0] != right[0] or left[1] is None or right[1] is None:
        return False
    return len(left[1]) == len(right[1]) and all(
        x is not None and x == y for x, y in zip(left[1], right[1], strict=True)
    )
