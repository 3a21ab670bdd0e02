"""ModelProto <-> onnx_graphsurgeon.Graph, keeping what graphsurgeon alone would lose.

Measured with onnx-graphsurgeon 0.6.1: import and export drop the model header (domain, version, doc string,
metadata), node doc strings and metadata; a graph built from scratch gets an IR version that ONNX Runtime
refuses; attributes that are empty lists cannot be exported; and export writes names into shared
TensorProtos. So a private copy is imported, a :class:`Header` remembers the rest, and export puts it back.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from surgery.graph.collection import no_collection
from surgery.graph.load import _MAX_IR_VERSION
from surgery.graph.walk import all_graphs, all_nodes

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray


DEFAULT_OPSET = 18
"""Operator set of ONNX's own domain for models that use none of it, so that replacements can."""


@dataclass(slots=True)
class Header:
    """What a ModelProto says beside its nodes; keyed by first output name where it belongs to a node."""

    model: onnx.ModelProto
    node_metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    node_doc: dict[str, str] = field(default_factory=dict)


@no_collection()
def import_graph(model: onnx.ModelProto) -> tuple[gs.Graph, Header]:
    """Import a model; the argument is not changed and shares nothing with the result."""
    import onnx
    import onnx_graphsurgeon as gs

    private = onnx.ModelProto()
    private.CopyFrom(model)
    header_model = onnx.ModelProto()
    header_model.CopyFrom(model)
    header_model.ClearField("graph")
    header_model.ClearField("functions")
    header = Header(header_model)
    for node in model.graph.node:
        key = next((o for o in node.output if o), "")
        if node.metadata_props:
            header.node_metadata[key] = {p.key: p.value for p in node.metadata_props}
        if node.doc_string:
            header.node_doc[key] = node.doc_string
    for node in private.graph.node:
        _drop_empty_list_attributes(node)
    for node in all_nodes(private.graph.node):
        _drop_trailing_omissions(node)
    _densify(private.graph)
    if not any(o.domain in ("", "ai.onnx") for o in private.opset_import):
        private.opset_import.add(domain="", version=DEFAULT_OPSET)
    with contextlib.redirect_stdout(io.StringIO()):
        graph = gs.import_onnx(private)
    _give_types(graph)
    return graph, header


def _give_types(graph: gs.Graph) -> None:
    # graphsurgeon leaves ONNX's number where numpy alone has no type, though it writes those of ml_dtypes.
    import onnx
    import onnx_graphsurgeon as gs

    kinds = onnx.TensorProto
    known = {
        int(kind): onnx.helper.tensor_dtype_to_np_dtype(kind)
        for kind in (kinds.BFLOAT16, kinds.FLOAT8E4M3FN, kinds.FLOAT8E5M2)
    }
    for tensor in graph.tensors().values():
        holder = tensor._values if isinstance(tensor, gs.Constant) else tensor
        if isinstance(getattr(holder, "dtype", None), int) and holder.dtype in known:
            holder.dtype = known[holder.dtype]
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                _give_types(value)


def _densify(graph: onnx.GraphProto) -> None:
    # graphsurgeon makes float64 of a sparse initializer, and TensorRT's parser does not see it at all; it refuses
    # sparse values of Constant.
    import onnx

    for body in all_graphs(graph):
        for sparse in body.sparse_initializer:
            body.initializer.append(onnx.numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del body.sparse_initializer[:]
    for node in all_nodes(graph.node):
        if (
            node.op_type == "Constant"
            and len(node.attribute) == 1
            and node.attribute[0].name == "sparse_value"
        ):
            tensor = onnx.numpy_helper.from_array(_dense(node.attribute[0].sparse_tensor))
            node.attribute[0].CopyFrom(onnx.helper.make_attribute("value", tensor))


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    import numpy as np
    import onnx

    values = onnx.numpy_helper.to_array(sparse.values)
    places = onnx.numpy_helper.to_array(sparse.indices)
    dense: NDArray[Any] = np.zeros(list(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return dense


def _drop_trailing_omissions(node: onnx.NodeProto) -> None:
    # An omitted last operand may be written as "" or not at all. TensorRT's parser counts operands (Gemm with two
    # and an empty third is refused), and inlined functions have one for each formal parameter. A Loop keeps its first
    # two: onnx's inference takes the rest for state, and gives up on the whole model where there are fewer.
    least = 2 if node.op_type == "Loop" else 1
    while len(node.input) > least and not node.input[-1]:
        del node.input[-1]


def _drop_empty_list_attributes(node: onnx.NodeProto) -> None:
    # graphsurgeon cannot export an empty list: it has no type. Every ONNX operator reads an absent list
    # attribute as the empty one, so dropping it changes nothing.
    import onnx

    kinds = {onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOATS: "floats"}
    for i in reversed(range(len(node.attribute))):
        attribute = node.attribute[i]
        kind = kinds.get(attribute.type)
        if kind is not None and len(getattr(attribute, kind)) == 0:
            del node.attribute[i]
        elif attribute.HasField("g"):
            for inner in attribute.g.node:
                _drop_empty_list_attributes(inner)


@no_collection()
def export_graph(
    graph: gs.Graph,
    header: Header | None = None,
    *,
    provenance: Mapping[str, Mapping[str, str]] | None = None,
) -> onnx.ModelProto:
    """Export a graph; `provenance` maps first output names of new nodes to metadata to stamp on them."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = _export(graph)
    if header is not None:
        source = header.model
        model.ir_version = source.ir_version
        model.domain, model.model_version, model.doc_string = (
            source.domain,
            source.model_version,
            source.doc_string,
        )
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
        del model.metadata_props[:]
        model.metadata_props.extend(source.metadata_props)
    model.ir_version = min(max(model.ir_version or 8, 8 if model.functions else 4), _MAX_IR_VERSION)
    known = header.node_metadata if header else {}
    docs = header.node_doc if header else {}
    added = provenance or {}
    if not known and not added and not docs:
        return model
    for node in model.graph.node:
        key = next((o for o in node.output if o), "")
        merged = {**known.get(key, {}), **added.get(key, {})}
        for name in sorted(merged):
            node.metadata_props.add(key=name, value=merged[name])
        if key in docs:
            node.doc_string = docs[key]
        if added:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    _stamp(attribute.g, added)
    return model


def _stamp(body: onnx.GraphProto, added: Mapping[str, Mapping[str, str]]) -> None:
    """Metadata of new nodes in a body, and in those inside it."""
    for node in body.node:
        told = added.get(next((o for o in node.output if o), ""), {})
        for name in sorted(told):
            node.metadata_props.add(key=name, value=told[name])
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _stamp(attribute.g, added)


def _export(graph: gs.Graph) -> onnx.ModelProto:
    """What ``gs.export_onnx`` makes, written in place: no message is made first and copied then."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, update_import_domains

    model = onnx.ModelProto(producer_name=graph.producer_name, producer_version=graph.producer_version)
    model.ir_version = graph.ir_version if graph.ir_version is not None else onnx.IR_VERSION
    model.functions.extend(OnnxExporter.export_function(f) for f in graph.functions)
    model.opset_import.extend(update_import_domains(graph))
    body = model.graph
    body.name = graph.name or ""
    if graph.doc_string:
        body.doc_string = graph.doc_string
    for node in graph.nodes:
        proto = body.node.add(
            op_type=node.op, input=[t.name for t in node.inputs], output=[t.name for t in node.outputs]
        )
        if node.name:
            proto.name = node.name
        if node.domain is not None:
            proto.domain = node.domain
        if node.attrs:
            write_attributes(proto, node.attrs)
    types: dict[Any, onnx.TypeProto] = {}
    for tensor in graph.inputs:
        declare(body.input.add(), tensor, types)
    for tensor in graph.outputs:
        declare(body.output.add(), tensor, types)
    declared = {t.name for t in (*graph.inputs, *graph.outputs)}
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant):
            if tensor.name not in declared and (tensor.dtype is not None or tensor.shape is not None):
                declare(body.value_info.add(), tensor, types)
        elif isinstance(tensor._values, gs.ir.tensor.SparseValues):
            body.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        else:
            body.initializer.append(OnnxExporter.export_tensor_proto(tensor))
    return model


def declare(value: onnx.ValueInfoProto, tensor: Any, types: dict[Any, onnx.TypeProto]) -> None:
    """Write name and type of a tensor; `types` keeps those already made."""
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    value.name = tensor.name
    if tensor.dtype is None:
        return
    key = (getattr(tensor, "type", ""), tensor.dtype, None if tensor.shape is None else tuple(tensor.shape))
    if key not in types:
        types[key] = OnnxExporter.export_value_info_proto(tensor, False).type
    value.type.CopyFrom(types[key])


def write_attributes(node: onnx.NodeProto, attrs: Mapping[str, Any]) -> None:
    """Write graphsurgeon's attributes of a node; the usual kinds without a message in between."""
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    for name, value in attrs.items():
        kind = type(value)
        if kind is list:
            value = tuple(value)
        if kind in (int, str) or (kind is list and all(type(v) is int for v in value)):
            node.attribute.append(_attribute(name, value))
        else:
            node.attribute.extend(OnnxExporter.export_attributes({name: value}))


@lru_cache(maxsize=4096)
def _attribute(name: str, value: Any) -> onnx.AttributeProto:
    import onnx

    return onnx.helper.make_attribute(name, value)


def constant(name: str, value: NDArray[Any]) -> gs.Constant:
    """A constant that survives export unchanged for every dtype (graphsurgeon re-encodes ndarrays)."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.ir.tensor import LazyValues

    tensor = onnx.numpy_helper.from_array(value, name)
    return gs.Constant(name, LazyValues(tensor))


def value_of(tensor: gs.Constant) -> NDArray[Any]:
    """The constant's value, read without replacing graphsurgeon's lazy reference to it.

    Raises:
        ValueError: the data is external; the caller decides whether reading it is worth it.
    """
    import numpy as np
    import onnx

    raw = tensor._values
    proto = getattr(raw, "tensor", None)
    if proto is None:
        return np.asarray(raw)
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"constant {tensor.name!r} has external data")
    return np.asarray(onnx.numpy_helper.to_array(proto))


def is_external(tensor: gs.Constant) -> bool:
    """True if the constant's data lies in a file of its own."""
    import onnx

    proto = getattr(tensor._values, "tensor", None)
    return proto is not None and proto.data_location == onnx.TensorProto.EXTERNAL


def extract(
    graph: gs.Graph,
    nodes: Iterable[gs.Node],
    inputs: Iterable[str],
    outputs: Iterable[str],
    *,
    shapes: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, np.dtype[Any]] | None = None,
    name: str = "cut",
) -> onnx.ModelProto:
    """A model of its own from some nodes of a graph; the graph is not changed.

    Args:
        graph: Graph that the nodes belong to.
        nodes: The nodes, in topological order.
        inputs: Names of tensors that become the model's inputs, in order.
        outputs: Names of tensors that become its outputs, in order.
        shapes: Shapes to declare instead of the graph's (for inputs and outputs).
        dtypes: Dtypes to declare where the graph does not know them.
        name: Name of the new graph.
    """
    import onnx_graphsurgeon as gs

    wanted = list(nodes)
    tensors: dict[str, Any] = {}
    for node in wanted:
        for tensor in (*node.inputs, *node.outputs):
            tensors.setdefault(tensor.name, tensor)
        for sub in node.subgraphs(recursive=True):
            for inner in sub.nodes:
                for tensor in inner.inputs:
                    tensors.setdefault(tensor.name, tensor)
    own = graph.tensors()

    def declare(tensor_name: str) -> gs.Variable:
        known = own.get(tensor_name, tensors.get(tensor_name))
        dtype = (dtypes or {}).get(tensor_name, known.dtype if known is not None else None)
        shape = (shapes or {}).get(tensor_name, known.shape if known is not None else None)
        return gs.Variable(tensor_name, dtype=dtype, shape=shape)

    piece = gs.Graph(
        nodes=wanted,
        inputs=[declare(n) for n in inputs],
        outputs=[declare(n) for n in outputs],
        name=name,
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=min(graph.ir_version or 8, _MAX_IR_VERSION),
        functions=graph.functions,
    )
    return export_graph(piece)
