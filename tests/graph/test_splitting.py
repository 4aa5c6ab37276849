"""A concept with two neighbourhoods becomes two concepts; one with a single one does not."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from aesg.graph.clock import Clock
from aesg.graph.edges import EDGE_DECAY
from aesg.graph.splitting import dense, split, two_parts
from storage_backends.engine import Engine
from storage_backends.types import EdgeKind, EventType, Floats, ValueKind
from tests.graph.evolving import (
    Link,
    directions,
    events,
    everywhere,
    grown,
    links,
    reached,
    with_tombstone,
)
from tests.storage.build import ids

#: Concept 1 between 2 to 6 on the one side and 7 to 9 on the other.
KEYS = directions(45, -2, -1, 0, 1, 2, 89, 90, 91)
ONE, LARGER, SMALLER, NEW = 1, range(2, 7), range(7, 10), 10
SIMILAR = 0.95


def star(centre: int, targets: range, *, both: bool = False, confidence: float = 0.5) -> list[Link]:
    """Return edges from a concept to others, and back."""
    links = [(centre, each, confidence) for each in targets]
    return links + [(each, centre, confidence) for each in targets] if both else links


def between(**fields: Any) -> Engine:
    """Return the engine with concept 1 between its two neighbourhoods, linked both ways."""
    around = [*star(ONE, LARGER, both=True), *star(ONE, SMALLER, both=True)]
    return grown(KEYS, around, values=[7] * len(KEYS), payloads={ONE: b"word"}, **fields)


def divided(engine: Engine, density: int = 4, similarity: float = SIMILAR, **clock: int) -> bool:
    """Split all that is dense and commit; tell whether anything was."""
    view = engine.view()
    slots = dense(view, everywhere(view), density)
    wanted = view.ids[slots]
    payloads = dict(zip(wanted.tolist(), engine.store.payloads(wanted), strict=True))
    now = Clock(next_id=view.greatest_id + 1, **clock)
    batch = split(view, slots, payloads, now, density, similarity)
    if batch is not None:
        engine.commit(batch)
    return batch is not None


def around(
    *centres: NDArray[np.floating[Any]], members: int, noise: float, seed: int = 0
) -> Floats:
    """Return unit vectors, so many near each centre."""
    rng = np.random.default_rng(seed)
    width = len(centres[0])
    clouds = [c + noise * rng.normal(size=(members, width)) / width**0.5 for c in centres]
    keys = np.concatenate(clouds)
    unit: Floats = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_dense_are_those_with_more_out_edges_than_that() -> None:
    view = between().view()
    assert view.ids[dense(view, everywhere(view), 8)].tolist() == []
    assert view.ids[dense(view, everywhere(view), 7)].tolist() == [ONE]
    assert view.ids[dense(view, view.slots(ids(2, 3)), 0)].tolist() == [2, 3]


def test_tombstones_are_not_dense() -> None:
    view = with_tombstone(grown(KEYS, star(ONE, LARGER)), ONE)
    assert dense(view, everywhere(view), 0).tolist() == []


def test_the_smaller_part_goes_to_a_new_concept() -> None:
    engine = between()
    assert divided(engine)
    after = set(links(engine.view()))
    assert {target for source, target in after if source == ONE} == {*LARGER, NEW}
    assert {target for source, target in after if source == NEW} == {*SMALLER, ONE}
    assert {source for source, target in after if target == ONE} == {*LARGER, NEW}
    assert {source for source, target in after if target == NEW} == {*SMALLER, ONE}
    assert engine.verify() == []


def test_edges_keep_what_they_are_worth() -> None:
    engine = between(edge_epoch=3)
    assert divided(engine, epoch=5)
    after = links(engine.view())
    assert after[NEW, 7] == pytest.approx(0.5 * EDGE_DECAY**2)
    assert after[ONE, 2] == pytest.approx(0.5 * EDGE_DECAY**2)
    assert after[7, NEW] == pytest.approx(0.5 * EDGE_DECAY**2)
    assert after[2, ONE] == pytest.approx(0.5)  # its row did not change
    assert (after[ONE, NEW], after[NEW, ONE]) == (1.0, 1.0)
    view = engine.view()
    assert view.stats[view.slots(ids(ONE, NEW, 7, 2))]["edge_epoch"].tolist() == [5, 5, 5, 3]


def test_the_concept_stays_what_it_was() -> None:
    engine = between(frequency=8, relevance=0.5, origin=3, region=2)
    before = engine.view()
    assert divided(engine)
    after = engine.view()
    np.testing.assert_array_equal(after.keys[np.array([0])], before.keys[np.array([0])])
    assert after.stats[0]["frequency"] == 8
    assert engine.store.payloads(ids(ONE)) == [b"word"]


def test_the_new_concept_says_the_same() -> None:
    engine = between(frequency=8, relevance=0.5, origin=3, region=2, epoch=4, created=5)
    assert divided(engine)
    view = engine.view()
    slot = int(view.slots(ids(NEW))[0])
    assert (view.value_kinds[slot], view.value_ids[slot]) == (ValueKind.INTEGER, 7)
    assert engine.store.payloads(ids(NEW)) == [b"word"]
    stats = view.stats[slot]
    assert stats[["relevance", "origin", "region", "epoch"]].tolist() == (0.5, 3, 2, 4)
    assert stats["frequency"] == 3  # its share of the uses: three edges of eight
    assert stats["created"] > 10**15


def test_a_vector_value_is_the_same_too() -> None:
    vectors = np.arange(18, dtype=np.float32).reshape(9, 2)
    engine = grown(KEYS, [*star(ONE, LARGER), *star(ONE, SMALLER)], vectors=vectors)
    assert divided(engine)
    view = engine.view()
    assert view.value_vectors is not None
    assert view.value_vectors[view.slots(ids(NEW))].tolist() == [[0, 1]]


def test_a_query_near_the_part_that_went_finds_the_new_concept_and_activates_that_part() -> None:
    engine = between()
    assert divided(engine)
    view = engine.view()
    query = directions(80)
    slots, cosines = view.index.search(query, view.size)
    cosine = dict(zip(view.ids[slots[0]].tolist(), cosines[0].tolist(), strict=True))
    assert cosine[NEW] > cosine[ONE]
    heard = reached(view, NEW, 1)
    assert set(SMALLER) <= set(heard)
    assert all(heard[each] > reached(view, ONE, 1).get(each, 0) for each in SMALLER)


def test_what_the_concept_reached_it_reaches_through_the_new_one() -> None:
    engine = between()
    first = set(reached(engine.view(), ONE, 1))
    assert divided(engine)
    assert first <= set(reached(engine.view(), ONE, 2))


def test_the_key_goes_half_way_to_the_part_and_keeps_its_length() -> None:
    keys = KEYS.copy()
    keys[0] *= 3
    engine = grown(keys, [*star(ONE, LARGER), *star(ONE, SMALLER)])
    assert divided(engine)
    view = engine.view()
    np.testing.assert_allclose(view.raw_keys(view.slots(ids(NEW))), 3 * directions(67.5), rtol=1e-3)


def test_the_key_goes_further_where_it_would_be_a_duplicate() -> None:
    engine = between()
    assert divided(engine, similarity=0.9)  # 22.5 degrees are 0.92, 36 are 0.81
    view = engine.view()
    cosine = float(view.keys[0] @ view.keys[int(view.slots(ids(NEW))[0])])
    assert 0.75 < cosine < 0.9


def test_a_part_whose_key_would_be_a_duplicate_stays() -> None:
    assert not divided(between(), similarity=0.5)


def test_a_split_is_an_event_with_the_share_that_went() -> None:
    engine = between()
    assert divided(engine)
    assert events(engine) == [(EventType.SPLIT, ONE, NEW, 3 / 8)]


def test_a_concept_of_few_edges_is_left_alone() -> None:
    engine = between()
    view = engine.view()
    assert split(view, everywhere(view), {}, Clock(next_id=NEW), 8, SIMILAR) is None


def test_sources_go_with_the_part_that_they_lie_with() -> None:
    keys = np.concatenate([KEYS, directions(20, 110), np.zeros((1, 2), np.float32)])
    links_in = [(10, ONE, 0.5), (11, ONE, 0.5), (12, ONE, 0.5)]
    engine = grown(keys, [*star(ONE, LARGER), *star(ONE, SMALLER), *links_in])
    assert divided(engine)
    new = engine.view().greatest_id
    after = set(links(engine.view()))
    assert {(10, ONE), (11, new), (12, ONE)} <= after
    assert not {(10, new), (11, ONE), (12, new)} & after


def test_neighbours_without_a_direction_stay() -> None:
    keys = np.concatenate([KEYS, np.zeros((1, 2), np.float32)])
    engine = grown(keys, [*star(ONE, LARGER), *star(ONE, SMALLER), (ONE, 10, 0.5)])
    assert divided(engine)
    assert (ONE, 10) in links(engine.view())


def test_neighbours_that_are_split_at_once_stay_linked() -> None:
    """Concepts 1 and 2 are neighbours, each between the same two clouds."""
    cloud = [*range(3, 9), *range(9, 13)]
    keys = np.concatenate(
        [directions(50, 48), directions(-2, -1, 0, 1, 2, 3), directions(89, 90, 91, 92)]
    )
    around_both = [(one, each, 0.5) for one in (1, 2) for each in cloud]
    back = [(each, one, 0.5) for one in (1, 2) for each in cloud]
    engine = grown(keys, [*around_both, *back, (1, 2, 0.5), (2, 1, 0.5)])
    before = {seed: set(reached(engine.view(), seed, 2)) for seed in (1, 2)}
    assert divided(engine)
    assert engine.verify() == []
    share = pytest.approx(5 / 11)
    assert events(engine) == [(EventType.SPLIT, 1, 13, share), (EventType.SPLIT, 2, 14, share)]
    after = set(links(engine.view()))
    assert {(13, 14), (14, 13), (1, 13), (13, 1), (2, 14), (14, 2)} <= after
    for seed, concepts in before.items():
        assert concepts <= set(reached(engine.view(), seed, 3))


def test_the_link_between_the_two_is_as_sure_as_an_edge_can_be() -> None:
    engine = between()
    assert divided(engine)
    (edge,) = [each for each in engine.view().edges(NEW) if each["target"] == ONE]
    assert edge.tolist() == (ONE, 1.0, 1.0, 1, EdgeKind.COACTIVATION)


@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_one_cloud_has_no_two_parts(width: int, noise: float) -> None:
    centre = np.eye(width)[0]
    for seed in range(5):
        assert two_parts(around(centre, members=200, noise=noise, seed=seed)) is None


@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_two_clouds_are_told_apart(width: int, noise: float) -> None:
    one, other = np.eye(width)[:2]
    for seed in range(5):
        keys = around(one, one, other, members=100, noise=noise, seed=seed)
        parts = two_parts(keys)
        assert parts is not None
        assert (parts[0] == np.repeat([False, False, True], 100)).mean() > 0.97
        assert parts[1][1] @ other > 0.9


@pytest.mark.parametrize("clouds", [3, 10])
def test_of_many_clouds_two_parts_are_made_without_tearing_one(clouds: int) -> None:
    centres = around(*np.zeros((clouds, 64)), members=1, noise=1.0)
    parts = two_parts(around(*centres, members=80, noise=0.5))
    assert parts is not None
    shares = parts[0].reshape(clouds, 80).mean(axis=1)
    assert np.minimum(shares, 1 - shares).mean() < 0.02


def test_random_directions_have_no_two_parts() -> None:
    for seed in range(5):
        assert two_parts(around(np.zeros(64), members=800, noise=1.0, seed=seed)) is None


def test_a_fringe_is_no_part() -> None:
    one, other = np.eye(16)[:2]
    keys = around(one, members=97, noise=0.3)
    assert two_parts(np.concatenate([keys, around(other, members=3, noise=0.3)])) is None
    assert two_parts(np.concatenate([keys, around(other, members=20, noise=0.3)])) is not None
    few = around(one, members=6, noise=0.3)
    assert two_parts(np.concatenate([few, around(other, members=2, noise=0.3)])) is None
    assert two_parts(np.concatenate([few, around(other, members=3, noise=0.3)])) is not None


def test_neighbours_that_coincide_have_no_two_parts() -> None:
    assert two_parts(np.repeat(directions(30), 9, axis=0)) is None
    assert two_parts(np.zeros((9, 2), np.float32)) is None


@st.composite
def crossroads(draw: st.DrawFn) -> tuple[Floats, list[Link]]:
    """Draw one to three concepts between two clouds, linked with all of both, and other links."""
    hubs, left, right = (draw(st.integers(1, 3)), draw(st.integers(4, 7)), draw(st.integers(3, 7)))
    angles = [
        *draw(st.lists(st.integers(40, 50), min_size=hubs, max_size=hubs)),
        *draw(st.lists(st.integers(-10, 10), min_size=left, max_size=left)),
        *draw(st.lists(st.integers(80, 100), min_size=right, max_size=right)),
    ]
    count = len(angles)
    keys = np.pad(directions(*angles), ((0, 0), (0, 14)))
    some = st.tuples(st.integers(1, count), st.integers(1, count))
    pairs = {(hub, other) for hub in range(1, hubs + 1) for other in range(hubs + 1, count + 1)}
    pairs |= draw(st.sets(some, max_size=40))
    return keys, [(source, target, 0.5) for source, target in sorted(pairs) if source != target]


@settings(max_examples=100, deadline=None)
@given(crossroads())
def test_whatever_is_split_nothing_dangles_and_all_stay_linked(
    drawn: tuple[Floats, list[Link]],
) -> None:
    engine = grown(*drawn)
    before = engine.view()
    assert divided(engine, density=5)
    assert engine.verify() == []
    view = engine.view()
    origin = {new: one for _, one, new, _ in events(engine)}
    assert sorted(origin) == list(range(before.size + 1, view.size + 1))
    # Every edge that there was is there still, between the same two or those that came of them.
    after = links(view)
    kept = {(origin.get(s, s), origin.get(t, t)) for s, t in after}
    assert set(links(before)) <= kept
    assert len(after) == len(links(before)) + 2 * len(origin)
    for concept_id in before.ids.whole().tolist():
        now = set(reached(view, concept_id, 4))
        assert set(reached(before, concept_id, 2)) <= now
