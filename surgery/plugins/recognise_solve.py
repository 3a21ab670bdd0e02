"""Reading the attributes of a plugin off a graph that computes what its body computes.

Nothing here knows a plugin. A body is a function of attributes and input types, so it can be built for changed
attributes; which of its numbers move then says what the graph's numbers mean. What is found is right when the body
built from it is the graph's expression, number by number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from surgery.errors import ConversionError
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.recognise_match import Match, again, content, equal, leaves
from surgery.plugins.recognise_terms import Array, Terms, Value
from surgery.plugins.recognise_unread import Given, Types

if TYPE_CHECKING:
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.schema import Attribute

Form = Literal["written", "folded"]
Leaves = list[tuple[Array, Any]]

SHOWN = 512
"""Numbers of a constant that are looked at to estimate an attribute; the proof looks at all of them."""

ROUNDS = 5
STEPS = 10
CANDIDATES = 4
MOVES = 3
STARTS = 6
FEW_WRONG = 3
ESCAPES = 2
LONGEST = 64


@dataclass(frozen=True)
class Pattern:
    """A body as expressions."""

    inputs: tuple[str, ...]
    results: tuple[Value, ...]


@dataclass
class Bodies:
    """Builds the bodies of one plugin as expressions, and remembers them.

    Attributes:
        definition: The plugin.
        opset: Version of ONNX's operators.
        form: As the body writes it, or with constants and static shapes folded.
    """

    definition: PluginDefinition
    opset: int
    form: Form
    _known: dict[Any, Pattern | None] = field(default_factory=dict)

    def build(self, attributes: Mapping[str, Any], types: Types, outputs: int) -> Pattern | None:
        """The body of a configuration that need not be allowed; None if there is none."""
        key = (frozen(attributes), types, outputs)
        if key not in self._known:
            self._known[key] = self._build(attributes, types, outputs)
        return self._known[key]

    def function(
        self, attributes: Mapping[str, Any], types: Types, outputs: int
    ) -> onnx.FunctionProto | None:
        """The function itself."""
        node = ConfiguredNode(
            self.definition, dict(attributes), types, outputs, self.opset, self.definition.name, "recognised"
        )
        try:
            return self.definition._body(node)
        except (
            ConversionError,
            ValueError,
            TypeError,
            ArithmeticError,
            LookupError,
            AttributeError,
            AssertionError,
        ):
            return None  # bodies need not be prepared for what `check` refuses

    def _build(self, attributes: Mapping[str, Any], types: Types, outputs: int) -> Pattern | None:
        function = self.function(attributes, types, outputs)
        if function is None:
            return None
        if self.form == "written":
            terms = Terms(function.node, function.input, [], self.opset, merge=False)
            names = list(function.output)
        else:
            folded = _folded(function, types, self.opset)
            if folded is None:
                return None
            known = {t.name for t in folded.graph.initializer}
            inputs = [v.name for v in folded.graph.input if v.name not in known]
            terms = Terms(folded.graph.node, inputs, folded.graph.initializer, self.opset, merge=False)
            names = [v.name for v in folded.graph.output]
        if any(n not in terms.values for n in names):
            return None
        return Pattern(tuple(function.input), tuple(terms.values[n] for n in names))


def _folded(function: onnx.FunctionProto, types: Types, opset: int) -> onnx.ModelProto | None:
    from surgery.graph.convert import export_graph, import_graph
    from surgery.graph.fold import fold_constants

    inputs = []
    for name, known in zip(function.input, types, strict=False):
        if known is not None:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
            inputs.append(onnx.helper.make_tensor_value_info(name, element, known.shape))
    outputs = [onnx.ValueInfoProto(name=n) for n in function.output]
    graph = onnx.helper.make_graph(list(function.node), "body", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    try:
        imported, header = import_graph(model)
        fold_constants(imported)
        return export_graph(imported, header)
    except Exception:  # a body of attributes that make no sense; onnx and graphsurgeon raise many types
        return None


def frozen(value: Any) -> Any:
    """A value, mappings and arrays included, as something that can be compared and looked up."""
    if isinstance(value, Mapping):
        return tuple((k, frozen(v)) for k, v in sorted(value.items()))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else (type(value).__name__, value)


# -- variables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """A number that attributes are made of: one of them, an element of a list, or the length of a list."""

    name: str
    whole: bool
    at: int | None = None
    length: bool = False

    def get(self, attributes: Mapping[str, Any]) -> float:
        """Its value."""
        value = attributes[self.name]
        if self.length:
            return len(value)
        return float(value if self.at is None else value[self.at])

    def put(self, attributes: Mapping[str, Any], number: float) -> dict[str, Any]:
        """The attributes with another value of it."""
        result = dict(attributes)
        if self.length:
            items = list(attributes[self.name])
            count = max(1, min(LONGEST, round(number)))
            result[self.name] = [items[min(i, len(items) - 1)] for i in range(count)]
            return result
        new: Any = round(number) if self.whole else float(np.float32(number))
        if not self.whole and np.isfinite(new):
            new = float(str(np.float32(new)))
        if self.at is None:
            result[self.name] = new
        else:
            items = list(attributes[self.name])
            items[self.at] = new
            result[self.name] = items
        return result


def variables(file_attributes: Mapping[str, Attribute], attributes: Mapping[str, Any]) -> list[Variable]:
    """The variables of attributes that are set: lengths first, text and weights left out."""
    lengths, numbers = [], []
    for name, declared in file_attributes.items():
        value = attributes.get(name)
        if value is None or declared.type in ("string", "tensor"):
            continue
        whole = declared.type in ("int", "bool", "ints")
        if isinstance(value, (list, tuple)):
            if declared.length is None and value:
                lengths.append(Variable(name, True, length=True))
            numbers += [Variable(name, whole, i) for i in range(len(value))]
        else:
            numbers.append(Variable(name, whole))
    return [*lengths, *numbers]


def alternatives(declared: Attribute) -> list[Any]:
    """The values of an attribute that has few."""
    if declared.choices:
        return list(declared.choices)
    return [0, 1] if declared.type == "bool" else []


def _moves(variable: Variable, value: float, declared: Attribute) -> Iterator[float]:
    """Values to see the effect of a variable by."""
    steps: Sequence[float]
    if variable.length or variable.whole:
        steps = [value + 1, value - 1, value * 2, value + 2]
    else:
        steps = [value * 1.0625 + 0.015625, value * 0.9375, value + 0.25, 0.5]
    for step in steps:
        if step != value and (variable.length or _allowed(step, declared)):
            yield step


def _allowed(number: float, declared: Attribute) -> bool:
    if declared.min is not None and number < declared.min:
        return False
    if declared.max is not None and number > declared.max:
        return False
    return declared.above is None or number > declared.above


# -- solving ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reading:
    """A body laid over a graph."""

    pattern: Pattern
    match: Match
    leaves: Leaves
    wrong: tuple[int, ...]

    @cached_property
    def distance(self) -> float:
        """How much is wrong: 2 for each leaf of another shape, else between 1 and 2 by how many of its numbers."""
        return sum(_distance(*self.leaves[i]) for i in self.wrong)


class Solver:
    """Finds attributes with which a body is what a graph has.

    Args:
        bodies: Builds the bodies.
        given: The plugin's inputs and their types, as the graph has them.
        inputs: The graph's value of each input by name.
        outputs: The graph's value of each output, None where it has none.

    Attributes:
        nearest: Where the search without success came nearest.
        refused: Problems that the definition had with what it found.
    """

    def __init__(
        self, bodies: Bodies, given: Given, inputs: Mapping[str, Value], outputs: Sequence[Value | None]
    ) -> None:
        self.bodies = bodies
        self.given = given
        self.inputs = dict(inputs)
        self.outputs = list(outputs)
        self.declared: Mapping[str, Attribute] = {**bodies.definition.file.attributes, **given.unknown}
        self.nearest: Reading | None = None
        self.refused: list[str] = []
        self._escapes = 0

    def read(self, attributes: Mapping[str, Any]) -> Reading | None:
        """The body of some attributes laid over the graph; None if the graph is made differently."""
        own, types = self._apart(attributes)
        pattern = self.bodies.build(own, types, len(self.outputs))
        if pattern is None:
            return None
        match = again(pattern.results, self.outputs, self.inputs)
        if match is None:
            return None
        found = leaves(pattern.results, match)
        return Reading(pattern, match, found, tuple(i for i, (w, g) in enumerate(found) if not equal(w, g)))

    def _apart(self, attributes: Mapping[str, Any]) -> tuple[dict[str, Any], Types]:
        """The plugin's own attributes, and the types of its inputs with the sizes that are among them."""
        return self.given.own(attributes), self.given.types_with(attributes)

    def _problems(self, attributes: Mapping[str, Any]) -> list[str]:
        own, types = self._apart(attributes)
        return self.bodies.definition.check(_given(own), types)

    def repaired(self, attributes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Attributes with one whole number changed to a dim of an input, where that takes away a problem."""
        own, types = self._apart(attributes)
        sizes = {n: attributes[n] for n in self.given.start if n in attributes}
        for found in repaired(self.bodies.definition, own, types):
            yield {**found, **sizes}

    def estimates(self, start: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """What the attributes look like, each by itself, for types that need not be the graph's."""
        reading = self.read(start)
        if reading is None:
            return []
        found: dict[str, Any] = {}
        for variable in variables(self.declared, start):
            here, declared = variable.get(start), self.declared[variable.name]
            for step in itertools.islice(_moves(variable, here, declared), 2):
                moved = self.read(variable.put(start, step))
                guesses = _guesses(variable, here, reading, step, moved) if moved is not None else []
                guesses = [g for g in guesses if variable.length or _allowed(g, declared)]
                if guesses:
                    base = {**start, **found}
                    if variable.at is None or variable.at < len(base[variable.name]):
                        found[variable.name] = variable.put(base, guesses[0])[variable.name]
                    break
        return [(n, v) for n, v in found.items() if frozen(v) != frozen(start[n])]

    def best(self, starts: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Those attributes whose body lies over the graph, fewest wrong numbers first; not too many."""
        laid: dict[Any, tuple[float, int, Mapping[str, Any]]] = {}
        for start in starts:
            reading = self.read(start)
            if reading is not None:
                laid.setdefault(frozen(start), (reading.distance, len(laid), start))
                if not reading.wrong:
                    break
        for _, _, start in sorted(laid.values(), key=lambda v: v[:2])[:STARTS]:
            yield start

    def solve(self, start: Mapping[str, Any]) -> tuple[dict[str, Any], Reading] | None:
        """The attributes, and the body that proves them."""
        current, reading = dict(start), self.read(start)
        if reading is None:
            return None
        for _ in range(ROUNDS):
            if not reading.wrong:
                break
            before = (frozen(current), reading.distance)
            current, reading = self._round(current, reading)
            if (frozen(current), reading.distance) == before:
                escaped = self._escape(current, reading)
                if escaped is None:
                    break
                current, reading = escaped
        if self.nearest is None or reading.distance < self.nearest.distance:
            self.nearest = reading
        if reading.wrong:
            return None
        self.refused = self._problems(current)
        if self.refused:
            allowed = [a for a in self.repaired(current) if self._is_right(a)]
            if not allowed:
                return None
            current = allowed[0]
        current = self._plain(current)
        final = self.read(current)
        return None if final is None else (current, final)

    def _round(self, current: dict[str, Any], reading: Reading) -> tuple[dict[str, Any], Reading]:
        for name, declared in self.declared.items():
            if declared.type == "tensor" and current.get(name) is not None and reading.wrong:
                current, reading = self._weights(name, current, reading)
            for value in alternatives(declared) if reading.wrong else ():
                other = {**current, name: value}
                tried = self.read(other) if value != current.get(name) else None
                if tried is not None and tried.distance < reading.distance:
                    current, reading = other, tried
        for variable in variables(self.declared, current):
            if not reading.wrong:
                break
            if variable.at is None or variable.at < len(current[variable.name]):
                current, reading = self._number(variable, current, reading)
        return current, reading

    def _escape(self, current: dict[str, Any], reading: Reading) -> tuple[dict[str, Any], Reading] | None:
        """A better place by a step that is worse by itself, where two numbers have to change together."""
        if len(reading.wrong) > FEW_WRONG or self._escapes >= ESCAPES:
            return None
        self._escapes += 1
        for variable in variables(self.declared, current):
            if not variable.whole:
                continue
            here, declared = variable.get(current), self.declared[variable.name]
            for step in itertools.islice(_moves(variable, here, declared), 2):
                other = variable.put(current, step)
                moved = self.read(other)
                if moved is None or all(
                    np.array_equal(moved.leaves[i][0], reading.leaves[i][0]) for i in reading.wrong
                ):
                    continue
                found, better = self._round(other, moved)
                if better.distance < reading.distance:
                    return found, better
        return None

    def _number(
        self, variable: Variable, current: dict[str, Any], reading: Reading
    ) -> tuple[dict[str, Any], Reading]:
        """The attributes with a better value of one variable, if there is one."""
        declared = self.declared[variable.name]
        here, best = variable.get(current), (current, reading)
        for step in itertools.islice(_moves(variable, here, declared), MOVES):
            moved = self.read(variable.put(current, step))
            if moved is None:
                continue
            if moved.distance < best[1].distance:
                best = (variable.put(current, step), moved)
            best = self._secant(variable, current, (here, reading), (step, moved), best)
            if best[0] is not current or _moved(reading, moved):
                break  # found, or it has an effect, which leads nowhere
        return best

    def _secant(
        self,
        variable: Variable,
        current: Mapping[str, Any],
        last: tuple[float, Reading],
        other: tuple[float, Reading],
        best: tuple[dict[str, Any], Reading],
    ) -> tuple[dict[str, Any], Reading]:
        """The best attributes on the way to a zero: numbers may be any smooth function of an attribute."""
        declared = self.declared[variable.name]
        tried = {last[0], other[0]}
        for _ in range(1 if variable.whole else STEPS):
            guesses = [
                g for g in _guesses(variable, *last, *other) if variable.length or _allowed(g, declared)
            ]
            fresh = [g for g in guesses if g not in tried]
            tried.update(fresh)
            readings = [(g, self.read(variable.put(current, g))) for g in fresh]
            for number, reading in readings:
                if reading is not None and reading.distance < best[1].distance:
                    best = (variable.put(current, number), reading)
            first = readings[0][1] if readings else None
            if first is None or not best[1].wrong:
                break
            last, other = other, (readings[0][0], first)
        return best

    def _weights(
        self, name: str, current: dict[str, Any], reading: Reading
    ) -> tuple[dict[str, Any], Reading]:
        """The attributes with weights put together from the graph's constants, if that is better."""
        value = np.asarray(current[name])
        for shape in _weight_shapes(value.shape, reading):
            size = int(np.prod(shape))
            probe = np.arange(1, size + 1, dtype=np.float32).reshape(shape)
            laid = self.read({**current, name: probe})
            if laid is None:
                continue
            weights = np.zeros(size, np.float32)
            found = np.zeros(size, np.bool_)
            for wanted, given in laid.leaves:
                have = content(given)
                if have is None or have.size != wanted.size or wanted.dtype.kind != "f":
                    continue
                places = np.rint(np.abs(wanted.astype(np.float64).ravel())).astype(np.int64) - 1
                exact = (wanted.ravel() == places + 1) & (places >= 0) & (places < size)
                if exact.all() and wanted.size > 1 - (size == 1):
                    weights[places] = have.ravel()
                    found[places] = True
            attributes = {**current, name: weights.reshape(shape)}
            tried = self.read(attributes) if found.any() else None
            if tried is not None and tried.distance < reading.distance:
                return attributes, tried
        return current, reading

    # -- tidying ------------------------------------------------------------------------------------

    def _plain(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """The same computation by defaults and short numbers, wherever these say the same."""
        for name, declared in self.declared.items():
            if declared.default is not None and frozen(attributes.get(name)) != frozen(declared.default):
                attributes = self._if_right({**attributes, name: declared.default}, attributes)
        for variable in variables(self.declared, attributes):
            if variable.whole:
                continue
            number = variable.get(attributes)
            for digits in range(1, 8):
                shorter = float(f"{number:.{digits}g}")
                if shorter == number:
                    break
                tried = self._if_right(variable.put(attributes, shorter), attributes)
                if tried is not attributes:
                    attributes = tried
                    break
        return attributes

    def _if_right(self, other: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
        return other if self._is_right(other) else attributes

    def _is_right(self, attributes: Mapping[str, Any]) -> bool:
        reading = self.read(attributes)
        if reading is None or reading.wrong:
            return False
        return not self._problems(attributes)

    def undetermined(self, attributes: Mapping[str, Any]) -> list[str]:
        """Attributes of which nothing in the body depends: any value is as good."""
        count = len(self.outputs)
        attributes, types = self._apart(attributes)
        own = self.bodies.function(attributes, types, count)
        if own is None:
            return []
        own_bytes = own.SerializeToString(deterministic=True)
        found = []
        for name, declared in self.bodies.definition.file.attributes.items():
            changed = list(self._changes(name, declared, attributes))
            bodies = [self.bodies.function(a, types, count) for a in changed]
            texts = [b.SerializeToString(deterministic=True) for b in bodies if b is not None]
            if all(t == own_bytes for t in texts):
                found.append(name)
        return found

    def _changes(
        self, name: str, declared: Attribute, attributes: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        value = attributes.get(name)
        if declared.type == "tensor":
            if value is not None:
                yield {**attributes, name: np.asarray(value) + 1}
        elif values := alternatives(declared):
            yield from ({**attributes, name: v} for v in values if v != value)
        elif value is not None and declared.type != "string":
            for variable in variables({name: declared}, attributes):
                here = variable.get(attributes)
                for step in itertools.islice(_moves(variable, here, declared), 2):
                    yield variable.put(attributes, step)


def repaired(
    definition: PluginDefinition, start: Mapping[str, Any], types: Types
) -> Iterator[dict[str, Any]]:
    """Attributes with one whole number changed to a dim of an input, where that takes away a problem."""
    present = {k: v for k, v in start.items() if v is not None}
    problems = len(definition.check(present, types))
    if not problems:
        return
    dims = {d for t in types if t is not None for d in t.shape or () if isinstance(d, int)}
    values = sorted(dims | {d - 1 for d in dims} | {d + 1 for d in dims})
    for name, declared in definition.file.attributes.items():
        if declared.type != "int" or start.get(name) is None:
            continue
        for value in values:
            if (
                declared.problem(value) is None
                and len(definition.check({**present, name: value}, types)) < problems
            ):
                yield {**start, name: value}


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if v is not None}


def _distance(wanted: Array, given: Any) -> float:
    have = content(given)
    if have is None or have.shape != wanted.shape or not wanted.size or wanted.dtype.kind not in "fiub":
        return 2.0
    with np.errstate(all="ignore"):
        near = np.isclose(
            have.astype(np.float64), wanted.astype(np.float64), rtol=3e-7, atol=1e-30, equal_nan=True
        )
    return 2.0 - float(np.mean(near))


def _moved(one: Reading, other: Reading) -> bool:
    pairs = zip(one.leaves, other.leaves, strict=True)
    return any(a.shape != b.shape or not np.array_equal(a, b) for (a, _), (b, _) in pairs)


def _guesses(
    variable: Variable, last: float, last_reading: Reading, other: float, moved: Reading
) -> list[float]:
    """Values with which the numbers that move would be the graph's, likeliest first."""
    if len(last_reading.leaves) != len(moved.leaves) or last == other:
        return []
    votes: Counter[float] = Counter()
    for number in last_reading.wrong:
        (before, given), (after, _) = last_reading.leaves[number], moved.leaves[number]
        for low, high, want in _features(before, after, content(given)):
            ratio = (want - low) / (high - low)
            for vote in (last + ratio * (other - last), want):
                if np.isfinite(vote) and abs(vote) < 1e9:
                    votes[float(round(vote)) if variable.whole else float(np.float32(vote))] += 1
    return [n for n, _ in sorted(votes.items(), key=lambda v: (-v[1], abs(v[0] - last), v[0]))][:CANDIDATES]


def _features(before: Array, after: Array, have: Array | None) -> list[tuple[float, float, float]]:
    """Numbers that moved: before, after, and in the graph; lengths where these move."""
    if have is None or before.ndim != have.ndim or before.dtype.kind not in "fiu":
        return []
    if before.shape != after.shape:
        rows = zip(before.shape, after.shape, have.shape, strict=True) if before.ndim == after.ndim else ()
    elif before.shape == have.shape:
        several = np.nonzero(before.ravel() != after.ravel())[0]
        places = several[:: max(1, len(several) // SHOWN)]
        arrays = (a.ravel()[places].astype(np.float64).tolist() for a in (before, after, have))
        rows = zip(*arrays, strict=True)
    else:
        return []
    return [(float(a), float(b), float(c)) for a, b, c in rows if a != b]


def _weight_shapes(shape: tuple[int, ...], reading: Reading) -> list[tuple[int, ...]]:
    """Shapes that weights may have: their own, and those of constants in the graph that are too large or small."""
    found = [shape]
    for number in reading.wrong:
        have = content(reading.leaves[number][1])
        if have is None or have.dtype.kind != "f" or not have.size:
            continue
        squeezed = tuple(d for d in have.shape if d != 1) or (1,)
        candidates = (have.shape, have.shape[::-1], squeezed, squeezed[::-1])
        found += [c for c in candidates if len(c) == len(shape)]
        if len(shape) == 1:
            found.append((have.size,))
    return list(dict.fromkeys(found))
