"""Which function follows the batch through which operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surgery.graph.batch_way import Way

Handler = Callable[[Way, Any, list[int]], None]

HANDLERS: dict[str, Handler] = {}
"""Operator to the function that says where its batch goes: of a way, a node, and the operands that hold samples."""


def handles(*ops: str) -> Callable[[Handler], Handler]:
    """The function is for nodes of these operators."""

    def keep(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, handler))
        return handler

    return keep
