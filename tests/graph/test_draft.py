"""A draft: readable as it grows, and what it comes to."""

from __future__ import annotations

import numpy as np
import pytest

from aesg.graph.clock import Clock
from aesg.graph.draft import Draft, joined
from aesg.graph.edges import EDGE_DECAY, Use
from aesg.graph.out_edges import OutEdges
from storage_backends.engine import Engine
from storage_backends.types import EdgeKind, EventType
from tests.graph.build import concepts, engine, stats, strengthened
from tests.storage.build import edges, ids

NOW = 7_000_000


def _committed(made: Engine, draft: Draft) -> None:
    made.commit(draft.batch())
    assert not made.verify()


def test_a_row_is_read_as_of_the_present_epoch_and_says_so_when_it_is_put() -> None:
    made = engine([1, 2, 3], {1: [2, 3]})
    held = made.view().edges(1)["confidence"]
    draft = Draft(made.view(), Clock(4, epoch=10), NOW)
    row = draft.row(1)
    np.testing.assert_allclose(row["confidence"], held * EDGE_DECAY**10, rtol=1e-6)
    row = strengthened(row, [Use(3, EdgeKind.VALUE)], 9)
    draft.put_row(1, row)
    assert (draft.row(1) == row).all()
    _committed(made, draft)
    assert (np.sort(made.view().edges(1), order="target") == row).all()
    assert made.view().stats[0]["edge_epoch"] == 10
    later = Draft(made.view(), Clock(4, epoch=12), NOW).row(1)["confidence"]
    np.testing.assert_allclose(np.sort(later), np.sort(row["confidence"]) * EDGE_DECAY**2, 1e-6)


def test_what_a_draft_gives_is_the_callers_own() -> None:
    made = engine([1, 2], {1: [2]})
    draft = Draft(made.view(), Clock(3), NOW)
    for _ in range(2):
        row = draft.row(1)
        row["weight"] = 9
        assert draft.row(1)["weight"].tolist() != [9]
        draft.put_row(1, draft.row(1))
    assert made.view().edges(1)["weight"].tolist() != [9]


def test_what_a_draft_was_given_is_its_own() -> None:
    draft = Draft(engine([1]).view(), Clock(3), NOW)
    record = stats(1, frequency=7)
    draft.put_stats(ids(1), record)
    record["frequency"] = 99
    assert draft.batch().stats["frequency"].tolist() == [7]


def test_statistics_and_a_row_of_one_concept_are_one_record() -> None:
    made = engine([1, 2])
    draft = Draft(made.view(), Clock(3, epoch=5), NOW)
    draft.put_stats(ids(2), stats(1, region=9))
    draft.put_stats(ids(1, 2), stats(2, region=8))
    draft.put_row(1, edges(2))
    batch = draft.batch()
    assert batch.stats_ids.tolist() == [2, 1]
    assert batch.stats[["region", "edge_epoch"]].tolist() == [(8, 0), (8, 5)]
    _committed(made, draft)


def test_edges_are_stated_as_of_the_same_epoch_whatever_else_is_put() -> None:
    made = engine([1, 2, 3], {1: [2], 2: [3]})
    first = Draft(made.view(), Clock(4, epoch=5), NOW)
    for concept_id in (1, 2):
        first.put_row(concept_id, first.row(concept_id))
    _committed(made, first)
    before = [made.view().edges(each).tolist() for each in (1, 2)]
    later = Draft(made.view(), Clock(4, epoch=9), NOW)
    later.put_concepts(concepts([1], frequency=3))
    later.put_stats(ids(2), stats(1))
    _committed(made, later)
    assert [made.view().edges(each).tolist() for each in (1, 2)] == before
    assert made.view().stats[np.arange(2)]["edge_epoch"].tolist() == [5, 5]


def test_rows_read_together_are_those_read_one_by_one() -> None:
    made = engine([1, 2, 3, 4], {1: [2, 3], 3: [1]})
    stated = Draft(made.view(), Clock(5, epoch=3), NOW)
    stated.put_row(3, stated.row(3))
    _committed(made, stated)
    draft = Draft(made.view(), Clock(5, epoch=8), NOW)
    asked = ids(3, 1, 9, 4, 1)

    def assert_same() -> None:
        every, single = draft.rows(asked), [draft.row(each) for each in asked.tolist()]
        assert [row.tolist() for row in every.split()] == [row.tolist() for row in single]

    assert draft.rows(asked).counts.tolist() == [1, 2, 0, 0, 2]
    assert_same()
    draft.put_rows(ids(1, 4), OutEdges.of([edges(4), edges(1, 2)]))
    assert draft.row(1).tolist() == edges(4).tolist()
    assert_same()
    draft.delete(3)
    draft.delete(1)
    assert draft.rows(asked).counts.tolist() == [0, 0, 0, 2, 0]
    assert_same()


def test_a_concept_that_is_not_there_has_no_edges() -> None:
    draft = Draft(engine([1]).view(), Clock(2), NOW)
    assert draft.row(9).tolist() == []


def test_a_new_concept_has_statistics_and_edges_in_the_same_batch() -> None:
    made = engine([1])
    draft = Draft(made.view(), Clock(2, epoch=5), NOW)
    first, second = draft.new_id(), draft.new_id()
    assert (first, second) == (2, 3)
    draft.put_concepts(concepts([first, second]))
    draft.put_stats(ids(first), stats(1, region=8))
    draft.put_row(first, edges(1, second))
    draft.payload(second, b"text")
    assert draft.holds(ids(first, 9, 1, second)).tolist() == [True, False, True, True]
    assert len(draft.row(second)) == 0
    batch = draft.batch()
    assert not len(batch.stats_ids)
    assert batch.concepts is not None
    assert batch.concepts.stats[["region", "edge_epoch"]].tolist() == [(8, 5), (0, 0)]
    _committed(made, draft)
    assert made.view().edges(first)["target"].tolist() == [1, second]
    assert made.store.payloads(ids(first, second)) == [None, b"text"]


def test_of_a_concept_put_twice_the_last_counts() -> None:
    made = engine([1, 2])
    draft = Draft(made.view(), Clock(3), NOW)
    draft.put_concepts(concepts([1, 2], frequency=3))
    last = concepts([1], frequency=4)
    last.keys[:] = 2
    draft.put_concepts(last)
    batch = draft.batch()
    assert batch.concepts is not None
    assert batch.concepts.ids.tolist() == [1, 2]
    assert batch.concepts.stats["frequency"].tolist() == [4, 3]
    assert (batch.concepts.keys[0] == 2).all() and not (batch.concepts.keys[1] == 2).all()
    _committed(made, draft)


def test_a_deleted_concept_takes_with_it_what_was_drafted_of_it() -> None:
    made = engine([1, 2, 3], {1: [2], 3: [2]})
    draft = Draft(made.view(), Clock(4), NOW)
    draft.put_concepts(concepts([2, 4]))
    draft.put_stats(ids(2), stats(1))
    draft.put_row(2, edges(3))
    draft.payload(2, b"text")
    for gone in (2, 4):
        draft.delete(gone)
    assert draft.holds(ids(1, 2, 4)).tolist() == [True, False, False]
    draft.alias(2, 1)
    assert not len(draft.row(2))
    batch = draft.batch()
    assert batch.deleted.tolist() == [2]
    assert batch.concepts is None
    assert not batch.edges and not batch.payloads and not len(batch.stats_ids)
    assert batch.aliases == {2: 1}
    _committed(made, draft)
    assert made.view().edge_count == 0


def test_events_bear_the_time_of_the_draft() -> None:
    draft = Draft(engine([]).view(), Clock(), NOW)
    draft.note(EventType.MERGE, 1, 2, 0.5)
    draft.note(EventType.CONSOLIDATE)
    assert draft.batch().events.tolist() == [(7, 1, 1, 2, 0.5), (7, 4, 0, 0, 0.0)]


@pytest.mark.parametrize("parts", [[], [[]], [[], []]])
def test_nothing_joined_is_nothing(parts: list[list[int]]) -> None:
    assert joined([concepts(part) for part in parts]) is None


def test_concepts_are_joined_in_order_with_zeros_for_lacking_vectors() -> None:
    plain, valued = concepts([3, 1]), concepts([2])
    valued = type(valued)(**{**vars(valued), "value_vectors": valued.keys})
    both = joined([plain, valued])
    assert both is not None
    assert both.ids.tolist() == [3, 1, 2]
    assert both.value_vectors is not None
    assert not both.value_vectors[:2].any() and (both.value_vectors[2] == valued.keys[0]).all()
    assert joined([plain, concepts([])]) is plain
