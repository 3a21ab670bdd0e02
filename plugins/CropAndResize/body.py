"""Body of CropAndResize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.roi_sampling import emit_crops
from surgery.plugins.successor import Successor, renamed

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_crops(b, node)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """CropAndResizeDynamic."""
    return [renamed(node, "CropAndResizeDynamic", v, dict(node.attributes)) for v in ("2", "1")]
