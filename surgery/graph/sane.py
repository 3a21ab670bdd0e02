"""What onnx's checker lets through and no model can mean: types that there are not, sizes beyond any machine."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MOST_ELEMENTS = 1 << 48
"""Elements of a tensor that no machine holds."""

MOST_DIMS = 64
"""Dims of a tensor; numpy takes no more."""

NEWEST_OPSET = 1 << 15
"""Versions of operator sets are small numbers; onnx itself takes them as 32-bit ones."""


def first_absurdity(model: onnx.ModelProto) -> str | None:
    """The first thing in a model that cannot be meant, in words, or None.

    Looks at versions of operator sets, at types and sizes of inputs, outputs and constants, and at how much data
    a constant holds. A negative dim of an input is a free one (some exporters write -1) and is let through.
    """
    for opset in model.opset_import:
        if not 1 <= opset.version <= NEWEST_OPSET:
            return f"version {opset.version} of the operator set {opset.domain or 'ai.onnx'!r}"
    for text in _graph(model.graph, True):
        return text
    return None


def _graph(graph: onnx.GraphProto, main: bool) -> Iterator[str]:
    for what, values in (("input", graph.input), ("output", graph.output), ("tensor", graph.value_info)):
        for value in values:
            text = _value(value, main and what == "input")
            if text is not None:
                yield f"{what} {value.name!r} {text}"
    for tensor in graph.initializer:
        text = _tensor(tensor)
        if text is not None:
            yield f"constant {tensor.name!r} {text}"
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                text = _tensor(attribute.t)
                if text is not None:
                    yield f"attribute {attribute.name!r} of node {node.name or node.op_type!r} {text}"
            if attribute.HasField("g"):
                yield from _graph(attribute.g, False)


@lru_cache(maxsize=1)
def _types() -> frozenset[int]:
    import onnx

    return frozenset(onnx.TensorProto.DataType.values())


def _value(value: onnx.ValueInfoProto, needs_type: bool) -> str | None:
    if not value.type.HasField("tensor_type"):
        return None
    tensor = value.type.tensor_type
    if tensor.elem_type not in _types() or (needs_type and not tensor.elem_type):
        return f"is of type {tensor.elem_type}, which does not exist"
    return _size([d.dim_value for d in tensor.shape.dim if d.dim_value > 0])


def _size(dims: list[int]) -> str | None:
    if len(dims) > MOST_DIMS:
        return f"has {len(dims)} dims"
    size = 1
    for dim in dims:
        size *= dim
    return f"has {size:.3g} elements, more than any machine holds" if size > MOST_ELEMENTS else None


def _tensor(tensor: onnx.TensorProto) -> str | None:
    if tensor.data_type not in _types() or not tensor.data_type:
        return f"is of type {tensor.data_type}, which does not exist"
    if any(d < 0 for d in tensor.dims):
        return f"has a negative dim: {list(tensor.dims)}"
    return _size(list(tensor.dims)) or _data(tensor)


def _data(tensor: onnx.TensorProto) -> str | None:
    """What is wrong with the amount of data, for types whose elements are whole bytes or fields."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    size = 1
    for dim in tensor.dims:
        size *= dim
    if tensor.HasField("raw_data"):
        width = _WIDTHS.get(tensor.data_type)
        have = len(tensor.raw_data)
        if width is not None and have != size * width:
            return f"holds {have} bytes, and its shape {list(tensor.dims)} takes {size * width}"
        return None
    kind = onnx.TensorProto
    fields: dict[int, Sized] = {
        kind.FLOAT: tensor.float_data, kind.DOUBLE: tensor.double_data, kind.INT64: tensor.int64_data,
        kind.INT32: tensor.int32_data, kind.BOOL: tensor.int32_data, kind.STRING: tensor.string_data,
    }  # fmt: skip
    field = fields.get(tensor.data_type)
    if field is not None and len(field) != size:
        return f"holds {len(field)} numbers, and its shape {list(tensor.dims)} takes {size}"
    return None


_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""Element type to bytes of an element."""
