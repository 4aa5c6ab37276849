"""Ageing, touching, pruning."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph import consolidation as module
from aesg.graph.clock import Clock
from aesg.graph.consolidation import (
    PRUNING_AGE,
    RELEVANCE_DECAY,
    ages,
    are_prunable,
    drop_edges,
    expiry_of,
    prune,
    relevances,
    touched,
    weakest,
)
from aesg.graph.decay import NEVER
from aesg.graph.edges import EDGE_DECAY
from storage_backends.engine import Engine
from storage_backends.types import EventType, WriteBatch
from storage_backends.view import View
from tests.graph.build import concepts, engine, stats
from tests.storage.build import edges, ids
from tests.storage.reference_store import Backing, ReferenceStore


def test_age_and_relevance_follow_from_the_epoch_of_the_last_touch() -> None:
    records = stats(3, relevance=0.8)
    records["epoch"] = [10, 7, 12]  # the last one is ahead of the counter
    assert ages(records, 10).tolist() == [0, 3, 0]
    wanted = [0.8, 0.8 * RELEVANCE_DECAY**3, 0.8]
    np.testing.assert_allclose(relevances(records, 10), wanted, rtol=1e-6)


@given(relevance=st.floats(0, 1, width=32), age=st.integers(0, 1000), uses=st.integers(1, 1000))
def test_a_touch_revives(relevance: float, age: int, uses: int) -> None:
    records = stats(1, relevance=relevance, frequency=5)
    after = touched(records, np.array([uses]), age, 3, 99)
    now = relevances(records, age)[0]
    assert now <= after["relevance"][0] <= 1
    assert after["relevance"][0] == pytest.approx(1 - (1 - now) * 0.9**uses, abs=1e-6)
    assert after[["frequency", "epoch", "tick", "modified"]].tolist() == [(5 + uses, age, 3, 99)]
    assert records["frequency"][0] == 5


def test_a_count_of_uses_does_not_overflow() -> None:
    after = touched(stats(1, frequency=2**32 - 2), np.array([9]), 0, 0, 0)
    assert after["frequency"].tolist() == [2**32 - 1]


def _faded() -> Engine:
    """Return an engine of which concepts 1 and 5 are prunable from epoch 10, and no other."""
    made = engine([])
    put = concepts(range(1, 6), relevance=0.1, frequency=1)
    put.stats["relevance"][1] = 1
    put.stats["frequency"][2] = 9
    put.stats["epoch"][3] = 1
    made.commit(WriteBatch(concepts=put, edges={2: edges(1, 3), 3: edges(5)}))
    return made


def test_only_what_is_irrelevant_rare_and_old_is_prunable() -> None:
    held = _faded().view().stats.whole()
    assert are_prunable(held, PRUNING_AGE, 0.2, 5).tolist() == [True, False, False, False, True]
    assert not are_prunable(held, PRUNING_AGE - 1, 0.2, 5).any()


def test_pruning_removes_the_concepts_and_their_edges_and_says_so() -> None:
    made = _faded()
    every = np.arange(made.view().size)
    assert prune(made.view(), every, Clock(epoch=PRUNING_AGE - 1), 0.2, 5) is None
    batch = prune(made.view(), every, Clock(epoch=PRUNING_AGE), 0.2, 5)
    assert batch is not None
    present = pytest.approx(0.1 * RELEVANCE_DECAY**PRUNING_AGE)
    wanted = [(EventType.PRUNE, each, 0, present) for each in (1, 5)]
    assert batch.events[["type", "id1", "id2", "val"]].tolist() == wanted
    view = made.commit(batch)
    assert view.ids[np.flatnonzero(view.alive.whole())].tolist() == [2, 3, 4]
    assert (view.edges(2)["target"].tolist(), len(view.edges(3))) == ([3], 0)
    assert not made.verify()


def test_nothing_to_judge_is_no_batch() -> None:
    made, nothing = _faded(), np.empty(0, np.int64)
    assert prune(made.view(), nothing, Clock(epoch=PRUNING_AGE), 0.2, 5) is None
    assert drop_edges(made.view(), nothing, Clock(epoch=PRUNING_AGE), 1.0) is None


@given(
    relevance=st.floats(0, 1, width=32),
    frequency=st.integers(0, 3),
    epoch=st.integers(0, 2**40),
    least=st.one_of(st.just(0.0), st.floats(1e-30, 1)),
)
def test_the_expiry_of_a_concept_is_never_late_and_at_most_one_epoch_early(
    relevance: float, frequency: int, epoch: int, least: float
) -> None:
    records = stats(1, relevance=relevance, frequency=frequency, epoch=epoch)
    (expiry,) = expiry_of(records, least, 2).tolist()
    assert (expiry == NEVER) == (frequency >= 2 or least == 0)
    if expiry != NEVER:
        assert not any(are_prunable(records, at, least, 2)[0] for at in range(epoch, expiry))
        assert are_prunable(records, expiry + 1, least, 2)[0]


def _linked(confidences: dict[int, float], edge_epoch: int) -> Engine:
    """Return an engine with a hub, concept 1, that has an edge to each target."""
    made = engine([])
    put = concepts([1, *confidences], edge_epoch=edge_epoch)
    row = edges(*confidences)
    row["weight"], row["confidence"] = 0.5, list(confidences.values())
    made.commit(WriteBatch(concepts=put, edges={1: row, 2: edges(1)}))
    return made


def test_edges_below_the_threshold_go_and_the_others_stay_as_they_were() -> None:
    made = _linked({2: 0.5, 3: 0.2, 4: 0.1, 5: 0.11}, edge_epoch=3)
    before = made.view().edges(1)
    slots = made.view().slots(ids(1, 3))
    assert drop_edges(made.view(), slots, Clock(epoch=3), 0.1) is None
    batch = drop_edges(made.view(), slots, Clock(epoch=53), 0.1)
    assert batch is not None
    assert batch.events[["type", "id1", "id2", "val"]].tolist() == [
        (EventType.PRUNE, 1, 2, pytest.approx(0.11 * EDGE_DECAY**50))
    ]
    after = made.commit(batch)
    assert after.edges(1).tolist() == before[np.isin(before["target"], [2, 3])].tolist()
    assert after.stats[0]["edge_epoch"] == 3
    assert not made.verify()


def test_a_row_can_lose_all_its_edges_and_another_none() -> None:
    made = _linked({2: 0.1, 3: 0.1}, edge_epoch=0)
    every = np.arange(made.view().size)
    batch = drop_edges(made.view(), every, Clock(epoch=1), 0.1)
    assert batch is not None
    after = made.commit(batch)
    assert (len(after.edges(1)), after.edges(2)["target"].tolist()) == (0, [1])


@pytest.mark.parametrize("at_a_time", [1, 2, 1000])
def test_rows_are_judged_alike_however_many_at_a_time(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_OF_ROWS", at_a_time)
    made = engine(range(1, 7), {each: [1 + each % 6, 1 + (each + 1) % 6] for each in range(1, 7)})
    held = {each: made.view().edges(each) for each in range(1, 7)}
    threshold = float(np.median([row["confidence"] for row in held.values()]))
    batch = drop_edges(made.view(), np.arange(6), Clock(), threshold)
    assert batch is not None
    wanted = {each: row[row["confidence"] >= threshold].tolist() for each, row in held.items()}
    lost = {each: row for each, row in wanted.items() if len(row) < 2}
    assert {each: row.tolist() for each, row in batch.edges.items()} == lost
    events = dict(batch.events[["id1", "id2"]].tolist())
    assert events == {each: 2 - len(row) for each, row in lost.items()}
    greatest = {
        each: max(value for value in held[each]["confidence"].tolist() if value < threshold)
        for each in lost
    }
    assert dict(batch.events[["id1", "val"]].tolist()) == greatest


def test_the_weakest_come_first_and_tombstones_never() -> None:
    store = ReferenceStore(Backing())
    put = concepts([4, 3, 2, 1, 6, 5], relevance=0.5, frequency=2)
    put.stats["relevance"][5] = 0.4
    put.stats["frequency"][2] = 1
    store.commit(WriteBatch(concepts=put))
    before = View.of(store.load())
    store.commit(WriteBatch(deleted=ids(4)))
    changes = store.changes(1)
    assert changes is not None
    view = before.advanced(changes)
    assert view.dead == 1
    assert view.ids[weakest(view, 0, 4)].tolist() == [5, 2, 1, 3]
    assert len(weakest(view, 0, 99)) == 5
    assert not len(weakest(view, 0, 0))


@given(
    relevances=st.lists(st.sampled_from([0.1, 0.5, 1.0]), min_size=1, max_size=12),
    count=st.integers(0, 14),
    data=st.data(),
)
def test_the_weakest_are_those_that_sorting_all_would_give(
    relevances: list[float], count: int, data: st.DataObject
) -> None:
    size = len(relevances)
    made = engine([])
    put = concepts(range(1, size + 1))
    put.stats["relevance"] = relevances
    for name, highest in (("frequency", 2), ("epoch", 9)):
        drawn = data.draw(st.lists(st.integers(0, highest), min_size=size, max_size=size))
        put.stats[name] = drawn
    view = made.commit(WriteBatch(concepts=put))
    present = module.relevances(put.stats, 9)
    order = sorted(range(size), key=lambda row: (present[row], put.stats["frequency"][row], row))
    assert weakest(view, 9, count).tolist() == order[:count]
