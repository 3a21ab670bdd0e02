"""Tensors too large for any engine: found before anything tries to compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.errors import ConversionError
from surgery.graph.infer import dims_of
from surgery.graph.skeleton import skeleton
from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel

MOST = (1 << 31) - 1
"""Elements that a tensor of TensorRT can have."""


def check_volumes(source: LoadedModel) -> None:
    """Make sure that no tensor of known shape is larger than TensorRT takes; running such a model takes all memory.

    Raises:
        ConversionError: one is.
    """
    try:
        typed = infer_shapes(skeleton(source.proto), data_prop=True)
    except Exception:  # onnx raises many types, none documented; what cannot be inferred is not refused
        return
    graph = typed.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        size = 1
        for dim in dims_of(value) or ():
            size *= dim if isinstance(dim, int) else 1
        if size > MOST:
            makers = (n.name for n in graph.node if value.name in n.output)
            raise ConversionError(
                f"tensor {value.name!r} has {size:.3g} elements",
                code="tensor-volume-limit",
                where=source.name,
                node=next(makers, None) or None,
                cause="a tensor of TensorRT has at most 2^31 - 1 elements",
                fix="split the work into smaller tensors, or give smaller sizes",
            )


def largest(skeletal: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Elements of the largest tensor whose shape follows from the shapes of inputs; 0 if none does.

    Args:
        skeletal: The model without large weights, as :func:`skeleton` makes it; not changed.
        shapes: Shapes of inputs.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(skeletal)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        typed = infer_shapes(copy, data_prop=True)
    except Exception:  # onnx raises many types, none documented
        return 0
    found = 0
    for value in (*typed.graph.value_info, *typed.graph.output):
        dims_here = dims_of(value)
        if dims_here and all(isinstance(d, int) for d in dims_here):
            size = 1
            for d in dims_here:
                size *= int(d or 0)
            found = max(found, size)
    return found
