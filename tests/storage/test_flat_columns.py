"""Views over plain arrays: they show, find and spread what the view shows that they came from."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
from storage_backends.spreading import Part, Spread, spread
from storage_backends.types import Contents, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.picture import picture
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import assert_unchanged, frozen, shown
from tests.storage.stateful import valid_batches

#: Rows that are taken at a time from what is not at hand as a whole.
_PIECE = 7


def _written(view: View) -> dict[str, NDArray[Any]]:
    """Return the columns of a view as a file gives them: copies that nobody can write to."""
    columns = {}
    for name, rows in view.columns().items():
        columns[name] = np.empty(rows.shape, rows.dtype)
        for begin in range(0, len(rows), _PIECE):
            end = min(begin + _PIECE, len(rows))
            piece = rows[begin:end] if isinstance(rows, np.ndarray) else rows.part(begin, end)
            columns[name][begin:end] = piece
        columns[name].setflags(write=False)
    return columns


def _reopened(view: View) -> View:
    columns = _written(view)
    base = None if view.base is None else _reread(view.base, columns["keys"])
    return View.of_columns(columns, view.generation, view.settings, base)


def _reread(base: HnswBase, keys: NDArray[np.float32]) -> HnswBase:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph"
        with open(path, "wb") as file:
            base.write(file.write)
        return HnswBase.read(path, keys, check_links=True)


def _assert_alike(view: View, other: View) -> None:
    """Assert that two views agree slot by slot, and in what they find and where they spread."""
    assert shown(view) == shown(other)
    assert view.ids.whole().tolist() == other.ids.whole().tolist()
    assert view.alive.whole().tolist() == other.alive.whole().tolist()
    assert view.moved.tolist() == other.moved.tolist()
    assert view.uncovered == other.uncovered
    queries = np.random.default_rng(0).normal(size=(3, view.keys.shape[1])).astype(np.float32)
    slots, cosines = view.index.search(queries, 5)
    others, similar = other.index.search(queries, 5)
    np.testing.assert_allclose(cosines, similar, atol=1e-6)
    assert ((slots >= 0) == (others >= 0)).all()
    for found in (slots, others):
        assert other.alive[found[found >= 0]].all()
    for name, column in _spread(view, slots).items():
        np.testing.assert_array_equal(column, _spread(other, slots)[name], name)


def _spread(view: View, seeds: NDArray[np.int64]) -> dict[str, Any]:
    heard = np.where(seeds >= 0, np.float32(0.7), np.float32(0))
    how = Spread(2, 0.9, 1e-6, region_multiplier=1.5)
    part = Part(view.adjacency, view.ids, view.regions)
    return vars(spread([part], seeds, heard, how, 6))


def _changes(store: ReferenceStore, since: int) -> Contents:
    changes = store.changes(since)
    assert changes is not None
    return changes


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_view_that_was_written_and_opened_again_goes_on_like_one_that_was_not(
    data: st.DataObject,
) -> None:
    store = ReferenceStore(Backing())
    kept = opened = View.of(store.load())
    past = []
    for _ in range(data.draw(st.integers(1, 6))):
        store.commit(data.draw(valid_batches(picture(store))))
        changes = _changes(store, kept.generation)
        kept, opened = kept.advanced(changes), opened.advanced(changes)
        if kept.size and data.draw(st.integers(0, 3)) == 0:
            base = HnswBase.build(kept.keys)
            assert base is not None
            nowhere = np.empty(0, np.int64)
            kept, opened = (replace(view, base=base, moved=nowhere) for view in (kept, opened))
        if data.draw(st.booleans()):
            past.append((opened, frozen(opened)))
            opened = _reopened(opened)
            assert opened.outside == 0
        _assert_alike(opened, kept)
        past.append((opened, frozen(opened)))
    assert shown(opened.compacted()) == shown(kept.compacted()) == shown(View.of(store.load()))
    for earlier, copy in past:
        assert_unchanged(earlier, copy)


def _large() -> tuple[ReferenceStore, View]:
    """Return a store of 60 concepts and a view of it that was opened from plain arrays."""
    store = ReferenceStore(Backing())
    numbers = list(range(1, 61))
    links = {
        number: edges(*(other for other in (1, 2, 3) if other != number)) for number in numbers
    }
    store.commit(WriteBatch(concepts=concepts(numbers, values="mixed"), edges=links))
    return store, _reopened(View.of(store.load()))


def _advanced(store: ReferenceStore, view: View, batch: WriteBatch) -> View:
    store.commit(batch)
    return view.advanced(_changes(store, view.generation))


def test_a_change_copies_none_of_the_arrays_that_a_view_was_opened_from() -> None:
    store, view = _large()
    after = _advanced(store, view, WriteBatch(stats_ids=ids(7), stats=stats([7], seed=3)))
    after = _advanced(store, after, WriteBatch(concepts=concepts([5, 61], seed=1, values="mixed")))
    after = _advanced(store, after, WriteBatch(edges={9: edges(5, 61), 61: edges(9)}))
    after = _advanced(store, after, WriteBatch(deleted=ids(60)))
    for name in ("ids", "alive", "keys", "norms", "value_kinds", "value_ids", "stats", "regions"):
        assert getattr(after, name).base is getattr(view, name).base, name
    for name in ("rows", "leads", "rest"):
        assert getattr(after.adjacency, name).base is getattr(view.adjacency, name).base, name
    assert after.id_map.base is view.id_map.base
    assert after.outside == 5  # concepts 5, 7, 9, 60 and 61
    assert shown(after) == shown(View.of(store.load()))


def test_a_change_of_statistics_adds_nothing_to_the_regions_of_an_opened_view() -> None:
    store, view = _large()
    touched = view.stats[np.arange(20)]
    touched["frequency"] += 1
    touched["region"][3] += 1
    batch = WriteBatch(stats_ids=view.ids[np.arange(20)], stats=touched)
    after = _advanced(store, view, batch)
    assert after.regions.changed.tolist() == [3]
    assert len(after.stats.changed) == 20
    assert shown(after) == shown(View.of(store.load()))


def test_an_id_that_was_deleted_and_put_again_is_found_where_it_is_now() -> None:
    store, view = _large()
    view = _advanced(store, view, WriteBatch(edges={n: edges() for n in range(4, 61)}))
    gone = _advanced(store, view, WriteBatch(deleted=ids(40)))
    back = _advanced(store, gone, WriteBatch(concepts=concepts([40], seed=2)))
    for view in (back, _reopened(back), _reopened(_reopened(gone)).advanced(_changes(store, 3))):
        assert view.slots(ids(40, 41)).tolist() == [60, 40]
        assert shown(view) == shown(View.of(store.load()))
    assert gone.slots(ids(40)).tolist() == [-1]


def test_rows_that_are_all_the_same_are_written_once() -> None:
    store = ReferenceStore(Backing())
    store.commit(WriteBatch(concepts=concepts(range(1, 21))))
    columns = _written(View.of(store.load()))
    constant = {name for name, column in columns.items() if len(column) == 1}
    assert {"alive", "value_kinds", "value_ids", "edge_rows", "in_start"} <= constant
    assert {"sorted_ids", "sorted_slots"}.isdisjoint(columns)  # ids ascend
    opened = View.of_columns(columns, 1, {}, None)
    assert shown(opened) == shown(View.of(store.load()))


def test_edges_to_some_slots_are_found_in_whatever_part_they_are() -> None:
    store, view = _large()
    view = _advanced(store, view, WriteBatch(edges={1: edges(), 9: edges(50), 10: edges(4)}))
    targets = np.array([2, 49])
    wanted = [slot for slot in range(60) if slot not in (0, 2, 9)]
    assert view.adjacency.sources_of(targets).tolist() == wanted


@pytest.mark.parametrize(
    "name", ["keys", "totals", "stats.tick", "edge_rows", "in_source", "moved"]
)
def test_columns_of_which_one_is_missing_are_refused(name: str) -> None:
    columns = _written(_large()[1])
    del columns[name]
    with pytest.raises(StoreCorruptError, match=name):
        View.of_columns(columns, 1, {}, None)


@pytest.mark.parametrize(
    "name", ["keys", "norms", "stats.tick", "edge_rows", "leads", "rest", "in_start", "in_source"]
)
def test_columns_of_unequal_length_are_refused(name: str) -> None:
    columns = _written(_large()[1])
    columns[name] = np.resize(columns[name], (59, *columns[name].shape[1:]))
    with pytest.raises(StoreCorruptError, match="59"):
        View.of_columns(columns, 1, {}, None)


def test_readers_of_old_views_see_no_change_while_new_ones_are_made() -> None:
    store, view = _large()
    past = [(view, frozen(view))]
    failures: list[AssertionError] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for earlier, copy in past[-3:]:
                try:
                    assert_unchanged(earlier, copy)
                except AssertionError as failure:
                    failures.append(failure)

    reader = threading.Thread(target=read)
    reader.start()
    for seed in range(2, 32):
        put = concepts(range(seed, 63), seed=seed, values="mixed")
        view = _advanced(store, view, WriteBatch(concepts=put, edges={seed: edges(1, 60)}))
        past.append((view, frozen(view)))
    done.set()
    reader.join()
    assert not failures
    for earlier, copy in past:
        assert_unchanged(earlier, copy)
