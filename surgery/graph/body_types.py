"""Types of what bodies make."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import value_of
from surgery.graph.infer import dims_of, is_static
from surgery.graph.typed import infer_shapes
from surgery.graph.view import captured_names

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from surgery.graph.scope import Scope

    Types = tuple[int, list[int | str | None] | None]

BOOL = 9
"""ONNX's number of the element type."""


def body_types(body: gs.Graph, scope: Scope, bound: Mapping[str, Any] | None = None) -> list[Types]:
    """Element type and shape of a body's outputs, as inference finds them; 0 and None where it does not.

    Args:
        body: The body.
        scope: The graph around it.
        bound: Name of an input of the body to a tensor that has its type.
    """
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    proto = onnx.GraphProto()
    proto.CopyFrom(OnnxExporter.export_graph(body, do_type_check=False))
    for value in proto.input:
        if value.name in (bound or {}):
            value.CopyFrom(_declared(value.name, (bound or {})[value.name]))
    if bound:
        del proto.value_info[:]  # these may say what holds in the first round alone
        for value in proto.output:
            value.ClearField("type")
    inner = {v.name for v in proto.input} | {t.name for t in proto.initializer}
    inner |= {o for n in proto.node for o in n.output}
    for name in captured_names(body):
        if name not in inner:
            proto.input.append(_declared(name, scope.tensor(gs.Variable(name))))
    imports = [onnx.helper.make_opsetid("", int(scope.graph.opset))]
    model = onnx.helper.make_model(proto, opset_imports=imports, ir_version=8)
    with contextlib.suppress(Exception):  # inference is a help; onnx raises many undocumented types
        model = infer_shapes(model, data_prop=True)
    known = {v.name: v for v in (*model.graph.input, *model.graph.output)}
    return [_type_of(known[t.name], t) for t in body.outputs]


def _type_of(value: onnx.ValueInfoProto, tensor: Any) -> Types:
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        array = value_of(tensor)
        return element_type(array.dtype), list(array.shape)
    return value.type.tensor_type.elem_type, dims_of(value) if value.type.HasField("tensor_type") else None


def element_type(dtype: Any) -> int:
    """ONNX's number of an element type, which may be given as that number."""
    import onnx

    if isinstance(dtype, (int, np.integer)) and not isinstance(dtype, type):
        return int(dtype)
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _declared(name: str, tensor: Any) -> onnx.ValueInfoProto:
    import onnx

    if tensor.dtype is None or getattr(tensor, "type", "tensor_type") != "tensor_type":
        return onnx.helper.make_empty_tensor_value_info(name)
    shape = list(tensor.shape) if tensor.shape is not None else None
    return onnx.helper.make_tensor_value_info(name, element_type(tensor.dtype), shape)


def take_type(target: Any, source: Any, shapes: bool = True) -> None:
    """Let a tensor know the type of what now makes it."""
    import onnx_graphsurgeon as gs

    if isinstance(target, gs.Constant):
        return
    if target.dtype is None:
        target.dtype = source.dtype
    target.type = getattr(source, "type", "tensor_type")
    if shapes and source.shape is not None and not is_static(target.shape):
        known = target.shape is not None and len(target.shape) == len(source.shape)
        if not known or is_static(source.shape):
            target.shape = list(source.shape)


def difference(left: Types, right: Types) -> str:
    """How two branches' results differ where TensorRT wants them alike; "" if they may be alike."""
    a, b = left[1], right[1]
    if a is None or b is None:
        return ""
    if len(a) != len(b):
        return f"of rank {len(a)} and {len(b)}"
    if any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a, b, strict=True)):
        return f"of shape {a} and {b}"
    return ""


def surely_equal(left: Types, right: Types) -> bool:
    """Whether two results surely have the same type and shape."""
    if not left[0] or left[0] != right[0] or left[1] is None or right[1] is None:
        return False
    return len(left[1]) == len(right[1]) and all(
        x is not None and x == y for x, y in zip(left[1], right[1], strict=True)
    )
