"""Edges: creation, strengthening, weakening, the most that a concept may have; co-activation."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph import edges as module
from aesg.graph.edges import EDGE_DECAY, Coactivation, Use, Uses, weakened
from aesg.graph.edges import strengthened as strengthened_rows
from aesg.graph.out_edges import OutEdges
from storage_backends.types import EDGE, EdgeKind, Ids, Records
from tests.graph import plain
from tests.graph.build import strengthened
from tests.graph.evolving import out_rows

NONE = np.empty(0, EDGE)


def test_the_first_use_makes_an_edge_of_low_confidence() -> None:
    (edge,) = strengthened(NONE, [Use(7, EdgeKind.SUCCESSOR)], 10)
    assert edge.tolist() == (7, 1.0, pytest.approx(0.3), 1, EdgeKind.SUCCESSOR)


@given(first=st.integers(1, 20), then=st.integers(1, 20))
def test_uses_add_up_however_they_are_counted(first: int, then: int) -> None:
    once = strengthened(NONE, [Use(7, EdgeKind.VALUE, first + then)], 10)
    twice = strengthened(NONE, [Use(7, EdgeKind.VALUE, first)], 10)
    twice = strengthened(twice, [Use(7, EdgeKind.VALUE, then)], 10)
    assert once["use"].tolist() == twice["use"].tolist() == [first + then]
    np.testing.assert_allclose(once["confidence"], twice["confidence"], rtol=1e-5)
    assert 0.3 < once["confidence"][0] < 1


def test_a_use_leaves_the_row_it_was_given_and_the_other_edges_alone() -> None:
    row = np.concatenate([strengthened(NONE, [Use(t, EdgeKind.VALUE)], 10) for t in (5, 6, 7)])
    before = row.copy()
    after = strengthened(row, [Use(6, EdgeKind.COACTIVATION, 3)], 10)
    assert (row == before).all()
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert after["kind"][1] == EdgeKind.VALUE | EdgeKind.COACTIVATION
    assert after["confidence"][1] > before["confidence"][1]


@given(
    uses=st.lists(
        st.builds(
            Use,
            st.integers(1, 6),
            st.sampled_from([*EdgeKind, EdgeKind(0)]),
            st.integers(1, 5),
            st.sampled_from([0.5, 1.0]),
            st.sampled_from([0.3, 0.9]),
        ),
        max_size=12,
    )
)
def test_uses_of_many_edges_at_once_do_what_one_after_another_do(uses: list[Use]) -> None:
    row = strengthened(NONE, [Use(5, EdgeKind.VALUE), Use(2, EdgeKind.SUCCESSOR, 4)], 10)
    assert row["target"].tolist() == [5, 2]
    at_once = strengthened(row, uses, 10)
    for use in uses:
        row = strengthened(row, [use], 10)
    same = ["target", "weight", "use", "kind"]
    assert at_once[same].tolist() == row[same].tolist()
    np.testing.assert_allclose(at_once["confidence"], row["confidence"], rtol=1e-5)


_uses = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.builds(
            Use,
            st.sampled_from([1, 2, 3, 2**63 + 5, 2**64 - 1]),
            st.sampled_from([*EdgeKind, EdgeKind(0)]),
            st.sampled_from([1, 2, 7, 2**32]),
            st.sampled_from([0.25, 0.3, 1.0]),
            st.sampled_from([0.3, 0.9]),
        ),
    ),
    max_size=24,
)


@given(rows=out_rows(4), uses=_uses, most=st.integers(1, 5))
def test_edges_of_many_concepts_are_used_as_those_of_each_alone(
    rows: list[Records], uses: list[tuple[int, Use]], most: int
) -> None:
    columns = Uses.of(np.array([owner for owner, _ in uses], np.int64), [use for _, use in uses])
    before = OutEdges.of(rows)
    after = strengthened_rows(before, columns, most)
    for place, (row, found) in enumerate(zip(rows, after.split(), strict=True)):
        own = [use for owner, use in uses if owner == place]
        assert found.tobytes() == plain.strengthened(row, own, most).tobytes()
    assert [row.tobytes() for row in before.split()] == [row.tobytes() for row in rows]


def test_a_use_without_a_reason_makes_no_edge() -> None:
    assert not len(strengthened(NONE, [Use(7, EdgeKind(0), 3)], 10))


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
    after = strengthened(row, [Use(target, EdgeKind.VALUE, uses)], most)
    whole = strengthened(row, [Use(target, EdgeKind.VALUE, uses)], 99)
    assert len(whole) == len(held) + (target > len(held))
    assert len(after) == min(most, len(whole))
    assert sorted(after["confidence"]) == sorted(whole["confidence"])[len(whole) - len(after) :]
    places = [whole["target"].tolist().index(kept) for kept in after["target"].tolist()]
    assert places == sorted(places)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3, 4))))
def test_of_equally_weak_edges_the_one_of_the_lowest_target_yields(order: tuple[int, ...]) -> None:
    row = NONE
    for target in order:
        row = strengthened(row, [Use(target, EdgeKind.VALUE)], 9)
    kept = OutEdges.of([row]).strongest(2).edges["target"].tolist()
    assert kept == [target for target in order if target > 2]


def test_a_new_edge_may_have_another_weight_and_a_held_one_keeps_its_own() -> None:
    row = strengthened(NONE, [Use(7, EdgeKind.VALUE, weight=0.75)], 10)
    row = strengthened(row, [Use(7, EdgeKind.VALUE, weight=0.5)], 10)
    assert row["weight"].tolist() == [0.75]


def test_a_new_edge_may_be_trusted_more_than_others_from_the_first_use() -> None:
    row = strengthened(NONE, [Use(7, EdgeKind.VALUE, first=0.9)], 10)
    assert row["confidence"].tolist() == [pytest.approx(0.9)]
    again = strengthened(row, [Use(7, EdgeKind.VALUE, first=0.9)], 10)
    both = strengthened(NONE, [Use(7, EdgeKind.VALUE, 2, first=0.9)], 10)
    assert again["confidence"].tolist() == [pytest.approx(0.91)]
    np.testing.assert_allclose(both["confidence"], again["confidence"], rtol=1e-6)


@given(confidence=st.floats(0, 1, width=32), first=st.integers(0, 900), then=st.integers(0, 900))
def test_an_unused_edge_weakens_by_a_fixed_share_per_epoch(
    confidence: float, first: int, then: int
) -> None:
    row = strengthened(NONE, [Use(7, EdgeKind.VALUE)], 10)
    row["confidence"] = confidence
    before = row.copy()
    after = weakened(row, first + then)
    wanted = confidence * EDGE_DECAY ** (first + then)
    np.testing.assert_allclose(after["confidence"], wanted, rtol=1e-6, atol=1e-38)
    twice = weakened(weakened(row, first), then)["confidence"]
    np.testing.assert_allclose(twice, after["confidence"], rtol=1e-5, atol=1e-38)
    assert (row == before).all()
    assert after[["target", "weight", "use", "kind"]] == row[["target", "weight", "use", "kind"]]


def test_edges_weaken_each_by_its_own_epochs_and_never_grow() -> None:
    row = np.concatenate([strengthened(NONE, [Use(t, EdgeKind.VALUE)], 10) for t in (5, 6, 7)])
    after = weakened(row, np.array([-3, 0, 2]))["confidence"]
    np.testing.assert_allclose(after / row["confidence"], [1, 1, EDGE_DECAY**2], rtol=1e-6)


def test_counts_do_not_overflow() -> None:
    row = strengthened(NONE, [Use(1, EdgeKind.VALUE, 2**33)], 3)
    assert row["use"].tolist() == [2**32 - 1]
    assert strengthened(row, [Use(1, EdgeKind.VALUE, 2**33)], 3)["use"].tolist() == [2**32 - 1]


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


def test_counts_go_on_after_they_were_stored() -> None:
    counter, later = Coactivation(), Coactivation()
    counter.add(_groups([[1, 2**63, 0], [7, 8, 9], [2**63, 1, 0]]), 4)
    later.load(counter.dump())
    assert later.dump() == counter.dump()
    assert later.add(_groups([[1, 2**63, 0]] * 2), 4) == [(1, 2**63)]
    later.load(b"")
    assert later.dump() == b""


def test_stored_counts_that_cannot_be_any_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    counter = Coactivation()
    counter.load(b"no pairs")
    assert counter.dump() == b""
    assert "expected whole pairs" in caplog.text


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
