"""Sequences and optionals of known structure: computed away, so that only tensors remain.

No TensorRT has sequences. Exporters write them for Python lists, `split`, `unbind`, `chunk` and comprehensions; once
loops are unrolled and branches chosen, each one is a list of tensors that is known when the engine is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from surgery.graph.body_types import take_type
from surgery.graph.cloner import Cloner
from surgery.graph.infer import infer_types, is_static
from surgery.graph.nodes import detach, forget_optionals, make_node, put_constant, squeeze_like
from surgery.graph.scope import SEQUENCE_OPS, Scope, known_value
from surgery.graph.unresolved import Unresolved
from surgery.graph.view import captured_names

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MOST_ITEMS = 4096
"""Items that one sequence may have."""


@dataclass(frozen=True)
class Items:
    """A sequence as the list of its tensors."""

    tensors: tuple[Any, ...]


@dataclass(frozen=True)
class Maybe:
    """An optional: what it holds, or None if it is empty."""

    held: Any


class _Open(Exception):  # noqa: N818 - an answer, not an error
    """Why a node cannot be computed away, and the operand that decides it."""

    def __init__(self, reason: str, operand: int | None = None, *, by_size: bool = False) -> None:
        super().__init__(reason)
        self.operand, self.by_size = operand, by_size


def resolve_sequences(graph: gs.Graph, *, unresolved: list[Unresolved] | None = None) -> int:
    """Compute sequences and optionals away, in place, in bodies too.

    Call it in turn with :func:`~surgery.graph.control_flow.resolve_control_flow` until both return 0: lengths decide
    how often loops run, and unrolled loops show what is in a sequence.

    Args:
        graph: The graph, in topological order; model-local functions have been inlined.
        unresolved: Gets an entry for each operator on sequences or optionals that stays.

    Returns:
        How many nodes were resolved.
    """
    forget_optionals(graph)
    infer_types(graph)
    work = _Work(Cloner(graph))
    work.visit(graph, Scope(graph), {})
    if unresolved is not None:
        unresolved.extend(work.remaining)
    return work.count


@dataclass
class _Work:
    """One pass."""

    cloner: Cloner
    count: int = 0
    remaining: list[Unresolved] = field(default_factory=list)

    def visit(self, graph: gs.Graph, scope: Scope, outer: dict[str, Any]) -> dict[str, Any]:
        """Resolve the nodes of one graph; what is known of sequences, by name, comes back."""
        known = dict(outer)
        done: list[Any] = []
        for node in graph.nodes:
            made = self._node(node, scope, known)
            for new in made:
                scope.add(new)
            done += made
        self._drop(graph, done)
        return known

    def _node(self, node: gs.Node, scope: Scope, known: dict[str, Any]) -> list[gs.Node]:
        if node.op == "Identity" and node.inputs[0].name in known:
            known[node.outputs[0].name] = known[node.inputs[0].name]
            return [node]
        if node.op not in SEQUENCE_OPS or node.domain not in (None, "", "ai.onnx"):
            results = [self.visit(body, Scope(body, scope), known) for body in node.subgraphs()]
            return [node, *(self._branches(node, known, results) if node.op == "If" else ())]
        try:
            handled: Handled = HANDLERS[node.op](self, node, scope, known)
        except _Open as error:
            tensor = node.inputs[error.operand].name if error.operand is not None else ""
            name = node.name or node.outputs[0].name
            self.remaining.append(Unresolved(name, node.op, tensor, str(error), by_size=error.by_size))
            return [node]
        made, values = handled
        for tensor, value in zip(node.outputs, values, strict=False):
            known[tensor.name] = value
        if values and not made:
            return [node]  # it goes when nothing reads it any more
        self.count += 1
        detach([node])
        return made

    def _drop(self, graph: gs.Graph, nodes: list[gs.Node]) -> None:
        """Remove operators on sequences, and what hands them on, that nothing reads."""
        read = {t.name for t in graph.outputs}
        kept: list[Any] = []
        for node in reversed(nodes):
            ours = node.op in SEQUENCE_OPS or (
                node.op == "Identity" and node.outputs[0].type != "tensor_type"
            )
            if ours and not any(t.name in read for t in node.outputs if t.name):
                detach([node])
                self.count += 1
                continue
            kept.append(node)
            read.update(t.name for t in node.inputs if t.name)
            for body in node.subgraphs():
                read.update(captured_names(body))
        graph.nodes.clear()
        graph.nodes.extend(reversed(kept))

    # -- helpers ------------------------------------------------------------------------------------

    def prefix(self, node: gs.Node) -> str:
        """In front of the names of what stands for a node."""
        return f"{node.name or next(t.name for t in node.outputs if t.name)}/"

    def new(self, name: str, like: Any = None, shape: Sequence[Any] | None = None) -> Any:
        """A new tensor of the dtype of another."""
        import onnx_graphsurgeon as gs

        return gs.Variable(self.cloner.fresh(name), like.dtype if like is not None else None, shape)

    def handed_on(self, node: gs.Node, value: Any) -> tuple[list[gs.Node], list[Any]]:
        """A node whose output is a tensor, a sequence or an optional that is known."""
        target = node.outputs[0]
        if isinstance(value, (Items, Maybe)):
            return [], [value]
        take_type(target, value)
        target.type = "tensor_type"
        return [make_node("Identity", f"{self.prefix(node)}{target.name}", [value], [target])], []

    def told(self, node: gs.Node, value: Any, dtype: Any) -> tuple[list[gs.Node], list[Any]]:
        """A node whose output is a number that is known."""
        made = put_constant(self.cloner.fresh(f"{self.prefix(node)}value"), value, dtype)
        return self.handed_on(node, made)

    def _branches(
        self, node: gs.Node, known: dict[str, Any], inside: Sequence[dict[str, Any]]
    ) -> list[gs.Node]:
        """Sequences that an If makes, of equal length in both branches: each item becomes an output."""
        bodies = list(node.subgraphs())
        outputs, after = list(node.outputs), []
        for i in reversed(range(len(outputs))):
            lists = [k.get(b.outputs[i].name) for k, b in zip(inside, bodies, strict=True)]
            items = [v.tensors for v in lists if isinstance(v, Items)]
            if len(items) != len(bodies) or len({len(v) for v in items}) != 1 or not items[0]:
                continue
            old, name = outputs[i], f"{self.prefix(node)}{outputs[i].name}"
            made = [self.new(f"{name}/{k}", t) for k, t in enumerate(items[0])]
            for body, values in zip(bodies, items, strict=True):
                own = [self.new(f"{name}/{k}", t, t.shape) for k, t in enumerate(values)]
                pairs = zip(values, own, strict=True)
                body.nodes.extend([make_node("Identity", t.name, [v], [t]) for v, t in pairs])
                body.outputs[i : i + 1] = own
            outputs[i : i + 1] = made
            after.append(make_node("SequenceConstruct", name, made, [old]))
            known[old.name] = Items(tuple(made))
            self.count += 1
        if after:
            list.clear(node.outputs)
            for tensor in outputs:
                list.clear(tensor.inputs)
            node.outputs.extend(outputs)
            for body in bodies:
                self._drop(body, list(body.nodes))
        return after


Handled: TypeAlias = "tuple[list[gs.Node], list[Any]]"


def _items(known: dict[str, Any], node: gs.Node, i: int = 0) -> Items:
    value = known.get(node.inputs[i].name)
    if isinstance(value, Maybe):
        value = value.held
    if not isinstance(value, Items):
        raise _Open(f"what is in the sequence {node.inputs[i].name!r} is not known", i)
    return value


def _position(node: gs.Node, scope: Scope, default: int) -> int:
    if len(node.inputs) < 2 or not node.inputs[-1].name:
        return default
    last = len(node.inputs) - 1
    value = known_value(node.inputs[last], scope)
    if value is None:
        raise _Open("the position decides which tensor it is", last)
    return int(value.reshape(-1)[0])


def _construct(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    return [], [Items(tuple(scope.tensor(t) for t in node.inputs))]


def _empty(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    return [], [Items(())]


def _insert(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    tensors = list(_items(known, node).tensors)
    has_position = len(node.inputs) > 2 and bool(node.inputs[2].name)
    at = _position(node, scope, len(tensors)) if has_position else len(tensors)
    tensors.insert(at, scope.tensor(node.inputs[1]))
    return [], [Items(tuple(tensors))]


def _erase(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    tensors = list(_items(known, node).tensors)
    at = _position(node, scope, -1)
    if not -len(tensors) <= at < len(tensors):
        raise _Open(f"position {at} is outside a sequence of {len(tensors)}")
    del tensors[at]
    return [], [Items(tuple(tensors))]


def _at(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    tensors = _items(known, node).tensors
    position = known_value(node.inputs[1], scope)
    if position is None:
        return _chosen(work, node, scope, tensors)
    at = int(position.reshape(-1)[0])
    if not -len(tensors) <= at < len(tensors):
        raise _Open(f"position {at} is outside a sequence of {len(tensors)}")
    return work.handed_on(node, scope.tensor(tensors[at]))


def _chosen(work: _Work, node: gs.Node, scope: Scope, tensors: Sequence[Any]) -> Handled:
    """An item at a position that is computed while the engine runs: all of them, stacked, and one gathered."""
    shapes = [t.shape for t in tensors]
    if not tensors or not all(is_static(s) and list(s) == list(shapes[0]) for s in shapes):
        raise _Open("the position decides which tensor it is, and they do not all have one known shape", 1)
    prefix, target, at = work.prefix(node), node.outputs[0], scope.tensor(node.inputs[1])
    if at.shape is None or len(at.shape) > 1:
        raise _Open("the position decides which tensor it is", 1)
    stack = work.new(f"{prefix}stack", tensors[0])
    made = _stack(work, scope, prefix, tensors, 0, stack)
    if len(at.shape) == 1:
        flat = work.new(f"{prefix}position", at, [])
        made.append(squeeze_like("Squeeze", scope.graph, flat.name, at, 0, flat))
        at = flat
    take_type(target, tensors[0])
    made.append(make_node("Gather", f"{prefix}{target.name}", [stack, at], [target], {"axis": 0}))
    return made, []


def _stack(
    work: _Work, scope: Scope, prefix: str, tensors: Sequence[Any], axis: int, stack: Any
) -> list[gs.Node]:
    """Tensors along a new axis, as the tensor `stack`."""
    made, parts = [], []
    for k, tensor in enumerate(tensors):
        part = work.new(f"{prefix}{k}/part", tensor)
        made.append(squeeze_like("Unsqueeze", scope.graph, part.name, tensor, axis, part))
        parts.append(part)
    made.append(make_node("Concat", f"{prefix}{stack.name}", parts, [stack], {"axis": axis}))
    return made


def _length(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    return work.told(node, len(_items(known, node).tensors), np.int64)


def _concat(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    tensors = [scope.tensor(t) for t in _items(known, node).tensors]
    if not tensors:
        raise _Open("the sequence is empty")
    target, prefix, axis = node.outputs[0], work.prefix(node), int(node.attrs["axis"])
    if not node.attrs.get("new_axis", 0):
        if len(tensors) == 1:
            return work.handed_on(node, tensors[0])
        take_type(target, tensors[0], shapes=False)
        return [make_node("Concat", f"{prefix}{target.name}", tensors, [target], {"axis": axis})], []
    take_type(target, tensors[0], shapes=False)
    return _stack(work, scope, prefix, tensors, axis, target), []


def _split(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    source = scope.tensor(node.inputs[0])
    axis, given = int(node.attrs.get("axis", 0)), len(node.inputs) > 1 and bool(node.inputs[1].name)
    sizes = _sizes(node, scope, source, axis, given)
    if len(sizes) > MOST_ITEMS:
        raise _Open(f"{len(sizes)} items are too many")
    prefix = work.prefix(node)
    if source.shape is not None:
        axis %= len(source.shape)
    shapes = [
        [*source.shape[:axis], size, *source.shape[axis + 1 :]] if source.shape is not None else None
        for size in sizes
    ]
    parts = [work.new(f"{prefix}{k}", source, shape) for k, shape in enumerate(shapes)]
    made = [_split_node(f"{prefix}split", scope.graph, source, sizes, axis, parts)]
    if given or node.attrs.get("keepdims", 1):
        return _listed(work, node, made, [parts])
    flat = []
    for k, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        rest = [*shape[:axis], *shape[axis + 1 :]] if shape is not None else None
        flat.append(work.new(f"{prefix}{k}/flat", source, rest))
        made.append(squeeze_like("Squeeze", scope.graph, flat[-1].name, part, axis, flat[-1]))
    return _listed(work, node, made, [flat])


def _listed(
    work: _Work, node: gs.Node, made: list[gs.Node], lists: Sequence[Sequence[Any]]
) -> tuple[list[gs.Node], list[Any]]:
    """Lists of tensors as what a node makes; they stay readable in the graph for as long as something needs them."""
    for target, tensors in zip(node.outputs, lists, strict=False):
        if target.name:
            op = "SequenceConstruct" if tensors else "SequenceEmpty"
            made.append(make_node(op, f"{work.prefix(node)}{target.name}", tensors, [target]))
    return made, [Items(tuple(v)) for v in lists]


def _sizes(node: gs.Node, scope: Scope, source: Any, axis: int, given: bool) -> list[int]:
    """Sizes of the parts."""
    split = known_value(node.inputs[1], scope) if given else np.asarray(1)
    if split is None:
        raise _Open("the sizes of the parts decide how many there are", 1)
    if split.ndim == 1:
        return [int(v) for v in split]
    size = source.shape[axis] if source.shape is not None else None
    if not isinstance(size, int) or size < 0:
        raise _Open("the size of the axis decides how many parts there are", 0, by_size=True)
    step = int(split)
    return [min(step, size - start) for start in range(0, size, step)]


def _split_node(
    name: str, graph: gs.Graph, source: Any, sizes: Sequence[int], axis: int, parts: Sequence[Any]
) -> gs.Node:
    if len(parts) == 1:
        return make_node("Identity", name, [source], parts)
    if int(graph.opset) >= 13:
        return make_node("Split", name, [source, put_constant(f"{name}/sizes", sizes)], parts, {"axis": axis})
    return make_node("Split", name, [source], parts, {"axis": axis, "split": list(sizes)})


def _map(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    body, first = node.attrs["body"], _items(known, node).tensors
    prefix, made = work.prefix(node), []
    results: list[list[Any]] = [[] for _ in body.outputs]
    for k in range(len(first)):
        names: dict[str, Any] = {}
        for inner, tensor in zip(body.inputs, node.inputs, strict=True):
            value = known.get(tensor.name)
            if isinstance(value, Items) and k >= len(value.tensors):
                raise _Open("its sequences differ in length")
            names[inner.name] = value.tensors[k] if isinstance(value, Items) else scope.tensor(tensor)
        new = work.cloner.nodes(body, names, scope, f"{prefix}{k}/", shapes=False)
        for one in new:
            scope.add(one)
        made += new
        for values, output in zip(results, body.outputs, strict=True):
            values.append(work.cloner.tensor(output, names, scope, f"{prefix}{k}/"))
    return _listed(work, node, made, results)


def _optional(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    if not node.inputs or not node.inputs[0].name:
        return [], [Maybe(None)]
    name = node.inputs[0].name
    return [], [Maybe(known[name] if name in known else scope.tensor(node.inputs[0]))]


def _foreign(node: gs.Node, scope: Scope) -> None:
    """Refuse a value that is a sequence or an optional, and about which nothing is known."""
    tensor = scope.tensor(node.inputs[0])
    owner = scope.owner(tensor.name)
    maker = owner.producers.get(tensor.name) if owner is not None else None
    odd = getattr(tensor, "type", "tensor_type") != "tensor_type"
    if odd or (
        maker is not None and (maker.op in SEQUENCE_OPS - TENSOR_MAKERS or maker.op in ("If", "Loop"))
    ):
        raise _Open(f"what {tensor.name!r} holds is not known", 0)


def _has(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    if not node.inputs or not node.inputs[0].name:
        return work.told(node, False, np.bool_)
    value = known.get(node.inputs[0].name)
    if value is None:
        _foreign(node, scope)
    return work.told(node, not isinstance(value, Maybe) or value.held is not None, np.bool_)


def _get(work: _Work, node: gs.Node, scope: Scope, known: dict[str, Any]) -> Handled:
    value = known.get(node.inputs[0].name)
    if value is None:
        _foreign(node, scope)
        value = scope.tensor(node.inputs[0])
    if isinstance(value, Maybe):
        if value.held is None:
            raise _Open("the optional is empty")
        value = value.held
    return work.handed_on(node, value)


TENSOR_MAKERS = frozenset({"SequenceAt", "SequenceLength", "ConcatFromSequence", "OptionalHasElement"})
"""Operators on sequences whose result is a tensor."""

HANDLERS: dict[str, Callable[[_Work, Any, Scope, dict[str, Any]], Any]] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceAt": _at,
    "SequenceLength": _length,
    "SplitToSequence": _split,
    "ConcatFromSequence": _concat,
    "SequenceMap": _map,
    "Optional": _optional,
    "OptionalGetElement": _get,
    "OptionalHasElement": _has,
}
