"""How long the log is kept for a snapshot, and readers that follow a memory to another folder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from storage_backends import layout, locks
from storage_backends.errors import StoreError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import children
from tests.storage.build import concepts, ids
from tests.storage.history import Oracle, batch_of
from tests.storage.picture import picture
from tests.storage.processes import child, line, run_child


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A closed memory at generation 3 of the history."""
    with LMDBStore.open(tmp_path / "memory") as store:
        for generation in (1, 2, 3):
            store.commit(batch_of(generation))
    return tmp_path / "memory"


def told(store: LMDBStore) -> list[int]:
    """Return the generations since which the store can tell the changes."""
    return [n for n in range(store.generation() + 1) if store.changes(n) is not None]


def replaced(memory: Path) -> Path:
    """Put a copy of the data file into the next folder, and that in the place of the first."""
    folder = layout.require_memory(memory)
    successor = memory / f"gen-{int(folder.name[4:]) + 1:06}"
    successor.mkdir()
    with LMDBStore.open(memory, read_only=True) as store:
        store.copy_to(successor, compact=True)
    layout.publish(successor)
    shutil.rmtree(folder)
    return successor


class TestLog:
    def test_it_reaches_back_to_the_snapshot(self, tmp_path: Path) -> None:
        with LMDBStore.open(tmp_path, log_length=2) as store:
            for _ in range(5):
                store.commit(WriteBatch())
            store.publish(b"manifest", 4)
            for _ in range(10):
                store.commit(WriteBatch())
            assert told(store) == list(range(4, 16))
            store.publish(b"manifest", 12)
            store.commit(WriteBatch())
            assert told(store) == list(range(12, 17))
            store.publish(b"", 16)
            store.commit(WriteBatch())
            assert told(store) == [15, 16, 17]
            assert store.verify() == []

    def test_it_is_held_for_one_that_is_being_made(self, tmp_path: Path) -> None:
        with LMDBStore.open(tmp_path, log_length=2) as store:
            store.commit(WriteBatch())
            store.hold_log(1)
            for _ in range(8):
                store.commit(WriteBatch())
            assert told(store) == list(range(1, 10))
            store.hold_log(None)
            store.commit(WriteBatch())
            assert told(store) == [8, 9, 10]

    def test_nothing_makes_it_longer_than_sixteen_times_its_length(self, tmp_path: Path) -> None:
        with LMDBStore.open(tmp_path, log_length=2) as store:
            store.publish(b"manifest", 0)
            store.hold_log(0)
            for _ in range(40):
                store.commit(WriteBatch())
            assert told(store) == list(range(8, 41))
            assert store.stats().log_entries == 32

    @pytest.mark.parametrize("first", [1, 2**63])
    def test_consecutive_concepts_take_little_room_in_it(self, tmp_path: Path, first: int) -> None:
        wanted = range(first, first + 10_000)
        with LMDBStore.open(tmp_path) as store:
            store.commit(WriteBatch(concepts=concepts(wanted)))
            records = store._lease.read(
                lambda txn, tables: [record for _, record in txn.cursor(db=tables.log)]
            )
            assert sum(map(len, records)) < 200
            store.commit(WriteBatch(deleted=ids(*wanted[::2])))
            changes = store.changes(1)
            assert changes is not None
            assert changes.deleted.tolist() == list(wanted[::2])


class TestFollowing:
    def test_a_reader_goes_on_in_the_new_folder(self, memory: Path) -> None:
        with LMDBStore.open(memory, read_only=True) as reader:
            before = picture(reader)
            successor = replaced(memory)
            assert not reader.is_current()
            assert picture(reader) == before
            assert reader.follow()
            assert not reader.follow()
            assert reader.folder == successor
            assert reader.is_current()
            assert picture(reader) == before
            with LMDBStore.open(memory) as writer:
                writer.commit(batch_of(4))
                assert picture(reader) == Oracle(reader.uuid).at(4)
            assert reader.verify() == []

    def test_it_may_be_the_same_generation_or_a_later_one(self, memory: Path) -> None:
        with LMDBStore.open(memory, read_only=True) as reader:
            for generation in range(4, 8):
                replaced(memory)
                with LMDBStore.open(memory) as writer:
                    writer.commit(batch_of(generation))
                assert reader.generation() == generation - 1
                assert reader.follow()
                assert reader.generation() == generation

    def test_other_threads_read_on_meanwhile(self, memory: Path) -> None:
        failures: list[BaseException] = []
        done = threading.Event()

        def read(store: LMDBStore) -> None:
            try:
                while not done.is_set():
                    assert len(store.load().concepts) == 24
                    assert store.generation() == 3
            except BaseException as error:
                failures.append(error)

        with LMDBStore.open(memory, read_only=True) as reader:
            threads = [threading.Thread(target=read, args=(reader,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            followed = 0
            for _ in range(10):
                replaced(memory)
                followed += reader.follow()
            done.set()
            for thread in threads:
                thread.join()
        assert not failures
        assert followed == 10

    def test_a_reader_does_not_follow_to_another_memory(self, memory: Path) -> None:
        with LMDBStore.open(memory.with_name("other")) as other:
            other.commit(WriteBatch())
        with LMDBStore.open(memory, read_only=True) as reader:
            shutil.copytree(memory.with_name("other") / "gen-000001", memory / "gen-000002")
            layout.publish(memory / "gen-000002")
            assert not reader.follow()
            assert not reader.is_current()
            assert reader.generation() == 3

    @pytest.mark.parametrize("content", [b"", b"gen-000009", b"rubbish"])
    def test_a_reader_stays_where_no_other_folder_is_named(
        self, memory: Path, content: bytes
    ) -> None:
        with LMDBStore.open(memory, read_only=True) as reader:
            (memory / "CURRENT").write_bytes(content)
            assert not reader.follow()
            assert reader.generation() == 3

    def test_a_folder_that_cannot_be_opened_is_an_error_and_the_reader_stays(
        self, memory: Path
    ) -> None:
        (memory / "gen-000002").mkdir()
        (memory / "gen-000002" / "data.mdb").write_bytes(bytes(10_000))
        with LMDBStore.open(memory, read_only=True) as reader:
            layout.publish(memory / "gen-000002")
            with pytest.raises(StoreError, match="gen-000002"):
                reader.follow()
            assert reader.generation() == 3

    def test_a_writer_does_not_follow_and_refuses_to_commit(self, memory: Path) -> None:
        with LMDBStore.open(memory) as writer:
            replaced(memory)
            assert not writer.follow()
            with pytest.raises(StoreError, match="replaced"):
                writer.commit(batch_of(4))

    def test_a_memory_can_be_opened_while_its_folders_change(self, memory: Path) -> None:
        with child(children.replace_forever, memory) as replacer:
            for _ in range(30):
                line(replacer)
                with LMDBStore.open(memory, read_only=True) as reader:
                    assert picture(reader) == Oracle(reader.uuid).at(3)


class TestCopies:
    @pytest.mark.parametrize("compact", [True, False])
    def test_a_copy_of_an_open_memory_is_one_commit(self, memory: Path, compact: bool) -> None:
        copy = memory.with_name("copy") / "gen-000001"
        copy.mkdir(parents=True)
        with child(children.commit_forever, memory, "full") as writer:
            line(writer)
            with LMDBStore.open(memory, read_only=True) as reader:
                reader.copy_to(copy, compact=compact)
                line(writer)  # and it goes on
        layout.publish(copy)
        with LMDBStore.open(copy.parent) as store:
            assert store.verify() == []
            assert picture(store) == Oracle(store.uuid).at(store.generation())
            assert store.commit(WriteBatch()) > 4

    def test_copying_drops_no_lock(self, memory: Path) -> None:
        copy = memory.with_name("copy")
        copy.mkdir()
        with LMDBStore.open(memory) as store:
            store.copy_to(copy, compact=False)
            assert locks.writer_of(memory / "WRITER.lock")
            answer = run_child(children.try_to_open, memory, "")
        assert answer.startswith("StoreLockedError")

    def test_a_folder_that_is_missing_or_not_empty_is_an_error(self, memory: Path) -> None:
        with LMDBStore.open(memory) as store:
            with pytest.raises(StoreError, match="missing"):
                store.copy_to(memory / "missing", compact=False)
            with pytest.raises(StoreError, match="gen-000001"):
                store.copy_to(memory / "gen-000001", compact=False)
            assert store.verify() == []
