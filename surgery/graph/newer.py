"""A model as the next operator set would write it, for inference alone: onnx follows sizes well from opset 14 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

OLD = (11, 12, 13)
"""Operator sets between which and `NEW` only the place of some operands changes what inference finds."""

NEW = 14
"""The first in which a Reshape to sizes with names has a shape."""

OPERANDS = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}
"""Attributes that became the second operand in opset 13."""

GONE = {"Dropout": ("ratio",)}
"""Attributes that opset 13 does not have, and inference no use for."""


def write_newer(model: onnx.ModelProto) -> bool:
    """Write a model of opset 11 to 13 in opset 14, in place: shapes and types stay, values need not.

    The nodes keep their places, and constants that are added are initializers of the outermost graph.

    Returns:
        Whether it was of such an opset.
    """
    import onnx

    imported = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if imported is None or imported.version not in OLD:
        return False
    imported.version = NEW
    made = 0
    for node in all_nodes(model.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        moved = OPERANDS.get(node.op_type)
        left = []
        for attribute in node.attribute:
            if attribute.name == moved:
                name = f"surgery/newer/{made}"
                made += 1
                model.graph.initializer.append(
                    onnx.helper.make_tensor(
                        name, onnx.TensorProto.INT64, [len(attribute.ints)], attribute.ints
                    )
                )
                node.input.append(name)
            elif attribute.name not in GONE.get(node.op_type, ()):
                left.append(attribute)
        if len(left) != len(node.attribute):
            kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in left]
            del node.attribute[:]
            node.attribute.extend(kept)
    return True
