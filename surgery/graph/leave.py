"""Leave to compute less exactly, which a model gives and nothing has to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

INT8, FLOAT32 = 4, 1
"""Values of `accuracy_level`: the least accuracy of the left operand that will do; 0 leaves it open."""


def take_no_leave(model: onnx.ModelProto) -> tuple[str, ...]:
    """Let MatMulNBits compute in float, in place, where it may round its left operand to fewer bits.

    ONNX Runtime takes the leave on processors that gain by it, and its numbers are then off by a part of 256 in a
    way that no other implementation repeats; what the node means is the product.

    Args:
        model: Changed where there is such a node.

    Returns:
        What was done, in words.
    """
    found = []
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for node in all_nodes(nodes):
            if (node.domain, node.op_type) != ("com.microsoft", "MatMulNBits"):
                continue
            for i, attribute in enumerate(node.attribute):
                if attribute.name == "accuracy_level" and FLOAT32 < attribute.i <= INT8:
                    del node.attribute[i]
                    found.append(node.name or node.output[0])
                    break
    if not found:
        return ()
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"{found[0]!r}{more} may round what it multiplies to 8 or 16 bits (accuracy_level); the result does not, "
        "nor does the original that it is compared with",
    )
