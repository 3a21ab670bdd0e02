"""Patterns over several nodes, matched from an output backwards.

A pattern is a tree of :func:`op`, :func:`value`, :func:`constant`, :func:`either`, :func:`optional`,
:func:`absent` and :func:`rest`; the same object at two places stands for the same node::

    x = value("x")
    gelu = Pattern(op("Mul", x, op("Sigmoid", op("Mul", x, constant("alpha")))))

Operands of commutative operators match in any order. A match is a cut of the graph: :meth:`Scope.illegal` says
whether taking it out is allowed. A match that fails says at which node, and why: :class:`Mismatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.convert import is_external, value_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMMUTATIVE = frozenset(
    {
        "Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr",
        "BitwiseXor",
    }
)  # fmt: skip

MAX_CANDIDATES = 64
"""Nodes looked at for a further output of a pattern, at most; a hub can have thousands of consumers."""

_MISSING = object()


class Tensor:
    """What a predicate sees of a tensor."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._tensor.name)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Its dtype, or None if unknown."""
        return tensor_dtype(self._tensor)

    @property
    def shape(self) -> tuple[Any, ...] | None:
        """Dims: numbers, names, None; None if the rank is unknown."""
        return tuple(self._tensor.shape) if self._tensor.shape is not None else None

    @cached_property
    def value(self) -> NDArray[Any] | None:
        """The value of a constant, else None. Weights in files of their own are not read."""
        return constant_value(self._tensor)


Predicate = Callable[[Tensor], bool]


# -- the language ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Value:
    """Any tensor; the same name twice is the same tensor, or a constant of the same value."""

    name: str
    where: Predicate | None = None


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor whose value is known."""

    name: str | None = None
    equals: Any = None
    where: Predicate | None = None


@dataclass(frozen=True, eq=False)
class Attr:
    """Captures an attribute; the same name twice is the same value."""

    name: str
    default: Any = None


@dataclass(frozen=True, eq=False)
class Op:
    """A node of one of several operators. See :func:`op`."""

    kinds: frozenset[str]
    inputs: tuple[Any, ...]
    name: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    unused: tuple[int, ...] = ()
    keep: bool = False
    exact: bool = False
    commutative: bool = False

    def out(self, index: int) -> Out:
        """Output number `index` of this node."""
        return Out(self, index)


@dataclass(frozen=True, eq=False)
class Out:
    """One output of a node."""

    node: Op
    index: int


@dataclass(frozen=True, eq=False)
class Either:
    """The first alternative that matches."""

    choices: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Maybe:
    """An input that may be left out."""

    pattern: Any


@dataclass(frozen=True, eq=False)
class Absent:
    """An input that has to be left out."""


@dataclass(frozen=True, eq=False)
class Rest:
    """All further inputs."""

    name: str
    least: int = 0


def op(
    kinds: str | Sequence[str],
    *inputs: Any,
    name: str | None = None,
    attrs: Mapping[str, Any] | None = None,
    domain: str = "",
    unused: Sequence[int] = (),
    keep: bool = False,
    exact: bool = False,
) -> Op:
    """A node.

    Args:
        kinds: Operator, or several that will do.
        inputs: A pattern for each input. Inputs that the node has beyond them make it fail.
        name: To capture the node.
        attrs: Attribute to what it has to be: a value, a predicate, or an :class:`Attr` that captures it. The
            schema's default counts where the node does not have it.
        domain: Domain of the operator.
        unused: Outputs that nothing may read.
        keep: The node stays where it is, so others may read it too; it is no part of what is taken out.
        exact: Attributes that are not named have to have their defaults.
    """
    chosen = frozenset({kinds} if isinstance(kinds, str) else kinds)
    commutative = not domain and chosen <= COMMUTATIVE
    return Op(chosen, inputs, name, dict(attrs or {}), domain, tuple(unused), keep, exact, commutative)


def value(name: str, where: Predicate | None = None) -> Value:
    """Any tensor, for which the predicate holds."""
    return Value(name, where)


def constant(name: str | None = None, *, equals: Any = None, where: Predicate | None = None) -> Constant:
    """A tensor of known value: equal to a number or array, whatever its dtype, or for which a predicate holds."""
    return Constant(name, equals, where)


def attr(name: str, default: Any = None) -> Attr:
    """Captures an attribute; `default` where neither the node nor the operator's schema has it."""
    return Attr(name, default)


def either(*choices: Any) -> Either:
    """The first of the alternatives that matches."""
    return Either(choices)


def optional(pattern: Any) -> Maybe:
    """An input that matches, or is left out."""
    return Maybe(pattern)


def absent() -> Absent:
    """An input that is left out."""
    return Absent()


def rest(name: str, *, least: int = 0) -> Rest:
    """All further inputs of a node, as a list."""
    return Rest(name, least)


# -- results --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a pattern did not match: at which node, and how many nodes had matched before.

    Nearly none is ever read, so the text is made when it is asked for.
    """

    where: Any
    text: str
    arguments: tuple[Any, ...] = ()
    depth: int = 0

    @property
    def node(self) -> str:
        """Name of the node that does not fit."""
        return str(self.where.name)

    @property
    def op(self) -> str:
        """Its operator."""
        return str(self.where.op)

    @property
    def why(self) -> str:
        """What is wrong with it."""
        return self.text.format(*map(_text, self.arguments))

    def __str__(self) -> str:
        return f"at {self.node or 'a nameless node'} ({self.op}): {self.why}"


@dataclass(frozen=True)
class Match:
    """A cut that a pattern found.

    Attributes:
        nodes: Its nodes, the one that was asked about first; without those that stay.
        kept: Nodes that belong to the pattern and stay.
        tensors: Captured tensors by name.
        lists: Captured further inputs by name.
        named: Captured nodes by name.
        attributes: Captured attributes by name.
        constants: Tensors whose value was part of the match.
        outputs: What the cut makes, None for an output that is not there.
    """

    nodes: tuple[Any, ...]
    kept: tuple[Any, ...]
    tensors: Mapping[str, Any]
    lists: Mapping[str, tuple[Any, ...]]
    named: Mapping[str, Any]
    attributes: Mapping[str, Any]
    constants: tuple[Any, ...]
    outputs: tuple[Any, ...]


class Pattern:
    """One or several outputs, matched backwards.

    Args:
        roots: Patterns of the nodes (or outputs of nodes) whose results the cut makes.
    """

    def __init__(self, *roots: Op | Out | Either) -> None:
        if not roots:
            raise ValueError("a pattern needs at least one output")
        self.roots = roots
        self.heads = {(p.domain, kind) for p in _ops_of(roots[0]) for kind in p.kinds}
        """Domain and operator of the nodes that a match can start at."""
        self._starts = [(p.kinds, p.commutative, _heads(p)) for p in _ops_of(roots[0])]

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """All operators it names."""
        found: dict[str, None] = {}
        for pattern in _walk(self.roots):
            if isinstance(pattern, Op):
                found.update(dict.fromkeys(sorted(pattern.kinds)))
        return tuple(found)

    @cached_property
    def depth(self) -> int:
        """Nodes on the longest way from an output to an input."""
        return max(_depth(r) for r in self.roots)

    def may_match(self, op: str, makers: Sequence[str | None]) -> bool:
        """Whether a match at a node is possible, by its operator and those that make its inputs."""
        for kinds, commutative, heads in self._starts:
            if op not in kinds:
                continue
            for place, wanted in heads:
                if commutative:
                    if wanted.isdisjoint(makers):
                        break
                elif place >= len(makers) or makers[place] not in wanted:
                    break
            else:
                return True
        return False

    def match(self, node: gs.Node, scope: Scope) -> Match | Mismatch:
        """Match at a node that makes the pattern's first output.

        Returns:
            The cut, or why there is none.
        """
        finder = _Finder(scope)
        for _ in finder.root(self.roots, node):
            found = finder.result()
            problem = scope.illegal(found)
            if problem is None:
                return found
            finder.note(problem)
        return finder.best or Mismatch(node, "nothing reads what it would have to make")


# -- the graph around -----------------------------------------------------------------------------------


class Scope:
    """The nodes of one graph while matches are taken out of it.

    Attributes:
        graph: The graph; matches never cross into the graphs around it or inside it.
        opset: Version of the default domain.
        outputs: Names of tensors that something other than a node reads: outputs of the graph and of bodies.
    """

    def __init__(self, graph: gs.Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.outputs = {t.name for t in graph.outputs}
        self._place = {id(node): place for place, node in enumerate(graph.nodes)}
        self._owner: dict[int, Any] = {}
        self._gone: dict[int, Any] = {}
        self._loose = False
        for node in graph.nodes:
            if node.attrs:
                self._inside(node, node)

    def _inside(self, node: gs.Node, owner: gs.Node) -> None:
        """What the bodies of a node read counts as read by the node."""
        for body in node.subgraphs():
            made = {t.name for t in body.inputs}
            for inner in body.nodes:
                self._owner[id(inner)] = owner
                made.update(t.name for t in inner.outputs)
                self._inside(inner, owner)
            self.outputs.update(t.name for t in body.outputs if t.name not in made)

    def producer(self, tensor: Any) -> Any:
        """The node of this graph that makes a tensor, or None."""
        made_by = tensor.inputs
        if not made_by:
            return None
        node = made_by[0]
        return node if id(node) in self._place else None

    def users(self, tensor: Any) -> Iterator[Any]:
        """Nodes of this graph that read a tensor, themselves or in their bodies; a node may come twice."""
        for node in tensor.outputs:
            key = id(node)
            if key not in self._gone:
                yield self._owner.get(key, node)

    def used(self, tensor: Any) -> bool:
        """Whether anything reads a tensor."""
        return tensor.name in self.outputs or any(True for _ in self.users(tensor))

    def alive(self, node: Any) -> bool:
        """Whether the node is in the graph, and has not been replaced."""
        return id(node) in self._place

    def last(self, nodes: Sequence[Any]) -> Any:
        """The node that comes last in the graph."""
        return max(nodes, key=lambda n: self._place[id(n)])

    def replace(self, gone: Sequence[Any], made: Sequence[Any], *, loose: bool = False) -> None:
        """Nodes have been taken out, and others put in the place of the last of them.

        Args:
            gone: Nodes that are no longer there.
            made: Those that are instead.
            loose: A user of what they make may stand before them.
        """
        self._loose |= loose
        place = max(self._place[id(n)] for n in gone)
        for node in gone:
            self._gone[id(node)] = node  # kept alive: another object must not get its id
            del self._place[id(node)]
        for node in made:
            self._place[id(node)] = place
            if node.attrs:
                self._inside(node, node)

    def illegal(self, match: Match) -> Mismatch | None:
        """Why the cut must not be taken out, or None: a value inside is read outside, or a cycle would arise."""
        cut = {id(n) for n in match.nodes}
        results = {id(t) for t in match.outputs if t is not None}
        for node in match.nodes:
            for tensor in node.outputs:
                if id(tensor) in results or not tensor.name:
                    continue
                if tensor.name in self.outputs:
                    why = "{} is inside of the match and an output of the graph"
                    return Mismatch(node, why, (tensor,), len(cut))
                for user in self.users(tensor):
                    if id(user) not in cut:
                        why = "{} is inside of the match and read by {} outside"
                        return Mismatch(node, why, (tensor, user), len(cut))
        makers = {id(self.producer(t)) for t in match.outputs if t is not None}
        if len(makers) > 1:
            return self._cycle(match, cut)
        return None

    def _cycle(self, match: Match, cut: set[int]) -> Mismatch | None:
        """A path that leaves the cut and comes back; the search ends at the cut's last place."""
        last = max(self._place[id(n)] for n in match.nodes)
        stack = [u for n in match.nodes for t in n.outputs for u in self.users(t) if id(u) not in cut]
        seen = {id(n) for n in stack}
        while stack:
            node = stack.pop()
            if not self._loose and self._place.get(id(node), -1) > last:
                continue
            for tensor in node.outputs:
                for user in self.users(tensor):
                    if id(user) in cut:
                        why = "a path leaves the match and comes back through {}"
                        return Mismatch(user, why, (node,), len(cut))
                    if id(user) not in seen:
                        seen.add(id(user))
                        stack.append(user)
        return None


# -- the search -----------------------------------------------------------------------------------------


class _Finder:
    """One search: bindings, undone on the way back, and the failure that came furthest."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.nodes: dict[int, tuple[Op, Any]] = {}
        self.tensors: dict[str, Any] = {}
        self.lists: dict[str, tuple[Any, ...]] = {}
        self.attributes: dict[str, Any] = {}
        self.constants: list[Any] = []
        self.outputs: list[Any] = []
        self.best: Mismatch | None = None
        self._whole = False

    def fail(self, node: Any, why: str, *arguments: Any) -> None:
        """Remember why it goes no further, if nothing came further before."""
        if not self._whole and (self.best is None or self.best.depth < len(self.nodes)):
            self.best = Mismatch(node, why, arguments, len(self.nodes))

    def note(self, mismatch: Mismatch) -> None:
        """A whole match that is not allowed: nothing gets further than that."""
        if not self._whole:
            self.best, self._whole = mismatch, True

    def result(self) -> Match:
        nodes: dict[int, Any] = {}
        kept: dict[int, Any] = {}
        named = {}
        for pattern, node in self.nodes.values():
            (kept if pattern.keep else nodes)[id(node)] = node
            if pattern.name is not None:
                named[pattern.name] = node
        for key in nodes:
            kept.pop(key, None)
        return Match(
            tuple(nodes.values()),
            tuple(kept.values()),
            dict(self.tensors),
            dict(self.lists),
            named,
            dict(self.attributes),
            tuple(self.constants),
            tuple(self.outputs),
        )

    def root(self, roots: Sequence[Any], node: Any) -> Iterator[None]:
        first, *others = roots
        for pattern, index in _makers(first):
            for _ in self.node(pattern, node):
                self.outputs.append(_output(node, index))
                yield from self._others(others)
                self.outputs.pop()

    def _others(self, roots: Sequence[Any]) -> Iterator[None]:
        if not roots:
            yield
            return
        for pattern, index in _makers(roots[0]):
            for node in self._candidates(pattern)[:MAX_CANDIDATES]:
                for _ in self.node(pattern, node):
                    self.outputs.append(_output(node, index))
                    yield from self._others(roots[1:])
                    self.outputs.pop()

    def _candidates(self, pattern: Op) -> list[Any]:
        """Nodes that read something bound, directly or through nodes that the pattern names."""
        if id(pattern) in self.nodes:
            return [self.nodes[id(pattern)][1]]
        found: dict[int, Any] = {}
        for child in pattern.inputs:
            for tensor in self._reached(child):
                for user in self.scope.users(tensor):
                    if user.op in pattern.kinds and self.scope.alive(user):
                        found.setdefault(id(user), user)
            if found:
                break
        return list(found.values())

    def _reached(self, pattern: Any) -> Iterator[Any]:
        if isinstance(pattern, Value):
            if pattern.name in self.tensors:
                yield self.tensors[pattern.name]
            return
        for maker, index in _makers(pattern):
            for node in self._candidates(maker):
                tensor = _output(node, index)
                if tensor is not None:
                    yield tensor

    def tensor(self, pattern: Any, tensor: Any, reader: Any, place: int) -> Iterator[None]:
        if isinstance(pattern, Maybe):
            if tensor is None:
                yield
                return
            pattern = pattern.pattern
        if tensor is None or isinstance(pattern, Absent):
            if tensor is None and isinstance(pattern, Absent):
                yield
            else:
                self.fail(reader, "input {} is {}", place, "left out" if tensor is None else "given")
        elif isinstance(pattern, Value):
            yield from self._value(pattern, tensor, reader, place)
        elif isinstance(pattern, Constant):
            yield from self._constant(pattern, tensor, reader, place)
        elif isinstance(pattern, Either):
            for choice in pattern.choices:
                yield from self.tensor(choice, tensor, reader, place)
        else:
            yield from self._made(pattern, tensor, reader, place)

    def _made(self, pattern: Any, tensor: Any, reader: Any, place: int) -> Iterator[None]:
        made_by, index = (pattern.node, pattern.index) if isinstance(pattern, Out) else (pattern, 0)
        node = self.scope.producer(tensor)
        if node is None:
            self.fail(reader, "input {} ({}) is made by no node here, not by {}", place, tensor, made_by)
            return
        if _output(node, index) is not tensor:
            self.fail(reader, "input {} ({}) is not output {} of {}", place, tensor, index, node)
            return
        if not _is(node, made_by):
            self.fail(reader, "input {} ({}) is made by {}, not by {}", place, tensor, node, made_by)
            return
        yield from self.node(made_by, node)

    def _value(self, pattern: Value, tensor: Any, reader: Any, place: int) -> Iterator[None]:
        bound = self.tensors.get(pattern.name)
        if bound is not None:
            if bound is tensor or same_constant(bound, tensor):
                yield
            else:
                self.fail(reader, "input {} is {}, not {} as before", place, tensor, bound)
            return
        if pattern.where is not None and not pattern.where(Tensor(tensor)):
            self.fail(reader, "input {} ({}) is not what {} has to be", place, tensor, pattern.name)
            return
        self.tensors[pattern.name] = tensor
        yield
        del self.tensors[pattern.name]

    def _constant(self, pattern: Constant, tensor: Any, reader: Any, place: int) -> Iterator[None]:
        found = constant_value(tensor)
        if found is None:
            self.fail(reader, "input {} ({}) is not constant", place, tensor)
            return
        if pattern.equals is not None and not equal_value(found, pattern.equals):
            self.fail(reader, "input {} is {}, not {}", place, found, pattern.equals)
            return
        if pattern.where is not None and not pattern.where(Tensor(tensor)):
            self.fail(reader, "input {} ({}) is not the constant it has to be", place, found)
            return
        name = pattern.name
        if name is not None and name in self.tensors:
            if not same_constant(self.tensors[name], tensor):
                self.fail(reader, "input {} is {}, not {} as before", place, tensor, self.tensors[name])
                return
            name = None
        if name is not None:
            self.tensors[name] = tensor
        self.constants.append(tensor)
        yield
        self.constants.pop()
        if name is not None:
            del self.tensors[name]

    def node(self, pattern: Op, node: Any) -> Iterator[None]:
        bound = self.nodes.get(id(pattern))
        if bound is not None:
            if bound[1] is node:
                yield
            else:
                self.fail(node, "is not {} as before", bound[1])
            return
        if not _is(node, pattern):
            self.fail(node, "is not {}", pattern)
            return
        inputs = self._arity(pattern, node)
        if inputs is None or not self._unused(pattern, node):
            return
        kept = dict(self.attributes)
        if self._attributes(pattern, node):
            self.nodes[id(pattern)] = (pattern, node)
            yield from self._inputs(pattern, node, inputs)
            del self.nodes[id(pattern)]
        self.attributes = kept

    def _arity(self, pattern: Op, node: Any) -> list[Any] | None:
        """The node's inputs, None for those left out; None if their number or what makes them is wrong."""
        given = [t if t.name else None for t in node.inputs]
        wanted = pattern.inputs
        if len(given) > len(wanted) and not (wanted and isinstance(wanted[-1], Rest)):
            if any(t is not None for t in given[len(wanted) :]):
                self.fail(node, "has {} inputs, not {}", len(given), len(wanted))
                return None
            del given[len(wanted) :]
        while len(given) < len(wanted) and not isinstance(wanted[len(given)], Rest):
            given.append(None)
        heads = _heads(pattern)
        if heads and pattern.commutative:
            makers = {p.op for p in (self.scope.producer(t) for t in given if t is not None) if p is not None}
            for place, kinds in heads:
                if not kinds & makers:
                    self.fail(node, "no input is made by {}", pattern.inputs[place])
                    return None
        return given

    def _unused(self, pattern: Op, node: Any) -> bool:
        for index in pattern.unused:
            tensor = _output(node, index)
            if tensor is not None and self.scope.used(tensor):
                self.fail(node, "output {} ({}) is used", index, tensor)
                return False
        return True

    def _inputs(self, pattern: Op, node: Any, given: list[Any]) -> Iterator[None]:
        fixed = pattern.inputs
        tail: Rest | None = None
        if fixed and isinstance(fixed[-1], Rest):
            fixed, tail = fixed[:-1], fixed[-1]
        if pattern.commutative:
            yield from self._any_order(fixed, tail, node, given, ())
        else:
            yield from self._in_order(fixed, tail, node, given, 0)

    def _in_order(
        self, fixed: Sequence[Any], tail: Rest | None, node: Any, given: list[Any], place: int
    ) -> Iterator[None]:
        if place == len(fixed):
            yield from self._rest(tail, node, given[place:])
            return
        for _ in self.tensor(fixed[place], given[place], node, place):
            yield from self._in_order(fixed, tail, node, given, place + 1)

    def _any_order(
        self, fixed: Sequence[Any], tail: Rest | None, node: Any, given: list[Any], taken: tuple[int, ...]
    ) -> Iterator[None]:
        if len(taken) == len(fixed):
            yield from self._rest(tail, node, [t for i, t in enumerate(given) if i not in taken])
            return
        for place, tensor in enumerate(given):
            if place not in taken:
                for _ in self.tensor(fixed[len(taken)], tensor, node, place):
                    yield from self._any_order(fixed, tail, node, given, (*taken, place))

    def _rest(self, tail: Rest | None, node: Any, given: Sequence[Any]) -> Iterator[None]:
        if tail is None:
            yield
            return
        if len(given) < tail.least or any(t is None for t in given):
            self.fail(node, "has {} further inputs, not at least {}", len(given), tail.least)
            return
        self.lists[tail.name] = tuple(given)
        yield
        del self.lists[tail.name]

    def _attributes(self, pattern: Op, node: Any) -> bool:
        defaults: Mapping[str, Any] | None = None
        for name, wanted in pattern.attrs.items():
            found = node.attrs.get(name, _MISSING)
            if found is _MISSING:
                defaults = schema_defaults(node.op, pattern.domain, self.scope.opset)
                found = defaults.get(name)
            if not self._attribute(wanted, plain(found), name, node):
                return False
        if pattern.exact:
            for name, found in node.attrs.items():
                if name in pattern.attrs:
                    continue
                defaults = schema_defaults(node.op, pattern.domain, self.scope.opset)
                if not equal_attribute(plain(found), defaults.get(name)):
                    self.fail(node, "attribute {} is {}, which the pattern does not have", name, plain(found))
                    return False
        return True

    def _attribute(self, wanted: Any, found: Any, name: str, node: Any) -> bool:
        if isinstance(wanted, Attr):
            found = wanted.default if found is None else found
            known = self.attributes.get(wanted.name, _MISSING)
            if known is _MISSING:
                self.attributes[wanted.name] = found
                return True
            wanted = known
        elif callable(wanted):
            if wanted(found):
                return True
            self.fail(node, "attribute {} is {}", name, found)
            return False
        if equal_attribute(found, wanted):
            return True
        self.fail(node, "attribute {} is {}, not {}", name, found, wanted)
        return False


def _is(node: Any, pattern: Op) -> bool:
    return node.op in pattern.kinds and (node.domain or "").replace("ai.onnx", "", 1) == pattern.domain


def _output(node: Any, index: int) -> Any:
    """Output `index`, or None where the node does not have it."""
    outputs = node.outputs
    return outputs[index] if index < len(outputs) and outputs[index].name else None


def _makers(pattern: Any) -> Iterator[tuple[Op, int]]:
    if isinstance(pattern, Op):
        yield pattern, 0
    elif isinstance(pattern, Out):
        yield pattern.node, pattern.index
    elif isinstance(pattern, Either):
        for choice in pattern.choices:
            yield from _makers(choice)
    elif isinstance(pattern, Maybe):
        yield from _makers(pattern.pattern)


def _ops_of(pattern: Any) -> list[Op]:
    return [p for p, _ in _makers(pattern)]


@lru_cache(maxsize=65536)
def _heads(pattern: Op) -> tuple[tuple[int, frozenset[str]], ...]:
    """Inputs that a node has to make, and by which operators."""
    found = []
    for place, child in enumerate(pattern.inputs):
        leaves = child.choices if isinstance(child, Either) else (child,)
        if leaves and all(isinstance(c, (Op, Out)) for c in leaves):
            found.append((place, frozenset(k for c in leaves for p in _ops_of(c) for k in p.kinds)))
    return tuple(found)


def _walk(roots: Sequence[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack:
        pattern = stack.pop()
        if id(pattern) in seen:
            continue
        seen.add(id(pattern))
        yield pattern
        stack.extend(reversed(_children(pattern)))


def _children(pattern: Any) -> Sequence[Any]:
    if isinstance(pattern, Op):
        return pattern.inputs
    if isinstance(pattern, Out):
        return (pattern.node,)
    if isinstance(pattern, Either):
        return pattern.choices
    return (pattern.pattern,) if isinstance(pattern, Maybe) else ()


def _depth(pattern: Any) -> int:
    deeper = max((_depth(c) for c in _children(pattern)), default=0)
    return deeper + isinstance(pattern, Op)


def _text(value: Any) -> str:
    """An argument of a failure's text."""
    if isinstance(value, Out):
        value = value.node
    if isinstance(value, Either):
        return " or ".join(dict.fromkeys(_text(p) for p in _ops_of(value)))
    if isinstance(value, Op):
        return " or ".join(sorted(value.kinds))
    if isinstance(value, gs.Node):
        return f"{value.op} {value.name!r}" if value.name else str(value.op)
    if isinstance(value, gs.Tensor):
        return repr(value.name)
    if isinstance(value, np.ndarray):
        return str(value.tolist()) if value.size <= 8 else f"an array {list(value.shape)}"
    return str(value)


# -- words ----------------------------------------------------------------------------------------------

DEEP = 8
"""Levels of a pattern that its text goes into."""


def pattern_text(pattern: Pattern) -> str:
    """A pattern as text, one output per line; a node at a second place by the name it got at the first."""
    names: dict[int, str] = {}
    uses: dict[int, int] = {}
    for node in _walk(pattern.roots):
        for child in _children(node):
            uses[id(child)] = uses.get(id(child), 0) + 1
    return "\n".join(_words(root, names, uses, 0) for root in pattern.roots)


def _words(pattern: Any, names: dict[int, str], uses: Mapping[int, int], level: int) -> str:
    if isinstance(pattern, Value):
        return pattern.name
    if isinstance(pattern, Constant):
        if pattern.equals is None:
            return f"constant {pattern.name or ''}".strip()
        return _text(np.asarray(pattern.equals)) if np.size(pattern.equals) > 1 else f"{pattern.equals:g}"
    if isinstance(pattern, Absent):
        return "(none)"
    if isinstance(pattern, Rest):
        return f"{pattern.name}..."
    if isinstance(pattern, Maybe):
        return f"[{_words(pattern.pattern, names, uses, level)}]"
    if isinstance(pattern, Out):
        return f"{_words(pattern.node, names, uses, level)}.{pattern.index}"
    if isinstance(pattern, Either):
        return f"({' | '.join(_words(p, names, uses, level) for p in pattern.choices)})"
    return _node_words(pattern, names, uses, level)


def _node_words(pattern: Op, names: dict[int, str], uses: Mapping[int, int], level: int) -> str:
    if id(pattern) in names:
        return names[id(pattern)]
    mark = ""
    if uses.get(id(pattern), 0) > 1:
        names[id(pattern)] = f"n{len(names) + 1}"
        mark = f"{names[id(pattern)]} = "
    kind = "|".join(sorted(pattern.kinds))
    if pattern.domain:
        kind = f"{pattern.domain}.{kind}"
    attributes = ", ".join(f"{k} = {_attribute_words(v)}" for k, v in pattern.attrs.items())
    if level >= DEEP:
        return f"{mark}{kind} (...)"
    inputs = ", ".join(_words(p, names, uses, level + 1) for p in pattern.inputs)
    return f"{mark}{kind}{f' <{attributes}>' if attributes else ''} ({inputs})"


def _attribute_words(value: Any) -> str:
    if isinstance(value, Attr):
        return f"@{value.name}"
    return "..." if callable(value) else str(value)


# -- values ---------------------------------------------------------------------------------------------


def constant_value(tensor: Any) -> NDArray[Any] | None:
    """The value of a constant whose data is in the model, else None."""
    if not isinstance(tensor, gs.Constant) or is_external(tensor):
        return None
    return value_of(tensor)


def same_constant(a: Any, b: Any) -> bool:
    """Whether two tensors are constants of one dtype, shape and value."""
    if a is b:
        return True
    first, second = constant_value(a), constant_value(b)
    if first is None or second is None:
        return False
    same = first.dtype == second.dtype and first.shape == second.shape
    return same and first.tobytes() == second.tobytes()


def equal_value(found: NDArray[Any], wanted: Any) -> bool:
    """Whether a constant is a value, as exactly as its dtype can hold it; one number may have any rank."""
    other = np.asarray(wanted)
    if found.size == 1 and other.size == 1:
        found, other = found.reshape(()), other.reshape(())
    if found.shape != other.shape or found.dtype.kind in "SUO" or other.dtype.kind in "SUO":
        return found.shape == other.shape and np.array_equal(found, other)
    real = found.dtype.kind not in "iub"
    if not real:
        return bool(np.all(found == other))
    step = 2 * float(np.spacing(np.float32(1)))
    if found.dtype.itemsize < 4:
        step = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(found.dtype.name, 0.0)
    a, b = found.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bool(np.all((a == b) | (np.abs(a - b) <= step * np.abs(b)) | (np.isnan(a) & np.isnan(b))))


def equal_attribute(found: Any, wanted: Any) -> bool:
    """Whether two attributes are equal; real numbers as float32, which is what ONNX stores."""
    if isinstance(found, np.ndarray) or isinstance(wanted, np.ndarray):
        same = isinstance(found, np.ndarray) and isinstance(wanted, np.ndarray)
        return same and found.dtype == wanted.dtype and np.array_equal(found, wanted)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(equal_attribute(a, b) for a, b in pairs)
    if isinstance(found, float) or isinstance(wanted, float):
        numbers = isinstance(found, (int, float)) and isinstance(wanted, (int, float))
        return numbers and bool(np.float32(found) == np.float32(wanted))
    return bool(found == wanted)


def plain(value: Any) -> Any:
    """An attribute as Python values: tensors as arrays, types as ONNX's numbers for them."""
    if isinstance(value, gs.Constant):
        return value_of(value)
    if isinstance(value, (type, np.dtype)):
        import onnx

        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value)))
    return value


def tensor_dtype(tensor: Any) -> np.dtype[Any] | None:
    """A tensor's dtype as numpy has it, or None."""
    dtype = tensor.dtype
    if dtype is None or isinstance(dtype, np.dtype):
        return dtype
    if isinstance(dtype, (int, np.integer)) and not isinstance(dtype, type):
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(int(dtype))
    known: np.dtype[Any] = np.dtype(dtype)
    return known


@lru_cache(maxsize=4096)
def schema_defaults(op: str, domain: str, opset: int) -> Mapping[str, Any]:
    """Defaults of an operator's attributes; nothing for an operator that ONNX does not define."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op, opset, domain) if not domain else onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    found: dict[str, Any] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            given = onnx.helper.get_attribute_value(attribute.default_value)
            found[name] = given.decode() if isinstance(given, bytes) else given
    return found
