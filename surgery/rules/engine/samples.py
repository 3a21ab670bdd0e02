"""Random values for the inputs of a cut, of the right kind for what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.operands import Call, draw_operands

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.rules.engine.site import Operand, Site

INDICES = frozenset({"indices", "target", "labels", "index", "ids", "batch_indices", "input_ids"})
"""Names that operator schemas give to operands which index another one."""


ATTEMPTS = 256
"""Draws at most, until the node runs on enough of them; the first almost always suffices."""

SPANS = ((0, 10), (0, 2), (1, 3), (0, 1), (1, 2), (-2, 0), (0, 4), (2, 5), (-3, 3), (0, 3), (0, 6))
FLOAT_SPANS = ((0.0, 1.0), (1.0, 2.0), (0.3, 0.7), (2.0, 3.0))

SAME_SHAPE = {"ScatterElements": (1, 2), "Scatter": (1, 2)}
"""Operators of which two operands have one shape."""

SAME_DIMS = {"NonMaxSuppression": (0, 1, {0: 0, 2: 1})}
"""Operators of which dims of an operand are dims of another: the operand, the other, and axis to axis."""

SMALL = 8
"""Operands of at most so many numbers may be axes, sizes, scales or thresholds."""


def sample_feeds(
    site: Site, seed: int, cases: int, given: Mapping[str, Any] | None = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Values for the site's inputs that are not constant.

    Whole numbers are drawn from several ranges, because what they mean decides which of them the node takes: the
    range that the operand's name suggests, then one for all, then one for each. Short lists of numbers have no
    number twice where the range allows (they may be axes). Dims that are not known get small sizes, equal names
    equal sizes.

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
    if site.op in SAME_SHAPE:
        # Names of dims differ where exporters wrote the same product in two ways.
        like, other = (site.inputs[i] for i in SAME_SHAPE[site.op])
        if like is not None and other is not None and other.name in operands and like.shape is not None:
            operands[other.name] = (replace(other, shape=like.shape), operands[other.name][1])
    if site.op in SAME_DIMS:
        first, second, axes = SAME_DIMS[site.op]
        like, other = site.inputs[first], site.inputs[second]
        if like is not None and other is not None and other.name in operands and like.shape and other.shape:
            shape = tuple(
                like.shape[axes[a]] if a in axes and not isinstance(d, int) else d
                for a, d in enumerate(other.shape)
            )
            operands[other.name] = (replace(other, shape=shape), operands[other.name][1])
    open_ones = [n for n, (o, _) in operands.items() if n not in (given or {}) and _open(o)]
    for attempt in range(ATTEMPTS if open_ones else 1):
        for case in range(cases):
            rng = np.random.default_rng([seed, attempt, case])
            spans: dict[str, Any] = {}
            for name in open_ones if attempt else ():
                choices = FLOAT_SPANS if _float(operands[name][0]) else SPANS
                place = attempt - 1 if attempt <= len(SPANS) else int(rng.integers(len(choices)))
                spans[name] = choices[place % len(choices)]
            feeds = {
                name: _value(operand, meaning, (given or {}).get(name), spans.get(name), site, rng)
                for name, (operand, meaning) in operands.items()
            }
            yield {**feeds, **_structural(site, operands, given or {}, rng)}


def _structural(
    site: Site, operands: Mapping[str, Any], given: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Axes, sizes and bounds that fit the shapes of data and result."""

    def fixed(operand: Operand | None) -> tuple[int, ...] | None:
        return None if operand is None or operand.shape is None else tuple(_size(d) for d in operand.shape)

    call = Call(
        site.op,
        site.attributes,
        [fixed(o) for o in site.inputs],
        [o.value if o is not None else None for o in site.inputs],
        [o.dims if o is not None and o.static else None for o in site.outputs],
    )
    found = {}
    for i, value in draw_operands(call, rng).items():
        operand = site.input(i)
        if operand.name in operands and operand.name not in given:
            shape = fixed(operand) or ()
            found[operand.name] = np.asarray(value).astype(operand.dtype).reshape(shape)
    return found


def _float(operand: Operand) -> bool:
    return operand.dtype is not None and operand.dtype.kind == "f"


def _open(operand: Operand) -> bool:
    """Whether several readings of the operand are possible: whole numbers, and short lists of floats."""
    if operand.dtype is None or operand.dtype.kind == "b":
        return False
    if operand.dtype.kind in "iu":
        return True
    sizes = [_size(d) for d in operand.shape or ()]
    return len(sizes) <= 1 and all(n <= SMALL for n in sizes)


def _formal_names(site: Site) -> list[str]:
    import onnx

    try:
        schema = onnx.defs.get_schema(site.op, site.opset, site.domain)
    except onnx.defs.SchemaError:
        return []
    return [str(i.name).lower() for i in schema.inputs]


def _value(
    operand: Operand, meaning: str, hint: Any, span: Any, site: Site, rng: np.random.Generator
) -> NDArray[Any]:
    dtype = np.dtype(operand.dtype) if operand.dtype is not None else np.dtype(np.float32)
    shape = [_size(d) for d in operand.shape or ()]
    if hint is not None and not (isinstance(hint, tuple) and len(hint) == 2):
        return np.asarray(hint, dtype)
    span = hint if hint is not None else span
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = span if span is not None else _meant(meaning, dtype, site)
        low = max(low, 0) if dtype.kind == "u" else low
        high = max(high, low + 1)
        if hint is None and len(shape) == 1 and shape[0] <= min(high - low, SMALL):
            return (low + rng.permutation(high - low)[: shape[0]]).astype(dtype)
        return rng.integers(low, high, shape).astype(dtype)
    if span is not None:
        return np.asarray(rng.uniform(float(span[0]), float(span[1]), shape)).astype(dtype)
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
