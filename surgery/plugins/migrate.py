"""Plugin nodes of another TensorRT, or of none, made what a target takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from surgery.plugins.attach import attach_bodies, definition_of, lower_nodes, plugin_nodes, ships

if TYPE_CHECKING:
    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry


@dataclass(frozen=True)
class Fate:
    """What becomes of a plugin node on a target.

    Attributes:
        node: Its name.
        definition: What it is.
        kept: Whether it stays a plugin node.
        why: The reason, in words.
    """

    node: str
    definition: PluginDefinition
    kept: bool
    why: str


def fates(
    model: onnx.ModelProto,
    registry: Registry,
    target: TargetVersion,
    *,
    per_sample: bool = False,
    keep: Collection[str] = (),
) -> list[Fate]:
    """What becomes of each plugin node, in the order of the model.

    Args:
        model: A model whose plugin nodes are in the domain of plugins.
        registry: Where their definitions are.
        target: Flavour and version of TensorRT.
        per_sample: Keep plugins whose interface there declares shapes without the batch dimension.
        keep: Names of plugins that the user has a library of.
    """
    return [
        _fate(node, definition_of(node, registry), target, per_sample, keep)
        for node in plugin_nodes(model.graph)
    ]


def _fate(
    node: onnx.NodeProto,
    definition: PluginDefinition,
    target: TargetVersion,
    per_sample: bool,
    keep: Collection[str],
) -> Fate:
    name, place = node.name or node.output[0], f"{target.flavour} {target.version}"
    if definition.name in keep:
        return Fate(name, definition, True, "kept: a library of yours has it")
    if ships(definition, target, per_sample):
        why = f"{place} has it"
        if definition.deprecated(target.flavour, target.version):
            entry = definition.availability(target.flavour, target.version)
            since = entry.deprecated if entry else "?"
            why += f", deprecated since {since}"
        return Fate(name, definition, True, why)
    if definition.file.never_emitted:
        why = definition.file.never_emitted
    elif definition.availability(target.flavour, target.version) is not None:
        why = f"its interface in {place} declares shapes without the batch"
    else:
        ever = [a for a in definition.file.availability.tensorrt if a.removed]
        gone = f"; removed in {ever[0].removed}" if ever and target.flavour == "tensorrt" else ""
        why = f"{place} does not have it{gone}"
    return Fate(name, definition, False, why)


def write_out(
    model: onnx.ModelProto, registry: Registry, wanted: Callable[[onnx.NodeProto], bool]
) -> onnx.ModelProto:
    """A copy of the model in which some plugin nodes are the standard nodes of their bodies.

    Args:
        model: A model with plugin nodes, with or without bodies attached.
        registry: Where the definitions are.
        wanted: Whether to write a node out.

    Raises:
        ConversionError: a body does not cover its node.
    """
    result = attach_bodies(model, registry)
    functions = {f.name: f for f in result.functions}
    lower_nodes(result.graph, functions, lambda node: None if wanted(node) else node)
    return attach_bodies(result, registry)
