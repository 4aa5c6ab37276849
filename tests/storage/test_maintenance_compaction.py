"""Compaction: nothing lost, readers undisturbed, room given back, a crash at any instant."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from storage_backends import codec, compaction, folders, layout
from storage_backends.compaction import compact, expect
from storage_backends.engine import Engine
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
)
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.repair import repair
from storage_backends.types import WriteBatch
from tests.storage import maintenance_children as children
from tests.storage.build import concepts, events, ids
from tests.storage.damage import PAGE, flip, key_of, make, overwrite, replace_record
from tests.storage.engines import LARGE, large_batch
from tests.storage.history import batch_of
from tests.storage.limits import disk_of, fill
from tests.storage.picture import picture
from tests.storage.processes import child, line, run_child
from tests.tool_runs import let_others_in


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Return a memory with a history: most pages of its file are free, an alias leads nowhere."""
    directory = tmp_path / "memory"
    make(directory, *map(batch_of, range(1, 60)))
    (record,) = codec.encode_aliases(ids(63), ids(62))
    replace_record(directory, codec.ALIAS, key_of(63), record)
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        assert store.resolve(ids(63)).tolist() == [0]
    return directory


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a memory that counts as large, with a snapshot and tombstones in it."""
    directory = tmp_path / "large"
    make_large(directory)
    monkeypatch.setattr(compaction, "Engine", partial(Engine, exact_below=LARGE))
    monkeypatch.setattr(compaction, "EXACT_BELOW", LARGE)
    return directory


def make_large(directory: Path) -> None:
    with closing(Engine(LMDBStore.open(directory), LARGE)) as engine:
        aliases = {63: 9} | dict.fromkeys(range(100, 150), 7)
        engine.commit(replace(large_batch(60), aliases=aliases, events=events(range(9))))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(7, 8), settings={"max_events": b"5"}))
        assert engine.view().dead


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_file_shrinks_and_holds_what_it_held(memory: Path) -> None:
    with closing(LMDBStore.open(memory, read_only=True)) as store:
        before = picture(store)
    report = compact(memory, verify=True)
    assert (report.done, report.problems, report.folder) == (True, (), "gen-000002")
    assert report.after.aliases == report.before.aliases - 1
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000002"]
    size = (memory / "gen-000002" / layout.DATA).stat().st_size
    assert report.after.data_bytes == size < report.before.data_bytes / 2
    with closing(LMDBStore.open(memory)) as store:
        assert store.verify() == []
        assert picture(store) == before
        assert store.commit(batch_of(60)) == 60


def test_tombstones_go_and_the_graph_covers_all(large: Path) -> None:
    report = compact(large, verify=True)
    assert (report.before.tombstones, report.after.tombstones) == (2, 0)
    assert report.after.concepts == 58
    assert report.after.snapshot_bytes > 0
    with closing(Engine(LMDBStore.open(large, read_only=True), LARGE)) as engine:
        assert engine.verify() == []
        view = engine.view()
        assert (view.size, view.dead, view.outside) == (58, 0, 0)
        assert view.base is not None
        assert view.base.size == 58


def test_a_dry_run_says_what_comes_and_changes_nothing(large: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in large.rglob("*") if "lock" not in path.name}
    expected = expect(large)
    after = {path: path.stat().st_mtime_ns for path in large.rglob("*") if "lock" not in path.name}
    assert (expected.dry_run, expected.done) == (True, True)
    assert after == before
    report = compact(large)
    assert expected.before == report.before
    # The new snapshot is published by transactions that take a few pages.
    assert 0 <= report.after.data_bytes - expected.after.data_bytes <= 16 * 4096
    assert report.after.snapshot_bytes <= 2 * expected.after.snapshot_bytes
    assert expected.needed_bytes < expected.available_bytes


def test_a_writer_is_named_and_left_alone(memory: Path) -> None:
    with child(children.hold, memory) as writer:
        pid = line(writer)
        with pytest.raises(StoreLockedError, match=f"process {pid} "):
            compact(memory)
        expected = expect(memory)
        assert not expected.done
        assert f"process {pid} " in expected.reason
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
        assert line(writer) == "60"
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


def test_compaction_waits_for_a_writer_to_close(memory: Path) -> None:
    with child(children.hold, memory) as writer:
        line(writer)
        timer = threading.Timer(0.3, writer.kill)
        timer.start()
        assert compact(memory, wait=30).done
        timer.join()


def test_readers_of_other_processes_follow_two_compactions(
    large: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with child(children.watch, large) as one, child(children.watch, large) as other:
        assert [line(one), line(other)] == ["gen-000001"] * 2
        for folder in ("gen-000002", "gen-000003"):
            assert compact(large).folder == folder
            assert names(large) == ["CURRENT", "WRITER.lock", folder]
            assert [line(one), line(other)] == [folder] * 2
        for reader in (one, other):
            assert reader.stdin is not None
            reader.stdin.close()
            assert reader.wait(30) == 0


def test_a_reader_of_this_process_goes_on_reading(memory: Path) -> None:
    with closing(LMDBStore.open(memory, read_only=True)) as reader:
        before = picture(reader)
        compact(memory)
        assert picture(reader) == before  # of the files that have no name any more
        assert reader.follow()
        assert reader.folder.name == "gen-000002"
        assert picture(reader) == before


def test_what_an_interrupted_run_left_is_removed_and_told(memory: Path) -> None:
    for name in ("next", "gen-000009"):
        (memory / name / "gen-000002").mkdir(parents=True)
        (memory / name / "gen-000002" / layout.DATA).write_bytes(b"half")
    assert examine(memory).leftovers == ("gen-000009", "next")
    report = compact(memory)
    assert report.removed == ("gen-000009", "next")
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000002"]


def test_what_was_committed_under_a_later_folder_is_kept_when_an_older_one_is_put_back(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = memory.with_name("older")
    shutil.copytree(memory / "gen-000001", older)
    compact(memory)
    with closing(LMDBStore.open(memory)) as writer:
        writer.commit(WriteBatch(concepts=concepts([60])))
        newest = picture(writer)
    older.rename(memory / "gen-000001")
    (memory / layout.CURRENT).write_bytes(b"gen-000001\n")
    assert "gen-000002" in [problem.key for problem in examine(memory).problems]
    with caplog.at_level(logging.WARNING), closing(LMDBStore.open(memory)) as writer:
        assert picture(writer) != newest
    assert "gen-000002" in caplog.text
    with pytest.raises(StoreError, match="gen-000002"):
        compact(memory)
    (memory / layout.CURRENT).write_bytes(b"gen-000002\n")
    with closing(LMDBStore.open(memory, read_only=True)) as reader:
        assert picture(reader) == newest


def test_the_next_writer_removes_what_an_interrupted_run_left(memory: Path) -> None:
    (memory / "next" / "gen-000002").mkdir(parents=True)
    (memory / "damaged-20260101T000000Z").mkdir()
    with closing(LMDBStore.open(memory, read_only=True)):
        assert (memory / "next").exists()
    with closing(LMDBStore.open(memory)):
        pass
    assert names(memory) == ["CURRENT", "WRITER.lock", "damaged-20260101T000000Z", "gen-000001"]


def test_without_room_nothing_is_begun(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "room_in", lambda folder: 1000)
    with pytest.raises(StoreFullError, match="found 1,000; nothing was changed"):
        compact(memory)
    assert not expect(memory).done
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", "600k") as disk:
        yield disk


@pytest.mark.parametrize("room", range(0, 300, 25))
def test_a_disk_that_fills_up_leaves_the_memory_as_it_was(
    small_disk: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    directory = small_disk / "memory"
    shutil.copytree(memory, directory)
    with closing(LMDBStore.open(directory)) as store:
        before = picture(store)
    fill(small_disk / "filler", room * 1024)
    monkeypatch.setattr(folders, "require_room", lambda folder, needed: None)
    done = False
    try:
        done = compact(directory).done
    except StoreFullError:
        assert names(directory) == ["CURRENT", "WRITER.lock", "gen-000001"]
    (small_disk / "filler").unlink()
    assert examine(directory).problems == ()
    with closing(LMDBStore.open(directory)) as store:
        assert picture(store) == before
        assert store.folder.name == ("gen-000002" if done else "gen-000001")


@pytest.mark.parametrize("stride", [7, pytest.param(2, marks=pytest.mark.long)])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, stride: int) -> None:
    pristine = tmp_path / "pristine"
    make_large(pristine)
    found = run_child(children.die_at_every_step, "compact", pristine, stride).splitlines()
    in_use = [text.split()[0] for text in found]
    assert in_use == sorted(in_use)
    assert set(in_use) == {"gen-000001", "gen-000002"}
    # One content before and one after: the oldest events go with the old folder.
    assert len({tuple(text.split()[:2]) for text in found}) == 2
    assert any("next" in text for text in found)
    assert len(found) > 10


def test_damaged_records_are_not_copied(memory: Path) -> None:
    with closing(LMDBStore.open(memory, read_only=True)) as store:
        first = int(store.load().concepts.ids[0])
    flip(memory, "key", key_of(first))
    with pytest.raises(StoreCorruptError):
        compact(memory)
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


def test_a_damaged_payload_is_found_when_asked_for(memory: Path) -> None:
    with closing(LMDBStore.open(memory, read_only=True)) as store:
        held = [i for i in range(1, 60) if store.payloads(ids(i))[0] is not None]
    flip(memory, "payload", key_of(held[0]))
    report = compact(memory, verify=True)
    assert not report.done
    assert [problem.table for problem in report.problems] == ["payload"]
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


def test_an_error_of_any_kind_leaves_nothing_behind(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "rebuild", fail)
    with pytest.raises(KeyboardInterrupt):
        compact(memory)
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]
    with closing(LMDBStore.open(memory)) as store:
        assert store.verify() == []


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_memory_stays_as_it_was(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for call in (compact, expect):
        with pytest.raises(NotAStoreError, match=name):
            call(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


def test_a_stranger_gets_an_error_and_changes_nothing(memory: Path) -> None:
    let_others_in(memory)
    assert run_child(children.as_stranger, "compact", memory).strip() == "2"
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: needs root, to give files away")
@pytest.mark.parametrize("mode", ["compact", "repair", "damaged pages"])
def test_what_the_superuser_replaces_stays_its_owners(memory: Path, mode: str) -> None:
    _give_away(memory)
    before = _owners(memory)
    if mode == "repair":
        flip(memory, "payload", key_of(_with_payload(memory)))
        (memory / "WRITER.lock").unlink()
    elif mode == "damaged pages":
        overwrite(memory / "gen-000001" / "data.mdb", 0, bytes(PAGE))
    umask = os.umask(0o077)
    try:
        compact(memory) if mode == "compact" else repair(memory)
    finally:
        os.umask(umask)
    after = _owners(memory)
    assert before.keys() >= {"", "CURRENT", "WRITER.lock", "gen", "data.mdb", "lock.mdb"}
    assert {name: after[name] for name in before} == before


def _give_away(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, 65534, 65533)
        path.chmod(0o2770 if path.is_dir() else 0o660)


def _owners(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return owner, group and mode of everything in use, by names without the folder's number."""
    (folder,) = directory.glob("gen-*")
    paths = [directory, *directory.glob("[CW]*"), folder, *folder.iterdir()]
    names = {directory: "", folder: "gen"}
    states = {names.get(path, path.name): path.stat() for path in paths}
    return {name: (at.st_uid, at.st_gid, at.st_mode) for name, at in states.items()}


def _with_payload(directory: Path) -> int:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return next(i for i in range(1, 60) if store.payloads(ids(i))[0] is not None)


def test_the_room_that_is_expected_is_the_room_that_is_asked_for(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = expect(memory).needed_bytes
    monkeypatch.setattr(folders, "room_in", lambda folder: needed - 1)
    assert not expect(memory).done
    with pytest.raises(StoreFullError, match=f"room for {needed:,} bytes"):
        compact(memory)
    monkeypatch.setattr(folders, "room_in", lambda folder: needed)
    assert expect(memory).done
    assert compact(memory).done
