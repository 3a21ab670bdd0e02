"""Ranges of shapes as people write them: ``1x3x224x224``, or minimum, optimum and maximum with ``:`` between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from surgery.errors import ConfigError

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]


def read_range(text: str) -> Range | None:
    """Minimum, optimum and maximum; one shape stands for all three. None if the text is something else."""
    parts = [_dims(p) for p in text.split(":")]
    if len(parts) not in (1, 3) or None in parts:
        return None
    shapes = [p for p in parts if p is not None]
    low, best, high = shapes if len(shapes) == 3 else shapes * 3
    return low, best, high


def _dims(text: str) -> Shape | None:
    if text.strip() in ("", "scalar"):
        return () if text.strip() else None
    if not re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+)*\s*", text):
        return None
    return tuple(int(d) for d in re.split(r"[x,]", text))


def range_text(shapes: Iterable[Sequence[int]]) -> str:
    """Minimum, optimum and maximum as :func:`read_range` reads them; one shape where all are the same."""
    parts = ["x".join(map(str, shape)) or "scalar" for shape in shapes]
    return parts[0] if len(set(parts)) == 1 else ":".join(parts)


def as_range(name: str, value: Any) -> Range:
    """The range that a caller of :func:`surgery.run` gives for an input.

    Args:
        name: The input.
        value: A text as :func:`read_range` takes it, one shape, or three of them.

    Raises:
        ConfigError: it is something else.
    """
    found = read_range(value) if isinstance(value, str) else None
    if not isinstance(value, str) and isinstance(value, Sequence):
        if all(_whole(d) for d in value):
            shape = tuple(int(d) for d in value)
            found = (shape, shape, shape)
        elif len(value) == 3 and all(isinstance(s, Sequence) and all(map(_whole, s)) for s in value):
            low, best, high = (tuple(int(d) for d in s) for s in value)
            found = (low, best, high)
    if found is None:
        raise ConfigError(
            f"expected a shape or (minimum, optimum, maximum), got {value!r}",
            code="bad-shape",
            where=f"shapes[{name!r}]",
            fix="give '1x3x224x224', (1, 3, 224, 224), '1x3x224x224:4x3x224x224:8x3x224x224', or three shapes",
        )
    return found


def _whole(value: Any) -> bool:
    return not isinstance(value, (bool, str)) and hasattr(value, "__index__")
