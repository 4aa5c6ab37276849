"""The short-term window against a list."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aesg.graph.shortterm import ENTRY, ShortTermMemory
from storage_backends.types import ValueKind
from tests.graph.build import DIM, entries, unit, window
from tests.storage.build import ids


def _listed(memory: ShortTermMemory) -> list[tuple[int, list[float]]]:
    assert len(memory) == len(memory.entries) == len(memory.keys)
    return list(zip(memory.entries["id"].tolist(), memory.keys.tolist(), strict=True))


@given(data=st.data(), capacity=st.integers(1, 6))
def test_the_window_holds_the_most_recent_that_were_not_removed(
    data: st.DataObject, capacity: int
) -> None:
    memory, model, last = ShortTermMemory(DIM, capacity), list[int](), 0
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()):
            new = [last + 1 + step for step in range(data.draw(st.integers(0, 9)))]
            memory.append(entries(new), unit(new), None)
            model, last = [*model, *new][-capacity:], last + len(new)
        else:
            gone = data.draw(st.lists(st.integers(0, last + 2), max_size=4))
            memory.remove(ids(*gone))
            model = [number for number in model if number not in gone]
        assert _listed(memory) == list(zip(model, unit(model).tolist(), strict=True))
        asked = range(last + 3)
        rows = [model.index(number) if number in model else -1 for number in asked]
        assert memory.find(ids(*asked)).tolist() == rows


def test_vectors_stay_with_their_concepts() -> None:
    assert window([1, 2]).vectors is None
    memory = window([1, 2], capacity=4)
    memory.append(entries([3, 4]), unit([3, 4]), unit([13, 14]))
    memory.append(entries([5]), unit([5]), None)
    memory.remove(ids(3))
    memory.append(entries([6, 7]), unit([6, 7]), unit([16, 17]))
    assert memory.entries["id"].tolist() == [4, 5, 6, 7]
    assert memory.vectors is not None
    assert memory.vectors.tolist() == [*unit([14]).tolist(), [0] * DIM, *unit([16, 17]).tolist()]


def test_a_concept_gets_another_key_and_keeps_the_rest() -> None:
    memory = window([1, 2, 3])
    memory.rekey(ids(3, 9, 1), unit([13, 19, 11]), np.array([5, 6, 7], np.float32))
    assert memory.keys.tolist() == unit([11, 2, 13]).tolist()
    assert memory.entries["norm"].tolist() == [7, 2, 5]
    assert memory.entries["confirmations"].tolist() == [1, 1, 1]


def test_confirmations_count_for_those_held() -> None:
    memory = window([1, 2, 3])
    memory.confirm(ids(2, 3, 9), np.array([4, 1, 7]), tick=5)
    assert memory.entries["confirmations"].tolist() == [1, 5, 2]
    assert memory.entries["tick"].tolist() == [0, 5, 5]


def test_neighbours_of_a_sequence_are_noted_even_where_one_has_left() -> None:
    memory = window([1, 2, 3])
    memory.link(np.array([[1, 2], [2, 8], [9, 3]], np.uint64))
    assert memory.entries["next"].tolist() == [2, 8, 0]
    assert memory.entries["previous"].tolist() == [0, 1, 9]
    memory.link(np.empty((0, 2), np.uint64))


def test_an_emptied_window_is_empty_and_usable() -> None:
    memory = window([1, 2, 3], capacity=3)
    memory.remove(ids(1, 2, 3))
    assert not len(memory)
    memory.append(entries([4]), unit([4]), None)
    assert memory.find(ids(1, 4)).tolist() == [-1, 0]


@pytest.mark.parametrize("vectors", [False, True])
def test_what_is_dumped_is_what_is_loaded(vectors: bool) -> None:
    memory = ShortTermMemory(DIM, 8)
    held = [2, 3, 5, 7]
    table = entries(held, origin=6)
    table["value_kind"] = ValueKind.VECTOR if vectors else ValueKind.INTEGER
    memory.append(table, unit(held), unit([12, 13, 15, 17]) if vectors else None)
    memory.link(np.array([[2, 3]], np.uint64))
    memory.remove(ids(5))
    columns = memory.dump()
    again = ShortTermMemory(DIM, 8)
    again.load(columns, 100)
    assert again.entries.tolist() == memory.entries.tolist()
    assert again.keys.tolist() == memory.keys.tolist()
    assert (again.vectors is not None) == vectors
    if again.vectors is not None and memory.vectors is not None:
        assert again.vectors.tolist() == memory.vectors.tolist()
    smaller = ShortTermMemory(DIM, 2)
    smaller.load(columns, 100)
    assert smaller.entries["id"].tolist() == [3, 7]


def _of_kind(kind: int) -> bytes:
    table = entries([1, 2])
    table["value_kind"] = kind
    return table.tobytes()


def _spoilt() -> dict[str, dict[str, bytes]]:
    good: dict[str, Any] = window([1, 2]).dump()
    swapped = np.frombuffer(good["entries"], ENTRY)[::-1].tobytes()
    return {
        "nothing": {},
        "no keys": {"entries": good["entries"]},
        "half an entry": {**good, "entries": good["entries"][:-1]},
        "one key": {**good, "keys": good["keys"][: DIM * 4]},
        "half a vector": {**good, "vectors": b"12"},
        "not ascending": {**good, "entries": swapped},
        "id 0": {**good, "entries": entries([0, 1]).tobytes()},
        "an id never given": {**good, "entries": entries([1, 100]).tobytes()},
        "unknown kind": {**good, "entries": _of_kind(77)},
        "vectors missing": {**good, "entries": _of_kind(2)},
        "not finite": {**good, "keys": np.full(2 * DIM, np.nan, np.float32).tobytes()},
        "another width": {**good, "keys": bytes(2 * (DIM + 1) * 4)},
    }


@pytest.mark.parametrize("name", list(_spoilt()))
def test_a_table_that_does_not_fit_is_ignored_and_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = ShortTermMemory(DIM)
    memory.load(_spoilt()[name], 100)
    assert not len(memory)
    assert ("short-term memory is ignored" in caplog.text) == (name != "nothing")


def test_a_renamed_neighbour_is_the_one_that_stands_for_it() -> None:
    memory = window([6, 7, 8])
    memory.link(np.array([[3, 6], [6, 7], [7, 3], [9, 8]], np.uint64))
    memory.rename(ids(9, 3), ids(2, 4))
    ends = memory.entries[["previous", "next"]].tolist()
    assert ends == [(4, 7), (6, 4), (2, 0)]
    memory.rename(ids(), ids())
    assert memory.entries[["previous", "next"]].tolist() == ends
