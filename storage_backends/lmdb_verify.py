"""Examines every record of a store inside one read transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import lmdb
import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum, codec
from storage_backends.aliases import ends_of
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_read import (
    read_aliases,
    read_first_event,
    read_generation,
    read_manifest,
    read_number,
    read_settings,
    read_shortterm,
    read_uuid,
)
from storage_backends.opening import Tables, Transaction
from storage_backends.types import EVENT, STATS, Ids, Problem, Records

#: Of a kind of problem, how many are listed one by one.
_LISTED = 20

_CHUNK = 4096  # records that are examined at once
_NO_IDS: Ids = np.empty(0, np.uint64)


def find_problems(transaction: Transaction, tables: Tables) -> list[Problem]:
    """Return everything that is wrong with the records, in the order of the tables."""
    return _Examination(transaction, tables).run()


def require_sound_records(transaction: Transaction, tables: Tables) -> None:
    """Check that every record is one that was written, whatever it means.

    Raises
    ------
    StoreCorruptError
        If a checksum is wrong; it names the first.
    """
    width = 0
    for name, table in tables.named():
        items = iter(transaction.cursor(db=table))
        while chunk := list(islice(items, _CHUNK)):
            if name == "key":
                width = codec.width_of(chunk[0][1])
            codec.check_records(name, chunk, width)


class _Examination:
    """One pass over the tables, which collects problems."""

    def __init__(self, transaction: Transaction, tables: Tables) -> None:
        self._transaction = transaction
        self._tables = tables
        self._problems: list[Problem] = []
        self._ids = _NO_IDS
        self._width = 0

    def run(self) -> list[Problem]:
        steps: list[tuple[str, Callable[[], None]]] = [
            ("key", self._check_keys),
            ("value", self._check_values),
            ("meta", self._check_meta),
            ("payload", self._check_payloads),
            ("adjacency", self._check_adjacency),
            ("shortterm", self._check_shortterm),
            ("log", self._check_log),
            ("evolution", self._check_evolution),
            ("snapshot", self._check_manifest),
            ("sys", self._check_system),
            ("alias", self._check_aliases),
        ]
        for table, step in steps:
            try:
                step()
            except (StoreCorruptError, lmdb.Error) as error:
                self._report(table, "", str(error))
        return self._problems

    def _check_keys(self) -> None:
        self._ids = self._keys_of("key")
        vectors = codec.decode_keys(self._ids, self._records_of("key"))
        self._width = vectors.shape[1]
        finite = np.isfinite(vectors).all(axis=1)
        self._report_ids("key", self._ids[~finite], "expected finite numbers, got others")
        self._report_ids("key", self._ids[self._ids == 0], "expected an id above 0, got 0")

    def _check_values(self) -> None:
        ids = self._check_ids("value", complete=True)
        _, _, vectors = codec.decode_values(ids, self._records_of("value"), self._width)
        if vectors is not None:
            finite = np.isfinite(vectors).all(axis=1)
            self._report_ids("value", ids[~finite], "expected finite numbers, got others")

    def _check_meta(self) -> None:
        ids = self._check_ids("meta", complete=True)
        codec.decode_records("meta", ids, self._records_of("meta"), STATS)

    def _check_payloads(self) -> None:
        self._check_ids("payload")
        for key, record in self._transaction.cursor(db=self._tables.payload):
            try:
                if not checksum.unseal("payload", key, record):
                    raise StoreCorruptError("expected at least one byte, got none")
            except StoreCorruptError as error:
                self._report("payload", checksum.name_of("payload", key), str(error))

    def _check_adjacency(self) -> None:
        sources = self._check_ids("adjacency")
        counts, edges = codec.decode_edges(sources, self._records_of("adjacency"))
        self._report_ids("adjacency", sources[counts == 0], "expected at least one edge, got none")
        owners = np.repeat(sources, counts)
        for wrong, expected in wrong_edges(owners, edges, self._ids):
            self._report_edges(owners[wrong], edges["target"][wrong], expected)
        counted = read_number(self._transaction, self._tables, codec.EDGE_COUNT)
        if counted != len(edges):
            self._report("sys", "edges", f"expected {len(edges)}, as held, got {counted}")

    def _check_shortterm(self) -> None:
        read_shortterm(self._transaction, self._tables)

    def _check_log(self) -> None:
        generation = read_generation(self._transaction, self._tables)
        numbers = self._keys_of("log")
        expected = np.arange(generation - len(numbers) + 1, generation + 1, dtype=np.int64)
        if not np.array_equal(numbers.astype(np.int64), expected) or (
            generation and not numbers.size
        ):
            listed = ", ".join(map(str, [*numbers[:2], "...", *numbers[-2:]]))
            self._report(
                "log", "", f"expected one entry for each generation to {generation}, got {listed}"
            )
        for number, record in zip(numbers.tolist(), self._records_of("log"), strict=True):
            try:
                codec.decode_log(number, record)
            except StoreCorruptError as error:
                self._report("log", str(number), str(error))

    def _check_evolution(self) -> None:
        numbers = self._keys_of("evolution")
        first = read_first_event(self._transaction, self._tables)
        if not np.array_equal(numbers, np.arange(first, first + len(numbers), dtype=np.uint64)):
            last = first + len(numbers) - 1
            self._report("evolution", "", f"expected numbers {first} to {last}, got others")
        codec.decode_records("evolution", numbers, self._records_of("evolution"), EVENT)

    def _check_system(self) -> None:
        identity = read_uuid(self._transaction, self._tables)
        if len(identity) != 32 or identity.strip("0123456789abcdef"):
            self._report("sys", "uuid", f"expected 32 hexadecimal digits, got {identity[:40]!r}")
        read_settings(self._transaction, self._tables)

    def _check_manifest(self) -> None:
        entries = self._transaction.stat(self._tables.snapshot)["entries"]
        newest = read_manifest(self._transaction, self._tables)
        number = read_number(self._transaction, self._tables, codec.SNAPSHOT)
        if newest is not None and (entries, newest[0]) != (1, number):
            self._report(
                "snapshot",
                "",
                f"expected number {number} alone, got {entries} entries, the last {newest[0]}",
            )
        generation = read_generation(self._transaction, self._tables)
        if newest is not None:
            shown = read_number(self._transaction, self._tables, codec.SNAPSHOT_GENERATION)
            if shown > generation:
                self._report(
                    "snapshot",
                    str(newest[0]),
                    f"expected generation {generation} or an earlier one, got {shown}",
                )

    def _check_aliases(self) -> None:
        ids, targets = read_aliases(self._transaction, self._tables)
        for wrong, expected in wrong_aliases(ids, targets, self._ids):
            self._report_ids("alias", ids[wrong], f"expected {expected}, found another")

    def _check_ids(self, table: str, *, complete: bool = False) -> Ids:
        """Return the ids of a table; report those without a key, and keys without one."""
        ids = self._keys_of(table)
        strangers = np.setdiff1d(ids, self._ids, assume_unique=True)
        self._report_ids(table, strangers, "expected an existing concept, found no key")
        if complete:
            missing = np.setdiff1d(self._ids, ids, assume_unique=True)
            self._report_ids(table, missing, "expected a record beside the key, found none")
        return ids

    def _keys_of(self, table: str) -> Ids:
        cursor = self._transaction.cursor(db=getattr(self._tables, table))
        return codec.decode_ids(cursor.iternext(values=False))

    def _records_of(self, table: str) -> Iterator[bytes]:
        return self._transaction.cursor(db=getattr(self._tables, table)).iternext(keys=False)

    def _report(self, table: str, key: str, message: str) -> None:
        self._problems.append(Problem(table, key, message))

    def _report_ids(self, table: str, ids: Ids, message: str) -> None:
        for concept_id in ids[:_LISTED].tolist():
            self._report(table, str(concept_id), message)
        if len(ids) > _LISTED:
            self._report(table, "", f"{message}, in {len(ids) - _LISTED} more records")

    def _report_edges(self, sources: Ids, targets: Ids, expected: str) -> None:
        for source, target in zip(sources[:_LISTED].tolist(), targets.tolist(), strict=False):
            self._report("adjacency", str(source), f"expected {expected}, got target {target}")
        if len(sources) > _LISTED:
            more = len(sources) - _LISTED
            self._report("adjacency", "", f"expected {expected}, got others in {more} more edges")


def wrong_aliases(ids: Ids, targets: Ids, concepts: Ids) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield which aliases break a rule, and the rule; that one leads nowhere is none."""
    yield ids == 0, "an id above 0"
    yield np.isin(ids, concepts), "an id without a concept"
    yield ends_of(ids, targets) == 0, "a chain of aliases that ends"


def wrong_edges(owners: Ids, edges: Records, ids: Ids) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield which edges break a rule, and the rule."""
    targets = edges["target"]
    yield ~np.isin(targets, ids), "an existing concept"
    yield targets == owners, "another concept than the source"
    yield ~(np.isfinite(edges["weight"]) & np.isfinite(edges["confidence"])), "finite numbers"
    order = np.lexsort((targets, owners))
    repeated = np.zeros(len(edges), np.bool_)
    same = (np.diff(owners[order]) == 0) & (np.diff(targets[order]) == 0)
    repeated[order[1:]] = same
    yield repeated, "each target once"
