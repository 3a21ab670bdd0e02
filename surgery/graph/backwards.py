"""Declared shapes carried back through operators that keep them, where inference from the front left them open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.infer import is_static
from surgery.graph.typed import infer_shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SAME_SHAPE = frozenset(
    {
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike", "Ceil", "Cos", "Cosh",
        "Erf", "Exp", "Floor", "Identity", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid",
        "Sign", "Sin", "Sinh", "Softplus", "Sqrt", "Tan", "Tanh", "Clip", "IsNaN", "IsInf",
    }
)  # fmt: skip
"""Operators whose first input has the shape of the output."""

BROADCAST = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "And", "Or", "Xor", "Equal", "Less", "Greater",
        "LessOrEqual", "GreaterOrEqual",
    }
)  # fmt: skip
"""Operators where an input has the shape of the output if all others are scalars of rank 0."""


def infer_backwards(graph: gs.Graph) -> int:
    """Give operands of elementwise operators the static shape of the output, in place.

    Args:
        graph: The graph, in topological order.

    Returns:
        How many tensors got a shape.
    """
    import onnx_graphsurgeon as gs

    changed = 0
    for node in reversed(graph.nodes):  # topological order
        if node.domain or not node.outputs or not is_static(node.outputs[0].shape):
            continue
        shape = list(node.outputs[0].shape)
        for tensor in _same(node):
            if isinstance(tensor, gs.Variable) and not tensor.is_empty() and not is_static(tensor.shape):
                tensor.shape = shape
                changed += 1
    return changed


def _same(node: Any) -> list[Any]:
    if node.op in SAME_SHAPE:
        return [node.inputs[0]]
    if node.op in BROADCAST:
        wide = [t for t in node.inputs if t.shape is None or len(t.shape)]
        return wide if len(wide) == 1 else []
    return []


SOURCES = frozenset(
    {"Range", "Slice", "Pad", "Expand", "Tile", "TopK", "ConstantOfShape", "Reshape", "OneHot"}
)
"""Operators whose open dims are their own, not those of an operand."""

OPEN = "open:"


def bind_declared(graph: gs.Graph) -> int:
    """Give open dims the sizes that the declared outputs show, in place.

    Every dim that only a run could tell gets a name, inference carries the names to the outputs, and where an output
    is declared with a number, the name stands for it.

    Args:
        graph: The graph, with types inferred.

    Returns:
        How many dims were bound.
    """
    from surgery.graph.infer import _skeleton, dims_of

    sources = [
        t
        for n in graph.nodes
        if n.op in SOURCES
        for t in n.outputs
        if t.shape is not None and None in t.shape
    ]
    if not sources or not any(is_static(t.shape) for t in graph.outputs):
        return 0
    names = {
        t.name: [f"{OPEN}{t.name}:{i}" if d is None else d for i, d in enumerate(t.shape)] for t in sources
    }
    model = _skeleton(graph)
    declared = {v.name: dims_of(v) for v in model.graph.output}
    for values in (model.graph.value_info, model.graph.output):
        for value in values:
            value.type.tensor_type.ClearField("shape")
            for dim in names.get(value.name, ()):
                entry = value.type.tensor_type.shape.dim.add()
                if isinstance(dim, int):
                    entry.dim_value = dim
                else:
                    entry.dim_param = str(dim)
    try:
        inferred = infer_shapes(model, data_prop=True)
    except Exception:  # a help; onnx raises many undocumented types
        return 0
    bound: dict[str, int] = {}
    for value in inferred.graph.output:
        pairs = zip(dims_of(value) or (), declared[value.name] or (), strict=False)
        bound.update(
            {d: n for d, n in pairs if isinstance(d, str) and d.startswith(OPEN) and isinstance(n, int)}
        )
    for tensor in sources:
        tensor.shape = [
            bound.get(n) if d is None else d for n, d in zip(names[tensor.name], tensor.shape, strict=True)
        ]
    return len(bound)
