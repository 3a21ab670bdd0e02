"""Finding matches of patterns, from an output of the graph backwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from surgery.graph.matching import Match, Mismatch, Scope
from surgery.graph.pattern_parts import (
    Absent,
    Attr,
    Constant,
    Either,
    Maybe,
    Op,
    Out,
    Rest,
    Tensor,
    Value,
    heads_of,
    nodes_of,
)
from surgery.graph.values import (
    constant_value,
    equal_attribute,
    equal_value,
    plain,
    same_constant,
    schema_defaults,
)

MAX_CANDIDATES = 64
"""Nodes looked at for a further output of a pattern, at most; a hub can have thousands of consumers."""

_MISSING = object()


def find(roots: Sequence[Any], node: gs.Node, scope: Scope) -> Match | Mismatch:
    """Match patterns at a node that makes the first one's output; the cut, or why there is none."""
    finder = _Finder(scope)
    for _ in finder.root(roots, node):
        found = finder.result()
        problem = scope.illegal(found)
        if problem is None:
            return found
        finder.note(problem)
    return finder.best or Mismatch(node, "nothing reads what it would have to make")


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
        for pattern, index in nodes_of(first):
            for _ in self.node(pattern, node):
                self.outputs.append(_output(node, index))
                yield from self._others(others)
                self.outputs.pop()

    def _others(self, roots: Sequence[Any]) -> Iterator[None]:
        if not roots:
            yield
            return
        for pattern, index in nodes_of(roots[0]):
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
        for maker, index in nodes_of(pattern):
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
        heads = heads_of(pattern)
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
