"""The only door for putting nodes into a graph: replaces a cut by a model, and records where nodes come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import ConversionError
from surgery.graph.convert import import_graph
from surgery.graph.cut import Cut
from surgery.graph.fold import drop_dead, replace_uses
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
