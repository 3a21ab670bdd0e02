"""What values an input may take, from how the model uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.graph.infer import dims_of
from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Span = tuple[int, int]

CARRIERS = frozenset(
    {
        "Identity", "Cast", "CastLike", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Flatten", "Concat", "Slice",
        "Expand", "Split", "Tile", "Gather",
    }
)  # fmt: skip
"""Operators that hand values on: what indexes behind them indexes with the input's values."""

INDEXING: dict[str, tuple[int, int, str]] = {
    "Gather": (1, 0, "axis"),
    "GatherElements": (1, 0, "axis"),
    "ScatterElements": (1, 0, "axis"),
    "Scatter": (1, 0, "axis"),
    "GatherND": (1, 0, "nd"),
    "ScatterND": (1, 0, "nd"),
    "NegativeLogLikelihoodLoss": (1, 0, "class"),
    "SoftmaxCrossEntropyLoss": (1, 0, "class"),
    "RoiAlign": (2, 0, "first"),
    "EmbedLayerNormalization": (0, 2, "first"),
    "ArrayFeatureExtractor": (1, 0, "last"),
}
"""Operator to (position of the indices, position of what they index, which of its dims bounds them)."""

CLAMPING = frozenset({"Where", "Clip", "Min", "Max", "Mod"})

BITWISE = frozenset({"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"})

QUANTIZING = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})

DIVISOR_END = 16
"""Whole divisors are drawn below this, and from 1 on: ONNX Runtime ends the process where it divides by 0."""

Consumers = dict[str, list[tuple[Any, int]]]


def ranges_from_use(model: onnx.ModelProto) -> dict[str, Span]:
    """For inputs of whole numbers that index something: 0 <= value < the smallest dim that they index.

    Found by following each input through operators that hand values on. Other inputs are left out.
    """
    import onnx

    try:
        shaped = infer_shapes(model, data_prop=True)
    except Exception:  # a help, never a condition; onnx raises many undocumented types
        shaped = model
    graph = shaped.graph
    shapes = {v.name: dims_of(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes.update({t.name: list(t.dims) for t in graph.initializer})
    consumers = _consumers(graph)
    kinds = onnx.TensorProto
    whole = {kinds.INT32, kinds.INT64, kinds.UINT8, kinds.INT8}
    whole_of_any_size = whole | {kinds.UINT16, kinds.INT16, kinds.UINT32, kinds.UINT64}
    found: dict[str, Span] = {}
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        bounds = _bounds(value.name, consumers, shapes) if kind in whole else []
        if bounds:
            found[value.name] = (0, min(bounds))
        elif kind in whole_of_any_size:
            places = list(_ends(value.name, consumers))
            if any(node.op_type in ("Div", "Mod") and place == 1 for node, place, _ in places):
                found[value.name] = (1, DIVISOR_END)
            elif any(node.op_type == "BitShift" and place == 1 for node, place, _ in places):
                bits = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * 8
                found[value.name] = (0, bits)
    return found


def _consumers(graph: onnx.GraphProto) -> Consumers:
    """Name to the nodes that read it, each with the place among its inputs."""
    consumers: Consumers = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            consumers.setdefault(name, []).append((node, i))
    return consumers


def _ends(name: str, consumers: Consumers) -> Iterator[tuple[Any, int, list[int]]]:
    """Where a value ends up behind operators that only hand it on: node, place, and the dtypes of Casts between."""
    stack: list[tuple[str, list[int]]] = [(name, [])]
    seen = set()
    while stack:
        here, casts = stack.pop()
        if here in seen:
            continue
        seen.add(here)
        for node, place in consumers.get(here, ()):
            if (node.op_type in CARRIERS - {"CastLike"} and place == 0) or node.op_type == "Concat":
                to = [a.i for a in node.attribute if a.name == "to"] if node.op_type == "Cast" else []
                stack.extend((output, casts + to) for output in node.output)
            else:
                yield node, place, casts


@dataclass(frozen=True)
class Wide:
    """Values beyond the usual ones that an input takes, because they are what its operators may get wrong.

    Attributes:
        kind: ``bits``: every number of a whole dtype. ``patterns``: whole numbers that are the bits of floats.
            ``floats``: floats of every exponent. ``halves``: floats halfway between two steps of a quantisation.
        dtypes: For ``bits`` the dtypes that hold the value on its way, for ``patterns`` that of the floats.
        step: For ``halves`` the size of a step; 0 where it follows from the range of the values.
    """

    kind: Literal["bits", "patterns", "floats", "halves"]
    dtypes: tuple[np.dtype[Any], ...] = ()
    step: float = 0.0


def wide_from_use(model: onnx.ModelProto) -> dict[str, Wide]:
    """Inputs that operators on bits or quantisations read, and nothing else does.

    Small numbers are not enough for these: an engine that computes whole numbers in float32 is right up to 2**24,
    and one that divides by a product is right but for values halfway between two steps. Quantisations count where
    their whole numbers are outputs of the model: inside of one, a step more or less is rounding.
    """
    import onnx

    graph = model.graph
    consumers = _consumers(graph)
    outputs = {v.name for v in graph.output}
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    found: dict[str, Wide] = {}
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name in constants or kind in (0, onnx.TensorProto.STRING, onnx.TensorProto.BOOL):
            continue
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        ends = list(_ends(value.name, consumers))
        wide = _bits(dtype, ends) if dtype.kind in "iu" else _floats(ends, consumers, outputs, constants)
        if wide is not None:
            found[value.name] = wide
    return found


def _bits(dtype: np.dtype[Any], ends: Sequence[tuple[Any, int, list[int]]]) -> Wide | None:
    """For an input of whole numbers."""
    import onnx

    dtypes = [dtype]
    for node, place, casts in ends:
        if node.op_type not in BITWISE and (node.op_type, place) not in (("BitShift", 0), ("BitCast", 0)):
            return None
        between = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to)) for to in casts]
        if any(d.kind not in "iu" for d in between):
            return None
        dtypes += between
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "BitCast" and np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to)).kind not in "iub":
            return None if casts else Wide("patterns", (np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to)),))
    return Wide("bits", tuple(dtypes)) if ends else None


def _floats(
    ends: Sequence[tuple[Any, int, list[int]]],
    consumers: Consumers,
    outputs: set[str],
    constants: Mapping[str, onnx.TensorProto],
) -> Wide | None:
    """For an input of floats."""
    import onnx

    if any(casts for _, _, casts in ends):
        return None
    if ends and all(node.op_type == "BitCast" for node, _, _ in ends):
        return Wide("floats")
    for node, place, _ in ends:
        if node.op_type not in QUANTIZING or place or not _handed_out(node.output[0], consumers, outputs):
            continue
        scale = constants.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        array = onnx.numpy_helper.to_array(scale) if scale is not None else np.zeros(1)
        if array.size == 1:
            return Wide("halves", step=float(array.reshape(())))
    return None


def _handed_out(name: str, consumers: Consumers, outputs: set[str]) -> bool:
    """Whether a value is an output of the graph, as it is or in another shape."""
    stack, seen = [name], {name}
    while stack:
        here = stack.pop()
        if here in outputs:
            return True
        for node, place in consumers.get(here, ()):
            if node.op_type in CARRIERS and (place == 0 or node.op_type == "Concat"):
                stack += [o for o in node.output if o not in seen]
                seen.update(node.output)
    return False


def draw_wide(
    wide: Wide, dtype: np.dtype[Any], shape: Sequence[int], rng: np.random.Generator
) -> NDArray[Any]:
    """Values of an input.

    Args:
        wide: Which.
        dtype: Dtype of the input.
        shape: Its shape.
        rng: Source of randomness.
    """
    if wide.kind == "bits":
        return _draw_bits(dtype, wide.dtypes, shape, rng)
    if wide.kind == "floats":
        return _draw_floats(dtype, shape, rng)
    if wide.kind == "patterns":
        return _draw_floats(wide.dtypes[0], shape, rng).view(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    step = wide.step or float(np.float32(rng.uniform(0.01, 0.05)))
    first = -int(rng.integers(60, 200))
    places = rng.integers(first, first + 255, count) + 0.5
    places[: min(count, 2)] = (first, first + 255)[: min(count, 2)]  # from these the range is 255 steps
    return np.asarray(places * step).astype(dtype).reshape(tuple(shape))


def _draw_bits(
    dtype: np.dtype[Any], held_by: Sequence[np.dtype[Any]], shape: Sequence[int], rng: np.random.Generator
) -> NDArray[Any]:
    """Half of them anything that all the dtypes hold, half of them next to a power of two or to the end."""
    low = max(int(np.iinfo(d).min) for d in held_by)
    # An engine takes uint64 as int64, and what does not fit is refused before it runs.
    high = min(int(np.iinfo(d).max) for d in (*held_by, np.dtype(np.int64)))
    near = {low, low + 1, high - 1, high}
    for k in range(dtype.itemsize * 8):
        near |= {sign * (1 << k) + more for sign in (1, -1) for more in (-1, 0, 1)}
    edges = np.array(sorted(v for v in near if low <= v <= high), dtype)
    drawn = rng.integers(low, high, tuple(shape), dtype=dtype.type, endpoint=True)
    return np.where(rng.integers(0, 2, tuple(shape)) == 0, rng.choice(edges, tuple(shape)), drawn).astype(
        dtype
    )


def _draw_floats(dtype: np.dtype[Any], shape: Sequence[int], rng: np.random.Generator) -> NDArray[Any]:
    """Normal numbers of every exponent, zeros of both signs and infinities; no payloads of NaN, which differ."""
    import ml_dtypes

    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    low, high = int(np.log2(float(info.smallest_normal))), int(np.log2(float(info.max)))
    values = np.ldexp(rng.uniform(1, 1.99, tuple(shape)), rng.integers(low, high, tuple(shape)))
    values = values * rng.choice([-1.0, 1.0], tuple(shape))
    special = rng.choice([0.0, -0.0, np.inf, -np.inf, 1.0, -2.5], tuple(shape))
    return np.asarray(np.where(rng.integers(0, 4, tuple(shape)) == 0, special, values)).astype(dtype)


def _bounds(
    name: str,
    consumers: Consumers,
    shapes: dict[str, list[int | str | None] | None],
) -> list[int]:
    bounds: list[int] = []
    stack, seen = [name], set()
    while stack:
        here = stack.pop()
        if here in seen:
            continue
        seen.add(here)
        for node, place in consumers.get(here, ()):
            entry = INDEXING.get(node.op_type)
            if entry is not None and place == entry[0]:
                bound = _bound(
                    node, shapes.get(node.input[entry[1]]), shapes.get(node.input[entry[0]]), entry[2]
                )
                bounds += [bound] if bound else []
            elif (
                (node.op_type in CARRIERS and place == 0)
                or (node.op_type == "Concat")
                or (node.op_type in CLAMPING)
            ):
                stack.extend(node.output)
    return bounds


def _bound(
    node: onnx.NodeProto,
    data: list[int | str | None] | None,
    indices: list[int | str | None] | None,
    which: str,
) -> int | None:
    if not data:
        return None
    if which == "nd":
        last = indices[-1] if indices else None
        known = [d for d in data[: last if isinstance(last, int) else None] if isinstance(d, int)]
        return min(known) if known else None
    axis = {"axis": 0, "class": 1, "first": 0, "last": -1}[which]
    if which == "axis":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    dim = data[axis] if -len(data) <= axis < len(data) else None
    return dim if isinstance(dim, int) and dim > 0 else None
