"""Places that look like a plugin become matches: the plugin's node is written for them, and both are run.

Nothing is concluded from what a place looks like. The nodes as they stand in the graph and the plugin's body run
side by side in ONNX Runtime, on values of the model's own sizes: those of its inputs are drawn as the form says,
everything else that the place reads (sizes computed elsewhere) is what the model has in a run of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.errors import ConfigError, ConversionError, SurgeryError
from surgery.graph.body import Body
from surgery.plugins.definition import PLUGIN_DOMAIN, TensorType
from surgery.plugins.inline import inline_call
from surgery.plugins.recognise_forms import RESULT, Lying, Place
from surgery.plugins.schema import CompareValues, SampleInput

if TYPE_CHECKING:
    from surgery.graph.evaluate import Evaluator
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.registry import Registry

Array = NDArray[Any]
Feeds = Callable[[], Iterable[Mapping[str, Array]]]
"""Gives inputs of the whole model, of several sizes where these are free."""

Opened = Callable[[onnx.ModelProto], AbstractContextManager[onnx.ModelProto | Path]]
"""Puts a model beside its weights, where these are in other files."""

EXTERNAL = onnx.TensorProto.EXTERNAL

ROUNDS = 2
"""Draws for every size, at least."""

LARGE = 4_000_000
"""Numbers in a place's inputs above which one run has to do: bodies take long on a CPU."""

BEFORE = "surgery_before"
"""Name of the result of the graph's own nodes while both are run."""


@dataclass(frozen=True)
class Written:
    """The plugin's part for a place.

    Attributes:
        nodes: Its nodes; they read and make tensors of the graph by name, other names are their own.
        attributes: Those of the plugin's node.
        taps: Tensors inside the place that they read.
        cases: Inputs that it was run on.
        error: The largest difference.
    """

    nodes: tuple[onnx.NodeProto, ...]
    attributes: dict[str, Any]
    taps: tuple[str, ...]
    cases: int
    error: float


class NotProvenError(Exception):
    """A place is no match; the text says why."""


class Prover:
    """Writes plugins for places of one model and proves them.

    Args:
        model: The model.
        types: Types of its tensors.
        registry: Where the plugins are defined.
        opset: Version of ONNX's operators.
        feeds: Gives inputs of the whole model; None if there are none, and places with sizes that the graph does not
            fix cannot be proven.
        opened: Puts a model beside its weights.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        types: Mapping[str, TensorType],
        registry: Registry,
        opset: int,
        feeds: Feeds | None,
        opened: Opened = nullcontext,
    ) -> None:
        self.model = model
        self.types = types
        self.registry = registry
        self.opset = opset
        self.feeds = feeds
        self.opened = opened
        self.nodes = list(model.graph.node)
        self.places = {o: p for p, n in enumerate(self.nodes) for o in n.output if o}
        self.maker = {o: self.nodes[p] for o, p in self.places.items()}
        # Weights in other files are not read: as inputs of a place they are drawn.
        self.elsewhere = {t.name for t in model.graph.initializer if t.data_location == EXTERNAL}
        self.constants = {t.name: t for t in model.graph.initializer if t.name not in self.elsewhere}
        for node in self.nodes:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None and value.data_location != EXTERNAL:
                    self.constants[node.output[0]] = value
        self._values: dict[str, list[Array]] = {}
        self._expected: dict[str, None] = {}

    def expect(self, place: Place, inside: Sequence[int]) -> None:
        """Announce a place, so that one run of the model gives what all of them need of it."""
        given = [t for t in place.inputs.values() if t not in self.constants]
        outside = self._outside([self.nodes[i] for i in inside])
        self._expected.update(dict.fromkeys(given))
        self._expected.update(dict.fromkeys(t for t in outside if not self._from_constants(t, {})))

    def write(self, definition: PluginDefinition, place: Place, inside: Sequence[int]) -> Written:
        """The plugin's part for a place, proven.

        Args:
            definition: The plugin.
            place: The place.
            inside: Places in the list of nodes of what computes its result from its inputs.

        Raises:
            NotProvenError: it cannot stand there, or computes something else.
        """
        try:
            nodes = self._written(definition, place)
            self._has_body(nodes)
            cases, error = self._prove(definition, place, [self.nodes[i] for i in inside], nodes)
        except SurgeryError as problem:
            if problem.code == "bad-definition":
                raise
            raise NotProvenError(problem.message) from None
        read = {n for node in nodes for n in node.input}
        made = next(n for n in nodes if n.domain == PLUGIN_DOMAIN)
        from surgery.plugins.definition import RESERVED, node_attributes

        attributes = {k: v for k, v in node_attributes(made).items() if k not in RESERVED}
        taps = tuple(t for t in dict.fromkeys(place.taps.values()) if t in read)
        return Written(tuple(nodes), attributes, taps, cases, error)

    def _written(self, definition: PluginDefinition, place: Place) -> list[onnx.NodeProto]:
        named = {**place.inputs, **place.taps}
        missing = next((n for n in named.values() if n not in self.types), None)
        if missing is not None:
            raise NotProvenError(f"the type of {missing!r} is not known")
        made = {**place.taps, RESULT: place.result}
        nodes = {tap: self.maker[t] for tap, t in made.items() if t in self.maker}
        types = {n: self.types[t] for n, t in named.items()}
        lying = Lying(definition, place.variant, self.opset, types, nodes, self._value, place.numbers)
        b = Body(self.opset)
        result = place.form.plugin(b, lying)
        b.alias(result, RESULT)
        names = [*place.inputs, *(lying.tap(t) for t in place.taps)]
        function = b.function(PLUGIN_DOMAIN, definition.name, names, [RESULT])
        call = onnx.helper.make_node(definition.name, list(named.values()), [place.result], name="form")
        return inline_call(call, function)

    def _has_body(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """See that the plugin has a body for types as the graph has them, where sizes may be free.

        Raises:
            SurgeryError: it has none.
        """
        from surgery.plugins.attach import attach_bodies

        made = {o for n in nodes for o in n.output}
        read = dict.fromkeys(r for n in nodes for r in n.input if r and r not in made)
        inputs = []
        for name in read:
            known = self.types[name]
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
            inputs.append(onnx.helper.make_tensor_value_info(name, element, known.shape))
        last = onnx.ValueInfoProto(name=nodes[-1].output[0])
        graph = onnx.helper.make_graph(list(nodes), "part", inputs, [last])
        attach_bodies(self._model(graph), self.registry)

    def _model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        imports = [o for o in self.model.opset_import if o.domain != PLUGIN_DOMAIN]
        imports.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
        model.functions.extend(f for f in self.model.functions if f.domain != PLUGIN_DOMAIN)
        return model

    def _value(self, name: str) -> Array | None:
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    # -- running both -------------------------------------------------------------------------------

    def _prove(
        self,
        definition: PluginDefinition,
        place: Place,
        inside: Sequence[onnx.NodeProto],
        replacement: Sequence[onnx.NodeProto],
    ) -> tuple[int, float]:
        from surgery.graph.evaluate import EvaluationError

        given = {t: n for n, t in place.inputs.items() if t not in self.constants}
        constant: dict[int, onnx.NodeProto] = {}
        others = [
            t for t in self._outside(inside) if t not in given and not self._from_constants(t, constant)
        ]
        kept = [constant[p] for p in sorted(constant)]
        nodes = [*kept, *(self._before(n, place.result) for n in inside), *replacement]
        worst, cases = 0.0, 0
        runs = self._sizes(list(given), others)
        rounds = max([ROUNDS, *(len(f) for f in place.form.fills.values())])
        for number, (shapes, values) in enumerate(runs):
            if cases and sum(int(np.prod(s)) for s in shapes.values()) > LARGE:
                continue
            evaluator = self._evaluator(nodes, shapes, values, place.result)
            for turn in range(rounds):
                feeds = {
                    t: self._drawn(place, name, shapes[t], self.types[t].dtype, number * rounds + turn)
                    for t, name in given.items()
                }
                try:
                    got = evaluator.run({**feeds, **values})
                except EvaluationError as error:
                    raise NotProvenError(f"ONNX Runtime does not run it: {error}") from None
                worst = max(worst, _difference(definition, got[BEFORE], got[place.result]))
                cases += 1
        return cases, worst

    def _outside(self, inside: Sequence[onnx.NodeProto]) -> list[str]:
        """Tensors that these nodes read and do not make."""
        from surgery.plugins.recognise import reads

        made = {o for n in inside for o in n.output}
        return list(dict.fromkeys(r for n in inside for r in reads(n) if r not in made and self._known(r)))

    def _from_constants(self, tensor: str, nodes: dict[int, onnx.NodeProto]) -> bool:
        """Whether a tensor is computed from constants alone; the nodes that do so are added, by their places."""
        from surgery.plugins.recognise import reads

        found: dict[int, onnx.NodeProto] = {}
        stack = [tensor]
        while stack:
            name = stack.pop()
            if name in self.constants:
                continue
            place = self.places.get(name)
            if place is None:
                return False
            if place not in found:
                found[place] = self.nodes[place]
                stack += reads(self.nodes[place])
        nodes.update(found)
        return True

    def _known(self, name: str) -> bool:
        inputs = {i.name for i in self.model.graph.input}
        return name in self.maker or name in self.constants or name in self.elsewhere or name in inputs

    @staticmethod
    def _before(node: onnx.NodeProto, result: str) -> onnx.NodeProto:
        if result not in node.output:
            return node
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [BEFORE if o == result else o for o in node.output]
        return copy

    def _sizes(
        self, given: Sequence[str], others: Sequence[str]
    ) -> list[tuple[dict[str, tuple[int, ...]], dict[str, Array]]]:
        """Shapes of the inputs, and values of what else is read."""
        static: dict[str, tuple[int, ...]] = {}
        for name in given:
            shape = self.types[name].shape
            if shape is not None and all(isinstance(d, int) for d in shape):
                static[name] = tuple(int(d) for d in shape if isinstance(d, int))
        if not others and len(static) == len(given):
            return [(static, {})]
        known = self._observed([*given, *others])
        result = []
        for run in range(len(next(iter(known.values()), []))):
            shapes = {n: known[n][run].shape for n in given}
            result.append((shapes, {n: known[n][run] for n in others}))
        if not result:
            raise NotProvenError("sizes are free, and there are no inputs of the model to prove it with")
        return result

    def _observed(self, names: Sequence[str]) -> dict[str, list[Array]]:
        """What these tensors are in runs of the whole model."""
        from surgery.graph.evaluate import EvaluationError, Evaluator

        missing = [n for n in dict.fromkeys(names) if n not in self._values]
        if missing and self.feeds is not None:
            missing = [n for n in dict.fromkeys([*missing, *self._expected]) if n not in self._values]
            wide = onnx.ModelProto()
            wide.CopyFrom(self.model)
            there = {o.name for o in wide.graph.output}
            wide.graph.output.extend(onnx.ValueInfoProto(name=n) for n in missing if n not in there)
            from surgery.plugins.attach import attach_bodies

            try:
                with self.opened(attach_bodies(wide, self.registry)) as ready:
                    evaluator = Evaluator(ready)
                    runs = [evaluator.run(feeds, missing) for feeds in self.feeds()]
            except EvaluationError as error:
                raise NotProvenError(f"ONNX Runtime does not run the model: {error}") from None
            for name in missing:
                self._values[name] = [run[name] for run in runs]
        return {n: self._values.get(n, []) for n in names}

    def _evaluator(
        self,
        nodes: Sequence[onnx.NodeProto],
        shapes: Mapping[str, tuple[int, ...]],
        values: Mapping[str, Array],
        result: str,
    ) -> Evaluator:
        from surgery.graph.evaluate import EvaluationError, Evaluator
        from surgery.plugins.attach import attach_bodies

        inputs = [(n, np.dtype(self.types[n].dtype), s) for n, s in shapes.items()]
        inputs += [(n, v.dtype, v.shape) for n, v in values.items()]
        element = onnx.helper.np_dtype_to_tensor_dtype
        declared = [onnx.helper.make_tensor_value_info(n, element(d), s) for n, d, s in inputs]
        read = {r for node in nodes for r in node.input}
        constants = []
        for name in sorted(read & self.constants.keys()):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(self.constants[name])
            tensor.name = name
            constants.append(tensor)
        kind = element(np.dtype(self.types[result].dtype))
        outputs = [onnx.helper.make_tensor_value_info(n, kind, None) for n in (BEFORE, result)]
        graph = onnx.helper.make_graph(list(nodes), "both", declared, outputs, constants)
        try:
            return Evaluator(attach_bodies(self._model(graph), self.registry))
        except (EvaluationError, ConversionError, ConfigError) as error:
            raise NotProvenError(f"the plugin cannot stand there: {error}") from None

    def _drawn(self, place: Place, name: str, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        from surgery.plugins.samples import filled

        fills = place.form.fills.get(name) or ({},)
        fill = {"dtype": dtype, **fills[seed % len(fills)], "shape": shape}
        value: Array = filled(SampleInput.model_validate(fill), zlib.crc32(f"{name}/{seed}".encode()))
        return value.astype(dtype)


def _difference(definition: PluginDefinition, wanted: Array, found: Array) -> float:
    """The largest difference.

    Raises:
        NotProvenError: it is more than the definition allows, or shape or dtype differ.
    """
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        raise NotProvenError(
            f"the plugin gives {found.dtype}{list(found.shape)}, the graph {wanted.dtype}{list(wanted.shape)}"
        )
    how = definition.file.compare
    atol, rtol = (how.atol, how.rtol) if isinstance(how, CompareValues) else (1e-5, 1e-5)
    if wanted.dtype == np.float16:
        atol, rtol = max(atol, 1e-3), max(rtol, 1e-2)
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    apart = float(np.abs(b - a).max()) if a.size else 0.0
    allowed = atol + rtol * (float(np.abs(a).max()) if a.size else 0.0)
    if not apart <= allowed:
        raise NotProvenError(f"the plugin's result differs from the graph's by up to {apart:g}")
    return apart
