"""Inputs of plugin nodes that models in the wild give otherwise than the plugin takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from surgery.graph.body import Body
from surgery.plugins.definition import TensorType, node_attributes
from surgery.plugins.inline import inline_call

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.plugins.definition import PluginDefinition


@dataclass(frozen=True)
class Fitted:
    """What a node is to be given in the place of its inputs.

    Attributes:
        inputs: For each input of the plugin a name (one of the node's own inputs, or a value written into the body)
            and its type.
        note: What was put right, for the report.
    """

    inputs: tuple[tuple[str, TensorType | None], ...]
    note: str


@dataclass(frozen=True)
class Fitting:
    """Nodes that stand in front of a plugin node, and what is known of their results.

    Attributes:
        nodes: In order; they read what the node read.
        types: Types of the node's new inputs.
        note: See `Fitted`.
    """

    nodes: list[onnx.NodeProto]
    types: list[TensorType | None]
    note: str


def fit_inputs(
    node: onnx.NodeProto, definition: PluginDefinition, types: Sequence[TensorType | None], opset: int
) -> Fitting | None:
    """Let a definition put a node's inputs right; the node's list of inputs changes in place.

    Args:
        node: The plugin node.
        definition: What it is.
        types: Types of its inputs as they are, None where nothing is known.
        opset: Default-domain opset of the model.

    Returns:
        What has to stand in front of it; None where its inputs are as the plugin takes them.
    """
    if not definition.fits:
        return None
    own = [f"given_{i}" for i in range(len(node.input))]
    body = Body(opset)
    fitted = definition.fitted(body, own, node_attributes(node), tuple(types))
    if fitted is None:
        return None
    place = node.name or node.output[0]
    before = dict(zip(own, node.input, strict=True))
    made = [name for name, _ in fitted.inputs if name and name not in before]
    call = onnx.helper.make_node(
        "fit", [before[n] for n in own], [f"{place}/{n}" for n in made], name=f"{place}/given"
    )
    nodes = inline_call(call, body.function("", "fit", own, made)) if made else []
    names: Mapping[str, str] = {**before, **dict(zip(made, call.output, strict=True)), "": ""}
    del node.input[:]
    node.input.extend(names[name] for name, _ in fitted.inputs)
    return Fitting(nodes, [known for _, known in fitted.inputs], fitted.note)


def put_in_front(model: onnx.ModelProto, nodes: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Insert nodes in front of those that make the tensors they are listed under, in place."""
    if not any(nodes.values()):
        return
    order: list[onnx.NodeProto] = []
    for node in model.graph.node:
        order += [*nodes.get(next(iter(node.output), ""), ()), node]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def put_into(graph: gs.Graph, at: Any, fitting: Fitting, inputs: Sequence[str]) -> None:
    """Do the same in a graph that is being measured: `at` is the plugin node in it.

    Args:
        graph: The graph.
        at: The node.
        fitting: What stands in front of it.
        inputs: Names of the node's new inputs.
    """
    import numpy as np
    import onnx_graphsurgeon as gs

    from surgery.graph.editor import node_attributes as attributes_of

    tensors = {t.name: t for t in at.inputs if t.name}
    made = []
    for node in fitting.nodes:
        for name in node.output:
            tensors[name] = gs.Variable(name)
        read = [tensors[n] if n else gs.Variable.empty() for n in node.input]
        made.append(
            gs.Node(
                node.op_type,
                node.name,
                attributes_of(node, graph, {}),
                read,
                [tensors[n] for n in node.output],
            )
        )
    place = next(i for i, n in enumerate(graph.nodes) if n is at)
    graph.nodes[place:place] = made
    for name, known in zip(inputs, fitting.types, strict=True):
        if known is not None and name in tensors:
            tensors[name].dtype = np.dtype(known.dtype)
            tensors[name].shape = None if known.shape is None else list(known.shape)
    at.inputs.clear()
    at.inputs.extend(tensors[n] if n else gs.Variable.empty() for n in inputs)
