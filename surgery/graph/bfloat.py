"""bfloat16 in ONNX Runtime: computed in float32 and rounded where the model rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.walk import all_graphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

TAKEN = frozenset({"Cast", "Identity", "Reshape", "Shape", "Constant", "If", "Loop", "Scan"})
"""Operators that ONNX Runtime's CPU provider has for bfloat16, or that hold graphs of their own."""

SUFFIX = "/float32"


def has_bfloat16(model: onnx.ModelProto) -> bool:
    """Whether an input, a weight or a cast of the model is bfloat16."""
    import onnx

    kind = onnx.TensorProto.BFLOAT16
    return any(True for graph in all_graphs(model.graph) for _ in _marks(graph, kind))


def has_16_bits(model: onnx.ModelProto) -> bool:
    """Whether an input, a weight or a cast of the model is float16 or bfloat16."""
    import onnx

    kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(True for graph in all_graphs(model.graph) for kind in kinds for _ in _marks(graph, kind))


def _marks(graph: onnx.GraphProto, kind: int) -> Iterator[str]:

    yield from (v.name for v in graph.input if v.type.tensor_type.elem_type == kind)
    yield from (t.name for t in graph.initializer if t.data_type == kind)
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type == "Cast" and attribute.name == "to" and attribute.i == kind) or (
                attribute.HasField("t") and attribute.t.data_type == kind
            ):
                yield node.output[0]


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every operator on bfloat16 computes in float32 and rounds its result to bfloat16.

    This is what the operators mean: a bfloat16 result is the exact one rounded. Values between nodes stay bfloat16,
    so that casts, copies and outputs are as they were.

    Args:
        model: The model; weights may lie outside of it.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held: set[str] = set()
    _widen(copy.graph, held)
    return copy


def _widen(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Wrap the nodes of a graph; `outer` are the bfloat16 tensors of the graphs around it."""
    import onnx

    kind = onnx.TensorProto.BFLOAT16
    held = set(outer)
    held.update(v.name for v in graph.input if v.type.tensor_type.elem_type == kind)
    held.update(t.name for t in graph.initializer if t.data_type == kind)
    other = {v.name for v in graph.value_info if v.type.tensor_type.elem_type not in (0, kind)}
    nodes: list[onnx.NodeProto] = []
    wide: dict[str, str] = {}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _widen(attribute.g, held)
        made = _result_kinds(node, held, other)
        held.update(name for name, is_held in made.items() if is_held)
        reads = [n for n in node.input if n in held]
        if node.op_type in TAKEN or not (reads or any(made.values())):
            nodes.append(node)
            continue
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name in held:
                if name not in wide:
                    wide[name] = name + SUFFIX
                    cast = onnx.helper.make_node("Cast", [name], [wide[name]], to=onnx.TensorProto.FLOAT)
                    nodes.append(cast)
                new.input[i] = wide[name]
        nodes.append(new)
        for i, name in enumerate(node.output):
            if made.get(name):
                new.output[i] = f"{name}{SUFFIX}/exact"
                nodes.append(onnx.helper.make_node("Cast", [new.output[i]], [name], to=kind))
    del graph.node[:]
    graph.node.extend(nodes)


def _result_kinds(node: onnx.NodeProto, held: set[str], other: set[str]) -> dict[str, bool]:
    """Which outputs of a node are bfloat16."""
    import onnx

    kind = onnx.TensorProto.BFLOAT16
    names = [n for n in node.output if n]
    if node.op_type == "Cast":
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        return {names[0]: to == kind}
    if node.op_type == "Constant":
        return {names[0]: any(a.HasField("t") and a.t.data_type == kind for a in node.attribute)}
    if node.op_type == "ConstantOfShape":
        return {names[0]: any(a.name == "value" and a.t.data_type == kind for a in node.attribute)}
    if node.op_type in ("If", "Loop", "Scan"):
        return dict.fromkeys(names, False)
    if not any(n in held for n in node.input):
        return dict.fromkeys(names, False)
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return {n: n not in other for n in names}
    types = {
        i.type_str
        for i, name in zip(_formals(schema.inputs, len(node.input)), node.input, strict=False)
        if name in held
    }
    formals = _formals(schema.outputs, len(node.output))
    return {name: f.type_str in types for f, name in zip(formals, node.output, strict=False) if name}


def _formals(formals: object, count: int) -> list[onnx.defs.OpSchema.FormalParameter]:
    """The formal parameters of so many values; the last one repeats where it is variadic."""
    known = list(formals)  # type: ignore[call-overload]
    return [known[min(i, len(known) - 1)] for i in range(count)] if known else []
