"""Seeds, followed successors and spreading, against plain loops over one query at a time."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from aesg.graph.activation import (
    ALL_KINDS,
    WITHIN,
    Before,
    Recall,
    recall,
    recall_sequences,
)
from aesg.graph.scope import Scope
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.adjacency import Slots
from storage_backends.spreading import Spread
from storage_backends.types import EdgeKind, Floats, Ids, WriteBatch
from tests.graph.build import DIM, concepts, engine, entries, unit
from tests.graph.worlds import Seeds, World, edge_records, random_world

STILL = Spread(hops=0, decay=0.5, kinds=WITHIN)


def assert_row(world: World, scope: Scope, got: Recall, row: int, wanted: Seeds) -> None:
    k = got.slots.shape[1]
    padding = [0] * (k - len(wanted))
    assert world.named(scope.ids(got.slots[row])) == [each for each, _ in wanted] + padding
    activations = [value for _, value in wanted] + [np.float32(0)] * (k - len(wanted))
    np.testing.assert_allclose(got.activations[row], activations, atol=1e-6)


_seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=100)
@given(seed=_seeds, k=st.integers(1, 6), excluding=st.booleans())
def test_each_position_follows_what_was_right_or_searches(
    seed: int, k: int, excluding: bool
) -> None:
    dice = np.random.default_rng(seed)
    world, batch, time = random_world(dice), 3, 5
    scope = world.scope()
    queries = unit(range(1000, 1000 + batch * time)).reshape(batch, time, DIM)
    outcomes = dice.integers(0, 3, (batch, time))
    known = dice.random((batch, time)) < 0.9
    origins = np.array([1, 0, 2], np.uint64) if excluding else None
    got = recall_sequences(scope, queries, outcomes, known, k, STILL, origins)
    assert (got.paths == -1).all()
    np.testing.assert_array_equal(got.seeds, got.slots)
    np.testing.assert_array_equal(got.begun, got.activations)
    for row in range(batch):
        pairs = zip(outcomes[row].tolist(), known[row], strict=True)
        came = [each if sure else None for each, sure in pairs]
        own = 0 if origins is None else int(origins[row])
        for t, (wanted, followed) in enumerate(world.read(queries[row], came, k, own)):
            assert_row(world, scope, got, row * time + t, wanted)
            assert got.followed[row * time + t] == followed


@settings(max_examples=50)
@given(seed=_seeds, k=st.integers(1, 6))
def test_independent_queries_find_the_nearest(seed: int, k: int) -> None:
    world = random_world(np.random.default_rng(seed))
    scope, queries = world.scope(), unit([1000, 1001, 1002])
    origins = np.array([1, 0, 2], np.uint64)
    for own in (None, origins):
        got = recall(scope, queries, k, STILL, own)
        assert not got.followed.any()
        for row, query in enumerate(queries):
            wanted = world.searched(query, k, 0 if own is None else own[row])
            assert_row(world, scope, got, row, wanted)


@settings(max_examples=50)
@given(seed=_seeds, t=st.integers(0, 4))
def test_a_position_knows_nothing_of_its_own_outcome_and_later_ones(seed: int, t: int) -> None:
    dice = np.random.default_rng(seed)
    scope = random_world(dice).scope()
    queries = unit(range(1000, 1010)).reshape(2, 5, DIM)
    outcomes, known = dice.integers(0, 3, (2, 5)), np.ones((2, 5), np.bool_)
    changed, unsure = outcomes.copy(), known.copy()
    changed[:, t:] = (outcomes[:, t:] + 1) % 3
    unsure[:, t:] = dice.random((2, 5 - t)) < 0.5
    spreading = Spread(hops=2, decay=0.5, kinds=WITHIN)
    one = recall_sequences(scope, queries, outcomes, known, 4, spreading)
    other = recall_sequences(scope, queries, changed, unsure, 4, spreading)
    for name in ("slots", "activations", "paths", "seeds", "begun", "followed"):
        a, b = getattr(one, name), getattr(other, name)
        shape = (2, 5, *a.shape[1:])
        np.testing.assert_array_equal(a.reshape(shape)[:, : t + 1], b.reshape(shape)[:, : t + 1])


@settings(max_examples=50)
@given(_seeds)
def test_a_sequence_reads_the_same_alone_and_in_a_batch(seed: int) -> None:
    dice = np.random.default_rng(seed)
    scope = random_world(dice).scope()
    queries = unit(range(1000, 1015)).reshape(3, 5, DIM)
    outcomes, known = dice.integers(0, 3, (3, 5)), dice.random((3, 5)) < 0.9
    origins = np.array([1, 0, 2], np.uint64)
    spreading = Spread(hops=2, decay=0.5, kinds=WITHIN)
    together = recall_sequences(scope, queries, outcomes, known, 4, spreading, origins)
    for row in range(3):
        one = slice(row, row + 1)
        alone = recall_sequences(
            scope, queries[one], outcomes[one], known[one], 4, spreading, origins[one]
        )
        part = slice(row * 5, row * 5 + 5)
        np.testing.assert_array_equal(alone.slots, together.slots[part])
        np.testing.assert_array_equal(alone.followed, together.followed[part])
        np.testing.assert_allclose(alone.activations, together.activations[part], atol=1e-6)


@settings(max_examples=50)
@given(seed=_seeds, k=st.integers(1, 6))
def test_position_by_position_gives_what_all_at_once_do(seed: int, k: int) -> None:
    dice = np.random.default_rng(seed)
    scope, time = random_world(dice).scope(), 5
    queries = unit(range(1000, 1000 + 3 * time)).reshape(3, time, DIM)
    outcomes, known = dice.integers(0, 3, (3, time)), dice.random((3, time)) < 0.9
    origins = np.array([1, 0, 2], np.uint64)
    spreading = Spread(hops=2, decay=0.5, kinds=WITHIN)
    whole = recall_sequences(scope, queries, outcomes, known, k, spreading, origins)
    before = None
    for t in range(time):
        at = slice(t, t + 1)
        step = recall_sequences(
            scope, queries[:, at], outcomes[:, at], known[:, at], k, spreading, origins, before
        )
        for name in ("slots", "activations", "paths", "seeds", "begun", "followed"):
            np.testing.assert_array_equal(getattr(step, name), getattr(whole, name)[t::time])
        before = Before(step.seeds, step.begun, outcomes[:, t], known[:, t])


def read_line(world: World, start: int, outcomes: list[int]) -> tuple[list[int], list[bool]]:
    """Return the one id found at each position of a sequence whose queries are a concept's key."""
    scope, time = world.scope(), len(outcomes)
    queries = np.tile(unit([start]), (time, 1)).reshape(1, time, DIM)
    known = np.ones((1, time), np.bool_)
    got = recall_sequences(scope, queries, np.array([outcomes]), known, 1, STILL)
    return scope.ids(got.slots[:, 0]).tolist(), got.followed.tolist()


def test_successor_edges_of_the_graph_are_followed_while_they_are_right() -> None:
    world = World([3, 4], edges={3: [(4, 1.0, int(EdgeKind.SUCCESSOR))]})
    # 4 leads nowhere, so that 3 is searched again.
    assert read_line(world, 3, [0, 1, 0, 0]) == ([3, 4, 3, 4], [False, True, False, True])


def test_chains_of_provisional_concepts_are_followed_while_they_are_right() -> None:
    world = World([4, 55, 56], next={55: 56, 56: 99})
    # The successor of 56 is gone, so that 55 is searched again.
    assert read_line(world, 55, [1, 2, 1, 0]) == ([55, 56, 55, 56], [False, True, False, True])


def test_a_born_successor_of_a_provisional_concept_is_followed() -> None:
    assert read_line(World([4, 55], next={55: 4}), 55, [1, 1]) == ([55, 4], [False, True])


def test_a_concept_that_was_wrong_leads_nowhere() -> None:
    world = World([3, 4], edges={3: [(4, 1.0, int(EdgeKind.SUCCESSOR))]})
    assert read_line(world, 3, [1, 2, 0]) == ([3] * 3, [False] * 3)


def test_a_concept_without_an_integer_value_is_never_right() -> None:
    world = World([3, 4], edges={3: [(4, 1.0, int(EdgeKind.SUCCESSOR))]}, plain={3})
    assert read_line(world, 3, [0, 0]) == ([3, 3], [False, False])


def test_the_search_is_skipped_where_successors_were_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    search = Scope.search

    def counted(self: Scope, queries: Floats, k: int, origins: Ids | None) -> tuple[Slots, Floats]:
        asked.append(len(queries))
        return search(self, queries, k, origins)

    monkeypatch.setattr(Scope, "search", counted)
    follow = int(EdgeKind.SUCCESSOR)
    scope = World([3, 6], edges={3: [(6, 1.0, follow)], 6: [(3, 1.0, follow)]}).scope()
    queries = np.tile(unit([3]), (8, 1)).reshape(2, 4, DIM)
    outcomes = np.array([[0, 0, 0, 0], [0, 1, 0, 0]])
    got = recall_sequences(scope, queries, outcomes, np.ones((2, 4), np.bool_), 1, STILL)
    assert got.followed.reshape(2, 4).tolist() == [
        [False, True, True, True],
        [False, True, False, True],
    ]
    assert asked == [2, 1]


@pytest.mark.parametrize("kind", [EdgeKind.COACTIVATION, EdgeKind.VALUE, EdgeKind.SUCCESSOR])
def test_successor_edges_widen_no_position_of_a_sequence(kind: EdgeKind) -> None:
    world = World([3, 4, 7], edges={3: [(4, 0.5, int(kind)), (7, 0.25, int(EdgeKind.VALUE))]})
    scope = world.scope()
    apart = Spread(hops=1, decay=1.0, floor=1e-6)
    got = recall_sequences(
        scope,
        unit([3]).reshape(1, 1, DIM),
        np.array([[0]]),
        np.array([[True]]),
        3,
        apart.along(WITHIN),
    )
    heard = dict(zip(scope.ids(got.slots[0]).tolist(), got.activations[0].tolist(), strict=True))
    alone = dict(_row(scope, recall(scope, unit([3]), 3, STILL)))
    gained = heard[4] - alone[4]
    assert gained == pytest.approx(0.0 if kind is EdgeKind.SUCCESSOR else 0.5, abs=1e-6)
    assert heard[7] - alone[7] == pytest.approx(0.25, abs=1e-6)


def _row(scope: Scope, got: Recall, row: int = 0) -> list[tuple[int, float]]:
    ids: NDArray[np.uint64] = scope.ids(got.slots[row])
    return list(zip(ids.tolist(), got.activations[row].tolist(), strict=True))


def test_independent_queries_spread_along_every_kind_of_edge() -> None:
    for kind in (EdgeKind.COACTIVATION, EdgeKind.VALUE, EdgeKind.SUCCESSOR):
        scope = World([3, 4], edges={3: [(4, 0.5, int(kind))]}).scope()
        spreading = Spread(hops=1, decay=1.0, kinds=ALL_KINDS)
        still, spreads = (
            dict(_row(scope, recall(scope, unit([3]), 2, each))) for each in (STILL, spreading)
        )
        assert spreads[4] - still[4] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("excluding", [False, True])
def test_of_equally_active_concepts_that_of_the_lowest_id_comes_first(excluding: bool) -> None:
    made, window = engine([]), ShortTermMemory(DIM, 64)
    row = edge_records([(30, 0.5, int(EdgeKind.VALUE))])
    put, key = concepts([25, 30]), np.eye(1, DIM, dtype=np.float32)
    put.keys[0] = key
    made.commit(WriteBatch(concepts=put, edges={25: row}))
    window.append(entries([12, 40]), np.repeat(key, 2, axis=0), None)
    scope, spreading = Scope(made.view(), window), Spread(hops=1, decay=0.1, kinds=ALL_KINDS)
    origins = np.array([9], np.uint64) if excluding else None
    got = recall(scope, key, 4, spreading, origins)
    assert got.activations[0, 0] == got.activations[0, 2]
    assert scope.ids(got.slots[0]).tolist() == [12, 25, 40, 30]


def test_spreading_leaves_out_concepts_of_the_own_origin() -> None:
    row = [(4, 1.0, int(EdgeKind.VALUE))]
    world = World([3, 4, 55], edges={3: row}, origins={4: 8})
    scope, spreading = world.scope(), Spread(hops=1, decay=0.5, kinds=ALL_KINDS)
    for origin, seen in ((8, {3, 55}), (9, {3, 4, 55})):
        own = np.array([origin], np.uint64)
        got = recall(scope, unit([3]), 3, spreading, own)
        assert {each for each, _ in _row(scope, got) if each} == seen


def _hiding() -> tuple[World, int, int]:
    """Return a world in which 3 leads to 4, of origin 8, and 4 to a third; the second and third.

    The second is more like 3, so that of two seeds the third is none.
    """
    second, third = sorted([6, 7], key=lambda each: -float(unit([each])[0] @ unit([3])[0]))
    along = int(EdgeKind.VALUE)
    edges = {3: [(4, 1.0, along)], 4: [(third, 1.0, along)]}
    return World([3, 4, 6, 7], edges=edges, origins={4: 8}), second, third


def test_what_only_an_own_concept_leads_to_is_left_out() -> None:
    world, second, third = _hiding()
    scope, loud = world.scope(), Spread(hops=2, decay=2.0, kinds=ALL_KINDS)
    for origin, seen in ((8, {3, second}), (9, {4, third})):
        got = recall(scope, unit([3]), 2, loud, np.array([origin], np.uint64))
        assert set(scope.ids(got.slots[0]).tolist()) == seen
        assert (4 in scope.ids(got.paths)) == (origin == 9)


@pytest.mark.parametrize("held", [4, 54], ids=["graph", "provisional"])
def test_an_own_concept_leads_a_sequence_nowhere(held: int) -> None:
    follow = int(EdgeKind.SUCCESSOR)
    world = World([4, 6, 54], {4: [(6, 1.0, follow)]}, next={54: 6}, origins={4: 8, 54: 8})
    scope = world.scope()
    before = Before(
        seeds=scope.find(np.array([[held]], np.uint64)),
        begun=np.ones((1, 1), np.float32),
        outcomes=np.array([held % 3]),
        known=np.array([True]),
    )
    for origin in (8, 9):
        got = recall_sequences(
            scope,
            unit([1000]).reshape(1, 1, DIM),
            np.array([[0]]),
            np.array([[False]]),
            3,
            STILL,
            np.array([origin], np.uint64),
            before,
        )
        assert got.followed.tolist() == [origin == 9]


def test_paths_lead_back_to_a_seed_also_through_what_did_not_stay() -> None:
    along = int(EdgeKind.VALUE)
    world = World([3, 4, 6], edges={3: [(4, 1.0, along)], 4: [(6, 1.0, along)]})
    scope = world.scope()
    loud = Spread(hops=2, decay=2.0, kinds=ALL_KINDS)  # so that 6 drowns 4, and 4 the only seed
    got = recall(scope, unit([3]), 1, loud)
    assert scope.ids(got.slots).tolist() == [[6]]
    assert scope.ids(got.seeds).tolist() == [[3]]
    assert scope.ids(got.paths).tolist() == [[[4, 3]]]


def test_a_seed_keeps_no_path_whatever_else_reached_it() -> None:
    scope = World([3, 4], edges={3: [(4, 1.0, int(EdgeKind.VALUE))]}).scope()
    got = recall(scope, unit([3]), 2, Spread(hops=1, decay=1.0, kinds=ALL_KINDS))
    assert sorted(scope.ids(got.slots)[0].tolist()) == [3, 4]
    assert (got.paths == -1).all()  # both are seeds


def legal_path(world: World, path: list[int], kinds: int) -> bool:
    """Tell whether each step of a path, from its seed on, is an edge of the kinds."""
    steps = pairwise(path)
    return all(
        any(target == end and kind & kinds for target, _, kind in world.edges.get(begin, []))
        for begin, end in steps
    )


@settings(max_examples=100)
@given(seed=_seeds, k=st.integers(1, 6), hops=st.integers(1, 3), excluding=st.booleans())
def test_every_step_of_a_path_is_an_edge_and_its_first_is_a_seed(
    seed: int, k: int, hops: int, excluding: bool
) -> None:
    dice = np.random.default_rng(seed)
    world = random_world(dice)
    scope = world.scope()
    queries = unit([1000, 1001, 1002])
    own = np.array([1, 0, 2], np.uint64) if excluding else None
    for kinds in (ALL_KINDS, WITHIN):
        spreading = Spread(hops=hops, decay=1.0, floor=1e-6, kinds=kinds)
        got = recall(scope, queries, k, spreading, own)
        assert got.paths.shape == (3, k, hops)
        seeds, ids, paths = (
            np.reshape(world.named(scope.ids(each)), each.shape)
            for each in (got.seeds, got.slots, got.paths)
        )
        for row, place in zip(*np.nonzero(ids), strict=True):
            way = [each for each in paths[row, place].tolist() if each]
            assert paths[row, place].tolist() == way + [0] * (hops - len(way))
            path = [*reversed(way), int(ids[row, place])]
            assert path[0] in seeds[row]
            assert (len(path) == 1) == (path[-1] in seeds[row])
            assert legal_path(world, path, kinds)
            assert not any(world.hidden(each, 0 if own is None else int(own[row])) for each in path)


def test_an_old_successor_edge_leads_less_far_than_a_fresh_one() -> None:
    """Of two concepts that were right, the one whose edges are fresh is followed first."""
    follow = int(EdgeKind.SUCCESSOR)
    made = engine([])
    put = concepts([3, 4, 6, 7])
    put.value_ids[:] = 0
    put.stats["edge_epoch"] = [0, 0, 10, 0]
    rows = {3: edge_records([(4, 0.5, follow)]), 6: edge_records([(7, 0.5, follow)])}
    made.commit(WriteBatch(concepts=put, edges=rows))
    scope = Scope(made.view(), ShortTermMemory(DIM, 64))
    between = unit([3]) + unit([6])
    queries = np.repeat(between / np.linalg.norm(between), 2, axis=0).reshape(1, 2, DIM)
    heard = {}
    for weakening in (1.0, 0.9):
        faded = Spread(hops=0, decay=1.0, kinds=WITHIN, weakening=weakening, epoch=10)
        known = np.ones((1, 2), np.bool_)
        got = recall_sequences(scope, queries, np.zeros((1, 2), np.int64), known, 4, faded)
        assert got.followed.tolist() == [False, True]
        heard[weakening] = dict(_row(scope, got, 1))
    assert set(heard[0.9]) - {0} == {4, 7}
    assert heard[0.9][7] == heard[1.0][7]
    assert heard[0.9][4] == pytest.approx(heard[1.0][4] * 0.9**10, rel=1e-5)
