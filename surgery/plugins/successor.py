"""Successors: other nodes of a target that compute what a plugin node computes, and the proof that they do.

A definition's body.py may have a function ``successor(node, target) -> list[Successor | str]``: candidates, best
first, written with `call` for plugin nodes and `Body` for standard ones, or why there is none. One is used only if
the target has every node of it and if it gives what the plugin's body gives, on inputs like those of the plugin's
samples, in ONNX Runtime.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import SurgeryError
from surgery.graph.walk import all_nodes
from surgery.plugins.attach import attach_bodies, base_name, ships
from surgery.plugins.definition import PLUGIN_DOMAIN, ConfiguredNode, TensorType, node_attributes
from surgery.plugins.inline import inline_call
from surgery.plugins.schema import CompareDetections, CompareRows, CompareValues, SampleInput, version_key

if TYPE_CHECKING:
    from surgery.graph.body import Body
    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry

Array = NDArray[Any]

CASES = 4
"""Inputs that a candidate is tried on."""

LARGE = 4_000_000
"""Numbers in all inputs above which one case has to do: the bodies of convolutions take long on a CPU."""

TOLERANCE = 1e-5
"""Relative and absolute, where a definition does not say how its outputs compare element by element."""

OPEN_BATCH = 2
"""Images in the place of an open batch."""


@dataclass(frozen=True, slots=True)
class Successor:
    """What could take a plugin node's place.

    Attributes:
        name: What it is, for people: ``EfficientNMS_TRT version 1``.
        function: Inputs and outputs are those of the plugin's body; nodes are standard ones, or plugin nodes.
        assumptions: In which cases the kernel may differ from what was proven.
    """

    name: str
    function: onnx.FunctionProto
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proven:
    """A successor that computes the same.

    Attributes:
        successor: What takes the node's place.
        cases: Number of inputs that both were run on; 0 where both have the same definition.
        max_abs_error: Largest difference of an output, None without cases.
        sampled: Whether it was another node, with the same attributes and types, that both were run on.
    """

    successor: Successor
    cases: int
    max_abs_error: float | None
    sampled: bool = False


def call(
    b: Body, plugin: str, inputs: Sequence[str], outputs: int = 1, *, version: str = "1", **attributes: Any
) -> tuple[str, ...]:
    """Append a plugin node to a body and return the names of its outputs."""
    names = tuple(b.fresh(plugin) for _ in range(outputs))
    node = onnx.helper.make_node(plugin, list(inputs), names, name=f"n_{names[0]}", domain=PLUGIN_DOMAIN)
    fields = {**attributes, "plugin_version": version, "plugin_namespace": ""}
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in fields.items())
    b.nodes.append(node)
    return names


def just_above(value: float) -> float:
    """The next float32 above: to be at least that is to be greater than `value`."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def just_below(value: float) -> float:
    """The next float32 below: to be greater than that is to be at least `value`."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def find_successor(
    node: onnx.NodeProto,
    definition: PluginDefinition,
    types: Sequence[TensorType | None],
    registry: Registry,
    target: TargetVersion,
    *,
    opset: int,
    constants: Mapping[str, Array] | None = None,
) -> tuple[Proven | None, list[str]]:
    """The best candidate that the target has and that is proven.

    Args:
        node: A plugin node.
        definition: What it is.
        types: Types of its inputs.
        registry: Where the definitions of the candidates' plugins are.
        target: Flavour and version of TensorRT.
        opset: Default-domain opset of the model.
        constants: Values of inputs that are constants, by name.

    Returns:
        The successor, or None; and why each other candidate was not taken.
    """
    newer = newer_version(node, definition, registry, target, opset)
    if newer is not None:
        return newer, []
    reasons: list[str] = []
    if not definition.has_successors:
        return None, reasons
    configured = definition.configure(node, types, opset=opset)
    for candidate in definition.successors(configured, target):
        if isinstance(candidate, str):
            reasons.append(candidate)
            continue
        missing = _missing(candidate.function, registry, target)
        if missing is not None:
            reasons.append(f"{candidate.name}: {target.flavour} {target.version} lacks {missing}")
            continue
        try:
            cases, error = prove(node, definition, candidate, types, registry, opset, constants or {})
        except (SurgeryError, DiffersError) as problem:
            reasons.append(f"{candidate.name} is not proven: {problem}")
            continue
        return Proven(candidate, cases, error), reasons
    return None, reasons


def newer_version(
    node: onnx.NodeProto,
    definition: PluginDefinition,
    registry: Registry,
    target: TargetVersion,
    opset: int,
) -> Proven | None:
    """The node under the newest version of its definition that the target has and that is not deprecated there.

    Nothing is run: versions share a definition because they have the same attributes, types and computation.
    """
    for version in sorted(definition.file.also_versions, key=version_key, reverse=True):
        other = registry.find(definition.name, version)
        if other is None or other.folder != definition.folder:
            continue
        if ships(other, target) and not other.deprecated(target.flavour, target.version):
            return Proven(_same(node, definition, other, opset), 0, None)
    return None


def _same(
    node: onnx.NodeProto, definition: PluginDefinition, other: PluginDefinition, opset: int
) -> Successor:
    """The node under another version of its definition."""
    names = [i.name for i in definition.declared_inputs(len(node.input))]
    outputs = [f"out_{i}" for i in range(len(node.output))]
    made = onnx.helper.make_node(other.name, names, outputs, name=other.name, domain=PLUGIN_DOMAIN)
    for attribute in node.attribute:
        if attribute.name not in ("plugin_version", "plugin_namespace"):
            made.attribute.append(attribute)
    made.attribute.append(onnx.helper.make_attribute("plugin_version", other.version))
    made.attribute.append(onnx.helper.make_attribute("plugin_namespace", other.namespace))
    imports = [onnx.helper.make_opsetid("", opset)]
    function = onnx.helper.make_function(PLUGIN_DOMAIN, other.name, names, outputs, [made], imports)
    return Successor(f"{other.name} version {other.version}", function)


def constants_of(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, Array]:
    """Values of those tensors that are constants in this model, as far as their data is in it."""
    found = {}
    for tensor in graph.initializer:
        if tensor.name in names and tensor.data_location != onnx.TensorProto.EXTERNAL:
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in names:
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None and value.data_location != onnx.TensorProto.EXTERNAL:
                found[node.output[0]] = onnx.numpy_helper.to_array(value)
    given = {i.name for i in graph.input}
    return {n: v for n, v in found.items() if n not in given}


def constants_in(tensors: Mapping[str, Any], names: Sequence[str]) -> dict[str, Array]:
    """Values of those tensors of a graph that are constants, by name."""
    import onnx_graphsurgeon as gs

    found = {}
    for name in names:
        tensor = tensors[name]
        if isinstance(tensor, gs.Constant):
            found[name] = np.asarray(tensor.values)
    return found


def _missing(function: onnx.FunctionProto, registry: Registry, target: TargetVersion) -> str | None:
    """The first node that the target does not have; None if it has all."""
    from surgery.targets import resolve_target

    table = resolve_target(f"{target.flavour}-{target.version}")
    for node in all_nodes(function.node):
        if node.domain == PLUGIN_DOMAIN:
            version = str(node_attributes(node).get("plugin_version", "1"))
            found = registry.find(base_name(node.op_type), version)
            if found is None or not ships(found, target):
                return f"{node.op_type} version {version}"
        else:
            entry = table.operator(node.op_type)
            if entry is not None and not entry.supported:
                return node.op_type
    return None


class DiffersError(Exception):
    """A candidate computes something else; the text says what."""


def prove(
    node: onnx.NodeProto,
    definition: PluginDefinition,
    candidate: Successor,
    types: Sequence[TensorType | None],
    registry: Registry,
    opset: int,
    constants: Mapping[str, Array],
) -> tuple[int, float]:
    """Run the plugin's body and the candidate on the same inputs.

    Returns:
        The number of cases and the largest absolute difference.

    Raises:
        ConversionError: the candidate's plugin nodes do not take these inputs or attributes.
        DiffersError: an output differs, or nothing can be run.
    """
    from surgery.graph.evaluate import EvaluationError, Evaluator

    plain = _bare_names(node)
    worst = 0.0
    # A model that declares what the graph does has to be right too: open dims stay open there.
    attach_bodies(_model(_inlined(plain, candidate), plain, definition, types, opset), registry)
    shapes = sample_shapes(definition, types)
    try:
        fixed = [None if t is None else TensorType(t.dtype, s) for t, s in zip(types, shapes, strict=True)]
        models = [
            attach_bodies(_model(nodes, plain, definition, fixed, opset), registry)
            for nodes in ([plain], _inlined(plain, candidate))
        ]
        body, other = (Evaluator(m) for m in models)
        outputs = [o for o in plain.output if o]
        cases = 0
        for feeds in sample_feeds(node, plain, definition, fixed, constants):
            try:
                wanted = body.run(feeds)
            except EvaluationError:
                continue  # values of that sample make no sense in these shapes (images that are not there)
            worst = max(worst, compare_outputs(definition, plain, wanted, other.run(feeds), outputs))
            cases += 1
            if cases == CASES or sum(v.size for v in feeds.values()) > LARGE:
                break
    except EvaluationError as error:
        raise DiffersError(f"ONNX Runtime does not run it: {str(error).splitlines()[0]}") from error
    if not cases:
        raise DiffersError("the plugin's samples have no values for these inputs")
    return cases, worst


def _bare_names(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node alone, with inputs of names of their own."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.op_type = base_name(copy.op_type)
    for i, name in enumerate(copy.input):
        copy.input[i] = f"in_{i}" if name else ""
    for i, name in enumerate(copy.output):
        copy.output[i] = f"result_{i}" if name else ""
    return copy


def _inlined(node: onnx.NodeProto, candidate: Successor) -> list[onnx.NodeProto]:
    return inline_call(node, candidate.function)


def _model(
    nodes: Sequence[onnx.NodeProto],
    node: onnx.NodeProto,
    definition: PluginDefinition,
    types: Sequence[TensorType | None],
    opset: int,
) -> onnx.ModelProto:
    def value(name: str, kind: TensorType) -> onnx.ValueInfoProto:
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
        return onnx.helper.make_tensor_value_info(name, element, kind.shape)

    inputs = [value(n, t) for n, t in zip(node.input, types, strict=True) if n and t is not None]
    made = definition.output_types(node, types)
    outputs = [value(n, t) for n, t in zip(node.output, made, strict=False) if n]
    graph = onnx.helper.make_graph(list(nodes), "successor", inputs, outputs)
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def sample_shapes(
    definition: PluginDefinition, types: Sequence[TensorType | None]
) -> list[tuple[int, ...] | None]:
    """Numbers for every dim; an open one is the batch, or as large as in a sample."""
    sample = next((s for s in definition.samples if len(s.inputs) == len(types)), None)
    given: dict[str, int] = {}
    result: list[tuple[int, ...] | None] = []
    for at, kind in enumerate(types):
        if kind is None:
            result.append(None)
            continue
        if kind.shape is None:
            raise DiffersError(f"the rank of input {at} is not known")
        dims = []
        for axis, dim in enumerate(kind.shape):
            if isinstance(dim, int):
                dims.append(dim)
                continue
            like = sample.inputs[at].shape if sample else ()
            free = like[axis] if axis < len(like) and len(like) == len(kind.shape) else 4
            free = OPEN_BATCH if axis == 0 and len(kind.shape) > 2 else free
            dims.append(given.setdefault(dim, free) if isinstance(dim, str) else free)
        result.append(tuple(dims))
    return result


def sample_feeds(
    node: onnx.NodeProto,
    plain: onnx.NodeProto,
    definition: PluginDefinition,
    types: Sequence[TensorType | None],
    constants: Mapping[str, Array],
) -> Iterator[dict[str, Array]]:
    """Inputs like those of the samples, in the shapes of the node, sample after sample, each with several seeds."""
    ranks = [len(t.shape or ()) if t else 0 for t in types]
    same = [s for s in definition.samples if len(s.inputs) == len(types)]
    alike = [s for s in same if [len(i.shape) for i in s.inputs] == ranks] or same
    for seed in range(CASES):
        for sample in alike:
            feeds: dict[str, Array] = {}
            for at, (name, kind) in enumerate(zip(plain.input, types, strict=True)):
                if name and kind is not None:
                    given = constants.get(node.input[at])
                    text = f"{definition.name}/{sample.name}/{at}/{seed}"
                    value = given if given is not None else _filled(sample.inputs[at], kind, text)
                    if value is None:
                        break
                    feeds[name] = value
            else:
                yield feeds


def _filled(like: SampleInput, kind: TensorType, seed: str) -> Array | None:
    """An array as the sample describes it, of that shape and dtype; None if that cannot be."""
    from surgery.plugins.samples import filled

    if like.values is not None:
        return np.asarray(like.values, kind.dtype) if np.shape(like.values) == kind.shape else None
    # Equal scores are left out: which of them comes first is no difference.
    wanted = like.model_copy(update={"shape": kind.shape, "dtype": kind.dtype, "levels": None})
    try:
        value: Array = filled(wanted, zlib.crc32(seed.encode())).astype(kind.dtype)
    except (ValueError, IndexError):
        return None
    return value if value.shape == kind.shape else None


def compare_outputs(
    definition: PluginDefinition,
    node: onnx.NodeProto,
    wanted: Mapping[str, Array],
    found: Mapping[str, Array],
    outputs: Sequence[str],
) -> float:
    """The largest difference.

    Raises:
        DiffersError: it is more than the definition allows.
    """
    how = definition.file.compare
    roles = {o.name: n for o, n in zip(definition.file.outputs, node.output, strict=False)}
    tolerance = (how.atol, how.rtol) if isinstance(how, CompareValues) else (TOLERANCE, TOLERANCE)
    if isinstance(how, CompareDetections):
        wanted, found = (_sorted_detections(how, roles, o) for o in (wanted, found))
    elif isinstance(how, CompareRows):
        wanted, found = (_sorted_rows(how, roles, o) for o in (wanted, found))
    worst = 0.0
    for name in outputs:
        a, b = wanted[name], found[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise DiffersError(f"an output is {b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}")
        if not np.allclose(b, a, atol=tolerance[0], rtol=tolerance[1], equal_nan=True):
            apart = np.abs(np.nan_to_num(b.astype(np.float64) - a.astype(np.float64)))
            raise DiffersError(f"output {node.output[:].index(name)} differs by up to {apart.max():g}")
        if a.size:
            worst = max(worst, float(np.abs(np.nan_to_num(b.astype(np.float64) - a)).max()))
    return worst


def _sorted_detections(
    how: CompareDetections, roles: Mapping[str, str], outputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Detections of an image in the order of score, class and box: among equal scores any order is right."""
    result = dict(outputs)
    if how.packed is not None:
        name = roles[how.packed]
        rows = outputs[name].reshape(-1, *outputs[name].shape[-2:])
        keys = [[tuple(np.r_[-r[2], r[1], r[3:]]) for r in image] for image in rows]
        orders = [sorted(range(len(k)), key=k.__getitem__) for k in keys]
        ordered = np.stack([image[o] for image, o in zip(rows, orders, strict=True)])
        result[name] = ordered.reshape(outputs[name].shape)
        return result
    wanted = (roles.get(r) for r in (how.scores, how.classes, how.boxes) if r is not None)
    names = [n for n in wanted if n is not None and n in outputs]
    if not names:
        return result
    images = outputs[names[0]].shape[0]
    for image in range(images):
        columns = [outputs[n][image].reshape(outputs[n].shape[1], -1) for n in names]
        key = np.concatenate([-columns[0], *columns[1:]], axis=1)
        order = np.lexsort(key.T[::-1])
        for name in names:
            value = result[name] = np.array(result[name])
            value[image] = outputs[name][image][order]
    return result


def _sorted_rows(
    how: CompareRows, roles: Mapping[str, str], outputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Rows of an image that count, sorted; the others are 0."""
    rows, counts = np.array(outputs[roles[how.rows]]), outputs[roles[how.count]].reshape(-1)
    for image, count in enumerate(counts):
        kept = rows[image, : int(count)]
        rows[image, : int(count)] = kept[np.lexsort(kept.reshape(len(kept), -1).T[::-1])]
        rows[image, int(count) :] = 0
    return {**outputs, roles[how.rows]: rows}


def renamed(
    node: ConfiguredNode,
    plugin: str,
    version: str,
    attributes: Mapping[str, Any],
    *,
    outputs: int | None = None,
    assumptions: Sequence[str] = (),
) -> Successor:
    """Another plugin with the same inputs and outputs."""
    from surgery.graph.body import Body

    b = Body(node.opset)
    made = call(b, plugin, node.input_names, outputs or node.outputs, version=version, **attributes)
    return Successor(f"{plugin} version {version}", node.function(b, made), tuple(assumptions))
