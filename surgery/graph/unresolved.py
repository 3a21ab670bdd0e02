"""Why a node stays that no TensorRT runs as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A node that no TensorRT runs as it stands and that could not be resolved.

    Attributes:
        node: Its name.
        op: Its operator.
        tensor: Operand that decides it and is not known, or "".
        reason: What stands in the way.
        known_as: Class of failures in the catalogue of `surgery explain`, or "".
        fix: What would help, or "".
        by_size: Whether the size of that operand is what is not known, and not its values.
    """

    node: str
    op: str
    tensor: str
    reason: str
    known_as: str = ""
    fix: str = ""
    by_size: bool = False


def missed(node: gs.Node, reason: str, operand: int | None = None, known_as: str = "") -> Unresolved:
    """What is said of a node.

    Args:
        node: The node.
        reason: What stands in the way.
        operand: Place of the operand that decides it.
        known_as: Class of failures in the catalogue of `surgery explain`.
    """
    tensor = node.inputs[operand].name if operand is not None else ""
    return Unresolved(node.name or node.outputs[0].name, node.op, tensor, reason, known_as)
