"""Sizes as products of whole numbers and counts, so that equal sizes are known to be equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

FREE = "dim:"
"""In front of the name of a free dim: a size that follows from the inputs' sizes, so nothing is padded along it."""


@dataclass(frozen=True)
class Dim:
    """One size.

    Attributes:
        factor: Whole number in front.
        atoms: Names of the counts and free dims that it is a product of, sorted.
    """

    factor: int
    atoms: tuple[str, ...] = ()

    @property
    def number(self) -> int | None:
        """The size, if it is a number."""
        return self.factor if not self.atoms else None

    @property
    def exact(self) -> bool:
        """Whether the size follows from the sizes of the inputs."""
        return all(a.startswith(FREE) for a in self.atoms)

    def __mul__(self, other: Dim) -> Dim:
        """The product."""
        return Dim(self.factor * other.factor, tuple(sorted(self.atoms + other.atoms)))

    def over(self, other: Dim) -> Dim | None:
        """The quotient, if it is a size again."""
        if not other.factor or self.factor % other.factor:
            return None
        left = Counter(self.atoms)
        left.subtract(other.atoms)
        if any(n < 0 for n in left.values()):
            return None
        return Dim(self.factor // other.factor, tuple(sorted(left.elements())))

    def room(self, rooms: Mapping[str, Dim]) -> Dim:
        """The largest it can be, which follows from the sizes of the inputs.

        Args:
            rooms: Largest value of each count.
        """
        result = Dim(self.factor)
        for atom in self.atoms:
            result = result * rooms.get(atom, Dim(1, (atom,)))
        return result

    def __str__(self) -> str:
        """For names and messages."""
        return "*".join([*([str(self.factor)] if self.factor != 1 or not self.atoms else []), *self.atoms])


ONE = Dim(1)


def product(dims: list[Dim]) -> Dim:
    """The product of sizes."""
    result = ONE
    for dim in dims:
        result = result * dim
    return result


def regrouped(before: list[Dim], after: list[Dim]) -> dict[int, int] | None:
    """Where padded axes go in a reshape, if the padding stays behind what is real.

    Both shapes are cut into the smallest groups of equal size; within a group only the first dim that is not 1 may
    be padded, on either side.

    Args:
        before: Dims of the operand.
        after: Dims of the result.

    Returns:
        Padded axis of the operand to axis of the result, or None.
    """
    found: dict[int, int] = {}
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i], [j]
        if i >= len(before) or j >= len(after):
            rest = before[i:] if i < len(before) else after[j:]
            return found if all(d == ONE for d in rest) else None
        a, b = before[i], after[j]
        while a != b:
            if b.over(a) is not None and left[-1] + 1 < len(before):
                left.append(left[-1] + 1)
                a = a * before[left[-1]]
            elif a.over(b) is not None and right[-1] + 1 < len(after):
                right.append(right[-1] + 1)
                b = b * after[right[-1]]
            else:
                return None
        one = [k for k in left if before[k] != ONE]
        two = [k for k in right if after[k] != ONE]
        if any(not before[k].exact for k in one[1:]) or any(not after[k].exact for k in two[1:]):
            return None
        if one and not before[one[0]].exact:
            if not two or after[two[0]].exact:
                return None
            found[one[0]] = two[0]
        i, j = left[-1] + 1, right[-1] + 1
    return found
