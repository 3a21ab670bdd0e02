"""A model as nodes to leave out: any set of them makes a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from surgery.diagnose.facts import Facts, Kind, kind_of, used
from surgery.diagnose.static import CONSTANT, Flow
from surgery.diagnose.workcopy import declare

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SMALL = 4096
"""Elements up to which a constant that is computed is stored, so that it stays one when its nodes go."""

CONSTANT_SECONDS = 60.0
"""Time that small constants may take to compute; a loop in them may not end."""

ROUNDS = 12
"""Guesses of types that are made one after the other."""


class Parts:
    """Units of one model that can be left out: nodes, or nodes that hang together by a tensor of no known type.

    Constant nodes are no units: what they make is stored. Local functions are expanded first.

    Args:
        model: The model; not changed.
        values: What tensors were when the model was run, for shapes that cannot be inferred.

    Attributes:
        units: Positions of nodes in the main graph; a unit is left out as a whole.
        guessed: Tensors whose type is a guess: outputs of operators that nobody knows, or that are wrong.
    """

    def __init__(self, model: onnx.ModelProto, values: Mapping[str, NDArray[Any]] | None = None) -> None:
        from surgery.graph.functions import inline_functions

        self.model = inline_functions(model)
        self._store_constants()
        self.guessed: list[str] = []
        self._facts = self._typed(values or {})
        self._kinds = self._facts.main.kinds
        self._constants = {t.name: t for t in self.model.graph.initializer}
        self._sparse = {t.values.name for t in self.model.graph.sparse_initializer}
        self._store_computed()
        self._reads = [list(dict.fromkeys(used(n))) for n in self.model.graph.node]
        self.units = self._units()

    # -- preparing --------------------------------------------------------------------------------------------------

    def _store_constants(self) -> None:
        import onnx

        graph = self.model.graph
        for i in reversed(range(len(graph.node))):
            node = graph.node[i]
            if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
                continue
            tensor = _tensor_of(node)
            if tensor is not None:
                stored = onnx.TensorProto()
                stored.CopyFrom(tensor)
                stored.name = node.output[0]
                graph.initializer.append(stored)
                del graph.node[i]

    def _typed(self, values: Mapping[str, NDArray[Any]]) -> Facts:
        for _ in range(ROUNDS):
            facts = Facts(self.model)
            known = facts.main.kinds
            before = dict(known)
            added = 0
            for node in self.model.graph.node:
                for name in node.output:
                    if not name or _complete(known.get(name)):
                        continue
                    if name in values:
                        kind = Kind(str(values[name].dtype), tuple(values[name].shape))
                    elif node.input and all(_complete(before.get(n)) for n in node.input if n):
                        # Nobody knows what it makes, or its attributes are wrong; many operators keep the kind
                        # of their first operand.
                        kind = before[node.input[0]]
                        self.guessed.append(name)
                    else:
                        continue
                    self._declare(name, kind)
                    known[name] = kind
                    added += 1
            if not added:
                break
        return facts

    def _declare(self, name: str, kind: Kind) -> None:
        graph = self.model.graph
        for values in (graph.value_info, graph.output):
            for value in values:
                if value.name == name:
                    value.CopyFrom(declare(name, kind))
                    return
        graph.value_info.append(declare(name, kind))

    def _store_computed(self) -> None:
        """Small constants that nodes compute, as values, for candidates that lack those nodes."""
        import onnx

        from surgery.graph.deadline import EndlessError, at_most
        from surgery.graph.evaluate import EvaluationError, evaluate_somehow

        flow = Flow(self._facts)
        nodes, names = [], []
        for place in self._facts.places:
            if place.scope is not self._facts.main or not place.node.output:
                continue
            if any(a.HasField("g") for a in place.node.attribute) or not place.node.input:
                continue
            if all(flow.level(place, n) == CONSTANT for n in place.node.output if n) and all(
                n in self._constants or n in names for n in place.node.input if n
            ):
                nodes.append(place.node)
                names += [n for n in place.node.output if n and _size(self._kinds.get(n)) <= SMALL]
        self._computed: dict[str, onnx.TensorProto] = {}
        if not nodes:
            return
        read = {n for node in nodes for n in node.input}
        made = onnx.helper.make_graph(
            nodes, "constants", [], [onnx.ValueInfoProto(name=n) for n in names],
            [t for t in self._constants.values() if t.name in read],
        )  # fmt: skip
        model = onnx.helper.make_model(
            made, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        try:
            with at_most(CONSTANT_SECONDS):
                found = evaluate_somehow(model, {})
        except (
            EvaluationError,
            EndlessError,
        ):  # they become inputs then, which may make another failure, and that is seen
            return
        self._computed = {n: onnx.numpy_helper.from_array(v, n) for n, v in found.items()}

    def _units(self) -> list[tuple[int, ...]]:
        """Nodes joined where the tensor between them could not be declared as an input."""
        nodes = self.model.graph.node
        leader = list(range(len(nodes)))

        def find(i: int) -> int:
            while leader[i] != i:
                leader[i] = leader[leader[i]]
                i = leader[i]
            return i

        maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
        for i, reads in enumerate(self._reads):
            for name in reads:
                if name in maker and name not in self._computed and not _complete(self._kinds.get(name)):
                    a, b = sorted((find(maker[name]), find(i)))
                    leader[b] = a
        together: dict[int, list[int]] = {}
        for i in range(len(nodes)):
            together.setdefault(find(i), []).append(i)
        return [tuple(v) for v in together.values()]

    # -- candidates -------------------------------------------------------------------------------------------------

    def model_of(self, units: Iterable[int]) -> onnx.ModelProto:
        """The model that some units make: what they lack becomes inputs, what nothing reads becomes outputs."""
        import onnx

        kept = sorted(i for u in units for i in self.units[u])
        whole = self.model.graph
        nodes = [whole.node[i] for i in kept]
        made = {o for n in nodes for o in n.output if o}
        read = dict.fromkeys(name for i in kept for name in self._reads[i])
        model = onnx.ModelProto()
        model.ir_version = self.model.ir_version
        model.producer_name = "surgery reduce"
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph = model.graph
        graph.name = whole.name or "reduced"
        graph.node.extend(nodes)
        self._inputs(graph, read, made)
        self._outputs(graph, nodes, set(read))
        outside = {o.name for o in graph.output}
        for name in made - outside:
            kind = self._kinds.get(name)
            if kind is not None and _complete(kind):
                graph.value_info.append(declare(name, kind))
        return model

    def _inputs(self, graph: onnx.GraphProto, read: Iterable[str], made: set[str]) -> None:
        """What is read and not made: constants as they are, inputs of the model, and else new inputs."""
        whole = self.model.graph
        declared = {v.name for v in whole.input}
        wanted = set(read)
        graph.input.extend(v for v in whole.input if v.name in wanted and v.name not in self._constants)
        for name in read:
            if name in made:
                continue
            stored = self._constants.get(name, self._computed.get(name))
            if stored is not None:
                graph.initializer.append(stored)
            elif name in self._sparse:
                graph.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name == name)
            elif name not in declared:
                graph.input.append(_declared(name, self._kinds.get(name)))

    def _outputs(self, graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], read: set[str]) -> None:
        """Outputs of the model, and what is made and not read."""
        wanted = {o.name: o for o in self.model.graph.output}
        for node in nodes:
            for name in node.output:
                if name in wanted and _complete(kind_of(wanted[name])):
                    graph.output.append(wanted[name])
                elif name and (name in wanted or name not in read):
                    graph.output.append(_declared(name, self._kinds.get(name)))

    def trivial(self) -> onnx.ModelProto | None:
        """A model with the same inputs and nothing in it but an Identity; None if no input can be copied."""
        import onnx

        inputs = [v for v in self.model.graph.input if v.name not in self._constants]
        first = next((v for v in inputs if _complete(kind_of(v))), None)
        if first is None:
            return None
        model = onnx.ModelProto()
        model.ir_version = self.model.ir_version
        model.opset_import.extend(self.model.opset_import)
        model.graph.name = "nothing"
        model.graph.input.extend(inputs)
        model.graph.node.append(onnx.helper.make_node("Identity", [first.name], ["same"], name="same"))
        model.graph.output.append(declare("same", kind_of(first)))
        return model


def _declared(name: str, kind: Kind | None) -> onnx.ValueInfoProto:
    import onnx

    return declare(name, kind) if kind is not None and _complete(kind) else onnx.ValueInfoProto(name=name)


def _complete(kind: Kind | None) -> bool:
    return (
        kind is not None
        and kind.dtype is not None
        and kind.dims is not None
        and not kind.dtype.startswith(("sequence", "optional", "map", "sparse"))
    )


def _size(kind: Kind | None) -> int:
    if kind is None or kind.dims is None:
        return SMALL
    size = 1
    for dim in kind.dims:
        size *= dim if isinstance(dim, int) else SMALL
    return size


def _tensor_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor."""
    import numpy as np
    import onnx

    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in ("value_int", "value_ints"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.array(value, np.int64))
        if attribute.name in ("value_float", "value_floats"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.array(value, np.float32))
    return None


def with_random_weights(model: onnx.ModelProto, base: Any, seed: int = 0) -> tuple[onnx.ModelProto, int]:
    """A copy with other numbers in its weights, and how many tensors that were; shapes and types stay.

    Floats of more than 16 elements get normal numbers of the same spread, positive ones where all were, and 8-bit
    integers of more than 64 elements get random ones. Other constants say shapes and axes, and stay.

    Args:
        model: The model; not changed.
        base: Folder that external data is relative to, or None.
        seed: Of the random numbers.
    """
    import numpy as np
    import onnx

    from surgery.graph.load import tensors_of
    from surgery.graph.outside import take_in

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)
    count = 0
    for tensor in tensors_of(copy.graph):
        size = int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1
        floats = tensor.data_type in (1, 10, 11, 16)
        bytes_ = tensor.data_type in (2, 3)
        if not (floats and size > 16) and not (bytes_ and size > 64):
            continue
        take_in(tensor, base)
        old = onnx.numpy_helper.to_array(tensor)
        name = tensor.name
        if bytes_:
            span = np.iinfo(old.dtype)
            new = rng.integers(span.min, span.max + 1, old.shape).astype(old.dtype)
        else:
            wide = old.astype(np.float64)
            spread = float(np.nanstd(wide)) or 1.0
            drawn = rng.normal(0.0, spread, old.shape)
            new = (np.abs(drawn) + 1e-3 if (wide > 0).all() else drawn).astype(old.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, name))
        count += 1
    return copy, count
