"""Shape and dtype inference, written back into the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.collection import no_collection
from surgery.graph.convert import declare, write_attributes
from surgery.graph.load import _MAX_IR_VERSION
from surgery.graph.newer import write_newer
from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

INVENTED = "unk__"
"""How onnx's shape inference begins the names of dims that it makes up."""

KNOWN = 4096
"""Elements up to which a constant's value is shown to inference: axes, shapes, sizes, never weights."""


def dims_of(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """The declared shape: ints, symbolic names, None for unknown dims; None if no shape is declared.

    Names that onnx's inference makes up are left out: it makes up the same ones anew each time, for other dims.
    """
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        (d.dim_value if d.dim_value >= 0 else None)  # Paddle's exporter writes -1 for a free dim
        if d.HasField("dim_value")
        else (d.dim_param or None)
        if d.HasField("dim_param") and not d.dim_param.startswith(INVENTED)
        else None
        for d in tensor.shape.dim
    ]


def declares_empty(model: onnx.ModelProto) -> bool:
    """Whether every output is declared to have no elements."""
    return all(0 in (dims_of(o) or ()) for o in model.graph.output)


@no_collection()
def infer_types(graph: gs.Graph) -> int:
    """Run ONNX shape inference with data propagation and keep what it finds, in place.

    Inference that fails leaves the graph as it was: it is a help, never a condition. Weights are not copied:
    inference sees their type alone.

    Returns:
        The number of tensors whose dtype or shape became better known.
    """
    unknown = _unknown(graph)
    if not unknown and not any(_unknown(body) for node in graph.nodes for body in _inside(node)):
        return 0
    model = _skeleton(graph)
    write_newer(model)
    try:
        inferred = infer_shapes(model, data_prop=True)
    except Exception:  # onnx raises many types, none documented
        return 0
    types: dict[bytes, tuple[Any, list[int | str | None] | None]] = {}
    return _keep(unknown, graph, inferred.graph, types)


def _unknown(graph: gs.Graph) -> dict[str, Any]:
    """Tensors that the graph's nodes make, or that it returns, whose type is not known in full."""
    made = (t for node in graph.nodes for t in node.outputs)
    return {
        t.name: t for t in (*made, *graph.outputs) if t.name and (t.dtype is None or not is_static(t.shape))
    }


def _inside(node: gs.Node) -> list[gs.Graph]:
    """All graphs inside a node, at any depth."""
    return list(node.subgraphs(recursive=True)) if node.attrs else []


def _keep(
    unknown: dict[str, Any],
    graph: gs.Graph,
    inferred: onnx.GraphProto,
    types: dict[bytes, tuple[Any, list[int | str | None] | None]],
) -> int:
    """Keep what inference found for a graph and for those inside it; how many tensors are better known."""
    import onnx_graphsurgeon as gs

    changed = 0
    for value in (*inferred.value_info, *inferred.output):
        tensor = unknown.get(value.name)
        if not isinstance(tensor, gs.Variable):
            continue
        key = value.type.SerializeToString()  # a graph has few types; reading one takes many calls
        if key not in types:
            types[key] = _type_of(value)
        dtype, shape = types[key]
        if dtype is not None and tensor.dtype is None:
            tensor.dtype = dtype
            changed += 1
        if shape is not None and not is_static(tensor.shape) and _better(shape, tensor.shape):
            tensor.shape = list(shape)
            changed += 1
    for node, proto in zip(graph.nodes, inferred.node, strict=True):
        if node.attrs and any(isinstance(v, gs.Graph) for v in node.attrs.values()):
            for attribute in proto.attribute:
                body = node.attrs.get(attribute.name)
                if isinstance(body, gs.Graph):
                    changed += _keep(_unknown(body), body, attribute.g, types)
    return changed


def _type_of(value: onnx.ValueInfoProto) -> tuple[Any, list[int | str | None] | None]:
    """Dtype and shape of a tensor, None where they are not known or it is none."""
    import onnx

    if not value.type.HasField("tensor_type"):
        return None, None
    element = value.type.tensor_type.elem_type
    return onnx.helper.tensor_dtype_to_np_dtype(element) if element else None, dims_of(value)


def _better(new: list[int | str | None], old: Any) -> bool:
    if old is None or len(old) != len(new):
        return True
    return any(isinstance(n, int) and not isinstance(o, int) for n, o in zip(new, old, strict=True))


def is_static(shape: Any) -> bool:
    """True if every dim is a known non-negative number."""
    return shape is not None and all(isinstance(d, int) and d >= 0 for d in shape)


def _skeleton(graph: gs.Graph) -> onnx.ModelProto:
    """The model without names of nodes and without large values."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    model = onnx.ModelProto()
    model.ir_version = min(max(graph.ir_version or 8, 8), _MAX_IR_VERSION)
    known = {d.domain for d in graph.import_domains or ()}
    model.opset_import.extend(graph.import_domains or ())
    if not known & {"", "ai.onnx"}:
        model.opset_import.extend([onnx.helper.make_opsetid("", graph.opset)])
    model.functions.extend(OnnxExporter.export_function(f) for f in graph.functions)
    body = model.graph
    body.name = graph.name or "graph"
    types: dict[Any, onnx.TypeProto] = {}
    for tensor in graph.inputs:
        declare(body.input.add(), tensor, types)
    for tensor in graph.outputs:
        declare(body.output.add(), tensor, types)
    domains: set[str] = set()
    constants: dict[str, Any] = {}
    declared = {t.name for t in (*graph.inputs, *graph.outputs)} | {""}
    for node in graph.nodes:
        inputs, outputs = node.inputs, node.outputs
        proto = body.node.add(
            op_type=node.op, input=[t.name for t in inputs], output=[t.name for t in outputs]
        )
        if node.domain:
            proto.domain = node.domain
            domains.add(node.domain)
        if node.attrs:
            write_attributes(proto, node.attrs)
        for tensor in inputs:
            if isinstance(tensor, gs.Constant):
                constants[tensor.name] = tensor
        for tensor in outputs:
            plain = tensor.shape is not None or getattr(tensor, "type", "tensor_type") == "tensor_type"
            if tensor.dtype is not None and plain and tensor.name not in declared:
                declare(body.value_info.add(), tensor, types)
    constants.update({t.name: t for t in graph.outputs if isinstance(t, gs.Constant)})
    model.opset_import.extend(onnx.helper.make_opsetid(d, 1) for d in sorted(domains - known))
    for tensor in constants.values():
        if isinstance(tensor._values, gs.ir.tensor.SparseValues):
            body.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        elif _size(tensor) <= KNOWN:
            body.initializer.append(OnnxExporter.export_tensor_proto(tensor))
        else:
            declare(body.input.add(), tensor, types)
    return model


def _size(tensor: Any) -> int:
    size = 1
    for dim in tensor.shape:
        size *= dim
    return size


def infer_foreign_types(graph: gs.Graph) -> int:
    """Ask ONNX Runtime for the types behind operators that ONNX has no schema of, in place.

    A session whose outputs are the tensors in question knows their types; nothing is run. Models with external
    weights are left alone.

    Returns:
        The number of tensors whose dtype became known.
    """
    import numpy as np
    import onnx

    from surgery.graph.convert import export_graph
    from surgery.graph.evaluate import EvaluationError, output_types

    unknown = {
        t.name: t
        for node in graph.nodes
        for t in node.outputs
        if t.name and t.dtype is None and t.outputs and node.op != "Constant"
    }
    if not unknown or all(n.domain in (None, "", "ai.onnx") for n in graph.nodes):
        return 0
    model = export_graph(graph)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        return 0
    declared = {o.name for o in model.graph.output}
    for name in unknown:
        if name not in declared:
            model.graph.output.add(name=name)
    try:
        types = output_types(model)
    except EvaluationError:
        return 0
    changed = 0
    for name, (kind, shape) in types.items():
        tensor = unknown.get(name)
        if tensor is None or kind not in _KINDS:
            continue
        tensor.dtype = np.dtype(_KINDS[kind])
        if tensor.shape is None and shape:  # [] also stands for an unknown rank
            tensor.shape = shape
        changed += 1
    return changed


_KINDS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip
