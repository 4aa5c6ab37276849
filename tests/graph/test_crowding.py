"""Counts of the concepts that share a value, against counting them one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from aesg.graph.crowding import Crowding
from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.engine import Engine
from storage_backends.types import ValueKind, WriteBatch
from tests.graph.build import DIM, concepts, engine, entries, unit


def kind(concept_id: int) -> ValueKind:
    return ValueKind.KEY if concept_id % 5 == 0 else ValueKind.INTEGER


def write(made: Engine, ids: list[int]) -> None:
    put = concepts(ids)
    put.value_ids[:] = np.array(ids) % 3
    put.value_kinds[:] = [kind(each) for each in ids]
    made.commit(WriteBatch(concepts=put))


def meet(window: ShortTermMemory, ids: list[int]) -> None:
    new = entries(ids)
    new["value_id"] = np.array(ids, np.int64) % 3
    new["value_kind"] = [kind(each) for each in ids]
    window.append(new, unit(ids), None)


def assert_counted(crowding: Crowding, made: Engine, window: ShortTermMemory) -> None:
    scope = Scope(made.view(), window)
    held = [*made.view().ids.whole()[made.view().alive.whole()].tolist()]
    held += window.entries["id"].tolist()
    counts = Counter(each % 3 for each in held if kind(each) is ValueKind.INTEGER)
    slots = scope.find(np.array(held, np.uint64))
    wanted = [counts[each % 3] if kind(each) is ValueKind.INTEGER else 1 for each in held]
    got = crowding.counts(scope, np.append(slots, -1))
    assert got.tolist() == [*wanted, 1]
    assert got.dtype == np.float32


def test_counts_follow_graph_and_window() -> None:
    made, window, crowding = engine([]), ShortTermMemory(DIM, 8), Crowding()
    assert_counted(crowding, made, window)
    write(made, [1, 2, 3, 4, 5, 6, 7])
    assert_counted(crowding, made, window)
    meet(window, [100, 101, 102, 103])
    assert_counted(crowding, made, window)
    made.commit(WriteBatch(deleted=np.array([2, 4], np.uint64)))
    assert_counted(crowding, made, window)
    window.remove(np.array([101], np.uint64))
    assert_counted(crowding, made, window)
    meet(window, list(range(110, 117)))  # the window is full, and the oldest yield
    assert_counted(crowding, made, window)


def test_nothing_is_counted_again_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, window, crowding = engine([]), ShortTermMemory(DIM, 8), Crowding()
    write(made, [1, 2, 3])
    meet(window, [100, 101])
    assert_counted(crowding, made, window)
    calls = []

    def unique(*given: object, **options: object) -> None:
        calls.append(given)
        raise AssertionError("counted again")

    monkeypatch.setattr(np, "unique", unique)
    assert_counted(crowding, made, window)
    assert not calls
