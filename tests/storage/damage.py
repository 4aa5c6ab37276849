"""Damage to memory directories, as disks, wild writes and bad luck do it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb

from storage_backends import checksum, codec, layout, trust
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import WriteBatch

PAGE = 4096

#: Puts a record under the key of a table; None deletes it.
Put = Callable[[str, bytes, bytes | None], None]


def key_of(number: int) -> bytes:
    """Return the key of a concept, a generation or an event."""
    return number.to_bytes(8, "big")


def make(directory: Path, *batches: WriteBatch) -> Path:
    """Make a memory of some commits and return its data file."""
    with closing(LMDBStore.open(directory)) as store:
        for batch in batches:
            store.commit(batch)
        return store.folder / layout.DATA


def data_file(directory: Path) -> Path:
    """Return the data file in use."""
    return layout.require_memory(directory) / layout.DATA


@contextmanager
def raw(directory: Path) -> Iterator[Put]:
    """Write into the tables, past the store, as a memory whose file is trusted."""
    folder = layout.require_memory(directory)
    stamp = trust.read_stamp(folder)
    assert stamp is not None
    with closing(lmdb.open(str(folder), max_dbs=16, map_size=1 << 30)) as env:
        tables = {name: env.open_db(name.encode(), create=False) for name in codec.TABLES}
        with env.begin(write=True) as transaction:

            def put(table: str, key: bytes, record: bytes | None) -> None:
                if record is None:
                    assert transaction.delete(key, db=tables[table])
                else:
                    assert transaction.put(key, record, db=tables[table])

            yield put
    trust.write_stamp(folder, stamp.generation, durable=True)


def replace_record(directory: Path, table: str, key: bytes, record: bytes | None) -> None:
    """Put one record into a table, or delete it, past the store."""
    with raw(directory) as put:
        put(table, key, record)


def flip(directory: Path, table: str, key: bytes) -> None:
    """Change one bit of a stored record."""
    replace_record(directory, table, key, flipped(record_in(directory, table, key)))


def record_in(directory: Path, table: str, key: bytes) -> bytes:
    """Return a stored record with its checksum."""
    folder = layout.require_memory(directory)
    with closing(lmdb.open(str(folder), max_dbs=16, readonly=True)) as env:
        database = env.open_db(table.encode(), create=False)
        with env.begin(db=database) as transaction:
            record = transaction.get(key)
    assert record is not None
    return bytes(record)


def flipped(record: bytes, at: int = 0) -> bytes:
    """Return a record with one bit changed."""
    return record[:at] + bytes([record[at] ^ 4]) + record[at + 1 :]


def sealed(table: str, key: bytes, record: bytes) -> bytes:
    """Return a record of a table of names with its checksum."""
    return checksum.seal(table, key, record)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Write bytes into a file that nobody has open."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content, offset)
    finally:
        os.close(descriptor)


def pages_of(path: Path, flags: int) -> list[int]:
    """Return the numbers of the pages of a kind: 1 branches, 2 leaves, 4 large records."""
    content = path.read_bytes()
    return [
        number
        for number in range(2, len(content) // PAGE)
        if struct.unpack_from("<Q2xH", content, number * PAGE) == (number, flags)
    ]
