"""What patterns are made of. They are data; :mod:`surgery.graph.pattern` has the functions that write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.values import constant_value, tensor_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """A node of one of several operators. See :func:`surgery.graph.pattern.op`."""

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


def nodes_of(pattern: Any) -> Iterator[tuple[Op, int]]:
    """Each node that may make what a pattern stands for, and by which output."""
    if isinstance(pattern, Op):
        yield pattern, 0
    elif isinstance(pattern, Out):
        yield pattern.node, pattern.index
    elif isinstance(pattern, Either):
        for choice in pattern.choices:
            yield from nodes_of(choice)
    elif isinstance(pattern, Maybe):
        yield from nodes_of(pattern.pattern)


def ops_of(pattern: Any) -> list[Op]:
    """The same without the outputs."""
    return [p for p, _ in nodes_of(pattern)]


@lru_cache(maxsize=65536)
def heads_of(pattern: Op) -> tuple[tuple[int, frozenset[str]], ...]:
    """Inputs that a node has to make, and by which operators."""
    found = []
    for place, child in enumerate(pattern.inputs):
        leaves = child.choices if isinstance(child, Either) else (child,)
        if leaves and all(isinstance(c, (Op, Out)) for c in leaves):
            found.append((place, frozenset(k for c in leaves for p in ops_of(c) for k in p.kinds)))
    return tuple(found)


def walk(roots: Sequence[Any]) -> Iterator[Any]:
    """The patterns below some, and these: each once, a pattern before what it reads."""
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack:
        pattern = stack.pop()
        if id(pattern) in seen:
            continue
        seen.add(id(pattern))
        yield pattern
        stack.extend(reversed(children(pattern)))


def children(pattern: Any) -> Sequence[Any]:
    """The patterns right below one."""
    if isinstance(pattern, Op):
        return pattern.inputs
    if isinstance(pattern, Out):
        return (pattern.node,)
    if isinstance(pattern, Either):
        return pattern.choices
    return (pattern.pattern,) if isinstance(pattern, Maybe) else ()


def depth_of(pattern: Any) -> int:
    """Nodes on the longest way below a pattern."""
    deeper = max((depth_of(c) for c in children(pattern)), default=0)
    return deeper + isinstance(pattern, Op)
