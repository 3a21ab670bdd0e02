"""Body of MMCVModulatedDeformConv2d."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.deformable import MMCV_MODULATED
from surgery.plugins.successor import Successor, renamed

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return MMCV_MODULATED.problems(attributes, types) if types else []


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [MMCV_MODULATED.emit(b, node)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """ModulatedDeformConv2d: the same computation, two attributes are named otherwise."""
    a = node.attributes
    names = {"group": a["groups"], "deformable_group": a["deform_groups"]}
    names |= {n: list(a[n]) for n in ("stride", "padding", "dilation")}
    return [renamed(node, "ModulatedDeformConv2d", v, names) for v in ("2", "1")]
