"""Plugin nodes as exporters and scripts write them, brought under the definitions of the registry.

TensorRT's parser finds a plugin by a node's op_type and its attributes plugin_version and plugin_namespace; the
node's domain counts for nothing (until 10.9) or as the namespace (from 10.10). So exporters write any domain: none,
TRT, mmdeploy, their own.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.errors import ConversionError
from surgery.graph.walk import all_nodes
from surgery.plugins.attach import attach_bodies, base_name, definition_of, plugin_nodes
from surgery.plugins.definition import PLUGIN_DOMAIN, RESERVED, TensorType, node_attributes
from surgery.plugins.wrong import told_together

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry

KNOWN_DOMAINS = frozenset(
    {
        "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training", "com.microsoft",
        "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten",
    }
)  # fmt: skip
"""Domains whose operators are what they are, whatever a plugin is named."""

SUFFIX = "_TRT"


@dataclass(frozen=True)
class Adopted:
    """A plugin node that was found.

    Attributes:
        node: Its name.
        op: Its op_type in the model.
        domain: Its domain in the model.
        definition: What it is.
        note: What was put right in its attributes and inputs, "" if nothing was.
    """

    node: str
    op: str
    domain: str
    definition: PluginDefinition
    note: str = ""


def adopt_plugins(model: onnx.ModelProto, registry: Registry) -> tuple[onnx.ModelProto, list[Adopted]]:
    """A model whose plugin nodes are in the domain of plugins and have their bodies, and what was found.

    Returns:
        The model itself if it has no plugin nodes, else a copy.

    Raises:
        ConversionError: nodes are of a plugin that has no definition; have a version or namespace that the plugin
            does not have, a wrong or missing attribute, or inputs of a wrong number, dtype or rank; or a body does
            not cover a configuration. All are told at once, but for what is only seen once others are right.
        ConfigError: a definition is wrong.
    """
    functions = _functions(model)
    wrong = [_unknown(n, registry) for n in unknown_plugins(model, registry)]
    wrong += _of_no_version(model, registry, functions)
    if wrong:
        raise told_together(wrong)
    if not any(_definition(n, registry, functions) for n in all_nodes(model.graph.node)):
        return model, []
    result = onnx.ModelProto()
    result.CopyFrom(model)
    found = []
    for node in all_nodes(result.graph.node):
        definition = _definition(node, registry, functions)
        if definition is None:
            continue
        op, domain = node.op_type, node.domain
        node.op_type, node.domain = definition.name, PLUGIN_DOMAIN
        given = {a.name for a in node.attribute}
        for name, value in (
            ("plugin_version", definition.version),
            ("plugin_namespace", definition.namespace),
        ):
            if name not in given:
                node.attribute.append(onnx.helper.make_attribute(name, value))
        _drop_unknown(node, definition)
        note = _repair(node, definition)
        found.append(Adopted(node.name or node.output[0], op, domain, definition, note))
        problems = [*_namespace_problems(node, definition), *definition.check(node_attributes(node))]
        if problems:
            wrong.append(
                ConversionError(
                    f"{definition.name} {(node.name or node.output[0])!r}: {'; '.join(problems)}",
                    code="plugin-configuration",
                    node=node.name or node.output[0],
                    fix=f"{definition.show_command} lists its attributes",
                )
            )
    if wrong:
        raise told_together(wrong)
    notes = _declare_operands(result, registry)
    found = [replace(a, note=" ".join(filter(None, (a.note, notes.get(a.node))))) for a in found]
    return attach_bodies(result, registry), found


def _of_no_version(
    model: onnx.ModelProto, registry: Registry, functions: set[tuple[str, str]]
) -> list[ConversionError]:
    """What is wrong with nodes that want a version that their plugin does not have."""
    found = []
    for node in all_nodes(model.graph.node):
        try:
            _definition(node, registry, functions)
        except ConversionError as error:
            found.append(error)
    return found


def _functions(model: onnx.ModelProto) -> set[tuple[str, str]]:
    return {(f.domain, f.name) for f in model.functions if f.domain != PLUGIN_DOMAIN}


def unknown_plugins(model: onnx.ModelProto, registry: Registry) -> list[onnx.NodeProto]:
    """Nodes that say they are plugins (they have plugin_version or plugin_namespace) and that have no definition."""
    functions = _functions(model)
    return [
        n for n in all_nodes(model.graph.node) if _says_plugin(n, functions) and _name(n, registry) is None
    ]


def _says_plugin(node: onnx.NodeProto, functions: set[tuple[str, str]]) -> bool:
    if not can_be_plugin(node.op_type, node.domain) or (node.domain, node.op_type) in functions:
        return False
    return any(a.name in ("plugin_version", "plugin_namespace") for a in node.attribute)


def can_be_plugin(op: str, domain: str) -> bool:
    """Whether nodes of an operator are taken for a plugin's where one of that name is defined."""
    standard = domain in ("", "ai.onnx") and onnx.defs.has(op)
    return not standard and domain not in KNOWN_DOMAINS


def _unknown(node: onnx.NodeProto, registry: Registry) -> ConversionError:
    near = near_plugins(node.op_type, registry)
    hint = f"did you mean {' or '.join(near)}? Otherwise define it: " if near else "define it: "
    return ConversionError(
        f"no definition of plugin {node.op_type!r}, which node {(node.name or node.output[0])!r} is of",
        code="unknown-plugin",
        node=node.name or node.output[0],
        fix=f"{hint}surgery new plugin {node.op_type} --output my_plugins, then --plugin-path my_plugins",
    )


def _namespace_problems(node: onnx.NodeProto, definition: PluginDefinition) -> list[str]:
    given = next((a.s.decode() for a in node.attribute if a.name == "plugin_namespace"), definition.namespace)
    if given == definition.namespace:
        return []
    return [f"plugin_namespace is {given!r}; the plugin is registered in {definition.namespace!r}"]


def _repair(node: onnx.NodeProto, definition: PluginDefinition) -> str:
    """Put attributes right that models in the wild write otherwise; what was done, or ""."""
    changes, note = definition.repaired(node_attributes(node))
    if not changes:
        return ""
    kept = [
        onnx.AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name not in changes
    ]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in changes.items())])
    return note


def _drop_unknown(node: onnx.NodeProto, definition: PluginDefinition) -> None:
    """Take off attributes that TensorRT would not read either; what looks like a typing error stays, to be told."""
    known = {*definition.file.attributes, *RESERVED}
    missing = known - {a.name for a in node.attribute}
    kept = [
        onnx.AttributeProto.FromString(a.SerializeToString())
        for a in node.attribute
        if a.name in known or difflib.get_close_matches(a.name, missing, n=1, cutoff=0.75)
    ]
    del node.attribute[:]
    node.attribute.extend(kept)


def _declare_operands(model: onnx.ModelProto, registry: Registry) -> dict[str, str]:
    """Put the inputs of plugin nodes right where their definitions can, and write down their shapes; in place.

    Bodies need numbers where exporters compute shapes; folding finds them. Plugins behind plugins are reached once
    the types of what comes out of the first are known.

    Returns:
        What was put right, by node.

    Raises:
        ConversionError: nodes do not take their inputs; what comes behind those is not looked at.
    """
    from surgery.graph.convert import import_graph
    from surgery.graph.fold import fold_constants
    from surgery.graph.infer import infer_types
    from surgery.graph.measure import measure
    from surgery.plugins.fitting import fit_inputs, put_in_front, put_into

    graph, _ = import_graph(model)
    _forget_behind(graph)
    protos = {n.output[0]: n for n in plugin_nodes(model.graph)}
    pending = [n for n in graph.nodes if n.domain == PLUGIN_DOMAIN and n.outputs[0].name in protos]
    known: dict[str, TensorType] = {}
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    front: dict[str, list[onnx.NodeProto]] = {}
    notes: dict[str, str] = {}
    wrong: list[ConversionError] = []
    while pending:
        fold_constants(graph)
        infer_types(graph)
        node = next((n for n in graph.nodes if any(n is p for p in pending)), None)
        if node is None:
            break  # the rest is not used
        pending = [p for p in pending if p is not node]
        measure(graph, [t for t in node.inputs if t.name], lambda m: attach_bodies(m, registry))
        types = [_type(t) if t.name else None for t in node.inputs]
        proto = protos[node.outputs[0].name]
        definition = definition_of(proto, registry)
        try:
            fitting = fit_inputs(proto, definition, types, opset)
            if fitting is not None:
                types, front[proto.output[0]] = fitting.types, fitting.nodes
                notes[proto.name or proto.output[0]] = fitting.note
                put_into(graph, node, fitting, proto.input)
            if any(name and t is None for name, t in zip(proto.input, types, strict=True)):
                continue
            outputs = definition.output_types(proto, types)
        except ConversionError as error:
            wrong.append(error)
            behind = _behind(graph, node)
            pending = [p for p in pending if not any(p is n for n in behind)]
            continue
        known.update({name: t for name, t in zip(proto.input, types, strict=True) if t is not None})
        for tensor, made in zip(node.outputs, outputs, strict=False):
            tensor.dtype = np.dtype(made.dtype)
            tensor.shape = None if made.shape is None else list(made.shape)
    if wrong:
        raise told_together(wrong)
    declared = {v.name for v in (*model.graph.input, *model.graph.output)}
    kept = [v for v in model.graph.value_info if v.name not in known]
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in kept]
    for name, found in known.items():
        if name not in declared:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(found.dtype))
            kept.append(onnx.helper.make_tensor_value_info(name, element, found.shape))
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    put_in_front(model, front)
    return notes


def _behind(graph: gs.Graph, node: gs.Node) -> list[gs.Node]:
    """Nodes that depend on one."""
    from surgery.graph.view import View

    view = View(graph)
    start = next(k for k, n in enumerate(view.nodes) if n is node)
    return [view.nodes[k] for k in view.descendants({start})]


def _forget_behind(graph: gs.Graph) -> None:
    """Drop shapes that were declared for what comes out of plugin nodes, and behind them: exporters guess these."""
    from surgery.graph.view import View

    view = View(graph)
    starts = {k for k, n in enumerate(view.nodes) if n.domain == PLUGIN_DOMAIN}
    for key in view.descendants(starts) | starts:
        for tensor in view.nodes[key].outputs:
            tensor.shape = None


def _type(tensor: Any) -> TensorType | None:
    """What is known of a tensor; None if not even its dtype is."""
    if tensor.dtype is None:
        return None
    if isinstance(tensor.dtype, (int, np.integer)) and not isinstance(tensor.dtype, type):
        return None
    return TensorType(np.dtype(tensor.dtype).name, None if tensor.shape is None else tuple(tensor.shape))


def near_plugins(op: str, registry: Registry) -> list[str]:
    """Names of plugins that look like an operator that nothing is known about."""
    return difflib.get_close_matches(op, registry.names(), n=3)


def plugin_of(node: onnx.NodeProto, model: onnx.ModelProto, registry: Registry) -> PluginDefinition | None:
    """What a node of a model is, None if it is no plugin node that is known.

    Raises:
        ConversionError: the plugin does not have the node's version.
    """
    return _definition(node, registry, _functions(model))


def _name(node: onnx.NodeProto, registry: Registry) -> str | None:
    """The plugin's name in the registry; exporters write some with and some without `_TRT` at the end."""
    op = base_name(node.op_type) if node.domain == PLUGIN_DOMAIN else node.op_type
    other = op.removesuffix(SUFFIX) if op.endswith(SUFFIX) else op + SUFFIX
    names = registry.names()
    return next((n for n in (op, other) if n in names), None)


def _definition(
    node: onnx.NodeProto, registry: Registry, functions: set[tuple[str, str]]
) -> PluginDefinition | None:
    """What a node is, if it is a plugin node."""
    if not can_be_plugin(node.op_type, node.domain) or (node.domain, node.op_type) in functions:
        return None
    name = _name(node, registry)
    if name is None:
        return None
    version = next((a.s.decode() for a in node.attribute if a.name == "plugin_version"), None)
    if version is None:
        return registry.find(name, "1") or registry.find(name)
    definition = registry.find(name, version)
    if definition is None:
        have = sorted({d.version for d in registry.definitions() if d.name == name})
        raise ConversionError(
            f"plugin {name} has no version {version!r}, which node {(node.name or node.output[0])!r} wants, "
            f"only {', '.join(have)}",
            code="plugin-version",
            node=node.name or node.output[0],
            fix="correct the attribute plugin_version",
        )
    return definition
