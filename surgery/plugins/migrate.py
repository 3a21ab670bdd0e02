"""Plugin nodes of another TensorRT, or of none, made what a target takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from surgery.plugins.attach import attach_bodies, definition_of, lower_nodes, plugin_nodes, ships
from surgery.plugins.inline import inline_call
from surgery.plugins.types import tensor_types

if TYPE_CHECKING:
    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry
    from surgery.plugins.successor import Proven


@dataclass(frozen=True)
class Fate:
    """What becomes of a plugin node on a target.

    Attributes:
        node: Its name.
        definition: What it is.
        kept: Whether it stays a plugin node.
        why: The reason, in words.
        deprecated: Whether it stays, but is deprecated there.
        successor: What takes its place, if that is not its body.
        refused: Why other candidates do not take its place.
    """

    node: str
    definition: PluginDefinition
    kept: bool
    why: str
    deprecated: bool = False
    successor: Proven | None = None
    refused: tuple[str, ...] = field(default=())

    @property
    def verb(self) -> str:
        """What happens to it: stays, becomes NAME, is written out."""
        if self.successor is not None:
            return f"becomes {self.successor.successor.name}"
        return "stays" if self.kept else "is written out"


def fates(
    model: onnx.ModelProto,
    registry: Registry,
    target: TargetVersion,
    *,
    per_sample: bool = False,
    keep: Collection[str] = (),
) -> list[Fate]:
    """What becomes of each plugin node, in the order of the model.

    A plugin that the target has stays. One that is deprecated there becomes a newer version of itself if that has
    the same definition. One that the target lacks becomes its successor where one is proven to compute the same,
    and else the standard nodes of its body.

    Args:
        model: A model whose plugin nodes are in the domain of plugins.
        registry: Where their definitions are.
        target: Flavour and version of TensorRT.
        per_sample: Keep plugins whose interface there declares shapes without the batch dimension.
        keep: Names of plugins that the user has a library of.

    Raises:
        ConversionError: a node's configuration is wrong.
    """
    nodes = list(plugin_nodes(model.graph))
    plain = [plain_fate(n, definition_of(n, registry), target, per_sample, keep) for n in nodes]
    moving = [k for k, fate in enumerate(plain) if not fate.kept or fate.deprecated]
    return _with_successors(model, nodes, plain, moving, registry, target) if moving else plain


def _with_successors(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    plain: list[Fate],
    moving: list[int],
    registry: Registry,
    target: TargetVersion,
) -> list[Fate]:
    from dataclasses import replace

    from surgery.plugins.successor import constants_of, find_successor, newer_version

    types = tensor_types(model, registry)
    opset = next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
    constants = constants_of(model.graph, {i for k in moving for i in nodes[k].input})
    result = list(plain)
    known: dict[tuple[object, ...], tuple[Proven | None, list[str]]] = {}
    for k in moving:
        node, fate = nodes[k], plain[k]
        given = [types.get(i) if i else None for i in node.input]
        refused: list[str] = []
        if fate.kept:
            found = newer_version(node, fate.definition, registry, target, opset)
        elif any(i and t is None for i, t in zip(node.input, given, strict=True)):
            continue
        else:
            key = (
                node.op_type,
                *sorted(a.SerializeToString() for a in node.attribute),
                *given,
                len(node.output),
            )
            if key in known:
                found, refused = known[key]
                found = replace(found, sampled=bool(found.cases)) if found is not None else None
            else:
                found, refused = known[key] = find_successor(
                    node, fate.definition, given, registry, target, opset=opset, constants=constants
                )
        result[k] = replace(
            fate, successor=found, kept=fate.kept and found is None, refused=tuple(refused),
            deprecated=fate.deprecated and found is None,
        )  # fmt: skip
    return result


def plain_fate(
    node: onnx.NodeProto,
    definition: PluginDefinition,
    target: TargetVersion,
    per_sample: bool = False,
    keep: Collection[str] = (),
) -> Fate:
    """What becomes of a node as far as the target decides it, successors left aside."""
    name, place = node.name or node.output[0], f"{target.flavour} {target.version}"
    if definition.name in keep:
        return Fate(name, definition, True, "kept: a library of yours has it")
    if ships(definition, target, per_sample):
        why = f"{place} has it"
        deprecated = definition.deprecated(target.flavour, target.version)
        if deprecated:
            entry = definition.availability(target.flavour, target.version)
            since = entry.deprecated if entry else "?"
            why += f", deprecated since {since}"
        return Fate(name, definition, True, why, deprecated)
    return Fate(name, definition, False, why_lacking(definition, target))


def why_lacking(definition: PluginDefinition, target: TargetVersion) -> str:
    """Why nodes of a plugin cannot stay on a target that does not ship it for explicit-batch networks."""
    place = f"{target.flavour} {target.version}"
    if definition.file.never_emitted:
        return definition.file.never_emitted
    if definition.availability(target.flavour, target.version) is not None:
        return f"its interface in {place} declares shapes without the batch"
    gone = definition.removed(target.flavour, target.version)
    return f"{place} does not have it" + (f"; removed in {gone}" if gone else "")


def write_out(
    model: onnx.ModelProto,
    registry: Registry,
    wanted: Callable[[onnx.NodeProto], bool | onnx.FunctionProto],
) -> onnx.ModelProto:
    """A copy of the model in which some plugin nodes are other nodes.

    Args:
        model: A model with plugin nodes, with or without bodies attached.
        registry: Where the definitions are.
        wanted: What becomes of a node: True writes its body out, False leaves it, a function is put in its place.

    Raises:
        ConversionError: a body does not cover its node.
    """
    result = attach_bodies(model, registry)
    functions = {f.name: f for f in result.functions}

    def placed(node: onnx.NodeProto) -> onnx.NodeProto | list[onnx.NodeProto] | None:
        choice = wanted(node)
        if isinstance(choice, onnx.FunctionProto):
            return inline_call(node, choice)
        return None if choice else node

    lower_nodes(result.graph, functions, placed)
    return attach_bodies(result, registry)
