"""Applies a prepared batch inside one write transaction."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import lmdb
import numpy as np

from storage_backends import checksum, codec
from storage_backends.errors import StoreCorruptError, StoreUsageError
from storage_backends.lmdb_read import read_first_event, read_generation, read_number
from storage_backends.opening import Tables, Transaction
from storage_backends.types import Ids, Records
from storage_backends.validation import PreparedBatch

#: How many times its usual length the log may have for a snapshot's sake.
_LONGEST_LOG = 16


def apply(
    transaction: Transaction,
    tables: Tables,
    batch: PreparedBatch,
    log_length: int,
    held: int | None,
) -> int:
    """Write a batch as the next generation and return its number.

    Parameters
    ----------
    transaction : Transaction
        An open write transaction; to be aborted if this raises.
    tables : Tables
    batch : PreparedBatch
    log_length : int
        How many generations the log keeps, 1 or more.
    held : int, optional
        A generation after which it keeps all, as it does after that of the present snapshot; but
        not more than `_LONGEST_LOG` times its length.

    Raises
    ------
    StoreUsageError
        If the batch contradicts what the store holds.
    """
    writer = _Writer(transaction, tables)
    bared = writer.delete(batch.deleted)
    new = writer.put_concepts(batch)
    writer.replace_stats(batch)
    writer.put_payloads(batch)
    writer.put_edges(batch)
    writer.put_aliases(batch)
    writer.append_events(batch.events)
    if batch.most_events is not None:
        drop_events(transaction, tables, batch.most_events)
    writer.put_named(batch)
    entry = codec.LogEntry(
        new=new,
        put=batch.put,
        stats=batch.stats_ids,
        edges=np.union1d(batch.sources, bared),
        deleted=batch.deleted,
    )
    generation = writer.finish(entry)
    writer.shorten_log(generation, log_length, held)
    return generation


def publish(transaction: Transaction, tables: Tables, manifest: bytes, shown: int) -> int:
    """Write a manifest in the place of the last one and return its number.

    Raises
    ------
    StoreUsageError
        If the generation ``shown`` has not been.
    """
    generation = read_generation(transaction, tables)
    if not 0 <= shown <= generation:
        raise StoreUsageError(f"publish: expected a generation from 0 to {generation}, got {shown}")
    number = read_number(transaction, tables, codec.SNAPSHOT) + 1
    transaction.drop(tables.snapshot, delete=False)
    write_number(transaction, tables, codec.SNAPSHOT, number)
    transaction.delete(codec.SNAPSHOT_GENERATION, db=tables.sys)
    if manifest:
        key = codec.encode_number(number)
        transaction.put(key, checksum.seal("snapshot", key, manifest), db=tables.snapshot)
        write_number(transaction, tables, codec.SNAPSHOT_GENERATION, shown)
    return number


def write_number(transaction: Transaction, tables: Tables, name: bytes, number: int) -> None:
    """Write a counter of the ``sys`` table."""
    transaction.put(name, checksum.seal("sys", name, codec.encode_number(number)), db=tables.sys)


def drop_events(transaction: Transaction, tables: Tables, most: int) -> None:
    """Remove the oldest events but for so many, 1 or more."""
    cursor = transaction.cursor(db=tables.evolution)
    surplus = transaction.stat(tables.evolution)["entries"] - most
    if surplus > 0 and cursor.first():
        for _ in range(surplus):
            cursor.delete()  # which leaves the cursor at the next one
        write_number(transaction, tables, codec.FIRST_EVENT, codec.decode_number(cursor.key()))


class _Writer:
    """The steps of a commit, which share the transaction and the count of edges."""

    def __init__(self, transaction: Transaction, tables: Tables) -> None:
        self._transaction = transaction
        self._tables = tables
        self._more_edges = 0

    def delete(self, deleted: Ids) -> Ids:
        """Remove concepts and what belongs to them; return those that had edges."""
        bared = []
        for concept_id, key in zip(deleted.tolist(), codec.encode_ids(deleted), strict=True):
            if not self._transaction.delete(key, db=self._tables.key):
                raise StoreUsageError(f"deleted: expected existing concepts, got {concept_id}")
            for table in (self._tables.value, self._tables.meta, self._tables.payload):
                self._transaction.delete(key, db=table)
            edges = self._transaction.pop(key, db=self._tables.adjacency)
            if edges is not None:
                self._more_edges -= codec.count_edges(edges)
                bared.append(concept_id)
        return np.array(bared, np.uint64)

    def put_concepts(self, batch: PreparedBatch) -> Ids:
        """Write concepts; return those that did not exist."""
        if not batch.put.size:
            return batch.put
        self._check_width(batch.width)
        keys = codec.encode_ids(batch.put)
        missing = self._missing(batch.put)
        self._end_aliases(missing)
        self._put(self._tables.key, keys, batch.keys)
        self._put(self._tables.value, keys, batch.values)
        self._put(self._tables.meta, keys, batch.meta)
        return missing

    def replace_stats(self, batch: PreparedBatch) -> None:
        """Write statistics of concepts."""
        self._require_exist("stats_ids", batch.stats_ids)
        self._put(self._tables.meta, codec.encode_ids(batch.stats_ids), batch.stats)

    def put_payloads(self, batch: PreparedBatch) -> None:
        """Write payloads, or remove them where the new one is empty."""
        self._require_exist("payloads", batch.payload_ids)
        self._put(self._tables.payload, codec.encode_ids(batch.payload_ids), batch.payloads)

    def put_edges(self, batch: PreparedBatch) -> None:
        """Write the out-edges of concepts, or remove them where there are none."""
        self._require_exist("edges", batch.sources)
        self._require_exist("targets of edges", batch.targets)
        keys = codec.encode_ids(batch.sources)
        cursor = self._transaction.cursor(db=self._tables.adjacency)
        before = sum(codec.count_edges(row) for _, row in cursor.getmulti(keys))
        after = sum(codec.count_edges(row) for row in batch.adjacency if row)
        self._more_edges += after - before
        self._put(self._tables.adjacency, keys, batch.adjacency)

    def put_aliases(self, batch: PreparedBatch) -> None:
        """Write which concepts stand for ids that have none."""
        if not batch.alias_ids.size:
            return
        held = np.setdiff1d(batch.alias_ids, self._missing(batch.alias_ids), assume_unique=True)
        if held.size:
            raise StoreUsageError(
                f"aliases: expected ids without a concept after the batch, got {held[0]}"
            )
        self._require_exist("targets of aliases", np.unique(batch.alias_targets))
        self._put(self._aliases, codec.encode_ids(batch.alias_ids), batch.aliases)

    def append_events(self, events: Records) -> None:
        """Write events after the last one."""
        table = self._tables.evolution
        cursor = self._transaction.cursor(db=table)
        start = (
            codec.decode_number(cursor.key()) + 1
            if cursor.last()
            else read_first_event(self._transaction, self._tables)
        )
        numbers = np.arange(start, start + len(events), dtype=np.uint64)
        records = codec.encode_rows("evolution", numbers, events)
        self._put(table, codec.encode_ids(numbers), records)

    def put_named(self, batch: PreparedBatch) -> None:
        """Write settings, and the short-term table where the batch has one."""
        self._put(self._tables.sys, *_columns(batch.settings))
        if batch.shortterm is not None:
            table = self._tables.shortterm
            self._transaction.drop(table, delete=False)
            cursor = self._transaction.cursor(db=table)
            cursor.putmulti(batch.shortterm)

    def finish(self, entry: codec.LogEntry) -> int:
        """Write counters and log; return the generation."""
        generation = read_generation(self._transaction, self._tables) + 1
        edges = read_number(self._transaction, self._tables, codec.EDGE_COUNT) + self._more_edges
        write_number(self._transaction, self._tables, codec.GENERATION, generation)
        write_number(self._transaction, self._tables, codec.EDGE_COUNT, edges)
        record = codec.encode_log(generation, entry)
        key = codec.encode_number(generation)
        self._transaction.put(key, record, append=True, db=self._tables.log)
        return generation

    def shorten_log(self, generation: int, length: int, held: int | None) -> None:
        """Remove the entries that nobody has a claim to."""
        last = generation - length
        if self._transaction.get(codec.SNAPSHOT_GENERATION, db=self._tables.sys) is not None:
            shown = read_number(self._transaction, self._tables, codec.SNAPSHOT_GENERATION)
            last = min(last, shown)
        if held is not None:
            last = min(last, held)
        last = max(last, generation - _LONGEST_LOG * length)
        cursor = self._transaction.cursor(db=self._tables.log)
        while cursor.first() and codec.decode_number(cursor.key()) <= last:
            cursor.delete()

    @property
    def _aliases(self) -> lmdb._Database:
        table = self._tables.alias
        if table is None:  # every environment that may write has made it
            raise StoreCorruptError("expected a table of aliases, found none")
        return table

    def _end_aliases(self, ids: Ids) -> None:
        """Remove the aliases of ids that become concepts; as a rule, these are greater than all."""
        cursor = self._transaction.cursor(db=self._aliases)
        if cursor.last():
            last = codec.decode_number(cursor.key())
            for key in codec.encode_ids(ids[: np.searchsorted(ids, np.uint64(last), "right")]):
                self._transaction.delete(key, db=self._aliases)

    def _check_width(self, width: int) -> None:
        cursor = self._transaction.cursor(db=self._tables.key)
        held = codec.width_of(cursor.value()) if cursor.first() else width
        if held != width:
            raise StoreUsageError(
                f"concepts.keys: expected width {held}, as the concepts held already, got {width}"
            )

    def _require_exist(self, where: str, ids: Ids) -> None:
        missing = self._missing(ids)
        if missing.size:
            raise StoreUsageError(
                f"{where}: expected concepts that exist after the batch, got {missing[0]}"
            )

    def _missing(self, ids: Ids) -> Ids:
        """Return those of some sorted ids that are not concepts."""
        cursor = self._transaction.cursor(db=self._tables.value)
        if not cursor.last() or not ids.size:
            return ids
        last = codec.decode_number(cursor.key())
        known = ids[: np.searchsorted(ids, np.uint64(last), side="right")]
        found = codec.decode_ids(cursor.getmulti(codec.encode_ids(known), values=False))
        return np.setdiff1d(ids, found, assume_unique=True)

    def _put(self, table: lmdb._Database, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        """Write records in ascending order of key; an empty one removes what is there."""
        cursor = self._transaction.cursor(db=table)
        last = cursor.key() if cursor.last() else b""
        split = bisect_right(keys, last)
        # Appending fills the pages of a table; keys put in its middle leave them half full.
        cursor.putmulti(_present(keys[:split], records[:split]))
        cursor.putmulti(_present(keys[split:], records[split:]), append=True)
        for key, record in zip(keys[:split], records, strict=False):
            if not record:
                self._transaction.delete(key, db=table)


def _present(keys: Sequence[bytes], records: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return [(key, record) for key, record in zip(keys, records, strict=True) if record]


def _columns(entries: list[tuple[bytes, bytes]]) -> tuple[list[bytes], list[bytes]]:
    return [key for key, _ in entries], [record for _, record in entries]
