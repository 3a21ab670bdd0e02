"""The two forms of a model with plugins: the portable one with bodies, and the one a target's parser gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Protocol

import onnx

from surgery.errors import ConversionError
from surgery.plugins.definition import PLUGIN_DOMAIN, PluginDefinition, TensorType, node_attributes
from surgery.plugins.inline import inline_call
from surgery.plugins.schema import PER_SAMPLE_INTERFACES
from surgery.plugins.types import tensor_types
from surgery.plugins.wrong import told_together

if TYPE_CHECKING:
    from surgery.plugins.registry import Registry

_SUFFIX = re.compile(r"__\d+$")


class TargetVersion(Protocol):
    """The part of a target that decides which plugins it has."""

    @property
    def flavour(self) -> str:
        """`tensorrt` or `tensorrt-rtx`."""

    @property
    def version(self) -> str:
        """Its version number."""


def base_name(op_type: str) -> str:
    """The plugin's name of an operator type that may carry a configuration suffix (`Name__2`)."""
    return _SUFFIX.sub("", op_type)


def definition_of(node: onnx.NodeProto, registry: Registry) -> PluginDefinition:
    """The definition of a plugin node, by its name and plugin_version.

    Raises:
        ConfigError: the registry has none.
    """
    version = node_attributes(node).get("plugin_version")
    return registry.get(base_name(node.op_type), str(version) if version else None)


def attach_bodies(model: onnx.ModelProto, registry: Registry) -> onnx.ModelProto:
    """A copy of the model in which every plugin node has its body as a model-local function.

    Nodes of one plugin that need different bodies get different operator types (`Name`, `Name__2`, ...)
    in order of appearance, because TensorRT looks functions up by that alone; equal bodies are shared.
    Bodies already attached are replaced.

    Args:
        model: A model whose plugin nodes are in the domain `PLUGIN_DOMAIN`.
        registry: Where their definitions are.

    Raises:
        ConfigError: a plugin has no definition.
        ConversionError: a node's configuration is wrong or its body does not cover it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [f for f in result.functions if f.domain != PLUGIN_DOMAIN]
    del result.functions[:]
    result.functions.extend(kept)
    nodes = list(plugin_nodes(result.graph))
    for node in nodes:
        node.op_type = base_name(node.op_type)
    _set_import(result, present=bool(nodes))
    if not nodes:
        return result
    opset = _default_opset(result)
    types = tensor_types(result, registry)
    bodies: dict[tuple[str, bytes], str] = {}
    counts: dict[str, int] = {}
    wrong: list[ConversionError] = []
    for node in nodes:
        definition = definition_of(node, registry)
        given = [_type_of(name, types, node) for name in node.input]
        shapes = [t.shape if t else None for t in given]
        try:
            function = definition.body(node, shapes, [t.dtype if t else "" for t in given], opset)
        except ConversionError as error:
            wrong.append(error)
            continue
        key = (definition.name, function.SerializeToString(deterministic=True))
        if key not in bodies:
            counts[definition.name] = counts.get(definition.name, 0) + 1
            number = counts[definition.name]
            function.name = definition.name if number == 1 else f"{definition.name}__{number}"
            result.functions.append(function)
            bodies[key] = function.name
        node.op_type = bodies[key]
    if wrong:
        raise told_together(wrong)
    return result


def target_model(
    model: onnx.ModelProto,
    registry: Registry,
    target: TargetVersion,
    *,
    per_sample: bool = False,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of the model as the target's parser gets it: nothing of the plugin domain is left.

    A node whose plugin the target has, or a library of the user's, becomes a bare node of the default domain under
    the plugin's own name; any other is replaced by the nodes of its body, with every name and attribute bound.

    Args:
        model: A model with or without attached bodies.
        registry: Where the definitions are.
        target: Flavour and version of TensorRT.
        per_sample: Also emit plugins whose interface there declares shapes without the batch dimension
            (IPluginV2Ext, IPluginV2IOExt); it is unconfirmed that they work in explicit-batch networks.
        keep: Names of plugins that the user has a library of; their nodes stay, whatever the target has.

    Raises:
        ConfigError: a plugin has no definition.
        ConversionError: a body is needed and does not cover the node.
    """

    def stays(node: onnx.NodeProto) -> bool:
        definition = definition_of(node, registry)
        return definition.name in keep or ships(definition, target, per_sample)

    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {n.op_type for n in plugin_nodes(result.graph) if not stays(n)}
    if not names <= {f.name for f in result.functions if f.domain == PLUGIN_DOMAIN}:
        result = attach_bodies(result, registry)
    functions = {f.name: f for f in result.functions if f.domain == PLUGIN_DOMAIN}
    lower_nodes(result.graph, functions, lambda node: _bare(node) if stays(node) else None)
    kept = [f for f in result.functions if f.domain != PLUGIN_DOMAIN]
    del result.functions[:]
    result.functions.extend(kept)
    _set_import(result, present=False)
    return result


def ships(definition: PluginDefinition, target: TargetVersion, per_sample: bool = False) -> bool:
    """Whether a target has a plugin that works in networks with an explicit batch.

    Args:
        definition: The plugin.
        target: Flavour and version of TensorRT.
        per_sample: Whether interfaces that declare shapes without the batch count too.
    """
    if definition.file.never_emitted:
        return False
    interface = definition.interface(target.flavour, target.version)
    return interface is not None and (per_sample or interface not in PER_SAMPLE_INTERFACES)


def _bare(node: onnx.NodeProto) -> onnx.NodeProto:
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    bare.domain = ""
    bare.op_type = base_name(node.op_type)
    return bare


def lower_nodes(
    graph: onnx.GraphProto,
    functions: dict[str, onnx.FunctionProto],
    kept: Callable[[onnx.NodeProto], onnx.NodeProto | list[onnx.NodeProto] | None],
) -> None:
    """Write plugin nodes out in place, subgraphs included.

    Args:
        graph: The graph.
        functions: Bodies by operator type.
        kept: The node or nodes in the place of a plugin node; None to put its body there.
    """
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        for inner in _subgraphs(node):
            lower_nodes(inner, functions, kept)
        if node.domain != PLUGIN_DOMAIN:
            nodes.append(node)
            continue
        changed = True
        stays = kept(node)
        if stays is None:
            stays = inline_call(node, functions[node.op_type])
        nodes += stays if isinstance(stays, list) else [stays]
    if changed:
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def plugin_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All plugin nodes of a graph and its subgraphs, in order."""
    for node in graph.node:
        if node.domain == PLUGIN_DOMAIN:
            yield node
        for inner in _subgraphs(node):
            yield from plugin_nodes(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _type_of(name: str, types: dict[str, TensorType], node: onnx.NodeProto) -> TensorType | None:
    if not name:
        return None
    if name not in types:
        raise ConversionError(
            f"the type of {name!r}, an input of plugin node {node.op_type}, cannot be inferred",
            code="plugin-types",
            node=node.name or None,
        )
    return types[name]


def _default_opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _set_import(model: onnx.ModelProto, *, present: bool) -> None:
    others = [o for o in model.opset_import if o.domain != PLUGIN_DOMAIN]
    if present:
        others.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))
    copies = [onnx.helper.make_opsetid(o.domain, o.version) for o in others]
    del model.opset_import[:]
    model.opset_import.extend(copies)
