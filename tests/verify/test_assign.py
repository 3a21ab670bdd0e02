from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from surgery.verify.assign import assign

OPTIONS = st.integers(0, 7).flatmap(
    lambda m: st.lists(
        st.lists(st.integers(0, m - 1), unique=True, max_size=m) if m else st.just([]), max_size=7
    )
)


def test_the_first_comer_gives_way() -> None:
    assert assign([[0, 1], [0]]) == [1, 0]


def test_a_chain_of_displacements() -> None:
    assert assign([[0, 1], [1, 2], [2, 3], [0]]) == [1, 2, 3, 0]


def test_a_row_without_options_stays_alone() -> None:
    assert assign([[], [0], [0]]) == [-1, 0, -1]


def test_paired_rows_stay_paired() -> None:
    assert sorted(assign([[0], [0, 1], [1]], [-1, 0, -1])) == [-1, 0, 1]
    assert assign([[0], [0, 1], [1]], [-1, 0, -1])[1] >= 0


def test_thousands_of_equal_rows_need_no_recursion() -> None:
    everyone = list(range(1500))
    assert sorted(assign([everyone] * 1500)) == everyone


@given(OPTIONS)
def test_as_many_pairs_as_networkx_finds(options: list[list[int]]) -> None:
    graph = nx.Graph()
    left = [("left", i) for i in range(len(options))]
    graph.add_nodes_from(left)
    graph.add_edges_from((("left", i), ("right", j)) for i, rows in enumerate(options) for j in rows)
    most = len(nx.bipartite.hopcroft_karp_matching(graph, left)) // 2

    partner = assign(options)

    used = [j for j in partner if j >= 0]
    assert len(used) == most
    assert len(set(used)) == len(used)
    assert all(j < 0 or j in options[i] for i, j in enumerate(partner))
    assert partner == assign(options)
