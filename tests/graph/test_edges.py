"""Edges: creation, strengthening, the most that a concept may have; co-activation."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph import edges as module
from aesg.graph.edges import Coactivation, strengthened
from storage_backends.types import EDGE, EdgeKind, Ids

NONE = np.empty(0, EDGE)


def test_the_first_use_makes_an_edge_of_low_confidence() -> None:
    (edge,) = strengthened(NONE, 7, EdgeKind.SUCCESSOR, 1, 10)
    assert edge.tolist() == (7, 1.0, pytest.approx(0.3), 1, EdgeKind.SUCCESSOR)


@given(first=st.integers(1, 20), then=st.integers(1, 20))
def test_uses_add_up_however_they_are_counted(first: int, then: int) -> None:
    once = strengthened(NONE, 7, EdgeKind.VALUE, first + then, 10)
    twice = strengthened(
        strengthened(NONE, 7, EdgeKind.VALUE, first, 10), 7, EdgeKind.VALUE, then, 10
    )
    assert once["use"].tolist() == twice["use"].tolist() == [first + then]
    np.testing.assert_allclose(once["confidence"], twice["confidence"], rtol=1e-5)
    assert 0.3 < once["confidence"][0] < 1


def test_a_use_leaves_the_row_it_was_given_and_the_other_edges_alone() -> None:
    row = np.concatenate([strengthened(NONE, t, EdgeKind.VALUE, 1, 10) for t in (5, 6, 7)])
    before = row.copy()
    after = strengthened(row, 6, EdgeKind.COACTIVATION, 3, 10)
    assert (row == before).all()
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert after["kind"][1] == EdgeKind.VALUE | EdgeKind.COACTIVATION
    assert after["confidence"][1] > before["confidence"][1]


@given(
    held=st.lists(st.floats(0, 1, width=32), max_size=8),
    most=st.integers(1, 6),
    uses=st.integers(1, 30),
    target=st.sampled_from([1, 99]),
)
def test_the_weakest_yield_where_there_are_too_many(
    held: list[float], most: int, uses: int, target: int
) -> None:
    row = np.zeros(len(held), EDGE)
    row["target"], row["weight"], row["confidence"] = np.arange(1, len(held) + 1), 1, held
    after = strengthened(row, target, EdgeKind.VALUE, uses, most)
    whole = strengthened(row, target, EdgeKind.VALUE, uses, 99)
    assert len(whole) == len(held) + (target > len(held))
    assert len(after) == min(most, len(whole))
    assert sorted(after["confidence"]) == sorted(whole["confidence"])[len(whole) - len(after) :]
    places = [whole["target"].tolist().index(kept) for kept in after["target"].tolist()]
    assert places == sorted(places)


def test_of_equally_weak_edges_the_oldest_yields() -> None:
    row = NONE
    for target in (1, 2, 3, 4):
        row = strengthened(row, target, EdgeKind.VALUE, 1, 3)
    assert row["target"].tolist() == [2, 3, 4]


def test_counts_do_not_overflow() -> None:
    row = strengthened(NONE, 1, EdgeKind.VALUE, 2**33, 3)
    assert row["use"].tolist() == [2**32 - 1]
    assert strengthened(row, 1, EdgeKind.VALUE, 2**33, 3)["use"].tolist() == [2**32 - 1]


def _groups(rows: list[list[int]]) -> Ids:
    return np.array(rows, np.uint64).reshape(len(rows), -1)


@given(
    batches=st.lists(
        st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=4), max_size=6
    ),
    threshold=st.integers(1, 5),
)
def test_a_pair_is_ready_when_it_was_met_often_enough(
    batches: list[list[list[int]]], threshold: int
) -> None:
    counter, model = Coactivation(), Counter[tuple[int, int]]()
    for batch in batches:
        for row in batch:
            met = combinations(sorted(row), 2)
            model.update(pair for pair in met if pair[0] and pair[0] != pair[1])
        ready = {pair for pair, count in model.items() if count >= threshold}
        found = counter.add(_groups(batch or [[0, 0, 0]]), threshold)
        assert sorted(found) == sorted(ready)
        for pair in ready:
            del model[pair]


@pytest.mark.parametrize("width", [0, 1])
def test_one_concept_is_no_pair(width: int) -> None:
    assert Coactivation().add(np.ones((5, width), np.uint64), 1) == []


def test_a_full_buffer_forgets_the_rare_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PAIRS", 10)
    counter = Coactivation()
    counter.add(_groups([[1, 2]] * 3), 5)
    counter.add(_groups([[i, i + 1] for i in range(10, 30)]), 5)
    assert counter.add(_groups([[29, 30]] * 4), 5) == []
    assert counter.add(_groups([[1, 2]] * 2), 5) == [(1, 2)]
