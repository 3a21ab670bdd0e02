"""Patterns over several nodes, matched from an output backwards.

A pattern is a tree of :func:`op`, :func:`value`, :func:`constant`, :func:`either`, :func:`optional`,
:func:`absent` and :func:`rest`; the same object at two places stands for the same node::

    x = value("x")
    gelu = Pattern(op("Mul", x, op("Sigmoid", op("Mul", x, constant("alpha")))))

Operands of commutative operators match in any order. A match is a cut of the graph; how it is found, and whether it
may be taken out, is said in :mod:`surgery.graph.matching`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgery.graph.finding import find
from surgery.graph.matching import Match, Mismatch, Scope
from surgery.graph.pattern_parts import (
    Absent,
    Attr,
    Constant,
    Either,
    Maybe,
    Op,
    Out,
    Predicate,
    Rest,
    Value,
    depth_of,
    heads_of,
    ops_of,
    walk,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

COMMUTATIVE = frozenset(
    {
        "Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr",
        "BitwiseXor",
    }
)  # fmt: skip


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


class Pattern:
    """One or several outputs, matched backwards.

    Args:
        roots: Patterns of the nodes (or outputs of nodes) whose results the cut makes.
    """

    def __init__(self, *roots: Op | Out | Either) -> None:
        if not roots:
            raise ValueError("a pattern needs at least one output")
        self.roots = roots
        self.heads = {(p.domain, kind) for p in ops_of(roots[0]) for kind in p.kinds}
        """Domain and operator of the nodes that a match can start at."""
        self._starts = [(p.kinds, p.commutative, heads_of(p)) for p in ops_of(roots[0])]

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """All operators it names."""
        found: dict[str, None] = {}
        for pattern in walk(self.roots):
            if isinstance(pattern, Op):
                found.update(dict.fromkeys(sorted(pattern.kinds)))
        return tuple(found)

    @cached_property
    def depth(self) -> int:
        """Nodes on the longest way from an output to an input."""
        return max(depth_of(r) for r in self.roots)

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
        return find(self.roots, node, scope)
