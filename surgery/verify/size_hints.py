"""What the inputs and constants of a model hint at, of which sizes go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.graph.infer import dims_of
from surgery.verify.sizes import Hints, dim_key

if TYPE_CHECKING:
    import onnx

MOST_ROWS = 64
"""Rows that an entry of a batch has at most, where another batch counts these."""


def hints_of(model: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto]) -> Hints:
    """All hints.

    Args:
        model: The original model, for its constants.
        inputs: The inputs whose sizes are looked for.
    """
    return Hints(
        new_tokens(inputs),
        baked_sizes(model),
        cache_sums(inputs),
        signal_lengths(inputs),
        batch_multiples(inputs),
    )


def new_tokens(inputs: Sequence[onnx.ValueInfoProto]) -> list[int]:
    """Fixed sizes of lists of whole numbers, which may be what a cache grows by."""
    import onnx

    whole = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    found: dict[int, None] = {}
    for value in inputs:
        dims = dims_of(value) or []
        if value.type.tensor_type.elem_type in whole and len(dims) == 2 and isinstance(dims[1], int):
            found[dims[1]] = None
    return [d for d in found if d > 0]


def cache_sums(inputs: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, str, str]]:
    """Lengths that may be those of a cache and of new tokens together, each with the two.

    Caches are tensors of numbers with three axes or more that share a length; tokens and masks have two axes.
    """
    import onnx

    whole = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    held: dict[str, int] = {}
    lists: dict[str, bool] = {}
    for value in inputs:
        dims, kind = dims_of(value) or [], value.type.tensor_type.elem_type
        free = [(k, dim_key(value.name, k, d)) for k, d in enumerate(dims) if not isinstance(d, int)]
        if len(dims) == 2:
            lists.update({key: lists.get(key, False) or kind in whole for k, key in free if k})
        elif len(dims) > 2 and kind not in whole:
            for key in {key for k, key in free if k}:
                held[key] = held.get(key, 0) + 1
    caches = [k for k, count in held.items() if count > 1 and k not in lists]
    tokens = [k for k, whole_numbers in lists.items() if whole_numbers]
    return [
        (both, new, old)
        for old in caches
        for new in tokens
        for both in lists
        if both != new and both not in held
    ]


def signal_lengths(inputs: Sequence[onnx.ValueInfoProto]) -> set[str]:
    """Lengths that only sound has, [batch, samples] or [batch, 1, samples], where others are those of tokens."""
    import onnx

    whole = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    signals: set[str] = set()
    others: set[str] = set()
    tokens = False
    for value in inputs:
        dims, kind = dims_of(value) or [], value.type.tensor_type.elem_type
        free = {dim_key(value.name, k, d) for k, d in enumerate(dims) if k and not isinstance(d, int)}
        if kind not in whole and kind != onnx.TensorProto.BOOL and len(free) == 1 and dims[1:-1] in ([], [1]):
            signals |= free
        elif kind in whole and len(dims) == 2 and free:
            tokens = True
            others |= free
        else:
            others |= free
    return signals - others if tokens else set()


def batch_multiples(inputs: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, str, int]]:
    """Batches that may be a multiple of another one: [rows, ...] beside [batch, 4, ...], a row for each of the 4."""
    parts: dict[str, dict[int, None]] = {}
    for value in inputs:
        dims = dims_of(value) or []
        if dims and not isinstance(dims[0], int):
            own = parts.setdefault(dim_key(value.name, 0, dims[0]), {})
            if len(dims) > 1 and isinstance(dims[1], int) and 1 < dims[1] <= MOST_ROWS:
                own[dims[1]] = None
    return [
        (rows, batch, n) for rows in parts for batch, found in parts.items() if rows != batch for n in found
    ]


def baked_sizes(model: onnx.ModelProto, most: int = 10) -> list[int]:
    """Whole numbers in constant target shapes of reshapes and expansions, the most frequent first.

    Args:
        model: The model.
        most: How many at most.
    """
    import onnx

    constants = {t.name: t for t in model.graph.initializer if len(t.dims) <= 1}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    parts = {node.output[0]: node for node in model.graph.node if node.op_type == "Concat"}
    counts: dict[int, int] = {}
    for node in model.graph.node:
        if node.op_type not in ("Reshape", "Expand") or len(node.input) < 2:
            continue
        made = parts.get(node.input[1])
        for name in made.input if made is not None else [node.input[1]]:
            tensor = constants.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.INT64:
                continue
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                continue
            for size in onnx.numpy_helper.to_array(tensor).reshape(-1).tolist():
                if size > 1:
                    counts[size] = counts.get(size, 0) + 1
    return sorted(counts, key=lambda size: (-counts[size], size))[:most]
