"""What the engine does in the background, and that it disturbs nothing in front."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from storage_backends import housekeeping
from storage_backends.columns import Column
from storage_backends.engine import Engine
from storage_backends.errors import StoreClosedError
from storage_backends.hnsw import HnswBase
from storage_backends.layout import WRITER_LOCK
from storage_backends.locks import WriterLock
from storage_backends.progress import Progress
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, ids
from tests.storage.engines import (
    assert_shows_what_is_stored,
    engine_on,
    large_batch,
    settled,
    until,
    with_snapshot,
)
from tests.storage.reference_store import Backing, ReferenceStore


class Builds:
    """Stands for `HnswBase.build` and `extended`: counts, waits to be released, may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.extended: list[int] = []
        self.release = threading.Event()
        self.error: Exception | None = None
        self._build, self._extend = HnswBase.build, HnswBase.extended
        monkeypatch.setattr(HnswBase, "build", self)
        monkeypatch.setattr(HnswBase, "extended", lambda base, *given: self.extend(base, *given))

    def __call__(
        self, keys: Column[np.float32], stop: threading.Event | None, progress: Progress
    ) -> HnswBase | None:
        return self._build(keys, stop, progress) if self._released(keys, stop) else None

    def extend(
        self,
        base: HnswBase,
        keys: Column[np.float32],
        stop: threading.Event | None,
        progress: Progress,
    ) -> HnswBase | None:
        self.extended.append(len(keys))
        return self._extend(base, keys, stop, progress) if self._released(keys, stop) else None

    def _released(self, keys: Column[np.float32], stop: threading.Event | None) -> bool:
        self.sizes.append(len(keys))
        while not self.release.wait(0.002):
            if stop is not None and stop.is_set():
                return False
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    return Builds(monkeypatch)


@pytest.fixture
def no_long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.01)


def _assert_finds_each(engine: Engine) -> None:
    view = engine.view()
    live = np.flatnonzero(view.alive.whole())
    found, _ = view.index.search(view.keys[live], 1)
    assert found[:, 0].tolist() == live.tolist()


def test_a_memory_that_grew_large_gets_a_graph_while_it_goes_on(builds: Builds) -> None:
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    until(lambda: builds.sizes)
    engine.commit(WriteBatch(concepts=concepts(range(31, 34)), deleted=ids(5)))
    assert engine.view().base is None
    _assert_finds_each(engine)
    builds.release.set()
    until(lambda: engine.view().base)
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.size, view.dead, builds.sizes) == (30, 33, 1, [30])
    _assert_finds_each(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_graph_of_a_memory_that_grows_is_extended(builds: Builds) -> None:
    builds.release.set()
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    settled(engine)
    engine.commit(WriteBatch(concepts=concepts(range(31, 60))))
    settled(engine)
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.uncovered) == (59, 0)
    assert (builds.sizes, builds.extended) == ([30, 59], [59])
    _assert_finds_each(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_what_has_moved_stays_apart_from_a_graph_until_one_is_built_anew(builds: Builds) -> None:
    builds.release.set()
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    settled(engine)
    engine.commit(WriteBatch(concepts=concepts([7], seed=1)))
    engine.commit(WriteBatch(concepts=concepts(range(31, 60))))
    settled(engine)
    assert (builds.extended, engine.view().uncovered) == ([59], 1)
    _assert_finds_each(engine)
    engine.rebuild()
    assert (builds.extended, engine.view().uncovered) == ([59], 0)
    _assert_finds_each(engine)
    engine.close()


def test_a_graph_of_which_much_has_moved_is_built_anew(builds: Builds) -> None:
    builds.release.set()
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    settled(engine)
    engine.commit(WriteBatch(concepts=concepts(range(1, 4), seed=1)))
    engine.commit(WriteBatch(concepts=concepts(range(31, 40))))
    settled(engine)
    assert (engine.view().uncovered, builds.sizes, builds.extended) == (0, [30, 39], [])
    _assert_finds_each(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_key_that_was_replaced_during_the_build_is_found_where_it_is_now(builds: Builds) -> None:
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    until(lambda: builds.sizes)
    engine.commit(WriteBatch(concepts=concepts([7], seed=1)))
    builds.release.set()
    until(lambda: engine.view().base)
    assert engine.view().uncovered == 1
    _assert_finds_each(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_tombstones_of_a_large_memory_go_with_the_graph_that_led_to_them(builds: Builds) -> None:
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 41))))
    until(lambda: builds.sizes)
    engine.commit(WriteBatch(deleted=ids(*range(1, 12))))
    assert engine.view().dead == 11
    builds.release.set()
    settled(engine)
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.dead, builds.sizes) == (29, 0, [40, 29])
    _assert_finds_each(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_memory_that_became_small_has_no_graph(builds: Builds) -> None:
    builds.release.set()
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    settled(engine)
    engine.commit(WriteBatch(deleted=ids(*range(1, 16))))
    settled(engine)
    assert (engine.view().size, engine.view().base, builds.sizes) == (15, None, [30])
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_build_that_fails_is_told_and_not_tried_again_at_each_commit(
    builds: Builds, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_on()
    builds.error = RuntimeError("no room")
    builds.release.set()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    until(lambda: "no room" in caplog.text)
    for number in range(31, 37):
        engine.commit(WriteBatch(concepts=concepts([number])))
        _assert_finds_each(engine)
    assert builds.sizes == [30]
    told = [record.levelno for record in caplog.records if record.levelno > logging.INFO]
    assert told == [logging.WARNING]
    builds.error = None
    engine._housekeeper._rest_until = 0.0
    engine._housekeeper._woken.set()
    until(lambda: engine.view().base)
    assert builds.sizes == [30, 36]
    engine.close()


def test_close_stops_a_build(builds: Builds) -> None:
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    until(lambda: builds.sizes)
    thread = engine._housekeeper._thread
    assert thread is not None
    engine.close()
    assert not thread.is_alive()
    engine.close()
    with pytest.raises(StoreClosedError):
        engine.commit(WriteBatch())


def test_close_during_a_build_spares_the_next_open_the_records(
    builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = Backing(folder=tmp_path)
    engine = engine_on(backing)
    engine.commit(large_batch())
    until(lambda: builds.sizes)
    engine.close()

    def unread(store: ReferenceStore) -> None:
        raise AssertionError("read every record")

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceStore, "load", unread)
        engine = engine_on(backing)
    assert engine.view().base is None
    builds.release.set()
    settled(engine)
    assert engine.view().base is not None
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_rest_does_not_delay_close(
    builds: Builds, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_RETRY_SECONDS", 10**6)
    engine = engine_on()
    builds.error = RuntimeError("no room")
    builds.release.set()
    engine.commit(WriteBatch(concepts=concepts(range(1, 31))))
    until(lambda: "no room" in caplog.text)
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    until(lambda: not closing.is_alive())


def test_a_commit_does_not_fail_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = engine_on()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert engine.commit(WriteBatch(concepts=concepts(range(1, 31)))).node_count == 30
    assert "can't start new thread" in caplog.text
    engine.commit(WriteBatch())
    settled(engine)
    assert engine.view().base is not None
    engine.close()


@pytest.mark.usefixtures("no_long_rests")
def test_a_reader_builds_a_graph_only_where_no_writer_will(builds: Builds, tmp_path: Path) -> None:
    builds.release.set()
    backing = Backing(folder=tmp_path / "gen-000001")
    (tmp_path / "gen-000001").mkdir()
    ReferenceStore(backing).commit(large_batch())
    lock = WriterLock.acquire(tmp_path / WRITER_LOCK)
    reader = engine_on(backing, read_only=True)
    until(lambda: reader._housekeeper._rest_until > 0)
    assert builds.sizes == []
    lock.release()
    until(lambda: reader.refresh() or reader.view().base)
    assert builds.sizes == [30]
    assert list((tmp_path / "gen-000001").iterdir()) == []
    assert_shows_what_is_stored(reader)
    reader.close()


@pytest.mark.usefixtures("no_long_rests")
def test_a_graph_that_finds_too_little_is_built_anew(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds.release.set()
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 101))))
    settled(engine)
    recalls = [0.5, 1.0]
    monkeypatch.setattr(housekeeping, "sampled_recall", lambda view, seed: recalls.pop(0))
    engine.commit(WriteBatch(deleted=ids(1)))
    settled(engine)
    assert recalls == [0.5, 1.0]  # one in a hundred is not worth a look
    engine.commit(WriteBatch(deleted=ids(2)))
    settled(engine)
    assert recalls == []
    assert (builds.sizes, engine.view().dead) == ([100, 98], 0)
    engine.close()


@pytest.mark.usefixtures("no_long_rests")
def test_a_graph_that_is_poor_from_the_start_is_not_built_again_and_again(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds.release.set()
    monkeypatch.setattr(housekeeping, "sampled_recall", lambda view, seed: 0.6)
    engine = engine_on()
    engine.commit(WriteBatch(concepts=concepts(range(1, 101))))
    settled(engine)
    for number in range(1, 11):
        engine.commit(WriteBatch(deleted=ids(number)))
        settled(engine)
    assert builds.sizes == [100]
    engine.close()


@pytest.mark.usefixtures("no_long_rests")
def test_what_goes_wrong_in_the_background_reaches_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_on(Backing(folder=tmp_path))
    errors: list[BaseException] = [
        OSError(errno.EIO, "a disk"),
        ValueError("a mistake"),
        MemoryError("memory"),
    ]
    columns = View.columns

    def fail(view: View) -> object:
        if errors:
            raise errors.pop(0)
        return columns(view)

    monkeypatch.setattr(View, "columns", fail)
    engine.commit(large_batch())
    for number in range(40, 44):
        engine.commit(WriteBatch(concepts=concepts([number])))
    until(lambda: not errors and engine.shown.footing)
    settled(engine)
    for text in ("a disk", "a mistake", "memory"):
        assert text in caplog.text
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_forked_child_goes_on_reading_and_waits_for_nothing(
    builds: Builds, tmp_path: Path
) -> None:
    backing = with_snapshot_of(builds, tmp_path)
    builds.release.clear()
    engine = engine_on(backing)
    engine.commit(WriteBatch(concepts=concepts(range(50, 90))))
    until(lambda: len(builds.sizes) == 2)
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just this
    with engine._lock, engine._housekeeper._guard, engine._housekeeper._checking:
        pid = os.fork()
        if not pid:
            _read_and_exit(engine)
    limit = time.monotonic() + 30
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < limit, "the child hangs"
        time.sleep(0.01)
    assert ended == (pid, 0)
    builds.release.set()
    settled(engine)
    assert engine.view().base is not None
    assert_shows_what_is_stored(engine)
    engine.close()


def with_snapshot_of(builds: Builds, folder: Path) -> Backing:
    builds.release.set()
    return with_snapshot(folder)


def _read_and_exit(engine: Engine) -> None:
    status = 1
    try:
        _assert_finds_each(engine)
        engine.close()
        _assert_finds_each(engine)
        status = 0
    finally:
        os._exit(status)
