"""Values for operands that say axes, sizes, bounds or counts, such that a node has the result it is declared to have.

Numbers drawn blindly almost never are valid axes or bounds. What a node's operands may be follows from the shapes
of its data and of its result, operator by operator, by the ONNX specification of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...] | None
TRIES = 64


@dataclass(frozen=True)
class Call:
    """A node, as far as it matters here.

    Attributes:
        op: Operator.
        attributes: With defaults where they matter.
        shapes: Of the inputs; None where unknown or left out.
        values: Of constant inputs; None elsewhere.
        results: Shapes of the outputs; None where unknown.
    """

    op: str
    attributes: Mapping[str, Any]
    shapes: Sequence[Shape]
    values: Sequence[NDArray[Any] | None]
    results: Sequence[Shape]

    def given(self, i: int) -> bool:
        """Whether operand `i` is there."""
        return i < len(self.shapes) and self.shapes[i] is not None

    def length(self, i: int) -> int:
        """Number of entries of operand `i`."""
        shape = self.shapes[i] if i < len(self.shapes) else None
        return int(np.prod(shape)) if shape is not None else 0

    def value(self, i: int) -> NDArray[Any] | None:
        """Value of operand `i` if it is constant."""
        return self.values[i] if i < len(self.values) else None


Found = dict[int, Any]


def draw_operands(call: Call, rng: np.random.Generator) -> Found:
    """Values by position for operands that are not constant; empty where nothing is known about the operator."""
    rule = REDUCE if call.op.startswith("Reduce") else RULES.get(call.op)
    if rule is None:
        return {}
    try:
        found = rule(call, rng)
    except (IndexError, ValueError, TypeError, ZeroDivisionError):
        return {}  # shapes that do not fit together: the caller draws blindly
    return {i: v for i, v in found.items() if call.given(i) and call.value(i) is None}


def _data(call: Call, i: int = 0) -> tuple[int, ...]:
    shape = call.shapes[i]
    if shape is None:
        raise ValueError("unknown")
    return shape


def _out(call: Call, i: int = 0) -> tuple[int, ...]:
    shape = call.results[i] if i < len(call.results) else None
    if shape is None:
        raise ValueError("unknown")
    return shape


def _kept(call: Call, rng: np.random.Generator) -> int:
    """How many entries of an axis are kept: what the result has, or any number that there is."""
    axis = _axis_of(call)
    if call.results and call.results[0] is not None:
        return call.results[0][axis]
    return int(rng.integers(1, _data(call)[axis] + 1))


def _signed(axes: Sequence[int], rank: int, rng: np.random.Generator) -> list[int]:
    """The same axes, some counted from the end."""
    return [a - rank if rng.integers(3) == 0 else a for a in axes]


def _covering(call: Call, place: int, rng: np.random.Generator) -> list[int]:
    """Axes of a Slice or Pad: all that change, and others at random, as many as the operand has."""
    data, out = _data(call), _out(call)
    known = call.value(place)
    if known is not None:
        return [int(a) % len(data) for a in known]
    if not call.given(place):
        return list(range(len(data)))
    changed = [a for a in range(len(data)) if data[a] != out[a]]
    others = [a for a in range(len(data)) if data[a] == out[a]]
    rng.shuffle(others)
    axes = [*changed, *others][: call.length(place)]
    rng.shuffle(axes)
    return axes


def _slice(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    known = call.value(1) if call.value(1) is not None else None
    count = call.length(1)
    axes = _covering(call, 3, rng) if call.given(3) else list(range(count))
    starts, ends, steps = [], [], []
    for k, axis in enumerate(axes[:count]):
        d, m = data[axis], out[axis]
        fixed = call.value(4)
        if fixed is not None:
            step = int(fixed[k])
        elif call.given(4):
            widest = max(1, (d - 1) // max(m - 1, 1))
            step = int(rng.integers(1, widest + 1)) * (-1 if rng.integers(2) else 1)
        else:
            step = 1
        reach = max(m - 1, 0) * abs(step)
        low = int(rng.integers(0, max(d - reach, 1)))
        if known is not None:
            low = int(known[k])
        start, end = (low, low + reach + 1) if step > 0 else (low + reach, low - 1 if low > 0 else -d - 1)
        if m == 0:
            start = end = d
        starts.append(start)
        ends.append(end)
        steps.append(step)
    return {1: starts, 2: ends, 3: _signed(axes[:count], len(data), rng), 4: steps}


def _pad(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    axes = _covering(call, 3, rng)
    before, after = [], []
    for axis in axes:
        difference = out[axis] - data[axis]
        first = int(rng.integers(0, abs(difference) + 1)) * (1 if difference >= 0 else -1)
        before.append(first)
        after.append(difference - first)
    return {1: [*before, *after], 3: _signed(axes, len(data), rng)}


def _subset(
    call: Call, place: int, rank: int, fits: Callable[[list[int]], bool], rng: np.random.Generator
) -> Found:
    """Distinct axes, as many as the operand has, for which `fits` holds."""
    count = call.length(place)
    for _ in range(TRIES):
        axes = [int(a) for a in rng.permutation(rank)[:count]]
        if fits(axes):
            return {place: _signed(axes, rank, rng)}
    return {}


def _squeeze(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    return _subset(
        call, 1, len(data),
        lambda axes: all(data[a] == 1 for a in axes)
        and tuple(d for a, d in enumerate(data) if a not in axes) == out,
        rng,
    )  # fmt: skip


def _unsqueeze(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    return _subset(
        call, 1, len(out),
        lambda axes: all(out[a] == 1 for a in axes)
        and tuple(d for a, d in enumerate(out) if a not in axes) == data,
        rng,
    )  # fmt: skip


def REDUCE(call: Call, rng: np.random.Generator) -> Found:  # noqa: N802 - one of the RULES
    """Axes of a reduction."""
    data, out = _data(call), _out(call)
    keep = bool(call.attributes.get("keepdims", 1))

    def fits(axes: list[int]) -> bool:
        reduced = axes or ([] if call.attributes.get("noop_with_empty_axes", 0) else list(range(len(data))))
        if keep:
            return tuple(1 if a in reduced else d for a, d in enumerate(data)) == out
        return tuple(d for a, d in enumerate(data) if a not in reduced) == out

    return _subset(call, 1, len(data), fits, rng)


def _resize(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    axes = [int(a) % len(data) for a in call.attributes.get("axes", range(len(data)))]
    scales = [_scale(data[a], out[a]) for a in axes]
    if len(call.shapes) == 2:
        return {1: scales}  # the first Resize, of opset 10
    corners = np.sort(rng.uniform(0, 1, (2, len(axes))), axis=0)
    sizes = _bounding([data[a] for a in axes], [out[a] for a in axes], call.attributes)
    return {1: corners.reshape(-1), 2: scales, 3: sizes}


def _bounding(before: list[int], after: list[int], attributes: Mapping[str, Any]) -> list[int]:
    """Sizes that lead to those declared, where one scale is for all axes: the smallest, or the largest."""
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy in ("stretch", b"stretch"):
        return after
    ends = floor if policy in ("not_smaller", b"not_smaller") else ceil
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        scale = new / old
        if all(int(b * scale + 0.5) == a for b, a in zip(before, after, strict=True)):
            return [new if i == k else max(int(ends(b * scale)), 1) for i, b in enumerate(before)]
    return after


def _scale(before: int, after: int) -> float:
    exact = np.float32(after / before)
    if int(np.floor(np.float32(before) * exact)) == after:
        return float(exact)
    return (after + 0.25) / before


def _range(call: Call, rng: np.random.Generator) -> Found:
    (count,) = _out(call)
    delta = int(rng.choice([1, 2, -1]))
    start = int(rng.integers(-3, 4))
    known = [call.value(i) for i in range(3)]
    delta = delta if known[2] is None else known[2].item()
    start = start if known[0] is None else known[0].item()
    if known[1] is not None and known[0] is None:
        start = known[1].item() - delta * count
    return {0: start, 1: start + delta * count, 2: delta}


def _axis_of(call: Call, default: int = -1) -> int:
    return int(call.attributes.get("axis", default))


def _center(call: Call, rng: np.random.Generator) -> Found:
    out = _out(call)
    axes = call.attributes.get("axes", range(len(out)))
    return {1: [out[int(a)] for a in axes]}


def _split(call: Call, rng: np.random.Generator) -> Found:
    axis = _axis_of(call, 0)
    return {1: [_out(call, i)[axis] for i in range(len(call.results))]}


def _cumulative(call: Call, rng: np.random.Generator) -> Found:
    rank = len(_data(call))
    return {1: int(rng.integers(-rank, rank))}


def _lengths(place: int) -> Callable[[Call, np.random.Generator], Found]:
    def draw(call: Call, rng: np.random.Generator) -> Found:
        data = _data(call)
        layout = int(call.attributes.get("layout", 0))
        steps, batch = (data[1], data[0]) if layout else (data[0], data[1])
        return {place: rng.integers(1, steps + 1, batch)}

    return draw


def _reverse_lengths(call: Call, rng: np.random.Generator) -> Found:
    data = _data(call)
    time, batch = int(call.attributes.get("time_axis", 0)), int(call.attributes.get("batch_axis", 1))
    return {1: rng.integers(1, data[time] + 1, data[batch])}


def _affine(call: Call, rng: np.random.Generator) -> Found:
    out = _out(call)
    return {1: [out[0], int(rng.integers(1, 4)), *out[1:-1]]}


def _tile(call: Call, rng: np.random.Generator) -> Found:
    data, out = _data(call), _out(call)
    return {1: [ceil(o / d) if d else 1 for o, d in zip(out, data, strict=True)]}


def _unpool(call: Call, rng: np.random.Generator) -> Found:
    """Distinct positions in each plane: what two values at one place mean is not defined."""
    data, out = _data(call), _out(call)
    size = int(np.prod(out[2:]))
    count = int(np.prod(data[2:]))
    planes = int(np.prod(data[:2]))
    places = np.stack([p * size + rng.permutation(size)[:count] for p in range(planes)])
    return {1: places.reshape(data), 2: list(out)}


def _mel(call: Call, rng: np.random.Generator) -> Found:
    """Bands and lines as declared, a usual rate, and edges below half of it."""
    lines, bands = _out(call)
    rate = int(rng.choice([8000, 16000, 44100]))
    edges = np.sort(rng.uniform(0, rate / 2, 2))
    return {0: bands, 1: 2 * (lines - 1), 2: rate, 3: edges[0], 4: edges[1]}


def _scatter(call: Call, rng: np.random.Generator) -> Found:
    """No target twice, for which of two updates is kept is not defined."""
    if call.attributes.get("reduction", b"none") not in (b"none", "none"):
        return {}
    data, where = _data(call), _data(call, 1)
    if call.op == "ScatterND":
        head = data[: where[-1]]
        count = int(np.prod(where[:-1]))
        chosen = rng.permutation(int(np.prod(head)))[:count]
        if len(chosen) < count:
            return {}
        return {1: np.stack(np.unravel_index(chosen, head), axis=-1).reshape(where)}
    axis = _axis_of(call, 0) % len(data)
    if where[axis] > data[axis]:
        return {}
    lines = [d for a, d in enumerate(where) if a != axis]
    order = rng.permuted(np.broadcast_to(np.arange(data[axis]), (*lines, data[axis])), axis=-1)
    return {1: np.moveaxis(order[..., : where[axis]], -1, axis)}


def _filled(call: Call, rng: np.random.Generator) -> Found:
    """How much of a cache is filled: no query is left without a key, for what it gets then is nobody's concern."""
    q, k = _data(call, 0), _data(call, 1)
    low = q[-2] if call.attributes.get("is_causal", 0) else 1
    return {6: rng.integers(min(low, k[-2]), k[-2] + 1, q[0])}


RULES: dict[str, Callable[[Call, np.random.Generator], Found]] = {
    "Slice": _slice,
    "Pad": _pad,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Resize": _resize,
    "Range": _range,
    "CenterCropPad": _center,
    "Split": _split,
    "CumSum": _cumulative,
    "CumProd": _cumulative,
    "RNN": _lengths(4),
    "GRU": _lengths(4),
    "LSTM": _lengths(4),
    "ReverseSequence": _reverse_lengths,
    "AffineGrid": _affine,
    "Tile": _tile,
    "Reshape": lambda call, rng: {1: list(_out(call))},
    "Expand": lambda call, rng: {1: list(_out(call))},
    "ConstantOfShape": lambda call, rng: {0: list(_out(call))},
    "MaxUnpool": _unpool,
    "Scatter": _scatter,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Attention": _filled,
    "Upsample": lambda call, rng: {1: [_scale(d, o) for d, o in zip(_data(call), _out(call), strict=True)]},
    "TopK": lambda call, rng: {1: [_kept(call, rng)]},
    "OneHot": lambda call, rng: {1: _out(call)[_axis_of(call)]},
    "Trilu": lambda call, rng: {1: int(rng.integers(-3, 4))},
    "Dropout": lambda call, rng: {1: float(rng.uniform(0, 0.9))},
    "Col2Im": lambda call, rng: {1: list(_out(call)[2:])},
    "HannWindow": lambda call, rng: {0: _out(call)[0]},
    "HammingWindow": lambda call, rng: {0: _out(call)[0]},
    "BlackmanWindow": lambda call, rng: {0: _out(call)[0]},
    "MelWeightMatrix": _mel,
}
"""Operator to what draws its operands."""
