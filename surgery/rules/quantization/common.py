"""Ends, zero points and float forms of quantised operands."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.site import Site

INTEGERS = frozenset({"int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32"})
"""Dtypes that QuantizeLinear and DequantizeLinear have beside floats."""


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Lowest and highest value of a whole-number dtype, those of ml_dtypes too."""
    import ml_dtypes

    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def as_float(site: Site, i: int, b: Body) -> str:
    """Input `i` in float32: a constant is converted here, anything else by a Cast."""
    operand = site.input(i)
    if operand.value is not None:
        return b.const(operand.value.astype(np.float32), np.float32)
    return operand.name if operand.dtype == np.float32 else b.cast(operand.name, np.float32)


def is_zero(site: Site, i: int) -> bool:
    """Whether a zero point is left out or known to be zero."""
    if not site.has(i):
        return True
    value = site.input(i).value
    return value is not None and not np.any(value.astype(np.float32))


def centred(site: Site, i: int, zero: int, b: Body, like: str = "") -> str:
    """Input `i` minus its zero point in float32; `like` is the zero point where it had to be reshaped."""
    value = b.cast(site.x(i), np.float32) if site.input(i).value is None else as_float(site, i, b)
    return value if is_zero(site, zero) else b.sub(value, like or as_float(site, zero, b))
