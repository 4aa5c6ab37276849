"""The checksum that ends every record, over its bytes, its key and its table.

Records of tables whose keys are names, and single ones of any length, have the CRC-32 of table,
key and record. Records that are read and written by the million have a sum that numpy computes
for many at once, a multilinear hash (Carter and Wegman, 1979): of the words w0, w1, ... of 32 bits,

    (c0 * t + c1 * low(id) + c2 * high(id) + c3 * length + c4 * w0 + c5 * w1 + ...) mod 2**64

the upper 32 bits, where t is the CRC-32 of the table's name, the length is in bytes, the last word
is filled up with zeros, and ci is number i of the SplitMix64 sequence from 0, made odd.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage_backends.errors import StoreCorruptError
from storage_backends.types import Ids

#: Bytes of a checksum, little-endian, the last of a record.
SIZE = 4

Bytes = NDArray[np.uint8]
Sums = NDArray[np.uint64]

_HEAD = 4  # words before those of the record: table, two of the id, length
_ROWS = 4096  # as many at once as fit into the processor's cache
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def seal(table: str, key: bytes, record: bytes) -> bytes:
    """Return a record of a table of names, or a single one, with its checksum."""
    return record + _crc(table, key, record)


def unseal(table: str, key: bytes, sealed: bytes) -> bytes:
    """Return a record without its checksum.

    Raises
    ------
    StoreCorruptError
        If the checksum is wrong.
    """
    record = sealed[:-SIZE]
    if sealed[-SIZE:] != _crc(table, key, record):
        raise StoreCorruptError(f"{where(table, key)}: {_WRONG}")
    return record


def of_rows(table: str, ids: Ids, rows: Bytes) -> Bytes:
    """Return the checksums of records of one size.

    Parameters
    ----------
    table : str
    ids : (N,) uint64
    rows : (N, size) uint8

    Returns
    -------
    (N, 4) uint8
    """
    count, size = rows.shape
    sums = _heads(table, ids, np.full(count, size, np.uint64))
    words = _words(rows)
    factors = _factors(_HEAD + words.shape[1])[_HEAD:]
    for start in range(0, count, _ROWS):
        part = slice(start, start + _ROWS)
        sums[part] += np.einsum("ij,j->i", words[part].astype(np.uint64), factors)
    return _upper(sums)


def of_lists(table: str, ids: Ids, counts: NDArray[np.int64], items: Bytes) -> Bytes:
    """Return the checksums of records that are lists of items of one size.

    The words of such a record are the sums of its items, without a head.

    Parameters
    ----------
    table : str
    ids : (N,) uint64
    counts : (N,) int64
        How many items each record has.
    items : (sum of counts, size) uint8

    Returns
    -------
    (N, 4) uint8
    """
    sums = _heads(table, ids, counts.astype(np.uint64) * np.uint64(items.shape[1]))
    words = _words(items)
    factors = _factors(_HEAD + max(words.shape[1], int(counts.max(initial=0))))[_HEAD:]
    ends = np.cumsum(counts)
    for start in range(0, len(counts), _ROWS):
        part = slice(start, start + _ROWS)
        first, last = int(ends[start] - counts[start]), int(ends[part][-1])
        item_sums = np.einsum(
            "ij,j->i", words[first:last].astype(np.uint64), factors[: words.shape[1]]
        )
        starts = ends[part] - counts[part] - first
        places = np.arange(last - first) - np.repeat(starts, counts[part])
        terms = np.append((item_sums >> _HALF) * factors[places], np.uint64(0))
        full = counts[part] > 0  # where there is none, reduceat takes the next one's first
        sums[part][full] += np.add.reduceat(terms, starts[full]) if full.any() else np.uint64(0)
    return _upper(sums)


def check(table: str, ids: Ids, found: Bytes, expected: Bytes) -> None:
    """Compare checksums with what they should be.

    Parameters
    ----------
    table : str
    ids : (N,) uint64
    found, expected : (N, 4) uint8

    Raises
    ------
    StoreCorruptError
        If one is wrong; it names the first.
    """
    wrong = np.flatnonzero(_as_numbers(found) != _as_numbers(expected))
    if wrong.size:
        raise StoreCorruptError(f"{table}[{ids[wrong[0]]}]: {_WRONG}")


def _as_numbers(sums: Bytes) -> NDArray[np.uint32]:
    return np.ascontiguousarray(sums).view(np.uint32)[:, 0]


def where(table: str, key: bytes) -> str:
    """Return how a message names a record."""
    return f"{table}[{name_of(table, key)}]"


def name_of(table: str, key: bytes) -> str:
    """Return a key as messages and reports show it, whatever damage has made of it."""
    if table in _NAMED:
        return key[:_SHOWN].decode("ascii", "backslashreplace") + "..." * (len(key) > _SHOWN)
    if len(key) <= _ID_SIZE:
        return str(int.from_bytes(key, "big"))
    cut = "..." * (len(key) > _ID_SIZE * 2)
    return f"0x{key[: _ID_SIZE * 2].hex()}{cut} of {len(key)} bytes"


_NAMED: Sequence[str] = ("sys", "shortterm")
_SHOWN = 80  # bytes of a name
_ID_SIZE = 8
_WRONG = "expected the record that its checksum was made of, got another"


def _crc(table: str, key: bytes, record: bytes) -> bytes:
    # Names have no zeros in them, so no two keys read the same.
    head = b"%s\0%d\0%s" % (table.encode("ascii"), len(key), key)
    return zlib.crc32(record, zlib.crc32(head)).to_bytes(SIZE, "little")


def _heads(table: str, ids: Ids, lengths: Sums) -> Sums:
    number = np.uint64(zlib.crc32(table.encode("ascii")))
    factors = _factors(_HEAD)
    low, high = ids & _LOW, ids >> _HALF
    table_sum = np.multiply(factors[:1], number)
    sums: Sums = table_sum + low * factors[1] + high * factors[2] + lengths * factors[3]
    return sums


def _words(rows: Bytes) -> NDArray[np.uint32]:
    count, size = rows.shape
    missing = -size % 4
    if missing:
        rows = np.concatenate([rows, np.zeros((count, missing), np.uint8)], axis=1)
    return np.ascontiguousarray(rows).view("<u4")


def _upper(sums: Sums) -> Bytes:
    return (sums >> _HALF).astype("<u4").view(np.uint8).reshape(-1, SIZE)


def _factors(count: int) -> Sums:
    # Powers of two, so that few lengths are ever made.
    return _splitmix(1 << max(count - 1, 63).bit_length())[:count]


@lru_cache(maxsize=32)
def _splitmix(count: int) -> Sums:
    """Return the first numbers of the SplitMix64 sequence, made odd."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (numbers ^ (numbers >> np.uint64(31))) | np.uint64(1)
