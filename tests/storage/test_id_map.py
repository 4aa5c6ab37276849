"""From concept id to slot: what is found, in which order."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from storage_backends.id_map import IdMap, SortedIds
from tests.storage.build import ids

IDS = st.lists(st.integers(1, 40), unique=True, max_size=20)


@given(IDS, IDS, st.integers(0, 45), st.integers(0, 9))
def test_the_ids_that_follow_another_come_in_ascending_order(
    first: list[int], others: list[int], after: int, count: int
) -> None:
    later = np.arange(len(others)) + len(first)
    held = IdMap(SortedIds.of(ids(*first))).extended(ids(*others), later)
    expected = sorted(each for each in {*first, *others} if each > after)[:count]
    assert held.following(after, count).tolist() == expected
