"""Sums and differences of counts, and slices from one count to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import ONE, Dim

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
        return bounds.size_of(terms)
    return next((Dim(1, (name,)) for name, other in bounds.count_terms.items() if other == terms), None)


def note(bounds: Bounds, dim: Dim, terms: sums.Terms) -> Dim:
    """Take note that a size of a name of its own is a sum."""
    if len(dim.atoms) == 1 and dim.factor == 1 and len(terms) <= sums.MOST_TERMS:
        bounds.count_terms.setdefault(dim.atoms[0], terms)
    return dim


def span(bounds: Bounds, tensor: Any, axis: int, start: Dim, end: Dim) -> Any:
    """What is from one place to another along an axis, by a Gather; None if these may be outside of it.

    Args:
        bounds: What is known of sizes.
        tensor: A tensor that may be padded.
        axis: The axis.
        start: The first place.
        end: The place behind the last; at most the size of the axis.
    """
    from surgery.graph.bounded.choices import not_negative

    dims = bounds.dims(tensor)
    if end.number is not None and end.number >= INT_MAX:
        end = dims[axis]
    terms = terms_of(bounds, end), terms_of(bounds, start)
    over = sums.plus(terms_of(bounds, dims[axis]), terms[0], -1)
    if not _not_below_0(bounds, over) or not (not_negative(bounds, start) or _not_below_0(bounds, terms[1])):
        return None
    length = joined(bounds, "Sub", end, start)
    if length is None or not length.exact:
        length = _length(bounds, start, end, sums.plus(*terms, -1))
    if length is None or not not_negative(bounds, length):
        return None
    places = bounds.emit("Add", bounds.places(bounds.room(length)), bounds.scalar(start))
    if not length.exact:  # behind what is real, any place will do
        last = bounds.scalar(bounds.exact("Sub", bounds.room(dims[axis]), ONE))
        inside = bounds.emit("Less", places, last, dtype=np.bool_)
        places = bounds.emit("Where", inside, places, last, dtype=np.int64)
    made = bounds.emit("Gather", tensor, places, axis=axis)
    after = {a: d for a, d in bounds.padded.get(tensor.name, {}).items() if a != axis}
    bounds.pad(made, {**after, axis: length})
    shape = list(tensor.shape)
    shape[axis] = bounds.room(length).number
    made.shape = shape
    return made


def _length(bounds: Bounds, start: Dim, end: Dim, terms: sums.Terms) -> Dim | None:
    """A length that depends on counts, as a size of a name of its own; None if its largest value is not a number."""
    known = known_sum(bounds, terms)
    if known is not None:
        return known
    reach = _reach(bounds, terms)
    if reach is None:
        return None
    value = bounds.emit("Sub", bounds.scalar(end), bounds.scalar(start))
    if reach[0] < 0:
        zero = np.asarray(0, np.int64)
        below = bounds.emit("Less", value, zero, dtype=np.bool_)
        value = bounds.emit("Where", below, zero, value, dtype=np.int64)
    return note(bounds, bounds.atom(f"span({start},{end})", value, 0, Dim(max(0, reach[1]))), terms)


def smaller_of(bounds: Bounds, a: Dim, b: Dim) -> Dim | None:
    """The smaller of two sizes, if that is the same one for all counts."""
    one, other = terms_of(bounds, a), terms_of(bounds, b)
    counts = {atom for terms in (one, other) for key in terms for atom in key}
    # With no entry at all, sizes that are made of one count alone are 0, however they are computed.
    empty = counts if len(counts) == 1 and max(one.get((), 0), other.get((), 0)) <= 0 else set()
    for less, most, limit in ((a, bounds.room(a), b), (b, bounds.room(b), a)):
        if limit.exact and bounds.never_negative(
            sums.plus(terms_of(bounds, limit), terms_of(bounds, most), -1)
        ):
            return less
    for less, rest in ((b, sums.plus(one, other, -1)), (a, sums.plus(other, one, -1))):
        if _not_below_0(bounds, rest) or (empty and sums.surely_not_negative(rest, empty)):
            return less
    return None


def _not_below_0(bounds: Bounds, terms: sums.Terms) -> bool:
    """Whether a sum is 0 or more for all values of its counts."""
    reach = _reach(bounds, terms)
    return bounds.never_negative(terms) or (reach is not None and reach[0] >= 0)


def _reach(bounds: Bounds, terms: sums.Terms) -> tuple[int, int] | None:
    """The smallest and largest values of a sum, whose counts are at most as large as there is room for."""
    low = high = 0
    for key, value in terms.items():
        most = bounds.room(Dim(1, key)).number
        if most is None:
            return None
        if key and value < 0:
            low += value * most
        elif key:
            high += value * most
        else:
            low, high = low + value, high + value
    return low, high
