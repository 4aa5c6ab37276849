"""No record that is not as it was written leaves the store."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from storage_backends import checksum, codec, trust
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch
from tests.storage.history import batch_of
from tests.storage.picture import picture

READS: dict[str, Callable[[LMDBStore], object]] = {
    "key": lambda store: store.load(),
    "value": lambda store: store.load(),
    "meta": lambda store: store.load(),
    "adjacency": lambda store: store.load(),
    "payload": lambda store: store.payloads(store.load().concepts.ids),
    "shortterm": lambda store: store.shortterm(),
    "evolution": lambda store: store.events(),
    "log": lambda store: store.changes(0),
    "snapshot": lambda store: store.manifest(),
    "sys": lambda store: (store.load(), store.stats(), store.uuid, store.manifest_seq()),
}


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A closed memory with records in every table."""
    with LMDBStore.open(tmp_path / "memory") as store:
        for generation in (1, 2, 3):
            store.commit(batch_of(generation))
        store.commit(WriteBatch(payloads={25: b"one", 26: b"two"}))
        store.publish(b"manifest", 3)
    return tmp_path / "memory"


def entries(memory: Path, table: str) -> list[tuple[bytes, bytes]]:
    with opened(memory) as env, env.begin(db=env.open_db(table.encode())) as transaction:
        return list(transaction.cursor())


def opened(memory: Path) -> lmdb.Environment:
    folder = str(memory / "gen-000001")
    return lmdb.open(folder, max_dbs=16, map_size=1 << 24, lib_version=0)


def rewrite(memory: Path, table: str, key: bytes, record: bytes) -> None:
    """Write a record as it is, in a file that is stamped all the same."""
    with (
        opened(memory) as env,
        env.begin(write=True, db=env.open_db(table.encode())) as transaction,
    ):
        transaction.put(key, record)
    trust.write_stamp(memory / "gen-000001", 0, durable=True)


def read(memory: Path, call: Callable[[LMDBStore], object]) -> None:
    with LMDBStore.open(memory, read_only=True) as store:
        call(store)


def flips(record: bytes) -> Iterator[bytes]:
    """Yield the record with a bit flipped, at its beginning, in its middle and in its end."""
    for place in sorted({0, len(record) // 2, len(record) - 5, len(record) - 1} - {-1}):
        for bit in (0, 7):
            changed = bytearray(record)
            changed[place] ^= 1 << bit
            yield bytes(changed)


@pytest.mark.parametrize("table", READS)
def test_a_flipped_bit_in_any_table_is_an_error_that_names_it(memory: Path, table: str) -> None:
    for key, record in entries(memory, table)[:3]:
        if key == codec.SCHEMA:
            continue
        for changed in flips(record):
            rewrite(memory, table, key, changed)
            with pytest.raises(StoreCorruptError, match=table):
                read(memory, READS[table])
        rewrite(memory, table, key, record)
    with LMDBStore.open(memory, read_only=True) as store:
        picture(store)
        assert store.verify() == []


@pytest.mark.parametrize("table", sorted(set(READS) - {"snapshot"}))
def test_a_record_under_another_key_is_an_error(memory: Path, table: str) -> None:
    (first, record), (second, other) = [
        entry for entry in entries(memory, table) if entry[0] != codec.SCHEMA
    ][:2]
    rewrite(memory, table, second, record)
    with LMDBStore.open(memory, read_only=True) as store:
        assert [problem.table for problem in store.verify()][:1] == [table]
    assert first != second
    assert record != other


def test_a_record_of_another_table_is_an_error() -> None:
    ids, rows = np.array([7], np.uint64), np.arange(64, dtype=np.uint8)[None]
    assert (checksum.of_rows("meta", ids, rows) != checksum.of_rows("key", ids, rows)).any()
    sealed = checksum.seal("payload", b"12345678", b"record")
    assert checksum.unseal("payload", b"12345678", sealed) == b"record"
    for table, key in (("log", b"12345678"), ("payload", b"12345679")):
        with pytest.raises(StoreCorruptError, match="checksum"):
            checksum.unseal(table, key, sealed)


@pytest.mark.parametrize("size", [1, 4, 9, 64, 257])
def test_the_checksum_of_a_row_is_the_same_alone_and_among_many(size: int) -> None:
    random = np.random.default_rng(size)
    ids = random.integers(1, 2**64, 9000, dtype=np.uint64)
    rows = random.integers(0, 256, (9000, size), dtype=np.uint8)
    together = checksum.of_rows("meta", ids, rows)
    for row in (0, 4095, 4096, 8999):
        alone = checksum.of_rows("meta", ids[row : row + 1], rows[row : row + 1])
        assert alone.tolist() == together[row : row + 1].tolist()
    assert len(np.unique(together.view(np.uint32))) > 8990


def test_the_checksum_of_a_list_is_the_same_alone_and_among_many() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 4, 9000)
    ids = np.arange(1, 9001, dtype=np.uint64)
    items = random.integers(0, 256, (int(counts.sum()), 24), dtype=np.uint8)
    together = checksum.of_lists("adjacency", ids, counts, items)
    starts = np.cumsum(counts) - counts
    for row in (0, 1, 2, 4095, 4096, 8998, 8999):
        own = items[starts[row] : starts[row] + counts[row]]
        part = slice(row, row + 1)
        alone = checksum.of_lists("adjacency", ids[part], counts[part], own)
        assert alone.tolist() == together[part].tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_every_single_bit_counts(count: int) -> None:
    ids, counts = np.array([5], np.uint64), np.array([count])
    items = np.random.default_rng(1).integers(0, 256, (count, 24), dtype=np.uint8)
    calls: list[Callable[[Any], Any]] = [
        lambda changed: checksum.of_lists("adjacency", ids, counts, changed),
        lambda changed: checksum.of_rows("meta", ids, changed.reshape(1, -1)),
    ]
    for call in calls:
        before = call(items).tolist()
        for bit in range(8 * items.size):
            changed = items.copy()
            changed.reshape(-1)[bit // 8] ^= 1 << bit % 8
            assert call(changed).tolist() != before


def test_edges_in_another_order_are_another_record() -> None:
    ids, counts = np.array([5], np.uint64), np.array([2])
    items = np.random.default_rng(2).integers(0, 256, (2, 24), dtype=np.uint8)
    one, other = (
        checksum.of_lists("adjacency", ids, counts, each) for each in (items, items[::-1])
    )
    assert one.tolist() != other.tolist()


def test_the_sum_is_the_documented_one() -> None:
    # So that a later release, or another program, computes the same.
    ids, rows = np.array([258], np.uint64), np.arange(10, dtype=np.uint8)[None]
    assert checksum.of_rows("key", ids, rows).tolist() == [list(documented("key", 258, rows[0]))]


def documented(table: str, number: int, row: Any) -> bytes:
    content = row.tobytes() + bytes(-len(row) % 4)
    words = [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]
    words = [zlib.crc32(table.encode()), number % 2**32, number >> 32, len(row), *words]
    total, state = 0, 0
    for word in words:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        total += (mixed ^ mixed >> 31 | 1) * word
    return (total % 2**64 >> 32).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("table", "key", "name"),
    [
        ("key", (258).to_bytes(8, "big"), "258"),
        ("key", b"\1\2", "258"),
        ("log", b"\0\0\0\0\0\0\0\0\1", "0x000000000000000001 of 9 bytes"),
        ("evolution", bytes(2056), "0x00000000000000000000000000000000... of 2056 bytes"),
        ("sys", b"epoch", "epoch"),
        ("sys", b"\xff", "\\xff"),
        ("shortterm", b"x" * 2000, "x" * 80 + "..."),
    ],
)
def test_a_key_of_any_length_has_a_short_name(table: str, key: bytes, name: str) -> None:
    assert checksum.name_of(table, key) == name
    assert checksum.where(table, key) == f"{table}[{name}]"


@pytest.mark.parametrize("sizes", [(2056,), (8, 7), (7, 9), (0, 16)])
def test_keys_of_another_length_are_no_ids(sizes: tuple[int, ...]) -> None:
    with pytest.raises(StoreCorruptError, match="expected keys of 8 bytes"):
        codec.decode_ids(bytes(size) for size in sizes)
