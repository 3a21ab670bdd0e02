"""Why TensorRT refused: the class of failure that fits its messages and the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from surgery.trt.types import ParserMessage


@dataclass(frozen=True, slots=True)
class Because:
    """A class of failures in words for an error.

    Attributes:
        id: The class, None if none fits.
        cause: The class and its cause, with what TensorRT said.
        fix: The best way out, or None.
        node: Node concerned, where found.
    """

    id: str | None
    cause: str
    fix: str | None
    node: str | None


def because(
    messages: Sequence[ParserMessage | str],
    model: onnx.ModelProto | None,
    *,
    op: str | None = None,
    node: str | None = None,
) -> Because:
    """The best fitting class for what TensorRT said about a model."""
    from surgery.diagnose.classify import classify
    from surgery.diagnose.grouping import without_machine
    from surgery.trt.types import ParserMessage

    first = messages[0] if messages else None
    if isinstance(first, ParserMessage):
        said = f"{first.code} in {first.function}: {first.description}"
    else:
        said = first or "nothing"
    said = without_machine(said)
    found = classify(messages, op=op, node=node, model=model)
    if not found:
        return Because(None, said, None, node)
    best = found[0]
    fix = best.fixes[0].text if best.fixes else None
    return Because(best.id, f"[{best.id}] {best.cause} TensorRT said: {said}", fix, best.node or node)
