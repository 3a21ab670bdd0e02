"""Rules for several nodes: pairs of ONNX functions, and patterns with a builder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser

from surgery.graph.pattern import Pattern, absent, op
from surgery.graph.pattern_parts import Absent, Attr, Constant, Op, Out, Value
from surgery.rules.engine.rule import NoMatch, Sample, Stated, When

if TYPE_CHECKING:
    from surgery.graph.body import Body
    from surgery.rules.engine.cut_site import CutSite

DOMAIN = "surgery.rule"
SCALARS = {
    "value_float": np.float32,
    "value_int": np.int64,
    "value_floats": np.float32,
    "value_ints": np.int64,
}


class RuleTextError(ValueError):
    """The text of a rule is wrong.

    Attributes:
        part: ``before`` or ``after``.
        line: Line in that text, from 1, where it is known.
        column: Column, from 1.
    """

    def __init__(self, part: str, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(f"{part}: {message}")
        self.part, self.message, self.line, self.column = part, message, line, column


@dataclass(frozen=True, kw_only=True)
class Several(Stated):
    """A rule for several nodes at once.

    Attributes:
        optional: Only a change of form: applied where the user asks for it by name.
    """

    optional: bool = False

    if TYPE_CHECKING:

        @property
        def pattern(self) -> Pattern:
            """What it matches."""

    @property
    def ops(self) -> tuple[str, ...]:
        """Operators that it matches."""
        return self.pattern.ops

    @property
    def domain(self) -> str:
        """Domain of the node that makes the first output."""
        return sorted(d for d, _ in self.pattern.heads)[0]


@dataclass(frozen=True, kw_only=True)
class PatternRule(Several):
    """A pattern over several nodes, and a function that writes what replaces the cut.

    Attributes:
        pattern: What it matches.
        build: Gets a :class:`CutSite` and a :class:`Body`; returns one name per output of the pattern, or one
            name alone. Raises NoMatch.
    """

    pattern: Pattern
    build: Callable[[CutSite, Body], Any]

    @property
    def form(self) -> str:
        """Which of the three forms of rules it is."""
        return "pattern"


@dataclass(frozen=True, kw_only=True)
class Pair(Several):
    """Two ONNX functions of one signature: the first is matched, the second put in its place.

    The inputs of `before` stand for any tensors, its attribute parameters capture attributes, or the values
    of constants (``Constant <value_float: float = @eps>``). Its constants match by value, whatever their dtype.
    In `after`, ``CastLike`` of a constant to an input makes a constant of that input's dtype.

    Attributes:
        before: The function to match: ``(x, w) => (y) { ... }``.
        after: The one to put in its place.
    """

    before: str
    after: str

    @property
    def form(self) -> str:
        """Which of the three forms of rules it is."""
        return "pair"

    @cached_property
    def functions(self) -> tuple[onnx.FunctionProto, onnx.FunctionProto]:
        """Both functions, checked.

        Raises:
            RuleTextError: one cannot be read, or their signatures differ.
        """
        before, after = parse_function("before", self.before), parse_function("after", self.after)
        for what, one, other in (
            ("inputs", before.input, after.input),
            ("outputs", before.output, after.output),
        ):
            if list(one) != list(other):
                text = f"has the {what} {', '.join(other)}, before has {', '.join(one)}"
                raise RuleTextError("after", text)
        unknown = sorted(set(_parameters(after)) - set(_parameters(before)))
        if unknown:
            raise RuleTextError("after", f"the attribute {unknown[0]!r} is not one of before")
        return before, after

    @cached_property
    def pattern(self) -> Pattern:
        """What it matches.

        Raises:
            RuleTextError: the first function cannot be matched.
        """
        return compile_function(self.functions[0])

    def build(self, site: CutSite, body: Body) -> list[str]:
        """Write the second function, its attributes bound to what was captured."""
        before, after = self.functions
        values = {n: _captured(site, n) for n in _parameters(before)}
        return write_function(after, site, body, values)


def samples_of(given: Sequence[Sample | str]) -> tuple[Sample, ...]:
    """Samples; text alone stands for a sample in the default opset."""
    return tuple(Sample(s) if isinstance(s, str) else s for s in given)


def pair(
    name: str,
    *,
    before: str,
    after: str,
    why: str,
    samples: Sequence[Sample | str],
    near_misses: Sequence[Sample | str] = (),
    when: When = "refused",
    since: int = 1,
    until: int | None = None,
    targets: Sequence[str] = (),
    rank: int = 0,
    optional: bool = False,
) -> Pair:
    """A :class:`Pair`, checked.

    Raises:
        RuleTextError: the functions do not fit each other, or the first cannot be matched.
    """
    made = Pair(
        name=name, before=before, after=after, why=why, samples=samples_of(samples),
        near_misses=samples_of(near_misses), when=when, since=since, until=until, targets=tuple(targets),
        rank=rank, optional=optional,
    )  # fmt: skip
    assert made.pattern is not None
    return made


def pattern_rule(
    name: str,
    pattern: Pattern | Op | Out,
    *,
    why: str,
    samples: Sequence[Sample | str],
    near_misses: Sequence[Sample | str] = (),
    when: When = "refused",
    since: int = 1,
    until: int | None = None,
    targets: Sequence[str] = (),
    rank: int = 0,
    optional: bool = False,
) -> Callable[[Callable[[CutSite, Body], Any]], PatternRule]:
    """Decorator that makes a :class:`PatternRule` of a build function."""
    whole = pattern if isinstance(pattern, Pattern) else Pattern(pattern)

    def make(build: Callable[[CutSite, Body], Any]) -> PatternRule:
        return PatternRule(
            name=name, pattern=whole, why=why, build=build, samples=samples_of(samples),
            near_misses=samples_of(near_misses), when=when, since=since, until=until, targets=tuple(targets),
            rank=rank, optional=optional,
        )  # fmt: skip

    return make


# -- functions ------------------------------------------------------------------------------------------


def parse_function(part: str, text: str) -> onnx.FunctionProto:
    """A function written as ``(x) => (y) { ... }``, with ``<alpha: float>`` in front for attributes.

    Raises:
        RuleTextError: it is not valid.
    """
    stripped = text.strip()
    named = stripped if re.match(r"[A-Za-z_]", stripped) else f"{part} {stripped}"
    try:
        function = onnx.parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : 1]>\n{named}')
    except onnx.parser.ParseError as error:
        raise _text_error(part, text, named, error) from error
    for node in function.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    made = {o for n in function.node for o in n.output}
    missing = [o for o in function.output if o not in made]
    if missing:
        raise RuleTextError(part, f"no node makes the output {missing[0]!r}")
    known = {*function.input, *made}
    for node in function.node:
        for name in node.input:
            if name and name not in known:
                raise RuleTextError(part, f"{node.op_type} reads {name!r}, which nothing makes")
    return function


def _text_error(part: str, text: str, named: str, error: Exception) -> RuleTextError:
    given = error.args[0] if error.args else ""
    message = given.decode() if isinstance(given, bytes) else str(given)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    what = "; ".join(line for line in lines if not line.startswith(("[ParseError", "Error context")))
    found = re.search(r"line: (\d+) column: (\d+)", message)
    if found is None:
        return RuleTextError(part, what or "is not a function")
    skipped = text[: len(text) - len(text.lstrip())].count("\n")
    line, column = int(found[1]) - 1 + skipped, int(found[2])
    if int(found[1]) == 2:
        column -= len(named) - len(text.strip())
        column += len(text) - len(text.lstrip()) - (text[: len(text) - len(text.lstrip())].rfind("\n") + 1)
    return RuleTextError(part, what or "is not a function", max(line, 1), max(column, 1))


def _parameters(function: onnx.FunctionProto) -> list[str]:
    return [*function.attribute, *(a.name for a in function.attribute_proto)]


def compile_function(function: onnx.FunctionProto) -> Pattern:
    """The pattern that a function's nodes are.

    Raises:
        RuleTextError: it has bodies, an input or a node that no output depends on, or a parameter nothing uses.
    """
    defaults = {
        a.name: onnx.helper.get_attribute_value(a)
        for a in function.attribute_proto
        if any(a.HasField(f) for f in ("f", "i", "s", "t")) or a.floats or a.ints or a.strings
    }
    known: dict[str, Any] = {n: Value(n) for n in function.input}
    used: set[str] = set(function.output)
    parameters: set[str] = set()
    for node in function.node:
        used.update(node.input)
        parameters.update(a.ref_attr_name for a in node.attribute if a.ref_attr_name)
        made = _compile_node(node, known, defaults)
        for index, name in enumerate(node.output):
            if name:
                known[name] = made if index == 0 or not isinstance(made, Op) else Out(made, index)
    for name in function.input:
        if name not in used:
            raise RuleTextError("before", f"no node reads the input {name!r}")
    for node in function.node:
        if not any(o in used for o in node.output):
            raise RuleTextError("before", f"nothing depends on {node.output[0]!r}")
    unread = [n for n in _parameters(function) if n not in parameters]
    if unread:
        raise RuleTextError("before", f"no node has the attribute {unread[0]!r}")
    for name in function.output:
        if not isinstance(known[name], (Op, Out)):
            raise RuleTextError("before", f"the output {name!r} is a constant")
    return Pattern(*(known[o] for o in function.output))


def _compile_node(node: onnx.NodeProto, known: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    if node.op_type == "Constant" and not node.domain:
        return _compile_constant(node)
    inputs = [known[n] if n else absent() for n in node.input]
    if node.op_type == "CastLike" and isinstance(inputs[0], Constant):
        return inputs[0]
    while inputs and isinstance(inputs[-1], Absent):
        inputs.pop()
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            default = defaults.get(attribute.ref_attr_name)
            attributes[attribute.name] = Attr(attribute.ref_attr_name, _python(default))
        elif attribute.HasField("g") or attribute.graphs:
            raise RuleTextError("before", f"{node.op_type} has a body; a pair matches plain nodes")
        else:
            attributes[attribute.name] = _python(onnx.helper.get_attribute_value(attribute))
    return op(node.op_type, *inputs, attrs=attributes, domain=node.domain, exact=True)


def _compile_constant(node: onnx.NodeProto) -> Constant:
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        scalar = attribute.name in ("value_float", "value_int")
        return Constant(
            f"@{attribute.ref_attr_name}",
            where=(lambda t: t.value is not None and t.value.size == 1) if scalar else None,
        )
    given = _python(onnx.helper.get_attribute_value(attribute))
    return Constant(None, np.asarray(given, SCALARS.get(attribute.name)))


def _python(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return [_python(v) for v in value]


def _captured(site: CutSite, name: str) -> Any:
    """Value of a parameter: from an attribute, a constant, or both."""
    values = []
    if name in site.values:
        values.append(site.values[name])
    if f"@{name}" in site.tensors:
        array = site.constant(f"@{name}")
        value: Any = array.item() if array.size == 1 else array.tolist()
        if array.dtype.kind not in "iub":
            value = float(value) if array.size == 1 else [float(v) for v in array.ravel()]
        values.append(value)
    if len(values) == 2 and values[0] != values[1]:
        raise NoMatch(f"{name} is {values[0]} in one place and {values[1]} in another")
    return values[0] if values else None


def write_function(
    function: onnx.FunctionProto, site: CutSite, body: Body, values: Mapping[str, Any]
) -> list[str]:
    """Write a function's nodes into a body, with attributes bound and names made unique."""
    called = onnx.FunctionProto()
    called.CopyFrom(function)
    called.name, called.domain = "after", DOMAIN
    for node in called.node:
        for i in reversed(range(len(node.attribute))):
            if node.attribute[i].ref_attr_name and values.get(node.attribute[i].ref_attr_name) is None:
                del node.attribute[i]  # what the matched node leaves open stays open
    domains = {n.domain for n in called.node} | {""}
    imports = [onnx.helper.make_opsetid(d, 1 if d else site.opset) for d in sorted(domains)]
    del called.opset_import[:]
    called.opset_import.extend(imports)
    given = {n: v for n, v in values.items() if v is not None and n in _parameters(function)}
    inputs = [site.name(n) for n in function.input]
    call = onnx.helper.make_node("after", inputs, list(function.output), domain=DOMAIN, **given)
    graph = onnx.GraphProto(name="after", node=[call])
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(inputs))
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
    imports = [*imports, onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, functions=[called], opset_imports=imports, ir_version=10)
    nodes = onnx.inliner.inline_local_functions(model).graph.node
    return _append(nodes, function.output, site, body)


def _append(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], site: CutSite, body: Body) -> list[str]:
    """Add nodes under fresh names; constants, and constants cast to the dtype of an input, become `value`s."""
    names: dict[str, str] = {}
    constants: dict[str, Any] = {}
    dtypes = {o.name: o.dtype for o in site.inputs if o is not None}
    for node in nodes:
        if node.op_type == "Constant" and not node.domain:
            attribute = node.attribute[0]
            given = _python(onnx.helper.get_attribute_value(attribute))
            constants[node.output[0]] = np.asarray(given, SCALARS.get(attribute.name))
            continue
        if node.op_type == "CastLike" and node.input[0] in constants:
            dtype = dtypes.get(node.input[1])
            if dtype is not None:
                constants[node.output[0]] = constants[node.input[0]].astype(dtype)
                continue
        for i, name in enumerate(node.input):
            if name in constants:
                array = constants[name]
                node.input[i] = body.const(array, array.dtype)
            else:
                node.input[i] = names.get(name, name)
        for i, name in enumerate(node.output):
            if name:
                node.output[i] = names[name] = body.fresh(node.op_type)
        node.name = f"n_{node.output[0]}"
        node.ClearField("metadata_props")
        body.nodes.append(node)
    found = []
    for name in outputs:
        if name in constants:
            found.append(body.const(constants[name], constants[name].dtype))
        else:
            found.append(names[name])
    return found
