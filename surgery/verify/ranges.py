"""What values an input may take, from how the model uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.infer import dims_of

if TYPE_CHECKING:
    import onnx

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


def ranges_from_use(model: onnx.ModelProto) -> dict[str, Span]:
    """For inputs of whole numbers that index something: 0 <= value < the smallest dim that they index.

    Found by following each input through operators that hand values on. Other inputs are left out.
    """
    import onnx

    try:
        shaped = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a help, never a condition; onnx raises many undocumented types
        shaped = model
    graph = shaped.graph
    shapes = {v.name: dims_of(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes.update({t.name: list(t.dims) for t in graph.initializer})
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            consumers.setdefault(name, []).append((node, i))
    whole = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
    found: dict[str, Span] = {}
    for value in graph.input:
        if value.type.tensor_type.elem_type in whole:
            bounds = _bounds(value.name, consumers, shapes)
            if bounds:
                found[value.name] = (0, min(bounds))
    return found


def _bounds(
    name: str,
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]],
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
