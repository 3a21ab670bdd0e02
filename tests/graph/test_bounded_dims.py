from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.graph.bounded.dims import ONE, Dim, product, regrouped

N, M = Dim(1, ("n",)), Dim(1, ("m",))


def size(dim: Dim, values: dict[str, int]) -> int:
    return dim.factor * int(np.prod([values[a] for a in dim.atoms]))


names = st.lists(st.sampled_from(["n", "m", "dim:b"]), max_size=3)
dims = st.builds(Dim, st.integers(1, 6), names.map(sorted).map(tuple))


@given(dims, dims)
def test_a_quotient_is_the_other_factor(a: Dim, b: Dim) -> None:
    assert (a * b).over(b) == a
    values = {"n": 3, "m": 5, "dim:b": 2}
    assert size(a * b, values) == size(a, values) * size(b, values)
    quotient = a.over(b)
    assert quotient is None or quotient * b == a


def test_rooms_multiply_and_free_dims_have_none() -> None:
    assert (N * Dim(4)).room({"n": Dim(7)}) == Dim(28)
    assert (N * Dim(4)).room({"n": Dim(1, ("dim:b",))}) == Dim(4, ("dim:b",))
    assert Dim(1, ("dim:b",)).room({}) == Dim(1, ("dim:b",))
    assert Dim(1, ("dim:b",)).exact
    assert not N.exact


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([N, Dim(4)], [N * Dim(4)], {0: 0}),
        ([N * Dim(4)], [N, Dim(4)], {0: 0}),
        ([ONE, N, Dim(4)], [N, Dim(2), Dim(2)], {1: 0}),
        ([Dim(2), N], [Dim(2), N, ONE], {1: 1}),
        ([Dim(2), N], [N * Dim(2)], None),  # the padding of the first row would lie in the middle
        ([N, M], [N * M], None),
        ([N, M], [N, M], {0: 0, 1: 1}),
        ([Dim(6), N], [Dim(2), Dim(3), N], {1: 2}),
        ([N, Dim(4)], [Dim(4), N], None),
        ([N], [ONE, N, ONE], {0: 1}),
    ],
)
def test_padding_through_a_reshape(before: list[Dim], after: list[Dim], found: dict[int, int] | None) -> None:
    assert regrouped(before, after) == found


@given(st.lists(st.sampled_from([N, Dim(2), Dim(3), ONE]), min_size=1, max_size=4), st.data())
def test_what_is_real_stays_in_front(before: list[Dim], data: st.DataObject) -> None:
    after = data.draw(st.permutations(before))
    found = regrouped(before, after)
    if found is None or before.count(N) > 1:
        return
    room, count = 5, 3
    full = [room if d == N else d.factor for d in before]
    real = [count if d == N else d.factor for d in before]
    values = np.full(full, -1)
    values[tuple(slice(n) for n in real)] = np.arange(int(np.prod(real))).reshape(real)
    shaped = values.reshape([room if d == N else d.factor for d in after])
    cut = shaped[tuple(slice(count if d == N else None) for d in after)]
    assert np.array_equal(cut.reshape(-1), np.arange(int(np.prod(real))))
    assert product(list(after)) == product(before)
