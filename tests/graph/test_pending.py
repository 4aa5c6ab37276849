"""What waits for a commit, and that every batch made of it is accepted."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings

from aesg.graph.pending import Clock, Pending, newborn
from storage_backends.types import EdgeKind, EventType, WriteBatch
from tests.graph.build import DIM, engine, unit, view, window
from tests.storage.build import ids

CLOCK = Clock(next_id=90, epoch=4, tick=33)
_KINDS = st.sampled_from(EdgeKind)
_ids = st.integers(0, 12)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), most=st.integers(1, 3))
def test_whatever_waits_makes_a_batch_that_the_store_takes(data: st.DataObject, most: int) -> None:
    made = engine([1, 2, 3, 4, 5], {1: [2, 3], 2: [1], 5: [1, 2, 3]})
    memory = window([6, 7, 8, 9])
    memory.link(np.array([[2, 6], [6, 7], [7, 9], [9, 1], [8, 12]], np.uint64))
    pending = Pending(
        born=data.draw(st.dictionaries(_ids, st.none())),
        used=data.draw(st.dictionaries(_ids, st.integers(1, 9))),
        links=data.draw(st.dictionaries(st.tuples(_ids, _ids, _KINDS), st.integers(1, 9))),
        deleted=data.draw(st.dictionaries(_ids, st.none())),
    )
    old = set(range(1, 6))
    born, deleted = set(pending.born) & {6, 7, 8, 9}, set(pending.deleted) & old
    after = (old - deleted) | born
    batch = pending.batch(made.view(), memory, CLOCK, most)
    changed = made.commit(batch)
    assert made.verify() == []
    assert set(changed.ids.whole()[changed.alive.whole()].tolist()) == after
    assert set(batch.stats_ids.tolist()) == set(pending.used) & old - deleted
    assert batch.events["id1"].tolist() == sorted(born)
    uses = {(source, target) for source, target, _ in pending.links if source != target}
    uses |= {pair for pair in ((2, 6), (6, 7), (7, 9), (9, 1)) if born & set(pair)}
    for source in after:
        targets = set(changed.edges(source)["target"].tolist())
        wanted = {target for s, target in uses if s == source and target in after}
        assert targets <= wanted | {1, 2, 3}
        assert targets <= after - {source}
        if source in batch.edges:
            assert len(targets) <= most
        if len(wanted | {1, 2, 3}) <= most:
            assert wanted <= targets


def test_a_batch_can_be_made_twice() -> None:
    pending = Pending()
    pending.born[6] = None
    pending.note(EventType.CONSOLIDATE, 3, value=0.5)
    pending.use(ids(1), [2])
    pending.link(np.array([[1, 6]], np.uint64), EdgeKind.SUCCESSOR)
    memory = window([6])
    first, second = (pending.batch(view(1), memory, CLOCK, 5) for _ in range(2))
    kinds = [EventType.CONSOLIDATE, EventType.CREATE]
    assert first.events["type"].tolist() == second.events["type"].tolist() == kinds
    assert len(pending.events) == 1
    assert first.edges.keys() == second.edges.keys() == {1}
    assert first.edges[1].tolist() == second.edges[1].tolist()
    assert len(memory) == 1


def test_the_born_bring_what_they_were() -> None:
    pending = Pending(born={8: None, 6: None})
    memory = window([6, 7, 8], origin=5)
    memory.confirm(ids(8), np.array([3]), tick=1)
    batch = pending.batch(view(1), memory, CLOCK, 5)
    put = batch.concepts
    assert put is not None
    assert put.ids.tolist() == [6, 8]
    np.testing.assert_allclose(put.keys, 2 * unit([6, 8]))
    assert put.stats["frequency"].tolist() == [1, 4]
    assert put.stats["origin"].tolist() == [5, 5]
    assert put.stats[["epoch", "tick", "relevance"]].tolist() == [(4, 33, 1.0)] * 2
    assert (put.stats["created"] > 1.6e15).all()


def test_neighbours_in_a_sequence_are_linked_once_when_both_are_born() -> None:
    memory = window([6, 7])
    memory.link(np.array([[1, 6], [6, 7]], np.uint64))
    batch = Pending(born={6: None, 7: None}).batch(view(1), memory, CLOCK, 5)
    edges = {source: row[["target", "use", "kind"]].tolist() for source, row in batch.edges.items()}
    kind = int(EdgeKind.SUCCESSOR)
    assert edges == {1: [(6, 1, kind)], 6: [(7, 1, kind)]}


def test_uses_of_one_edge_for_two_reasons_are_one_edge() -> None:
    pending = Pending()
    pair = np.array([[1, 2], [1, 2]], np.uint64)
    pending.link(pair, EdgeKind.SUCCESSOR)
    pending.link(pair[:1], EdgeKind.VALUE)
    (edge,) = pending.batch(view(1, 2), window([]), CLOCK, 5).edges[1]
    assert (edge["use"], edge["kind"]) == (3, EdgeKind.SUCCESSOR | EdgeKind.VALUE)


def test_uses_are_counted_and_the_deleted_and_unknown_left_out() -> None:
    pending = Pending(deleted={2: None, 50: None})
    pending.use(ids(1, 2), [1, 1])
    pending.use(ids(1, 60), np.array([4, 1]))
    batch = pending.batch(view(1, 2), window([]), CLOCK, 5)
    assert batch.deleted.tolist() == [2]
    assert batch.stats_ids.tolist() == [1]
    assert batch.stats["frequency"].tolist() == [5]
    assert batch.stats["tick"].tolist() == [33]


def test_what_was_born_already_is_not_born_again() -> None:
    batch = Pending(born={6: None}).batch(view(1, 6), window([6, 7]), CLOCK, 5)
    assert batch.concepts is None
    assert not len(batch.events)


def test_nothing_waiting_makes_an_empty_batch() -> None:
    pending = Pending()
    batch = pending.batch(view(), window([]), CLOCK, 5)
    assert not len(pending)
    assert batch.concepts is None
    assert not (len(batch.deleted) + len(batch.stats_ids) + len(batch.edges) + len(batch.events))
    assert isinstance(batch, WriteBatch)


def test_vectors_come_along() -> None:
    memory = window([6])
    memory.append(memory.entries[:0], unit([]), np.empty((0, DIM), np.float32))
    batch = Pending(born={6: None}).batch(view(), memory, CLOCK, 5)
    assert batch.concepts is not None
    assert batch.concepts.value_vectors is not None
    assert batch.concepts.value_vectors.shape == (1, DIM)


def test_a_newborn_is_fresh() -> None:
    (stats,) = newborn(ids(7), CLOCK, 55)
    assert (stats["created"], stats["modified"], stats["origin"]) == (55, 55, 7)
    assert (stats["epoch"], stats["tick"], stats["frequency"]) == (4, 33, 1)
    assert stats["relevance"] == stats["stability"] == 1
