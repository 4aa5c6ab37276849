"""Record layouts and key encodings, the only place that knows them.

Numbers are little-endian but for the keys: concept ids, generations and event numbers are
big-endian, so that the order of the bytes is the order of the numbers. Every record ends with a
checksum, see `checksum`, but for the number of the schema, which all releases can read.

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
log           generation                   msgpack map, see `LogEntry` and `encode_log`
evolution     number of the event, from 0  `EVENT`, 32 bytes
snapshot      number of the snapshot       the caller's bytes, at least one; at most one record
alias         id without a concept         uint64, the id that stands for it
============  ===========================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import chain, islice

import msgpack
import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum
from storage_backends.errors import StoreCorruptError
from storage_backends.rows import decode_into, decode_lists, decode_rows, parts
from storage_backends.runs import as_runs, from_runs
from storage_backends.types import EDGE, EVENT, STATS, Concepts, Floats, Ids, Records, ValueKind

#: Number of this set of layouts. A store with a higher one is refused.
SCHEMA_VERSION = 2

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
    "snapshot",
    "alias",
)
#: The last one is missing from memories that no release with aliases has written to.
ALIAS = TABLES[-1]
#: Tables whose records have the checksum of rows or of lists.
NUMBERED = ("key", "value", "meta", "adjacency", "evolution", ALIAS)

#: Entries of the ``sys`` table that belong to the store.
SCHEMA, UUID, GENERATION, EDGE_COUNT = b"schema", b"uuid", b"seq", b"edges"
#: The greatest number that a snapshot has had, and the generation that the present one shows.
SNAPSHOT, SNAPSHOT_GENERATION = b"snapshot", b"snapshot_seq"
#: Number of the oldest event; missing where that is 0.
FIRST_EVENT = b"first_event"
SYSTEM_NAMES = frozenset(
    {SCHEMA, UUID, GENERATION, EDGE_COUNT, SNAPSHOT, SNAPSHOT_GENERATION, FIRST_EVENT}
)

#: LMDB takes no longer keys.
MAX_NAME_BYTES = 511

_CHUNK = 4096
_ID_SIZE = 8


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
    joined, iterator = bytearray(), iter(keys)
    while chunk := list(islice(iterator, _CHUNK)):
        sizes = set(map(len, chunk))
        if sizes != {_ID_SIZE}:
            other = max(sizes - {_ID_SIZE})
            raise StoreCorruptError(f"ids: expected keys of {_ID_SIZE} bytes, got one of {other}")
        joined += b"".join(chunk)
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def split_rows(rows: NDArray[np.generic]) -> list[bytes]:
    """Return the bytes of each row of a (N,) or (N, D) array."""
    size = rows.dtype.itemsize * (rows.shape[1] if rows.ndim == 2 else 1)
    records = np.ascontiguousarray(rows).reshape(-1).view(f"V{size}")
    split: list[bytes] = records.tolist()
    return split


def encode_rows(table: str, ids: Ids, rows: NDArray[np.generic]) -> list[bytes]:
    """Return the records of a table whose records have one size, from (N,) or (N, D) rows."""
    if not len(ids):
        return []
    plain = np.ascontiguousarray(rows).view(np.uint8).reshape(len(ids), -1)
    return split_rows(np.concatenate([plain, checksum.of_rows(table, ids, plain)], axis=1))


def encode_values(concepts: Concepts) -> list[bytes]:
    """Return the record of each value, of the kind that its row says."""
    records = [b""] * len(concepts)
    for kind in ValueKind:
        rows = np.flatnonzero(concepts.value_kinds == kind)
        if rows.size:
            body = _value_bodies(concepts, kind, rows)
            tagged = np.concatenate([np.full((len(rows), 1), kind, np.uint8), body], axis=1)
            encoded = encode_rows("value", concepts.ids[rows], tagged)
            for row, record in zip(rows.tolist(), encoded, strict=True):
                records[row] = record
    return records


def encode_edges(sources: Ids, counts: NDArray[np.int64], edges: Records) -> list[bytes]:
    """Return the record of each source's edges; ``b""`` where there are none.

    Parameters
    ----------
    sources : (N,) uint64
    counts : (N,) int64
    edges : (sum of counts,) EDGE
    """
    items = edges.view(np.uint8).reshape(-1, EDGE.itemsize)
    sums = split_rows(checksum.of_lists("adjacency", sources, counts, items))
    content, ends = edges.tobytes(), (np.cumsum(counts) * EDGE.itemsize).tolist()
    starts = [0, *ends[:-1]]
    return [
        content[start:end] + total if start < end else b""
        for start, end, total in zip(starts, ends, sums, strict=False)
    ]


def encode_aliases(ids: Ids, targets: Ids) -> list[bytes]:
    """Return the record of each alias, from (N,) ids and the (N,) ids that stand for them."""
    return encode_rows(ALIAS, ids, targets.astype("<u8"))


def decode_aliases(ids: Ids, records: Iterable[bytes]) -> Ids:
    """Return the ids that stand for (N,) ids.

    Raises
    ------
    StoreCorruptError
        If there is not one record for each id, or one has another size or a wrong checksum.
    """
    return decode_rows(ALIAS, ids, records, _ID_SIZE).view("<u8")[:, 0].astype(np.uint64)


def alias_key(record: bytes) -> bytes:
    """Return the key of the id that an alias leads to; its checksum is not looked at."""
    return record[:_ID_SIZE][::-1]


def count_edges(record: bytes) -> int:
    """Return how many edges an adjacency record has."""
    return (len(record) - checksum.SIZE) // EDGE.itemsize


def width_of(record: bytes) -> int:
    """Return D of a key record."""
    return (len(record) - checksum.SIZE) // 4


def decode_keys(ids: Ids, records: Iterable[bytes]) -> Floats:
    """Return key records as (N, D), (0, 0) where there are none.

    Raises
    ------
    StoreCorruptError
        If they are not rows of one width, one for each id, with their checksums.
    """
    iterator = iter(records)
    first = next(iterator, None)
    if first is None:
        return np.empty((0, 0), np.float32)
    width = width_of(first)
    if width < 1:
        raise StoreCorruptError(f"key: expected records of some width, got {len(first)} bytes")
    rows = decode_rows("key", ids, chain([first], iterator), 4 * width)
    return rows.view("<f4").astype(np.float32, copy=False)


def decode_values(
    ids: Ids, records: Iterable[bytes], width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], Floats | None]:
    """Return value records as columns.

    Parameters
    ----------
    ids : (N,) uint64
    records : iterable of bytes
        The records.
    width : int
        D of the keys.

    Returns
    -------
    kinds : (N,) uint8
    value_ids : (N,) int64
    value_vectors : (N, D) float32 or None

    Raises
    ------
    StoreCorruptError
        If there is not one for each id, or one has an unknown kind, another length than its kind,
        or a wrong checksum.
    """
    kinds = np.zeros(len(ids), np.uint8)
    numbers = np.zeros(len(ids), np.int64)
    vectors: Floats | None = None
    for part, chunk in parts("value", ids, records):
        kinds[part] = tags = _kinds_of(chunk, width)
        for kind in np.unique(tags).tolist():
            rows = np.flatnonzero(tags == kind)
            bodies = _checked_bodies(ids[part][rows], chunk, rows)
            if kind == ValueKind.INTEGER:
                numbers[part.start + rows] = bodies.view("<i8")[:, 0]
            elif kind == ValueKind.VECTOR:
                vectors = np.zeros((len(ids), width), np.float32) if vectors is None else vectors
                vectors[part.start + rows] = bodies.view("<f4")
    return kinds, numbers, vectors


def decode_records(
    table: str, ids: Ids, records: Iterable[bytes], dtype: np.dtype[np.void]
) -> Records:
    """Return records of fixed size as (N,) of ``dtype``.

    Raises
    ------
    StoreCorruptError
        If there is not one for each id, or one has another size or a wrong checksum.
    """
    return decode_rows(table, ids, records, dtype.itemsize).view(dtype)[:, 0]


def decode_edges(sources: Ids, records: Iterable[bytes]) -> tuple[NDArray[np.int64], Records]:
    """Return the number of edges of each adjacency record, and all edges.

    Returns
    -------
    counts : (N,) int64
    edges : (sum of counts,) EDGE

    Raises
    ------
    StoreCorruptError
        If there is not one for each source, or one does not consist of whole edges and its
        checksum.
    """
    counts = np.zeros(len(sources), np.int64)
    edges = bytearray()
    for part, chunk in parts("adjacency", sources, records):
        counts[part], items = decode_lists("adjacency", sources[part], chunk, EDGE.itemsize)
        edges += items.data
    return counts, np.frombuffer(edges, EDGE)


def check_records(table: str, entries: list[tuple[bytes, bytes]], width: int) -> None:
    """Check entries of any table against their checksums.

    Parameters
    ----------
    table : str
    entries : list of (key, record)
    width : int
        D of the keys.

    Raises
    ------
    StoreCorruptError
        If a checksum is wrong, or a record cannot be one of the table.
    """
    records = [record for _, record in entries]
    if table in NUMBERED:
        ids = decode_ids(key for key, _ in entries)
        if table == "value":
            decode_values(ids, records, width)
        elif table == "adjacency":
            decode_edges(ids, records)
        else:
            sizes = {"meta": STATS.itemsize, "evolution": EVENT.itemsize, ALIAS: _ID_SIZE}
            decode_rows(table, ids, records, sizes.get(table, 4 * width))
        return
    for key, record in entries:
        if (table, key) != ("sys", SCHEMA):
            checksum.unseal(table, key, record)


def encode_log(generation: int, entry: LogEntry) -> bytes:
    """Return the record of a log entry, a map of names to runs of ids.

    Runs of consecutive ids are a flat list: how far each begins after the end of the one before,
    and how many ids it has. What is under ``new`` is not repeated under ``put``, and names without
    ids are left out.
    """
    columns = {f.name: getattr(entry, f.name) for f in fields(entry)}
    columns["put"] = np.setdiff1d(entry.put, entry.new, assume_unique=True)
    packed = msgpack.packb({name: as_runs(ids) for name, ids in columns.items() if ids.size})
    return checksum.seal("log", encode_number(generation), packed)


def decode_log(generation: int, record: bytes) -> LogEntry:
    """Return the log entry of a record.

    Raises
    ------
    StoreCorruptError
        If its checksum is wrong, or it is not a map of the known names to runs of ids.
    """
    names = [f.name for f in fields(LogEntry)]
    packed = checksum.unseal("log", encode_number(generation), record)
    try:
        columns = msgpack.unpackb(packed)
        if not isinstance(columns, dict) or not columns.keys() <= set(names):
            raise ValueError(f"expected a map of {names}")
        ids = {name: from_runs(columns.get(name, [])) for name in names}
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise StoreCorruptError(f"log: expected a map of ids, got {packed[:32]!r}") from error
    return LogEntry(**{**ids, "put": np.union1d(ids["put"], ids["new"])})


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


def decode_names(table: str, entries: Iterable[tuple[bytes, bytes]]) -> Mapping[str, bytes]:
    """Return named entries as a mapping.

    Raises
    ------
    StoreCorruptError
        If a name is not ASCII, or a checksum wrong.
    """
    try:
        return {key.decode("ascii"): checksum.unseal(table, key, record) for key, record in entries}
    except UnicodeDecodeError as error:
        raise StoreCorruptError(f"expected names in ASCII, got {error.object[:80]!r}") from error


def _value_bodies(concepts: Concepts, kind: ValueKind, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return what follows the kind in value records, (rows, size)."""
    if kind == ValueKind.INTEGER:
        return concepts.value_ids[rows].astype("<i8").view(np.uint8).reshape(len(rows), -1)
    if kind == ValueKind.VECTOR and concepts.value_vectors is not None:
        return concepts.value_vectors[rows].astype("<f4").view(np.uint8)
    return np.empty((len(rows), 0), np.uint8)


def _kinds_of(chunk: list[bytes], width: int) -> NDArray[np.uint8]:
    sizes = np.fromiter(map(len, chunk), np.int64, len(chunk)) - checksum.SIZE
    if sizes.min() < 1:
        raise StoreCorruptError("value: expected a kind and what belongs to it, got no bytes")
    starts = np.cumsum(sizes + checksum.SIZE) - sizes - checksum.SIZE
    kinds: NDArray[np.uint8] = np.frombuffer(b"".join(chunk), np.uint8)[starts]
    expected = np.full(256, -1)
    expected[[ValueKind.KEY, ValueKind.INTEGER, ValueKind.VECTOR]] = 1, 1 + 8, 1 + 4 * width
    wrong = np.flatnonzero(expected[kinds] != sizes)
    if wrong.size:
        first = int(wrong[0])
        raise StoreCorruptError(
            f"value: expected kind 0, 1 or 2 with 0, 8 or {4 * width} bytes after it, "
            f"got kind {kinds[first]} with {sizes[first] - 1}"
        )
    return kinds


def _checked_bodies(ids: Ids, chunk: list[bytes], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return what follows the kind in those records of a chunk, which are of one kind."""
    picked = chunk if rows.size == len(chunk) else [chunk[row] for row in rows.tolist()]
    tagged = np.empty((len(picked), len(picked[0]) - checksum.SIZE), np.uint8)
    decode_into(tagged, "value", ids, b"".join(picked))
    return np.ascontiguousarray(tagged[:, 1:])
