"""Forms: other ways in which exporters write what a plugin computes, found in graphs and proven by running them.

A plugin's folder may have a ``forms.py`` with ``FORMS``, a tuple of `Form`. A form is a *skeleton*: the operators
that compute with data, in one way of writing. What only moves data (Reshape, Squeeze, Unsqueeze, Flatten:
`Skeleton.view`; Slice, Split, Gather: `Skeleton.part`), numbers, attributes and everything computed from shapes alone
are left out, since these differ with every exporter, opset and free size. So a skeleton proves nothing. A place that
has it is a match only if running its nodes and the plugin's body on inputs of the model's own sizes gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx

from surgery.errors import ConfigError
from surgery.graph.body import Body
from surgery.plugins.definition import TensorType, node_attributes
from surgery.plugins.recognise_match import find
from surgery.plugins.recognise_solve import Pattern
from surgery.plugins.recognise_terms import Array, Op, Terms, Value, below, defaults_of
from surgery.user_code import call_theirs

if TYPE_CHECKING:
    from surgery.plugins.definition import PluginDefinition

VIEWS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten"})
"""Operators that leave the numbers in their order: one after the other is one of them."""

PARTS = frozenset({"Slice", "Split", "Gather"})
"""Operators that take a part out, or several."""

SHAPED = frozenset({
    *VIEWS, *PARTS, "Expand", "Tile", "Pad", "Resize", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "TopK",
})  # fmt: skip
"""Operators whose operands after the first say sizes, places or axes."""

NUMBER = "#"
"""How names of a skeleton's numbers begin."""

RESULT = "result"
"""Name of the tap that every form has: what it computes."""


class Skeleton:
    """Writes the skeleton of a form. Every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[str] = []
        self.results: dict[str, str] = {}
        self._count = 0

    def input(self, name: str) -> str:
        """An input of the form, a constant perhaps."""
        self.inputs.append(name)
        return name

    def number(self, name: str = "") -> str:
        """A constant or what is computed from constants and shapes."""
        return self.input(f"{NUMBER}{name or len(self.inputs)}")

    def op(self, kind: str, *operands: str) -> str:
        """An operator that computes; "" for an operand that is left out."""
        self._count += 1
        name = f"v{self._count}"
        self.nodes.append(onnx.helper.make_node(kind, operands, [name]))
        return name

    def view(self, value: str) -> str:
        """The same numbers in another shape, by one operator or several."""
        return self.op("View", value)

    def part(self, value: str) -> str:
        """A part of the numbers."""
        return self.op("Part", value)

    def result(self, value: str) -> None:
        """The value that the form computes."""
        self.results = {RESULT: value, **self.results}

    def tap(self, name: str, value: str) -> None:
        """A value inside whose type, node or shape the plugin's node is made from."""
        self.results[name] = value

    def pattern(self, opset: int) -> Pattern:
        """What is looked for: the result first, then the taps."""
        terms = Terms(self.nodes, self.inputs, [], opset, merge=False)
        loosen(terms)
        return Pattern(tuple(self.inputs), tuple(terms.values[v] for v in self.results.values()))


@dataclass(frozen=True)
class Lying:
    """Where a form lies in a graph, for the function that writes the plugin's node.

    Attributes:
        definition: The plugin.
        variant: Which of the form's variants it is.
        opset: Version of ONNX's operators.
        types: Types by name of input and of tap.
        nodes: The node that makes a tap, by its name; under `RESULT` the one that makes the result.
        value: The value of a tensor of the graph that is a constant, else None.
        numbers: Tensors by name of number.
    """

    definition: PluginDefinition
    variant: Any
    opset: int
    types: Mapping[str, TensorType]
    nodes: Mapping[str, onnx.NodeProto]
    value: Callable[[str], Array | None]
    numbers: Mapping[str, str]

    def tap(self, name: str) -> str:
        """The tensor of a tap, to be read in the plugin's part."""
        return f"tap_{name}"

    def shape(self, name: str) -> tuple[int | str | None, ...]:
        """The shape of an input or tap.

        Raises:
            ConfigError: not even its rank is known.
        """
        shape = self.types[name].shape
        if shape is None:
            raise ConfigError(f"the rank of {name!r} is not known", code="form")
        return shape

    def size(self, name: str, axis: int) -> int:
        """A dim that has to be known.

        Raises:
            ConfigError: it is not.
        """
        dim = self.shape(name)[axis]
        if not isinstance(dim, int):
            raise ConfigError(f"dim {axis} of {name!r} is not known", code="form")
        return dim

    def number(self, name: str) -> float:
        """A number of the skeleton.

        Raises:
            ConfigError: it is no constant, or several numbers.
        """
        return self._single(self.numbers[name], name)

    def operand(self, tap: str, index: int) -> float:
        """A constant operand of the node that makes a tap.

        Raises:
            ConfigError: there is none, or it is several numbers.
        """
        node = self.nodes[tap]
        return self._single(node.input[index] if index < len(node.input) else "", f"operand {index} of {tap}")

    def _single(self, tensor: str, name: str) -> float:
        array = self.value(tensor) if tensor else None
        if array is None or array.size != 1:
            raise ConfigError(f"{name} is not one constant number", code="form")
        return float(array.reshape(()))

    def attributes(self, tap: str) -> dict[str, Any]:
        """Attributes of the node that makes a tap, defaults of the operator included."""
        node = self.nodes[tap]
        return {**dict(defaults_of(node.op_type, self.opset)), **node_attributes(node)}


@dataclass(frozen=True)
class Form:
    """One way of writing what a plugin computes.

    Attributes:
        name: Its name, for reports.
        written_by: Who writes it, for people.
        variants: What `skeleton` is called with: numbers of levels, say.
        skeleton: Writes the skeleton of a variant.
        plugin: Writes the plugin's node, and what has to stand around it, for a place that was found; returns the
            result. It may raise ConfigError to say why the plugin cannot stand there.
        fills: How inputs are filled to run it, by name, one draw after the other, as in samples.yaml but for the
            shape.
    """

    name: str
    written_by: str
    variants: tuple[Any, ...]
    skeleton: Callable[[Skeleton, Any], None]
    plugin: Callable[[Body, Lying], str]
    fills: Mapping[str, tuple[Mapping[str, Any], ...]]


def forms_of(definition: PluginDefinition) -> tuple[Form, ...]:
    """The forms of a plugin: those of `forms.py` in its folder.

    Raises:
        ConfigError: the file cannot be loaded or has no forms.
    """
    from surgery.plugins.registry import load_module

    path = definition.folder / "forms.py"
    if not path.is_file():
        return ()
    forms = getattr(load_module(path), "FORMS", None)
    if not isinstance(forms, tuple) or not all(isinstance(f, Form) for f in forms):
        raise ConfigError("does not define FORMS, a tuple of Form", code="bad-definition", where=str(path))
    return tuple(_guarded(f, definition) for f in forms)


def _guarded(form: Form, definition: PluginDefinition) -> Form:
    """The form with functions whose mistakes are told with their place in the file."""

    def guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        what = f"{name} of form {form.name!r} of plugin {definition.name}"
        return partial(call_theirs, function, place=definition.folder, what=what)

    return replace(form, skeleton=guarded(form.skeleton, "skeleton"), plugin=guarded(form.plugin, "plugin"))


# -- graphs without what differs --------------------------------------------------------------------


def loosen(terms: Terms) -> None:
    """Take out of expressions what skeletons leave out, in place."""
    fixed = _from_shapes(terms)
    splits = [op for op in terms.ops if op.kind == "Split"]
    for op in terms.ops:
        op.attributes = {}
        if op.kind in SHAPED and all(id(v) in fixed or v.kind in ("empty", "constant") for v in op.args[1:]):
            op.args = op.args[:1]
            op.kind = "View" if op.kind in VIEWS else "Part" if op.kind in PARTS else op.kind
        first = op.args[0].op if op.args else None
        if op.kind == "View" and first is not None and first.kind == "View":
            op.args = first.args
    outputs: dict[int, list[Value]] = {}
    for value in terms.values.values():
        if value.op is not None:
            outputs.setdefault(id(value.op), []).append(value)
    for split in splits:
        if split.kind != "Part":
            continue
        for value in outputs.get(id(split), []):
            own = Op("Part", {}, split.args, (), list(split.nodes), (split.outputs[value.index],))
            terms.ops.append(own)
            value.op, value.index = own, 0
    gone = {id(s) for s in splits if s.kind == "Part"}
    terms.ops = [op for op in terms.ops if id(op) not in gone]


def _from_shapes(terms: Terms) -> set[int]:
    """Values (by identity) that are computed from constants and shapes alone."""
    fixed: set[int] = {id(v) for v in terms.values.values() if v.kind == "constant"}
    made: dict[int, list[Value]] = {}
    for value in terms.values.values():
        if value.op is not None:
            made.setdefault(id(value.op), []).append(value)
    for op in terms.ops:
        known = op.kind in ("Shape", "Size") or (
            bool(op.args)
            and not op.bodies
            and all(v.kind in ("constant", "empty") or id(v) in fixed for v in op.args)
        )
        if known:
            fixed.update(id(v) for v in made.get(id(op), []))
    return fixed


@dataclass(frozen=True)
class Place:
    """A place with the skeleton of a form.

    Attributes:
        form: The form.
        variant: Its variant.
        inputs: Tensors by name of input; numbers are not among them.
        result: The tensor that it computes.
        taps: Tensors by name of tap.
        numbers: Tensors by name of number.
    """

    form: Form
    variant: Any
    inputs: Mapping[str, str]
    result: str
    taps: Mapping[str, str]
    numbers: Mapping[str, str]


def places(terms: Terms, loose: LooseGraph, forms: Sequence[Form]) -> Iterator[Place]:
    """The places of forms in a graph, variant after variant, in the order of the graph."""
    for form in forms:
        for variant in form.variants:
            skeleton = Skeleton()
            form.skeleton(skeleton, variant)
            pattern = skeleton.pattern(terms.opset)
            kinds = {op.kind for op in below(pattern.results)}
            if not loose.by_kind.keys() >= kinds:
                continue
            root = pattern.results[0].op
            assert root is not None
            for start in loose.by_kind.get(root.kind, ()):
                found = find(pattern.results, terms, loose.by_kind, 0, start, loose.accepts)
                if found is None or any(v is None for v in found.outputs):
                    continue
                named = [n for n in skeleton.inputs if n in found.inputs and not n.startswith(NUMBER)]
                inputs = {n: _name(found.inputs[n]) for n in named}
                names = [_name(v) for v in found.outputs if v is not None]
                if all((*inputs.values(), *names)):
                    taps = dict(zip(list(skeleton.results)[1:], names[1:], strict=True))
                    given = {
                        n[len(NUMBER) :]: _name(v) for n, v in found.inputs.items() if n.startswith(NUMBER)
                    }
                    yield Place(form, variant, inputs, names[0], taps, given)


@dataclass(frozen=True)
class LooseGraph:
    """What is needed to look for skeletons in a graph.

    Attributes:
        by_kind: Expressions by operator type.
        fixed: Identities of values that are computed from shapes and constants alone.
    """

    by_kind: dict[str, list[Op]]
    fixed: set[int]

    def accepts(self, name: str, value: Value) -> bool:
        """Whether a value may be an input of a skeleton: a number is nothing that is computed from data."""
        return not name.startswith(NUMBER) or value.kind == "constant" or id(value) in self.fixed


def loose_graph(terms: Terms) -> LooseGraph:
    """Loosen a graph's expressions, in place."""
    fixed = _from_shapes(terms)
    loosen(terms)
    return LooseGraph(terms.by_kind(), fixed)


def _name(value: Value) -> str:
    if value.op is None:
        return value.name
    return value.op.outputs[value.index] if value.op.nodes else ""
