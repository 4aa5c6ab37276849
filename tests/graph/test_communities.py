"""The pieces that communities are found with."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph.communities import (
    Graph,
    Links,
    Partition,
    communities,
    connected,
    settle,
    sorted_with_order,
    summed,
    sums,
)
from tests.graph.partitions import agreement, planted


def links(*edges: tuple[int, int, int]) -> Links:
    columns = np.array(edges, np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def test_a_graph_joins_edges_of_both_directions_and_leaves_out_those_within() -> None:
    pieces = [links((0, 1, 5), (1, 0, 2), (2, 2, 9)), links((0, 1, 1), (2, 1, 4))]
    graph = Graph.of(pieces, np.arange(3), 3)
    rows = graph.rows(np.array([0, 1, 2]))
    assert [column.tolist() for column in rows] == [[0, 1, 1, 2], [1, 2, 0, 1], [8, 4, 8, 4]]
    assert [column.tolist() for column in graph.links()] == [[0, 1], [1, 2], [8, 4]]


def test_rows_that_do_not_lie_together_are_those_asked_for() -> None:
    graph = Graph.of([links((0, 1, 1), (1, 2, 2), (2, 3, 3))], np.arange(4), 4)
    rows = graph.rows(np.array([0, 3]))
    assert [column.tolist() for column in rows] == [[0, 1], [1, 2], [1, 3]]


def test_communities_are_the_nodes_of_a_smaller_graph() -> None:
    edges = links((0, 1, 1), (1, 2, 2), (2, 3, 4), (0, 3, 8))
    graph = Graph.of([edges], np.array([0, 0, 1, 1]), 2)
    assert [column.tolist() for column in graph.links()] == [[0], [1], [10]]


@given(
    values=st.lists(st.integers(0, 2**62) | st.integers(0, 3), max_size=30),
    units=st.data(),
)
def test_equal_values_are_summed(values: list[int], units: st.DataObject) -> None:
    given_units = [units.draw(st.integers(0, 9)) for _ in values]
    wanted: dict[int, int] = {}
    for value, unit in zip(values, given_units, strict=True):
        wanted[value] = wanted.get(value, 0) + unit
    found, total = summed(np.array(values, np.int64), np.array(given_units, np.int64))
    assert dict(zip(found.tolist(), total.tolist(), strict=True)) == wanted
    assert found.tolist() == sorted(wanted)


@pytest.mark.parametrize("greatest", [7, 2**62])
def test_equal_values_keep_their_order(greatest: int) -> None:
    values, order = sorted_with_order(np.array([greatest, 3, greatest, 3]))
    assert values.tolist() == [3, 3, greatest, greatest]
    assert order.tolist() == [1, 3, 0, 2]


def test_everything_connected_has_its_lowest_node_in_common() -> None:
    pieces = [links((5, 4, 1), (3, 2, 1)), links((4, 3, 1), (0, 7, 1))]
    assert connected(pieces, 8).tolist() == [0, 1, 2, 2, 2, 2, 6, 0]


@given(seed=st.integers(0, 999))
def test_moving_keeps_the_sums_of_communities(seed: int) -> None:
    rng = np.random.default_rng(seed)
    degrees = rng.integers(0, 50, 20)
    partition = Partition.of(rng.integers(0, 6, 20), degrees)
    for _ in range(5):
        nodes = rng.choice(20, 4, replace=False)
        partition.move(nodes, rng.integers(0, len(partition.totals), 4))
    assert partition.totals.tolist() == (
        sums(partition.labels, degrees, len(partition.totals)).tolist()
    )
    assert partition.sizes.tolist() == (
        np.bincount(partition.labels, minlength=len(partition.sizes)).tolist()
    )


def test_only_what_is_active_and_what_that_unsettles_is_looked_at() -> None:
    chain = [(node, node + 1, 4) for node in range(0, 20, 2)]
    graph = Graph.of([links(*chain)], np.arange(22), 22)
    partition = Partition.of(np.arange(22), np.full(22, 4))
    touched = settle(graph.reach, partition, np.array([5]))
    assert np.flatnonzero(touched).tolist() == [5]
    assert partition.labels.tolist() == [*range(5), 4, *range(6, 22)]


def test_two_that_are_alone_do_not_change_places() -> None:
    graph = Graph.of([links((0, 1, 4))], np.arange(2), 2)
    partition = Partition.of(np.arange(2), np.array([4, 4]))
    settle(graph.reach, partition, np.arange(2))
    assert partition.labels.tolist() == [0, 0]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nodes_without_edges_stay_alone(count: int) -> None:
    graph = Graph.of([], np.arange(count), count)
    assert communities(graph, np.zeros(count, np.int64)).tolist() == list(range(count))


def test_communities_of_a_graph_are_found() -> None:
    known, source, target = planted([40] * 8, 8, 0.2)
    graph = Graph.of([(source, target, np.ones(len(source), np.int64))], np.arange(320), 320)
    degrees = np.diff(graph.start).astype(np.int64)
    assert agreement(known, communities(graph, degrees)) >= 0.95
