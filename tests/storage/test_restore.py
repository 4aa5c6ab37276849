"""Restoring: the content of a copy in the place of a memory's own, in one step or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from storage_backends import copying, folders
from storage_backends.compaction import compact
from storage_backends.copying import copy
from storage_backends.engine import Engine
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUsageError,
)
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.replacement import replace_records, restore
from storage_backends.types import WriteBatch
from tests.failing_calls import at_call, disk_broken, disk_full
from tests.storage import maintenance_children as children
from tests.storage.build import concepts, events, ids
from tests.storage.damage import PAGE, data_file, flip, key_of, make, overwrite
from tests.storage.engines import LARGE, large_batch, settled, stored
from tests.storage.history import batch_of
from tests.storage.interrupts import comes
from tests.storage.limits import disk_of, fill
from tests.storage.picture import Picture, picture
from tests.storage.processes import child, line, run_child
from tests.storage.shown import shown
from tests.tool_runs import let_others_in

#: What tells states of one memory apart, and says nothing of what it holds.
NUMBERS = ("uuid", "generation", "settings", "shortterm")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A memory that went on after the copy beside it was made."""
    directory = tmp_path / "memory"
    make(directory, *map(batch_of, range(1, 10)))
    copy(directory, tmp_path / "copy")
    make(directory, *map(batch_of, range(10, 30)))
    return directory


@pytest.fixture
def saved(memory: Path) -> Path:
    return memory.with_name("copy")


def seen(directory: Path) -> Picture:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return picture(store)


def content(shows: Picture) -> Picture:
    return {name: value for name, value in shows.items() if name not in NUMBERS}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_memory_holds_what_the_copy_holds_and_is_still_itself(
    memory: Path, saved: Path
) -> None:
    before, wanted = seen(memory), seen(saved)
    report = restore(saved, memory)
    after = seen(memory)
    assert content(after) == content(wanted) != content(before)
    assert after["uuid"] == before["uuid"]
    assert after["generation"] == report.after.generation > before["generation"]
    assert (report.before.generation, report.dry_run, report.is_same_memory) == (29, False, True)
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000002"]
    assert examine(memory).problems == ()
    assert seen(saved) == wanted


def test_the_generation_is_beyond_that_of_a_copy_that_is_ahead(tmp_path: Path) -> None:
    make(tmp_path / "ahead", *map(batch_of, range(1, 20)))
    make(tmp_path / "memory", batch_of(1))
    report = restore(tmp_path / "ahead", tmp_path / "memory")
    assert not report.is_same_memory
    assert report.after.generation > 19
    assert content(seen(tmp_path / "memory")) == content(seen(tmp_path / "ahead"))
    assert seen(tmp_path / "memory")["uuid"] != seen(tmp_path / "ahead")["uuid"]


def test_what_counts_ids_and_saves_never_goes_back(tmp_path: Path) -> None:
    for name, (next_id, saves) in {"old": (b"12", b"3"), "memory": (b"40", b"5")}.items():
        counts = {"next_id": next_id, "saves": saves}
        make(tmp_path / name, WriteBatch(settings=counts, shortterm={"saves": saves}))
    restore(tmp_path / "old", tmp_path / "memory")
    shows = seen(tmp_path / "memory")
    assert (shows["settings"]["next_id"], shows["settings"]["saves"]) == (b"40", b"6")
    assert shows["shortterm"]["saves"] == b"6"
    restore(tmp_path / "memory", tmp_path / "old")
    shows = seen(tmp_path / "old")
    assert (shows["settings"]["next_id"], shows["settings"]["saves"]) == (b"40", b"6")


def test_the_log_leads_from_no_generation_that_there_was(memory: Path, saved: Path) -> None:
    last = seen(memory)["generation"]
    restore(saved, memory)
    with closing(LMDBStore.open(memory)) as store:
        newest = store.generation()
        assert all(store.changes(since) is None for since in range(last + 1))
        assert store.changes(newest) is not None
        store.commit(batch_of(10))
        changes = store.changes(newest)
        assert changes is not None
        assert changes.generation == newest + 1


def test_a_restored_memory_can_be_restored_again_compacted_and_written_to(
    memory: Path, saved: Path
) -> None:
    wanted = content(seen(saved))
    for folder in ("gen-000002", "gen-000003"):
        restore(saved, memory)
        assert names(memory) == ["CURRENT", "WRITER.lock", folder]
    assert compact(memory, verify=True).problems == ()
    assert content(seen(memory)) == wanted
    make(memory, batch_of(10))
    assert examine(memory).problems == ()


def test_a_snapshot_comes_along_with_its_graph_and_is_of_the_new_generation(
    tmp_path: Path,
) -> None:
    with closing(Engine(LMDBStore.open(tmp_path / "memory"), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(9)))  # which is to be replayed
        assert copy(tmp_path / "memory", tmp_path / "copy").has_snapshot
        wanted = shown(engine.view())
        engine.commit(WriteBatch(deleted=ids(5, 6, 7)))
        engine.rebuild()
    restore(tmp_path / "copy", tmp_path / "memory")
    assert examine(tmp_path / "memory").problems == ()
    with closing(Engine(LMDBStore.open(tmp_path / "memory", read_only=True), LARGE)) as engine:
        footing = engine.shown.footing
        assert footing is not None
        assert footing.manifest.generation == engine.view().generation > 3
        assert engine.view().base is not None
        assert shown(engine.view()) | dict.fromkeys(NUMBERS) == wanted | dict.fromkeys(NUMBERS)
        assert engine.verify() == []


def test_a_writer_of_this_process_goes_on_with_the_restored_records(
    memory: Path, saved: Path
) -> None:
    with (
        closing(Engine(LMDBStore.open(memory))) as engine,
        closing(LMDBStore.open(saved, read_only=True)) as source,
    ):
        uuid, generation = engine.store.uuid, engine.store.generation()
        view = engine.exchange(lambda: replace_records(_lmdb(engine), source))
        assert content(picture(engine.store)) == content(picture(source))
        assert shown(view) == shown(stored(engine.store)) == shown(engine.view())
        assert engine.store.uuid == uuid
        assert view.generation == engine.store.generation() > generation
        assert engine.store.is_current()
        assert engine.is_current()
        assert engine.commit(batch_of(10)).generation > view.generation
        assert engine.verify() == []
        with pytest.raises(StoreLockedError):
            LMDBStore.open(memory)
    assert examine(memory).problems == ()


def _lmdb(engine: Engine) -> LMDBStore:
    assert isinstance(engine.store, LMDBStore)
    return engine.store


def test_a_reader_of_this_process_follows_at_its_next_refresh(memory: Path, saved: Path) -> None:
    with closing(Engine(LMDBStore.open(memory, read_only=True))) as reader:
        before = shown(reader.view())
        restore(saved, memory)
        assert shown(reader.view()) == before
        assert reader.refresh()
        assert shown(reader.view()) == shown(stored(reader.store)) != before
        assert not reader.refresh()


def test_readers_of_a_snapshot_under_load_see_one_content_or_the_other(tmp_path: Path) -> None:
    directory, other = tmp_path / "memory", tmp_path / "other"
    with closing(Engine(LMDBStore.open(directory), LARGE)) as engine:
        engine.commit(large_batch(60))
        settled(engine).rebuild()
        first = children.content_of(engine.view())
        copy(directory, tmp_path / "first")
        engine.commit(WriteBatch(deleted=ids(*range(1, 30))))
        second = children.content_of(engine.view())
        copy(directory, other)
    running = [child(children.watch_two, directory, second, first) for _ in range(2)]
    with running[0] as one, running[1] as another:
        assert [line(one), line(another)] == ["0", "0"]
        for source, number in ((tmp_path / "first", "1"), (other, "0"), (tmp_path / "first", "1")):
            restore(source, directory)
            assert [line(one), line(another)] == [number] * 2
        for reader in (one, another):
            assert reader.stdin is not None
            reader.stdin.close()
            assert reader.wait(30) == 0


def test_a_copy_of_a_memory_that_is_being_written_is_its_last_commit(
    memory: Path, tmp_path: Path
) -> None:
    make(tmp_path / "live", batch_of(1))
    with child(children.hold, tmp_path / "live") as writer:
        line(writer)
        restore(tmp_path / "live", memory)
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
        assert line(writer) == "2"
    assert content(seen(memory)) == content(_first(tmp_path))


def _first(tmp_path: Path) -> Picture:
    make(tmp_path / "same", batch_of(1))
    return seen(tmp_path / "same")


def test_a_writer_elsewhere_is_named_and_left_alone(memory: Path, saved: Path) -> None:
    before = seen(memory)
    with child(children.hold, memory) as writer:
        pid = line(writer)
        with pytest.raises(StoreLockedError, match=f"process {pid} "):
            restore(saved, memory)
        assert restore(saved, memory, dry_run=True).before.generation == 29
    assert seen(memory) == before
    assert restore(saved, memory, wait=30).after.generation > 29


def test_a_dry_run_says_what_comes_and_changes_nothing(memory: Path, saved: Path) -> None:
    before = seen(memory)
    report = restore(saved, memory, dry_run=True)
    assert (report.before.generation, report.after.generation) == (29, 9)
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]
    assert seen(memory) == before
    done = restore(saved, memory)
    assert done.after.concepts == report.after.concepts


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_memory_is_neither_restored_nor_restored_from(
    memory: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    before = seen(memory)
    for source, target in ((tmp_path / name, memory), (memory, tmp_path / name)):
        with pytest.raises(NotAStoreError, match=name):
            restore(source, target)
    assert seen(memory) == before
    assert names(tmp_path) == ["copy", "empty", "file", "memory"]


def test_a_memory_is_not_restored_from_itself_or_from_within(memory: Path, saved: Path) -> None:
    (memory.with_name("alias")).symlink_to(memory)
    shutil.move(saved, memory / "inside")
    for source in (memory, memory.with_name("alias"), memory / "inside"):
        with pytest.raises(StoreUsageError, match="outside of the memory"):
            restore(source, memory)
    assert seen(memory)["generation"] == 29


def test_keys_of_another_width_are_refused(memory: Path, tmp_path: Path) -> None:
    make(tmp_path / "wide", WriteBatch(concepts=concepts([1], dim=7)))
    with pytest.raises(StoreUsageError, match=r"expected keys of width 4, .* got 7"):
        restore(tmp_path / "wide", memory)
    make(tmp_path / "empty", WriteBatch(settings={"name": b"value"}))
    assert restore(tmp_path / "empty", memory).after.concepts == 0
    assert restore(tmp_path / "wide", memory).after.concepts == 1


@pytest.mark.parametrize("table", ["key", "meta", "payload", "adjacency", "sys"])
def test_a_damaged_copy_is_refused(memory: Path, saved: Path, table: str) -> None:
    before = seen(memory)
    with closing(LMDBStore.open(saved, read_only=True)) as store:
        held = store.load()
        paid = next(i for i in range(1, 60) if store.payloads(ids(i))[0] is not None)
    key = {
        "key": key_of(int(held.concepts.ids[0])),
        "meta": key_of(int(held.concepts.ids[-1])),
        "payload": key_of(paid),
        "adjacency": key_of(int(held.edge_sources[0])),
        "sys": b"epoch",
    }[table]
    flip(saved, table, key)
    with pytest.raises(StoreCorruptError, match=rf"{saved}.* found {table}.*tools.verify {saved}"):
        restore(saved, memory)
    assert seen(memory) == before
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]


def test_a_copy_with_damaged_pages_is_refused_without_a_signal(memory: Path, saved: Path) -> None:
    path = data_file(saved)
    before, size = path.stat(), path.stat().st_size
    overwrite(path, size // 2 // PAGE * PAGE, bytes(4 * PAGE))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that no open examines it
    with pytest.raises(StoreCorruptError, match=f"tools.verify {saved}"):
        restore(saved, memory)
    assert seen(memory)["generation"] == 29


def test_a_damaged_snapshot_in_a_copy_is_refused(tmp_path: Path) -> None:
    with closing(Engine(LMDBStore.open(tmp_path / "memory"), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        copy(tmp_path / "memory", tmp_path / "copy")
    (columns,) = (tmp_path / "copy").glob("gen-*/columns-*")
    overwrite(columns, columns.stat().st_size // 2, b"damage")
    with pytest.raises(StoreCorruptError, match="columns"):
        restore(tmp_path / "copy", tmp_path / "memory")
    assert seen(tmp_path / "memory")["generation"] == 1


def test_a_read_only_handle_restores_nothing(memory: Path, saved: Path) -> None:
    with (
        closing(LMDBStore.open(memory, read_only=True)) as reader,
        closing(LMDBStore.open(saved, read_only=True)) as source,
        pytest.raises(StoreReadOnlyError),
    ):
        replace_records(reader, source)


def test_a_stranger_restores_nothing(memory: Path, saved: Path) -> None:
    let_others_in(memory)
    assert run_child(children.as_stranger, "restore", saved, memory).splitlines()[-1] == "2"
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]
    assert seen(memory)["generation"] == 29


def test_without_room_nothing_is_begun(
    memory: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "room_in", lambda folder: 1000)
    with pytest.raises(StoreFullError, match="found 1,000; nothing was changed"):
        restore(saved, memory)
    assert names(memory) == ["CURRENT", "WRITER.lock", "gen-000001"]
    assert seen(memory)["generation"] == 29


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", "900k") as disk:
        yield disk


def test_a_disk_that_fills_up_leaves_a_writer_that_goes_on(
    small_disk: Path, memory: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = content(seen(memory)), content(seen(saved))
    monkeypatch.setattr(copying, "require_room", lambda folder, needed: None)
    outcomes = []
    for room in range(0, 400, 25):
        directory = small_disk / f"memory-{room}"
        shutil.copytree(memory, directory)
        with (
            closing(LMDBStore.open(saved, read_only=True)) as source,
            closing(Engine(LMDBStore.open(directory))) as engine,
        ):
            fill(small_disk / "filler", room * 1024)
            outcomes.append(_is_exchanged(engine, source))
            folder = "gen-000002" if outcomes[-1] else "gen-000001"
            assert {*names(directory)} - {"CURRENT.new"} == {"CURRENT", "WRITER.lock", folder}
            (small_disk / "filler").unlink()
            assert content(picture(engine.store)) == (new if outcomes[-1] else old)
            engine.commit(WriteBatch())
        assert examine(directory).problems == ()
        shutil.rmtree(directory)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def _is_exchanged(engine: Engine, source: LMDBStore) -> bool:
    """Restore from a store; say whether there was room for it."""
    try:
        engine.exchange(_put(engine, source))
    except StoreFullError:
        return False
    return True


@pytest.mark.parametrize("act", [disk_full, disk_broken])
def test_an_error_of_the_disk_at_any_call_is_told_and_harms_nothing(
    memory: Path, saved: Path, act: Callable[[], object]
) -> None:
    with at_call(None) as calls:
        restore(saved, memory)
    failures = 0
    for number in range(0, len(calls.names), 3):
        before, wanted = content(seen(memory)), content(seen(saved))
        try:
            with at_call(number, act):
                restore(saved, memory)
        except StoreError:
            failures += 1
        assert examine(memory).problems == ()
        assert content(seen(memory)) in (before, wanted)
        make(memory, WriteBatch(events=events([number])))
    assert failures > len(calls.names) / 6


@pytest.mark.parametrize("stride", [13, pytest.param(2, marks=pytest.mark.long)])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, stride: int) -> None:
    pristine = tmp_path / "pristine"
    with closing(Engine(LMDBStore.open(pristine), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        copy(pristine, tmp_path / "copy")
        engine.commit(WriteBatch(deleted=ids(7, 8), events=events(range(3))))
    found = run_child(children.die_at_every_step, "restore", pristine, stride).splitlines()
    in_use = [text.split()[0] for text in found]
    assert in_use == sorted(in_use)
    assert set(in_use) == {"gen-000001", "gen-000002"}
    assert len({tuple(text.split()[:2]) for text in found}) == 2
    assert any("next" in text for text in found)
    assert len(found) > 10


@pytest.mark.parametrize(
    ("error", "stride"),
    [
        (KeyboardInterrupt, 11),
        (MemoryError, 19),
        pytest.param(KeyboardInterrupt, 2, marks=pytest.mark.long),
    ],
)
def test_an_error_at_any_step_leaves_a_writer_that_goes_on(
    memory: Path, saved: Path, error: type[BaseException], stride: int
) -> None:
    old, new = content(seen(memory)), content(seen(saved))
    outcomes = []
    for step in count(1, stride):
        directory = memory.with_name(f"run-{step}")
        shutil.copytree(memory, directory)
        with (
            closing(LMDBStore.open(saved, read_only=True)) as source,
            closing(Engine(LMDBStore.open(directory))) as engine,
        ):
            failed = comes(error, step, partial(engine.exchange, _put(engine, source)))
            assert engine.store.is_current()
            engine.refresh()
            outcomes.append(content(picture(engine.store)) == new)
            assert shown(engine.view()) == shown(stored(engine.store))
            assert engine.commit(WriteBatch()).generation > 29
        assert examine(directory).problems == ()
        assert content(seen(directory)) in (old, new)
        with closing(LMDBStore.open(directory)) as store:  # which removes what is left
            expected = {"CURRENT", "WRITER.lock", store.folder.name}
            assert {*names(directory)} - {"CURRENT.new"} == expected
        shutil.rmtree(directory)
        if not failed:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    assert len(outcomes) > 3


def _put(engine: Engine, source: LMDBStore) -> Callable[[], object]:
    return lambda: replace_records(_lmdb(engine), source)
