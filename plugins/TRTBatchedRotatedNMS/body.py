"""Body of TRTBatchedRotatedNMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins import mmdeploy_nms
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.rotated_nms import select_rotated

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return mmdeploy_nms.problems(attributes, types, 5)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    of = mmdeploy_nms.given(b, node, 5)
    axis = 2 if of.shared else 3
    upright, angles = b.slice(of.boxes, axis, 0, 4), b.slice(of.boxes, axis, 4, 5)
    if not of.shared:  # by class, as the suppression lists boxes, without the background
        skipped = node.attributes["background_label_id"]
        spans = ((0, skipped), (skipped + 1, of.classes))
        pieces = [b.slice(angles, 2, lo, hi) for lo, hi in spans if lo < hi]
        kept = b.concat(pieces, 2) if 0 <= skipped < of.classes else angles
        angles = b.reshape(b.transpose(kept, 0, 2, 1, 3), 0, -1, 1)
    select = partial(select_rotated, angles=angles)
    found = mmdeploy_nms.emit_suppression(b, node, of, upright, select)
    return node.function(b, [mmdeploy_nms.emit_dets(b, node, of, found, 5), found.classes])


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """Boxes of rank 3, which all classes share."""
    return mmdeploy_nms.fit_boxes(b, "TRTBatchedRotatedNMS", names, types, 5)
