"""A data file that is not as its last commit left it is examined before it is used."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_backends import trust
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage import children
from tests.storage.history import Oracle, batch_of
from tests.storage.picture import picture
from tests.storage.processes import child, line, run_child

MUTATIONS = 60


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A closed memory at generation 8 of the history."""
    with LMDBStore.open(tmp_path / "memory") as store:
        for generation in range(1, 9):
            store.commit(batch_of(generation))
    return tmp_path / "memory"


@pytest.fixture
def examined(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """Return how often a data file was examined since the last time that was asked."""
    caplog.set_level(logging.INFO, "aesg.storage")

    def count() -> int:
        found = [record for record in caplog.records if "examined in" in record.getMessage()]
        caplog.clear()
        return len(found)

    return count


def folder_of(memory: Path) -> Path:
    return memory / "gen-000001"


def touch(memory: Path) -> None:
    os.utime(folder_of(memory) / "data.mdb", (1, 1))


def open_and_close(memory: Path, *, read_only: bool) -> None:
    with LMDBStore.open(memory, read_only=read_only) as store:
        assert picture(store) == Oracle(store.uuid).at(8)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_as_it_was_left_is_used_at_once(
    memory: Path, examined: Callable[[], int], read_only: bool
) -> None:
    for _ in range(3):
        open_and_close(memory, read_only=read_only)
    assert examined() == 0
    assert trust.is_as_stamped(folder_of(memory))


def test_every_commit_and_publication_is_stamped(memory: Path) -> None:
    with LMDBStore.open(memory) as store:
        for generation in (9, 10):
            store.commit(WriteBatch())
            assert trust.is_as_stamped(folder_of(memory))
            store.publish(b"manifest", generation)
            assert trust.is_as_stamped(folder_of(memory))
            stamp = trust.read_stamp(folder_of(memory))
            assert stamp is not None
            assert (stamp.generation, stamp.durable) == (generation, True)


def test_another_file_is_examined_until_a_writer_stamps_it(
    memory: Path, examined: Callable[[], int]
) -> None:
    touch(memory)
    before = (folder_of(memory) / "STAMP").read_bytes()
    for _ in range(2):
        open_and_close(memory, read_only=True)
        assert examined() == 1
    assert (folder_of(memory) / "STAMP").read_bytes() == before
    open_and_close(memory, read_only=False)
    assert examined() == 1
    open_and_close(memory, read_only=False)
    open_and_close(memory, read_only=True)
    assert examined() == 0


@pytest.mark.parametrize("stamp", [None, b"", b"1 2 3", b"a b c d", b"\xff" * 70])
def test_a_file_without_a_whole_stamp_is_examined(
    memory: Path, examined: Callable[[], int], stamp: bytes | None
) -> None:
    (folder_of(memory) / "STAMP").unlink()
    if stamp is not None:
        (folder_of(memory) / "STAMP").write_bytes(stamp)
    open_and_close(memory, read_only=True)
    open_and_close(memory, read_only=False)
    assert examined() == 2
    open_and_close(memory, read_only=True)
    assert examined() == 0


def test_a_copy_is_examined_once(memory: Path, examined: Callable[[], int]) -> None:
    copy = memory.with_name("copy")
    shutil.copytree(memory, copy, copy_function=shutil.copy)
    open_and_close(copy, read_only=False)
    open_and_close(copy, read_only=False)
    assert examined() == 1


def test_a_second_handle_of_a_process_has_nothing_to_examine(
    memory: Path, examined: Callable[[], int]
) -> None:
    with LMDBStore.open(memory) as writer:
        touch(memory)
        open_and_close(memory, read_only=True)
        writer.commit(WriteBatch())
    assert examined() == 0
    assert trust.is_as_stamped(folder_of(memory))


def test_a_writer_after_a_reader_of_the_process_examines(
    memory: Path, examined: Callable[[], int]
) -> None:
    with LMDBStore.open(memory, read_only=True):
        touch(memory)
        open_and_close(memory, read_only=False)
        assert examined() == 1


def test_a_live_writer_vouches_for_its_file(memory: Path, examined: Callable[[], int]) -> None:
    with child(children.commit_forever, memory, "full") as writer:
        for _ in range(30):
            line(writer)
            with LMDBStore.open(memory, read_only=True) as reader:
                assert reader.generation() > 8
    assert examined() == 0


def test_a_writer_that_has_not_examined_its_file_does_not_vouch(memory: Path) -> None:
    with child(children.hold, memory) as holder:
        line(holder)
        stamp = trust.read_stamp(folder_of(memory))
        assert stamp is not None
        trust._write(folder_of(memory), stamp._replace(size=0, mtime_ns=0))
        damage(memory)
        with pytest.raises(StoreCorruptError, match="sound pages"):
            LMDBStore.open(memory, read_only=True)


def test_a_killed_writer_does_not_vouch(memory: Path) -> None:
    with child(children.hold, memory) as holder:
        line(holder)
        holder.kill()
        holder.wait()
    damage(memory)
    with pytest.raises(StoreCorruptError, match="sound pages"):
        LMDBStore.open(memory, read_only=True)


def test_damage_is_refused_each_time_and_by_everybody(memory: Path) -> None:
    damage(memory)
    for read_only in (False, False, True):
        with pytest.raises(StoreCorruptError, match=r"data\.mdb"):
            LMDBStore.open(memory, read_only=read_only)


def test_a_file_without_its_last_commits_is_refused_until_its_stamp_is_gone(memory: Path) -> None:
    older = (folder_of(memory) / "data.mdb").read_bytes()
    with LMDBStore.open(memory) as store:
        store.commit(batch_of(9))
    (folder_of(memory) / "data.mdb").write_bytes(older)
    for read_only in (True, False, False):
        with pytest.raises(StoreCorruptError, match="generation 9 or a later one, got 8"):
            LMDBStore.open(memory, read_only=read_only)
    (folder_of(memory) / "STAMP").unlink()
    open_and_close(memory, read_only=False)


def test_commits_that_were_not_durable_may_be_lost(memory: Path) -> None:
    older = (folder_of(memory) / "data.mdb").read_bytes()
    with LMDBStore.open(memory, durability="normal") as store:
        store.commit(batch_of(9))
    (folder_of(memory) / "data.mdb").write_bytes(older)
    open_and_close(memory, read_only=False)


def test_a_stamp_that_cannot_be_written_stops_nothing(
    memory: Path, examined: Callable[[], int]
) -> None:
    (folder_of(memory) / "STAMP").unlink()
    (folder_of(memory) / "STAMP").mkdir()
    with LMDBStore.open(memory) as store:
        assert store.commit(WriteBatch()) == 9
    assert examined() == 1


def test_no_damage_ends_in_a_signal_or_in_a_wrong_answer(memory: Path) -> None:
    outcomes = run_child(children.open_damaged_copies, memory, 0, MUTATIONS).splitlines()
    assert len(outcomes) == MUTATIONS
    words = {outcome.split(maxsplit=1)[1] for outcome in outcomes}
    assert words <= {"unharmed", "StoreCorruptError", "StoreSchemaError"}, outcomes
    assert {"unharmed", "StoreCorruptError"} <= words
    assert sum("StoreCorruptError" in outcome for outcome in outcomes) > MUTATIONS // 5


def test_a_flipped_bit_of_a_meta_page_is_no_wrong_answer(memory: Path) -> None:
    whole = (folder_of(memory) / "data.mdb").read_bytes()
    with LMDBStore.open(memory) as store:
        expected = picture(store)
    accepted = 0
    for page in (0, 1):
        for bit in range(8 * 0x80, 8 * 0x90):  # number of the last page and of the transaction
            changed = bytearray(whole)
            changed[4096 * page + 16 + bit // 8 - 8] ^= 1 << bit % 8
            (folder_of(memory) / "data.mdb").write_bytes(changed)
            try:
                with LMDBStore.open(memory, read_only=True) as store:
                    assert picture(store) == expected
                    accepted += 1
            except StoreError:
                pass
    assert 0 < accepted < 128


def damage(memory: Path) -> None:
    """Turn all pages but the meta pages into zeros, in place, as a bad disk does it."""
    path = folder_of(memory) / "data.mdb"
    with open(path, "r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(path.stat().st_size - 2 * 4096))
