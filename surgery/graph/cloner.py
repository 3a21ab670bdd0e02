"""Copies of bodies under new names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body_types import take_type
from surgery.graph.nodes import make_node
from surgery.graph.view import graph_and_bodies

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.scope import Scope


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
        for one in graph_and_bodies(graph):
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
            inputs = [self.tensor(t, names, scope, prefix) for t in node.inputs]
            attributes = {
                k: self._graph(v, names, scope, prefix, shapes)
                if isinstance(v, gs.Graph)
                else _own(v, v.name)
                if isinstance(v, gs.Constant)
                else v
                for k, v in node.attrs.items()
            }
            outputs = [self.output(t, names, prefix, shapes, results) for t in node.outputs]
            first = next((t.name for t in outputs if t.name), node.op)
            name = self.below(prefix, node.name) if node.name else first
            made.append(gs.Node(node.op, name, attributes, inputs, outputs, domain=node.domain))
        return made

    def inlined(
        self,
        body: gs.Graph,
        targets: Sequence[Any],
        scope: Scope,
        prefix: str,
        names: dict[str, Any] | None = None,
    ) -> list[gs.Node]:
        """Copies of a body's nodes, making `targets`; an empty one is not wanted.

        Args:
            body: The body; it has no inputs of its own.
            targets: The tensors that stand for its outputs.
            scope: The graph that the copies are for.
            prefix: In front of new names.
            names: Gets for each name in the body the tensor that stands for it.
        """
        own = {t.name for n in body.nodes for t in n.outputs if t.name}
        names = {} if names is None else names
        results: dict[str, Any] = {}
        late: list[tuple[Any, Any]] = []
        for inner, target in zip(body.outputs, targets, strict=False):
            if not target.name:
                continue
            if inner.name in own and inner.name not in results:
                results[inner.name] = target
            else:
                late.append((inner, target))
        made = self.nodes(body, names, scope, prefix, results=results)
        for inner, target in late:
            source = self.tensor(inner, names, scope, prefix)
            take_type(target, source)
            made.append(make_node("Identity", f"{prefix}{target.name}", [source], [target]))
        return made

    def tensor(self, tensor: Any, names: Mapping[str, Any], scope: Scope, prefix: str) -> Any:
        """What stands for a tensor that a body reads; arguments as those of :meth:`nodes`."""
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

    def output(
        self,
        tensor: Any,
        names: dict[str, Any],
        prefix: str,
        shapes: bool = True,
        results: Mapping[str, Any] | None = None,
    ) -> Any:
        """What stands for a tensor that a body makes or gets; arguments as those of :meth:`nodes`."""
        import onnx_graphsurgeon as gs

        if not tensor.name:
            return gs.Variable.empty()
        if results is not None and tensor.name in results:
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
        inputs = [self.output(t, names, prefix, shapes) for t in body.inputs]
        nodes = self.nodes(body, names, scope, prefix, shapes=shapes)
        return gs.Graph(
            nodes,
            inputs,
            [self.tensor(t, names, scope, prefix) for t in body.outputs],
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


def prefix_of(node: gs.Node) -> str:
    """What goes in front of the names of what stands in the place of a node."""
    return f"{node.name or next(t.name for t in node.outputs if t.name)}/"
