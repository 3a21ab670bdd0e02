"""Body of TRTBatchedNMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins import mmdeploy_nms
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted

if TYPE_CHECKING:
    import onnx


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return mmdeploy_nms.problems(attributes, types, 4)


def output_types(node: ConfiguredNode) -> list[TensorType]:
    """Types of the outputs; the third one is there only with return_index."""
    if node.outputs > 2 and not node.attributes["return_index"]:
        raise node.refuse("three outputs, but return_index is 0")
    given = node.inputs[1] or node.inputs[0]
    batch = given.shape[0] if given is not None and given.shape else None
    rows = node.attributes["keep_topk"]
    types = [TensorType("float32", (batch, rows, 5)), *[TensorType("int32", (batch, rows))] * 2]
    return types[: node.outputs]


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, mmdeploy_nms.emit_upright(b, node))


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """Boxes of rank 3, which all classes share."""
    return mmdeploy_nms.fit_boxes(b, "TRTBatchedNMS", names, types, 4)
