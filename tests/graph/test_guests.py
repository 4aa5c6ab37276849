"""Guests in a scope: weighed once, found, spread through and followed as if they were the graph."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph.activation import ALL_KINDS, recall, recall_sequences
from aesg.graph.crowding import Crowding
from aesg.graph.scope import PACK_ID, Guest, Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.spreading import Spread, use
from storage_backends.types import EdgeKind, Floats, ValueKind, WriteBatch
from tests.graph.build import DIM, concepts, engine, entries, unit, view, window
from tests.graph.worlds import FIRST_OF_GUESTS, FIRST_PROVISIONAL, World, first_id, random_world
from tests.storage import reference_spreading as reference
from tests.storage.reference_spreading import Concept, Edge
from tests.storage.spreading_worlds import KERNELS

FIRST = PACK_ID + (7 << 40)

_seeds = st.integers(0, 2**32 - 1)


def _expected(world: World, query: Floats, k: int, how: Spread) -> dict[int, float]:
    """Return what a query activates, by the definition of spreading."""
    seeds = world.searched(query, k, 0)
    parts: dict[int, dict[int, Concept]] = {}
    for each in world.ids:
        row = [Edge(*edge) for edge in world.edges.get(each, [])]
        parts.setdefault(_part(each), {})[each] = Concept(row, world.regions.get(each, 0))
    order = sorted(parts)
    found = reference.spread(
        reference.World([parts[each] for each in order], [1.0] * len(order)),
        [((order.index(_part(each)), each), float(begun)) for each, begun in seeds],
        how,
        k,
    )
    return {each.name[1]: float(each.activation) for each in found}


def _part(concept_id: int) -> int:
    return -1 if FIRST_PROVISIONAL <= concept_id < FIRST_OF_GUESTS else concept_id // 100


@settings(max_examples=150)
@given(
    seed=_seeds,
    k=st.integers(1, 8),
    hops=st.integers(0, 3),
    multiplier=st.sampled_from([1.0, 1.3]),
    name=st.sampled_from(KERNELS),
)
def test_seeds_of_guests_begin_with_what_they_weigh_and_spread_as_others_do(
    seed: int, k: int, hops: int, multiplier: float, name: str
) -> None:
    world = random_world(np.random.default_rng(seed))
    scope, queries = world.scope(), unit([1000, 1001, 1002])
    how = Spread(hops, 0.9, floor=1e-6, region_multiplier=multiplier, kinds=ALL_KINDS)
    with use("C" if name == "C" else "numpy"):
        got = recall(scope, queries, k, how)
    for row, query in enumerate(queries):
        wanted = _expected(world, query, k, how)
        ids = [each for each in world.named(scope.ids(got.slots[row])) if each]
        heard = got.activations[row, : len(ids)].tolist()
        assert sorted(ids) == sorted(wanted)
        assert heard == sorted(heard, reverse=True)
        np.testing.assert_allclose(heard, [wanted[each] for each in ids], atol=1e-6)


@settings(max_examples=50)
@given(seed=_seeds, follows=st.booleans())
def test_both_kernels_agree_to_the_bit(seed: int, follows: bool) -> None:
    dice = np.random.default_rng(seed)
    scope = random_world(dice).scope()
    queries = unit(range(1000, 1012))
    how = Spread(hops=2, decay=0.9, floor=1e-6, kinds=ALL_KINDS, region_multiplier=1.3)
    outcomes = dice.integers(0, 3, (3, 4))
    made = []
    for name in KERNELS:
        with use(name):
            if follows:
                shape = queries.reshape(3, 4, DIM)
                known = np.ones((3, 4), np.bool_)
                made.append(recall_sequences(scope, shape, outcomes, known, 5, how))
            else:
                made.append(recall(scope, queries, 5, how))
    for each in made[1:]:
        for column in ("slots", "activations", "paths", "seeds", "begun", "followed"):
            np.testing.assert_array_equal(getattr(each, column), getattr(made[0], column))


def _with(*guests: Guest, graph: tuple[int, ...] = (12,)) -> Scope:
    return Scope(view(*graph), window([31, 48]), guests)


def test_columns_of_a_guest_are_those_of_its_view() -> None:
    made = engine([])
    put = concepts([5, 9], origin=3, tick=4, epoch=6, region=2)
    made.commit(WriteBatch(concepts=put))
    scope = _with(Guest(made.view(), 0.5, FIRST))
    assert scope.firsts == (0, 1, 3)
    assert scope.count == 5
    slots = np.array([0, 1, 2, 3, -1])
    assert scope.ids(slots).tolist() == [12, FIRST, FIRST + 1, 31, 0]
    assert scope.origins(slots).tolist() == [0, 3, 3, 0, 0]
    assert scope.value_ids(slots).tolist() == [1, 0, 0, 3, 0]
    assert scope.is_guest(slots).tolist() == [False, True, True, False, False]
    assert scope.is_provisional(slots).tolist() == [False, False, False, True, False]
    np.testing.assert_allclose(scope.keys(slots)[1:4], unit([5, 9, 31]), atol=1e-6)
    assert scope.stats(slots)["region"].tolist() == [0, 2, 2, 0, 0]


def test_a_guest_grows_no_older() -> None:
    made = engine([])
    made.commit(WriteBatch(concepts=concepts([5], tick=40)))
    scope = _with(Guest(made.view(), 1.0, FIRST))
    for tick in (3, 50):
        assert scope.ages(np.array([0, 1, 2, -1]), tick).tolist() == [tick, 40, tick, 0]


def test_ids_of_guests_are_found_while_they_are_there() -> None:
    one, other = Guest(view(5, 9), 0.5, FIRST), Guest(view(2), 0.5, FIRST + (1 << 40))
    ids = np.array([12, FIRST, FIRST + 1, FIRST + 2, other.first_id, 31, 5, PACK_ID], np.uint64)
    assert _with(one, other).find(ids).tolist() == [0, 1, 2, -1, 3, 4, -1, -1]
    assert _with(other).find(ids).tolist() == [0, -1, -1, -1, 1, 2, -1, -1]
    assert _with().find(ids).tolist() == [0, -1, -1, -1, -1, 1, -1, -1]


def test_the_heavier_of_two_equal_concepts_comes_first_and_a_light_one_last() -> None:
    heavy, light = (Guest(view(5), weight, FIRST + int(100 * weight)) for weight in (0.8, 0.2))
    scope = _with(light, heavy, graph=(5,))
    got = recall(scope, unit([5]), 3, Spread(hops=0, decay=0.5))
    assert scope.ids(got.slots).tolist() == [[5, heavy.first_id, light.first_id]]
    np.testing.assert_allclose(got.activations, [[1, 0.8, 0.2]], rtol=1e-6)
    np.testing.assert_array_equal(got.begun, got.activations)


def test_what_a_guest_weighs_does_not_decide_whether_it_is_found() -> None:
    light = Guest(view(5), 0.001, FIRST)
    scope = _with(light, graph=(12, 13, 14, 15))
    got = recall(scope, unit([5]), 2, Spread(hops=0, decay=0.5))
    assert scope.ids(got.slots)[0, 1] == FIRST  # found first, and the least active
    np.testing.assert_allclose(got.activations[0, 1], 0.001, rtol=1e-6)


def test_an_empty_guest_changes_nothing() -> None:
    made = engine([5])
    made.commit(WriteBatch(deleted=np.array([5], np.uint64)))
    for empty in (view(), made.view().compacted()):
        scope = _with(Guest(empty, 1.0, FIRST))
        assert scope.count == 3
        slots, cosines = scope.search(unit([12]), 4, None)
        plain = _with().search(unit([12]), 4, None)
        np.testing.assert_array_equal(slots, plain[0])
        np.testing.assert_array_equal(cosines, plain[1])


def test_however_many_of_its_own_stand_near_in_a_guest_a_query_finds_others() -> None:
    made = engine([])
    put = concepts(range(1, 202), np.tile(unit([1]), (201, 1)), origin=7)
    put.keys[100], put.stats["origin"][100] = unit([2])[0], 8
    made.commit(WriteBatch(concepts=put))
    scope = Scope(view(), window([]), (Guest(made.view(), 0.5, FIRST),))
    slots, _ = scope.search(unit([1]), 3, np.array([7], np.uint64))
    assert scope.ids(slots).tolist() == [[FIRST + 100, 0, 0]]


def test_vector_values_come_from_guests_too() -> None:
    made = engine([])
    put = replace(
        concepts([5, 6]),
        value_kinds=np.array([ValueKind.VECTOR, ValueKind.KEY], np.uint8),
        value_vectors=unit([105, 106]),
    )
    made.commit(WriteBatch(concepts=put))
    scope = _with(Guest(made.view(), 1.0, FIRST))
    vectors = scope.vectors(np.array([[0, 1], [2, -1]]))
    wanted = [[unit([12])[0], unit([105])[0]], [unit([6])[0], np.zeros(DIM)]]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_counts_of_values_include_guests_whatever_they_weigh() -> None:
    crowding, slots = Crowding(), np.array([0, 1, 2, 3, 4, -1])
    guest = Guest(view(11, 13, 31), 0.1, FIRST)
    assert crowding.counts(_with(guest), slots).tolist() == [3, 3, 3, 2, 2, 1]
    plain = np.array([0, 1, 2, -1])
    assert crowding.counts(_with(), plain).tolist() == [1, 1, 1, 1]
    assert crowding.counts(_with(guest, replace(guest, first_id=FIRST + 9)), slots)[0] == 5


def test_a_guest_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, slots = Guest(view(11, 13), 0.5, FIRST), np.array([1])
    assert Crowding().counts(_with(guest), slots).tolist() == [3]
    made = view(1, 2)
    counted = Mock(wraps=np.unique)
    monkeypatch.setattr(np, "unique", counted)
    again = replace(guest, weight=0.7)  # as after a change of priorities
    Crowding().counts(Scope(made, ShortTermMemory(DIM, 8), (again,)), np.array([2]))
    asked = [len(call.args[0]) for call in counted.call_args_list]
    assert asked == [2, 0]  # the graph and the window


def test_successors_are_followed_inside_a_guest() -> None:
    follow = int(EdgeKind.SUCCESSOR)
    world = World([4, 103, 104], {103: [(104, 0.5, follow)]}, weights={1: 0.5})
    scope = world.scope()
    got = recall_sequences(
        scope,
        np.tile(unit([103]), (2, 1)).reshape(1, 2, DIM),
        np.array([[103 % 3, 0]]),
        np.ones((1, 2), np.bool_),
        1,
        Spread(hops=0, decay=0.5),
    )
    assert scope.ids(got.slots)[:, 0].tolist() == [first_id(1), first_id(1) + 1]
    assert got.followed.tolist() == [False, True]
    np.testing.assert_allclose(got.activations[:, 0], [0.5, 0.25], rtol=1e-6)


def test_provisional_concepts_keep_their_order_behind_guests() -> None:
    memory = ShortTermMemory(DIM, 8)
    memory.append(entries([31, 48]), unit([31, 48]), None)
    scope = Scope(view(12), memory, (Guest(view(5, 9), 0.5, FIRST),))
    slots, _ = scope.search(unit([48]), 1, None)
    assert scope.ids(slots).tolist() == [[48]]
    assert slots.tolist() == [[4]]
