"""Plugins found by structure: parts of a graph that compute what a plugin's body computes.

Every plugin has a body in standard operators, which is a function of its attributes and of the types of its inputs.
Bodies built for the plugin's samples, and with other values of attributes that have few, are looked for in the graph
without regard to numbers. Where one lies, the attributes are solved for, and the body is built anew from what was
found: only if that is the graph's expression, number by number, is it a match. Names of tensors and nodes, the order
of nodes and of commuted operands, and unrelated nodes make no difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.plugins.attach import TargetVersion, ships
from surgery.plugins.definition import TensorType
from surgery.plugins.recognise_forms import Place, forms_of, loose_graph, places
from surgery.plugins.recognise_match import Match as Laid
from surgery.plugins.recognise_match import content, find
from surgery.plugins.recognise_prove import Feeds, NotProvenError, Opened, Prover
from surgery.plugins.recognise_solve import (
    Bodies,
    Form,
    Pattern,
    Reading,
    Solver,
    alternatives,
    frozen,
)
from surgery.plugins.recognise_terms import Array, Op, Terms, Value, below, terms_of
from surgery.plugins.recognise_unread import Given, Types, ways
from surgery.plugins.schema import version_key

if TYPE_CHECKING:
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.from_numbers import FromNumbers
    from surgery.plugins.recognise_unread import Zeros
    from surgery.plugins.registry import Registry
    from surgery.plugins.schema import Attribute, Sample

PLUMBING = frozenset({
    "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape",
    "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that compute nothing. A body with less than two others is recognised only when asked for by name."""

LARGE = 128
"""How much larger than in a sample dims of inputs are made too: bodies of many boxes are written differently."""

SEVERAL = 16
"""Dims from which on that is done."""

TOO_MUCH = 1 << 24
"""Elements of an input for which it is not."""

COMBINATIONS = 48
"""Combinations of values of attributes that have few, for one sample."""

SEARCHES: tuple[tuple[int, Form], ...] = (
    (0, "written"),
    (0, "folded"),
    (1, "written"),
    (1, "folded"),
    (2, "written"),
)
"""How bodies are looked for, one way after the other: see `configurations`."""

SETTINGS = 12
"""Configurations of one structure that the search for attributes begins at."""


@dataclass(frozen=True)
class Match:
    """A part of a graph that is a plugin.

    Attributes:
        plugin: The plugin.
        attributes: Its attributes, defaults included; those that are not set are left out.
        undetermined: Attributes that the body does not depend on; any value computes the same.
        inputs: Names of tensors, "" for inputs that are left out.
        outputs: Names of tensors, "" for outputs that the graph does not compute.
        nodes: Names of the graph's nodes that compute this, in the order of the graph.
        places: Where these are in the list of nodes.
        values: The first value that each of them makes.
        proof: How it is known that both compute the same.
        why: Why this plugin, where several were found for a node of it.
        form: Name of the form that it is written in; "" for the plugin's body.
        replacement: Nodes to put in its place, where that is not the plugin's node alone.
        taps: Values inside that these read.
        error: Largest difference of the proof by numbers.
        zeros: Zeros that stand in for inputs that nothing reads, by their name in `inputs`.
    """

    plugin: PluginDefinition
    attributes: Mapping[str, Any]
    undetermined: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    places: tuple[int, ...]
    values: tuple[str, ...]
    proof: str
    why: str = ""
    form: str = ""
    replacement: tuple[onnx.NodeProto, ...] = ()
    taps: tuple[str, ...] = ()
    error: float = 0.0
    zeros: Mapping[str, Zeros] = field(default_factory=dict)


@dataclass(frozen=True)
class _Template:
    """A configuration whose body is looked for."""

    bodies: Bodies
    types: Types
    pattern: Pattern
    settings: dict[Any, Mapping[str, Any]]


def recognise(
    model: onnx.ModelProto,
    registry: Registry,
    target: TargetVersion | None = None,
    *,
    plugins: Sequence[str] = (),
    per_sample: bool = False,
    folded: bool = True,
    misses: dict[str, str] | None = None,
    feeds: Feeds | None = None,
    opened: Opened = nullcontext,
) -> list[Match]:
    """The plugins that a model computes in standard operators, in the order of its nodes; no two overlap.

    Args:
        model: A model with its weights, or with types and constants declared. It is not changed.
        registry: Where the plugins are defined.
        target: Only plugins that this TensorRT ships; None for all.
        plugins: Names of plugins to look for; all of them if empty, except those that are a single operator.
        per_sample: Whether plugins whose interface declares shapes without the batch count as shipped.
        folded: Look for bodies with constants and static shapes folded too.
        misses: Receives, by name of plugin, why the place that comes nearest to one that was not found is none.
        feeds: Gives inputs of the model, to prove forms with whose sizes the graph does not fix.
        opened: Puts a model beside its weights, where these are in other files, to be run on these inputs.

    Raises:
        ConfigError: a plugin that is named is not in the registry.
    """
    from surgery.plugins.types import tensor_types

    definitions = _newest(
        d for d in _wanted(registry, plugins) if target is None or ships(d, target, per_sample)
    )
    graph = terms_of(model)
    types = tensor_types(model, registry)
    finder = _Finder(model, graph, types, bool(plugins))
    found: list[Match] = []
    if plugins:  # a constant is best left as it is, unless its plugin is asked for
        found = [m for d in definitions for m in finder.in_numbers(d)]
    for breadth, form in SEARCHES:
        for definition in definitions if folded or form == "written" else ():
            own = [m for m in found if m.plugin is definition]
            found += finder.matches(definition, form, breadth, own)
    found += _in_forms(definitions, finder, Prover(model, types, registry, graph.opset, feeds, opened))
    if misses is not None:
        names = {m.plugin.name for m in found}
        misses.update({n: text for n, (_, text) in sorted(finder.misses.items()) if n not in names})
    return _choose(found, target)


def _in_forms(definitions: Sequence[PluginDefinition], finder: _Finder, prover: Prover) -> Iterator[Match]:
    """The plugins that the graph computes in one of their forms."""
    forms = [(d, forms_of(d)) for d in definitions]
    if not any(f for _, f in forms):
        return
    model = prover.model
    terms = terms_of(model)
    loose = loose_graph(terms)
    candidates = []
    for definition, own in forms:
        for place in places(terms, loose, own):
            inside = finder.between(place.inputs.values(), [place.result])
            if finder.by_name or len(inside) > 1:  # the target takes a single operator as it is
                candidates.append((definition, place, inside))
                prover.expect(place, inside)
    for definition, place, inside in candidates:
        node = model.graph.node[inside[-1]]
        where = f"at {node.name or node.output[0]!r}, in form {place.form.name!r}"
        try:
            yield _in_form(model, definition, place, inside, prover)
        except NotProvenError as error:
            finder.miss(definition, 0.0, f"{where}: {error}")


def _in_form(
    model: onnx.ModelProto, definition: PluginDefinition, place: Place, inside: Sequence[int], prover: Prover
) -> Match:
    written = prover.write(definition, place, inside)
    nodes = [model.graph.node[p] for p in inside]
    return Match(
        definition,
        written.attributes,
        (),
        tuple(place.inputs.values()),
        (place.result,),
        tuple(n.name or n.output[0] for n in nodes),
        tuple(inside),
        tuple(next((o for o in n.output if o), "") for n in nodes),
        f"these {len(inside)} nodes and the plugin's body were run on {written.cases} inputs; their results differ "
        f"by up to {written.error:.2g}",
        form=place.form.name,
        replacement=written.nodes,
        taps=written.taps,
        error=written.error,
    )


def _newest(definitions: Iterable[PluginDefinition]) -> list[PluginDefinition]:
    """One of each definition: versions that compute the same have one body."""
    best: dict[Path, PluginDefinition] = {}
    for definition in definitions:
        known = best.get(definition.folder)
        if known is None or version_key(known.version) < version_key(definition.version):
            best[definition.folder] = definition
    return list(best.values())


def _wanted(registry: Registry, plugins: Sequence[str]) -> list[PluginDefinition]:
    """The definitions to look for, in a fixed order."""
    if plugins:
        found = [d for name in dict.fromkeys(plugins) for d in registry.versions_of(name)]
    else:
        found = registry.definitions()
    return sorted(found, key=lambda d: (d.name, d.version))


class _Finder:
    """Looks for plugins in one graph."""

    def __init__(
        self, model: onnx.ModelProto, graph: Terms, types: Mapping[str, TensorType], by_name: bool
    ) -> None:
        self.model = model
        self.graph = graph
        self.types = types
        self.by_name = by_name
        self.by_kind = graph.by_kind()
        self.present = frozenset(op.kind for op in below(list(graph.values.values())))
        self.misses: dict[str, tuple[float, str]] = {}
        self.plain: dict[Path, Bodies] = {}
        self.known: dict[tuple[Path, Form], dict[Any, _Template]] = {}
        self.always: dict[tuple[Path, Form], set[str]] = {}  # operators that all bodies have so far
        self.unread = _unread_inputs(model, types)
        self.constants = _floats(graph)
        self.producer = {o: p for p, n in enumerate(model.graph.node) for o in n.output if o}

    def matches(
        self, definition: PluginDefinition, form: Form, breadth: int, before: Sequence[Match] = ()
    ) -> list[Match]:
        """The places of a plugin that bodies of some breadth add to those found before."""
        key = (definition.folder, form)
        if breadth and not self._left(self.always.get(key, set()), before):
            return []
        plain_bodies = self.plain.setdefault(
            definition.folder, Bodies(definition, self.graph.opset, "written")
        )
        bodies = plain_bodies if form == "written" else Bodies(definition, self.graph.opset, form)
        known = self.known.setdefault(key, {})
        fresh = []
        for attributes, types, outputs in configurations(definition, breadth):
            plain = plain_bodies.build(attributes, types, outputs)
            if plain is None:
                continue
            # What computes with data stays when a body is folded, which takes long.
            kinds = sorted(
                _from_data(plain) if form == "folded" else {op.kind for op in below(plain.results)}
            )
            shared = self.always.get(key)
            self.always[key] = set(kinds) if shared is None else shared & set(kinds)
            if not self.present.issuperset(kinds):
                continue
            pattern = bodies.build(attributes, types, outputs)
            if pattern is None:
                continue
            kinds = [op.kind for op in below(pattern.results)]
            if not self._can_have(kinds):
                continue
            signature = _signature(pattern)
            if signature not in known:
                known[signature] = _Template(bodies, types, pattern, {})
                fresh.append(known[signature])
            settings = known[signature].settings
            if len(settings) < SETTINGS:
                settings.setdefault(frozen(attributes), attributes)
        return [m for template in fresh for m in self._places(template)]

    def _places(self, template: _Template) -> Iterator[Match]:
        for root, place in self._starts(template.pattern):
            laid = find(template.pattern.results, self.graph, self.by_kind, root, place)
            if laid is not None:
                yield from self._solved(template, laid)

    def _left(self, always: set[str], found: Sequence[Match]) -> bool:
        """Whether the graph has operators, of each kind that the bodies share, in no match yet."""
        covered = {p for m in found for p in m.places}
        inside = self.present - {op.kind for op in self.graph.ops}  # operators in bodies of Loop and If alone
        return all(
            kind in inside or any(not covered.issuperset(op.nodes) for op in self.by_kind.get(kind, ()))
            for kind in always
        )

    def _can_have(self, kinds: Sequence[str]) -> bool:
        if not kinds or not self.present.issuperset(kinds):
            return False
        return self.by_name or sum(k not in PLUMBING for k in kinds) >= 2

    def _starts(self, pattern: Pattern) -> Iterator[tuple[int, Op]]:
        """Where to begin: the result with most below it, at each node of its kind."""
        sizes = [sum(1 for _ in below([v])) for v in pattern.results]
        root = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
        op = pattern.results[root].op
        if op is not None:
            for place in self.by_kind.get(op.kind, ()):
                yield root, place

    def _solved(self, template: _Template, laid: Laid) -> list[Match]:
        definition = template.bodies.definition
        names = [self._name(laid.inputs.get(n)) for n in template.pattern.inputs]
        types = tuple(self.types.get(n) if n else None for n in names)
        if any(n and t is None for n, t in zip(names, types, strict=True)):
            return []
        tried = False
        for given in ways(definition, names, types, template.types, self.unread):
            tried = True
            found = self._with_inputs(template, laid, given)
            if found:
                return found
        if not tried:
            unread = template.pattern.inputs[names.index("")]
            self.miss(definition, 1e9, f"its body does not read input {unread!r}, which so cannot be found")
        return []

    def in_numbers(self, definition: PluginDefinition) -> Iterator[Match]:
        """The constants that a plugin would make whose body is numbers alone."""
        if not definition.reads_numbers:
            return
        shapes = [t.shape for i in self.model.graph.input if (t := self.types.get(i.name)) is not None]
        fixed = [tuple(int(d) for d in s if isinstance(d, int)) for s in shapes if s is not None]
        whole = [
            f for f, s in zip(fixed, [s for s in shapes if s is not None], strict=True) if len(f) == len(s)
        ]
        largest = sorted(whole, key=lambda s: -int(np.prod(s, dtype=np.int64)))
        names = list(self.constants)
        arrays = [self.constants[n].array for n in names]
        bodies = self.plain.setdefault(definition.folder, Bodies(definition, self.graph.opset, "written"))
        known: set[str] = set()
        for found in (*definition.in_numbers(arrays, largest), *self._like_samples(definition)):
            outputs = [names[i] for i in found.outputs]
            if known.isdisjoint(outputs):
                match = self._from_numbers(bodies, found, outputs)
                if match is not None:
                    known.update(outputs)
                    yield match

    def _like_samples(self, definition: PluginDefinition) -> Iterator[FromNumbers]:
        """Constants of the shapes that a sample's outputs have, to look for attributes from the sample's on."""
        from surgery.plugins.from_numbers import FromNumbers

        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, value in enumerate(self.constants.values()):
            by_shape.setdefault(value.array.shape, []).append(i)
        bodies = self.plain[definition.folder]
        for sample in definition.samples:
            attributes = {
                n: sample.attributes.get(n, a.default) for n, a in definition.file.attributes.items()
            }
            types = tuple(TensorType(i.dtype, i.shape) for i in sample.inputs)
            body = bodies.build(attributes, types, sample.outputs or len(definition.file.outputs))
            shapes = [v.array.shape for v in body.results if v.kind == "constant"] if body is not None else []
            sizes = _sizes(definition, types)
            for first in by_shape.get(shapes[0], ()) if shapes else ():
                outputs = [next((i for i in by_shape.get(s, ()) if i >= first), None) for s in shapes]
                if None not in outputs:
                    yield FromNumbers(attributes, tuple(i for i in outputs if i is not None), sizes)

    def _from_numbers(self, bodies: Bodies, found: FromNumbers, outputs: Sequence[str]) -> Match | None:
        definition = bodies.definition
        file = definition.file.attributes
        attributes = {n: found.attributes.get(n, a.default) for n, a in file.items()}
        missing = ("",) * len(definition.file.inputs)
        none: Types = (None,) * len(missing)
        values = [self.constants[n] for n in outputs]
        for given in ways(definition, missing, none, none, self.unread):
            solver = Solver(bodies, given, {}, values)
            sizes = {n: found.sizes.get(symbol, 1) for n, symbol in given.symbols.items()}
            solved = solver.solve({**attributes, **sizes})
            if solved is None:
                continue
            places = tuple(sorted({self.producer[n] for n in outputs if n in self.producer}))
            return replace(
                self._match(definition, given, solved[0], solver),
                outputs=tuple(outputs),
                nodes=tuple(self.model.graph.node[p].name or outputs[0] for p in places),
                places=places,
                values=tuple(outputs),
                proof=f"the body built from these attributes is these {len(outputs)} constants, number by number",
            )
        return None

    def _with_inputs(self, template: _Template, laid: Laid, given: Given) -> list[Match]:
        definition = template.bodies.definition
        solver = Solver(template.bodies, given, laid.inputs, laid.outputs)
        starts = list(solver.best(self._begin(template, given, laid, solver)))
        for start in starts:
            solved = solver.solve(start)
            if solved is not None:
                break
        else:
            self._explain(definition, solver, starts, laid)
            return []
        attributes, reading = solved
        match = self._match(definition, given, attributes, solver)
        return [self._at(match, reading, copy) for copy in range(_copies(reading))]

    def _match(
        self, definition: PluginDefinition, given: Given, attributes: Mapping[str, Any], solver: Solver
    ) -> Match:
        """A match without its place."""
        names = list(given.names)
        zeros = {}
        for place, tensor in given.written(attributes).items():
            names[place] = f"zeros for {definition.declared_inputs(len(names))[place].name}"
            zeros[names[place]] = tensor
        return Match(
            definition,
            {k: v for k, v in given.own(attributes).items() if v is not None},
            tuple(solver.undetermined(attributes)),
            tuple(names),
            (),
            (),
            (),
            (),
            "",
            zeros=zeros,
        )

    def _explain(
        self, definition: PluginDefinition, solver: Solver, starts: Sequence[Mapping[str, Any]], laid: Laid
    ) -> None:
        """Remember why a place with the right structure is no match."""
        first = next(n for op in laid.ops.values() for n in op.nodes)
        place = self.model.graph.node[first]
        nearest = solver.nearest
        where = f"at {place.name or place.output[0]!r}"
        if not starts or nearest is None:
            self.miss(definition, 1e6, f"{where} it is like it, but made for other shapes")
            return
        number = nearest.wrong[0] if nearest.wrong else None
        if number is None:
            text = f"{where} the attributes would not be allowed: {'; '.join(solver.refused)}"
        else:
            wanted, given = nearest.leaves[number][0], content(nearest.leaves[number][1])
            have = "unknown" if given is None else _shown(given)
            text = (
                f"{where} {len(nearest.wrong)} of {len(nearest.leaves)} numbers fit no attributes; one is {have} "
                f"where the nearest body has {_shown(wanted)}"
            )
        self.miss(definition, nearest.distance, text)

    def miss(self, definition: PluginDefinition, distance: float, text: str) -> None:
        """Remember why a place is none; the nearest counts."""
        known = self.misses.get(definition.name)
        if known is None or distance < known[0]:
            self.misses[definition.name] = (distance, text)

    def _at(self, match: Match, reading: Reading, copy: int) -> Match:
        """The match where it lies: nodes that compute the same again are matches of their own."""
        outputs = []
        for value in reading.match.outputs:
            made = (
                "" if value is None or value.op is None else self._outputs(value.op.nodes[copy])[value.index]
            )
            outputs.append(made)
        inside = self._cone(outputs, set(match.inputs))
        known = {p for op in reading.match.ops.values() for p in op.nodes}
        places = sorted(known & inside)
        nodes = [self.model.graph.node[p] for p in places]
        return replace(
            match,
            outputs=tuple(outputs),
            nodes=tuple(n.name or n.output[0] for n in nodes),
            places=tuple(places),
            values=tuple(next((o for o in n.output if o), "") for n in nodes),
            proof=f"the body built from these attributes is these {len(places)} nodes, "
            f"with the same {len(reading.leaves)} numbers",
        )

    def _outputs(self, place: int) -> Sequence[str]:
        return self.model.graph.node[place].output

    def _cone(self, outputs: Sequence[str], inputs: set[str]) -> set[int]:
        """The nodes between some inputs and outputs."""
        found: set[int] = set()
        stack = [n for n in outputs if n]
        while stack:
            place = self.producer.get(stack.pop())
            if place is not None and place not in found:
                found.add(place)
                stack += [n for n in reads(self.model.graph.node[place]) if n not in inputs]
        return found

    def between(self, inputs: Iterable[str], outputs: Sequence[str]) -> list[int]:
        """The nodes that compute the outputs from the inputs; those that no input reaches are left out."""
        known = set(inputs)
        reached = set(known)
        found = []
        for place in sorted(self._cone(outputs, known)):
            node = self.model.graph.node[place]
            if not reached.isdisjoint(reads(node)):
                reached.update(o for o in node.output if o)
                found.append(place)
        return found

    @staticmethod
    def _begin(template: _Template, given: Given, laid: Laid, solver: Solver) -> Iterator[Mapping[str, Any]]:
        """Attributes to begin with: those of the template, what the graph's numbers look like, and both."""
        sample = Given(("",) * len(template.types), template.types)
        rough = Solver(template.bodies, sample, laid.inputs, laid.outputs)
        for setting in template.settings.values():
            guesses = rough.estimates(setting)
            start = {**setting, **given.start}
            whole = dict(start)
            for name, guess in guesses:
                whole = {**whole, name: guess}
            yield from (start, whole)
            yield from ({**start, n: g} for n, g in guesses)
            for begin in (start, whole):
                yield from solver.repaired(begin)

    def _name(self, value: Value | None) -> str:
        if value is None:
            return ""
        if value.op is not None:
            return value.op.outputs[value.index] if value.op.nodes else ""
        return value.name


def _unread_inputs(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """Inputs of a model that nothing reads, and that are no results."""
    read = {name for node in model.graph.node for name in reads(node)}
    known = {*read, *(o.name for o in model.graph.output), *(t.name for t in model.graph.initializer)}
    return {i.name: types[i.name] for i in model.graph.input if i.name not in known and i.name in types}


def _sizes(definition: PluginDefinition, types: Types) -> dict[str, int]:
    """The values of the symbols in declared shapes for some types."""
    found: dict[str, int] = {}
    for entry, known in zip(definition.declared_inputs(len(types)), types, strict=True):
        shape = () if known is None or known.shape is None else known.shape
        for symbol, dim in zip(
            next((s for s in entry.shapes if len(s) == len(shape)), ()), shape, strict=False
        ):
            if isinstance(symbol, str) and isinstance(dim, int):
                found.setdefault(symbol, dim)
    return found


def _floats(graph: Terms) -> dict[str, Value]:
    """The constants of float32 that stand in a graph itself, each once, by the first name that it has there."""
    found: dict[int, str] = {}
    for name, value in graph.values.items():
        tensor = value.tensor
        if (
            tensor is not None
            and tensor.data_type == onnx.TensorProto.FLOAT
            and tensor.data_location != onnx.TensorProto.EXTERNAL
            and np.prod(tensor.dims, dtype=np.float64) <= TOO_MUCH
        ):
            found.setdefault(id(value), name)
    return {name: graph.values[name] for name in found.values()}


def configurations(definition: PluginDefinition, breadth: int) -> Iterator[tuple[dict[str, Any], Types, int]]:
    """Attributes, input types and number of outputs whose bodies may be made differently.

    Args:
        definition: The plugin.
        breadth: 0 for the samples, as they are, with an open batch and with many more boxes; 1 for each of these with
            one attribute changed that has few values, or a larger or smaller number; 2 for all combinations of the
            values of attributes that have few.
    """
    file = definition.file.attributes
    for sample in definition.samples:
        attributes = {n: sample.attributes.get(n, a.default) for n, a in file.items()}
        outputs = sample.outputs or len(definition.file.outputs)
        settings = [attributes]
        if breadth == 1:
            settings = [{**attributes, n: v} for n, a in file.items() for v in _others(a, attributes[n])]
        elif breadth == 2:
            few = {n: _few(a, attributes[n]) for n, a in file.items()}
            few = {n: values for n, values in few.items() if len(values) > 1}
            several = itertools.islice(itertools.product(*few.values()), COMBINATIONS)
            settings = [{**attributes, **dict(zip(few, values, strict=True))} for values in several]
        for setting in settings:
            for types in _kinds_of_types(definition, sample):
                yield setting, types, outputs


def _few(declared: Attribute, value: Any) -> list[Any]:
    """The values of an attribute that has few; of a number that may be negative (an index, mostly), some."""
    if values := alternatives(declared):
        return values
    if declared.type == "int" and declared.min is not None and declared.min < 0 and value is not None:
        return list(dict.fromkeys((value, int(declared.min), 0, 1)))
    return [value]


def _others(declared: Attribute, value: Any) -> list[Any]:
    """Other values of an attribute, with which the body may be made differently."""
    found = _few(declared, value)
    if declared.type == "int" and value is not None and not alternatives(declared):
        found = [*found, *(v for v in (value * 8, value // 8) if declared.problem(v) is None)]
    if len(found) == 1:  # weights and lists among them
        return []
    return [v for i, v in enumerate(found) if v != value and v not in found[:i]]


def _kinds_of_types(definition: PluginDefinition, sample: Sample) -> list[Types]:
    own = tuple(TensorType(i.dtype, i.shape) for i in sample.inputs)
    first = sample.inputs[0].shape[0] if sample.inputs and sample.inputs[0].shape else None

    def opened(types: Types) -> Types:
        result = []
        for given, known in zip(sample.inputs, types, strict=True):
            shape = None if known is None else known.shape
            is_batch = (
                len(given.shape) > 2 and given.shape[0] == first if given.batch is None else given.batch
            )
            result.append(TensorType(given.dtype, ("batch", *shape[1:])) if is_batch and shape else known)
        return tuple(result)

    found = [own, opened(own)]
    if (large := _enlarged(definition, own)) is not None:
        found += [large, opened(large)]
    return list(dict.fromkeys(found))


def _enlarged(definition: PluginDefinition, types: Types) -> Types | None:
    """The types with the larger ones of the declared dims so much larger; None if that is too much."""
    symbols: dict[Any, int] = {}
    declared = definition.declared_inputs(len(types))
    for entry, known in zip(declared, types, strict=True):
        shape = () if known is None or known.shape is None else known.shape
        fitting = [s for s in entry.shapes if len(s) == len(shape)]
        for symbol, dim in zip(fitting[0] if fitting else (), shape, strict=False):
            if isinstance(symbol, str) and isinstance(dim, int) and dim >= SEVERAL:
                symbols[dim] = dim * LARGE
    if not symbols:
        return None
    result = []
    for known in types:
        shape = () if known is None or known.shape is None else known.shape
        dims = tuple(symbols.get(d, d) for d in shape)
        if known is None or np.prod([d for d in dims if isinstance(d, int)], dtype=np.float64) > TOO_MUCH:
            return None
        result.append(TensorType(known.dtype, dims))
    return tuple(result)


def _shown(array: Array) -> str:
    items = [f"{v:.6g}" if array.dtype.kind == "f" else str(v) for v in array.ravel()[:4].tolist()]
    text = ", ".join(items) + (", ..." if array.size > len(items) else "")
    return text if array.ndim == 0 else f"[{text}]"


def _copies(reading: Reading) -> int:
    """How often the graph computes the same."""
    return min(len(v.op.nodes) for v in reading.match.outputs if v is not None and v.op is not None)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of all values that a node reads, those read inside its bodies included."""
    yield from (n for n in node.input if n)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (o.name for o in attribute.g.output)
            for inner in attribute.g.node:
                yield from reads(inner)


def _signature(pattern: Pattern) -> Any:
    """What is the same for two bodies that differ in numbers alone."""
    numbers: dict[int, int] = {}

    def of(value: Value) -> Any:
        if value.op is None:
            tensor = value.tensor
            constant = None if tensor is None else (tensor.data_type, len(tensor.dims))
            return value.kind, value.name if value.kind == "input" else constant, value.depth, value.index
        return "node", numbers[id(value.op)], value.index

    lines = []
    for op in _bottom_up(pattern.results):
        numbers[id(op)] = len(numbers)
        texts = tuple((k, v) for k, v in sorted(op.attributes.items()) if isinstance(v, str))
        bodies = tuple((n, c, tuple(map(of, r))) for n, c, r in op.bodies)
        lines.append((op.kind, texts, tuple(map(of, op.args)), bodies))
    return tuple(lines), tuple(map(of, pattern.results))


def _from_data(pattern: Pattern) -> set[str]:
    """The operators that compute with the values of inputs, not with their shapes alone."""
    data: set[int] = set()
    kinds = set()
    for op in _bottom_up(pattern.results):
        values = [*op.args, *(v for _, _, results in op.bodies for v in results)]
        reads_data = any(v.kind == "input" or (v.op is not None and id(v.op) in data) for v in values)
        if reads_data and op.kind not in ("Shape", "Size"):
            data.add(id(op))
            kinds.add(op.kind)
    return kinds


def _bottom_up(values: Sequence[Value]) -> list[Op]:
    done: dict[int, Op] = {}
    stack = [(v.op, False) for v in reversed(values) if v.op is not None]
    while stack:
        op, ready = stack.pop()
        if id(op) in done:
            continue
        if ready:
            done[id(op)] = op
            continue
        stack.append((op, True))
        inner = [*op.args, *(v for _, _, results in op.bodies for v in results)]
        stack += [(v.op, False) for v in reversed(inner) if v.op is not None and id(v.op) not in done]
    return list(done.values())


def _choose(found: Sequence[Match], target: TargetVersion | None) -> list[Match]:
    """No two for one node: the one that covers most nodes, then what is not deprecated, then by name and version."""

    def rank(match: Match) -> tuple[Any, ...]:
        old = target is not None and match.plugin.deprecated(target.flavour, target.version)
        missing = sum(not n for n in match.outputs)
        return -len(match.places), missing, old, match.plugin.name, match.plugin.version

    makers: dict[str, Match] = {}  # by every value inside, results included
    results: dict[str, Match] = {}
    chosen: list[Match] = []
    losers: dict[int, list[str]] = {}
    for match in sorted(found, key=lambda m: (*rank(m), m.places)):
        # Two may share nodes; but what one of them makes must not lie inside the other, nor be made twice.
        nested = [makers[n] for n in match.outputs if n in makers]
        winner = next(iter([*nested, *(results[v] for v in match.values if v in results)]), None)
        if winner is None:
            chosen.append(match)
            makers.update(dict.fromkeys((*match.values, *(n for n in match.outputs if n)), match))
            results.update(dict.fromkeys((n for n in match.outputs if n), match))
        elif (match.plugin.name, match.plugin.version) != (winner.plugin.name, winner.plugin.version):
            losers.setdefault(id(winner), []).append(f"{match.plugin.name} version {match.plugin.version}")
    result = []
    for match in sorted(chosen, key=lambda m: m.places):
        others = sorted(set(losers.get(id(match), [])))
        result.append(_with_reason(match, others) if others else match)
    return result


def _with_reason(match: Match, others: Sequence[str]) -> Match:
    return replace(
        match,
        why=f"also found here: {', '.join(others)}; taken is what covers most nodes, then what is not deprecated "
        "on the target, then the first by name and version",
    )
