"""Processes that read a memory while another writes, compacts or copies it, or dies."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aesg import AESGMemory, AESGStorageError
from storage_backends.compaction import compact
from storage_backends.copying import copy
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from tests import memory_children as children
from tests import memory_readers as readers
from tests.memory_build import data_file, meet, opened, pattern, patterns
from tests.memory_processes import child, run_child
from tests.memory_readers import STAMPED, replace_all, stamp


def trainer(directory: Path, **fields: Any) -> AESGMemory:
    """Open a memory that is full with one stamp, in which nothing else is born."""
    return opened(
        directory,
        max_concepts=STAMPED,
        novelty_birth_threshold=99,
        durability="normal",
        **fields,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A memory of one commit, whose stamp is 0."""
    directory = tmp_path / "memory"
    with trainer(directory) as memory:
        replace_all(memory, 0)
    return directory


def test_every_answer_of_four_readers_is_of_one_commit(directory: Path) -> None:
    last = 80
    with ExitStack() as running:
        watching = [
            running.enter_context(child(readers.watch, str(directory), last)) for _ in range(4)
        ]
        assert [reader.next() for reader in watching] == ["watching"] * 4
        with trainer(directory) as memory:
            for value in range(1, last + 1):
                replace_all(memory, value)
        seen = [reader.next() for reader in watching]
    assert min(seen) > 1


def test_readers_follow_a_compaction_in_between(directory: Path) -> None:
    last = 60
    with ExitStack() as running:
        watching = [
            running.enter_context(child(readers.watch, str(directory), last)) for _ in range(2)
        ]
        assert [reader.next() for reader in watching] == ["watching"] * 2
        reader = AESGMemory.open(directory)
        for begin in range(1, last, 20):
            with trainer(directory) as memory:
                meet(memory, pattern(9), times=1)
                for value in range(begin, begin + 20):
                    replace_all(memory, value)
            before = data_file(directory)
            assert compact(directory).done
            assert data_file(directory) != before
            assert stamp(reader) == begin + 19
            assert reader.provisional_count == 1
            assert not before.exists()
        assert all(reader.next() > 1 for reader in watching)
        assert reader.storage.verify() == []


def test_parameters_and_counters_come_along_with_a_compaction(directory: Path) -> None:
    reader = AESGMemory.open(directory)
    assert stamp(reader) == 0
    with opened(directory, max_concepts=99, spreading_activation_steps=7) as memory:
        for _ in range(5):
            memory.update_topology()
        ids = memory.remember(pattern(12), [5]).tolist()
    compact(directory)
    assert reader.payloads(ids) == [None]
    state = reader._state
    assert (state.config.max_concepts, state.config.spreading_activation_steps) == (99, 7)
    assert state.clock.tick == 5
    assert state.clock.next_id > ids[0]


def size_after(memory: AESGMemory, commits: int) -> int:
    """Return the size of the data file after some commits more."""
    for value in range(commits):
        replace_all(memory, value)
    return data_file(memory.directory).stat().st_size


def test_readers_that_rest_do_not_make_the_file_grow(directory: Path, tmp_path: Path) -> None:
    copy(directory, tmp_path / "unread")
    with trainer(tmp_path / "unread") as memory:
        size = size_after(memory, 100)
    with ExitStack() as running:
        resting = [running.enter_context(child(readers.idle, str(directory))) for _ in range(3)]
        assert [reader.next() for reader in resting] == [0] * 3
        with trainer(directory) as memory:
            assert size_after(memory, 100) <= size
            for reader in resting:
                reader.tell("again")
                assert reader.next() == 99


def slots(memory: AESGMemory) -> str:
    """Return LMDB's table of readers."""
    store = memory._state.engine.store
    assert isinstance(store, LMDBStore)
    return store._lease.env._env.readers()


def test_a_killed_reader_lets_go_of_its_slot_and_the_file_grows_no_more(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage_backends.lmdb_store._READER_CHECK_INTERVAL", 64)
    with trainer(directory) as memory:
        settled = size_after(memory, 20)
        with child(readers.read_for_ever, str(directory)) as reader:
            pid = str(reader.next())
            assert pid in slots(memory)
            reader.kill()
        assert size_after(memory, 20) > settled
        assert pid in slots(memory)
        grown = size_after(memory, 64)
        assert pid not in slots(memory)
        assert size_after(memory, 64) == grown


@pytest.mark.parametrize("opened_before", [True, False])
def test_workers_of_a_prefork_server_retrieve_and_refresh(
    directory: Path, opened_before: bool
) -> None:
    with child(readers.prefork, str(directory), opened_before) as server:
        if opened_before:
            assert server.next() == 0
        assert server.next() == "forked"
        with trainer(directory) as memory:
            replace_all(memory, 1)
            assert server.next() == [0] * 3
            if opened_before:
                assert server.next() == 1
            assert memory.storage.verify() == []


def test_a_process_forks_while_its_threads_retrieve_and_learn(directory: Path) -> None:
    assert run_child(readers.fork_while_threads_work, str(directory)) == [([0] * 10, [])]


def test_a_copy_is_made_while_readers_and_the_trainer_go_on(
    directory: Path, tmp_path: Path
) -> None:
    with child(readers.idle, str(directory)) as reader, trainer(directory) as memory:
        assert reader.next() == 0
        replace_all(memory, 1)
        memory.retrieve(pattern(9))
        memory.save()
        copy(directory, tmp_path / "copy")
        replace_all(memory, 2)
        reader.tell("again")
        assert reader.next() == 2
        assert "process" in str(run_child(children.try_to_open, str(directory)))  # still locked
        with AESGMemory.open(tmp_path / "copy") as copied:
            assert (stamp(copied), copied.provisional_count) == (1, 1)
            assert copied.storage.verify() == []
        assert memory.storage.verify() == []


class TestReadersBesideTheWriterOfTheirProcess:
    def test_the_last_writer_to_close_lets_others_write(self, directory: Path) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        other = AESGMemory(directory, writer.config)
        writer.retrieve(pattern(9))
        writer.close()
        assert "process" in str(run_child(children.try_to_open, str(directory)))
        other.close()
        assert reader.provisional_count == 1
        with child(children.hold, str(directory)) as holder:
            assert isinstance(holder.next(), int)
            assert stamp(reader) == 0
            with pytest.raises(AESGStorageError, match="expected no other writer"):
                reader.set_mode("TRAIN")
            assert stamp(reader) == 0
            holder.tell("close")
            assert holder.next() == "closed"
        assert reader.retrieve(pattern(9)).primary_concepts
        reader.close()

    def test_the_reader_takes_in_what_others_write_then(self, directory: Path) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        replace_all(writer, 1)
        assert stamp(reader) == 1
        writer.close()
        assert run_child(children.meet_once, str(directory), 9) == [(STAMPED, 1)]
        assert reader.refresh()
        assert reader.provisional_count == 1
        assert not reader.refresh()
        assert reader.storage.verify() == []

    def test_the_reader_goes_on_above_a_snapshot(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aesg.memory_loaded.Engine", partial(Engine, exact_below=4))
        writer, reader = trainer(directory), AESGMemory.open(directory)
        writer.storage.engine.rebuild()
        writer.close()
        with child(children.hold, str(directory)) as holder:
            holder.next()
            assert stamp(reader) == 0
            assert reader.storage.snapshot_generation is not None
            assert reader.storage.verify() == []

    def test_the_reader_can_become_the_writer_again(self, directory: Path) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        writer.close()
        reader.set_mode("TRAIN")
        replace_all(reader, 1)
        with AESGMemory.open(directory) as other:
            assert stamp(other) == 1
        reader.close()
        assert run_child(children.try_to_open, str(directory)) == ["opened"]

    def test_a_reader_turned_writer_keeps_the_lock_when_the_writer_closes(
        self, directory: Path
    ) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        reader.set_mode("TRAIN")
        writer.close()
        assert "process" in str(run_child(children.try_to_open, str(directory)))
        replace_all(reader, 1)
        assert stamp(reader) == 1

    def test_a_writer_that_infers_for_a_while_keeps_the_lock(self, directory: Path) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        writer.set_mode("INFERENCE")
        assert "process" in str(run_child(children.try_to_open, str(directory)))
        writer.set_mode("TRAIN")
        replace_all(writer, 1)
        assert stamp(reader) == 1

    def test_a_dropped_writer_lets_others_write(self, directory: Path) -> None:
        writer, reader = trainer(directory), AESGMemory.open(directory)
        replace_all(writer, 1)
        del writer
        for _ in range(100):
            if run_child(children.try_to_open, str(directory)) == ["opened"]:
                break
        else:
            pytest.fail("the lock is still held")
        assert stamp(reader) == 1

    def test_a_memory_made_to_infer_is_not_locked(self, tmp_path: Path) -> None:
        with opened(tmp_path / "new", memory_mode="INFERENCE") as memory:
            assert run_child(children.meet_once, str(tmp_path / "new"), 3) == [(0, 1)]
            assert len(memory.retrieve(pattern(3)).concept_ids) == 1


@pytest.fixture
def read_only(directory: Path, tmp_path: Path) -> Iterator[Path]:
    """The memory on a file system that is mounted read-only."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    commands = (
        ["mount", "--bind", str(directory), str(mounted)],
        ["mount", "-o", "remount,ro,bind", str(mounted)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", str(mounted)], capture_output=True)
            pytest.skip(f"NOT TESTED: needs the right to mount: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: needs the command mount")
def test_a_memory_on_a_read_only_file_system_is_read(read_only: Path) -> None:
    with AESGMemory.open(read_only) as memory:
        assert stamp(memory) == 0
        assert memory.storage.verify() == []
        with pytest.raises(AESGStorageError, match=r"[Rr]ead-only"):
            memory.set_mode("TRAIN")
        assert stamp(memory) == 0
    with child(readers.idle, str(read_only)) as reader:
        assert reader.next() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: needs root, to be another user")
@pytest.mark.parametrize("writable", [True, False])
def test_another_user_reads_or_is_told(writable: bool) -> None:
    """LMDB notes each reader in ``lock.mdb``, so that file must be writable by those who read."""
    directory = Path("/tmp") / f"aesg-{os.getpid()}" / "memory"
    try:
        with opened(directory) as memory:
            memory.remember(patterns(0, 1))
        if writable:
            data_file(directory).with_name("lock.mdb").chmod(0o666)
        said = run_child(readers.look_as_nobody, str(directory))
    finally:
        shutil.rmtree(directory.parent)
    if writable:
        assert said == [2]
    else:
        assert said[0][0] == "storage"
        assert "lock.mdb" in said[0][1]
