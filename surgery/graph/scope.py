"""Names inside bodies: who makes a tensor, and what its value is where that follows from constants and shapes.

graphsurgeon's bodies refer to outer tensors by object on import, and only by name after edits or where a body hands
an outer tensor through, so names are looked up again here, innermost graph first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.convert import is_external, value_of
from surgery.graph.evaluate import EvaluationError, evaluate_somehow
from surgery.graph.fold import RANDOM
from surgery.graph.infer import is_static

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

MOST_VALUES = 1 << 20
"""Elements of a value that is computed here to see what a condition is."""

PLAIN: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Less": np.less, "LessOrEqual": np.less_equal,
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Equal": np.equal, "And": np.logical_and,
    "Or": np.logical_or, "Not": np.logical_not, "Identity": np.array,
}  # fmt: skip
"""Operators on whole numbers and booleans that numpy computes alike: counting rounds asks for many of them."""

SEQUENCE_OPS = frozenset(
    {
        "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
        "SplitToSequence", "ConcatFromSequence", "SequenceMap", "Optional", "OptionalGetElement",
        "OptionalHasElement",
    }
)  # fmt: skip
"""Operators on sequences and optionals; no TensorRT has one of them."""


@dataclass
class Scope:
    """A graph and the graphs around it: who makes a tensor, and what is known to hold here."""

    graph: gs.Graph
    parent: Scope | None = None
    assumed: Mapping[str, Any] = field(default_factory=dict)
    producers: dict[str, gs.Node] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    memo: dict[str, NDArray[Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {t.name: t for t in self.graph.inputs}
        for node in self.graph.nodes:
            self.add(node)

    def add(self, node: gs.Node) -> None:
        """Take note of a node of this graph."""
        for tensor in node.outputs:
            if tensor.name:
                self.producers[tensor.name] = node
                self.memo.pop(tensor.name, None)

    @property
    def depth(self) -> int:
        """How many graphs are around this one."""
        return 0 if self.parent is None else self.parent.depth + 1

    def owner(self, name: str) -> Scope | None:
        """The innermost graph that has a tensor of that name as an input or makes it."""
        if name in self.producers or name in self.inputs:
            return self
        return self.parent.owner(name) if self.parent is not None else None

    def tensor(self, tensor: Any) -> Any:
        """The object that stands for a tensor of that name here."""
        import onnx_graphsurgeon as gs

        if isinstance(tensor, gs.Constant) or not tensor.name:
            return tensor
        owner = self.owner(tensor.name)
        if owner is None:
            return tensor
        node = owner.producers.get(tensor.name)
        if node is None:
            return owner.inputs[tensor.name]
        return next(t for t in node.outputs if t.name == tensor.name)


def any_used(tensors: Sequence[Any], scope: Scope) -> bool:
    """Whether anything reads one of the tensors that a node makes."""
    outputs = {t.name for t in scope.graph.outputs}
    return any(t.name and (t.outputs or t.name in outputs) for t in tensors)


def known_value(tensor: Any, scope: Scope, depth: int = 200) -> NDArray[Any] | None:
    """The value of a tensor that depends on constants and static shapes alone, if it is small."""
    import onnx_graphsurgeon as gs

    if isinstance(tensor, gs.Constant):
        if is_external(tensor) or int(np.prod(tensor.shape, dtype=np.int64)) > MOST_VALUES:
            return None
        return value_of(tensor)
    here: Scope | None = scope
    while here is not None:
        if tensor.name in here.assumed:
            return np.asarray(here.assumed[tensor.name])
        here = here.parent
    owner = scope.owner(tensor.name) if tensor.name else None
    if owner is None or tensor.name not in owner.producers or depth == 0:
        return None
    if tensor.name not in owner.memo:
        owner.memo[tensor.name] = None
        owner.memo.update(_computed(owner.producers[tensor.name], owner, depth - 1))
    return owner.memo[tensor.name]


def _computed(node: gs.Node, scope: Scope, depth: int) -> dict[str, NDArray[Any] | None]:
    """Values of a node's outputs, if they are known."""
    if node.domain not in (None, "", "ai.onnx") or node.op in RANDOM or node.op in SEQUENCE_OPS:
        return {}
    if any(True for _ in node.subgraphs()):
        return {}
    if node.op in ("Shape", "Size") and not isinstance(known_value(node.inputs[0], scope, depth), np.ndarray):
        shape = scope.tensor(node.inputs[0]).shape
        if not is_static(shape):
            return {}
        dims = np.asarray(shape, np.int64)
        start, end = node.attrs.get("start", 0), node.attrs.get("end", len(dims))
        found = dims[start:end] if node.op == "Shape" else np.asarray(np.prod(dims, dtype=np.int64))
        return {node.outputs[0].name: found}
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in node.inputs:
        value = known_value(tensor, scope, depth) if tensor.name else None
        if tensor.name and value is None:
            return {}
        if value is not None:
            feeds[tensor.name] = value
    return _run(node, feeds, int(scope.graph.opset))


def _run(node: gs.Node, feeds: Mapping[str, NDArray[Any]], opset: int) -> dict[str, NDArray[Any] | None]:
    import onnx
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    plain = PLAIN.get(node.op)
    if plain is not None and opset >= 7 and all(v.dtype.kind in "iub" for v in feeds.values()):
        return {node.outputs[0].name: np.asarray(plain(*(feeds[t.name] for t in node.inputs)))}
    helper = onnx.helper
    outputs = [helper.make_empty_tensor_value_info(t.name) for t in node.outputs if t.name]
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in feeds.items()]
    graph = helper.make_graph([OnnxExporter.export_node(node)], "value", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        return dict(evaluate_somehow(model, {}))
    except EvaluationError:
        return {}
