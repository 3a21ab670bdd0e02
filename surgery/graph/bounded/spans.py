"""Sums and differences of counts, and slices from one count to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import Dim

if TYPE_CHECKING:
    from surgery.graph.bounded.work import Bounds

INT_MAX = 2**31 - 1
"""An end of a slice at or above it means the end of the axis."""


def terms_of(bounds: Bounds, dim: Dim) -> sums.Terms:
    """A size as a sum of products of counts and free sizes."""
    return sums.expand(dim, {**bounds.terms, **bounds.count_terms})


def joined(bounds: Bounds, op: str, a: Dim, b: Dim) -> Dim | None:
    """The sum or difference of two sizes, if it is a size that is known already.

    Args:
        bounds: What is known of sizes.
        op: Add or Sub; anything else gives None.
        a: A size.
        b: A size.
    """
    if op not in ("Add", "Sub"):
        return None
    terms = sums.plus(terms_of(bounds, a), terms_of(bounds, b), 1 if op == "Add" else -1)
    return known_sum(bounds, terms)


def known_sum(bounds: Bounds, terms: sums.Terms) -> Dim | None:
    """The size that a sum is, if there is one already."""
    number, atoms, rest = sums.factored(terms)
    if set(rest) <= {()} and number >= 0:
        return Dim(number, atoms)
    if all(Dim(1, key).exact for key in terms):
        return bounds._sum("Add", Dim(0), Dim(0), terms)
    return next((Dim(1, (name,)) for name, other in bounds.count_terms.items() if other == terms), None)


def note(bounds: Bounds, dim: Dim, terms: sums.Terms) -> Dim:
    """Take note that a size of a name of its own is a sum."""
    if len(dim.atoms) == 1 and dim.factor == 1 and len(terms) <= sums.MOST_TERMS:
        bounds.count_terms.setdefault(dim.atoms[0], terms)
    return dim


def span(bounds: Bounds, tensor: Any, axis: int, start: Dim, end: Dim) -> Any:
    """What is from one place to another along an axis, by a Gather; None if its length is not known.

    Args:
        bounds: What is known of sizes.
        tensor: A tensor that may be padded.
        axis: The axis.
        start: The first place.
        end: The place behind the last; at most the size of the axis.
    """
    from surgery.graph.bounded.choices import not_negative

    dims = bounds.dims(tensor)
    size = terms_of(bounds, dims[axis])
    if end.number is not None and end.number >= INT_MAX:
        end = dims[axis]
    over = sums.plus(size, terms_of(bounds, end), -1)
    length = joined(bounds, "Sub", end, start)
    if not bounds._natural(over) or not not_negative(bounds, start):
        return None
    if length is None or not length.exact or not not_negative(bounds, length):
        return None
    places = bounds.emit("Add", bounds.places(length), bounds.scalar(start))
    made = bounds.emit("Gather", tensor, places, axis=axis)
    after = {a: d for a, d in bounds.padded.get(tensor.name, {}).items() if a != axis}
    bounds.pad(made, {**after, axis: length})
    shape = list(tensor.shape)
    shape[axis] = length.number
    made.shape = shape
    return made
