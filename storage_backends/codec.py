"""Record layouts and key encodings, the only place that knows them.

Numbers are little-endian but for the keys: concept ids, generations and event numbers are
big-endian, so that the order of the bytes is the order of the numbers.

============  ===========================  ==================================================
table         key                          record
============  ===========================  ==================================================
sys           ASCII                        see `SYSTEM_NAMES`; other names are the caller's
key           concept id                   D float32
value         concept id                   one `ValueKind` byte, then nothing, an int64 or D
                                           float32
meta          concept id                   `STATS`, 64 bytes
payload       concept id                   the caller's bytes, at least one
adjacency     concept id of the source     `EDGE`, 24 bytes each, at least one
shortterm     ASCII                        the caller's bytes
log           generation                   msgpack map, see `LogEntry`
evolution     number of the event, from 0  `EVENT`, 32 bytes
============  ===========================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice

import msgpack
import numpy as np
from numpy.typing import NDArray

from storage_backends.errors import StoreCorruptError
from storage_backends.types import EDGE, Concepts, Floats, Ids, Records, ValueKind

#: Number of this set of layouts. A store with a higher one is refused.
SCHEMA_VERSION = 1

TABLES = (
    "sys",
    "key",
    "value",
    "meta",
    "payload",
    "adjacency",
    "shortterm",
    "log",
    "evolution",
)

#: Entries of the ``sys`` table that belong to the store.
SCHEMA, UUID, GENERATION, EDGE_COUNT = b"schema", b"uuid", b"seq", b"edges"
SYSTEM_NAMES = frozenset({SCHEMA, UUID, GENERATION, EDGE_COUNT})

#: LMDB takes no longer keys.
MAX_NAME_BYTES = 511

_CHUNK = 4096


@dataclass(frozen=True)
class LogEntry:
    """Which concepts one commit touched.

    Parameters
    ----------
    new : (N,) uint64
        Of ``put``, those that did not exist.
    put, stats, edges, deleted : (M,) uint64
        Concepts written whole, given statistics, given or robbed of out-edges, removed.
    """

    new: Ids
    put: Ids
    stats: Ids
    edges: Ids
    deleted: Ids


def encode_number(number: int) -> bytes:
    """Return the key of one id, generation or event number in [0, 2**64)."""
    return number.to_bytes(8, "big")


def decode_number(key: bytes) -> int:
    """Return the number that a key stands for."""
    return int.from_bytes(key, "big")


def encode_ids(ids: Ids) -> list[bytes]:
    """Return the keys of (N,) ids, in their order."""
    return split_rows(ids.astype(">u8"))


def decode_ids(keys: Iterable[bytes]) -> Ids:
    """Return the ids of keys.

    Raises
    ------
    StoreCorruptError
        If the keys do not have 8 bytes each.
    """
    joined, count = join(keys)
    if len(joined) != 8 * count:
        raise StoreCorruptError(f"ids: expected {count} keys of 8 bytes, got {len(joined)} bytes")
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def split_rows(rows: NDArray[np.generic]) -> list[bytes]:
    """Return the bytes of each row of a (N,) or (N, D) array."""
    size = rows.dtype.itemsize * (rows.shape[1] if rows.ndim == 2 else 1)
    records = np.ascontiguousarray(rows).reshape(-1).view(f"V{size}")
    split: list[bytes] = records.tolist()
    return split


def join(records: Iterable[bytes]) -> tuple[bytearray, int]:
    """Return all records end to end, and how many they were.

    The result may be wrapped as an array: it is nobody else's.
    """
    joined, count = bytearray(), 0
    for chunk in _chunks(records):
        joined += b"".join(chunk)
        count += len(chunk)
    return joined, count


def encode_values(concepts: Concepts) -> list[bytes]:
    """Return the record of each value, of the kind that its row says."""
    records = [bytes([ValueKind.KEY])] * len(concepts)
    integers = np.flatnonzero(concepts.value_kinds == ValueKind.INTEGER)
    numbers = concepts.value_ids[integers].astype("<i8")
    _place(records, integers, ValueKind.INTEGER, split_rows(numbers))
    vectors = np.flatnonzero(concepts.value_kinds == ValueKind.VECTOR)
    if concepts.value_vectors is not None:
        rows = split_rows(concepts.value_vectors[vectors].astype("<f4"))
        _place(records, vectors, ValueKind.VECTOR, rows)
    return records


def decode_keys(records: Iterable[bytes]) -> Floats:
    """Return key records as (N, D), (0, 0) where there are none.

    Raises
    ------
    StoreCorruptError
        If they are not whole rows of one width.
    """
    joined, count = join(records)
    if not count:
        return np.empty((0, 0), np.float32)
    width = len(joined) // (4 * count)
    if not width or len(joined) != 4 * count * width:
        raise StoreCorruptError(
            f"key: expected {count} records of one width, got {len(joined)} bytes in all"
        )
    return np.frombuffer(joined, "<f4").astype(np.float32, copy=False).reshape(count, width)


def decode_values(
    records: Iterable[bytes], count: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], Floats | None]:
    """Return value records as columns.

    Parameters
    ----------
    records : iterable of bytes
        The records.
    count, width : int
        N and D of the keys.

    Returns
    -------
    kinds : (N,) uint8
    value_ids : (N,) int64
    value_vectors : (N, D) float32 or None

    Raises
    ------
    StoreCorruptError
        If their number is not ``count``, or one has an unknown kind or another length than its
        kind.
    """
    kinds = np.zeros(count, np.uint8)
    numbers = np.zeros(count, np.int64)
    vectors: Floats | None = None
    start = 0
    for chunk in _chunks(records):
        stop = start + len(chunk)
        if stop > count:
            raise StoreCorruptError(f"value: expected {count} records, as many as keys, got more")
        kinds[start:stop] = tags = _kinds_of(chunk, width)
        integers = np.flatnonzero(tags == ValueKind.INTEGER)
        numbers[start + integers] = _bodies(chunk, integers, "<i8")[:, 0]
        wide = np.flatnonzero(tags == ValueKind.VECTOR)
        if wide.size:
            vectors = np.zeros((count, width), np.float32) if vectors is None else vectors
            vectors[start + wide] = _bodies(chunk, wide, "<f4")
        start = stop
    if start != count:
        raise StoreCorruptError(f"value: expected {count} records, as many as keys, got {start}")
    return kinds, numbers, vectors


def decode_records(records: Iterable[bytes], dtype: np.dtype[np.void], table: str) -> Records:
    """Return records of fixed size as (N,) of ``dtype``.

    Raises
    ------
    StoreCorruptError
        If they do not have the size of ``dtype`` each.
    """
    joined, count = join(records)
    if len(joined) != count * dtype.itemsize:
        raise StoreCorruptError(
            f"{table}: expected {count} records of {dtype.itemsize} bytes, "
            f"got {len(joined)} bytes in all"
        )
    return np.frombuffer(joined, dtype)


def decode_edges(rows: Iterable[bytes]) -> tuple[NDArray[np.int64], Records]:
    """Return the number of edges of each adjacency record, and all edges.

    Returns
    -------
    counts : (N,) int64
    edges : (sum of counts,) EDGE

    Raises
    ------
    StoreCorruptError
        If a record does not consist of whole edges.
    """
    joined = bytearray()
    sizes: list[int] = []
    for chunk in _chunks(rows):
        joined += b"".join(chunk)
        sizes.extend(map(len, chunk))
    counts, rest = np.divmod(np.array(sizes, np.int64), EDGE.itemsize)
    if rest.any():
        raise StoreCorruptError(
            f"adjacency: expected records of whole edges of {EDGE.itemsize} bytes, "
            f"got one of {sizes[int(np.flatnonzero(rest)[0])]} bytes"
        )
    return counts, np.frombuffer(joined, EDGE)


def encode_log(entry: LogEntry) -> bytes:
    """Return the record of a log entry: a map of names to ids, those without ids left out."""
    columns = {f.name: getattr(entry, f.name) for f in fields(entry)}
    packed: bytes = msgpack.packb(
        {name: ids.astype("<u8").tobytes() for name, ids in columns.items() if ids.size}
    )
    return packed


def decode_log(record: bytes) -> LogEntry:
    """Return the log entry of a record.

    Raises
    ------
    StoreCorruptError
        If it is not a map of the known names to whole ids.
    """
    names = [f.name for f in fields(LogEntry)]
    try:
        columns = msgpack.unpackb(record)
        if not isinstance(columns, dict) or not columns.keys() <= set(names):
            raise ValueError(f"expected a map of {names}")
        ids = {n: np.frombuffer(columns.get(n, b""), "<u8").astype(np.uint64) for n in names}
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreCorruptError(f"log: expected a map of ids, got {record[:32]!r}") from error
    return LogEntry(**ids)


def encode_name(name: str) -> bytes:
    """Return the key of a named entry.

    Raises
    ------
    ValueError
        If the name is not 1 to `MAX_NAME_BYTES` characters of ASCII.
    """
    if not (name.isascii() and 0 < len(name) <= MAX_NAME_BYTES):
        raise ValueError(f"expected 1 to {MAX_NAME_BYTES} ASCII characters, got {name[:80]!r}")
    return name.encode("ascii")


def decode_names(entries: Iterable[tuple[bytes, bytes]]) -> Mapping[str, bytes]:
    """Return named entries as a mapping.

    Raises
    ------
    StoreCorruptError
        If a name is not ASCII.
    """
    try:
        return {key.decode("ascii"): record for key, record in entries}
    except UnicodeDecodeError as error:
        raise StoreCorruptError(f"expected names in ASCII, got {error.object!r}") from error


def _chunks(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    # A million rows at once would be held three times over: as bytes, joined, and as an array.
    iterator = iter(records)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _place(
    records: list[bytes], rows: NDArray[np.intp], kind: ValueKind, bodies: list[bytes]
) -> None:
    tag = bytes([kind])
    for row, body in zip(rows.tolist(), bodies, strict=True):
        records[row] = tag + body


def _kinds_of(chunk: list[bytes], width: int) -> NDArray[np.uint8]:
    sizes = np.fromiter(map(len, chunk), np.int64, len(chunk))
    if not sizes.all():
        raise StoreCorruptError("value: expected a kind and what belongs to it, got no bytes")
    kinds: NDArray[np.uint8] = np.frombuffer(b"".join(chunk), np.uint8)[np.cumsum(sizes) - sizes]
    expected = np.full(256, -1)
    expected[[ValueKind.KEY, ValueKind.INTEGER, ValueKind.VECTOR]] = 1, 1 + 8, 1 + 4 * width
    wrong = np.flatnonzero(expected[kinds] != sizes)
    if wrong.size:
        record = chunk[int(wrong[0])]
        raise StoreCorruptError(
            f"value: expected kind 0, 1 or 2 with 0, 8 or {4 * width} bytes after it, "
            f"got kind {record[0]} with {len(record) - 1}"
        )
    return kinds


def _bodies(chunk: list[bytes], rows: NDArray[np.intp], dtype: str) -> NDArray[np.generic]:
    if not rows.size:
        return np.empty((0, 1), dtype)
    picked = chunk if rows.size == len(chunk) else [chunk[row] for row in rows.tolist()]
    records = np.frombuffer(b"".join(picked), np.uint8).reshape(rows.size, -1)
    return np.ascontiguousarray(records[:, 1:]).view(dtype)
