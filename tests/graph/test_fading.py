"""What has faded is found, once it has and not before, by what a commit is told to touch."""

from __future__ import annotations

import numpy as np
import pytest

from aesg.graph import consolidation
from aesg.graph import fading as module
from aesg.graph.clock import Clock
from aesg.graph.draft import Draft
from aesg.graph.edges import Use
from aesg.graph.fading import Fading
from storage_backends.engine import Engine
from storage_backends.types import EdgeKind, WriteBatch
from storage_backends.view import View
from tests.graph.build import concepts, engine, strengthened
from tests.storage.build import edges, ids

#: A concept of relevance 1 used once is prunable from epoch 14 on, an edge of confidence 0.3
#: too weak from epoch 19.
NEEDS = (0.5, 2, 0.25)
LAST, WEAK = 14, 19


def _graph() -> Engine:
    """Return an engine with concepts 1 to 4, and edges from 1 to 2 and from 2 to 3."""
    made = engine([])
    weak = strengthened(edges(), [Use(2, EdgeKind.VALUE)], 9)
    strong = strengthened(edges(), [Use(3, EdgeKind.VALUE, 9)], 9)
    put = concepts(range(1, 5), frequency=1)
    put.stats["frequency"][0] = 2
    made.commit(WriteBatch(concepts=put, edges={1: weak, 2: strong}))
    return made


def _due(fading: Fading, view: View, epoch: int) -> tuple[list[int], list[int]]:
    found, rows = fading.due(view, Clock(epoch=epoch))
    return view.ids[found].tolist(), view.ids[rows].tolist()


@pytest.mark.parametrize("at_a_time", [1, 3, 65_536])
def test_each_falls_due_in_its_epoch(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", at_a_time)
    view = _graph().view()
    fading = Fading(view, NEEDS)
    found = [_due(fading, view, epoch) for epoch in range(25)]
    assert found[:LAST] == [([], [])] * LAST
    assert found[LAST:WEAK] == [([2, 3, 4], [])] * (WEAK - LAST)
    assert found[WEAK:] == [([2, 3, 4], [1])] * (25 - WEAK)
    assert _due(Fading(view, NEEDS), view, 24) == found[24]


def test_what_is_gone_is_not_due_again() -> None:
    made = _graph()
    fading, clock = Fading(made.view(), NEEDS), Clock(epoch=WEAK)
    due, rows = fading.due(made.view(), clock)
    for batch in (
        consolidation.drop_edges(made.view(), rows, clock, NEEDS[2]),
        consolidation.prune(made.view(), due, clock, *NEEDS[:2]),
    ):
        assert batch is not None
        fading.settled(made.commit(batch), batch)
    assert _due(fading, made.view(), WEAK + 1) == ([], [])
    assert made.view().ids[np.flatnonzero(made.view().alive.whole())].tolist() == [1]


def test_a_touch_postpones_and_enough_of_them_save() -> None:
    made = _graph()
    fading = Fading(made.view(), NEEDS)
    draft = Draft(made.view(), Clock(epoch=5))
    touched = made.view().stats[made.view().slots(ids(3, 4))]
    touched["epoch"][0], touched["frequency"][1] = 5, 2
    draft.put_stats(ids(3, 4), touched)
    batch = draft.batch()
    view = made.commit(batch)
    fading.settled(view, batch)
    assert _due(fading, view, LAST) == ([2], [])
    assert _due(fading, view, LAST + 4) == ([2], [])
    assert _due(fading, view, LAST + 5) == ([2, 3], [1])


def test_births_and_new_edges_are_watched_from_their_commit_on() -> None:
    made = _graph()
    fading = Fading(made.view(), NEEDS)
    draft = Draft(made.view(), Clock(5, epoch=3))
    draft.put_concepts(concepts([draft.new_id()], frequency=1, epoch=3))
    draft.put_row(5, strengthened(draft.row(5), [Use(1, EdgeKind.VALUE)], 9))
    draft.put_row(2, strengthened(draft.row(2), [Use(1, EdgeKind.VALUE)], 9))
    batch = draft.batch()
    view = made.commit(batch)
    fading.settled(view, batch)
    assert _due(fading, view, LAST + 2) == ([2, 3, 4], [])
    assert _due(fading, view, WEAK + 2) == ([2, 3, 4, 5], [1])
    assert _due(fading, view, WEAK + 3) == ([2, 3, 4, 5], [1, 2, 5])


def test_a_strengthened_edge_lasts_longer() -> None:
    made = _graph()
    fading = Fading(made.view(), NEEDS)
    draft = Draft(made.view(), Clock(epoch=WEAK - 1))
    draft.put_row(1, strengthened(draft.row(1), [Use(2, EdgeKind.VALUE)], 9))
    batch = draft.batch()
    view = made.commit(batch)
    fading.settled(view, batch)
    assert _due(fading, view, WEAK)[1] == []
    assert _due(fading, view, WEAK + 50)[1] == [1]


def test_edges_to_pruned_concepts_are_nobodys_to_judge() -> None:
    made = _graph()
    fading = Fading(made.view(), NEEDS)
    batch = WriteBatch(deleted=ids(2))
    fading.settled(made.commit(batch), batch)
    assert _due(fading, made.view(), WEAK) == ([3, 4], [])


def test_what_cannot_fade_is_never_looked_at() -> None:
    view = _graph().view()
    assert _due(Fading(view, (0.0, 2, 0.0)), view, 10**9) == ([], [])
    assert _due(Fading(view, (0.5, 0, 0.0)), view, 10**9) == ([], [])


def test_edges_between_a_concept_and_an_abstract_one_stay() -> None:
    made = engine([1, 2, 3])
    both = strengthened(edges(), [Use(2, EdgeKind.ABSTRACTION), Use(3, EdgeKind.VALUE, 2)], 9)
    alone = strengthened(edges(), [Use(1, EdgeKind.ABSTRACTION)], 9)
    made.commit(WriteBatch(edges={1: both, 2: alone}))
    view, clock = made.view(), Clock(epoch=10**6)
    thresholds = (0.0, 0, NEEDS[2])
    fading = Fading(view, thresholds)
    assert _due(fading, view, WEAK) == ([], [])  # the value edge is surer
    _, rows = fading.due(view, clock)
    assert view.ids[rows].tolist() == [1]
    batch = consolidation.drop_edges(view, np.arange(3), clock, NEEDS[2])
    assert batch is not None
    assert {source: row["target"].tolist() for source, row in batch.edges.items()} == {1: [2]}
    assert batch.events[["id1", "id2"]].tolist() == [(1, 1)]
