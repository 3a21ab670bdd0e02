"""A copy of a model to take apart: functions expanded, every node named uniquely, nodes cut out one by one.

Names of nodes are tokens here, so that a message of parser or builder tells which node it is about without doubt,
whatever the model calls its nodes; :meth:`WorkCopy.readable` puts the model's own names back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.diagnose.facts import Facts, Kind, Place, kind_of, label, used
from surgery.graph.functions import bind_references

if TYPE_CHECKING:
    import onnx

TOKEN = re.compile(r"sgy\d{6}x")
"""What nodes are called in the copy."""

_CALLED = re.compile(r" called by '.*'$")

MAX_NODES = 200_000
"""Nodes up to which functions are expanded."""

MAX_RANK = 8
"""Most dims that a tensor of TensorRT has."""

TYPES = frozenset(
    {
        "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool", "int4", "float8e4m3fn",
        "float64",
    }
)  # fmt: skip
"""Element types that an input of a TensorRT network can be declared with."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node of the copy comes from.

    Attributes:
        name: The node's name, or what it makes.
        op: Its operator.
        domain: Its domain.
        path: The nodes whose bodies or functions it lies in, outermost first.
        call: Token of the outermost call it was expanded from, or None.
        written: Which node of the file it is; calls of one function share it.
    """

    name: str
    op: str
    domain: str
    path: tuple[str, ...]
    call: str | None
    written: str


class WorkCopy:
    """The copy, and what is cut out of it.

    Attributes:
        model: The copy, as it stands after the cuts so far.
        facts: Places and types, of the copy before any cut.
        origins: Token to where the node comes from.
        cut: Tokens of nodes that were cut out.
        skipped: Tokens of nodes that went with them because nothing can stand for what they read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.origins: dict[str, Origin] = {}
        self.cut: list[str] = []
        self.skipped: list[str] = []
        self._ends: list[str] = []
        self._count = 0
        self._functions = {(f.domain, f.name): f for f in self.model.functions}
        self._name(self.model.graph, (), None, "")
        if self._functions:
            self._expand(self.model.graph, 0)
            del self.model.functions[:]
        # Places refer to nodes of the model they were read from, and cutting deletes nodes.
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        self.facts = Facts(whole)
        self.facts.inlined = frozenset(t for t, o in self.origins.items() if o.call is not None)
        self._places = {p.node.name: p for p in self.facts.places}
        self._typed = self._places
        self._stands: dict[str, tuple[str, str]] = {}

    def place(self, token: str) -> Place:
        """A node of the copy, as it was before any cut."""
        return self._places[token]

    def tokens(self, text: str) -> list[str]:
        """Nodes that a message is about, in order."""
        return [t for t in dict.fromkeys(TOKEN.findall(text)) if t in self.origins]

    def readable(self, text: str) -> str:
        """The text with the model's own names in it."""
        return TOKEN.sub(
            lambda m: self.origins[m.group()].name if m.group() in self.origins else m.group(), text
        )

    def owner(self, token: str) -> str:
        """The node of the main graph that a node lies in (itself, in the main graph)."""
        place = self._places[token]
        return place.owners[0].node.name if place.owners else token

    # -- tokens and functions ---------------------------------------------------------------------------------------

    def _name(self, graph: onnx.GraphProto, path: tuple[str, ...], call: str | None, prefix: str) -> None:
        for node in graph.node:
            self._name_node(node, path, call, prefix)

    def _name_node(self, node: onnx.NodeProto, path: tuple[str, ...], call: str | None, prefix: str) -> str:
        token = f"sgy{self._count:06d}x"
        self._count += 1
        own = label(node).removeprefix(prefix)
        written = (
            "|".join([_CALLED.sub("", p) for p in _from_function(path)] + [own])
            if call is not None
            else token
        )
        self.origins[token] = Origin(own, node.op_type, node.domain, path, call, written)
        node.name = token
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = (*path, f"{node.op_type} {own!r} {attribute.name}")
                self._name(attribute.g, inner, call, prefix)
        return token

    def _expand(self, graph: onnx.GraphProto, depth: int) -> None:
        import onnx

        from surgery.plugins.inline import inline_call

        if depth > 64 or self._count > MAX_NODES:
            return
        changed = True
        while changed and self._count <= MAX_NODES:
            changed = False
            made: list[onnx.NodeProto] = []
            for node in graph.node:
                function = self._functions.get((node.domain, node.op_type))
                origin = self.origins.get(node.name)
                if function is None or origin is None or len(origin.path) > 64:
                    made.append(node)
                    continue
                changed = True
                self._import_domains(function)
                bound = onnx.FunctionProto()
                bound.CopyFrom(function)
                given = {a.name: a for a in function.attribute_proto}
                given.update({a.name: a for a in node.attribute})
                for inner in bound.node:
                    bind_references(inner, given)
                path = (*origin.path, f"function {function.name!r} called by {origin.name!r}")
                for inner in inline_call(node, bound):
                    self._name_node(inner, path, origin.call or node.name, f"{node.name}/")
                    made.append(inner)
            if changed:
                del graph.node[:]
                graph.node.extend(made)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._expand(attribute.g, depth + 1)

    def _import_domains(self, function: onnx.FunctionProto) -> None:
        known = {o.domain for o in self.model.opset_import}
        self.model.opset_import.extend(o for o in function.opset_import if o.domain not in known)

    # -- cutting ----------------------------------------------------------------------------------------------------

    def drop(self, tokens: Iterable[str]) -> None:
        """Cut nodes out: what they make becomes typed inputs; what cannot be typed takes its readers with it."""
        pending = list(tokens)
        first = set(pending)
        while pending:
            token = pending.pop(0)
            if token in self.cut or token in self.skipped or token not in self._places:
                continue
            (self.cut if token in first else self.skipped).append(token)
            graph = self._graph_of(token)
            if graph is None:
                continue
            index = next((i for i, n in enumerate(graph.node) if n.name == token), None)
            if index is None:
                continue
            outputs = [o for o in graph.node[index].output if o]
            self._ends.extend(used(graph.node[index]))
            del graph.node[index]
            for position, name in enumerate(outputs):
                pending.extend(self._replace(graph, token, position, name))

    def drop_tensor(self, name: str) -> list[str]:
        """Take away an input or a constant that cannot be imported; the nodes that read it go, and are returned."""
        graph = self.model.graph
        for field in (graph.input, graph.initializer):
            for i in reversed(range(len(field))):
                if field[i].name == name:
                    del field[i]
        readers = [n.name for n in graph.node if name in used(n)]
        before = len(self.cut)
        self.drop(readers)
        self.skipped.extend(self.cut[before:])
        del self.cut[before:]
        kept = [o for o in graph.output if o.name != name]
        if len(kept) < len(graph.output):
            del graph.output[:]
            graph.output.extend(kept)
        return readers

    def _graph_of(self, token: str) -> onnx.GraphProto | None:
        """The graph of the copy that holds a node now."""
        place = self._places[token]
        graph = self.model.graph
        for owner, inner in zip(place.owners, (*place.owners[1:], place), strict=False):
            node = next((n for n in graph.node if n.name == owner.node.name), None)
            if node is None:
                return None
            wanted = inner.path[-1].rsplit(" ", 1)[1]
            graph = next((a.g for a in node.attribute if a.name == wanted and a.HasField("g")), graph)
        return graph

    def _replace(self, graph: onnx.GraphProto, token: str, position: int, name: str) -> list[str]:
        """Let a typed input stand for what a cut node made; or return the readers, which have to go too."""
        import onnx

        main = not self._places[token].owners
        kind = self._typed[token].scope.kind(name)
        declared = [o for o in graph.output if o.name == name]
        fresh = name if main else f"{token}_{position}"
        if usable(kind):
            self.model.graph.input.append(declare(fresh, kind))
            self._stands[fresh] = (token, name)
            if main:
                _remove_outputs(graph, {name})
            else:
                _rename(graph, name, fresh)
                if declared:
                    for output in graph.output:
                        if output.name == fresh:
                            output.name = name
                    graph.node.append(onnx.helper.make_node("Identity", [fresh], [name], name=f"{token}_end"))
            return []
        if main:
            _remove_outputs(graph, {name})
        elif declared:
            return [self.owner(token)]
        return [n.name for n in graph.node if name in used(n)]

    def specialise(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Fix free dims of the inputs, and with them the shapes of what stands for cut nodes.

        Inputs that stand for cut nodes are free of each other otherwise, and a profile for them would be wrong.

        Returns:
            Names of inputs whose shape stays unknown.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.facts.model)
        for value in model.graph.input:
            if value.name in shapes and kind_of(value).dtype is not None:
                fixed = declare(value.name, Kind(kind_of(value).dtype, tuple(shapes[value.name])))
                value.CopyFrom(fixed)
        self._typed = {p.node.name: p for p in Facts(model).places}
        known = {v.name: kind_of(v) for v in model.graph.input}
        free = []
        for value in self.model.graph.input:
            if value.name in self._stands:
                token, name = self._stands[value.name]
                kind = self._typed[token].scope.kind(name)
            else:
                kind = known.get(value.name, kind_of(value))
            if not usable(kind) or not all(isinstance(d, int) for d in kind.dims or ()):
                free.append(value.name)
            else:
                value.CopyFrom(declare(value.name, kind))
        return free

    # -- models to ask about ----------------------------------------------------------------------------------------

    def for_build(self) -> onnx.ModelProto:
        """The copy with what the cut nodes read as outputs, so that what comes before them is built too."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        made = {o for n in graph.node for o in n.output if o}
        have = {o.name for o in graph.output}
        for name in dict.fromkeys(self._ends):
            kind = self.facts.main.kind(name)
            if name in made and name not in have and usable(kind) and kind.dtype not in ("uint8", "int4"):
                graph.output.append(declare(name, kind))
        return model

    def part(self, first: int, last: int) -> onnx.ModelProto:
        """Nodes first to last - 1 of the main graph as a model of their own."""
        import onnx

        whole = self.for_build()
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        graph = model.graph
        nodes = list(whole.graph.node)[first:last]
        del graph.node[:]
        graph.node.extend(nodes)
        made = {o for n in nodes for o in n.output if o}
        read = {name for n in nodes for name in used(n)}
        inside = {name for n in nodes for name in n.input if name}
        constants = [t for t in graph.initializer if t.name in read]
        known = {t.name for t in constants} | {t.values.name for t in graph.sparse_initializer}
        inputs = {v.name: v for v in graph.input}
        del graph.initializer[:]
        graph.initializer.extend(constants)
        del graph.input[:]
        for name in sorted(read - made - known):
            if name in inputs:
                graph.input.append(inputs[name])
            elif usable(self.facts.main.kind(name)):
                graph.input.append(declare(name, self.facts.main.kind(name)))
        wanted = [o for o in graph.output if o.name in made]
        have = {o.name for o in wanted}
        for node in nodes:
            for name in node.output:
                kind = self.facts.main.kind(name)
                if name and name not in inside and name not in have and usable(kind):
                    wanted.append(declare(name, kind))
                    have.add(name)
        del graph.output[:]
        graph.output.extend(wanted)
        del graph.value_info[:]
        return model

    def index(self, token: str) -> int | None:
        """Position in the main graph of the copy, or None if it is not there."""
        return next((i for i, n in enumerate(self.model.graph.node) if n.name == token), None)


def _from_function(path: Sequence[str]) -> Sequence[str]:
    last = max((i for i, p in enumerate(path) if _CALLED.search(p)), default=0)
    return path[last:]


def usable(kind: Kind) -> bool:
    """Whether an input of a network can stand for such a tensor."""
    return kind.dtype in TYPES and kind.dims is not None and len(kind.dims) <= MAX_RANK


def declare(name: str, kind: Kind) -> onnx.ValueInfoProto:
    """A declaration of a tensor of that kind."""
    import onnx

    wanted = {"float32": "FLOAT", "float64": "DOUBLE"}.get(kind.dtype or "", (kind.dtype or "").upper())
    element = onnx.TensorProto.DataType.Value(wanted)
    return onnx.helper.make_tensor_value_info(name, element, list(kind.dims or ()))


def _remove_outputs(graph: onnx.GraphProto, names: set[str]) -> None:
    for i in reversed(range(len(graph.output))):
        if graph.output[i].name in names:
            del graph.output[i]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = attribute.g
                own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
                own.update(o for n in inner.node for o in n.output)
                if old not in own:
                    _rename(inner, old, new)
    for value in graph.output:
        if value.name == old:
            value.name = new
