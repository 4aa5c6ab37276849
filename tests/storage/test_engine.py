"""The engine: commit, refresh, the background graph."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from storage_backends.engine import Engine
from storage_backends.errors import StoreClosedError, StoreReadOnlyError, StoreUsageError
from storage_backends.faiss_index import HnswBase
from storage_backends.types import Contents, Floats, WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.picture import picture
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import assert_unchanged, frozen, shown
from tests.storage.stateful import valid_batches


def _engine(backing: Backing | None = None, exact_below: int = 10**6) -> Engine:
    return Engine(ReferenceStore(backing or Backing()), exact_below)


def _stored(backing: Backing) -> View:
    return View.of(ReferenceStore(backing).load())


def _until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_view_after_each_commit_shows_what_is_stored(data: st.DataObject) -> None:
    backing = Backing()
    writer, reader = _engine(backing, 2), Engine(ReferenceStore(backing, read_only=True), 10**6)
    past = []
    for _ in range(data.draw(st.integers(1, 6))):
        view = writer.commit(data.draw(valid_batches(picture(writer.store))))
        assert shown(view) == shown(writer.view()) == shown(_stored(backing))
        assert writer.verify() == []
        past.append((view, frozen(view)))
        if data.draw(st.booleans()):
            assert reader.refresh()
            assert not reader.refresh()
            assert shown(reader.view()) == shown(_stored(backing))
    for earlier, copy in past:
        assert_unchanged(earlier, copy)
    writer.close()


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
    assert after.id_map.ids.tolist() == [1, 2, 4]
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
    _until(lambda: reader.view().base)


def test_a_small_memory_keeps_no_tombstones_and_a_large_one_few() -> None:
    engine = _engine(exact_below=8)
    engine.commit(WriteBatch(concepts=concepts(range(1, 9))))
    assert engine.commit(WriteBatch(deleted=ids(3))).dead == 0
    engine.commit(WriteBatch(concepts=concepts(range(10, 22))))
    assert engine.commit(WriteBatch(deleted=ids(10, 11, 12))).dead == 3
    assert engine.commit(WriteBatch(deleted=ids(13, 14, 15))).dead == 0
    assert engine.view().node_count == 13
    engine.close()


def test_a_read_only_engine_refuses_to_commit() -> None:
    with pytest.raises(StoreReadOnlyError):
        Engine(ReferenceStore(Backing(), read_only=True)).commit(WriteBatch())


def test_verify_tells_where_view_and_store_differ() -> None:
    engine = _engine()
    view = engine.commit(WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)}))
    engine._view = replace(view, adjacency=view.adjacency.patched(2, *_no_row(view)))
    assert ["1 edges" in str(problem) for problem in engine.verify()] == [True]


def _no_row(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return view.slots(ids(1)), np.zeros(1, np.int64), view.adjacency.pool[:0]


# The graph that is built in the background.


class Builds:
    """Stands for `HnswBase.build`: counts the calls, waits to be released, may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.release = threading.Event()
        self.error: Exception | None = None
        self._build = HnswBase.build
        monkeypatch.setattr(HnswBase, "build", self)

    def __call__(self, keys: Floats, stop: threading.Event | None = None) -> HnswBase | None:
        self.sizes.append(len(keys))
        while not self.release.wait(0.005):
            if stop is not None and stop.is_set():
                return None
        if self.error is not None:
            raise self.error
        return self._build(keys, stop)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    return Builds(monkeypatch)


def test_a_memory_that_grew_large_gets_a_graph_while_it_goes_on(builds: Builds) -> None:
    engine = _engine(exact_below=20)
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    engine.commit(WriteBatch(concepts=concepts(range(31, 34)), deleted=ids(5)))
    assert engine.view().base is None
    builds.release.set()
    _until(lambda: engine.view().base)
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.size, builds.sizes) == (30, 33, [30])
    found = view.ids[view.index.search(view.keys[view.alive], 1)[0][:, 0]]
    assert found.tolist() == view.ids[view.alive].tolist()
    engine.close()


def test_a_graph_whose_slots_were_renumbered_meanwhile_is_not_taken(builds: Builds) -> None:
    engine = _engine(exact_below=20)
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    engine.commit(WriteBatch(deleted=ids(*range(1, 9))))
    assert (engine.view().size, engine.view().dead) == (22, 0)
    builds.release.set()
    _until(lambda: engine.view() and engine._builder is None)
    assert engine.view().base is None
    engine.commit(WriteBatch())
    _until(lambda: engine.view().base)
    assert builds.sizes == [30, 22]
    engine.close()


def test_a_graph_of_outdated_keys_is_not_taken(builds: Builds) -> None:
    engine = _engine(exact_below=20)
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    engine.commit(WriteBatch(concepts=concepts([7], seed=1)))
    builds.release.set()
    _until(lambda: engine.view() and engine._builder is None)
    assert engine.view().base is None
    engine.close()


def test_a_build_that_fails_is_told_and_not_tried_again_at_each_commit(
    builds: Builds, caplog: pytest.LogCaptureFixture
) -> None:
    engine = _engine(exact_below=20)
    builds.error = RuntimeError("no room")
    builds.release.set()
    with caplog.at_level(logging.ERROR, "aesg.storage"):
        for number in range(31, 37):
            wanted = range(1, 31) if number == 31 else [number]
            view = engine.commit(WriteBatch(concepts=concepts(wanted)))
            _until(lambda: engine.view() and engine._builder is None)
            slots, _ = view.index.search(view.keys, 1)
            assert slots[:, 0].tolist() == list(range(view.size))
    assert builds.sizes == [30]
    assert "30 concepts" in caplog.text
    assert "no room" in caplog.text
    builds.error = None
    engine.commit(WriteBatch(concepts=concepts(range(40, 50))))
    _until(lambda: engine.view().base)
    engine.close()


def test_close_stops_a_build(builds: Builds) -> None:
    engine = _engine(exact_below=20)
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    _until(lambda: builds.sizes)
    engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "aesg-index"]
    engine.close()
    with pytest.raises(StoreClosedError):
        engine.commit(WriteBatch())


def test_a_large_memory_gets_its_graph_after_it_is_opened() -> None:
    backing = Backing()
    _engine(backing).commit(WriteBatch(concepts=concepts(range(1, 31))))
    engine = _engine(backing, exact_below=20)
    _until(lambda: engine.view().base)
    base = engine.view().base
    assert base is not None
    assert base.size == 30


def test_a_reader_does_not_wait_for_a_commit(builds: Builds) -> None:
    engine = _engine(exact_below=20)
    view = engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    builds.release.set()
    assert engine._builder is not None
    _until(lambda: engine._builder is not None and engine._builder.done)
    seen: list[View] = []
    reader = threading.Thread(target=lambda: seen.append(engine.view()))
    with engine._lock:
        reader.start()
        reader.join(10)
    assert seen[0] is view
    assert engine.view().base is not None
    engine.close()
