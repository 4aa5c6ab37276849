"""Duplicates become one concept, and what led to either leads to that one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aesg.graph.clock import Clock
from aesg.graph.consolidation import RELEVANCE_DECAY
from aesg.graph.edges import EDGE_DECAY
from aesg.graph.merging import Pairs, duplicates, merge
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EdgeKind, EventType, Floats, ValueKind, WriteBatch
from storage_backends.view import View
from tests.graph.evolving import (
    directions,
    events,
    everywhere,
    grown,
    links,
    reached,
    row,
    with_tombstone,
)
from tests.storage.build import ids

SIMILAR = 0.95
MOST = 100


def found(view: View, similarity: float = SIMILAR) -> list[tuple[int, int]]:
    """Return all duplicates of a view as ids."""
    pairs = duplicates(view, everywhere(view), similarity)
    left, right = view.ids[pairs.left].tolist(), view.ids[pairs.right].tolist()
    return sorted(zip(left, right, strict=True))


def merged(
    engine: Engine, clock: Clock | None = None, most: int = MOST, density: int = MOST
) -> WriteBatch | None:
    """Merge all duplicates and commit."""
    view = engine.view()
    pairs = duplicates(view, everywhere(view), SIMILAR)
    held = np.unique(np.concatenate([pairs.left, pairs.right]))
    payloads = engine.store.payloads(view.ids[held])
    known = dict(zip(view.ids[held].tolist(), payloads, strict=True))
    batch = merge(view, pairs, known, clock or Clock(), most, density)
    if batch is not None:
        engine.commit(batch)
    return batch


def test_concepts_are_duplicates_where_keys_coincide_and_integers_are_equal() -> None:
    keys = directions(0, 5, 90, 93, 180)
    assert found(grown(keys, values=[1, 1, 1, 2, 1]).view()) == [(1, 2)]
    assert found(grown(keys).view()) == [(1, 2), (3, 4)]
    assert found(grown(keys).view(), similarity=0.9999) == []


def test_a_concept_without_a_value_is_no_duplicate_of_one_with_the_value_nought() -> None:
    view = grown(directions(0, 5), values=[0, 0]).view()
    assert found(view) == [(1, 2)]
    kinds = view.value_kinds.replaced(np.array([1]), np.array([ValueKind.KEY], np.uint8))
    assert found(replace(view, value_kinds=kinds)) == []


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ([9, 0], [9, 1], True),
        ([9, 0], [9.4, 0], True),
        ([9, 0], [9.6, 0], False),
        ([9, 0], [9000, 0], False),
        ([3, 0], [0, 3], False),
        ([3, 0], [0, 0], False),
        ([0, 0], [0, 0], True),
    ],
)
def test_vector_values_are_alike_by_their_direction_and_length(
    first: list[float], second: list[float], alike: bool
) -> None:
    view = grown(directions(0, 5), vectors=np.array([first, second], np.float32)).view()
    assert found(view) == ([(1, 2)] if alike else [])


@pytest.mark.parametrize("values", [None, [7, 7]])
def test_keys_are_as_long_only_where_they_are_the_values(values: list[int] | None) -> None:
    keys = directions(0, 1) * np.array([[1], [3]], np.float32)
    assert found(grown(keys, values=values).view()) == ([] if values is None else [(1, 2)])


@pytest.mark.parametrize(
    ("origins", "origin"), [([5, 5], 5), ([5, 6], 0), ([5, 0], 0), ([0, 5], 0), ([0, 0], 0)]
)
def test_what_two_samples_said_is_nobodys_own(origins: list[int], origin: int) -> None:
    engine = grown(directions(0, 1), origin=origins)
    merged(engine)
    assert engine.view().stats[engine.view().slots(ids(1))]["origin"].tolist() == [origin]


def test_keys_without_a_direction_are_never_duplicates() -> None:
    assert found(grown(np.zeros((3, 2), np.float32)).view(), similarity=0.0) == []


def test_tombstones_are_no_candidates() -> None:
    engine = grown(directions(0, 1, 90, 91))
    assert found(with_tombstone(engine, 1)) == [(3, 4)]


def test_an_empty_memory_has_no_duplicates() -> None:
    view = grown(np.empty((0, 2), np.float32)).view()
    assert len(duplicates(view, everywhere(view), SIMILAR)) == 0


def test_only_candidates_are_looked_at() -> None:
    view = grown(directions(0, 1, 90, 91)).view()
    pairs = duplicates(view, np.array([3]), SIMILAR)
    assert (view.ids[pairs.left].tolist(), view.ids[pairs.right].tolist()) == ([3], [4])
    np.testing.assert_allclose(pairs.cosines, np.cos(np.radians(1)), rtol=1e-6)


def test_the_more_used_stays_then_the_older() -> None:
    view = grown(directions(0, 1, 90, 91), frequency=[1, 5, 2, 2]).view()
    assert found(view) == [(2, 1), (3, 4)]


def test_all_of_a_group_are_alike_to_the_one_that_stays() -> None:
    """Single links would chain 1 to 6: twenty degrees, a cosine of 0.94."""
    view = grown(directions(0, 5, 10, 12, 15, 20), frequency=[1, 2, 9, 1, 1, 1]).view()
    similarity = float(np.cos(np.radians(8)))
    assert found(view, similarity) == [(3, 2), (3, 4), (3, 5)]


@pytest.mark.parametrize(("source", "target"), [(1, 2), (2, 1)])
def test_a_concept_and_the_one_abstracted_from_it_are_no_duplicates(
    source: int, target: int
) -> None:
    engine = grown(directions(0, 1, 2), frequency=[3, 2, 1])
    engine.commit(WriteBatch(edges={source: row((target, 0.3), kind=EdgeKind.ABSTRACTION)}))
    assert found(engine.view()) == [(1, 3)]
    engine.commit(WriteBatch(edges={source: row((target, 0.3))}))
    assert found(engine.view()) == [(1, 2), (1, 3)]


def test_the_key_is_the_mean_of_directions_by_use_with_the_mean_length() -> None:
    keys = directions(0, 8) * np.array([[1], [5]], np.float32)
    engine = grown(keys, values=[1, 1], frequency=[3, 1])
    merged(engine)
    view = engine.view()
    key = view.raw_keys(view.slots(ids(1)))[0]
    wanted = 0.75 * directions(0)[0] + 0.25 * directions(8)[0]
    np.testing.assert_allclose(key, 2 * wanted / np.linalg.norm(wanted), rtol=1e-5)


def test_a_vector_value_is_the_mean_by_use() -> None:
    vectors = np.array([[8, 0], [8.4, 0.4]], np.float32)
    engine = grown(directions(0, 1), vectors=vectors, frequency=[3, 1])
    merged(engine)
    view = engine.view()
    assert view.value_vectors is not None
    np.testing.assert_allclose(view.value_vectors[view.slots(ids(1))], [[8.1, 0.1]], rtol=1e-6)


def test_unused_concepts_count_as_used_once() -> None:
    engine = grown(directions(0, 8))
    merged(engine)
    np.testing.assert_allclose(engine.view().keys[np.array([0])], directions(4), atol=1e-6)


def test_statistics_are_joined() -> None:
    engine = grown(
        directions(0, 1),
        frequency=[7, 2**32 - 2],
        relevance=[0.9, 0.5],
        created=[20, 10],
        epoch=[4, 6],
        tick=[9, 8],
        origin=[11, 11],
        region=[3, 4],
        stability=[0.25, 0.5],
    )
    merged(engine, Clock(epoch=9))
    view = engine.view()
    after = view.stats[view.slots(ids(2))][0]
    assert after["frequency"] == 2**32 - 1
    assert (after["created"], after["epoch"], after["tick"]) == (10, 6, 9)
    assert (after["origin"], after["region"], after["stability"]) == (11, 4, 0.5)
    assert after["relevance"] == pytest.approx(0.9 * RELEVANCE_DECAY**2)  # as of epoch 6
    assert after["modified"] > 10**15


def test_edges_from_and_to_both_are_edges_of_the_one_that_stays() -> None:
    engine = grown(
        directions(0, 1, 90, 135, 180),
        [(1, 3, 0.5), (2, 3, 0.6), (2, 4, 0.4), (4, 1, 0.3), (4, 2, 0.2), (5, 2, 0.7)],
    )
    merged(engine)
    after = links(engine.view())
    assert after == {
        (1, 3): pytest.approx(1 - 0.5 * 0.4),
        (1, 4): pytest.approx(0.4),
        (4, 1): pytest.approx(1 - 0.7 * 0.8),
        (5, 1): pytest.approx(0.7),
    }


def test_an_edge_of_two_keeps_all_its_uses_and_reasons() -> None:
    engine = grown(directions(0, 1, 90))
    first = row((3, 0.5))
    second = row((3, 0.5), kind=EdgeKind.SUCCESSOR)
    first["weight"], second["weight"] = 0.5, 0.75
    first["use"], second["use"] = 4, 2**32 - 2
    engine.commit(WriteBatch(edges={1: first, 2: second}))
    merged(engine)
    (edge,) = engine.view().edges(1)
    assert edge["kind"] == EdgeKind.COACTIVATION | EdgeKind.SUCCESSOR
    assert (edge["weight"], edge["use"]) == (0.75, 2**32 - 1)


def test_a_concept_gets_no_edge_to_itself() -> None:
    engine = grown(directions(0, 1, 90), [(1, 2, 0.5), (2, 1, 0.5)])
    merged(engine)
    assert engine.view().edge_count == 0
    assert engine.verify() == []


def test_edges_are_weakened_to_the_present_before_they_are_joined() -> None:
    engine = grown(directions(0, 1, 90), [(1, 3, 0.5), (2, 3, 0.5)], edge_epoch=[10, 4, 0])
    merged(engine, Clock(epoch=12))
    view = engine.view()
    first, second = 0.5 * EDGE_DECAY**2, 0.5 * EDGE_DECAY**8
    assert links(view) == {(1, 3): pytest.approx(1 - (1 - first) * (1 - second))}
    assert view.stats[view.slots(ids(1))]["edge_epoch"].tolist() == [12]


def test_the_weakest_edges_beyond_the_limit_yield() -> None:
    keys = directions(0, 1, 60, 90, 120, 150)
    engine = grown(keys, [(1, 3, 0.9), (1, 4, 0.1), (2, 5, 0.8), (2, 6, 0.2)])
    merged(engine, most=3)
    assert sorted(links(engine.view())) == [(1, 3), (1, 5), (1, 6)]


@pytest.mark.parametrize(
    ("payloads", "wanted"),
    [({}, None), ({1: b"a"}, b"a"), ({2: b"b"}, b"b"), ({1: b"a", 2: b"a"}, b"a")],
)
def test_a_payload_is_kept(payloads: dict[int, bytes], wanted: bytes | None) -> None:
    engine = grown(directions(0, 1), payloads=payloads)
    merged(engine)
    assert engine.view().node_count == 1
    assert engine.store.payloads(ids(1)) == [wanted]


def test_concepts_with_two_payloads_stay_two() -> None:
    engine = grown(directions(0, 1), payloads={1: b"a", 2: b"b"})
    assert merged(engine) is None


def test_a_group_takes_in_only_what_shares_its_payload() -> None:
    engine = grown(
        directions(0, 1, 2, 3), payloads={2: b"a", 3: b"b", 4: b"a"}, frequency=[9, 1, 1, 1]
    )
    merged(engine)
    view = engine.view()
    assert sorted(view.ids[np.flatnonzero(view.alive.whole())].tolist()) == [1, 3]
    assert engine.store.payloads(ids(1, 3)) == [b"a", b"b"]
    assert engine.store.resolve(ids(1, 2, 3, 4)).tolist() == [1, 1, 3, 1]


def test_an_id_that_is_gone_stands_for_the_concept_that_took_it_over() -> None:
    engine = grown(directions(0, 1), frequency=[1, 2])
    merged(engine)
    assert engine.store.resolve(ids(1, 2)).tolist() == [2, 2]
    assert engine.view().slots(ids(1)).tolist() == [-1]


def test_aliases_of_aliases_are_followed() -> None:
    engine = grown(directions(0, 1, 20), frequency=[1, 2, 50])
    merged(engine)
    assert engine.view().node_count == 2
    view = engine.view()
    pairs = Pairs(view.slots(ids(3)), view.slots(ids(2)), np.ones(1, np.float32))
    batch = merge(view, pairs, {}, Clock(), MOST, MOST)
    assert batch is not None
    engine.commit(batch)
    assert engine.store.resolve(ids(1, 2, 3)).tolist() == [3, 3, 3]


def test_a_merge_is_an_event() -> None:
    engine = grown(directions(0, 1), frequency=[1, 2])
    merged(engine)
    cosine = pytest.approx(np.cos(np.radians(1)), rel=1e-6)
    assert events(engine) == [(EventType.MERGE, 2, 1, cosine)]


def test_concepts_that_would_have_to_be_split_again_stay_two() -> None:
    keys = directions(0, 1, 60, 90, 120, 2)
    edges = [(1, 3, 0.5), (1, 4, 0.5), (2, 4, 0.5), (2, 5, 0.5), (6, 3, 0.5)]
    engine = grown(keys, edges, payloads={2: b"b"})
    merged(engine, density=2)
    assert engine.store.resolve(ids(1, 2, 6)).tolist() == [1, 2, 1]
    assert engine.store.payloads(ids(1, 2)) == [None, b"b"]
    merged(engine, density=3)
    assert engine.store.resolve(ids(1, 2, 6)).tolist() == [1, 1, 1]


def test_nothing_is_written_where_nothing_is_a_duplicate() -> None:
    assert merged(grown(directions(0, 45))) is None


def test_a_merge_survives_in_the_file(tmp_path: Path) -> None:
    store = LMDBStore.open(tmp_path / "memory")
    engine = grown(directions(0, 1, 90), [(3, 2, 0.5)], payloads={2: b"b"}, store=store)
    merged(engine)
    assert engine.verify() == []
    engine.close()
    with LMDBStore.open(tmp_path / "memory", read_only=True) as again:
        assert again.resolve(ids(2)).tolist() == [1]
        assert again.payloads(ids(1)) == [b"b"]
        assert again.load().edges["target"].tolist() == [1]


angles = st.lists(st.integers(0, 71), min_size=2, max_size=8).map(
    lambda many: [5.0 * n for n in many]
)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Floats, list[tuple[int, int, float]], list[int], list[int]]:
    """Draw keys, links, values and frequencies of some concepts."""
    keys = directions(*draw(angles))
    some = st.integers(1, len(keys))
    pairs = draw(st.sets(st.tuples(some, some).filter(lambda p: p[0] != p[1]), max_size=20))
    sure = st.sampled_from([0.25, 0.5, 1.0])
    drawn = [(source, target, draw(sure)) for source, target in sorted(pairs)]
    numbers = st.lists(st.integers(0, 1), min_size=len(keys), max_size=len(keys))
    return keys, drawn, draw(numbers), draw(numbers)


@settings(max_examples=150, deadline=None)
@given(graph=graphs())
def test_whatever_is_merged_nothing_dangles_and_nothing_is_lost(
    graph: tuple[Floats, list[tuple[int, int, float]], list[int], list[int]],
) -> None:
    keys, drawn, values, frequencies = graph
    engine = grown(keys, drawn, values=values, frequency=frequencies)
    before = engine.view()
    everyone = before.ids.whole()
    first = {seed: set(reached(before, seed, 3)) for seed in everyone.tolist()}
    for _ in range(len(keys)):
        if merged(engine) is None:
            break
        assert engine.verify() == []
    view = engine.view()
    assert found(view) == []
    stands = dict(zip(everyone.tolist(), engine.store.resolve(everyone).tolist(), strict=True))
    assert view.node_count == len(set(stands.values()))
    alive = view.stats.whole()[view.alive.whole()]
    assert alive["frequency"].sum() == sum(frequencies)
    for seed, concepts in first.items():
        after = set(reached(view, stands[seed], 3))
        assert {stands[each] for each in concepts} <= after
