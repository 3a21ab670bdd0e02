"""Conversion of a model to a newer operator set, by onnx's own converter and with what that one gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.spelling import drop_untyped
from surgery.graph.walk import all_graphs

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def upgrade(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in a newer version of the default operator set.

    onnx's converter leaves Upsample and the first Resize (opsets 7 to 10) with the coordinates and the rounding that
    later versions take where nothing is said; both lay pixels by `asymmetric`, and ONNX Runtime rounds down along
    axes that grow and up along axes that shrink.

    Raises:
        ValueError: a Resize cannot be told in the newer version.
        RuntimeError: the converter has no way for an operator; it raises others too, none of them documented.
    """
    import onnx
    import onnx.version_converter

    before = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), opset)
    converted = onnx.version_converter.convert_version(model, opset)
    for graph in all_graphs(converted.graph):
        drop_untyped(graph)  # the converter declares tensors that it adds without a type
    if before < 11 <= opset:
        for graph in all_graphs(converted.graph):
            values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 1}
            for node in graph.node:
                if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                    values[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
                if node.op_type == "Resize":
                    _say(node, values.get(node.input[2]), grows=before < 10)
    return converted


def _say(node: onnx.NodeProto, scales: NDArray[np.float32] | None, *, grows: bool) -> None:
    """Coordinates and rounding of a Resize as they were before opset 11; Upsample has no scales below 1."""
    import onnx

    said = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    linear = any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    if not linear and not grows:
        if scales is None:
            raise ValueError(f"whether {node.name or node.output[0]!r} grows or shrinks is not known")
        if (scales < 1).any():
            if (scales > 1).any():
                raise ValueError(
                    f"{node.name or node.output[0]!r} grows along one axis and shrinks along another"
                )
            said["nearest_mode"] = "ceil"
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in said.items())
