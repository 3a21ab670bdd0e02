"""The only door for putting nodes into a graph: replaces a cut by a model, and records where nodes come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import ConversionError
from surgery.graph.convert import import_graph
from surgery.graph.cut import Cut
from surgery.graph.tidy import drop_dead, replace_uses
from surgery.graph.view import View, body_nodes

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


class Editor:
    """Edits one graph.

    Attributes:
        graph: The graph, changed in place.
        provenance: First output name of a new node to the metadata that export stamps on it.
    """

    def __init__(self, graph: gs.Graph, provenance: dict[str, dict[str, str]]) -> None:
        self.graph = graph
        self.provenance = provenance

    def replace(self, cut: Cut, replacement: onnx.ModelProto, *, rule: str, prefix: str) -> list[str]:
        """Put a model in the place of a cut.

        The replacement's inputs are tensors of the graph by name; its outputs take over the tensors of the
        cut's outputs by name. All its other names get `prefix` in front.

        Args:
            cut: The cut, found in the graph's present view.
            replacement: Model whose inputs are among the graph's tensors and whose outputs are the cut's.
            rule: Name of the rule, for provenance.
            prefix: Makes new names unique; must not be in use.

        Returns:
            Names of the new nodes.

        Raises:
            ConversionError: outputs do not match, an input does not exist, or would depend on the cut itself.
        """
        view = View(self.graph)
        tensors: dict[str, Any] = self.graph.tensors()
        self._check(view, cut, replacement, tensors)
        piece, _ = import_graph(replacement)
        inputs = {t.name for t in piece.inputs}
        outputs = [t.name for t in piece.outputs]
        from_nodes = sorted(view.nodes[k].name for k in cut.keys)
        origin = ", ".join(from_nodes[:8]) + (
            f" and {len(from_nodes) - 8} more" if len(from_nodes) > 8 else ""
        )

        self._prefix(piece, {*inputs, *outputs}, prefix)
        made: dict[str, Any] = {}
        for node in piece.nodes:
            for i, tensor in enumerate(node.inputs):
                if tensor.name in inputs:
                    node.inputs[i] = tensors[tensor.name]
            for tensor in node.outputs:
                if tensor.name in outputs:
                    made[tensor.name] = tensor
        for name in outputs:
            old = tensors[name]
            new = made[name]
            new.dtype = new.dtype if new.dtype is not None else old.dtype
            new.shape = old.shape if old.shape is not None else new.shape
            replace_uses(view, name, new)
            for i, tensor in enumerate(self.graph.outputs):
                if tensor.name == name:
                    self.graph.outputs[i] = new
            old.name = f"{name}__replaced"
        self._stamp(piece, rule, origin)
        self.graph.nodes.extend(piece.nodes)
        self._import_domains(piece)
        drop_dead(self.graph)
        return [n.name for n in piece.nodes]

    def replace_node(
        self,
        node: gs.Node,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[str],
        outputs: Sequence[str | None],
        types: Mapping[str, tuple[Any, Any]],
        *,
        rule: str,
        prefix: str,
        extra: Sequence[str] = (),
    ) -> tuple[list[gs.Node], dict[str, str]]:
        """Write the nodes of a replacement and let them make what a node made.

        The node stays in the graph's list, without outputs, until :meth:`put_in_place`; many nodes are replaced
        at the cost of what is written, never of the graph's size.

        Args:
            node: Node of this graph, or one made here.
            nodes: The replacement, in topological order, with placeholder names.
            inputs: Placeholder of each input of the node, "" where it has none.
            outputs: Name in the replacement of each output of the node, None where nothing uses it.
            types: Name in the replacement to dtype and shape.
            rule: Name of the rule, for provenance.
            prefix: In front of the name of everything new.
            extra: Further values of the replacement that stay available.

        Returns:
            The new nodes, and the names that `extra` have in the graph.
        """
        tensors: dict[str, Any] = {}
        for name, tensor in zip(inputs, node.inputs, strict=True):
            if name:
                tensors.setdefault(name, tensor)
        old = list(node.outputs)
        list.clear(node.outputs)
        return self.write(
            nodes, tensors, old, outputs, types, rule=rule, prefix=prefix, origin=node.name, extra=extra
        )

    def write(
        self,
        nodes: Sequence[onnx.NodeProto],
        tensors: dict[str, Any],
        old: Sequence[Any],
        outputs: Sequence[str | None],
        types: Mapping[str, tuple[Any, Any]],
        *,
        rule: str,
        prefix: str,
        origin: str,
        extra: Sequence[str] = (),
    ) -> tuple[list[gs.Node], dict[str, str]]:
        """Write the nodes of a replacement, and let them make tensors that other nodes made.

        The new nodes are in no list until :meth:`put_in_place`.

        Args:
            nodes: The replacement, in topological order, with placeholder names.
            tensors: Placeholder to tensor of the graph, for what the replacement reads; new ones are added.
            old: Tensors to take over; whatever made them no longer does.
            outputs: Name in the replacement of each of them, None where nothing uses it.
            types: Name in the replacement to dtype and shape.
            rule: Name of the rule, for provenance.
            prefix: In front of the name of everything new.
            origin: Names of the nodes that are replaced.
            extra: Further values of the replacement that stay available.

        Returns:
            The new nodes, and the names that `extra` have in the graph.
        """
        import onnx_graphsurgeon as gs

        taken, late = _take_over(old, outputs, tensors)
        renames = {n: f"{prefix}/{n}" for proto in nodes for n in proto.output if n and n not in taken}
        renames.update({n: t.name for n, t in taken.items()})
        renames.update({n: t.name for n, t in tensors.items()})
        made = []
        copies = [onnx_copy(p) for p in nodes]
        for proto in copies:
            rename_bodies(proto, renames, prefix)
        for number, proto in enumerate(copies):
            value = constant_proto(proto) if proto.output[0] not in taken else None
            if value is not None:
                tensors[proto.output[0]] = shared_constant(renames[proto.output[0]], value)
                continue
            results = [_result(name, taken, tensors, types, renames) for name in proto.output]
            made.append(
                gs.Node(
                    proto.op_type,
                    f"{prefix}/{proto.name or number}",
                    node_attributes(proto, self.graph, tensors),
                    [tensors[n] if n else gs.Variable.empty() for n in proto.input],
                    results,
                    domain=proto.domain or None,
                )
            )
        for tensor, name in late:
            source = tensors[name]
            made.append(gs.Node("Identity", f"{prefix}/{tensor.name}", {}, [source], [tensor]))
        for new in made:
            key = next((t.name for t in new.outputs if t.name), "")
            self.provenance[key] = {"surgery.rule": rule, "surgery.from": origin}
        self._import(copies)
        return made, {n: tensors[n].name for n in extra}

    def put_in_place(self, expanded: Mapping[int, Sequence[gs.Node]]) -> None:
        """Let new nodes stand where those they replace stood, and remove what no output depends on.

        Args:
            expanded: ``id`` of a replaced node to the nodes made for it; these may be replaced themselves.
        """
        ordered: list[Any] = []
        stack = list(reversed(list(self.graph.nodes)))
        gone: set[int] = set()
        touched: dict[int, Any] = {}
        while stack:
            node = stack.pop()
            made = expanded.get(id(node))
            if made is None:
                ordered.append(node)
                continue
            gone.add(id(node))
            touched.update({id(t): t for t in node.inputs})
            stack.extend(reversed(made))
        for tensor in touched.values():
            list.__setitem__(tensor.outputs, slice(None), [u for u in tensor.outputs if id(u) not in gone])
        self.graph.nodes.clear()
        self.graph.nodes.extend(ordered)

    def sort(self) -> None:
        """Restore topological order; nodes keep their order where data flow allows it."""
        view = View(self.graph)
        self.graph.nodes.clear()
        self.graph.nodes.extend(
            view.nodes[k] for k in sorted(range(len(view.nodes)), key=view.order.__getitem__)
        )

    def _import(self, nodes: Sequence[onnx.NodeProto]) -> None:
        import onnx

        known = {d.domain for d in self.graph.import_domains or ()}
        fresh = sorted({n.domain for n in nodes if n.domain and n.domain != "ai.onnx"} - known)
        if fresh:
            made = [onnx.helper.make_opsetid(d, 1) for d in fresh]
            self.graph.import_domains = [*(self.graph.import_domains or ()), *made]

    def insert(self, piece_model: onnx.ModelProto, *, rule: str, prefix: str) -> list[str]:
        """Add a model that reads nothing of the graph; its outputs become tensors of the graph by name.

        Nothing is removed and nothing reads the new tensors yet; :meth:`tidy` ends the edit.

        Returns:
            Names of the new nodes.
        """
        piece, _ = import_graph(piece_model)
        outputs = {t.name for t in piece.outputs}
        self._prefix(piece, outputs, prefix)
        self._stamp(piece, rule, "")
        self.graph.nodes.extend(piece.nodes)
        self._import_domains(piece)
        return [n.name for n in piece.nodes]

    def tidy(self) -> None:
        """Remove what no output depends on and restore topological order."""
        drop_dead(self.graph)

    @staticmethod
    def _prefix(piece: gs.Graph, keep: set[str], prefix: str) -> None:
        renamed: set[int] = set()
        for node in piece.nodes:
            node.name = f"{prefix}/{node.name}"
            for inner in (node, *body_nodes(node)):
                for tensor in (*inner.inputs, *inner.outputs):
                    if tensor.name and tensor.name not in keep and id(tensor) not in renamed:
                        renamed.add(id(tensor))
                        tensor.name = f"{prefix}/{tensor.name}"

    def _stamp(self, piece: gs.Graph, rule: str, origin: str) -> None:
        for node in piece.nodes:
            key = next((t.name for t in node.outputs if t.name), "")
            self.provenance[key] = {"surgery.rule": rule, **({"surgery.from": origin} if origin else {})}

    def _import_domains(self, piece: gs.Graph) -> None:
        known = {d.domain for d in self.graph.import_domains or ()}
        fresh = [d for d in piece.import_domains or () if d.domain not in known]
        if fresh:
            self.graph.import_domains = [*(self.graph.import_domains or ()), *fresh]

    def _check(self, view: View, cut: Cut, replacement: onnx.ModelProto, tensors: dict[str, Any]) -> None:
        outputs = [o.name for o in replacement.graph.output]
        if sorted(outputs) != sorted(cut.outputs):
            raise ConversionError(
                f"a replacement of cut {cut.name!r} has outputs {outputs}, the cut has {list(cut.outputs)}",
                code="illegal-edit",
            )
        after = view.descendants(cut.keys)
        for value in replacement.graph.input:
            if value.name not in tensors:
                raise ConversionError(
                    f"a replacement of cut {cut.name!r} reads {value.name!r}, which is not in the graph",
                    code="illegal-edit",
                )
            if view.producer.get(value.name) in after:
                raise ConversionError(
                    f"a replacement of cut {cut.name!r} reads {value.name!r}, which depends on the cut",
                    code="illegal-edit",
                )


def _take_over(
    old: Sequence[Any], outputs: Sequence[str | None], tensors: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[Any, str]]]:
    """Free tensors of what made them; by name in the replacement, and apart those that need an Identity."""
    taken: dict[str, Any] = {}
    late: list[tuple[Any, str]] = []
    for i, tensor in enumerate(old):
        list.clear(tensor.inputs)
        name = outputs[i] if i < len(outputs) else None
        if name is None or not tensor.name:
            continue
        if name in tensors or name in taken:
            late.append((tensor, name))  # an input handed through, or a value returned twice
        else:
            taken[name] = tensor
    return taken, late


def _result(
    name: str,
    taken: Mapping[str, Any],
    tensors: dict[str, Any],
    types: Mapping[str, tuple[Any, Any]],
    renames: Mapping[str, str],
) -> Any:
    """The tensor for an output of a new node: one taken over, or a new one."""
    import onnx_graphsurgeon as gs

    if not name:
        return gs.Variable.empty()
    dtype, shape = types.get(name, (None, None))
    result = taken.get(name)
    if result is None:
        result = gs.Variable(renames[name], dtype=dtype, shape=shape)
    else:
        result.dtype = result.dtype if result.dtype is not None else dtype
        result.shape = result.shape if result.shape is not None else shape
    tensors[name] = result
    return result


def onnx_copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def rename_bodies(node: onnx.NodeProto, renames: Mapping[str, str], prefix: str) -> None:
    """In the bodies inside a node: outer names as `renames` says, inner ones with `prefix` in front."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _rename_graph(attribute.g, renames, prefix)


def _rename_graph(graph: onnx.GraphProto, renames: Mapping[str, str], prefix: str) -> None:
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {o for n in graph.node for o in n.output if o}
    names = {**renames, **{n: f"{prefix}/{n}" for n in own}}
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        for place in (node.input, node.output):
            for i, name in enumerate(place):
                if name:
                    place[i] = names.get(name, name)
        node.name = f"{prefix}/{node.name or node.output[0]}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_graph(attribute.g, names, prefix)


def constant_proto(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node makes; None for other nodes, strings and sparse tensors."""
    import numpy as np
    import onnx

    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor: onnx.TensorProto = value
        return tensor
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name not in kinds:
        return None
    return onnx.numpy_helper.from_array(np.asarray(value, kinds[attribute.name]))


def shared_constant(name: str, value: onnx.TensorProto) -> gs.Constant:
    """A constant tensor whose data is the proto's own."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.ir.tensor import LazyValues

    proto = onnx.TensorProto()
    proto.CopyFrom(value)
    proto.name = name
    return gs.Constant(name, LazyValues(proto))


def node_attributes(node: onnx.NodeProto, graph: gs.Graph, own: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a node as graphsurgeon has them; bodies see the graph's tensors, and `own`, by name."""
    from collections import OrderedDict

    from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

    for i in reversed(range(len(node.attribute))):
        attribute = node.attribute[i]
        if attribute.type in (6, 7) and not attribute.floats and not attribute.ints:
            del node.attribute[i]  # graphsurgeon cannot export an empty list; ONNX reads it as absent
    outer: OrderedDict[str, Any] = OrderedDict()
    if any(a.HasField("g") for a in node.attribute):
        outer.update(graph.tensors())
        outer.update({t.name: t for t in own.values()})
    found = OnnxImporter.import_attributes(
        node.attribute, outer, OrderedDict(), graph.opset, graph.import_domains
    )
    return dict(found)
