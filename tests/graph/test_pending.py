"""What waits for a commit, and that every batch made of it is accepted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings

from aesg.graph.association import CONFIDENCE, Associations, Values, associate
from aesg.graph.clock import Clock
from aesg.graph.draft import Draft
from aesg.graph.edges import EDGE_DECAY, FIRST_CONFIDENCE, Use
from aesg.graph.pending import TRAVELLED, Pending, newborn
from aesg.graph.shortterm import ShortTermMemory
from storage_backends.types import EdgeKind, EventType, Ids, Records, ValueKind, WriteBatch
from storage_backends.view import View
from tests.graph import plain
from tests.graph.build import DIM, concepts, engine, unit, view, window
from tests.storage.build import ids

CLOCK = Clock(next_id=90, epoch=4, tick=33)
_KINDS = st.sampled_from([*EdgeKind, TRAVELLED])
_ids = st.integers(0, 12)
_links = st.dictionaries(st.tuples(_ids, _ids, _KINDS), st.integers(1, 9)).map(Counter)


def batch_of(
    pending: Pending,
    before: View,
    memory: ShortTermMemory,
    most: int = 5,
    called_for: Associations | None = None,
) -> WriteBatch:
    new = pending.newcomers(before, memory, CLOCK)
    called_for = called_for or associate(before, new, Values.none(DIM), 0.9)
    return pending.batch(before, memory, CLOCK, new, called_for, most)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), most=st.integers(1, 3))
def test_whatever_waits_makes_a_batch_that_the_store_takes(data: st.DataObject, most: int) -> None:
    made = engine([1, 2, 3, 4, 5], {1: [2, 3], 2: [1], 5: [1, 2, 3]})
    memory = window([6, 7, 8, 9])
    memory.link(np.array([[2, 6], [6, 7], [7, 9], [9, 1], [8, 12]], np.uint64))
    pending = Pending(
        born=data.draw(st.dictionaries(_ids, st.none())),
        used=data.draw(st.dictionaries(_ids, st.integers(1, 9))),
        links=data.draw(_links),
        deleted=data.draw(st.dictionaries(_ids, st.none())),
    )
    old = set(range(1, 6))
    born, deleted = set(pending.born) & {6, 7, 8, 9}, set(pending.deleted) & old
    after = (old - deleted) | born
    batch = batch_of(pending, made.view(), memory, most)
    changed = made.commit(batch)
    assert made.verify() == []
    assert set(changed.ids.whole()[changed.alive.whole()].tolist()) == after
    assert set(batch.stats_ids.tolist()) == (set(pending.used) | set(batch.edges)) & old - deleted
    made_of = batch.events["type"] == EventType.CREATE
    assert batch.events["id1"][made_of].tolist() == sorted(born)
    old_edges = {(1, 2), (1, 3), (2, 1), (5, 1), (5, 2), (5, 3)}
    uses = {
        (source, target)
        for source, target, kind in pending.links
        if source != target and (kind is not TRAVELLED or (source, target) in old_edges)
    }
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


def _rows_one_by_one(
    pending: Pending, draft: Draft, memory: ShortTermMemory, born: Ids, called_for: Associations
) -> tuple[dict[int, Records], list[tuple[int, int, float]]]:
    """Return the rows that a batch changes, in their order, and what co-activation joins."""
    used = dict(pending.links)
    for entry in memory.entries[memory.find(born)].tolist():
        concept_id, _, before, after, *_ = entry
        for pair in ((before, concept_id), (concept_id, after)):
            if all(pair):
                used.setdefault((*pair, EdgeKind.SUCCESSOR), 1)
    pairs = map(tuple, called_for.pairs.tolist())
    weights = dict(zip(pairs, called_for.cosines.tolist(), strict=True))
    for source, target in weights:
        used.setdefault((source, target, EdgeKind.VALUE), 1)
    by_source: dict[int, list[Use]] = {}
    for (source, target, kind), times in used.items():
        ends = np.array([source, target], np.uint64)
        lasting = (draft.view.slots(ends) >= 0) & ~np.isin(ends, ids(*pending.deleted))
        if source != target and (lasting | np.isin(ends, born)).all():
            weight = weights.get((source, target), 1.0)
            first = CONFIDENCE if (source, target) in weights else FIRST_CONFIDENCE
            use = Use(target, EdgeKind(kind), times, weight, first)
            by_source.setdefault(source, []).append(use)
    rows, joined = {}, []
    for source, uses in by_source.items():
        before = draft.row(source)
        after = plain.strengthened(before, uses, 3)
        if before.tobytes() != after.tobytes():
            rows[source] = after
        held = dict(after[["target", "confidence"]].tolist())
        for use in uses:
            new = use.target in held and use.target not in before["target"]
            if new and use.kind is EdgeKind.COACTIVATION and source < use.target:
                joined.append((source, use.target, held[use.target]))
    return rows, joined


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rows_change_together_as_one_by_one(data: st.DataObject) -> None:
    made = engine([1, 2, 3, 4, 5], {1: [2, 3], 2: [1], 5: [1, 2, 3]})
    memory, before = window([6, 7, 8, 9]), made.view()
    memory.link(np.array([[2, 6], [6, 7], [7, 9], [9, 1], [8, 12]], np.uint64))
    pending = Pending(
        born=data.draw(st.dictionaries(st.sampled_from([6, 7, 9]), st.none())),
        links=data.draw(_links),
        deleted=data.draw(st.dictionaries(st.sampled_from([2, 4]), st.none())),
    )
    values = data.draw(st.dictionaries(st.tuples(_ids, _ids), st.sampled_from([0.7, 0.9])))
    pairs = np.array(list(values), np.uint64).reshape(-1, 2)
    cosines = np.array(list(values.values()), np.float32)
    called_for = Associations(pairs, cosines, Values.none(DIM))
    batch = batch_of(pending, before, memory, 3, called_for)
    born = pending.newcomers(before, memory, CLOCK).ids
    rows, joined = _rows_one_by_one(pending, Draft(before, CLOCK), memory, born, called_for)
    assert list(batch.edges) == list(rows)
    assert [row.tobytes() for row in batch.edges.values()] == [
        row.tobytes() for row in rows.values()
    ]
    told = batch.events[batch.events["type"] == EventType.RESTRUCTURE]
    assert told[["id1", "id2", "val"]].tolist() == joined


def test_a_batch_can_be_made_twice() -> None:
    pending = Pending()
    pending.born[6] = None
    pending.note(EventType.CONSOLIDATE, 3, value=0.5)
    pending.use(ids(1), [2])
    pending.link(np.array([[1, 6]], np.uint64), EdgeKind.SUCCESSOR)
    memory = window([6])
    first, second = (batch_of(pending, view(1), memory) for _ in range(2))
    kinds = [EventType.CONSOLIDATE, EventType.CREATE]
    assert first.events["type"].tolist() == second.events["type"].tolist() == kinds
    assert len(pending.events) == 1
    assert first.edges.keys() == second.edges.keys() == {1}
    assert first.edges[1].tolist() == second.edges[1].tolist()
    assert len(memory) == 1


def test_a_concept_gets_another_key_and_keeps_its_edges_and_value() -> None:
    made = engine([1, 2, 3], {1: [2], 3: [1]})
    before, pending = made.view(), Pending()
    pending.rekey(before, ids(1, 9), unit([11, 19]), np.array([3, 1], np.float32))
    pending.use(ids(1), [2])
    assert pending.changes == 2
    after = made.commit(batch_of(pending, before, window([])))
    assert made.verify() == []
    slot = after.slots(ids(1))
    np.testing.assert_allclose(after.raw_keys(slot), 3 * unit([11]), rtol=1e-6)
    np.testing.assert_array_equal(after.value_ids[slot], before.value_ids[before.slots(ids(1))])
    assert after.stats[slot]["frequency"] == before.stats[before.slots(ids(1))]["frequency"] + 2
    assert after.edges(1)["target"].tolist() == [2]
    assert after.edges(3)["target"].tolist() == [1]
    np.testing.assert_allclose(after.keys[after.slots(ids(2, 3))], unit([2, 3]), rtol=1e-6)


def test_key_and_vector_value_move_in_one_commit() -> None:
    made = engine([])
    put = replace(
        concepts([1]), value_kinds=np.array([ValueKind.VECTOR], np.uint8), value_vectors=unit([5])
    )
    made.commit(WriteBatch(concepts=put))
    before, pending = made.view(), Pending()
    pending.rekey(before, ids(1), unit([11]), np.ones(1, np.float32))
    pending.refine(before, ids(1), unit([6]), 0.5)
    after = made.commit(batch_of(pending, before, window([])))
    np.testing.assert_allclose(after.keys.whole(), unit([11]), rtol=1e-6)
    assert after.value_vectors is not None
    half = (unit([5]) + unit([6])) / 2
    np.testing.assert_allclose(after.value_vectors.whole(), half, rtol=1e-6)


def test_a_key_that_has_hardly_moved_is_left_as_it_is() -> None:
    before, pending, far = view(1), Pending(), unit([11])
    pending.rekey(before, ids(1), far, np.ones(1, np.float32))
    assert pending.changes == 1
    close = unit([1]) + np.float32(0.01) * far
    close /= np.linalg.norm(close)
    pending.rekey(before, ids(1), close, np.ones(1, np.float32))
    assert pending.changes == 0  # it has come back


def test_a_concept_that_goes_gets_no_key() -> None:
    made = engine([1, 2])
    pending = Pending(deleted={1: None})
    pending.rekey(made.view(), ids(1), unit([11]), np.ones(1, np.float32))
    after = made.commit(batch_of(pending, made.view(), window([])))
    assert after.slots(ids(1, 2)).tolist()[0] == -1
    assert made.verify() == []


def test_the_born_bring_what_they_were() -> None:
    pending = Pending(born={8: None, 6: None})
    memory = window([6, 7, 8], origin=5)
    memory.confirm(ids(8), np.array([3]), tick=1)
    batch = batch_of(pending, view(1), memory)
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
    batch = batch_of(Pending(born={6: None, 7: None}), view(1), memory)
    edges = {source: row[["target", "use", "kind"]].tolist() for source, row in batch.edges.items()}
    kind = int(EdgeKind.SUCCESSOR)
    assert edges == {1: [(6, 1, kind)], 6: [(7, 1, kind)]}


def test_uses_of_one_edge_for_two_reasons_are_one_edge() -> None:
    pending = Pending()
    pair = np.array([[1, 2], [1, 2]], np.uint64)
    pending.link(pair, EdgeKind.SUCCESSOR)
    pending.link(pair[:1], EdgeKind.VALUE)
    (edge,) = batch_of(pending, view(1, 2), window([])).edges[1]
    assert (edge["use"], edge["kind"]) == (3, EdgeKind.SUCCESSOR | EdgeKind.VALUE)


def test_what_was_travelled_strengthens_an_edge_that_is_there_and_makes_none() -> None:
    made = engine([1, 2, 3], {1: [2]})
    before = made.view().edges(1)
    pending = Pending()
    pending.travel(np.array([[1, 2], [1, 3], [1, 2]], np.uint64))
    batch = batch_of(pending, made.view(), window([]))
    assert batch.edges.keys() == {1}
    (edge,) = batch.edges[1]
    uses = min(int(before["use"][0]) + 2, 2**32 - 1)
    assert (edge["target"], edge["use"]) == (2, uses)
    assert edge["kind"] == before["kind"][0]
    pending = Pending()
    pending.travel(np.array([[1, 3], [2, 3]], np.uint64))
    assert not batch_of(pending, made.view(), window([])).edges


def test_concepts_that_co_activation_joins_are_an_event_once() -> None:
    made = engine([1, 2, 3], {1: [3]})
    both = np.array([[1, 2], [2, 1]], np.uint64)
    pending = Pending()
    pending.link(both, EdgeKind.COACTIVATION)
    pending.link(np.array([[1, 3], [3, 1]], np.uint64), EdgeKind.COACTIVATION)
    batch = batch_of(pending, made.view(), window([]))
    assert batch.events[["type", "id1", "id2"]].tolist() == [(EventType.RESTRUCTURE, 1, 2)]
    confidence = batch.edges[2]["confidence"].tolist()
    assert batch.events["val"].tolist() == confidence
    made.commit(batch)
    assert not len(batch_of(pending, made.view(), window([])).events)


def test_an_edge_is_used_from_where_it_has_faded_to() -> None:
    made = engine([1, 2, 3], {1: [2, 3]})
    stated = made.view().edges(1)["confidence"]
    pending = Pending()
    pending.travel(np.array([[1, 2]], np.uint64))
    batch = batch_of(pending, made.view(), window([]))
    after = {int(edge["target"]): float(edge["confidence"]) for edge in batch.edges[1]}
    faded = stated.astype(np.float64) * EDGE_DECAY**CLOCK.epoch
    np.testing.assert_allclose(after[3], faded[1], rtol=1e-6)
    np.testing.assert_allclose(after[2], 1 - (1 - faded[0]) * 0.9, rtol=1e-6)
    assert batch.stats_ids.tolist() == [1]
    assert batch.stats["edge_epoch"].tolist() == [CLOCK.epoch]


def test_values_call_for_edges_as_strong_as_they_are_alike() -> None:
    pairs = np.array([[1, 2], [2, 1], [1, 9]], np.uint64)
    called_for = Associations(pairs, np.array([0.75, 1, 1], np.float32), Values.none(DIM))
    pending = Pending(deleted={2: None})
    assert not batch_of(pending, view(1, 2), window([]), called_for=called_for).edges
    rows = batch_of(Pending(), view(1, 2), window([]), called_for=called_for).edges
    assert rows[1][["target", "weight", "kind"]].tolist() == [(2, 0.75, EdgeKind.VALUE)]
    assert rows[2]["target"].tolist() == [1]


def test_uses_are_counted_and_the_deleted_and_unknown_left_out() -> None:
    pending = Pending(deleted={2: None, 50: None})
    pending.use(ids(1, 2), [1, 1])
    pending.use(ids(1, 60), np.array([4, 1]))
    batch = batch_of(pending, view(1, 2), window([]))
    assert batch.deleted.tolist() == [2]
    assert batch.stats_ids.tolist() == [1]
    assert batch.stats["frequency"].tolist() == [5]
    assert batch.stats["tick"].tolist() == [33]


def test_what_was_born_already_is_not_born_again() -> None:
    batch = batch_of(Pending(born={6: None}), view(1, 6), window([6, 7]))
    assert batch.concepts is None
    assert not len(batch.events)


def test_nothing_waiting_makes_an_empty_batch() -> None:
    pending = Pending()
    batch = batch_of(pending, view(), window([]))
    assert not len(pending)
    assert batch.concepts is None
    assert not (len(batch.deleted) + len(batch.stats_ids) + len(batch.edges) + len(batch.events))
    assert isinstance(batch, WriteBatch)


def test_vectors_come_along() -> None:
    memory = window([6])
    memory.append(memory.entries[:0], unit([]), np.empty((0, DIM), np.float32))
    batch = batch_of(Pending(born={6: None}), view(), memory)
    assert batch.concepts is not None
    assert batch.concepts.value_vectors is not None
    assert batch.concepts.value_vectors.shape == (1, DIM)


def test_a_newborn_is_fresh() -> None:
    (stats,) = newborn(ids(7), CLOCK, 55)
    assert (stats["created"], stats["modified"], stats["origin"]) == (55, 55, 7)
    assert (stats["epoch"], stats["tick"], stats["frequency"]) == (4, 33, 1)
    assert stats["relevance"] == stats["stability"] == 1
