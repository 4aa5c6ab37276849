"""Sources by target against a set of pairs."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from numpy.typing import NDArray

from storage_backends.incoming import Incoming, pairs

SLOTS = 8

_edges = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1)), max_size=12)


def _columns(edges: list[tuple[int, int]]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    table = np.array(edges, np.uint32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _in_base(edges: list[tuple[int, int]], slots: int) -> Incoming:
    ordered = sorted(edges)
    starts = [sum(target < slot for target, _ in ordered) for slot in range(slots)]
    return Incoming(np.array(starts, np.uint32), _columns(ordered)[1])


@given(base=_edges, parts=st.lists(_edges, max_size=6), targets=st.lists(st.integers(0, SLOTS)))
def test_every_source_that_was_told_of_is_found(
    base: list[tuple[int, int]], parts: list[list[tuple[int, int]]], targets: list[int]
) -> None:
    known, told = _in_base(base, SLOTS), set(base)
    for part in parts:
        known, told = known.extended(*_columns(part)), told | set(part)
    asked = np.array(targets, np.int64)
    wanted = sorted({source for target, source in told if target in targets})
    assert known.sources_of(asked).tolist() == wanted
    assert known.covered == sum(map(len, parts))
    first = sorted({source for target, source in base if target in targets})
    assert known.restarted().sources_of(asked).tolist() == first


def test_many_small_additions_stay_few_runs_and_are_not_copied_each_time() -> None:
    known, copied = Incoming(), 0
    for number in range(4000):
        before = known.runs
        known = known.extended(*_columns([(number % 7, number)]))
        copied += sum(len(run) for run in known.runs if all(run is not each for each in before))
    assert len(known.runs) < 20
    assert copied < 4000 * 40
    assert known.sources_of(np.array([3])).tolist() == list(range(3, 4000, 7))


def test_pairs_hold_the_greatest_slots() -> None:
    greatest = np.array([2**32 - 1], np.uint32)
    assert pairs(greatest, greatest).tolist() == [2**64 - 1]
    known = Incoming().extended(greatest, greatest)
    assert known.sources_of(greatest.astype(np.int64)).tolist() == [2**32 - 1]
