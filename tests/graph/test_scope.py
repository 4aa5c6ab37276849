"""The common slots of graph and short-term window, against plain lists."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.types import Ids, ValueKind, WriteBatch
from tests.graph.build import DIM, concepts, engine, entries, unit, view, window
from tests.storage import build
from tests.storage.build import ids


def _scope(graph: list[int], provisional: list[int], own: int = 0) -> Scope:
    """Return a scope in which odd ids come from the origin ``own``."""
    made = engine([])
    if graph:
        put = concepts(graph)
        put.stats["origin"] = np.array(graph) % 2 * own
        made.commit(WriteBatch(concepts=put))
    memory = ShortTermMemory(DIM, 64)
    new = entries(provisional)
    new["origin"] = np.array(provisional, np.int64) % 2 * own
    memory.append(new, unit(provisional), None)
    return Scope(made.view(), memory)


_split = st.sets(st.integers(1, 60), max_size=40).map(sorted)


@settings(max_examples=60)
@given(held=_split, cut=st.integers(0, 40), k=st.integers(1, 50), excluding=st.booleans())
def test_a_search_finds_the_nearest_of_both_but_for_its_own_origin(
    held: list[int], cut: int, k: int, excluding: bool
) -> None:
    scope = _scope(held[:cut], held[cut:], own=7)
    queries = unit(range(100, 104))
    origins = np.array([7, 0, 8, 7], np.uint64) if excluding else None
    slots, cosines = scope.search(queries, k, origins)
    assert slots.shape == cosines.shape == (4, k)
    for row, query in enumerate(queries):
        open_to = held
        if origins is not None and origins[row] == 7:
            open_to = [number for number in held if number % 2 == 0]
        similar = unit(open_to) @ query
        wanted = [open_to[place] for place in np.argsort(-similar)[:k]]
        assert scope.ids(slots[row]).tolist() == wanted + [0] * (k - len(wanted))
        np.testing.assert_allclose(
            cosines[row, : len(wanted)], np.sort(-similar)[:k] * -1, atol=1e-6
        )
        assert not cosines[row, len(wanted) :].any()


def test_however_many_of_its_own_stand_near_a_query_finds_others() -> None:
    memory = ShortTermMemory(DIM, 256)
    new = entries(range(1, 202))
    new["origin"] = 7
    new["origin"][100] = 8
    keys = np.tile(unit([1]), (201, 1))
    keys[100] = unit([2])
    memory.append(new, keys, None)
    scope = Scope(view(), memory)
    slots, _ = scope.search(unit([1, 1]), 3, np.array([7, 9], np.uint64))
    assert scope.ids(slots[0]).tolist() == [101, 0, 0]
    assert (slots[1] >= 0).all()


def test_removed_provisional_concepts_hide_none_that_point_away() -> None:
    memory = window(range(1, 41))
    memory.remove(ids(*range(1, 36)))
    away = -unit([38])
    slots, cosines = Scope(view(), memory).search(away, 5, None)
    assert sorted(Scope(view(), memory).ids(slots[0]).tolist()) == [36, 37, 38, 39, 40]
    assert cosines[0, 4] == pytest.approx(-1)


def test_columns_come_from_where_the_slot_is() -> None:
    scope = _scope([12, 25], [31, 48], own=7)
    slots = np.array([[0, 3], [-1, 1], [2, -1]])
    wanted = np.array([[12, 48], [0, 25], [31, 0]], np.uint64)
    assert scope.ids(slots).tolist() == wanted.tolist()
    assert scope.origins(slots).tolist() == (wanted % 2 * 7).tolist()
    assert scope.value_ids(slots).tolist() == (wanted // 10).tolist()
    assert scope.value_kinds(slots).tolist() == [[1, 1], [0, 1], [1, 0]]
    assert scope.ages(slots, 5).tolist() == [[5, 5], [0, 5], [5, 0]]
    assert scope.is_provisional(slots).tolist() == [[False, True], [False, False], [True, False]]
    keys = np.where((wanted > 0)[..., None], unit(wanted.ravel().tolist()).reshape(3, 2, DIM), 0)
    np.testing.assert_allclose(scope.keys(slots), keys, atol=1e-6)
    lengths = np.where(scope.is_provisional(slots), 2, 1)[..., None]
    np.testing.assert_allclose(scope.vectors(slots), keys * lengths, atol=1e-6)


def _asked(scope: Scope, wanted: Ids) -> list[int]:
    found: list[int] = scope.find(wanted).tolist()
    return found


def test_an_id_is_found_in_the_graph_first() -> None:
    scope = _scope([12, 25], [25, 48])
    assert _asked(scope, ids(12, 25, 48, 7, 0)) == [0, 1, 3, -1, -1]
    assert _asked(_scope([], []), ids(1)) == [-1]


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("in_window", [False, True])
def test_a_concept_stands_for_its_vector_value_where_it_has_one(
    in_graph: bool, in_window: bool
) -> None:
    made, memory = engine([]), ShortTermMemory(DIM)
    put = build.concepts([1, 2, 3], values="vector" if in_graph else "integer")
    made.commit(WriteBatch(concepts=put))
    new = entries([8, 9])
    new["value_kind"] = ValueKind.VECTOR if in_window else ValueKind.INTEGER
    memory.append(new, unit([8, 9]), unit([18, 19]) if in_window else None)
    vectors = Scope(made.view(), memory).vectors(np.array([1, 4, -1]))
    graph = put.keys[1] if put.value_vectors is None else put.value_vectors[1]
    wanted = [graph, unit([19])[0] if in_window else 2 * unit([9])[0], np.zeros(DIM)]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_nothing_is_found_where_nothing_is() -> None:
    scope = _scope([], [])
    assert scope.empty
    assert not _scope([1], []).empty
    assert not _scope([], [1]).empty
    for origins in (None, np.array([7, 0], np.uint64)):
        slots, cosines = scope.search(unit([1, 2]), 3, origins)
        assert slots.tolist() == [[-1] * 3] * 2
        assert not cosines.any()
    assert scope.keys(slots).shape == (2, 3, DIM)
    assert not scope.vectors(slots).any()
    assert scope.search(unit([]), 3, None)[0].shape == (0, 3)
