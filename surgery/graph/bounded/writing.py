"""Writing nodes among those of a graph, whose types are inferred as they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.infer import dims_of
from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

SMALL = 4096
"""Elements up to which constants are looked at as sizes."""


@dataclass
class Writer:
    """Writes nodes.

    Attributes:
        provenance: First output of each new node to the metadata stamped on it.
        opset: Version of the default domain that nodes are written in.
        count: How many names have been given to what was written.
        out: Nodes written so far, in order.
        done: Tensors of nodes that are written as they should be.
    """

    provenance: dict[str, dict[str, str]]
    opset: int = 18
    count: int = 0
    out: list[Any] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def emit(self, op: str, *inputs: Any, dtype: Any = None, **attributes: Any) -> Any:
        """Write a node; its output, with its type inferred.

        Args:
            op: Operator of the default domain.
            inputs: Tensors, or arrays that become constants.
            dtype: Element type of the output; that of the first input if None.
            attributes: The node's.
        """
        import onnx_graphsurgeon as gs

        self.count += 1
        name = f"surgery/sizes/{op.lower()}_{self.count}"
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        out = gs.Variable(name, np.dtype(dtype or operands[0].dtype))
        node = gs.Node(op, name, attributes, operands, [out])
        self.out.append(node)
        self.done.add(name)
        self.provenance[name] = {"surgery.rule": "keep-sizes"}
        self.infer(node)
        return out

    def const(self, value: NDArray[Any]) -> Any:
        """A constant."""
        self.count += 1
        return constant(f"surgery/sizes/constant_{self.count}", value)

    def write(self, node: gs.Node) -> None:
        """Write a node that has been changed, before others that belong to it."""
        self.out.append(node)
        self.infer(node)

    def then(self, node: gs.Node, op: str, *operands: Any) -> Any:
        """Write a node, and another behind it that makes its first output from what it makes.

        Args:
            node: The node; its first output becomes that of the other one.
            op: Operator of the other one, of the default domain.
            operands: Its operands behind the first: tensors, or arrays that become constants.

        Returns:
            What the other one makes.
        """
        import onnx_graphsurgeon as gs

        output = node.outputs[0]
        self.count += 1
        between = gs.Variable(f"surgery/sizes/before_{self.count}", output.dtype)
        node.outputs.clear()
        node.outputs.append(between)
        self.write(node)
        self.done.add(between.name)
        others = [self.const(o) if isinstance(o, np.ndarray) else o for o in operands]
        self.provenance[output.name] = {"surgery.rule": "keep-sizes"}
        self.write(gs.Node(op, f"{between.name}/then", {}, [between, *others], [output]))
        return output

    def instead(self, node: gs.Node, op: str, *inputs: Any, **attributes: Any) -> Any:
        """Write a node that makes the first output of another one in its place; that output."""
        import onnx_graphsurgeon as gs

        output = node.outputs[0]
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        node.outputs.clear()
        made = gs.Node(op, node.name, attributes, operands, [output])
        self.provenance[output.name] = {"surgery.rule": "keep-sizes"}
        self.write(made)
        return output

    def infer(self, node: gs.Node) -> None:
        """Types of a node's outputs from those of its operands."""
        import onnx
        from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

        if node.domain not in (None, "", "ai.onnx"):
            return
        inputs: list[onnx.ValueInfoProto] = []
        values: list[onnx.TensorProto] = []
        for tensor in {t.name: t for t in node.inputs if t.name}.values():
            known = self.number(tensor)
            if known is not None and known.size <= SMALL:
                values.append(onnx.numpy_helper.from_array(known, tensor.name))
            elif tensor.dtype is not None:
                kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
                shape = None if tensor.shape is None else list(tensor.shape)
                inputs.append(onnx.helper.make_tensor_value_info(tensor.name, kind, shape))
        outputs = [onnx.helper.make_empty_tensor_value_info(t.name) for t in node.outputs if t.name]
        graph = onnx.helper.make_graph([OnnxExporter.export_node(node)], "one", inputs, outputs, values)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)], ir_version=8
        )
        try:
            found = infer_shapes(model, data_prop=True)
        except Exception:  # a help; onnx raises many undocumented types
            return
        by_name = {v.name: v for v in found.graph.output}
        for tensor in node.outputs:
            value = by_name.get(tensor.name)
            if value is None:
                continue
            if value.type.tensor_type.elem_type:
                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            tensor.shape = dims_of(value)

    def number(self, tensor: Any) -> NDArray[Any] | None:
        """The value of a constant."""
        import onnx_graphsurgeon as gs

        if not isinstance(tensor, gs.Constant) or is_external(tensor):
            return None
        return value_of(tensor)
