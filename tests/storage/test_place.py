"""What a handle does whose directory is deleted, moved or replaced while it is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storage_backends.errors import StoreClosedError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import children
from tests.storage.history import batch_of
from tests.storage.picture import contents_picture
from tests.storage.processes import run_child


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A closed memory at generation 1 of the history."""
    with LMDBStore.open(tmp_path / "memory") as store:
        store.commit(batch_of(1))
    return tmp_path / "memory"


def replace_by_a_copy(path: Path) -> None:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    (shutil.copytree if aside.is_dir() else shutil.copy2)(aside, path)


def replace_by_a_file(memory: Path) -> None:
    shutil.rmtree(memory)
    memory.touch()


def restore_a_copy(memory: Path) -> None:
    copy = shutil.copytree(memory, memory.with_name("copy"))
    shutil.rmtree(memory)
    copy.rename(memory)


CHANGES: dict[str, Callable[[Path], object]] = {
    "deleted": shutil.rmtree,
    "moved": lambda memory: memory.rename(memory.with_name("elsewhere")),
    "replaced": replace_by_a_copy,
    "restored": restore_a_copy,
    "replaced by a file": replace_by_a_file,
    "folder replaced": lambda memory: replace_by_a_copy(memory / "gen-000001"),
    "data replaced": lambda memory: replace_by_a_copy(memory / "gen-000001" / "data.mdb"),
    "data deleted": lambda memory: (memory / "gen-000001" / "data.mdb").unlink(),
    "another current": lambda memory: (memory / "CURRENT").write_bytes(b"gen-000002\n"),
    "no current": lambda memory: (memory / "CURRENT").unlink(),
}


def records(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("data.mdb")}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_is_refused_and_writes_nothing(memory: Path, name: str, committed: bool) -> None:
    store = LMDBStore.open(memory)
    if committed:
        store.commit(WriteBatch())
    CHANGES[name](memory)
    before = records(memory.parent)
    assert not store.is_current()
    for _ in range(2):
        with pytest.raises(StoreClosedError, match="moved, deleted or replaced") as caught:
            store.commit(batch_of(2))
        assert str(memory) in str(caught.value)
        assert "nothing was written" in str(caught.value)
    store.close()
    assert records(memory.parent) == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_reader_knows_that_it_is_not_current(memory: Path, name: str) -> None:
    with LMDBStore.open(memory, read_only=True) as reader:
        before = contents_picture(reader.load())
        CHANGES[name](memory)
        assert not reader.is_current()
        assert contents_picture(reader.load()) == before
        assert reader.verify() == []


def test_the_size_of_what_was_deleted_is_still_told(memory: Path) -> None:
    with LMDBStore.open(memory, read_only=True) as reader:
        before = reader.stats()
        shutil.rmtree(memory)
        after = reader.stats()
    assert 0 < after.file_bytes <= before.file_bytes
    assert replace(after, file_bytes=0) == replace(before, file_bytes=0)


def test_a_writer_whose_lock_file_was_deleted_stops_for_the_next_one(memory: Path) -> None:
    store = LMDBStore.open(memory)
    (memory / "WRITER.lock").unlink()
    assert run_child(children.try_to_open, memory, "") == "opened\n"
    with pytest.raises(StoreClosedError, match="moved, deleted or replaced"):
        store.commit(batch_of(2))
    with LMDBStore.open(memory) as after:
        assert after.commit(batch_of(2)) == 2


def test_after_the_refusal_the_memory_in_the_old_place_can_be_opened(memory: Path) -> None:
    store = LMDBStore.open(memory)
    replace_by_a_copy(memory)
    with pytest.raises(StoreClosedError):
        store.commit(batch_of(2))
    with LMDBStore.open(memory) as after:
        assert after.commit(batch_of(2)) == 2
        assert after.is_current()


def test_what_leaves_the_files_where_they_are_leaves_the_handle_current(memory: Path) -> None:
    with LMDBStore.open(memory) as store:
        shutil.copytree(memory, memory.with_name("copy"))
        (memory / "CURRENT").write_bytes(b"gen-000001\n")
        os.utime(memory / "CURRENT", (0, 0))
        (memory / "note").touch()
        assert store.is_current()
        assert store.commit(batch_of(2)) == 2


def test_a_handle_left_by_a_failure_or_a_change_is_not_current(memory: Path) -> None:
    with LMDBStore.open(memory) as store, LMDBStore.open(memory, read_only=True) as beside:
        (memory / "WRITER.lock").unlink()
        with pytest.raises(StoreClosedError):
            store.commit(batch_of(2))
        assert not beside.is_current()  # they share what the failed commit closed
