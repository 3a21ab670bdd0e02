"""Sizes as sums of products, so that sizes that were computed in different ways are known to be equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import reduce
from math import gcd

from surgery.graph.bounded.dims import FREE, Dim

Terms = dict[tuple[str, ...], int]
"""Products of atoms, sorted, to how many times they are added; none is 0."""

MOST_TERMS = 32
"""Products in a sum; longer ones stay as they were computed."""

MOST_ATOMS = 12
"""Atoms in a product."""


def expand(dim: Dim, sums: Mapping[str, Terms]) -> Terms:
    """A size as a sum of products of atoms that are no sums.

    Args:
        dim: The size.
        sums: Atom to the sum that it stands for.
    """
    result: Terms = {(): dim.factor} if dim.factor else {}
    for atom in dim.atoms:
        result = multiply(result, sums.get(atom, {(atom,): 1}))
    return result


def multiply(a: Terms, b: Terms) -> Terms:
    """The product."""
    result: Counter[tuple[str, ...]] = Counter()
    for one, n in a.items():
        for other, m in b.items():
            result[tuple(sorted(one + other))] += n * m
    return {k: v for k, v in result.items() if v}


def plus(a: Terms, b: Terms, times: int = 1) -> Terms:
    """The first and the second, so many times."""
    result = Counter(a)
    for key, value in b.items():
        result[key] += times * value
    return {k: v for k, v in result.items() if v}


def quotient(a: Terms, b: Terms) -> Terms | None:
    """The quotient, if nothing is left over."""
    if not b:
        return None
    result: Terms = {}
    rest = dict(a)
    lead = _leading(b)
    for _ in range(MOST_TERMS):
        if not rest:
            return result
        top = _leading(rest)
        left = Counter(top)
        left.subtract(lead)
        if any(n < 0 for n in left.values()) or rest[top] % b[lead]:
            return None
        part = {tuple(sorted(left.elements())): rest[top] // b[lead]}
        result = plus(result, part)
        rest = plus(rest, multiply(part, b), -1)
    return None


def whole_part(terms: Terms, divisor: int) -> Terms | None:
    """The quotient by a number, rounded down, where all but the number added divides; None if more is left over.

    Args:
        terms: A sum that is 0 or more.
        divisor: A number above 0.
    """
    left = {k for k, v in terms.items() if v % divisor}
    if left - {()}:
        return None
    return {k: v // divisor for k, v in terms.items() if v // divisor}


def _leading(terms: Terms) -> tuple[str, ...]:
    """The same for each sum, and greater for products of greater ones: by length, then by name."""
    return max(terms, key=lambda k: (len(k), k))


def surely_not_negative(terms: Terms, at_least_one: Collection[str]) -> bool:
    """Whether a sum is 0 or more for all values of its atoms, which are 0 or more themselves.

    Args:
        terms: The sum.
        at_least_one: Atoms that are 1 or more.
    """
    shifted: Terms = {}
    for key, value in terms.items():
        product: Terms = {(): value}
        for atom in key:
            product = multiply(product, {(atom,): 1, (): 1} if atom in at_least_one else {(atom,): 1})
        shifted = plus(shifted, product)
    return all(v > 0 for v in shifted.values())


def factored(terms: Terms) -> tuple[int, tuple[str, ...], Terms]:
    """Number and atoms that all products share, and what is left of the sum."""
    if not terms:
        return 0, (), {}
    number = reduce(gcd, terms.values())
    if max(terms.values()) < 0:
        number = -number
    shared = reduce(lambda a, b: a & b, (Counter(k) for k in terms))
    atoms = tuple(sorted(shared.elements()))
    rest: Terms = {}
    for key, value in terms.items():
        left = Counter(key)
        left.subtract(shared)
        rest[tuple(sorted(left.elements()))] = value // number
    return number, atoms, rest


def named(terms: Terms) -> str:
    """Name of the atom that stands for a sum."""
    parts = [Dim(v, k) for k, v in sorted(terms.items(), key=lambda i: (-len(i[0]), i[0]))]
    return f"{FREE}({'+'.join(map(str, parts))})"
