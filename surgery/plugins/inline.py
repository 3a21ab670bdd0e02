"""Putting the nodes of a model-local function in the place of the node that calls it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from surgery.errors import ConversionError


def inline_call(node: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """The function's nodes with the call's inputs and outputs; inner names get the call's name in front.

    One renaming serves the nested subgraphs too: it maps different names to different names, so what a
    subgraph shadows stays shadowed and what it captures stays captured.

    Raises:
        ConversionError: the function still has attribute references, which only a call could bind (and
            which TensorRT's parser turns into 0 when nested).
    """
    prefix = f"{node.name or node.output[0]}/"
    given = dict(zip(function.input, node.input, strict=False))
    renames = {name: given.get(name, "") for name in function.input}
    extra: list[onnx.NodeProto] = []
    for inner, outer in zip(function.output, node.output, strict=False):
        if not outer:
            continue
        if inner in renames:  # an input returned as it is, or a value returned twice
            source = renames[inner]
            extra.append(onnx.helper.make_node("Identity", [source], [outer], name=f"{prefix}{outer}"))
        else:
            renames[inner] = outer
    nodes = []
    for inner_node in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner_node)
        _rename(copy, renames, prefix, function.name)
        nodes.append(copy)
    return [*nodes, *extra]


def _rename(node: onnx.NodeProto, renames: Mapping[str, str], prefix: str, function: str) -> None:
    def new(name: str) -> str:
        return renames.get(name, prefix + name) if name else ""

    node.name = prefix + (node.name or node.output[0])
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            names[i] = new(name)
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise ConversionError(
                f"the body of {function!r} refers to attribute {attribute.ref_attr_name!r} instead of having "
                "its value baked in",
                code="plugin-body",
                node=node.name,
            )
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.name = ""  # names of constants' tensors mean nothing, and would no longer be unique
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            graph.name = prefix + graph.name
            for value in (*graph.input, *graph.output, *graph.value_info):
                value.name = new(value.name)
            for tensor in graph.initializer:
                tensor.name = new(tensor.name)
            for inner in graph.node:
                _rename(inner, renames, prefix, function)
