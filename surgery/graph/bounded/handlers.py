"""Which function works on which operator behind a padded operand, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.dims import Dim
    from surgery.graph.bounded.work import Bounds

    Handler = Callable[["Bounds", Any], bool]

HANDLERS: dict[str, Handler] = {}
"""Operator to the function that changes a node of it: whether something has been written in its place."""


def on(*ops: str) -> Callable[[Handler], Handler]:
    """The function works on nodes of these operators."""

    def keep(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, handler))
        return handler

    return keep


def lowest(tensor: Any) -> Any:
    """The least finite number of the tensor's dtype."""
    return _ends(tensor).min


def highest(tensor: Any) -> Any:
    """The greatest finite number of the tensor's dtype."""
    return _ends(tensor).max


def least(tensor: Any) -> Any:
    """What the maximum of nothing is: minus infinity, the least whole number, or false."""
    kind = np.dtype(tensor.dtype).kind
    return lowest(tensor) if kind in "iu" else False if kind == "b" else -np.inf


def greatest(tensor: Any) -> Any:
    """What the minimum of nothing is."""
    kind = np.dtype(tensor.dtype).kind
    return highest(tensor) if kind in "iu" else True if kind == "b" else np.inf


def _ends(tensor: Any) -> Any:
    """What numpy knows of a dtype, or of bfloat16 and the like, ml_dtypes."""
    import ml_dtypes

    dtype = np.dtype(tensor.dtype)
    return np.iinfo(dtype) if dtype.kind in "iu" else ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def whole_numbers(bounds: Bounds, node: gs.Node, place: int, attribute: str = "") -> list[int] | None:
    """Whole numbers given as a constant operand or an attribute; None if there are none.

    Raises:
        No: the operand is not constant.
    """
    if attribute and attribute in node.attrs:
        return [int(v) for v in np.asarray(node.attrs[attribute]).reshape(-1)]
    if len(node.inputs) <= place or not node.inputs[place].name:
        return None
    value = bounds.number(node.inputs[place])
    if value is None:
        raise No(f"operand {place} of {node.op} is not constant")
    return [int(v) for v in value.reshape(-1)]


def given(node: gs.Node, place: int) -> bool:
    """Whether the node has that operand."""
    return len(node.inputs) > place and bool(node.inputs[place].name)


def laid_out(bounds: Bounds, node: gs.Node) -> list[Dim | None]:
    """Sizes that a Reshape asks for; None for one that follows from the others.

    Raises:
        No: they are computed from data.
    """
    wanted = bounds.elements(node.inputs[1])
    if wanted is None:
        raise No("the shape of a reshape is computed from data")
    dims = bounds.dims(node.inputs[0])
    found: list[Dim | None] = []
    for axis, dim in enumerate(wanted.reshape(-1)):
        if dim.number == 0 and not node.attrs.get("allowzero", 0):
            found.append(dims[axis])
        else:
            found.append(None if dim.number == -1 else dim)
    return found


def equation_of(node: gs.Node) -> tuple[list[str], str]:
    """Letters of the axes of each operand of an Einsum, and of those of its result.

    Raises:
        No: it leaves axes out.
    """
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    if "->" not in text or "." in text:
        raise No("an Einsum whose equation leaves axes out")
    terms, result = text.split("->")
    return terms.split(","), result


def only_first(bounds: Bounds, node: gs.Node) -> dict[int, Dim]:
    """Padded axes of the first operand.

    Raises:
        No: another operand is padded.
    """
    if any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No(f"a padded operand of {node.op} other than the first")
    return bounds.padded.get(node.inputs[0].name, {})
