"""Manifests of Polygraphy's `plugin match`: which parts of a model plugin nodes take the place of.

Such a file holds one YAML document for each plugin: `name`, `op` and `instances`, each with the names of the tensors
that go in and come out, and attributes. Everything in it is checked against the model and against the plugin's
definition before anything changes; then each part is computed by the plugin's body and compared with the graph.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConfigError, ConversionError
from surgery.plugins.definition import PLUGIN_DOMAIN, RESERVED, TensorType

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from surgery.graph.cut import Cut
    from surgery.graph.view import View
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry

RULE = "manifest"
CASES = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One place for a plugin node.

    Attributes:
        label: What to call it: ``NAME #2``.
        where: The document and instance in the file, for messages.
        definition: What the node is.
        inputs: Names of tensors, in the order of the plugin's inputs.
        outputs: Names of tensors, in the order of the plugin's outputs.
        attributes: Of the node, without those that TensorRT's parser reads of any plugin.
    """

    label: str
    where: str
    definition: PluginDefinition
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Placed:
    """A plugin node that was put in.

    Attributes:
        entry: What asked for it.
        before: Names of the nodes it took the place of; empty if it was there already.
        node: Its name.
        proof: ``passed``, or why nothing was compared.
        max_abs_error: Largest difference of an output, None if nothing was compared.
    """

    entry: Entry
    before: tuple[str, ...]
    node: str
    proof: str
    max_abs_error: float | None


def read_manifest(path: Path, registry: Registry) -> list[Entry]:
    """The entries of a manifest, in its order.

    Raises:
        ConfigError: the file cannot be read, an entry lacks something, or its plugin has no definition.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        documents = list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(str(error.strerror), code="bad-manifest", where=str(path)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"is not YAML: {text}", code="bad-manifest", where=str(path)) from error
    entries: list[Entry] = []
    for number, document in enumerate(documents):
        if document is not None:
            entries += _entries(document, f"{path}: document {number + 1}", registry)
    return entries


def _entries(document: Any, where: str, registry: Registry) -> Iterator[Entry]:
    if not isinstance(document, dict) or not isinstance(document.get("op"), str):
        raise _bad(where, "is no plugin: it needs op, the plugin's name, and instances")
    instances = document.get("instances")
    if not isinstance(instances, list):
        raise _bad(where, "instances is not a list")
    for number, instance in enumerate(instances):
        place = f"{where}, instance {number + 1}"
        if not isinstance(instance, dict):
            raise _bad(place, "is not a mapping")
        names = {}
        for key in ("inputs", "outputs"):
            given = instance.get(key)
            if not isinstance(given, list) or not all(isinstance(n, str) for n in given):
                raise _bad(place, f"{key} is not a list of tensor names")
            names[key] = tuple(given)
        attributes = instance.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise _bad(place, "attributes is not a mapping")
        if not names["outputs"] or len(set(names["outputs"])) < len(names["outputs"]):
            raise _bad(place, "outputs is empty or names a tensor twice")
        yield Entry(
            f"{document.get('name') or document['op']} #{number + 1}",
            place,
            _definition(document["op"], attributes, registry, place),
            names["inputs"],
            names["outputs"],
            {k: v for k, v in attributes.items() if k not in RESERVED},
        )


def _definition(op: str, attributes: Mapping[str, Any], registry: Registry, where: str) -> PluginDefinition:
    version = str(attributes.get("plugin_version") or "1")
    found = registry.find(op, version)
    if found is None and "plugin_version" not in attributes:
        found = registry.find(op)
    if found is None and op in registry.names():
        raise _bad(where, f"plugin {op} has no version {version!r}")
    if found is None:
        near = difflib.get_close_matches(op, registry.names(), n=3)
        hint = f"did you mean {' or '.join(near)}? Otherwise define it: " if near else "define it: "
        raise ConfigError(
            f"no definition of plugin {op!r}",
            code="no-plugin",
            where=where,
            fix=f"{hint}surgery new plugin {op} --output my_plugins, then --plugin-path my_plugins",
        )
    namespace = attributes.get("plugin_namespace", found.namespace)
    if namespace != found.namespace:
        raise _bad(
            where, f"plugin_namespace is {namespace!r}; the plugin is registered in {found.namespace!r}"
        )
    return found


def _bad(where: str, message: str) -> ConfigError:
    return ConfigError(message, code="bad-manifest", where=where)


def apply_manifest(
    graph: gs.Graph,
    entries: Sequence[Entry],
    registry: Registry,
    provenance: dict[str, dict[str, str]],
    *,
    opset: int,
    original: frozenset[str] = frozenset(),
) -> list[Placed]:
    """Put plugin nodes in the places that a manifest names, in its order; nothing changes if one of them is illegal.

    An entry whose node is there already is left alone, so that a second application changes nothing.

    Args:
        graph: The graph, changed in place; types of its tensors have been inferred.
        entries: What to put in.
        registry: Where the definitions are.
        provenance: Gets the new nodes.
        opset: Default-domain opset of the model.
        original: Names of the tensors of the model as it was given.

    Raises:
        ConversionError: a tensor is not in the graph, a part is not one piece or shares a node with another, a value
            inside it is used outside, the plugin does not take these inputs or attributes, or it computes something
            else.
    """
    from surgery.graph.editor import Editor
    from surgery.graph.view import View

    view = View(graph)
    done = {id(e): node for e in entries if (node := _already(view, e)) is not None}
    cuts = {id(e): _legal_cut(view, e, original) for e in entries if id(e) not in done}
    _check_overlap(view, [e for e in entries if id(e) not in done], cuts)
    models = {id(e): _model(graph, e, opset) for e in entries if id(e) not in done}
    proofs = {id(e): _prove(view, e, cuts[id(e)], models[id(e)], registry) for e in entries if id(e) in cuts}
    placed = []
    for number, entry in enumerate(entries):
        if id(entry) in done:
            placed.append(Placed(entry, (), done[id(entry)], "skipped: it is there already", None))
            continue
        now = View(graph)
        cut = _legal_cut(now, entry, original)
        before = tuple(n.name for n in cut.nodes(now))
        made = Editor(graph, provenance).replace(
            cut, _only(models[id(entry)], cut.outputs), rule=RULE, prefix=f"surgery/{RULE}_{number}"
        )
        proof, error = proofs[id(entry)]
        placed.append(Placed(entry, before, made[0], proof, error))
    return placed


def _already(view: View, entry: Entry) -> str | None:
    """The name of the node that the entry asks for, if the graph has it."""
    keys = {view.producer.get(name) for name in entry.outputs} - {None}
    if len(keys) != 1:
        return None
    node = view.nodes[next(k for k in keys if k is not None)]
    from surgery.plugins.attach import base_name

    same = base_name(node.op) == entry.definition.name and node.domain == PLUGIN_DOMAIN
    return node.name if same and tuple(t.name for t in node.inputs) == entry.inputs else None


def _legal_cut(view: View, entry: Entry, original: frozenset[str]) -> Cut:
    from surgery.graph.cut import cut_by_boundary

    _check_names(view, entry, original)
    try:
        cut = cut_by_boundary(view, entry.label, entry.inputs, entry.outputs)
    except ConfigError as error:
        codes = {"cut-not-convex": "is not one piece: a path leaves it and comes back"}
        message = codes.get(error.code)
        if message is None:
            text = error.message.partition(" also depends on ")[2].partition(",")[0]
            message = f"also depends on {text}, which is not among its inputs"
        raise _illegal(entry, message, "match the plugin again on this model, or name more inputs") from error
    if cut is None or not cut.keys:
        raise _illegal(entry, "holds no node: its outputs are inputs of the model", "correct its outputs")
    inside = {t.name for n in cut.nodes(view) for t in n.outputs}
    escaping = [n for n in cut.outputs if n not in entry.outputs]
    if escaping:
        users = [view.nodes[u].name for u in view.consumers.get(escaping[0], ()) if u not in cut.keys]
        by = f"by {users[0]!r}" if users else "as an output of the model"
        raise _illegal(
            entry,
            f"{escaping[0]!r} is made inside and used outside {by}",
            "the plugin would have to give it too, or the part has to end before it",
        )
    foreign = [n for n in entry.outputs if n not in inside]
    if foreign:
        raise _illegal(entry, f"the output {foreign[0]!r} is not made inside", "correct its outputs")
    after = view.descendants(cut.keys)
    circular = [n for n in entry.inputs if view.producer.get(n) in after or n in inside]
    if circular:
        raise _illegal(entry, f"the input {circular[0]!r} depends on the part itself", "correct its inputs")
    return cut


def _check_names(view: View, entry: Entry, original: frozenset[str]) -> None:
    known = {*view.producer, *view.consumers, *(t.name for t in view.graph.inputs), *view.outputs}
    for name in (*entry.inputs, *entry.outputs):
        if name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), n=3)
        if name in original:
            fix = "an earlier stage removed or renamed it; leave that stage out, or match on its result"
        else:
            fix = "the manifest is of another model" + (f"; near names: {', '.join(near)}" if near else "")
        raise ConversionError(
            f"{entry.label}: tensor {name!r} is not in the graph",
            code="stale-manifest",
            where=entry.where,
            fix=fix,
        )


def _illegal(entry: Entry, message: str, fix: str) -> ConversionError:
    return ConversionError(f"{entry.label}: {message}", code="illegal-manifest", where=entry.where, fix=fix)


def _check_overlap(view: View, entries: Sequence[Entry], cuts: Mapping[int, Cut]) -> None:
    owner: dict[int, Entry] = {}
    for entry in entries:
        for key in cuts[id(entry)].keys:
            if key in owner:
                raise _illegal(
                    entry,
                    f"node {view.nodes[key].name!r} belongs to {owner[key].label} too",
                    "keep one of the two in the manifest",
                )
            owner[key] = entry


def _model(graph: gs.Graph, entry: Entry, opset: int) -> onnx.ModelProto:
    """A model of the plugin node alone, with the entry's tensors as inputs and outputs.

    Raises:
        ConversionError: the plugin does not take these inputs, outputs or attributes.
    """
    import onnx

    definition, tensors = entry.definition, graph.tensors()
    types = [_type(tensors[n], entry) for n in entry.inputs]
    problems = definition.check(entry.attributes, types)
    most = len(definition.file.outputs)
    if len(entry.outputs) > most and not definition.file.outputs[-1].repeated:
        problems.append(f"{len(entry.outputs)} outputs given; it has {most}")
    if problems:
        raise ConversionError(
            f"{entry.label}: {definition.name}: {'; '.join(problems)}",
            code="plugin-configuration",
            where=entry.where,
            fix=definition.show_command,
        )
    node = definition.make_node(definition.name, entry.inputs, entry.outputs, entry.attributes)
    made = definition.output_types(node, types)
    for name, kind in zip(entry.outputs, made, strict=False):
        have = tensors[name].dtype
        if have is not None and np.dtype(have) != np.dtype(kind.dtype):
            raise ConversionError(
                f"{entry.label}: {definition.name} gives {kind.dtype} for {name!r}, which is {np.dtype(have)}",
                code="plugin-configuration",
                where=entry.where,
                fix=f"{definition.show_command} says what it gives",
            )

    def value(name: str, kind: TensorType) -> onnx.ValueInfoProto:
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
        return onnx.helper.make_tensor_value_info(name, element, kind.shape)

    inputs = {n: value(n, t) for n, t in zip(entry.inputs, types, strict=True)}
    outputs = [value(n, t) for n, t in zip(entry.outputs, made, strict=False)]
    body = onnx.helper.make_graph([node], RULE, list(inputs.values()), outputs)
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return onnx.helper.make_model(body, opset_imports=imports, ir_version=8)


def _type(tensor: Any, entry: Entry) -> TensorType:
    if tensor.dtype is None:
        raise _illegal(entry, f"the dtype of {tensor.name!r} is not known", "infer shapes in the model first")
    return TensorType(np.dtype(tensor.dtype).name, None if tensor.shape is None else tuple(tensor.shape))


def _only(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model with those of its outputs that are used; the node keeps the places of the others."""
    kept = [o for o in model.graph.output if o.name in outputs]
    if len(kept) == len(model.graph.output):
        return model
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = copy.graph.node[0]
    for i, name in enumerate(node.output):
        if name not in outputs:
            node.output[i] = f"{name}_unused"
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


def _prove(
    view: View, entry: Entry, cut: Cut, model: onnx.ModelProto, registry: Registry
) -> tuple[str, float | None]:
    """Compare the part with the plugin's body; what to say about it, and the largest difference.

    Raises:
        ConversionError: an output differs, or the body does not cover the node.
    """
    from surgery.graph.convert import extract
    from surgery.graph.evaluate import EvaluationError, Evaluator
    from surgery.plugins.attach import attach_bodies
    from surgery.plugins.successor import (
        DiffersError,
        compare_outputs,
        constants_in,
        sample_feeds,
        sample_shapes,
    )

    node = model.graph.node[0]
    tensors = view.graph.tensors()
    types = [_type(tensors[n], entry) for n in entry.inputs]
    runnable = attach_bodies(model, registry)
    if any(t.shape is None for t in types):
        return "skipped: the rank of an input is not known", None
    outputs = [n for n in cut.outputs if n in entry.outputs]
    worst, cases = 0.0, 0
    try:
        shapes = sample_shapes(entry.definition, types)
        fixed = [TensorType(t.dtype, s) for t, s in zip(types, shapes, strict=True)]
        wanted = dict(zip(entry.inputs, shapes, strict=True))
        part = extract(
            view.graph, cut.nodes(view), cut.inputs, outputs, shapes={**wanted, **dict.fromkeys(outputs)}
        )
        graph_side, plugin_side = Evaluator(part), Evaluator(runnable)
        for feeds in sample_feeds(node, node, entry.definition, fixed, constants_in(tensors, entry.inputs)):
            try:
                want = graph_side.run(feeds)
            except EvaluationError:
                continue
            worst = max(worst, compare_outputs(entry.definition, node, want, plugin_side.run(feeds), outputs))
            cases += 1
            if cases == CASES:
                break
    except EvaluationError as error:
        return f"skipped: {str(error).splitlines()[0]}", None
    except DiffersError as error:
        raise ConversionError(
            f"{entry.label}: {entry.definition.name} computes something else than the nodes it would replace",
            code="manifest-differs",
            where=entry.where,
            cause=str(error),
            fix="check the order of inputs and outputs, and the attributes",
        ) from error
    return ("passed", worst) if cases else ("skipped: no inputs to compare on", None)
