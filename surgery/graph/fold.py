"""Constant folding: nodes that depend on nothing but constants and static shapes become constants.

graphsurgeon's own folding is all or nothing: one node that ONNX Runtime refuses to check makes it give up
on the whole graph (measured on TensorFlow exports, which use int32 Min below opset 12). Here the foldable
closure is evaluated in one ONNX Runtime session, and node by node if that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.collection import no_collection
from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.infer import infer_types, is_static
from surgery.graph.load import _MAX_IR_VERSION
from surgery.graph.tidy import drop_dead, replace_uses
from surgery.graph.view import View, has_bodies

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
# Folding a DequantizeLinear would turn a quantized weight back into float32 and lose the quantization.
KEEP = RANDOM | {"DequantizeLinear", "QuantizeLinear"}

SMALL = 4096
"""Bytes up to which constants are compared by value, to compute what is the same only once."""


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What folding did: nodes removed, rounds taken, and nodes that could not be evaluated (with why)."""

    removed: int
    rounds: int
    refused: tuple[tuple[str, str], ...]


@no_collection()
def fold_constants(graph: gs.Graph, *, max_bytes: int = 64 << 20, max_rounds: int = 8) -> FoldResult:
    """Fold in place until nothing changes.

    Args:
        graph: The graph. In the bodies of its nodes, what depends on constants alone is folded too; shapes are not
            inferred there.
        max_bytes: Largest constant to make; larger results stay computed, so that files do not blow up.
        max_rounds: Rounds of inference and folding; each can uncover more static shapes.
    """
    lift_constants(graph)
    before = len(graph.nodes)
    refused: dict[str, str] = {}
    rounds = 0
    while rounds < max_rounds:
        rounds += 1
        infer_types(graph)
        count = len(graph.nodes)
        if _fold_once(graph, max_bytes, refused) or rounds == 1:
            drop_dead(graph)
        if len(graph.nodes) == count:
            break
    inner = sum(_fold_body(body, max_bytes, refused) for body in _bodies(graph))
    return FoldResult(before - len(graph.nodes) + inner, rounds, tuple(sorted(refused.items())))


def _bodies(graph: gs.Graph) -> list[gs.Graph]:
    """Bodies of the graph's nodes, outer ones first: inner ones read what they compute."""
    found: list[gs.Graph] = []
    for node in graph.nodes:
        if has_bodies(node):
            for body in node.subgraphs():
                found += [body, *_bodies(body)]
    return found


def _fold_body(body: gs.Graph, max_bytes: int, refused: dict[str, str]) -> int:
    """Fold what depends on constants alone; how many nodes are gone."""
    before = len(body.nodes)
    folds = any(
        n.op != "Constant" and _only_constants(n) and _foldable(n, set(), max_bytes) for n in body.nodes
    )
    if not folds:
        return 0
    lift_constants(body)
    if _fold_once(body, max_bytes, refused):
        drop_dead(body)
    return before - len(body.nodes)


def _only_constants(node: gs.Node) -> bool:
    """Whether all that a node of a body reads are constants, or Constant nodes."""
    import onnx_graphsurgeon as gs

    made = (
        isinstance(t, gs.Constant) or (t.inputs and t.inputs[0].op == "Constant")
        for t in node.inputs
        if t.name
    )
    return bool(node.inputs) and all(made)


def lift_constants(graph: gs.Graph) -> None:
    """Constant nodes become constant tensors, so that rules see values; outputs of the graph keep their node."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.ir.tensor import LazyValues

    outputs = {id(t) for t in graph.outputs}
    kept = []
    for node in graph.nodes:
        if node.op != "Constant":
            kept.append(node)
            continue
        tensor, value = node.outputs[0], node.attrs.get("value")
        if value is None:
            array = _constant_attribute(node.attrs)
            if array is not None:
                proto = onnx.numpy_helper.from_array(array, tensor.name)
                value = gs.Constant(tensor.name, LazyValues(proto))
        if id(tensor) in outputs or not isinstance(value, gs.Constant):
            kept.append(node)
            continue
        list.clear(tensor.inputs)
        tensor.to_constant(value._values)
    if len(kept) != len(graph.nodes):
        graph.nodes.clear()
        graph.nodes.extend(kept)


def _constant_attribute(attrs: Mapping[str, Any]) -> Any:
    for name, dtype in (
        ("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)
    ):  # fmt: skip
        if name in attrs:
            return np.asarray(attrs[name], dtype)
    return None


def _fold_once(graph: gs.Graph, max_bytes: int, refused: dict[str, str]) -> bool:
    """One pass; whether anything became a constant."""
    outputs = {t.name for t in graph.outputs}
    marked: set[str] = set()

    def folds(node: gs.Node) -> bool:
        return _ready(node, marked) and _foldable(node, outputs, max_bytes) and node.name not in refused

    if not any(_static_sizes(node) is not None or folds(node) for node in graph.nodes):
        return False  # what folds begins at such a node
    view = View(graph)
    known: dict[str, Any] = {}
    foldable: list[int] = []
    for key in sorted(range(len(view.nodes)), key=view.order.__getitem__):
        node = view.nodes[key]
        sizes = _static_sizes(node)
        if sizes is not None:
            known[node.outputs[0].name] = sizes
            marked.add(node.outputs[0].name)
        elif folds(node):
            foldable.append(key)
            marked.update(t.name for t in node.outputs if t.name)
    folded_keys = set(foldable)
    wanted = [
        t.name
        for key in foldable
        for t in view.nodes[key].outputs
        if t.name
        and (t.name in view.outputs or any(u not in folded_keys for u in view.consumers.get(t.name, ())))
    ]
    known.update(_evaluate(graph, [view.nodes[k] for k in foldable], wanted, known, refused))
    values = {n: v for n, v in known.items() if np.asarray(v).nbytes <= max_bytes}
    _put(view, values)
    return bool(values)


def _ready(node: gs.Node, marked: set[str]) -> bool:
    """True if a node reads something, and only constants and what is `marked`."""
    import onnx_graphsurgeon as gs

    for tensor in node.inputs:
        name = tensor.name
        if name and name not in marked and not (isinstance(tensor, gs.Constant) and not is_external(tensor)):
            return False
    return bool(node.inputs)


def _foldable(node: gs.Node, outputs: set[str], max_bytes: int) -> bool:
    """True if the values of a node's outputs may take its place."""
    if node.op in KEEP or node.op == "Constant" or node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op == "Identity" and node.outputs[0].name in outputs:
        return False  # how a constant output is written
    return not has_bodies(node) and not any(_too_big(t, max_bytes) for t in node.outputs)


def _static_sizes(node: gs.Node) -> np.ndarray[Any, Any] | None:
    """What a node makes of sizes that are known: Shape, Size, and the part of a Shape that a node picks; or None."""
    import onnx_graphsurgeon as gs

    if node.domain not in (None, "", "ai.onnx") or not node.inputs:
        return None
    data = node.inputs[0]
    if node.op == "Size":
        return np.asarray(prod(data.shape), dtype=np.int64) if is_static(data.shape) else None
    if node.op == "Shape":
        return (
            np.zeros(0, np.int64) if is_static(data.shape) and not data.shape else _all_known(_sizes_of(node))
        )
    if node.op not in ("Gather", "Slice") or isinstance(data, gs.Constant):
        return None
    made = data.inputs[0] if len(data.inputs) == 1 else None
    if made is None or made.op != "Shape" or made.domain not in (None, "", "ai.onnx"):
        return None
    picked = _picked(node, _sizes_of(made))
    return None if picked is None else _all_known(picked)


def _sizes_of(node: gs.Node) -> list[Any]:
    """What a Shape makes: numbers, and names or None for free sizes; nothing where the rank is not known."""
    dims = list(node.inputs[0].shape or ())
    return dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]


def _picked(node: gs.Node, sizes: list[Any]) -> Any:
    """Entries of a list that a Gather or a Slice takes, if what it takes is constant."""
    import onnx_graphsurgeon as gs

    if not sizes or any(
        t.name and (not isinstance(t, gs.Constant) or is_external(t)) for t in node.inputs[1:]
    ):
        return None
    wanted = [value_of(t).reshape(-1).tolist() if t.name else None for t in node.inputs[1:]]
    if node.op == "Gather":
        places = value_of(node.inputs[1])
        if places.size == 0 or np.any(places < -len(sizes)) or np.any(places >= len(sizes)):
            return None
        return np.asarray(sizes, dtype=object)[places]
    if len(wanted) < 2 or any(w is not None and len(w) != 1 for w in wanted):
        return None  # old forms have attributes
    start, end, step = wanted[0], wanted[1], wanted[3] if len(wanted) > 3 else None
    if start is None or end is None or (step is not None and step[0] < 1):
        return None
    return sizes[start[0] : end[0] : step[0] if step is not None else 1]


def _all_known(sizes: Any) -> np.ndarray[Any, Any] | None:
    """Sizes as a tensor, if there are any and all of them are numbers."""
    table = np.asarray(sizes, dtype=object)
    if table.size == 0 or not all(isinstance(d, (int, np.integer)) and d >= 0 for d in table.reshape(-1)):
        return None
    return table.astype(np.int64)


def _too_big(tensor: Any, max_bytes: int) -> bool:
    if not is_static(tensor.shape):
        return False
    size = np.dtype(tensor.dtype).itemsize if tensor.dtype is not None else 4
    return bool(prod(tensor.shape) * size > max_bytes)


def _evaluate(
    graph: gs.Graph,
    nodes: list[gs.Node],
    wanted: list[str],
    known: dict[str, Any],
    refused: dict[str, str],
) -> dict[str, Any]:
    """Values of `wanted`, and into `refused` what could not be computed; what is the same is computed once."""
    if not wanted:
        return {}
    distinct = _Distinct(known)
    for node in nodes:
        distinct.add(node)
    names = distinct.names
    needed = list(dict.fromkeys(names[n] for n in wanted))
    try:
        found = _run(graph, distinct.nodes, distinct, distinct.feeds, needed)
    except EvaluationError:
        found = _one_by_one(graph, distinct, refused)
    return {n: found[names[n]] for n in wanted if names[n] in found}


def _one_by_one(graph: gs.Graph, distinct: _Distinct, refused: dict[str, str]) -> dict[str, Any]:
    values = dict(distinct.feeds)
    for node, members in zip(distinct.nodes, distinct.members, strict=True):
        read = [distinct.names.get(t.name) for t in node.inputs]
        feeds = {n: values[n] for n in read if n in values}
        made = [t.name for t in node.outputs if t.name]
        try:
            values.update(_run(graph, [node], distinct, feeds, made))
        except EvaluationError as error:
            refused.update(dict.fromkeys(members, str(error)))
    return values


class _Distinct:
    """Nodes of which no two compute the same from the same values.

    Args:
        known: Values that nodes may read, by tensor name.

    Attributes:
        nodes: One node of each kind, in the order in which they were added.
        members: Names of all nodes of each kind.
        names: Tensor name to the name of the one tensor, of those with its value, that is computed or fed.
        feeds: Known values that the nodes read.
        constants: Constants that the nodes read.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.nodes: list[gs.Node] = []
        self.members: list[list[str]] = []
        self.names: dict[str, str] = {}
        self.feeds: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        self._known = known
        self._kinds: dict[Any, int] = {}
        self._values: dict[Any, str] = {}

    def add(self, node: gs.Node) -> None:
        """Add a node; what it reads was added before it, is constant or known."""
        key = (
            node.op,
            tuple(sorted((k, _frozen(v)) for k, v in node.attrs.items())),
            tuple(self._input(t) for t in node.inputs),
            tuple(bool(t.name) for t in node.outputs),
        )
        place = self._kinds.setdefault(key, len(self.nodes))
        if place == len(self.nodes):
            self.nodes.append(node)
            self.members.append([])
        self.members[place].append(node.name)
        for tensor, first in zip(node.outputs, self.nodes[place].outputs, strict=True):
            if tensor.name:
                self.names[tensor.name] = first.name

    def _input(self, tensor: Any) -> str:
        name: str = tensor.name
        if not name or name in self.names:
            return self.names.get(name, "")
        value = self._known.get(name)
        if value is not None:
            key: Any = ("known", value.shape, value.tobytes())
        else:
            key = _content(tensor) or name
        first = self.names[name] = self._values.setdefault(key, name)
        if first == name:
            (self.constants if value is None else self.feeds)[name] = tensor if value is None else value
        return first


def _content(tensor: Any) -> Any:
    """Dtype, shape and value of a constant; None where it is large or not of numbers."""
    import onnx

    proto = getattr(tensor._values, "tensor", None)
    if isinstance(proto, onnx.TensorProto) and 0 < len(proto.raw_data) <= SMALL:
        return proto.data_type, tuple(proto.dims), proto.raw_data
    return None


def _frozen(value: Any) -> Any:
    import onnx_graphsurgeon as gs

    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, gs.Constant):
        return _content(value) or id(value)
    return (type(value), value) if isinstance(value, (int, float, str)) else id(value)


def _run(
    graph: gs.Graph, nodes: Sequence[gs.Node], distinct: _Distinct, feeds: dict[str, Any], wanted: list[str]
) -> dict[str, Any]:
    """Values that nodes make of constants and `feeds`; `distinct` says what their inputs are called there."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    protos = []
    tensors: dict[str, Any] = {}
    for node in nodes:
        proto = OnnxExporter.export_node(node)
        del proto.input[:]
        proto.input.extend(distinct.names.get(t.name, t.name) for t in node.inputs)
        protos.append(proto)
        tensors.update({t.name: t for t in node.outputs})
    read = {n: distinct.constants[n] for proto in protos for n in proto.input if n in distinct.constants}
    body = onnx.helper.make_graph(
        protos,
        "fold",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ],
        [
            OnnxExporter.export_value_info_proto(gs.Variable(n, tensors[n].dtype), do_type_check=False)
            for n in wanted
        ],
        [OnnxExporter.export_tensor_proto(t) for t in read.values()],
    )
    model = onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", graph.opset)],
        ir_version=min(max(graph.ir_version or 8, 4), _MAX_IR_VERSION),
    )
    return Evaluator(model, threads=1).run(feeds)


def _put(view: View, values: dict[str, Any]) -> None:
    """Replace computed tensors by constants wherever they are used."""
    for name, value in values.items():
        key = view.producer[name]
        made = constant(name, np.asarray(value))
        for index, tensor in enumerate(view.nodes[key].outputs):
            if tensor.name != name:
                continue
            if name in view.outputs:
                made.name = f"{name}__value"  # a graph output keeps a producer
                replace_uses(view, name, made)
                _write_output(view, key, index, tensor, made)
                continue
            replace_uses(view, name, made)
            tensor.name = f"{name}__folded"  # the constant takes the name over


def _write_output(view: View, key: int, index: int, tensor: Any, value: Any) -> None:
    """Let an Identity of a constant make a graph output."""
    import onnx_graphsurgeon as gs

    node = view.nodes[key]
    node.outputs[index] = gs.Variable(f"{tensor.name}__folded", tensor.dtype, tensor.shape)
    view.graph.nodes.append(gs.Node("Identity", f"{tensor.name}__output", {}, [value], [tensor]))
