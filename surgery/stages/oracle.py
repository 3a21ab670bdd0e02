"""Whether the target takes a node: its table first, its real builder where it is installed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.typed import infer_shapes
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.template import value_info

if TYPE_CHECKING:
    import onnx

    from surgery.pipeline import State
    from surgery.rules.engine.site import Operand, Site

TABLE_NAMES = {
    "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int32": "INT32", "int64": "INT64", "bool": "BOOL",
    "int8": "INT8", "uint8": "UINT8", "float64": "DOUBLE", "int16": "INT16", "uint16": "UINT16",
    "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip

BODIES = frozenset({"If", "Loop", "Scan"})
"""Operators with bodies; what these read from outside is not among their operands."""

PROBE_SECONDS = 30.0

MOST_DIMS = 8
"""Entries up to which a constant vector can be a shape."""

MOST_SIZES = 8
"""Sizes that are tried for a free dim."""

MOST_ELEMENTS = 2**22
"""Elements of an operand up to which sizes are tried."""

Free = str | tuple[str, int]
"""A free dim: its name, or its operand and axis."""


class Oracle:
    """Answers for one run.

    A node that the table does not have is refused. Where that TensorRT is installed, a node that the table has is
    built alone, with the constants it has and with sizes for free dims; numbers and vectors that TensorRT computes
    on the host from shapes cannot be given to a node alone, so there the table's word stands. The engine asks once
    per class of nodes.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.said: dict[str, tuple[Any, ...]] = {}
        """Operator to what TensorRT said about the last node of it that it refused."""

    def takes(self, site: Site, node: onnx.NodeProto) -> bool:
        """Whether the target takes the node as it stands."""
        target = self.state.target
        if site.domain:
            plugin = target.plugin(site.op)
            return plugin is not None and plugin.available
        values = [o for o in (*site.inputs, *site.outputs) if o is not None and not o.constant]
        if any(o.dtype == np.float64 for o in values):
            return False  # parsers narrow it to float32 without a word, inputs and outputs included
        if any(o is not None and o.used and not o.boundary and o.dtype == np.uint8 for o in site.outputs):
            return False  # uint8 is for inputs and outputs of the network only, whatever a node alone may do
        entry = target.operator(site.op)
        if entry is None or not entry.supported:
            return False
        if not target.installed:
            kinds = {TABLE_NAMES.get(o.dtype.name, "?") for o in site.inputs if o is not None and o.dtype}
            return not entry.dtypes or kinds <= {*entry.dtypes, "INT64", "BOOL"}
        if site.op in BODIES:
            return True
        model = self._alone(site, node)
        if model is None:
            return True
        if any(o is not None and o.shape_only and len(o.shape or ()) < 2 for o in site.inputs):
            return self._attributes_pass(model, site.op)
        return self._says(model, site.op) or self._takes_fitting(site, node)

    def takes_body(self, node: gs.Node) -> bool:
        """Whether the target takes a node with bodies; unknown types, or none to ask, count as yes.

        Args:
            node: An If, Loop or Scan of the run's graph.
        """
        from surgery.graph.convert import extract
        from surgery.graph.view import captured_names

        graph = self.state.graph
        if not self.state.target.installed or any(t.name and t.dtype is None for t in node.inputs):
            return True
        if node.op == "Loop" and node.inputs[0].name and not isinstance(node.inputs[0], gs.Constant):
            return True  # a trip count that TensorRT computes on the host cannot be given to a node alone
        own = graph.tensors()
        inner = {t.name for b in node.subgraphs(recursive=True) for t in _made(b)}
        names = [t.name for t in node.inputs if t.name]
        names += [n for b in node.subgraphs() for n in captured_names(b) if n not in inner]
        read = [own[n] for n in dict.fromkeys(names) if n in own and not isinstance(own[n], gs.Constant)]
        if any(t.dtype is None or t.shape is None for t in read):
            return True
        shapes: dict[str, Any] = {t.name: _sizes(t.shape) for t in read}
        outputs = [t.name for t in node.outputs if t.name]
        model = extract(
            graph, [node], [t.name for t in read], outputs, shapes={**shapes, **dict.fromkeys(outputs)}
        )
        return self._says(model, node.op)

    def takes_together(self, nodes: Sequence[gs.Node], size: int) -> bool:
        """Whether the target builds some nodes as a model of their own; unknown types count as yes.

        Args:
            nodes: Nodes of the run's graph, in order, without bodies.
            size: What free dims behind the first count as; the first is 2.
        """
        from surgery.graph.convert import extract

        own = self.state.graph.tensors()
        made = {t.name for n in nodes for t in n.outputs}
        read = {t.name: t for n in nodes for t in n.inputs if t.name and t.name not in made}
        inputs = [own.get(k, t) for k, t in read.items() if not isinstance(t, gs.Constant)]
        if any(t.dtype is None or t.shape is None for t in inputs):
            return True
        shapes: dict[str, Any] = {
            t.name: [d if isinstance(d, int) and d >= 0 else size if k else 2 for k, d in enumerate(t.shape)]
            for t in inputs
        }
        outputs = [t.name for t in nodes[-1].outputs if t.name]
        model = extract(
            self.state.graph,
            nodes,
            [t.name for t in inputs],
            outputs,
            shapes={**dict.fromkeys(made), **shapes},
        )
        return self._says(model, nodes[-1].op)

    def _takes_fitting(self, site: Site, node: onnx.NodeProto) -> bool:
        """Whether the target takes the node with sizes that fit, where those it was asked with do not.

        The inner size of a product whose rows are not known, say, has to be that of its weights. What fits is what
        ONNX Runtime runs.
        """
        free = _free_dims(site)
        before = self.said.get(site.op, ())
        for sizes in ({}, *_other_sizes(site, free)) if free else ():
            model = self._alone(site, node, sizes)
            if model is None or not _runs(model):
                continue
            if not sizes or not self._says(model, site.op):
                return False
            self.said[site.op] = before
            return True
        return False

    def _alone(
        self, site: Site, node: onnx.NodeProto, fixed: Mapping[Free, int] | None = None
    ) -> onnx.ModelProto | None:
        """A model of the node alone, with some free dims fixed; None if too little is known of its operands."""
        import onnx

        inputs, initializers = [], []
        try:
            for operand in {o.name: o for o in site.inputs if o is not None}.values():
                value = operand.value
                if value is not None:
                    initializers.append(onnx.numpy_helper.from_array(value, operand.name))
                else:
                    inputs.append(value_info(_sized(operand, fixed or {})))
            outputs = [_typed(o) for o in site.outputs if o is not None and o.used]
        except NoMatch:
            return None
        graph = onnx.helper.make_graph([node], "probe", inputs, outputs, initializers)
        opsets = [onnx.helper.make_opsetid("", site.opset)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _attributes_pass(self, model: onnx.ModelProto, op: str) -> bool:
        """Whether the real parser has nothing against the attributes of a node; what it says of operands is left."""
        from surgery.stages.trt_model import worker_for

        worker = worker_for(self.state)
        kept = len(self.state.log)
        outcome = worker.parse(model.SerializeToString())
        del self.state.log[kept:]
        against = tuple(e for e in outcome.errors if e.code == "UNSUPPORTED_NODE_ATTR")
        if against:
            self.said[op] = against
        return not against

    def _says(self, model: onnx.ModelProto, op: str) -> bool:
        """Whether the real builder takes a model with one node."""
        from surgery.stages.trt_model import worker_for
        from surgery.trt.types import BuildOptions, Limits

        options = BuildOptions(optimization_level=0, tf32=False)
        worker = worker_for(self.state)
        kept = len(self.state.log)
        outcome = worker.build(model.SerializeToString(), [], options, limits=Limits(PROBE_SECONDS))
        del self.state.log[kept:]  # what a probe says is not about the user's model
        if not outcome.ok:
            self.said[op] = (*outcome.parse_errors, *outcome.errors)
        return outcome.ok


def _sized(operand: Operand, fixed: Mapping[Free, int]) -> Operand:
    from dataclasses import replace

    if operand.shape is None:
        raise NoMatch("the rank is not known")
    sizes = _sizes(operand.shape)
    known = [fixed.get(_free(operand, axis), size) for axis, size in enumerate(sizes)]
    return replace(operand, shape=tuple(known))


def _free(operand: Operand, axis: int) -> Free:
    """What tells a free dim from others: its name, or its place."""
    dim = (operand.shape or ())[axis]
    return dim if isinstance(dim, str) else (operand.name, axis)


def _free_dims(site: Site) -> dict[str, list[Free]]:
    """Free dims of each operand that has any, the last first."""
    found = {}
    for operand in site.inputs:
        if operand is None or operand.constant or not operand.shape:
            continue
        axes = [k for k, d in enumerate(operand.shape) if not isinstance(d, int) or d < 0]
        if axes:
            found[operand.name] = [_free(operand, k) for k in reversed(axes)]
    return found


def _other_sizes(site: Site, free: Mapping[str, Sequence[Free]]) -> Iterator[dict[Free, int]]:
    """Sizes that occur beside free dims, for one of these at a time, then for all of an operand; the rest are 1.

    What is 1 goes with anything along an axis that is broadcast. The sizes are the known dims of operands, entries
    of constant vectors (a shape, the sizes of parts), their product and their sum.
    """
    wanted: list[int] = []
    for operand in site.inputs:
        if operand is None:
            continue
        wanted += [d for d in operand.shape or () if isinstance(d, int)]
        value = operand.value if operand.constant and operand.dtype == np.int64 else None
        if value is not None and value.ndim == 1 and value.size <= MOST_DIMS:
            entries = [int(v) for v in value if v > 1]
            wanted += [*reversed(entries), math.prod(entries), sum(entries)]
    ones: dict[Free, int] = {dim: 1 for dims in free.values() for dim in dims}
    yield ones
    for size in [d for d in dict.fromkeys(wanted) if d > 1][:MOST_SIZES]:
        for dims in free.values():
            yield from ({**ones, dim: size} for dim in dims)
            yield {**ones, **dict.fromkeys(dims, size)}


def _runs(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime runs a model on zeros; not tried where a tensor has more than `MOST_ELEMENTS`."""
    import onnx

    from surgery.graph.evaluate import EvaluationError, Evaluator

    try:
        inferred = infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    for value in (*inferred.graph.input, *inferred.graph.output):
        shape = value.type.tensor_type.shape
        sizes = [d.dim_value for d in shape.dim]
        if not value.type.tensor_type.HasField("shape") or math.prod(sizes) > MOST_ELEMENTS:
            return False
        if any(not d.HasField("dim_value") for d in shape.dim):
            return False  # a size that values decide
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        feeds[value.name] = np.zeros(dims, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    try:
        Evaluator(model, threads=1).run(feeds)  # onnx's reference lets sizes pass that do not fit
    except EvaluationError:
        return False
    return True


def _sizes(shape: Iterable[Any]) -> list[int]:
    """Sizes for free dims, the same for the same name."""
    return [d if isinstance(d, int) and d >= 0 else 2 + sum(map(ord, str(d))) % 3 for d in shape]


def _made(body: gs.Graph) -> list[Any]:
    return [*body.inputs, *(t for n in body.nodes for t in n.outputs)]


def _typed(operand: Operand) -> onnx.ValueInfoProto:
    import onnx

    if operand.dtype is None:
        value = onnx.ValueInfoProto()
        value.name = operand.name
        return value
    kind = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
    return onnx.helper.make_tensor_value_info(operand.name, kind, None)
