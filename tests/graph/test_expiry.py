"""Buckets of ids by epoch."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph import expiry as module
from aesg.graph.decay import NEVER
from aesg.graph.expiry import Expiry
from tests.storage.build import ids

HINTS = st.lists(st.tuples(st.integers(1, 30), st.one_of(st.integers(0, 20), st.just(NEVER))))


def _add(expiry: Expiry, hints: list[tuple[int, int]]) -> None:
    expiry.add(ids(*(each for each, _ in hints)), np.array([at for _, at in hints], np.int64))


@pytest.mark.parametrize("little", [0, 5, 65_536])
@given(steps=st.lists(st.tuples(HINTS, st.integers(0, 25)), max_size=8))
def test_no_look_comes_later_than_its_hint_and_none_without_one(
    little: int, steps: list[tuple[list[tuple[int, int]], int]]
) -> None:
    earliest, every = dict[int, int](), set[tuple[int, int]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LITTLE", little)
        expiry = Expiry()
        for hints, epoch in steps:
            _add(expiry, hints)
            every.update(hints)
            for concept_id, at in hints:
                earliest[concept_id] = min(at, earliest.get(concept_id, NEVER))
            due = expiry.due(epoch)
            assert due.dtype == np.uint64
            assert due.tolist() == sorted(set(due.tolist()))
            assert {each for each, at in earliest.items() if at <= epoch} <= set(due.tolist())
            assert set(due.tolist()) <= {each for each, at in every if at <= epoch}
            every = {(each, at) for each, at in every if at > epoch}
            for concept_id in due.tolist():
                earliest.pop(concept_id, None)


def test_what_was_taken_out_is_not_due_again() -> None:
    expiry = Expiry()
    _add(expiry, [(7, 3), (8, 3), (9, 4), (5, NEVER)])
    assert len(expiry) == 3
    assert expiry.due(2).tolist() == []
    assert expiry.due(3).tolist() == [7, 8]
    assert expiry.due(3).tolist() == []
    assert len(expiry) == 1
    assert expiry.due(10**12).tolist() == [9]


def test_hints_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LITTLE", 50)
    expiry = Expiry()
    for epoch in range(1000):
        _add(expiry, [(each, epoch + 1000) for each in range(1, 31)])
        assert len(expiry) <= 100
    assert expiry.due(1000).tolist() == list(range(1, 31))


def test_ids_of_any_size_come_back() -> None:
    expiry = Expiry()
    _add(expiry, [(2**64 - 1, 0), (2**63, 1), (1, 1)])
    assert expiry.due(1).tolist() == [1, 2**63, 2**64 - 1]
