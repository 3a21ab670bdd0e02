"""What a rule is: name, reason, where it applies, how it replaces, and the samples that prove it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from surgery.graph.body import Body
    from surgery.rules.engine.site import Site

When = Literal["refused", "always"]


class NoMatch(Exception):  # noqa: N818 - not an error: the rule does not apply here
    """A rule does not apply to a node; the text says why."""


class NeedsConstant(Exception):  # noqa: N818 - an answer, not an error
    """A rule applies only if an operand is known when the engine is built.

    Args:
        operand: Position of the operand among the node's inputs.
        why: What the value decides.
    """

    def __init__(self, operand: int, why: str) -> None:
        super().__init__(why)
        self.operand = operand
        self.why = why


@dataclass(frozen=True, slots=True)
class Sample:
    """A small model on which a rule proves itself, in ONNX's text syntax.

    Attributes:
        text: Signature and nodes: ``(float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }``.
        opset: Version of the default domain.
        feeds: Values of inputs that random numbers do not suit; an array, or (low, high) for random whole
            or real numbers in low <= v < high.
        domains: Further operator sets, domain to version.
    """

    text: str
    opset: int = 18
    feeds: Mapping[str, Any] = field(default_factory=dict)
    domains: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bounded:
    """An output whose size depends on the data, as a tensor of fixed size and a count.

    Attributes:
        value: The padded tensor.
        axis: Axis that is padded at its end.
        count: int64 tensor of rank 0: how many entries along the axis are real.
    """

    value: str
    axis: int
    count: str


def samples_in(
    dtypes: str,
    text: str,
    opset: int = 18,
    feeds: Mapping[str, Any] | None = None,
    domains: Mapping[str, int] | None = None,
) -> list[Sample]:
    """One sample for each of several dtypes, in ONNX's names and separated by spaces: each T in the text is one."""
    return [
        Sample(re.sub(r"\bT\b", dtype, text), opset, feeds or {}, domains or {}) for dtype in dtypes.split()
    ]


Build = Callable[["Site", "Body"], Any]


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a rule of any form says of itself.

    Attributes:
        name: In kebab-case, unique.
        why: What TensorRT does not take, or computes wrongly, and the source of the algorithm; or what the
            replacement is good for.
        samples: Models on which CI proves the rule; each holds what the rule replaces, of one operator one node.
        near_misses: Models in which it must not apply.
        when: ``refused``: where the target does not take what it replaces as it stands. ``always``: also where it
            does, because it computes something else there.
        since: First opset it is written for.
        until: Last opset, or None.
        targets: Prefixes of the names of targets it is for; empty for all.
        rank: Rules of lower rank are asked first: special forms before general ones.
    """

    name: str
    why: str
    samples: tuple[Sample, ...]
    near_misses: tuple[Sample, ...] = ()
    when: When = "refused"
    since: int = 1
    until: int | None = None
    targets: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Lowering(Stated):
    """One operator, and a function that writes what replaces it.

    Attributes:
        ops: Operators it applies to.
        build: Gets the site and a :class:`Body`, returns one name per output of the node (None for an
            output that is not used), or one name alone. Raises NoMatch or NeedsConstant.
        domain: Domain of the operators.
    """

    ops: tuple[str, ...]
    build: Build
    domain: str = ""

    @property
    def form(self) -> str:
        """Which of the three forms of rules it is."""
        return "lowering"


def lowering(
    name: str,
    *ops: str,
    why: str,
    samples: Sequence[Sample | str],
    near_misses: Sequence[Sample | str] = (),
    domain: str = "",
    when: When = "refused",
    since: int = 1,
    until: int | None = None,
    targets: Sequence[str] = (),
    rank: int = 0,
) -> Callable[[Build], Lowering]:
    """Decorator that makes a :class:`Lowering` of a build function."""

    def samples_of(given: Sequence[Sample | str]) -> tuple[Sample, ...]:
        domains = {domain: 1} if domain else {}
        return tuple(Sample(s, domains=domains) if isinstance(s, str) else s for s in given)

    def make(build: Build) -> Lowering:
        return Lowering(
            name=name, ops=ops, why=why, build=build, samples=samples_of(samples),
            near_misses=samples_of(near_misses), domain=domain, when=when, since=since, until=until,
            targets=tuple(targets), rank=rank,
        )  # fmt: skip

    return make
