"""Views: what they show, and that a commit never changes one that was handed out."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
from storage_backends.types import Contents, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.picture import picture
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import assert_unchanged, frozen, shown
from tests.storage.stateful import valid_batches


def _store(*batches: WriteBatch) -> ReferenceStore:
    store = ReferenceStore(Backing())
    for batch in batches:
        store.commit(batch)
    return store


def _changes(store: ReferenceStore, since: int) -> Contents:
    changes = store.changes(since)
    assert changes is not None
    return changes


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_following_change_sets_shows_what_a_fresh_load_shows_and_leaves_old_views_alone(
    data: st.DataObject,
) -> None:
    store = ReferenceStore(Backing())
    view = View.of(store.load())
    past = [(view, frozen(view))]
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(1, 3))):
            store.commit(data.draw(valid_batches(picture(store))))
        view = view.advanced(_changes(store, view.generation))
        fresh = View.of(store.load())
        assert shown(view) == shown(fresh)
        arranged = view.arranged()
        assert shown(arranged) == shown(fresh)
        assert arranged.ids.whole().tolist() == fresh.ids.whole().tolist()
        past.append((view, frozen(view)))
        if data.draw(st.booleans()):
            view = view.compacted()
            assert shown(view) == shown(past[-1][0])
            assert not view.dead
    for earlier, copy in past:
        assert_unchanged(earlier, copy)


def test_two_views_grow_from_one_without_disturbing_each_other() -> None:
    common = WriteBatch(concepts=concepts([1, 2, 3], values="mixed"), edges={1: edges(2, 3)})
    left = WriteBatch(concepts=concepts([4, 5], values="mixed"), edges={4: edges(1), 1: edges(5)})
    right = WriteBatch(concepts=concepts([6, 7], seed=9, values="mixed"), edges={7: edges(2)})
    root = View.of(_store(common).load())
    stores = [_store(common, batch) for batch in (left, right, left)]
    grown = [root.advanced(_changes(store, 1)) for store in stores]
    again = [view.advanced(_changes(s, 1)) for view, s in zip(grown[:1], stores[1:2], strict=True)]
    for view, store in zip(grown, stores, strict=True):
        assert shown(view) == shown(View.of(store.load()))
    assert set(again[0].ids.whole().tolist()) == {1, 2, 3, 4, 5, 6, 7}
    assert shown(root) == shown(View.of(_store(common).load()))


def test_an_advance_that_fails_leaves_the_view_usable() -> None:
    first = WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)})
    store = _store(first, WriteBatch(concepts=concepts([3, 4]), edges={3: edges(4), 2: edges(3)}))
    view = View.of(_store(first).load())
    whole = _changes(store, 1)
    broken = replace(whole, edge_sources=ids(2, 60))
    with pytest.raises(StoreCorruptError, match="60"):
        view.advanced(broken)
    assert shown(view) == shown(View.of(_store(first).load()))
    assert shown(view.advanced(whole)) == shown(View.of(store.load()))


@pytest.mark.parametrize("again", [[1, 2], [2], [3]])
def test_an_emptied_memory_takes_another_width_even_under_the_same_ids(again: list[int]) -> None:
    wide = concepts(again, dim=7, values="vector")
    links = {2: edges(1)} if again == [1, 2] else {}
    store = _store(
        WriteBatch(concepts=concepts([1, 2], dim=3, values="vector"), edges={1: edges(2)}),
        WriteBatch(deleted=ids(1, 2), concepts=wide, edges=links),
    )
    view = View.of(store.load())
    start = View.of(_store(WriteBatch(concepts=concepts([1, 2], dim=3))).load())
    assert view.vector_dim == 7
    assert shown(start.advanced(_changes(store, 1))) == shown(view)


def test_a_memory_without_concepts_has_no_width_and_finds_nothing() -> None:
    store = _store(WriteBatch(concepts=concepts([1])), WriteBatch(deleted=ids(1)))
    for view in (
        View.of(_store().load()),
        View.of(_store(WriteBatch(concepts=concepts([1]))).load()).advanced(_changes(store, 1)),
    ):
        assert (view.vector_dim, view.node_count, view.edge_count) == (0, 0, 0)
        assert view.slots(ids(1)).tolist() == [-1]
        assert not len(view.edges(1))
        slots, cosines = view.index.search(np.ones((2, view.keys.shape[1]), np.float32), 3)
        assert slots.tolist() == [[-1] * 3] * 2
        assert not cosines.any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_keys_are_unit_and_their_length_is_kept(scale: float) -> None:
    put = concepts([1, 2, 3], dim=5)
    raw = put.keys * np.float32(scale)
    raw[1] = 0
    view = View.of(_store(WriteBatch(concepts=replace(put, keys=raw))).load())
    np.testing.assert_allclose(np.linalg.norm(view.keys.whole(), axis=1), [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(view.raw_keys(np.arange(3)), raw, rtol=1e-6)


def test_a_deleted_concept_is_not_found_and_has_no_edges() -> None:
    store = _store(WriteBatch(concepts=concepts([1, 2, 3]), edges={1: edges(2), 2: edges(1, 3)}))
    view = View.of(store.load())
    query = view.keys[view.slots(ids(2))]
    store.commit(WriteBatch(deleted=ids(2), edges={1: edges()}))
    after = view.advanced(_changes(store, 1))
    assert (after.dead, after.edge_count) == (1, 0)
    assert after.ids[int(after.index.search(query, 1)[0][0, 0])] != 2
    assert view.ids[int(view.index.search(query, 1)[0][0, 0])] == 2


def test_edges_are_shown_the_strongest_first_and_as_of_the_epoch_of_their_statistics() -> None:
    row = edges(2, 3, 4)
    row["weight"], row["confidence"] = [0.5, 1.0, 0.25], [0.5, 0.5, 1.0]
    known = concepts([1, 2, 3, 4])
    known.stats["edge_epoch"] = 6
    store = _store(WriteBatch(concepts=known, edges={1: row, 2: edges(1)}))
    view = View.of(store.load())
    slots = view.slots(ids(1, 2, 3))
    assert view.edges(1)["target"].tolist() == [3, 2, 4]
    shown_rows = [each["target"].tolist() for each in view.rows_of(slots)]
    assert shown_rows == [[3, 2, 4], [1], []]
    assert view.rows_of(slots[:0]) == []
    assert view.edge_epochs(slots).tolist() == [6, 6, 0]
    later = known.stats[:1].copy()
    later["edge_epoch"] = 9
    store.commit(WriteBatch(stats_ids=ids(1), stats=later))
    after = view.advanced(_changes(store, 1))
    assert after.edge_epochs(slots).tolist() == [9, 6, 0]
    assert view.edge_epochs(slots).tolist() == [6, 6, 0]
    assert after.adjacency.leads is view.adjacency.leads


def test_regions_are_replaced_only_where_they_change() -> None:
    known = concepts([1, 2, 3])
    known.stats["region"] = [4, 4, 0]
    store = _store(WriteBatch(concepts=known))
    view = View.of(store.load())
    touched = known.stats.copy()
    touched["frequency"] += 1
    store.commit(WriteBatch(stats_ids=known.ids, stats=touched))
    after = view.advanced(_changes(store, 1))
    assert after.regions is view.regions
    touched["region"] = [4, 5, 0]
    store.commit(WriteBatch(stats_ids=known.ids, stats=touched))
    moved = after.advanced(_changes(store, 2))
    assert moved.regions.whole().tolist() == [4, 5, 0]
    assert after.regions.whole().tolist() == [4, 4, 0]


_WHOLE = _store(WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)})).load()


@pytest.mark.parametrize(
    "contents",
    [
        replace(_WHOLE, edge_sources=ids(9)),
        replace(_WHOLE, edges=edges(9)),
        replace(_WHOLE, stats_ids=ids(9), stats=stats([9])),
        replace(_WHOLE, deleted=ids(9)),
    ],
    ids=["source", "target", "statistics", "deletion"],
)
def test_a_record_of_a_concept_that_is_not_held_is_refused(contents: Contents) -> None:
    with pytest.raises(StoreCorruptError, match="got 9"):
        View.of(contents)


def test_the_graph_stays_while_its_keys_do() -> None:
    first = concepts(range(1, 9))
    store = _store(WriteBatch(concepts=first))
    plain = View.of(store.load())
    base = HnswBase.build(plain.keys)
    view = replace(plain, base=base)
    revalued = concepts([2, 9], values="vector")
    same_key = replace(revalued, keys=np.stack([first.keys[1], revalued.keys[1]]))
    store.commit(WriteBatch(concepts=same_key))
    view = view.advanced(_changes(store, 1))
    assert view.base is base
    store.commit(WriteBatch(concepts=concepts([9], seed=1)))
    view = view.advanced(_changes(store, 2))
    assert view.base is base
    assert not len(view.moved)


def test_a_moved_key_is_found_where_it_is_now() -> None:
    store = _store(WriteBatch(concepts=concepts(range(1, 9))))
    view = View.of(store.load())
    view = replace(view, base=HnswBase.build(view.keys))
    was = view.keys[np.array([1])]
    store.commit(WriteBatch(concepts=concepts([2], seed=1)))
    after = view.advanced(_changes(store, 1))
    now = after.keys[np.array([1])]
    assert (after.base, after.moved.tolist(), after.uncovered) == (view.base, [1], 1)
    assert after.index.search(now, 1)[0].tolist() == [[1]]
    np.testing.assert_allclose(after.index.search(now, 1)[1], 1, atol=1e-6)
    slots, cosines = after.index.search(was, 8)
    np.testing.assert_allclose(cosines[0], np.sort(-after.keys[slots[0]] @ was[0]) * -1, atol=1e-6)
    assert view.index.search(was, 1)[0].tolist() == [[1]]
    assert shown(after) == shown(View.of(store.load()))
