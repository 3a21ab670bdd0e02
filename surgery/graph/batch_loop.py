"""The end of a model, one sample after the other: what would mix samples goes into a Loop over the batch.

Suppression of boxes is written for the one picture that the model was made for: its scores are taken out of the
batch, chosen by value, padded and put back. The sizes in between depend on the data, so no axis can be added to
them. A Loop runs these nodes as they are on each sample, and stacks what comes out. This is the form in which
TensorFlow exports the same models with a free batch, so what is recognised there is recognised here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.graph.walk import bodies

if TYPE_CHECKING:
    import onnx

HEAVY = frozenset(
    {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul", "ConvInteger",
        "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "Einsum", "DeformConv",
    }
)  # fmt: skip
"""Operators that are not worth a batch when they run sample by sample."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that the nodes of the loop read from outside.

    Attributes:
        name: The tensor.
        axis: The axis of its batch; None if the batch is one more axis in front of the tensor's own.
        size: Entries of one sample along that axis.
    """

    name: str
    axis: int | None
    size: int = 1


def reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads: its inputs, then what its bodies take from outside."""
    return [*node.input, *(n for g in bodies(node) for n in _captured(g))]


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give tensors that a node reads, in its bodies too, other names; in place."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for graph in bodies(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        seen = {k: v for k, v in names.items() if k not in own}
        for inner in graph.node:
            rename(inner, seen)
        for value in graph.output:
            value.name = seen.get(value.name, value.name)


def per_sample(
    nodes: Sequence[onnx.NodeProto],
    crossings: Sequence[Crossing],
    again: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int,
) -> list[onnx.NodeProto]:
    """Nodes of a loop that runs `nodes` for each sample, in order.

    Args:
        nodes: The nodes, in order; all of them read, in the end, samples.
        crossings: What they read that has the batch.
        again: Nodes in front of them that are repeated inside, for one sample: they compute sizes.
        outputs: Their results that are outputs of the model, each with a first axis of one sample.
        opset: Version of the operators.
    """
    import onnx
    from onnx import TensorProto

    make = onnx.helper.make_node
    prefix = _scope(nodes) + "each_sample"
    turn, go = f"{prefix}/turn", f"{prefix}/go"
    body: list[onnx.NodeProto] = []

    def constant(name: str, values: list[int]) -> str:
        tensor = onnx.helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        body.append(make("Constant", [], [name], name=name, value=tensor))
        return name

    def squeezed(given: str, made: str, name: str) -> onnx.NodeProto:
        if opset < 13:
            return make("Squeeze", [given], [made], name=name, axes=[0])
        return make("Squeeze", [given, f"{prefix}/zero"], [made], name=name)

    zero = constant(f"{prefix}/zero", [0])
    body.append(
        make("Reshape", [turn, constant(f"{prefix}/one", [1])], [f"{prefix}/turns"], name=f"{prefix}/turns")
    )
    names: dict[str, str] = {}
    for k, crossing in enumerate(crossings):
        inner = names[crossing.name] = f"{prefix}/sample_{k}"
        if crossing.axis is None:
            body.append(make("Gather", [crossing.name, turn], [inner], name=inner, axis=0))
        elif crossing.size == 1:
            body.append(
                make("Gather", [crossing.name, f"{prefix}/turns"], [inner], name=inner, axis=crossing.axis)
            )
        else:
            often = constant(f"{inner}/size", [crossing.size])
            start, end = f"{inner}/start", f"{inner}/end"
            body.append(make("Mul", [f"{prefix}/turns", often], [start], name=start))
            body.append(make("Add", [start, often], [end], name=end))
            axis = zero if crossing.axis == 0 else constant(f"{inner}/axis", [crossing.axis])
            body.append(make("Slice", [crossing.name, start, end, axis], [inner], name=inner))
    names.update({o: f"{prefix}/of_one/{o}" for node in again for o in node.output if o})
    stacked = {v.name: f"{prefix}/{k}" for k, v in enumerate(outputs)}
    for node in [*again, *nodes]:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        rename(copy, {**names, **stacked})
        copy.output[:] = [stacked.get(n, names.get(n, n)) for n in copy.output]
        body.append(copy)
    body += [squeezed(name, f"{name}/row", f"{name}/row") for name in stacked.values()]
    body.append(make("Identity", [go], [f"{go}/on"], name=f"{go}/on"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        body,
        f"{prefix}/body",
        [info(turn, TensorProto.INT64, []), info(go, TensorProto.BOOL, [])],
        [
            info(f"{go}/on", TensorProto.BOOL, []),
            *(info(f"{stacked[v.name]}/row", v.type.tensor_type.elem_type, None) for v in outputs),
        ],
    )
    turns = f"{prefix}/samples"
    first = min(crossings, key=lambda c: c.size if c.axis is not None else 1)
    whole = turns if first.size == 1 else f"{turns}/all"
    counted = count(first.name, first.axis or 0, whole)
    if first.size != 1:
        each = onnx.helper.make_tensor(f"{turns}/each", TensorProto.INT64, [], [first.size])
        counted.append(make("Constant", [], [f"{turns}/each"], name=f"{turns}/each", value=each))
        counted.append(make("Div", [whole, f"{turns}/each"], [turns], name=turns))
    return [
        *counted,
        make("Loop", [turns, ""], [v.name for v in outputs], name=prefix, body=graph),
    ]


def count(tensor: str, axis: int, name: str) -> list[onnx.NodeProto]:
    """Nodes that give how long a tensor is along an axis, as a scalar of that name."""
    import onnx

    make = onnx.helper.make_node
    scalar = onnx.helper.make_tensor(f"{name}/axis", onnx.TensorProto.INT64, [], [axis])
    return [
        make("Constant", [], [f"{name}/axis"], name=f"{name}/axis", value=scalar),
        make("Shape", [tensor], [f"{name}/shape"], name=f"{name}/shape"),
        make("Gather", [f"{name}/shape", f"{name}/axis"], [name], name=name, axis=0),
    ]


def with_what_they_read(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], stop: set[str]
) -> onnx.ModelProto:
    """The nodes and the constants before them as a model, without inputs and outputs.

    Args:
        model: The model that the nodes are from.
        nodes: Nodes of it.
        stop: Tensors that will be given.
    """
    import onnx

    producer = {o: i for i, n in enumerate(model.graph.node) for o in n.output if o}
    wanted: set[int] = set()
    stack = [o for n in nodes for o in n.output]
    while stack:
        name = stack.pop()
        index = producer.get(name)
        if name in stop or index is None or index in wanted:
            continue
        wanted.add(index)
        stack += reads(model.graph.node[index])
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(model.graph.node[i] for i in sorted(wanted))
    return part


def _scope(nodes: Sequence[onnx.NodeProto]) -> str:
    """The deepest scope that holds most of the nodes, with the stroke behind it."""
    scopes: dict[str, int] = {}
    for node in nodes:
        parts = node.name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            scope = "".join(f"{p}/" for p in parts[:depth])
            scopes[scope] = scopes.get(scope, 0) + 1
    found = [s for s, often in scopes.items() if 2 * often > len(nodes) and s.strip("/")]
    return max(found, key=len, default="surgery/batch/")


def _captured(graph: onnx.GraphProto) -> list[str]:
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        found.update(dict.fromkeys(n for n in reads(node) if n and n not in known))
        known.update(node.output)
    found.update(dict.fromkeys(v.name for v in graph.output if v.name not in known))
    return list(found)
