"""Shape and dtype inference, written back into the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.convert import export_graph

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def dims_of(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """The declared shape: ints, symbolic names, None for unknown dims; None if no shape is declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) if d.HasField("dim_param") else None
        for d in tensor.shape.dim
    ]


def infer_types(graph: gs.Graph) -> int:
    """Run ONNX shape inference with data propagation and keep what it finds, in place.

    Inference that fails leaves the graph as it was: it is a help, never a condition.

    Returns:
        The number of tensors whose dtype or shape became better known.
    """
    import onnx
    import onnx_graphsurgeon as gs

    model = export_graph(graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # onnx raises many types, none documented
        return 0
    tensors: dict[str, Any] = graph.tensors()
    changed = 0
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = tensors.get(value.name)
        if not isinstance(tensor, gs.Variable) or not value.type.HasField("tensor_type"):
            continue
        element = value.type.tensor_type.elem_type
        if element and tensor.dtype is None:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
            changed += 1
        shape = dims_of(value)
        if shape is not None and _better(shape, tensor.shape):
            tensor.shape = shape
            changed += 1
    return changed


def _better(new: list[int | str | None], old: Any) -> bool:
    if old is None or len(old) != len(new):
        return True
    return any(isinstance(n, int) and not isinstance(o, int) for n, o in zip(new, old, strict=True))


def is_static(shape: Any) -> bool:
    """True if every dim is a known non-negative number."""
    return shape is not None and all(isinstance(d, int) and d >= 0 for d in shape)
