"""What a target has of the plugins, and what would become of a model's plugin nodes there; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import ConversionError
from surgery.plugins.adopt import adopt_plugins, near_plugins, plugin_of, unknown_plugins
from surgery.plugins.attach import ships
from surgery.plugins.migrate import fates, plain_fate, why_lacking
from surgery.plugins.wrong import each_of

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry


KNOWN = 1 << 15
"""Bytes of a constant up to which its value may decide shapes."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a plugin stands on a target.

    Attributes:
        definition: The plugin, in one version.
        state: ``has``, ``deprecated``, ``removed``, ``body`` (it is there, but its nodes are written out) or
            ``lacks``.
        why: In words; "" where the state says it all.
        instead: What computes its nodes there, best first, where it is not simply kept.
    """

    definition: PluginDefinition
    state: str
    why: str
    instead: tuple[str, ...]


def standing(definition: PluginDefinition, registry: Registry, target: TargetVersion) -> Standing:
    """How a plugin stands on a target."""
    newer = _newer(definition, registry, target)
    there = [n for n in definition.file.replaced_by if _has(n, registry, target)]
    instead = (*newer, *there)
    if ships(definition, target):
        if not definition.deprecated(target.flavour, target.version):
            return Standing(definition, "has", "", ())
        entry = definition.availability(target.flavour, target.version)
        since = entry.deprecated if entry is not None else None
        return Standing(definition, "deprecated", f"since {since}", instead)
    gone = definition.removed(target.flavour, target.version)
    if gone:
        return Standing(definition, "removed", f"in {gone}", (*instead, "its body"))
    if definition.availability(target.flavour, target.version) is None:
        return Standing(definition, "lacks", "", (*instead, "its body"))
    return Standing(definition, "body", why_lacking(definition, target), (*instead, "its body"))


def _newer(definition: PluginDefinition, registry: Registry, target: TargetVersion) -> list[str]:
    found = []
    for version in definition.file.also_versions:
        other = registry.find(definition.name, version)
        if other is None or not ships(other, target):
            continue
        if not other.deprecated(target.flavour, target.version):
            found.append(f"version {version}")
    return found[-1:]


def _has(name: str, registry: Registry, target: TargetVersion) -> bool:
    found = registry.find(name)
    return found is not None and ships(found, target)


@dataclass(frozen=True, slots=True)
class Advice:
    """What would become of a plugin node.

    Attributes:
        node: Its name.
        plugin: Its operator type in the model.
        version: The version that it is taken for; "" if it is unknown.
        fate: ``stays``, ``deprecated``, ``becomes ...``, ``is written out``, ``wrong`` or ``unknown``.
        why: The reason, or near names.
    """

    node: str
    plugin: str
    version: str
    fate: str
    why: str


def advise(model: onnx.ModelProto, registry: Registry, target: TargetVersion) -> list[Advice]:
    """What would become of each plugin node of a model, in its order.

    Where a node is wrong or unknown, nothing is known of what comes behind it, so successors are not looked for.

    Args:
        model: As it was loaded.
        registry: Where the definitions are.
        target: Flavour and version of TensorRT.
    """
    unknown = {_place(n) for n in unknown_plugins(model, registry)}
    problems: Sequence[ConversionError] = ()
    if not unknown:
        try:
            adopted, found = adopt_plugins(model, registry)
            ops = {a.node: a.op for a in found}
            return [
                Advice(
                    f.node, ops.get(f.node, f.definition.name), f.definition.version,
                    "deprecated" if f.deprecated else f.verb, f.why,
                )
                for f in fates(adopted, registry, target)
            ]  # fmt: skip
        except ConversionError as error:
            problems = each_of(error)
    return list(_plain(model, registry, target, unknown, problems))


NODE_CODES = frozenset({"plugin-configuration", "plugin-version", "unknown-plugin"})
"""Failures that are about a plugin node alone: no target takes it as it is."""


def wrong_node(model: onnx.ModelProto, registry: Registry) -> ConversionError | None:
    """What is wrong with plugin nodes that are wrong or unknown; None if there is none.

    The same is checked as by a run, without the data of large weights.

    Args:
        model: As it was loaded; large tensors may be without their data.
        registry: Where the definitions are.
    """
    from surgery.graph.skeleton import skeleton

    try:
        adopt_plugins(skeleton(model, KNOWN), registry)
    except ConversionError as error:
        if error.code in NODE_CODES:
            return error
    return None


def _place(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _plain(
    model: onnx.ModelProto,
    registry: Registry,
    target: TargetVersion,
    unknown: set[str],
    problems: Sequence[ConversionError],
) -> Iterator[Advice]:
    from surgery.graph.walk import all_nodes

    for node in all_nodes(model.graph.node):
        name = _place(node)
        if name in unknown:
            near = near_plugins(node.op_type, registry)
            why = f"near names: {', '.join(near)}" if near else "no plugin has a name like it"
            yield Advice(name, node.op_type, "", "unknown", why)
            continue
        try:
            definition = plugin_of(node, model, registry)
        except ConversionError as error:
            yield Advice(name, node.op_type, "", "wrong", error.message)
            continue
        if definition is None:
            continue
        problem = next((p for p in problems if p.node == name), None)
        if problem is not None:
            yield Advice(name, node.op_type, definition.version, "wrong", problem.message)
            continue
        fate = plain_fate(node, definition, target)
        state = "deprecated" if fate.deprecated else fate.verb
        yield Advice(name, node.op_type, definition.version, state, fate.why)
