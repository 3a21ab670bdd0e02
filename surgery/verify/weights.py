"""Sizes of free dims that the weights of a model leave no choice about: channels, features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.graph.infer import dims_of
from surgery.graph.typed import infer_shapes
from surgery.verify.sizes import dim_key

if TYPE_CHECKING:
    import onnx

MARK = "surgery:"
"""How the name of a free dim begins while inference carries it through the graph."""

CHANNELS: Mapping[str, tuple[int, int, bool]] = {
    "Conv": (1, 1, True),
    "ConvInteger": (1, 1, True),
    "QLinearConv": (3, 1, True),
    "ConvTranspose": (1, 0, False),
    "BatchNormalization": (1, 0, False),
    "InstanceNormalization": (1, 0, False),
}
"""Operator to (position of its weights, their axis that goes with axis 1 of the data, whether in groups)."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

PRODUCTS: Mapping[str, int] = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
"""Operator to the position of its second factor."""

BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Min", "Max"})

Dims = list[int | str | None]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A size that weights ask for, and the node that has them."""

    size: int
    node: str

    def __str__(self) -> str:
        return f"{self.size}, as {self.node} wants it"


def sizes_from_weights(model: onnx.ModelProto) -> dict[str, Fixed]:
    """Sizes of free dims of inputs, by :func:`surgery.verify.sizes.dim_key`, that weights ask for.

    Every free dim gets a name, onnx's inference carries the names through the graph, and where one meets the weights
    of a convolution, a product, a normalization or a recurrent layer, or a constant that is added or multiplied, the
    weights say its size. A dim that two of them want in different sizes is left out.

    Args:
        model: The model; functions and bodies are not looked into. Not changed.
    """
    from surgery.graph.skeleton import skeleton

    named = skeleton(model)
    initial = {t.name for t in model.graph.initializer}
    for value in named.graph.input:
        if value.name in initial:
            continue
        entries = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims_of(value) or ()):
            if not isinstance(dim, int):
                entries[axis].dim_param = MARK + dim_key(value.name, axis, dim)
    del named.graph.value_info[:]
    for value in named.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        typed = infer_shapes(named, data_prop=True).graph
    except Exception:  # a help, never a condition; onnx raises many undocumented types
        return {}
    shapes = {v.name: dims_of(v) or [] for v in (*typed.input, *typed.value_info, *typed.output)}
    shapes.update({t.name: list(t.dims) for t in typed.initializer})
    found: dict[str, set[int]] = {}
    makers: dict[str, str] = {}
    for node in typed.node:
        for dim, size in _asked(node, [shapes.get(n, []) for n in node.input]):
            if isinstance(dim, str) and dim.startswith(MARK) and isinstance(size, int) and size > 0:
                key = dim.removeprefix(MARK)
                found.setdefault(key, set()).add(size)
                makers.setdefault(key, f"{node.op_type} {node.name or node.output[0]!r}")
    return {k: Fixed(sizes.pop(), makers[k]) for k, sizes in found.items() if len(sizes) == 1}


def _asked(node: onnx.NodeProto, shapes: list[Dims]) -> Iterator[tuple[int | str | None, int | str | None]]:
    """Dims of a node's operands that have to be equal: one of the data, one of the weights."""
    import onnx

    if node.domain not in ("", "ai.onnx") or not shapes:
        return
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    data = shapes[0]
    if node.op_type in CHANNELS:
        place, axis, grouped = CHANNELS[node.op_type]
        weights = shapes[place] if place < len(shapes) else []
        size = weights[axis] if axis < len(weights) else None
        if len(data) > 1 and isinstance(size, int):
            yield data[1], size * (attributes.get("group", 1) if grouped else 1)
    elif node.op_type in PRODUCTS:
        other = shapes[PRODUCTS[node.op_type]] if PRODUCTS[node.op_type] < len(shapes) else []
        yield from _product(data, other)
    elif node.op_type == "Gemm" and len(data) == 2 and len(shapes[1]) == 2:
        one, two = data[0 if attributes.get("transA") else 1], shapes[1][1 if attributes.get("transB") else 0]
        yield from ((one, two), (two, one))
    elif node.op_type in RECURRENT and len(data) == 3 and len(shapes[1]) == 3:
        yield data[2], shapes[1][2]
    elif node.op_type == "LayerNormalization" or node.op_type in BROADCAST:
        yield from _aligned(data, shapes[1] if len(shapes) > 1 else [])


def _product(one: Dims, two: Dims) -> Iterator[tuple[int | str | None, int | str | None]]:
    if one and two:
        inner = two[-2] if len(two) > 1 else two[-1]
        yield one[-1], inner
        yield inner, one[-1]


def _aligned(one: Dims, two: Dims) -> Iterator[tuple[int | str | None, int | str | None]]:
    """Dims that broadcasting puts side by side; a dim of size 1 asks for nothing."""
    for a, b in zip(reversed(one), reversed(two), strict=False):
        if b != 1:
            yield a, b
        if a != 1:
            yield b, a
