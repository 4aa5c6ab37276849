"""Tight groups of one region get a concept above them, once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from aesg.graph.abstraction import MOST_MEMBERS, TIGHTNESS, abstract, groups
from aesg.graph.clock import Clock
from aesg.graph.edges import EDGE_DECAY
from storage_backends.engine import Engine
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

FLAT = np.zeros((2, 2), np.float32)
MOST = 100


def found(view: View) -> list[list[int]]:
    """Return the ids of all groups, ascending."""
    return [sorted(view.ids[group].tolist()) for group in groups(view, everywhere(view), MOST)]


def raised(engine: Engine, projection: Floats = FLAT, most: int = MOST, epoch: int = 0) -> bool:
    """Abstract all groups and commit; tell whether there was any."""
    view = engine.view()
    clock = Clock(next_id=view.greatest_id + 1, epoch=epoch, tick=8)
    batch = abstract(view, groups(view, everywhere(view), MOST), projection, clock, most)
    if batch is not None:
        engine.commit(batch)
    return batch is not None


def test_a_group_is_tight_of_one_region_and_of_three_at_least() -> None:
    keys = directions(0, 4, 8, 90, 94, 180, 184, 188)
    assert found(grown(keys, region=[1, 1, 1, 1, 1, 2, 2, 3]).view()) == [[1, 2, 3]]
    assert found(grown(keys, region=1).view()) == [[1, 2, 3], [6, 7, 8]]


def test_concepts_of_no_region_are_in_no_group() -> None:
    assert found(grown(directions(0, 1, 2), region=0).view()) == []


def test_concepts_that_lie_apart_are_in_no_group() -> None:
    far = float(np.degrees(np.arccos(TIGHTNESS))) + 1
    assert found(grown(directions(0, far, -far), region=1).view()) == []
    near = far - 2
    assert found(grown(directions(0, near, -near), region=1).view()) == [[1, 2, 3]]


def test_every_member_lies_near_the_centre() -> None:
    keys = directions(*range(0, 60, 2))
    view = grown(keys, region=1).view()
    for group in groups(view, everywhere(view), MOST):
        centre = view.keys[group].mean(axis=0)
        cosines = view.keys[group] @ (centre / np.linalg.norm(centre))
        assert (cosines >= TIGHTNESS).all()
        assert cosines.tolist() == sorted(cosines.tolist(), reverse=True)


def test_the_most_used_makes_the_group_and_no_concept_is_in_two() -> None:
    keys = directions(0, 10, 20, 40, 50, 60, 70)
    assert found(grown(keys, region=1, frequency=[0, 0, 0, 0, 0, 0, 9]).view()) == [
        [4, 5, 6, 7],
        [1, 2, 3],
    ]


def test_a_group_has_a_greatest_size() -> None:
    view = grown(directions(*np.linspace(0, 5, 100)), region=1).view()
    sizes = [len(group) for group in groups(view, everywhere(view), MOST)]
    assert sizes[0] == MOST_MEMBERS
    assert sum(sizes) <= 100
    assert max(len(group) for group in groups(view, everywhere(view), 5)) == 5


def test_tombstones_and_keys_without_a_direction_are_in_no_group() -> None:
    keys = np.concatenate([directions(0, 1, 2), np.zeros((1, 2), np.float32)])
    engine = grown(keys, region=1)
    assert found(engine.view()) == [[1, 2, 3]]
    assert found(with_tombstone(engine, 1)) == []


def test_only_around_candidates_groups_are_looked_for() -> None:
    view = grown(directions(0, 1, 2, 90, 91, 92), region=1).view()
    (group,) = groups(view, view.slots(ids(5)), MOST)
    assert sorted(view.ids[group].tolist()) == [4, 5, 6]


def test_an_empty_memory_has_no_groups() -> None:
    view = grown(np.empty((0, 2), np.float32)).view()
    assert groups(view, everywhere(view), MOST) == []


def test_the_key_is_the_mean_and_what_the_projection_adds() -> None:
    projection = np.array([[0.5, 0], [1, 2]], np.float32)
    engine = grown(directions(0, 4, 8), region=1)
    assert raised(engine, projection)
    mean = directions(0, 4, 8).mean(axis=0)
    wanted = mean + projection @ mean
    view = engine.view()
    np.testing.assert_allclose(
        view.raw_keys(view.slots(ids(4)))[0], wanted / np.linalg.norm(wanted), rtol=1e-5
    )


def test_the_length_of_keys_has_no_say() -> None:
    keys = directions(0, 4, 8) * np.array([[1], [1], [100]], np.float32)
    engine = grown(keys, region=1)
    assert raised(engine)
    np.testing.assert_allclose(engine.view().keys[np.array([3])], directions(4), atol=1e-5)


def test_a_common_integer_is_the_value() -> None:
    engine = grown(directions(0, 4, 8, 90, 94, 98), region=1, values=[5, 5, 5, 5, 5, 6])
    assert raised(engine)
    view = engine.view()
    slots = view.slots(ids(7, 8))
    assert view.value_kinds[slots].tolist() == [ValueKind.INTEGER, ValueKind.KEY]
    assert view.value_ids[slots].tolist() == [5, 0]


def test_the_mean_of_vectors_is_the_value() -> None:
    vectors = np.array([[1, 0], [2, 0], [6, 3]], np.float32)
    engine = grown(directions(0, 4, 8), region=1, vectors=vectors)
    assert raised(engine)
    view = engine.view()
    assert view.value_kinds[3] == ValueKind.VECTOR
    assert view.value_vectors is not None
    assert view.value_vectors[np.array([3])].tolist() == [[3, 1]]


@pytest.mark.parametrize(("origins", "origin"), [([9, 9, 9], 9), ([9, 8, 9], 0), ([0, 9, 9], 0)])
def test_an_abstract_concept_is_new_of_the_region_and_origin_of_its_members(
    origins: list[int], origin: int
) -> None:
    engine = grown(directions(0, 4, 8), region=6, origin=origins, frequency=[2, 3, 4])
    assert raised(engine, epoch=3)
    stats = engine.view().stats[3]
    assert stats[["origin", "region", "epoch", "tick"]].tolist() == (origin, 6, 3, 8)
    assert (stats["relevance"], stats["frequency"]) == (1, 9)


def test_members_and_the_concept_above_are_linked_both_ways() -> None:
    engine = grown(directions(0, 4, 8), [(1, 2, 0.5)], region=1)
    assert raised(engine, epoch=2)
    view = engine.view()
    after = links(view)
    assert set(after) == {(1, 2), (1, 4), (2, 4), (3, 4), (4, 1), (4, 2), (4, 3)}
    assert after[1, 2] == pytest.approx(0.5 * EDGE_DECAY**2)
    assert [after[pair] for pair in after if 4 in pair] == pytest.approx([0.3] * 6)
    weights = {int(each["target"]): float(each["weight"]) for each in view.edges(4)}
    assert weights == {n: pytest.approx(np.cos(np.radians(abs(n - 2) * 4))) for n in (1, 2, 3)}
    assert {each["kind"].item() for each in view.edges(4)} == {EdgeKind.ABSTRACTION}
    assert engine.verify() == []


def test_members_reach_one_another_through_the_concept_above() -> None:
    engine = grown(directions(0, 4, 8), region=1)
    assert set(reached(engine.view(), 1, 2)) == {1}
    assert raised(engine)
    assert set(reached(engine.view(), 1, 2)) == {1, 2, 3, 4}


def test_the_new_edge_does_not_yield_to_older_ones() -> None:
    keys = directions(0, 4, 8, 90, 120)
    engine = grown(keys, [(1, 4, 0.9), (1, 5, 0.8)], region=[1, 1, 1, 0, 0])
    assert raised(engine, most=2)
    assert {target for source, target in links(engine.view()) if source == 1} == {4, 6}


def test_a_group_is_abstracted_once() -> None:
    engine = grown(directions(0, 4, 8), region=1)
    assert raised(engine)
    assert not raised(engine)
    assert engine.view().node_count == 4


def test_an_abstract_concept_is_a_member_of_no_group() -> None:
    engine = grown(directions(0, 1, 2), region=1)
    assert raised(engine)
    engine.commit(WriteBatch(deleted=ids(1, 2)))
    assert found(engine.view()) == []


def test_each_abstract_concept_is_an_event_with_the_number_of_members() -> None:
    engine = grown(directions(0, 4, 8, 90, 94, 98, 102), region=1)
    assert raised(engine)
    assert events(engine) == [(EventType.CREATE, 8, 3, 1.0), (EventType.CREATE, 9, 4, 1.0)]


@pytest.mark.parametrize("entry", [-1.0, np.nan])
def test_a_projection_that_gives_no_direction_makes_no_concept(entry: float) -> None:
    engine = grown(directions(0, 4, 8), region=1)
    assert not raised(engine, np.eye(2, dtype=np.float32) * np.float32(entry))


def test_nothing_is_written_where_there_is_no_group() -> None:
    assert not raised(grown(directions(0, 90, 180), region=1))


@pytest.mark.parametrize("related", [[(1, 2)], [(2, 1), (3, 1)]])
def test_concepts_with_an_abstraction_edge_are_in_no_group(
    related: Sequence[tuple[int, int]],
) -> None:
    engine = grown(directions(0, 1, 2, 3), region=1)
    rows = {source: row((target, 0.5), kind=EdgeKind.ABSTRACTION) for source, target in related}
    engine.commit(WriteBatch(edges=rows))
    free = {1, 2, 3, 4} - {source for source, _ in related}
    assert found(engine.view()) == ([sorted(free)] if len(free) >= 3 else [])
