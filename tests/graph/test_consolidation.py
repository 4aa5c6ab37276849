"""Ageing, touching, pruning."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph.consolidation import (
    PRUNING_AGE,
    RELEVANCE_DECAY,
    ages,
    prunable,
    relevances,
    touched,
    weakest,
)
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.graph.build import concepts, engine, stats
from tests.storage.build import ids
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


def test_only_what_is_irrelevant_rare_and_old_is_pruned() -> None:
    made = engine([])
    put = concepts(range(1, 6), relevance=0.1, frequency=1)
    put.stats["relevance"][1] = 1
    put.stats["frequency"][2] = 9
    put.stats["epoch"][3] = 1
    made.commit(WriteBatch(concepts=put))
    view = made.view()
    assert view.ids[prunable(view, PRUNING_AGE, 0.2, 5)].tolist() == [1, 5]
    assert not len(prunable(view, PRUNING_AGE - 1, 0.2, 5))


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
