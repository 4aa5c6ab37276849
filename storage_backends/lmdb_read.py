"""Reads the records of one generation inside one read transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from storage_backends import codec
from storage_backends.environment import Tables, Transaction
from storage_backends.errors import StoreCorruptError
from storage_backends.types import EVENT, STATS, Concepts, Contents, Ids, Records, StoreStats

_NO_IDS: Ids = np.empty(0, np.uint64)


def read_number(transaction: Transaction, tables: Tables, name: bytes) -> int:
    """Return a counter of the ``sys`` table.

    Raises
    ------
    StoreCorruptError
        If it is missing or no number.
    """
    record = transaction.get(name, db=tables.sys)
    if record is None or len(record) != 8:
        raise StoreCorruptError(f"sys[{name.decode()}]: expected 8 bytes, got {record!r}")
    return codec.decode_number(record)


def read_generation(transaction: Transaction, tables: Tables) -> int:
    """Return the generation that a transaction sees."""
    return read_number(transaction, tables, codec.GENERATION)


def read_transaction(transaction: Transaction, tables: Tables) -> tuple[int, int]:
    """Return the number of the transaction that is seen, and the generation that it made."""
    return transaction.id(), read_generation(transaction, tables)


def read_uuid(transaction: Transaction, tables: Tables) -> str:
    """Return the identity of the memory."""
    return transaction.get(codec.UUID, b"", db=tables.sys).decode("ascii", "replace")


def read_contents(transaction: Transaction, tables: Tables) -> Contents:
    """Return all live concepts and edges."""
    ids = codec.decode_ids(transaction.cursor(db=tables.key).iternext(values=False))
    columns = [
        transaction.cursor(db=table).iternext(keys=False)
        for table in (tables.key, tables.value, tables.meta)
    ]
    counts, edges = codec.decode_edges(transaction.cursor(db=tables.adjacency).iternext(keys=False))
    sources = transaction.cursor(db=tables.adjacency).iternext(values=False)
    return Contents(
        generation=read_generation(transaction, tables),
        concepts=_concepts(ids, *columns),
        stats_ids=_NO_IDS.copy(),
        stats=np.empty(0, STATS),
        edge_sources=codec.decode_ids(sources),
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
    entries = [codec.decode_log(record) for _, record in cursor] if since < generation else []
    live = _Live(transaction, tables)
    put = live.among(entry.put for entry in entries)
    stats_ids = np.setdiff1d(live.among(entry.stats for entry in entries), put)
    sources = live.among(entry.edges for entry in entries)
    rows = live.found("adjacency", sources)
    counts, edges = codec.decode_edges(rows.get(key, b"") for key in codec.encode_ids(sources))
    return Contents(
        generation=generation,
        concepts=_concepts(put, *(live.records(table, put) for table in ("key", "value", "meta"))),
        stats_ids=stats_ids,
        stats=codec.decode_records(live.records("meta", stats_ids), STATS, "meta"),
        edge_sources=sources,
        edge_counts=counts,
        edges=edges,
        deleted=live.gone(entries),
        settings=read_settings(transaction, tables),
    )


def read_payloads(transaction: Transaction, tables: Tables, ids: Ids) -> list[bytes | None]:
    """Return the payload of each id, None where there is none."""
    return [transaction.get(key, db=tables.payload) for key in codec.encode_ids(ids)]


def read_events(transaction: Transaction, tables: Tables, start: int, limit: int | None) -> Records:
    """Return at most ``limit`` events from number ``start`` on."""
    cursor = transaction.cursor(db=tables.evolution)
    records: Iterable[bytes] = ()
    if cursor.set_range(codec.encode_number(start)):
        records = islice(cursor.iternext(keys=False), limit)
    return codec.decode_records(records, EVENT, "evolution")


def read_shortterm(transaction: Transaction, tables: Tables) -> Mapping[str, bytes]:
    """Return the short-term table."""
    return codec.decode_names(transaction.cursor(db=tables.shortterm))


def read_settings(transaction: Transaction, tables: Tables) -> Mapping[str, bytes]:
    """Return the entries of the ``sys`` table that are not the store's own."""
    entries = transaction.cursor(db=tables.sys)
    return codec.decode_names(entry for entry in entries if entry[0] not in codec.SYSTEM_NAMES)


def read_stats(transaction: Transaction, tables: Tables, file_bytes: int) -> StoreStats:
    """Return the sizes of the store."""
    return StoreStats(
        concepts=transaction.stat(tables.key)["entries"],
        edges=read_number(transaction, tables, codec.EDGE_COUNT),
        payloads=transaction.stat(tables.payload)["entries"],
        events=transaction.stat(tables.evolution)["entries"],
        log_entries=transaction.stat(tables.log)["entries"],
        generation=read_generation(transaction, tables),
        file_bytes=file_bytes,
    )


def _concepts(
    ids: Ids, keys: Iterable[bytes], values: Iterable[bytes], meta: Iterable[bytes]
) -> Concepts:
    vectors = codec.decode_keys(keys)
    kinds, numbers, value_vectors = codec.decode_values(values, len(ids), vectors.shape[1])
    stats = codec.decode_records(meta, STATS, "meta")
    if not len(ids) == len(vectors) == len(stats):
        raise StoreCorruptError(
            f"meta: expected {len(ids)} records, as many as keys, got {len(stats)}"
        )
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
