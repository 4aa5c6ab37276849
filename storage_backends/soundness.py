"""Which records of a table are those that were written, each looked at by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np

from storage_backends import checksum, codec
from storage_backends.errors import StoreCorruptError
from storage_backends.opening import Tables, Transaction
from storage_backends.types import Floats

#: Tables of what belongs to a concept and may be missing.
BELONGING = ("payload", "adjacency")
#: Tables whose keys are names.
NAMED = ("sys", "shortterm")

Entry: TypeAlias = tuple[bytes, bytes]

_CHUNK = 4096


def common_width(transaction: Transaction, tables: Tables) -> int:
    """Return the width that most keys have."""
    records = transaction.cursor(db=tables.key).iternext(keys=False)
    sizes = np.fromiter(map(codec.width_of, records), np.int64)
    widths, counts = np.unique(sizes, return_counts=True)
    return int(widths[np.argmax(counts)]) if len(widths) else 0


def unsound_records(
    table: str, entries: Iterable[Entry], width: int
) -> Iterator[tuple[bytes, str]]:
    """Yield the keys of the records that are not sound, and why.

    Parameters
    ----------
    table : str
    entries : iterable of (key, record)
    width : int
        D of the keys.
    """
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield from _wrong_among(table, chunk, width)


def _wrong_among(table: str, entries: list[Entry], width: int) -> Iterator[tuple[bytes, str]]:
    try:
        _check(table, entries, width)
    except StoreCorruptError as error:
        if len(entries) == 1:
            key, where = entries[0][0], checksum.where(table, entries[0][0])
            yield key, str(error).removeprefix(f"{where}: ").removeprefix(f"{table}: ")
            return
        middle = len(entries) // 2
        yield from _wrong_among(table, entries[:middle], width)
        yield from _wrong_among(table, entries[middle:], width)


def _check(table: str, entries: list[Entry], width: int) -> None:
    """Check records by themselves.

    Raises
    ------
    StoreCorruptError
        If one is not sound.
    """
    codec.check_records(table, entries, width)
    records = [record for _, record in entries]
    if table in ("key", "value"):
        ids = codec.decode_ids(key for key, _ in entries)
        rows: Floats | None
        if table == "key":
            rows = codec.decode_keys(ids, records)
        else:
            _, _, rows = codec.decode_values(ids, records, width)
        if rows is not None and not np.isfinite(rows).all():
            raise StoreCorruptError(f"{table}: expected finite numbers, got others")
    elif table in BELONGING:
        codec.decode_ids(key for key, _ in entries)
        if min(map(len, records)) <= checksum.SIZE:
            raise StoreCorruptError(f"{table}: expected something, got an empty record")
    elif table in NAMED:
        codec.decode_names(table, (entry for entry in entries if entry[0] != codec.SCHEMA))
