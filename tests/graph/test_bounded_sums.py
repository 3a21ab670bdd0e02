from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.spans import known_sum, smaller_of
from surgery.graph.bounded.work import Bounds

ATOMS = ("dim:n", "dim:m")
keys = st.lists(st.sampled_from(ATOMS), max_size=2).map(lambda k: tuple(sorted(k)))
terms = st.dictionaries(keys, st.integers(-4, 4).filter(bool), max_size=4)
values = st.fixed_dictionaries({a: st.integers(1, 9) for a in ATOMS})


def at(found: sums.Terms, known: dict[str, int]) -> int:
    return sum(v * int(np.prod([known[a] for a in key], dtype=np.int64)) for key, v in found.items())


@given(terms, terms, values)
def test_sums_and_products_are_those_of_their_values(
    a: sums.Terms, b: sums.Terms, known: dict[str, int]
) -> None:
    assert at(sums.plus(a, b), known) == at(a, known) + at(b, known)
    assert at(sums.plus(a, b, -1), known) == at(a, known) - at(b, known)
    assert at(sums.multiply(a, b), known) == at(a, known) * at(b, known)


@given(terms, terms.filter(bool))
def test_a_quotient_is_the_other_factor(a: sums.Terms, b: sums.Terms) -> None:
    assert sums.quotient(sums.multiply(a, b), b) == a


@given(terms, st.integers(1, 5), values)
def test_the_whole_part_of_what_is_not_negative(a: sums.Terms, by: int, known: dict[str, int]) -> None:
    found = sums.whole_part(a, by)
    if found is not None and at(a, known) >= 0:
        assert at(found, known) == at(a, known) // by


@given(terms, values)
def test_what_is_surely_not_negative_is_not(a: sums.Terms, known: dict[str, int]) -> None:
    if sums.surely_not_negative(a, set(ATOMS)):
        assert at(a, known) >= 0


@given(terms.filter(bool), values)
def test_factors_make_the_sum_again(a: sums.Terms, known: dict[str, int]) -> None:
    number, atoms, rest = sums.factored(a)
    whole = sums.multiply({atoms: number}, rest)
    assert whole == a


def test_sizes_computed_in_different_ways_are_equal() -> None:
    bounds = Bounds({}, present={"dim:n"})
    n = Dim(1, ("dim:n",))
    less = bounds.exact("Sub", n, Dim(1))
    assert bounds.exact("Add", less, Dim(1)) == n
    assert bounds.exact("Add", less, n) == bounds.exact("Sub", n * Dim(2), Dim(1))
    assert bounds.exact("Min", less, n) == less
    assert bounds.exact("Max", less, n) == n
    assert bounds.exact("Div", bounds.exact("Sub", n * Dim(2), Dim(1)), Dim(2)) == less
    assert bounds.exact("Div", bounds.exact("Add", n * n, n), n) == bounds.exact("Add", n, Dim(1))
    three = bounds.exact("Min", n, Dim(3))
    assert three not in (n, Dim(3))  # that depends


def test_the_smaller_of_counts_that_are_empty_together() -> None:
    bounds = Bounds({})
    t, long = Dim(1, ("t",)), Dim(1, ("long",))
    bounds.count_terms["long"] = {("t",): 2, (): -1}
    assert smaller_of(bounds, t, long) == t
    bounds.count_terms["more"] = {("t",): 1, (): 3}
    assert smaller_of(bounds, Dim(4), Dim(1, ("more",))) is None  # t may be 0


def test_a_sum_too_long_to_keep_is_no_size() -> None:
    """It is not known, rather than nothing at all."""
    terms: sums.Terms = {(f"dim:{i}",): 1 for i in range(sums.MOST_TERMS + 1)}
    assert known_sum(Bounds({}), terms) is None
    terms.popitem()
    assert sums.expand(known_sum(bounds := Bounds({}), terms) or Dim(0), bounds.terms) == terms
