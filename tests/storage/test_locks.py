"""One writer for a memory, whoever asks, and however the last one ended."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest

from storage_backends import locks
from storage_backends.errors import StoreLockedError, StoreUsageError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import children
from tests.storage.processes import child, line, run_child


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    LMDBStore.open(tmp_path / "memory").close()
    return tmp_path / "memory"


def test_a_second_writer_of_the_process_is_refused_and_told_of_the_first(memory: Path) -> None:
    with LMDBStore.open(memory), pytest.raises(StoreLockedError) as caught:
        LMDBStore.open(memory)
    message = str(caught.value)
    assert str(memory / "WRITER.lock") in message
    assert f"process {os.getpid()} " in message


def test_a_writer_in_another_process_is_named(memory: Path) -> None:
    with child(children.hold, memory) as holder:
        pid = line(holder)
        with pytest.raises(StoreLockedError) as caught:
            LMDBStore.open(memory)
    message = str(caught.value)
    assert f"process {pid} " in message
    assert "tests.storage.children hold" in message
    assert "since 20" in message
    assert "reading only" in message


def test_a_writer_is_refused_to_another_process(memory: Path) -> None:
    with LMDBStore.open(memory):
        answer = run_child(children.try_to_open, memory, "")
    assert answer.startswith("StoreLockedError")
    assert f"process {os.getpid()} " in answer
    assert run_child(children.try_to_open, memory, "") == "opened\n"


def test_a_killed_writer_leaves_no_lock(memory: Path) -> None:
    with child(children.hold, memory) as holder:
        pid = line(holder)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert pid in (memory / "WRITER.lock").read_text()  # what it wrote is still there
    with LMDBStore.open(memory) as store:
        assert store.commit(WriteBatch()) == 1


def test_a_refused_attempt_leaves_the_lock_to_its_holder(memory: Path) -> None:
    with LMDBStore.open(memory):
        for _ in range(2):
            with pytest.raises(StoreLockedError):
                LMDBStore.open(memory)
        assert run_child(children.try_to_open, memory, "").startswith("StoreLockedError")


def test_readers_that_come_and_go_leave_the_lock_to_its_holder(memory: Path) -> None:
    with LMDBStore.open(memory):
        for _ in range(2):
            LMDBStore.open(memory, read_only=True).close()
        assert run_child(children.try_to_open, memory, "").startswith("StoreLockedError")


def test_another_name_of_the_directory_is_the_same_memory(memory: Path) -> None:
    other = memory.with_name("other")
    other.symlink_to(memory)
    with LMDBStore.open(memory), pytest.raises(StoreLockedError):
        LMDBStore.open(other)


def test_a_timeout_waits_for_the_holder_to_close(memory: Path) -> None:
    first = LMDBStore.open(memory)
    first.commit(WriteBatch())
    closing = threading.Timer(0.2, first.close)
    closing.start()
    with LMDBStore.open(memory, lock_timeout=30) as second:
        assert second.generation() == 1
    closing.join()


def test_a_timeout_ends_in_the_same_error(memory: Path) -> None:
    with LMDBStore.open(memory), pytest.raises(StoreLockedError, match=r"WRITER\.lock"):
        LMDBStore.open(memory, lock_timeout=0.1)


def test_a_writer_that_nobody_holds_any_more_gives_up_the_lock(memory: Path) -> None:
    store: LMDBStore | None = LMDBStore.open(memory)
    with pytest.raises(StoreLockedError):
        LMDBStore.open(memory)
    assert store is not None
    store = None
    gc.collect()
    LMDBStore.open(memory).close()


def test_a_failed_opening_leaves_no_lock(memory: Path) -> None:
    current = (memory / "CURRENT").read_bytes()
    (memory / "CURRENT").write_bytes(b"gen-000099")
    with pytest.raises(Exception, match="gen-000099"):
        LMDBStore.open(memory)
    (memory / "CURRENT").write_bytes(current)
    LMDBStore.open(memory).close()


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\x00"])
def test_what_an_old_holder_wrote_does_not_matter(memory: Path, record: bytes) -> None:
    (memory / "WRITER.lock").write_bytes(record)
    with LMDBStore.open(memory) as store:
        assert store.commit(WriteBatch()) == 1


def test_a_negative_timeout_is_refused(memory: Path) -> None:
    with pytest.raises(StoreUsageError, match="lock_timeout"):
        LMDBStore.open(memory, lock_timeout=-1)


class TestWhoWrites:
    def test_nobody(self, memory: Path) -> None:
        assert locks.writer_of(memory / "WRITER.lock") is None
        assert locks.writer_of(memory / "missing") is None

    def test_another_process_is_named_and_keeps_the_lock(self, memory: Path) -> None:
        with child(children.hold, memory) as holder:
            pid = line(holder)
            for find in (locks.writer_of, locks.holder_elsewhere) * 2:
                assert f"process {pid} " in str(find(memory / "WRITER.lock"))
            with pytest.raises(StoreLockedError):
                LMDBStore.open(memory)

    def test_this_process_is_named_and_keeps_the_lock(self, memory: Path) -> None:
        with LMDBStore.open(memory):
            for _ in range(2):
                assert f"process {os.getpid()} " in str(locks.writer_of(memory / "WRITER.lock"))
                assert locks.holder_elsewhere(memory / "WRITER.lock") is None
            assert run_child(children.try_to_open, memory, "").startswith("StoreLockedError")
        assert locks.writer_of(memory / "WRITER.lock") is None

    def test_nobody_where_the_writer_was_killed(self, memory: Path) -> None:
        with child(children.hold, memory) as holder:
            line(holder)
            holder.kill()
            holder.wait()
        assert locks.writer_of(memory / "WRITER.lock") is None
