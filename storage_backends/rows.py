"""Takes sealed records apart by the thousand, and compares their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum
from storage_backends.errors import StoreCorruptError
from storage_backends.types import Ids

_CHUNK = 4096


def parts(table: str, ids: Ids, records: Iterable[bytes]) -> Iterator[tuple[slice, list[bytes]]]:
    """Yield the records in chunks, and which ids they belong to.

    A million at once would be held three times over: as bytes, joined, and as an array.
    """
    iterator, start = iter(records), 0
    while chunk := list(islice(iterator, _CHUNK)):
        stop = start + len(chunk)
        if stop > len(ids):
            break
        yield slice(start, stop), chunk
        start = stop
    if chunk or start != len(ids):
        found = "more" if chunk else start
        raise StoreCorruptError(
            f"{table}: expected {len(ids)} records, as many as ids, got {found}"
        )


def decode_rows(table: str, ids: Ids, records: Iterable[bytes], size: int) -> NDArray[np.uint8]:
    """Return records of one size as (N, size), without their checksums.

    Raises
    ------
    StoreCorruptError
        If there is not one for each id, or one has another size or a wrong checksum.
    """
    rows = np.empty((len(ids), size), np.uint8)
    for part, chunk in parts(table, ids, records):
        decode_into(rows[part], table, ids[part], b"".join(chunk))
    return rows


def decode_into(rows: NDArray[np.uint8], table: str, ids: Ids, joined: bytes) -> None:
    """Put records that are end to end into (N, size), without their checksums."""
    count, size = rows.shape
    if len(joined) != count * (size + checksum.SIZE):
        raise StoreCorruptError(
            f"{table}: expected {count} records of {size} bytes and a checksum, "
            f"got {len(joined)} bytes in all"
        )
    sealed = np.frombuffer(joined, np.uint8).reshape(count, -1)
    rows[:] = sealed[:, :size]
    checksum.check(table, ids, sealed[:, size:], checksum.of_rows(table, ids, rows))


def decode_lists(
    table: str, ids: Ids, chunk: list[bytes], size: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return records that are lists of items of one size, a multiple of 4, end to end.

    Returns
    -------
    counts : (N,) int64
        How many items each record has.
    items : (sum of counts, size) uint8

    Raises
    ------
    StoreCorruptError
        If a record does not consist of whole items and its checksum.
    """
    sizes = np.fromiter(map(len, chunk), np.int64, len(chunk)) - checksum.SIZE
    wrong = np.flatnonzero((sizes < 0) | (sizes % size != 0))
    if wrong.size:
        raise StoreCorruptError(
            f"{table}[{ids[wrong[0]]}]: expected whole items of {size} bytes and a checksum, "
            f"got {len(chunk[wrong[0]])} bytes"
        )
    words = np.frombuffer(b"".join(chunk), np.uint32)
    places = np.cumsum(sizes // 4 + 1) - 1  # of the checksums
    is_item = np.ones(len(words), np.bool_)
    is_item[places] = False
    items = words[is_item].view(np.uint8).reshape(-1, size)
    counts = sizes // size
    expected = checksum.of_lists(table, ids, counts, items)
    found = words[places].view(np.uint8).reshape(-1, checksum.SIZE)
    checksum.check(table, ids, found, expected)
    return counts, items
