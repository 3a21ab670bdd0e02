"""Which Ifs are better computed both ways: products of free size that TensorRT-RTX does not run inside a conditional.

Measured with TensorRT-RTX 1.6 on an H200: a MatMul or Gemm with a free batch inside a branch fails when it runs
("cuDNN graph compilation failed", with a number of rows that was never set). Outside it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.graph.infer import is_static
from surgery.graph.scope import Scope

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
"""Operators that run through libraries of products."""

TOTAL = PRODUCTS | frozenset(
    {
        "Abs", "Add", "And", "AveragePool", "BatchNormalization", "Ceil", "Celu", "Clip", "Constant", "Cos", "Elu",
        "Equal", "Erf", "Exp", "Flatten", "Floor", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "Greater",
        "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
        "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Max", "MaxPool", "Min",
        "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softmax",
        "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
"""Operators that give a result whatever their operands' values are, and always the same one."""

MOST_NODES = 64
"""Nodes that both branches have together, at most."""

MOST_WEIGHTS = 1 << 20
"""Elements of all constants of both branches, at most: what is computed in vain stays small."""


def worth_both(branches: Sequence[gs.Graph], scope: Scope) -> bool:
    """Whether both branches are computed rather than one: small, sure to give a result, and with such a product.

    Args:
        branches: Both branches of an If whose condition is data; types in them have been inferred.
        scope: The graph around.
    """
    import onnx_graphsurgeon as gs

    nodes = [n for b in branches for n in b.nodes]
    if len(nodes) > MOST_NODES or any(n.domain not in (None, "", "ai.onnx") for n in nodes):
        return False
    if not all(n.op in TOTAL for n in nodes):
        return False
    constants = {t.name: t for n in nodes for t in n.inputs if isinstance(t, gs.Constant)}
    if sum(_elements(t.shape) for t in constants.values()) > MOST_WEIGHTS:
        return False
    return any(
        n.op in PRODUCTS and any(not is_static(inner.tensor(t).shape) for t in n.inputs if t.name)
        for b in branches
        for inner in (Scope(b, scope),)
        for n in b.nodes
    )


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for dim in shape:
        count *= int(dim)
    return count
