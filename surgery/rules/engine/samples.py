"""Random values for the inputs of a cut, of the right kind for what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.rules.engine.site import Operand, Site

INDICES = frozenset({"indices", "target", "labels", "index", "ids", "batch_indices", "input_ids"})
"""Names that operator schemas give to operands which index another one."""


def sample_feeds(
    site: Site, seed: int, cases: int, given: Mapping[str, Any] | None = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Values for the site's inputs that are not constant.

    Whole numbers are tried in several ranges, because what they mean decides which of them the node takes.
    Dims that are not known get small sizes, equal names equal sizes.

    Args:
        site: The node.
        seed: Seed.
        cases: Cases per range.
        given: Values, or (low, high), for some inputs by name.
    """
    formal = _formal_names(site)
    operands: dict[str, tuple[Operand, str]] = {}
    for i, operand in enumerate(site.inputs):
        if operand is not None and operand.value is None:
            operands.setdefault(operand.name, (operand, formal[min(i, len(formal) - 1)] if formal else ""))
    for attempt, (low, high) in enumerate(((0, 0), (0, 10), (0, 2), (1, 3), (0, 1), (1, 2))):
        for case in range(cases):
            rng = np.random.default_rng([seed, attempt, case])
            feeds = {}
            for name, (operand, meaning) in operands.items():
                hint = (given or {}).get(name)
                feeds[name] = _value(operand, meaning, hint, (low, high), site, rng)
            yield feeds


def _formal_names(site: Site) -> list[str]:
    import onnx

    try:
        schema = onnx.defs.get_schema(site.op, site.opset, site.domain)
    except onnx.defs.SchemaError:
        return []
    return [str(i.name).lower() for i in schema.inputs]


def _value(
    operand: Operand, meaning: str, hint: Any, span: tuple[int, int], site: Site, rng: np.random.Generator
) -> NDArray[Any]:
    dtype = np.dtype(operand.dtype) if operand.dtype is not None else np.dtype(np.float32)
    shape = [_size(d) for d in operand.shape or ()]
    if hint is not None and not (isinstance(hint, tuple) and len(hint) == 2):
        return np.asarray(hint, dtype)
    if hint is not None:
        low, high = hint
        if dtype.kind in "iu":
            return rng.integers(low, high, shape).astype(dtype)
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = span
        if high <= low:  # the first attempt: what the name says
            low, high = _meant(meaning, dtype, site)
        return rng.integers(low, high, shape).astype(dtype)
    return np.asarray(rng.normal(0, 1, shape)).astype(dtype)


def _meant(meaning: str, dtype: np.dtype[Any], site: Site) -> tuple[int, int]:
    first = site.inputs[0]
    if meaning in INDICES and first is not None and first.shape:
        return 0, max(1, min(_size(d) for d in first.shape))
    if meaning in ("axis", "axes") and first is not None and first.shape is not None:
        return 0, max(1, len(first.shape))
    if site.domain:
        # Contributed kernels trust masks, lengths and positions: values beyond what they mean end the process.
        return 0, 2
    info = np.iinfo(dtype)
    return max(int(info.min), -100), min(int(info.max), 100)


def _size(dim: Any) -> int:
    if isinstance(dim, int):
        return dim
    return 2 + sum(map(ord, dim)) % 3 if isinstance(dim, str) and dim else 3
