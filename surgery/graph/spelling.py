"""One spelling for what ONNX models write in several ways, before anything else looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.typed import infer_shapes
from surgery.graph.walk import all_graphs, all_nodes

if TYPE_CHECKING:
    import onnx

KEYS = {"keys_strings": 8, "keys_floats": 1, "keys_int64s": 7}
"""Attributes of LabelEncoder that say what type its input has, as ``TensorProto`` counts types."""

TYPED_BY = {"TreeEnsemble": "nodes_splits", "LabelEncoder": "keys_tensor"}
"""Operators to the attribute of theirs that has the type of their input."""

LONG_NAME = "ai.onnx"
"""The default domain written out; ONNX's own spelling of it is the empty string."""


def spell_plainly(model: onnx.ModelProto) -> None:
    """Write domains and names as every reader of ONNX takes them, in place; what is computed stays the same.

    The domain ``ai.onnx`` is written ``""`` (onnx's checker knows it by that name in imports, not on nodes), a graph
    without a name gets one (the checker wants it, ONNX Runtime does not), and nodes of one graph that share a name
    are told apart (ONNX Runtime refuses them, though names of nodes mean nothing). Declarations of tensors inside
    that say no type say nothing, and go (ONNX Runtime refuses them too); outputs without a type, which ONNX Runtime
    takes, get the one that follows. Inputs of some operators are declared, because onnx's shape inference ends the
    process where it does not know their types (onnx 1.23: LabelEncoder, TreeEnsemble, RegexFullMatch). Nodes that
    stand there twice, word for word, as ONNX Runtime's float16 converter leaves them, stand there once.
    """
    nodes = [model.graph.node, *(f.node for f in model.functions)]
    for part in nodes:
        for node in all_nodes(part):
            if node.domain == LONG_NAME:
                node.domain = ""
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for entry in imports:
            if entry.domain == LONG_NAME:
                entry.domain = ""
    if not model.graph.name:
        model.graph.name = "model"
    for graph in all_graphs(model.graph):
        _drop_repeats(graph)
        _tell_apart(graph)
        drop_untyped(graph)
        _declare_inputs(graph)
    _type_outputs(model)


def _declare_inputs(graph: onnx.GraphProto) -> None:
    wanted = {n.input[0]: _input_type(n) for n in graph.node if n.input and _input_type(n)}
    if not wanted:
        return
    made = {name for node in graph.node for name in node.output}
    known = {v.name for v in (*graph.value_info, *graph.output)}
    for name, kind in wanted.items():
        if name in made and name not in known:
            graph.value_info.add(name=name).type.tensor_type.elem_type = kind


def _input_type(node: onnx.NodeProto) -> int:
    """Type of the input of one of the operators that need it, by what the node says itself; 0 if there is none."""
    if node.op_type == "RegexFullMatch" and node.domain == "":
        return KEYS["keys_strings"]
    if node.domain != "ai.onnx.ml" or node.op_type not in TYPED_BY:
        return 0
    for attribute in node.attribute:
        if attribute.name in KEYS and node.op_type == "LabelEncoder":
            return KEYS[attribute.name]
        if attribute.name == TYPED_BY[node.op_type]:
            return int(attribute.t.data_type)
    return 0


def _type_outputs(model: onnx.ModelProto) -> None:

    bare = [v for v in model.graph.output if v.type.WhichOneof("value") is None]
    if not bare:
        return
    try:
        inferred = infer_shapes(model)
    except (
        Exception
    ):  # a help; onnx raises many undocumented types, and the check that follows names the output
        return
    found = {
        v.name: v.type for v in (*inferred.graph.output, *inferred.graph.value_info, *inferred.graph.input)
    }
    for value in bare:
        kind = found.get(value.name)
        if kind is not None and kind.WhichOneof("value") is not None:
            value.type.CopyFrom(kind)


def _drop_repeats(graph: onnx.GraphProto) -> None:
    makers: dict[str, onnx.NodeProto] = {}
    repeats = []
    for i, node in enumerate(graph.node):
        name = next((o for o in node.output if o), "")
        if name and makers.setdefault(name, node) is not node and makers[name] == node:
            repeats.append(i)
    for i in reversed(repeats):
        del graph.node[i]


def _tell_apart(graph: onnx.GraphProto) -> None:
    names = [n.name for n in graph.node if n.name]
    taken = set(names)
    if len(taken) == len(names):
        return
    seen: set[str] = set()
    for node in graph.node:
        if node.name in seen:
            number = 2
            while f"{node.name}_{number}" in taken:
                number += 1
            node.name = f"{node.name}_{number}"
            taken.add(node.name)
        if node.name:
            seen.add(node.name)


def drop_untyped(graph: onnx.GraphProto) -> None:
    """Remove declarations without a type from the tensors that a graph, without its bodies, declares inside."""
    for i in reversed(range(len(graph.value_info))):
        kind = graph.value_info[i].type
        if kind.WhichOneof("value") is None or (
            kind.HasField("tensor_type") and not kind.tensor_type.elem_type
        ):
            del graph.value_info[i]
