"""The engine: commit, refresh, verify."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from storage_backends.columns import Column
from storage_backends.engine import Engine
from storage_backends.errors import StoreReadOnlyError, StoreUsageError
from storage_backends.recovery import Shown
from storage_backends.types import Contents, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.engines import engine_on, settled, until
from tests.storage.picture import picture
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import assert_unchanged, frozen, shown
from tests.storage.stateful import valid_batches


def _engine(backing: Backing | None = None, exact_below: int = 10**6) -> Engine:
    return engine_on(backing, exact_below)


def _stored(backing: Backing) -> View:
    return View.of(ReferenceStore(backing).load())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), on_disk=st.booleans())
def test_the_view_after_each_commit_shows_what_is_stored(
    data: st.DataObject, on_disk: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backing = Backing(folder=Path(folder) if on_disk else None)
        writer = _engine(backing, 2)
        reader = Engine(ReferenceStore(backing, read_only=True), 10**6)
        past = []
        for _ in range(data.draw(st.integers(1, 6))):
            view = writer.commit(data.draw(valid_batches(picture(writer.store))))
            assert shown(view) == shown(writer.view()) == shown(_stored(backing))
            assert writer.verify() == []
            past.append((view, frozen(view)))
            if data.draw(st.booleans()):
                assert reader.refresh()
                assert shown(reader.view()) == shown(_stored(backing))
        for earlier, copy in past:
            assert_unchanged(earlier, copy)
        writer.close()
        reader.close()


def test_edges_to_deleted_concepts_go_with_them_from_disk_too() -> None:
    backing = Backing()
    engine = _engine(backing)
    engine.commit(
        WriteBatch(
            concepts=concepts([1, 2, 3, 4]), edges={1: edges(2, 3), 2: edges(1), 3: edges(2)}
        )
    )
    engine.commit(WriteBatch(deleted=ids(2), edges={4: edges(1, 2)}))
    for view in (engine.view(), _stored(backing)):
        targets = {s: view.edges(s)["target"].tolist() for s in (1, 2, 3, 4)}
        assert targets == {1: [3], 2: [], 3: [], 4: [1]}
    assert engine.verify() == []


def test_a_concept_that_is_deleted_and_put_again_is_a_new_one() -> None:
    backing = Backing()
    engine = _engine(backing)
    engine.commit(
        WriteBatch(concepts=concepts([1, 2, 3]), edges={1: edges(2), 2: edges(1), 3: edges(2)})
    )
    batch = WriteBatch(
        deleted=ids(2), concepts=concepts([2], seed=5), edges={2: edges(3), 3: edges(2, 1)}
    )
    view = engine.commit(batch)
    assert shown(view) == shown(_stored(backing))
    targets = {source: view.edges(source)["target"].tolist() for source in (1, 2, 3)}
    assert targets == {1: [], 2: [3], 3: [2, 1]}


def test_a_refused_batch_changes_nothing() -> None:
    engine = _engine()
    view = engine.commit(WriteBatch(concepts=concepts([1, 2])))
    with pytest.raises(StoreUsageError):
        engine.commit(WriteBatch(concepts=concepts([3]), edges={3: edges(60)}))
    with pytest.raises(StoreUsageError):
        engine.commit(WriteBatch(deleted=ids(2), edges={2: edges(1)}))
    assert engine.view() is view
    after = engine.commit(WriteBatch(concepts=concepts([4])))
    assert after.ids.whole().tolist() == [1, 2, 4]
    assert engine.verify() == []


def test_the_caller_may_reuse_what_it_passed() -> None:
    engine = _engine()
    batch = WriteBatch(
        concepts=concepts([1, 2], values="vector"),
        edges={1: edges(2)},
        stats_ids=ids(2),
        stats=stats([2], seed=3),
    )
    before = shown(engine.commit(batch))
    assert batch.concepts is not None
    assert batch.concepts.value_vectors is not None
    batch.concepts.keys[:] = 0
    batch.concepts.value_vectors[:] = 0
    batch.concepts.ids[:] = 9
    batch.edges[1]["weight"] = 0
    batch.stats["epoch"] = 0
    assert shown(engine.view()) == before


def test_a_commit_that_was_durable_but_not_shown_is_shown_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backing = Backing()
    engine = _engine(backing)

    def fail(view: View, changes: Contents) -> View:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(View, "advanced", fail)
        engine.commit(WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)}))
    assert not engine.view().node_count
    engine.commit(WriteBatch(concepts=concepts([3]), edges={3: edges(1)}))
    assert shown(engine.view()) == shown(_stored(backing))


def test_refresh_starts_anew_where_the_log_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    backing = Backing()
    writer, reader = _engine(backing), _engine(backing, exact_below=3)
    writer.commit(WriteBatch(concepts=concepts([1, 2, 3, 4, 5]), edges={1: edges(2)}))
    writer.commit(WriteBatch(deleted=ids(4)))
    monkeypatch.setattr(ReferenceStore, "changes", lambda store, since: None)
    assert reader.refresh()
    assert shown(reader.view()) == shown(_stored(backing))
    until(lambda: reader.refresh() or reader.view().base)
    writer.close()
    reader.close()


def test_a_small_memory_keeps_no_tombstones_and_a_large_one_few() -> None:
    engine = _engine(exact_below=8)
    engine.commit(WriteBatch(concepts=concepts(range(1, 9))))
    assert engine.commit(WriteBatch(deleted=ids(3))).dead == 0
    engine.commit(WriteBatch(concepts=concepts(range(10, 22))))
    settled(engine)
    engine.commit(WriteBatch(deleted=ids(10, 11, 12)))
    assert engine.view().dead == 3
    engine.commit(WriteBatch(deleted=ids(13, 14, 15)))
    settled(engine)
    assert (engine.view().node_count, engine.view().dead) == (13, 0)
    engine.close()


def test_a_read_only_engine_refuses_to_commit() -> None:
    with pytest.raises(StoreReadOnlyError):
        Engine(ReferenceStore(Backing(), read_only=True)).commit(WriteBatch())


# How much a reader waits for.


def test_who_reads_waits_neither_for_a_commit_nor_for_another_reader() -> None:
    backing = Backing()
    writer = _engine(backing)
    view = writer.commit(WriteBatch(concepts=concepts([1, 2])))
    reader = engine_on(backing, read_only=True)
    seen: list[object] = []

    def read() -> None:
        seen.extend([writer.view(), reader.is_current(), reader.refresh()])

    thread = threading.Thread(target=read)
    with writer._lock, reader._lock:
        thread.start()
        thread.join(10)
    assert seen == [view, True, False]


def test_a_reader_is_current_until_something_is_committed() -> None:
    backing = Backing()
    writer, reader = _engine(backing), engine_on(backing, read_only=True)
    assert reader.is_current()
    writer.commit(WriteBatch(concepts=concepts([1])))
    assert writer.is_current()
    assert not reader.is_current()
    assert not reader.view().node_count
    assert reader.refresh()
    assert reader.is_current()
    assert not reader.refresh()


# Verify.


def test_verify_tells_where_view_and_store_differ() -> None:
    engine, other = _engine(), _engine()
    batch = WriteBatch(
        concepts=concepts([1, 2, 5], values="mixed"), edges={1: edges(2)}, settings={"a": b"b"}
    )
    engine.commit(batch)
    assert engine.verify() == []
    others = {
        "norms": WriteBatch(concepts=concepts([2], seed=3)),
        "stats": WriteBatch(stats_ids=ids(2), stats=stats([2], seed=4)),
        "value_vectors": WriteBatch(concepts=concepts([5], seed=9, values="mixed")),
        "[2]: expected the edges": WriteBatch(edges={2: edges(1)}),
        "[1]: expected the edges": WriteBatch(edges={1: edges(5)}),
        "settings": WriteBatch(settings={"a": b"c"}),
        "3 concepts": WriteBatch(concepts=concepts([7])),
        "without 5": WriteBatch(deleted=ids(5)),
    }
    for wanted, change in others.items():
        other = _engine()
        other.commit(batch)
        other.commit(change)
        engine._shown = Shown(replace(other.view(), generation=1), None)
        problems = engine.verify()
        assert wanted in " ".join(map(str, problems)), wanted
        assert all(problem.table == "view" for problem in problems)


def test_verify_tells_of_what_a_view_keeps_beside_the_records() -> None:
    engine = _engine()
    view = engine.commit(WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)}))
    rows = view.adjacency.rows.whole().copy()
    rows["total"][1] += 1
    first = np.array([0])
    wrong = {
        "view[1]: expected the regions": replace(
            view, regions=view.regions.replaced(first, np.array([7], np.uint32))
        ),
        "view[1]: expected the edges": replace(
            view, adjacency=view.adjacency.restated(first, np.array([7], np.uint32))
        ),
        "view[2]: expected the edges": replace(
            view, adjacency=replace(view.adjacency, rows=Column.of(rows))
        ),
    }
    for wanted, other in wrong.items():
        engine._shown = Shown(other, None)
        assert wanted in " ".join(map(str, engine.verify())), wanted
