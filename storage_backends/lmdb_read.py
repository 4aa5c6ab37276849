"""Reads the records of one generation inside one read transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum, codec
from storage_backends.errors import StoreCorruptError
from storage_backends.opening import Tables, Transaction
from storage_backends.types import (
    EVENT,
    STATS,
    Concepts,
    Contents,
    Floats,
    Ids,
    Records,
    StoreStats,
)

_NO_IDS: Ids = np.empty(0, np.uint64)


def read_number(transaction: Transaction, tables: Tables, name: bytes) -> int:
    """Return a counter of the ``sys`` table.

    Raises
    ------
    StoreCorruptError
        If it is missing or no number.
    """
    record = transaction.get(name, db=tables.sys)
    if record is None or len(record) != 8 + checksum.SIZE:
        raise StoreCorruptError(
            f"sys[{name.decode()}]: expected 8 bytes and a checksum, got {(record or b'')[:40]!r}"
        )
    return codec.decode_number(checksum.unseal("sys", name, record))


def read_generation(transaction: Transaction, tables: Tables) -> int:
    """Return the generation that a transaction sees."""
    return read_number(transaction, tables, codec.GENERATION)


class Seen(NamedTuple):
    """What one transaction made: the generation, and the greatest number of a manifest."""

    transaction: int
    generation: int
    manifest_seq: int


def read_seen(transaction: Transaction, tables: Tables) -> Seen:
    """Return what tells whether anything has changed."""
    generation = read_generation(transaction, tables)
    return Seen(transaction.id(), generation, read_number(transaction, tables, codec.SNAPSHOT))


def read_manifest(transaction: Transaction, tables: Tables) -> tuple[int, bytes] | None:
    """Return number and bytes of the manifest, None where there is none."""
    cursor = transaction.cursor(db=tables.snapshot)
    if not cursor.last():
        return None
    key, record = cursor.item()
    return codec.decode_number(key), checksum.unseal("snapshot", key, record)


def read_uuid(transaction: Transaction, tables: Tables) -> str:
    """Return the identity of the memory."""
    record = transaction.get(codec.UUID, b"", db=tables.sys)
    return checksum.unseal("sys", codec.UUID, record).decode("ascii", "replace")


def read_contents(transaction: Transaction, tables: Tables) -> Contents:
    """Return all live concepts and edges."""
    ids = codec.decode_ids(transaction.cursor(db=tables.key).iternext(values=False))
    columns = [
        transaction.cursor(db=table).iternext(keys=False)
        for table in (tables.key, tables.value, tables.meta)
    ]
    sources = codec.decode_ids(transaction.cursor(db=tables.adjacency).iternext(values=False))
    rows = transaction.cursor(db=tables.adjacency).iternext(keys=False)
    counts, edges = codec.decode_edges(sources, rows)
    return Contents(
        generation=read_generation(transaction, tables),
        concepts=_concepts(ids, *columns),
        stats_ids=_NO_IDS.copy(),
        stats=np.empty(0, STATS),
        edge_sources=sources,
        edge_counts=counts,
        edges=edges,
        deleted=_NO_IDS.copy(),
        settings=read_settings(transaction, tables),
    )


def read_changes(transaction: Transaction, tables: Tables, since: int) -> Contents | None:
    """Return what changed after a generation, as it is now; None where the log does not say."""
    generation = read_generation(transaction, tables)
    if not 0 <= since <= generation:
        return None
    cursor = transaction.cursor(db=tables.log)
    if since < generation and not cursor.set_key(codec.encode_number(since + 1)):
        return None
    entries = []
    if since < generation:
        entries = [codec.decode_log(codec.decode_number(key), record) for key, record in cursor]
    live = _Live(transaction, tables)
    put = live.among(entry.put for entry in entries)
    stats_ids = np.setdiff1d(live.among(entry.stats for entry in entries), put)
    sources = live.among(entry.edges for entry in entries)
    counts, edges = live.edges(sources)
    return Contents(
        generation=generation,
        concepts=_concepts(put, *(live.records(table, put) for table in ("key", "value", "meta"))),
        stats_ids=stats_ids,
        stats=codec.decode_records("meta", stats_ids, live.records("meta", stats_ids), STATS),
        edge_sources=sources,
        edge_counts=counts,
        edges=edges,
        deleted=live.gone(entries),
        settings=read_settings(transaction, tables),
    )


def read_keys(transaction: Transaction, tables: Tables, ids: Ids) -> Floats:
    """Return the keys of concepts, ``(N, D)`` in the order of the ids."""
    ordered, place = np.unique(ids, return_inverse=True)
    keys = codec.decode_keys(ordered, _Live(transaction, tables).records("key", ordered))
    return keys[place]


def read_payloads(transaction: Transaction, tables: Tables, ids: Ids) -> list[bytes | None]:
    """Return the payload of each id, None where there is none."""
    keys = codec.encode_ids(ids)
    records = [transaction.get(key, db=tables.payload) for key in keys]
    return [
        None if record is None else checksum.unseal("payload", key, record)
        for key, record in zip(keys, records, strict=True)
    ]


def read_resolved(transaction: Transaction, tables: Tables, ids: Ids) -> Ids:
    """Return the concept that each id stands for; 0 where there is none."""
    concepts, ends = transaction.cursor(db=tables.value), codec.encode_ids(ids)
    longest, followed = _count_aliases(transaction, tables), dict[bytes, bytes]()
    for place, end in enumerate(ends):
        steps = 0  # no more than there are aliases: damage might have closed a chain to a circle
        while not concepts.set_key(end):
            record = transaction.get(end, db=tables.alias) if steps < longest else None
            if record is None:
                end = codec.encode_number(0)
                break
            followed[end] = record
            end, steps = codec.alias_key(record), steps + 1
        ends[place] = end
    codec.decode_aliases(codec.decode_ids(followed), followed.values())  # checks them
    return codec.decode_ids(ends)


def read_resolved_payloads(
    transaction: Transaction, tables: Tables, ids: Ids
) -> list[bytes | None]:
    """Return the payload of the concept that each id stands for, None where there is none."""
    return read_payloads(transaction, tables, read_resolved(transaction, tables, ids))


def read_aliases(transaction: Transaction, tables: Tables) -> tuple[Ids, Ids]:
    """Return all ids that have an alias, ascending, and what each leads to."""
    if tables.alias is None:
        return _NO_IDS.copy(), _NO_IDS.copy()
    ids = codec.decode_ids(transaction.cursor(db=tables.alias).iternext(values=False))
    records = transaction.cursor(db=tables.alias).iternext(keys=False)
    return ids, codec.decode_aliases(ids, records)


def _count_aliases(transaction: Transaction, tables: Tables) -> int:
    return 0 if tables.alias is None else transaction.stat(tables.alias)["entries"]


def read_first_event(transaction: Transaction, tables: Tables) -> int:
    """Return the number of the oldest event that the log has not given up."""
    if transaction.get(codec.FIRST_EVENT, db=tables.sys) is None:
        return 0
    return read_number(transaction, tables, codec.FIRST_EVENT)


def read_events(transaction: Transaction, tables: Tables, start: int, limit: int | None) -> Records:
    """Return at most ``limit`` events from number ``start`` on."""
    cursor = transaction.cursor(db=tables.evolution)
    found: list[tuple[bytes, bytes]] = []
    if cursor.set_range(codec.encode_number(start)):
        found = list(islice(cursor.iternext(), limit))
    numbers = codec.decode_ids(key for key, _ in found)
    return codec.decode_records("evolution", numbers, (record for _, record in found), EVENT)


def read_event_times(transaction: Transaction, tables: Tables) -> tuple[int, int] | None:
    """Return the Unix seconds of the oldest and of the newest event; None where there is none."""
    cursor = transaction.cursor(db=tables.evolution)
    if not cursor.first():
        return None
    oldest = cursor.item()
    cursor.last()
    keys, records = zip(oldest, cursor.item(), strict=True)
    events = codec.decode_records("evolution", codec.decode_ids(keys), records, EVENT)
    first, last = events["timestamp"].tolist()
    return first, last


def count_regions(transaction: Transaction, tables: Tables) -> int:
    """Return how many regions there are that a concept belongs to."""
    ids = codec.decode_ids(transaction.cursor(db=tables.meta).iternext(values=False))
    records = transaction.cursor(db=tables.meta).iternext(keys=False)
    found = np.unique(codec.decode_records("meta", ids, records, STATS)["region"])
    return int((found > 0).sum())


def read_shortterm(transaction: Transaction, tables: Tables) -> Mapping[str, bytes]:
    """Return the short-term table."""
    return codec.decode_names("shortterm", transaction.cursor(db=tables.shortterm))


def read_settings(transaction: Transaction, tables: Tables) -> Mapping[str, bytes]:
    """Return the entries of the ``sys`` table that are not the store's own."""
    entries = transaction.cursor(db=tables.sys)
    others = (entry for entry in entries if entry[0] not in codec.SYSTEM_NAMES)
    return codec.decode_names("sys", others)


def read_stats(transaction: Transaction, tables: Tables, file_bytes: int) -> StoreStats:
    """Return the sizes of the store."""
    return StoreStats(
        concepts=transaction.stat(tables.key)["entries"],
        edges=read_number(transaction, tables, codec.EDGE_COUNT),
        payloads=transaction.stat(tables.payload)["entries"],
        aliases=_count_aliases(transaction, tables),
        events=transaction.stat(tables.evolution)["entries"],
        first_event=read_first_event(transaction, tables),
        log_entries=transaction.stat(tables.log)["entries"],
        generation=read_generation(transaction, tables),
        file_bytes=file_bytes,
    )


def _concepts(
    ids: Ids, keys: Iterable[bytes], values: Iterable[bytes], meta: Iterable[bytes]
) -> Concepts:
    vectors = codec.decode_keys(ids, keys)
    kinds, numbers, value_vectors = codec.decode_values(ids, values, vectors.shape[1])
    stats = codec.decode_records("meta", ids, meta, STATS)
    return Concepts(
        ids=ids,
        keys=vectors,
        value_kinds=kinds,
        value_ids=numbers,
        value_vectors=value_vectors,
        stats=stats,
    )


class _Live:
    """What a change set needs to know of the concepts that exist now."""

    def __init__(self, transaction: Transaction, tables: Tables) -> None:
        self._transaction = transaction
        self._tables = tables

    def among(self, parts: Iterable[Ids]) -> Ids:
        """Return the ids that exist, ascending."""
        ids = np.unique(np.concatenate([_NO_IDS, *parts]))
        cursor = self._transaction.cursor(db=self._tables.value)
        return codec.decode_ids(cursor.getmulti(codec.encode_ids(ids), values=False))

    def records(self, table: str, ids: Ids) -> list[bytes]:
        """Return the record of each id, which must have one."""
        found = self.found(table, ids)
        if len(found) != len(ids):
            missing = next(key for key in codec.encode_ids(ids) if key not in found)
            raise StoreCorruptError(
                f"{table}[{codec.decode_number(missing)}]: expected a record, found none"
            )
        return list(found.values())

    def edges(self, sources: Ids) -> tuple[NDArray[np.int64], Records]:
        """Return how many edges each source has, and the edges."""
        rows = self.found("adjacency", sources)
        having = codec.decode_ids(rows)
        counts = np.zeros(len(sources), np.int64)
        counts[np.searchsorted(sources, having)], edges = codec.decode_edges(having, rows.values())
        return counts, edges

    def found(self, table: str, ids: Ids) -> dict[bytes, bytes]:
        """Return the records of those ids that have one, by key, in the order of the ids."""
        cursor = self._transaction.cursor(db=getattr(self._tables, table))
        return dict(cursor.getmulti(codec.encode_ids(ids)))

    def gone(self, entries: list[codec.LogEntry]) -> Ids:
        """Return the ids that existed before the entries and do not exist now."""
        born: set[int] = set()
        gone: set[int] = set()
        for entry in entries:
            gone.update(set(entry.deleted.tolist()) - born)
            born.difference_update(entry.deleted.tolist())
            born.update(set(entry.new.tolist()) - gone)
        deleted = np.array(sorted(gone), np.uint64)
        return np.setdiff1d(deleted, self.among([deleted]))
