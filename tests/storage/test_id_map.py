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


@given(st.integers(1, 50), st.integers(1, 30), st.sets(st.integers(0, 29)))
def test_an_id_is_found_whether_or_not_others_are_missing_before_it(
    first: int, count: int, missing: set[int]
) -> None:
    held = [first + place for place in range(count) if place not in missing]
    asked = [0, *range(1, first + count + 3), 2**64 - 1]
    slots = {each: slot for slot, each in enumerate(held)}
    found = SortedIds.of(ids(*held)).find(ids(*asked))
    assert found.tolist() == [slots.get(each, -1) for each in asked]
    assert SortedIds.of(ids(*held)).find(ids()).tolist() == []


def test_ids_of_another_type_are_found_as_well() -> None:
    held = SortedIds.of(ids(2**63, 2**63 + 1))
    for asked in (np.array([0, 2]), [0, 2], np.uint64(2)):
        assert (held.find(asked) == -1).all()  # type: ignore[arg-type]
    assert held.find(np.uint64(2**63 + 1)) == 1  # type: ignore[arg-type]
