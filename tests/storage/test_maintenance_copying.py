"""Copies of a memory in use: consistent, complete or nothing, independent of the source."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from storage_backends import copying, folders, layout
from storage_backends.compaction import compact
from storage_backends.copying import copy
from storage_backends.engine import Engine
from storage_backends.errors import NotAStoreError, StoreCorruptError, StoreFullError
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import maintenance_children as children
from tests.storage.build import ids
from tests.storage.damage import PAGE, data_file, key_of, make, overwrite, pages_of, record_in
from tests.storage.engines import LARGE, large_batch
from tests.storage.history import batch_of
from tests.storage.picture import picture
from tests.storage.processes import child, line, run_child


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    directory = tmp_path / "memory"
    make(directory, *map(batch_of, range(1, 10)))
    return directory


def test_a_copy_holds_what_the_source_held(memory: Path, tmp_path: Path) -> None:
    report = copy(memory, tmp_path / "copy", verify=True)
    assert (report.verified, report.problems, report.has_snapshot) == (True, (), False)
    with (
        closing(LMDBStore.open(memory)) as source,
        closing(LMDBStore.open(tmp_path / "copy")) as made,
    ):
        assert picture(made) == picture(source)
        assert report.sizes.generation == made.commit(batch_of(10)) - 1
        assert source.generation() == 9


def test_a_copy_takes_the_snapshot_along_and_opens_from_it(tmp_path: Path) -> None:
    with closing(Engine(LMDBStore.open(tmp_path / "memory"), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
        engine.commit(WriteBatch(deleted=ids(9)))
        assert copy(tmp_path / "memory", tmp_path / "copy", verify=True).has_snapshot
    with closing(Engine(LMDBStore.open(tmp_path / "copy", read_only=True), LARGE)) as engine:
        assert engine.shown.footing is not None
        assert engine.verify() == []
        assert engine.view().node_count == 59


def test_a_snapshot_that_is_gone_is_left_out(tmp_path: Path) -> None:
    with closing(Engine(LMDBStore.open(tmp_path / "memory"), LARGE)) as engine:
        engine.commit(large_batch(60))
        engine.rebuild()
    for path in (tmp_path / "memory").glob("gen-*/*.aesg"):
        path.unlink()
    assert not copy(tmp_path / "memory", tmp_path / "copy").has_snapshot
    assert examine(tmp_path / "copy").problems == ()


def test_a_writer_goes_on_while_it_is_copied(memory: Path, tmp_path: Path) -> None:
    with child(children.hold, memory) as writer:
        line(writer)
        assert writer.stdin is not None
        for number in range(3):
            print(file=writer.stdin, flush=True)
            generation = int(line(writer))
            report = copy(memory, tmp_path / f"copy{number}", verify=True)
            assert (report.sizes.generation, report.problems) == (generation, ())


def test_the_destination_must_be_empty(memory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "important").write_text("text")
    for name in ("file", "full", "memory"):
        with pytest.raises(NotAStoreError, match=name):
            copy(memory, tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["important"]
    (tmp_path / "empty").mkdir()
    assert copy(memory, tmp_path / "empty").sizes.generation == 9


@pytest.mark.parametrize("made_before", [False, True])
def test_without_room_nothing_is_left_behind(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    target = tmp_path / "copy"
    if made_before:
        target.mkdir()
    monkeypatch.setattr(folders, "room_in", lambda folder: 1000)
    with pytest.raises(StoreFullError, match="found 1,000"):
        copy(memory, target)
    assert list(target.iterdir()) == [] if made_before else not target.exists()


def test_an_interrupt_leaves_nothing_behind(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copying.layout, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        copy(memory, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_killed_at_any_step_is_complete_or_nothing(memory: Path) -> None:
    found = run_child(children.die_copying, memory).splitlines()
    assert set(found) == {"nothing", "complete 9"}
    assert found == sorted(found, reverse=True)
    assert len(found) > 10


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_memory_is_not_copied(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(NotAStoreError, match=name):
        copy(tmp_path / name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damage_to_a_copy_does_not_reach_the_source(memory: Path, tmp_path: Path) -> None:
    copy(memory, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert layout.require_memory(memory)
    assert examine(memory).problems == ()


def test_a_damaged_source_is_blamed_and_not_the_copy(memory: Path, tmp_path: Path) -> None:
    path = data_file(memory)
    before, record = path.stat(), record_in(memory, "payload", _first_payload(memory))
    content = path.read_bytes()
    for page in pages_of(path, 2):
        if record in content[page * PAGE : (page + 1) * PAGE]:
            overwrite(path, page * PAGE, bytes(PAGE))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that no open examines it
    for call in (lambda: copy(memory, tmp_path / "copy"), lambda: compact(memory)):
        with pytest.raises(StoreCorruptError) as caught:
            call()
        assert str(caught.value).startswith(f"{memory / 'gen-000001' / 'data.mdb'}: expected")
        assert f"python -m tools.verify {memory}`" in str(caught.value)
    assert not (tmp_path / "copy").exists()


def _first_payload(directory: Path) -> bytes:
    with closing(LMDBStore.open(directory, read_only=True)) as store:
        return key_of(next(i for i in range(1, 60) if store.payloads(ids(i))[0] is not None))


def test_what_a_killed_copy_left_is_named_as_that(memory: Path, tmp_path: Path) -> None:
    (tmp_path / "copy" / "gen-000001").mkdir(parents=True)
    with pytest.raises(NotAStoreError, match="interrupted copy has left: remove the directory"):
        copy(memory, tmp_path / "copy")


def test_a_copy_inside_of_the_memory_is_refused(memory: Path) -> None:
    with pytest.raises(NotAStoreError, match="outside of the memory"):
        copy(memory, memory / "backups" / "monday")
    assert not (memory / "backups").exists()
