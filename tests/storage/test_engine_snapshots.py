"""The engine and its snapshots: what is mapped, what is replayed, what is given up."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage_backends import column_file, folders, housekeeping, snapshot, staleness
from storage_backends.errors import StoreCorruptError, StoreFullError
from storage_backends.snapshot import Manifest
from storage_backends.types import WriteBatch
from storage_backends.view import View
from tests.storage.build import concepts, edges, ids, stats
from tests.storage.engines import (
    assert_shows_what_is_stored,
    engine_on,
    files,
    large_batch,
    settled,
    stored,
    until,
    with_snapshot,
)
from tests.storage.reference_store import Backing, ReferenceStore
from tests.storage.shown import shown


class Loads:
    """Counts the times that all records of a reference store are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        load = ReferenceStore.load

        def counting(store: ReferenceStore) -> object:
            self.count += 1
            return load(store)

        monkeypatch.setattr(ReferenceStore, "load", counting)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


@pytest.fixture(autouse=True)
def no_long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.01)


# Opening.


@pytest.mark.parametrize("read_only", [False, True])
def test_an_open_maps_the_snapshot_and_reads_no_record(
    tmp_path: Path, loads: Loads, read_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backing = with_snapshot(tmp_path)
    loads.count = 0
    with caplog.at_level(logging.INFO, "aesg.storage"):
        engine = engine_on(backing, read_only=read_only)
        settled(engine)
    assert loads.count == 0
    assert "snapshot of generation 1 mapped, 0 replayed" in caplog.text
    assert "30 concepts and 60 edges" in caplog.text
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.outside, view.uncovered) == (30, 0, 0)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_what_came_after_the_snapshot_is_replayed(tmp_path: Path, loads: Loads) -> None:
    backing = with_snapshot(tmp_path, 60)
    writer = ReferenceStore(backing)
    writer.commit(WriteBatch(concepts=concepts([70], seed=3), edges={70: edges(1), 5: edges(70)}))
    writer.commit(WriteBatch(deleted=ids(9), edges={7: edges(8), 8: edges(10)}))
    writer.commit(WriteBatch(stats_ids=ids(3), stats=stats([3], 9), concepts=concepts([4], seed=8)))
    loads.count = 0
    engine = settled(engine_on(backing))
    assert loads.count == 0
    assert engine.view().base is not None
    assert engine.view().dead == 1
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_small_memory_has_neither_files_nor_a_thread(tmp_path: Path) -> None:
    engine = engine_on(Backing(folder=tmp_path))
    for number in range(1, 20):
        engine.commit(WriteBatch(concepts=concepts([number]), deleted=ids()))
        assert engine._housekeeper._thread is None
    engine.close()
    assert files(tmp_path) == []


def test_a_memory_of_few_concepts_with_many_edges_has_a_snapshot_without_a_graph(
    tmp_path: Path, loads: Loads
) -> None:
    backing = Backing(folder=tmp_path)
    engine = engine_on(backing)
    wanted = range(1, 19)
    everywhere = {i: edges(*(j for j in wanted if j != i)) for i in wanted}
    engine.commit(WriteBatch(concepts=concepts(wanted), edges=everywhere))
    settled(engine).close()
    assert files(tmp_path) == ["columns-000001.aesg"]
    loads.count = 0
    engine = settled(engine_on(backing))
    assert loads.count == 0
    assert engine.view().base is None
    assert_shows_what_is_stored(engine)
    engine.close()


def test_files_that_an_interrupted_process_left_go_at_the_next_open_of_a_writer(
    tmp_path: Path,
) -> None:
    backing = with_snapshot(tmp_path)
    named = files(tmp_path)
    for name in ("columns-000007.aesg", "index-000007.faiss.new", "columns-000008.aesg.new"):
        (tmp_path / name).write_bytes(b"half")
    settled(engine_on(backing, read_only=True)).close()
    assert len(files(tmp_path)) == len(named) + 3
    settled(engine_on(backing)).close()
    assert files(tmp_path) == named


# What makes a snapshot useless.


@pytest.mark.parametrize("version", [1, 3])
def test_a_snapshot_of_another_release_is_given_up_and_made_anew(
    tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    with monkeypatch.context() as other:
        other.setattr(column_file, "VERSION", version)
        backing = with_snapshot(tmp_path)
    before = files(tmp_path)
    loads.count = 0
    for _ in range(2):
        engine = settled(engine_on(backing))
        assert_shows_what_is_stored(engine)
        engine.close()
    assert files(tmp_path) != before
    loads.count = 0
    settled(engine_on(backing)).close()
    assert loads.count == 0


def _flip(path: Path) -> None:
    """Change one byte of a file and nothing else that can be seen."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _flip_and_touch(path: Path) -> None:
    _flip(path)
    os.utime(path)


def _zero_a_page(path: Path) -> None:
    content = path.read_bytes()
    begin = len(content) // 2 // 4096 * 4096
    path.write_bytes(
        content[:begin] + bytes(len(content[begin : begin + 4096])) + content[begin + 4096 :]
    )


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "flipped, with another time": _flip_and_touch,
    "a zeroed page": _zero_a_page,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "other content": lambda path: path.write_bytes(b"nothing of ours"),
    "missing": os.unlink,
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("name", ["columns-000001.aesg", "index-000001.faiss"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_told_and_answers_are_right(
    tmp_path: Path,
    damage: str,
    name: str,
    read_only: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backing = with_snapshot(tmp_path)
    DAMAGES[damage](tmp_path / name)
    with caplog.at_level(logging.WARNING, "aesg.storage"):
        engine = engine_on(backing, read_only=read_only)
        settled(engine)
    assert name in caplog.text
    engine.refresh()
    assert shown(engine.view()) == shown(stored(engine.store))
    assert bool(engine.verify()) == read_only  # a writer has put another in its place
    settled(engine)
    engine.refresh()
    found, _ = engine.view().index.search(engine.view().keys.whole(), 1)
    assert engine.view().ids[found[:, 0]].tolist() == engine.view().ids.whole().tolist()
    engine.close()


@pytest.mark.parametrize("record", [b"", b"nothing of ours", b"\xff" * 80])
def test_a_manifest_that_cannot_be_read_is_no_snapshot(tmp_path: Path, record: bytes) -> None:
    backing = with_snapshot(tmp_path)
    ReferenceStore(backing).publish(record, 1)
    engine = settled(engine_on(backing))
    assert_shows_what_is_stored(engine)
    engine.close()
    assert Manifest.decode(backing.manifest).generation == 1


def test_where_the_log_is_too_short_every_record_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loads: Loads,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backing = with_snapshot(tmp_path)
    ReferenceStore(backing).commit(WriteBatch(concepts=concepts([50])))
    with monkeypatch.context() as patch:
        patch.setattr(ReferenceStore, "changes", lambda store, since: None)
        loads.count = 0
        engine = engine_on(backing, 10**6, read_only=True)
    assert loads.count == 1
    assert "log" in caplog.text
    assert shown(engine.view()) == shown(stored(engine.store))
    engine.close()


def test_a_snapshot_that_contradicts_the_log_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backing = with_snapshot(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    strange = snapshot.copy_files(
        other, Manifest.decode(with_snapshot(other, 22).manifest), tmp_path
    )
    writer = ReferenceStore(backing)
    writer.publish(strange.encode(), 1)
    # The other memory never had this one.
    writer.commit(WriteBatch(deleted=ids(29), edges={27: edges(28), 28: edges(30)}))
    engine = settled(engine_on(backing))
    assert "29" in caplog.text
    assert_shows_what_is_stored(engine)
    engine.close()


def test_a_damaged_view_gets_nothing_into_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    _flip(tmp_path / "columns-000001.aesg")
    monkeypatch.setattr(housekeeping.Housekeeper, "wake", lambda keeper, newer=False: None)
    engine = engine_on(backing)
    batch = WriteBatch(concepts=concepts([70]))
    with pytest.raises(StoreCorruptError, match="make it again"):
        engine.commit(batch)
    assert len(backing.states) == 2
    assert shown(engine.view()) == shown(stored(engine.store))
    engine.commit(batch)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_no_commit_goes_by_a_snapshot_that_has_not_been_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    monkeypatch.setattr(housekeeping.Housekeeper, "wake", lambda keeper, newer=False: None)
    engine = engine_on(backing)
    footing = engine.shown.footing
    assert footing is not None
    assert not footing.checked
    engine.commit(WriteBatch(concepts=concepts([70])))
    assert engine.shown.footing is not None
    assert engine.shown.footing.checked
    engine.close()


def test_a_copied_snapshot_is_examined_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    for name in files(tmp_path):
        shutil.copy(tmp_path / name, tmp_path / "copy")
        os.replace(tmp_path / "copy", tmp_path / name)
    examined = []
    find = snapshot.find_problems

    def counting(*arguments: object) -> object:
        examined.append(arguments)
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "find_problems", counting)
    monkeypatch.setattr(housekeeping.Housekeeper, "wake", lambda keeper, newer=False: None)
    for before in ("examined", "trusted"):
        engine = engine_on(backing)
        assert engine.shown.footing is not None, before
        assert engine.shown.footing.checked == (before == "examined")
        assert len(examined) == 1
        engine.store.close()


def test_verify_tells_of_a_snapshot_that_is_damaged(tmp_path: Path) -> None:
    engine = settled(engine_on(with_snapshot(tmp_path)))
    assert engine.verify() == []
    _flip(tmp_path / "index-000001.faiss")
    assert ["index-000001.faiss" in str(problem) for problem in engine.verify()] == [True]
    engine.close()


def test_verify_lists_what_keeps_the_records_from_making_a_view(tmp_path: Path) -> None:
    backing = Backing(folder=tmp_path)
    engine = engine_on(backing)
    engine.commit(WriteBatch(concepts=concepts([1, 2]), edges={1: edges(2)}))
    del backing.states[-1].concepts[2]
    assert {problem.table for problem in engine.verify()} == {"adjacency", "view"}
    engine.close()


# Writing.


def test_a_snapshot_is_mapped_by_the_process_that_wrote_it(tmp_path: Path) -> None:
    engine = engine_on(Backing(folder=tmp_path))
    engine.commit(large_batch())
    settled(engine)
    view = engine.view()
    assert isinstance(view.keys.base, np.ndarray)
    assert not view.keys.base.flags.writeable
    assert not len(view.keys.tail)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_changes_to_much_of_it_are_written_with_the_same_graph(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path, 60)
    engine = engine_on(backing)
    few = [1, 2, 3]
    engine.commit(WriteBatch(stats_ids=ids(*few), stats=stats(few, 5)))
    assert settled(engine).shown.footing is not None
    assert files(tmp_path) == ["columns-000001.aesg", "index-000001.faiss"]
    many = range(1, 31)
    engine.commit(WriteBatch(stats_ids=ids(*many), stats=stats(many, 5)))
    settled(engine)
    assert files(tmp_path) == ["columns-000002.aesg", "index-000001.faiss"]
    assert engine.view().outside == 0
    assert engine.view().base is not None
    assert_shows_what_is_stored(engine)
    engine.close()


def test_many_generations_are_written_though_little_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "MOST_REPLAYED", 5)
    backing = with_snapshot(tmp_path)
    engine = engine_on(backing)
    for _ in range(6):
        assert "columns-000001.aesg" in files(tmp_path)
        engine.commit(WriteBatch())
        settled(engine)
    assert "columns-000002.aesg" in files(tmp_path)
    engine.close()


@pytest.mark.parametrize("changed, written", [(3, False), (5, True)])
def test_close_writes_what_would_take_long_to_replay(
    tmp_path: Path, changed: int, written: bool
) -> None:
    backing = with_snapshot(tmp_path, 60)
    engine = engine_on(backing)
    touched = range(1, changed + 1)
    engine.commit(WriteBatch(stats_ids=ids(*touched), stats=stats(touched, 5)))
    settled(engine).close()
    assert ("columns-000002.aesg" in files(tmp_path)) == written
    engine = settled(engine_on(backing))
    assert engine.view().outside == (0 if written else changed)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_growth_beyond_the_graph_is_written_with_a_new_one(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path)
    engine = engine_on(backing)
    engine.commit(WriteBatch(concepts=concepts(range(101, 116)), deleted=ids(4, 5)))
    settled(engine)
    view = engine.view()
    assert view.base is not None
    assert (view.base.size, view.size, view.dead) == (43, 43, 0)
    assert files(tmp_path) == ["columns-000002.aesg", "index-000002.faiss"]
    assert_shows_what_is_stored(engine)
    engine.close()


def test_commits_during_a_snapshot_are_in_the_view_that_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = Backing(folder=tmp_path)
    engine = engine_on(backing)
    write = snapshot.write

    def busy(folder: Path, seq: int, view: View, **named: object) -> Manifest:
        engine.commit(WriteBatch(concepts=concepts([200 + seq]), deleted=ids(seq)))
        return write(folder, seq, view, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "write", busy)
    engine.commit(large_batch())
    settled(engine)
    assert len(backing.states) > 2
    assert engine.shown.footing is not None
    assert_shows_what_is_stored(engine)
    monkeypatch.undo()
    engine.close()


def test_a_full_disk_stops_the_snapshot_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: Path, seq: int, *rest: object, **named: object) -> Manifest:
        (folder / f"columns-{seq:06}.aesg.new").write_bytes(b"half")
        raise StoreFullError("no room")

    backing = Backing(folder=tmp_path)
    engine = engine_on(backing)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write", full)
        engine.commit(large_batch())
        until(lambda: "no room" in caplog.text and engine.view().base)
        engine.commit(WriteBatch(concepts=concepts([40])))
        assert_shows_what_is_stored(engine)
        assert backing.manifest_seq == 0
    settled(engine)
    assert backing.manifest_seq == 1
    assert engine.shown.footing is not None
    assert [name for name in files(tmp_path) if name.endswith(".new")] == []
    assert_shows_what_is_stored(engine)
    engine.close()


def test_no_snapshot_is_begun_that_would_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folders, "room_in", lambda folder: 1 << 20)
    monkeypatch.setattr(snapshot, "write", None)
    engine = engine_on(Backing(folder=tmp_path))
    engine.commit(large_batch())
    until(lambda: "expected room for" in caplog.text)
    engine.commit(WriteBatch(concepts=concepts([40])))
    assert_shows_what_is_stored(engine)
    engine.close()
    assert files(tmp_path) == []


def test_room_is_asked_for_as_much_as_a_snapshot_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(folders, "require_room", lambda folder, needed: asked.append(needed))
    engine = engine_on(Backing(folder=tmp_path))
    wanted = range(1, 3001)
    engine.commit(
        WriteBatch(
            concepts=concepts(wanted, dim=24, values="mixed"),
            edges={i: edges(i % 3000 + 1, (i + 1) % 3000 + 1) for i in wanted},
        )
    )
    settled(engine)
    taken = sum((tmp_path / name).stat().st_size for name in files(tmp_path))
    assert taken <= asked[0] <= 2 * taken
    engine.close()


def test_a_rebuild_drops_tombstones_and_writes(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path, 60)
    engine = engine_on(backing)
    engine.commit(WriteBatch(deleted=ids(7)))
    assert engine.view().dead == 1
    view = engine.rebuild()
    assert view is engine.view()
    assert view.base is not None
    assert (view.dead, view.outside, view.base.size) == (0, 0, 59)
    assert_shows_what_is_stored(engine)
    engine.close()
    assert files(tmp_path) == ["columns-000002.aesg", "index-000002.faiss"]


def test_a_rebuild_that_cannot_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    engine = settled(engine_on(backing))

    def full(*rest: object, **named: object) -> Manifest:
        raise StoreFullError("no room")

    with monkeypatch.context() as patch, pytest.raises(StoreFullError):
        patch.setattr(snapshot, "write", full)
        engine.rebuild()
    assert engine.view().base is not None
    settled(engine)
    assert_shows_what_is_stored(engine)
    engine.close()


def test_another_memory_at_the_same_place_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = with_snapshot(tmp_path)
    engine = settled(engine_on(backing))
    engine.commit(WriteBatch(stats_ids=ids(1, 2, 3), stats=stats([1, 2, 3], 5)))
    settled(engine)
    before = files(tmp_path)
    monkeypatch.setattr(ReferenceStore, "is_current", lambda store: False)
    engine.close()
    assert files(tmp_path) == before


# Readers.


def test_a_reader_maps_what_the_writer_wrote(tmp_path: Path, loads: Loads) -> None:
    backing = Backing(folder=tmp_path)
    writer, reader = engine_on(backing), engine_on(backing, read_only=True)
    writer.commit(large_batch())
    settled(writer)
    assert reader.refresh()
    settled(reader)
    assert not reader.refresh()
    view = reader.view()
    assert (view.generation, view.outside) == (1, 0)
    assert view.base is not None
    assert reader.shown.footing == writer.shown.footing
    assert_shows_what_is_stored(reader)
    writer.rebuild()
    assert not reader.refresh()
    settled(reader)
    reader.refresh()
    assert reader.shown.footing == writer.shown.footing
    assert_shows_what_is_stored(reader)
    writer.close()
    reader.close()


def test_a_readers_view_changes_only_when_it_refreshes(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path)
    writer, reader = engine_on(backing), engine_on(backing, read_only=True)
    settled(reader)
    view = reader.view()
    writer.rebuild()
    writer.commit(WriteBatch(concepts=concepts([70])))
    reader._housekeeper.wake(newer=True)
    settled(reader)
    assert reader.view() is view
    assert reader.refresh()
    assert reader.view().generation == 2
    assert_shows_what_is_stored(reader)
    writer.close()
    reader.close()


def test_a_reader_whose_files_were_removed_meanwhile_takes_the_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: Loads
) -> None:
    backing = with_snapshot(tmp_path)
    writer = settled(engine_on(backing))
    open_view = snapshot.open_view
    tried = []

    def late(folder: Path, manifest: Manifest, settings: dict[str, bytes]) -> View:
        tried.append(manifest.columns.name)
        if len(tried) == 1:
            writer.rebuild()
        return open_view(folder, manifest, settings)

    loads.count = 0
    monkeypatch.setattr(snapshot, "open_view", late)
    reader = engine_on(backing, read_only=True)
    assert tried[0] == "columns-000001.aesg"
    assert tried[-1] == "columns-000002.aesg"
    assert loads.count == 0
    assert_shows_what_is_stored(settled(reader))
    reader.close()
    writer.close()


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    backing = with_snapshot(tmp_path)
    before = {name: (tmp_path / name).stat() for name in files(tmp_path)}
    store = ReferenceStore(backing)
    store.commit(WriteBatch(concepts=concepts(range(100, 130))))
    reader = settled(engine_on(backing, read_only=True))
    assert reader.refresh() is False
    reader.close()
    after = {name: (tmp_path / name).stat() for name in files(tmp_path)}
    assert after == before
    assert backing.manifest_seq == 1
