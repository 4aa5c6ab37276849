"""What only the store on disk has: directories, files, processes, and damage to them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from storage_backends import layout, opening, trust
from storage_backends.checksum import of_lists, seal
from storage_backends.codec import decode_number, encode_number, encode_rows
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreSchemaError,
    StoreUsageError,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.opening import OpenMode
from storage_backends.types import EDGE, WriteBatch
from tests.storage import children
from tests.storage.build import concepts, edges, ids
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


def data_of(memory: Path) -> Path:
    return memory / "gen-000001" / "data.mdb"


def listing(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


class TestDirectories:
    def test_a_missing_directory_is_made_with_its_parents(self, tmp_path: Path) -> None:
        with LMDBStore.open(tmp_path / "a" / "b") as store:
            assert (store.generation(), store.read_only) == (0, False)
            assert store.directory == tmp_path / "a" / "b"
        assert (tmp_path / "a" / "b" / "CURRENT").read_bytes() == b"gen-000001\n"

    def test_an_empty_directory_becomes_a_memory(self, tmp_path: Path) -> None:
        (tmp_path / ".gitkeep").touch()
        with LMDBStore.open(str(tmp_path)) as store:
            assert store.commit(batch_of(1)) == 1

    @pytest.mark.parametrize("arguments", [{"create": False}, {"read_only": True}])
    def test_nothing_is_made_where_that_was_not_asked_for(
        self, tmp_path: Path, arguments: dict[str, Any]
    ) -> None:
        for directory in (tmp_path, tmp_path / "missing"):
            with pytest.raises(NotAStoreError, match=str(directory)):
                LMDBStore.open(directory, **arguments)
        assert listing(tmp_path) == {}

    @pytest.mark.parametrize("arguments", [{}, {"create": False}, {"read_only": True}])
    def test_a_directory_of_something_else_is_left_alone(
        self, tmp_path: Path, arguments: dict[str, Any]
    ) -> None:
        (tmp_path / "photo.jpg").write_bytes(b"jpg")
        with pytest.raises(NotAStoreError, match=str(tmp_path)):
            LMDBStore.open(tmp_path, **arguments)
        assert listing(tmp_path) == {"photo.jpg": b"jpg"}

    @pytest.mark.parametrize("arguments", [{}, {"create": False}, {"read_only": True}])
    def test_a_file_is_no_memory(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        (tmp_path / "file").write_bytes(b"text")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(NotAStoreError, match="a file"):
                LMDBStore.open(path, **arguments)
        assert listing(tmp_path) == {"file": b"text"}

    @pytest.mark.parametrize(
        "left",
        [
            {"WRITER.lock": b"{}"},
            {"CURRENT.new": b"gen-0"},
            {"gen-000001/lock.mdb": b""},
            {"gen-000001/data.mdb": b""},
            {"gen-000001/data.mdb": bytes(100)},
            {"gen-000001/data.mdb": bytes(8192)},
        ],
    )
    def test_an_interrupted_making_is_completed(
        self, tmp_path: Path, left: dict[str, bytes]
    ) -> None:
        (tmp_path / "gen-000001").mkdir()
        for name, content in left.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(NotAStoreError):
            LMDBStore.open(tmp_path, read_only=True)
        with LMDBStore.open(tmp_path) as store:
            assert store.commit(batch_of(1)) == 1
            assert picture(store) == Oracle(store.uuid).at(1)
            assert store.verify() == []

    def test_a_memory_that_lost_its_current_file_keeps_its_records(self, memory: Path) -> None:
        (memory / "CURRENT").unlink()
        with LMDBStore.open(memory) as store:
            assert picture(store) == Oracle(store.uuid).at(3)

    @pytest.mark.parametrize("content", [b"", b"gen-1", b"../gen-000001", b"gen-000002", b"\xff"])
    @pytest.mark.parametrize("read_only", [True, False])
    def test_a_damaged_current_file_is_an_error(
        self, memory: Path, content: bytes, read_only: bool
    ) -> None:
        (memory / "CURRENT").write_bytes(content)
        with pytest.raises(StoreCorruptError, match=str(memory)):
            LMDBStore.open(memory, read_only=read_only)

    def test_a_memory_made_anew_in_the_same_place_is_another(self, memory: Path) -> None:
        with LMDBStore.open(memory) as old:
            shutil.rmtree(memory)
            with LMDBStore.open(memory) as new:
                assert new.uuid != old.uuid
                assert (new.generation(), old.generation()) == (0, 3)

    @pytest.mark.parametrize(
        "arguments", [{"durability": "none"}, {"log_length": 0}, {"map_size": 0}]
    )
    def test_arguments_out_of_range_are_refused(
        self, tmp_path: Path, arguments: dict[str, Any]
    ) -> None:
        with pytest.raises(StoreUsageError, match=next(iter(arguments))):
            LMDBStore.open(tmp_path, **arguments)
        assert listing(tmp_path) == {}

    def test_a_network_file_system_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layout, "file_system_of", lambda path, mounts: "nfs4")
        with pytest.raises(StoreError, match="local file system, got nfs4"):
            LMDBStore.open(tmp_path)
        assert listing(tmp_path) == {}

    @pytest.mark.parametrize(
        ("path", "kind"),
        [("/srv/x", "ext4"), ("/srv/a b/x", "nfs4"), ("/srv/ab", "ext4"), ("/home/m", "btrfs")],
    )
    def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(
        self, path: str, kind: str
    ) -> None:
        mounts = [
            "none / overlay rw 0 0",
            "/dev/b /home xfs rw 0 0",
            "/dev/a / ext4 rw 0 0",
            "host:/x /srv/a\\040b nfs4 rw 0 0",
            "/dev/c /home btrfs rw 0 0",
        ]
        assert layout.file_system_of(Path(path), mounts) == kind


class TestHandles:
    def test_a_writer_may_come_after_readers(self, memory: Path) -> None:
        with LMDBStore.open(memory, read_only=True) as reader:
            for durability in ("full", "normal", "full"):
                with LMDBStore.open(memory, durability=durability) as writer:
                    generation = writer.commit(batch_of(writer.generation() + 1))
                    assert reader.generation() == generation
                    assert picture(reader) == picture(writer)
            with pytest.raises(StoreReadOnlyError, match="read_only=True"):
                reader.commit(WriteBatch())
            assert reader.generation() == 6

    def test_a_reader_follows_a_writer_in_another_process(self, memory: Path) -> None:
        with (
            LMDBStore.open(memory, read_only=True) as reader,
            child(children.commit_forever, memory, "full") as writer,
        ):
            for _ in range(20):
                acknowledged = int(line(writer))
                assert reader.generation() >= acknowledged
                assert reader.verify() == []

    def test_a_full_map_grows_and_other_processes_follow(self, tmp_path: Path) -> None:
        with (
            LMDBStore.open(tmp_path, map_size=1 << 20) as store,
            child(children.follow, tmp_path) as reader,
        ):
            assert line(reader) == "0"
            for number in range(3):
                wanted = range(10_000 * number + 1, 10_000 * number + 10_001)
                store.commit(WriteBatch(concepts=concepts(wanted, dim=64)))
                assert reader.stdin is not None
                reader.stdin.write("\n")
                reader.stdin.flush()
                assert line(reader) == f"{number + 1} {10_000 * (number + 1)} 0"
            assert store.stats().file_bytes > 4 << 20
            assert store.verify() == []

    def test_a_reader_opens_while_the_file_outgrows_its_map(
        self, memory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_file_too_early(folder: Path, mode: OpenMode) -> lmdb.Environment:
            opened = open_file(folder, mode)
            run_child(children.commit_much, memory)
            return opened

        open_file = opening._open_file
        monkeypatch.setattr(opening, "_open_file", open_file_too_early)
        with LMDBStore.open(memory, read_only=True, map_size=1 << 16) as reader:
            assert reader.generation() == 4
            assert reader.verify() == []

    def test_little_address_space_is_enough(self, memory: Path) -> None:
        assert int(run_child(children.open_in_little_space, memory)) == 32

    def test_readers_beyond_the_slots_are_refused_until_one_is_gone(
        self, memory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (memory / "gen-000001" / "lock.mdb").unlink()
        monkeypatch.setattr(opening, "_MAX_READERS", 2)
        monkeypatch.setattr(opening, "_LOCK_SIZE", 1)
        with (
            LMDBStore.open(memory, read_only=True) as reader,
            child(children.hold_slot, memory) as other,
        ):
            line(other)
            answer = run_child(children.try_to_read_with_few_slots, memory)
            assert answer.startswith("StoreError")
            assert "slots in lock.mdb" in answer
            other.kill()
            other.wait()
            assert run_child(children.try_to_read_with_few_slots, memory) == "opened\n"
            assert reader.generation() == 3

    def test_reading_changes_no_byte_of_the_data_file(self, memory: Path) -> None:
        before = data_of(memory).read_bytes(), data_of(memory).stat().st_mtime_ns
        with LMDBStore.open(memory, read_only=True) as reader:
            assert picture(reader) == Oracle(reader.uuid).at(3)
            assert reader.changes(1) is not None
            assert reader.verify() == []
            assert run_child(children.read, memory) == "3\n"
        assert (data_of(memory).read_bytes(), data_of(memory).stat().st_mtime_ns) == before

    def test_opening_for_writing_changes_no_byte_of_the_data_file(self, memory: Path) -> None:
        before = data_of(memory).read_bytes()
        LMDBStore.open(memory).close()
        assert data_of(memory).read_bytes() == before

    def test_the_log_keeps_its_length_and_says_when_it_does_not_reach_back(
        self, memory: Path
    ) -> None:
        with LMDBStore.open(memory, log_length=4) as store:
            for generation in range(4, 9):
                store.commit(batch_of(generation))
            covered = [since for since in range(10) if store.changes(since) is not None]
            assert covered == [4, 5, 6, 7, 8]
            assert store.stats().log_entries == 4
            assert store.verify() == []

    def test_all_that_was_changed_is_read_whatever_the_order_of_ids(self, memory: Path) -> None:
        with LMDBStore.open(memory) as store:
            store.commit(WriteBatch(concepts=concepts([63, 40, 62, 41])))
            changed = store.changes(3)
            assert changed is not None
            assert changed.concepts.ids.tolist() == [40, 41, 62, 63]

    def test_the_size_is_that_of_the_file(self, memory: Path) -> None:
        with LMDBStore.open(memory, read_only=True) as store:
            assert store.stats().file_bytes == data_of(memory).stat().st_size


class TestPermissions:
    @pytest.fixture
    def shared(self) -> Iterator[Path]:
        """A memory that a stranger can reach."""
        if os.getuid():
            pytest.skip("NOT TESTED: needs root, to become somebody else")
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o755)
        with LMDBStore.open(folder / "memory") as store:
            store.commit(batch_of(1))
        yield folder / "memory"
        shutil.rmtree(folder)

    def test_a_stranger_without_permission_is_told_so(self, shared: Path) -> None:
        reading, writing = run_child(children.read_as_stranger, shared).splitlines()
        assert reading.startswith("StoreReadOnlyError")
        assert "lock.mdb" in reading
        assert writing.startswith("StoreReadOnlyError")
        assert "reading only" in writing

    def test_a_stranger_who_may_write_the_lock_file_may_read(self, shared: Path) -> None:
        (shared / "gen-000001" / "lock.mdb").chmod(0o666)
        reading, writing = run_child(children.read_as_stranger, shared).splitlines()
        assert reading == "opened 1"
        assert writing.startswith("StoreReadOnlyError")

    def test_a_read_only_file_system_can_be_read(self, memory: Path) -> None:
        bound = memory.with_name("bound")
        bound.mkdir()
        try:
            subprocess.run(["mount", "--bind", memory, bound], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"NOT TESTED: needs the right to mount a file system ({error})")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", bound], check=True)
            with LMDBStore.open(bound, read_only=True) as store:
                assert picture(store) == Oracle(store.uuid).at(3)
            with pytest.raises(StoreReadOnlyError, match="reading only"):
                LMDBStore.open(bound)
        finally:
            subprocess.run(["umount", bound], check=True)


def edit(
    memory: Path, change: Callable[[lmdb.Environment, Any], None], *, stamped: bool = True
) -> None:
    """Change the records of a closed memory behind the store's back, and by default its stamp."""
    folder = memory / "gen-000001"
    env = lmdb.open(str(folder), max_dbs=16, map_size=1 << 24, lib_version=0)
    with env:
        with env.begin(write=True) as transaction:
            change(env, transaction)
        if stamped:
            trust.write_stamp(folder, 0, durable=True)


def put(table: str, key: bytes, record: bytes) -> Callable[[lmdb.Environment, Any], None]:
    """Write a record with a checksum that fits."""

    def change(env: lmdb.Environment, transaction: Any) -> None:
        sealed = sealed_record(table, key, record)
        transaction.put(key, sealed, db=env.open_db(table.encode(), txn=transaction))

    return change


def sealed_record(table: str, key: bytes, record: bytes) -> bytes:
    if (table, key) == ("sys", b"schema"):
        return record
    if table in ("key", "value", "meta", "evolution", "adjacency") and len(key) == 8:
        number, body = np.array([decode_number(key)], np.uint64), np.frombuffer(record, np.uint8)
        if table != "adjacency":
            return encode_rows(table, number, body.reshape(1, -1))[0]
        if len(record) % EDGE.itemsize == 0:
            items = body.reshape(-1, EDGE.itemsize)
            return record + of_lists(table, number, np.array([len(items)]), items).tobytes()
    return seal(table, key, record)


def drop(table: str, key: bytes) -> Callable[[lmdb.Environment, Any], None]:
    def change(env: lmdb.Environment, transaction: Any) -> None:
        assert transaction.delete(key, db=env.open_db(table.encode(), txn=transaction))

    return change


def edge_record(target: int, weight: float = 1.0) -> bytes:
    record = np.zeros(1, EDGE)
    record["target"], record["weight"] = target, weight
    return record.tobytes()


# At generation 3 the concepts 9 to 32 live, four floats wide; 9 has lost its edges, 25 has seven.
KEY, GONE = encode_number(25), encode_number(60)
NAN = struct.pack("<4f", 0, 0, 0, np.nan)

DAMAGE: dict[str, tuple[Callable[[lmdb.Environment, Any], None], str, str]] = {
    "key of another width": (put("key", KEY, bytes(12)), "key", "16 bytes and a checksum"),
    "key that is no number": (put("key", KEY, NAN), "key", "25: expected finite"),
    "key of no whole id": (put("key", b"abc", bytes(16)), "key", "8 bytes"),
    "no key": (drop("key", KEY), "value", "25: expected an existing concept"),
    "no value": (drop("value", KEY), "value", "25: expected a record"),
    "value of unknown kind": (put("value", KEY, b"\7"), "value", "kind 7"),
    "value of another length": (put("value", KEY, b"\1abc"), "value", "kind 1 with 3"),
    "value of no length": (put("value", KEY, b""), "value", "no bytes"),
    "value that is no number": (put("value", KEY, b"\2" + NAN), "value", "25: expected finite"),
    "no statistics": (drop("meta", KEY), "meta", "25: expected a record"),
    "statistics cut short": (put("meta", KEY, bytes(63)), "meta", "64 bytes and a checksum"),
    "payload of nobody": (put("payload", GONE, b"x"), "payload", "60: expected an existing"),
    "payload without content": (put("payload", KEY, b""), "payload", "25: expected at least"),
    "edges of nobody": (put("adjacency", GONE, edge_record(25)), "adjacency", "60: expected"),
    "edges cut short": (put("adjacency", KEY, bytes(23)), "adjacency", "24 bytes and a checksum"),
    "edges of no length": (put("adjacency", KEY, b""), "adjacency", "25: expected at least"),
    "edge to nobody": (put("adjacency", KEY, edge_record(60)), "adjacency", "target 60"),
    "edge to itself": (put("adjacency", KEY, edge_record(25)), "adjacency", "target 25"),
    "edge twice": (put("adjacency", KEY, edge_record(26) * 2), "adjacency", "each target once"),
    "edge of no weight": (
        put("adjacency", KEY, edge_record(26, np.inf)),
        "adjacency",
        "finite numbers, got target 26",
    ),
    "edge uncounted": (put("sys", b"edges", encode_number(7)), "sys", "got 7"),
    "edge count cut short": (put("sys", b"edges", b"7"), "adjacency", "8 bytes and a"),
    "name that is not ASCII": (put("shortterm", b"\xff", b""), "shortterm", "ASCII"),
    "log with a gap": (drop("log", encode_number(2)), "log", "each generation to 3"),
    "log without an end": (drop("log", encode_number(3)), "log", "each generation to 3"),
    "log that is no log": (put("log", encode_number(2), b"\xc1"), "log", "2: "),
    "log of no whole ids": (put("log", encode_number(2), b"\x81\xa3put\xc4\1x"), "log", "2: "),
    "log of unknown words": (put("log", encode_number(2), b"\x81\xa3pit\xc4\0"), "log", "2: "),
    "event missing": (drop("evolution", encode_number(1)), "evolution", "numbers 0 to"),
    "event cut short": (put("evolution", encode_number(1), b"x"), "evolution", "32 bytes and a"),
    "generation missing": (drop("sys", b"seq"), "log", "seq"),
    "identity damaged": (put("sys", b"uuid", b"me"), "sys", "32 hexadecimal"),
    "setting damaged": (put("sys", b"\xff", b"1"), "sys", "ASCII"),
}


class TestDamage:
    def test_a_whole_memory_has_no_problem(self, memory: Path) -> None:
        edit(memory, put("sys", b"other", b"setting"))
        with LMDBStore.open(memory) as store:
            assert store.verify() == []

    @pytest.mark.parametrize("name", DAMAGE)
    def test_every_kind_of_damage_is_found(self, memory: Path, name: str) -> None:
        change, table, words = DAMAGE[name]
        edit(memory, change)
        with LMDBStore.open(memory, read_only=True) as store:
            problems = [str(problem) for problem in store.verify() if problem.table == table]
        assert any(words in problem.replace("]", "") for problem in problems), problems

    @pytest.mark.parametrize(
        "name",
        [
            "key of another width",
            "key of no whole id",
            "no key",
            "no value",
            "value of unknown kind",
            "value of another length",
            "value of no length",
            "no statistics",
            "statistics cut short",
            "edges cut short",
        ],
    )
    def test_damaged_records_are_never_loaded(self, memory: Path, name: str) -> None:
        edit(memory, DAMAGE[name][0])
        with LMDBStore.open(memory) as store, pytest.raises(StoreCorruptError):
            store.load()

    def test_a_log_that_names_a_concept_cut_short_is_an_error(self, memory: Path) -> None:
        edit(memory, DAMAGE["no statistics"][0])
        with LMDBStore.open(memory) as store, pytest.raises(StoreCorruptError, match=r"meta\[25"):
            store.changes(2)

    def test_many_problems_of_a_kind_are_summed_up(self, tmp_path: Path) -> None:
        with LMDBStore.open(tmp_path) as store:
            wanted = range(1, 63)
            linked = {i: edges(63) for i in wanted}
            store.commit(WriteBatch(concepts=concepts([*wanted, 63]), edges=linked))
            store.commit(WriteBatch(deleted=ids(63)))
            problems = [str(problem) for problem in store.verify()]
        assert len(problems) == 21
        assert problems[0] == "adjacency[1]: expected an existing concept, got target 63"
        assert "42 more" in problems[-1]

    @pytest.mark.parametrize("read_only", [True, False])
    def test_a_newer_schema_is_refused_and_left_alone(self, memory: Path, read_only: bool) -> None:
        def change(env: lmdb.Environment, transaction: Any) -> None:
            put("sys", b"schema", b"3")(env, transaction)
            transaction.drop(env.open_db(b"adjacency", txn=transaction))

        edit(memory, change)
        before = data_of(memory).read_bytes()
        with pytest.raises(StoreSchemaError, match="schema 2, got 3"):
            LMDBStore.open(memory, read_only=read_only)
        assert data_of(memory).read_bytes() == before

    @pytest.mark.parametrize("schema", [b"", b"one", b"\xff"])
    def test_a_schema_that_is_no_number_is_an_error(self, memory: Path, schema: bytes) -> None:
        edit(memory, put("sys", b"schema", schema))
        with pytest.raises(StoreCorruptError, match="schema"):
            LMDBStore.open(memory)

    def test_a_missing_table_is_an_error(self, memory: Path) -> None:
        edit(memory, lambda env, txn: txn.drop(env.open_db(b"meta", txn=txn)))
        with pytest.raises(StoreCorruptError, match="meta"):
            LMDBStore.open(memory, read_only=True)

    def test_another_lmdb_format_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        LMDBStore.open(tmp_path).close()
        content = bytearray(data_of(tmp_path).read_bytes())
        for page in (0, 4096):
            content[page + 20] = 3
        data_of(tmp_path).write_bytes(content)
        assert run_child(children.open_damaged, tmp_path).count("StoreSchemaError") == 2
        assert data_of(tmp_path).read_bytes() == content

    @pytest.mark.parametrize(
        "damage",
        {
            "half": lambda content: content[: len(content) // 2],
            "last page": lambda content: content[:-4096],
            "one meta page": lambda content: content[:4096],
            "a few bytes": lambda content: content[:50],
            "nothing": lambda content: b"",
            "zeros": lambda content: bytes(len(content)),
            "text": lambda content: b"some text, " * 1000,
        }.items(),
        ids=lambda item: item[0],
    )
    def test_a_damaged_data_file_is_an_error_and_no_signal(
        self, memory: Path, damage: tuple[str, Callable[[bytes], bytes]]
    ) -> None:
        damaged = damage[1](data_of(memory).read_bytes())
        data_of(memory).write_bytes(damaged)
        answers = run_child(children.open_damaged, memory).splitlines()
        assert len(answers) == 2
        for answer in answers:
            assert answer.startswith("StoreCorruptError")
            assert str(data_of(memory)) in answer
        assert data_of(memory).read_bytes() == damaged
