"""Parts the sound records of a memory from the others, in one write transaction.

What follows from sound records is made anew: counters, numbers of events, the log. All else that
is not sound is taken out, and returned so that it can be kept elsewhere. A concept is sound where
its key, its value and its statistics are.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from storage_backends import checksum, codec
from storage_backends.errors import StoreCorruptError
from storage_backends.lmdb_read import read_aliases, read_first_event, read_number
from storage_backends.lmdb_verify import wrong_aliases, wrong_edges
from storage_backends.lmdb_write import write_number
from storage_backends.opening import Tables, Transaction
from storage_backends.soundness import BELONGING, common_width, unsound_records
from storage_backends.types import EVENT, STATS, Ids, Problem

_CONCEPT_TABLES = ("key", "value", "meta")
_NO_IDS: Ids = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Moved:
    """A record, or part of one, that was taken out.

    Parameters
    ----------
    table : str
    key, record : bytes
        The key, and what was found under it; of edges that were removed, those.
    reason : str
        What was expected and what was found.
    """

    table: str
    key: bytes
    record: bytes
    reason: str

    @property
    def where(self) -> str:
        """The record, as problems name it."""
        return checksum.name_of(self.table, self.key)


@dataclass
class Sifted:
    """What `sift` did.

    Parameters
    ----------
    moved : list of Moved
        What it took out.
    rebuilt : list of str
        What it made anew.
    lost : list of str
        What is gone without having been taken out.
    generation : int
        The generation that the memory has now.
    """

    moved: list[Moved] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    generation: int = 0


def sift(
    transaction: Transaction,
    tables: Tables,
    latest: int = 0,
    *,
    salvaged: bool = False,
    fill: Callable[[], object] | None = None,
) -> Sifted:
    """Take out what is not sound and make anew what follows from the rest.

    Where that changes anything, the memory gets a new generation that no reader has a way to but
    by reading all, and no snapshot.

    Parameters
    ----------
    transaction : Transaction
        One that writes.
    tables : Tables
    latest : int
        A generation that the memory is known to have had.
    salvaged : bool
        Whether records may be missing without a trace: the tables are of a damaged file. Then
        there is a new generation in any case.
    fill : callable, optional
        Called when the unsound records of concepts and edges are out, to put others there.
    """
    sifter = _Sifter(transaction, tables)
    sifter.sift_alias_records()
    sifter.sift_concepts(fill)
    sifter.sift_aliases()
    sifter.sift_shortterm()
    sifter.sift_events(salvaged)
    sifter.sift_system(salvaged)
    sifter.finish(latest, salvaged)
    return sifter.done


def unsound(transaction: Transaction, tables: Tables) -> Iterator[Problem]:
    """Yield every record that is not one that was written, each by itself."""
    width = common_width(transaction, tables)
    for name, table in tables.named():
        for key, reason in unsound_records(name, transaction.cursor(db=table), width):
            yield Problem(name, Moved(name, key, b"", reason).where, reason)


def number_or_none(transaction: Transaction, tables: Tables, name: bytes) -> int | None:
    """Return a counter of the ``sys`` table, None where it is missing or not sound."""
    with suppress(StoreCorruptError):
        return read_number(transaction, tables, name)
    return None


def oldest_event(
    transaction: Transaction, tables: Tables, numbers: Sequence[int], *, salvaged: bool = False
) -> int:
    """Return the number of the oldest event; where its record is lost, of the first one found.

    Parameters
    ----------
    transaction : Transaction
    tables : Tables
    numbers : sequence of int
        Of the events found, ascending.
    salvaged : bool
        Whether the record may be missing without a trace. Else that it is missing means 0.
    """
    with suppress(StoreCorruptError):
        first = read_first_event(transaction, tables)
        if first or not salvaged:
            return first
    return numbers[0] if numbers else 0


class _Sifter:
    """The steps, which share the transaction and what they have found."""

    def __init__(self, transaction: Transaction, tables: Tables) -> None:
        self.done = Sifted()
        self._transaction = transaction
        self._tables = tables
        self._width = common_width(transaction, tables)
        self._ids = _NO_IDS
        self._edges = 0
        self._greatest = 0  # of all ids that were ever found

    def sift_concepts(self, fill: Callable[[], object] | None) -> None:
        """Take out concepts, payloads and edges that are not sound."""
        wrong = {table: self._wrong_in(table) for table in (*_CONCEPT_TABLES, *BELONGING)}
        if fill is not None:
            for table in wrong:
                self._take_out(table, wrong[table])
                wrong[table] = {}
            fill()
        sound = {table: self._ids_in(table, wrong[table]) for table in wrong}
        self._ids = reduce(np.intersect1d, [sound[table] for table in _CONCEPT_TABLES])
        self._ids = self._ids[self._ids > 0]
        self._greatest = max([int(ids.max(initial=0)) for ids in sound.values()])
        for table in wrong:
            homeless = np.setdiff1d(sound[table], self._ids)
            for key in codec.encode_ids(homeless):
                wrong[table][key] = self._missing_of(codec.decode_number(key), sound)
            self._take_out(table, wrong[table])
        self._sift_edges()

    def sift_shortterm(self) -> None:
        """Take out the whole short-term table if one of its columns is not sound."""
        wrong = self._wrong_in("shortterm")
        if wrong:
            others = "its columns belong together, and another one is not sound"
            names = self._transaction.cursor(db=self._tables.shortterm).iternext(values=False)
            self._take_out("shortterm", dict.fromkeys(names, others) | wrong)

    def sift_alias_records(self) -> None:
        """Take out aliases that are not sound."""
        self._take_out(codec.ALIAS, self._wrong_in(codec.ALIAS))

    def sift_aliases(self) -> None:
        """Take out aliases that break a rule."""
        ids, targets = read_aliases(self._transaction, self._tables)
        wrong: dict[bytes, str] = {}
        for found, expected in wrong_aliases(ids, targets, self._ids):
            reason = f"expected {expected}, found another"
            wrong |= dict.fromkeys(codec.encode_ids(ids[found]), reason)
        self._take_out(codec.ALIAS, wrong)

    def sift_events(self, salvaged: bool) -> None:
        """Take out events that are not sound, and number the others without a gap."""
        self._take_out("evolution", self._wrong_in("evolution"))
        table = self._tables.evolution
        entries = list(self._transaction.cursor(db=table))
        numbers = codec.decode_ids(key for key, _ in entries)
        first = oldest_event(self._transaction, self._tables, numbers.tolist(), salvaged=salvaged)
        if first and first != self._number(codec.FIRST_EVENT):
            self._write(codec.FIRST_EVENT, first, f"the number of the oldest event: {first}")
        expected = np.arange(first, first + len(entries), dtype=np.uint64)
        if not np.array_equal(numbers, expected):
            rows = codec.decode_records(
                "evolution", numbers, (record for _, record in entries), EVENT
            )
            self._transaction.drop(table, delete=False)
            records = codec.encode_rows("evolution", expected, rows)
            keys = codec.encode_ids(expected)
            self._transaction.cursor(db=table).putmulti(list(zip(keys, records, strict=True)))
            self._rebuilt(f"the numbers of {len(entries)} events")

    def sift_system(self, salvaged: bool) -> None:
        """Take out settings that are not sound; make the counters and the identity anew."""
        self._take_out("sys", self._wrong_in("sys"))
        system = self._tables.sys
        identity = self._transaction.get(codec.UUID, db=system)
        if identity is None or len(identity) != 32 + checksum.SIZE:
            record = uuid.uuid4().hex.encode()
            self._transaction.put(codec.UUID, checksum.seal("sys", codec.UUID, record), db=system)
            self._rebuilt("the identity, which was lost: the memory has a new one")
            self.done.lost.append("the identity: the memory has a new one")
        if self._number(codec.EDGE_COUNT) != self._edges:
            self._write(codec.EDGE_COUNT, self._edges, f"the count of edges: {self._edges}")
        if self._number(codec.SNAPSHOT) is None:
            latest = max([self._transaction.id(), *self._numbers_of("snapshot")])
            self._write(codec.SNAPSHOT, latest, "the number of the last snapshot")
        self._derive_clock(salvaged)

    def finish(self, latest: int, salvaged: bool) -> None:
        """Make a generation with a log of its own, if anything was changed."""
        generation = self._number(codec.GENERATION)
        if generation is None or not self._is_log_sound(generation):
            known = [generation or 0, self._number(codec.SNAPSHOT_GENERATION) or 0, latest]
            generation = max(*known, *self._numbers_of("log"), self._transaction.id())
            self._rebuilt("the log")
        if generation < latest:
            self._rebuilt(f"generation {generation}: those after it, to {latest}, are lost")
            self.done.lost.append(f"what generations {generation + 1} to {latest} changed")
        if not self._is_manifest_sound(generation):
            self._rebuilt("the snapshot")
        if salvaged or self.done.moved or self.done.rebuilt:
            self._drop_snapshot()
            # The entry before this one is missing, so that no reader replays: it reads all anew.
            generation = max(generation, latest) + 2
            self._transaction.drop(self._tables.log, delete=False)
            record = codec.encode_log(generation, codec.LogEntry(*[_NO_IDS] * 5))
            self._transaction.put(codec.encode_number(generation), record, db=self._tables.log)
            write_number(self._transaction, self._tables, codec.GENERATION, generation)
        self.done.generation = generation

    def _derive_clock(self, salvaged: bool) -> None:
        """Make lost counters of the caller anew."""
        meta = self._transaction.cursor(db=self._tables.meta)
        stats = codec.decode_records("meta", self._ids, meta.iternext(keys=False), STATS)
        latest = {
            b"next_id": self._greatest + 1,
            b"epoch": int(stats["epoch"].max(initial=0)),
            b"tick": int(stats["tick"].max(initial=0)),
        }
        present = {name for name in latest if self._transaction.get(name, db=self._tables.sys)}
        taken = {each.key for each in self.done.moved if each.table == "sys"}
        lost = latest.keys() - present
        # Only a damaged page can have taken one without leaving it; then another is still there.
        if not (salvaged and present - {b"epoch"}):
            lost &= taken
        for name in sorted(lost):
            record = checksum.seal("sys", name, str(latest[name]).encode())
            self._transaction.put(name, record, db=self._tables.sys)
            self._rebuilt(f"the setting {name.decode()}: {latest[name]}")

    def _sift_edges(self) -> None:
        """Take out edges that break a rule; count the others."""
        entries = self._transaction.cursor(db=self._tables.adjacency)
        sources = codec.decode_ids(entries.iternext(values=False))
        counts, edges = codec.decode_edges(sources, entries.iternext(keys=False))
        owners = np.repeat(sources, counts)
        wrong = np.zeros(len(edges), np.bool_)
        for found, expected in wrong_edges(owners, edges, self._ids):
            self._record_edges(owners, edges, found & ~wrong, expected)
            wrong |= found
        self._edges = int((~wrong).sum())
        for source in np.unique(owners[wrong]).tolist():
            first = int(np.searchsorted(owners, np.uint64(source)))
            last = int(np.searchsorted(owners, np.uint64(source), side="right"))
            row = slice(first, last)
            kept = edges[row][~wrong[row]]
            one = np.array([source], np.uint64)
            (record,) = codec.encode_edges(one, np.array([len(kept)], np.int64), kept)
            key = codec.encode_number(source)
            if record:
                self._transaction.put(key, record, db=self._tables.adjacency)
            else:
                self._transaction.delete(key, db=self._tables.adjacency)

    def _record_edges(
        self,
        owners: Ids,
        edges: NDArray[np.void],
        wrong: NDArray[np.bool_],
        expected: str,
    ) -> None:
        for row in np.flatnonzero(wrong).tolist():
            reason = f"expected {expected}, got an edge to {edges['target'][row]}"
            key = codec.encode_number(int(owners[row]))
            self.done.moved.append(Moved("adjacency", key, edges[row].tobytes(), reason))

    def _is_log_sound(self, generation: int) -> bool:
        numbers = self._numbers_of("log")
        count = len(numbers)
        if numbers != list(range(generation - count + 1, generation + 1)):
            return False
        if generation and not count:
            return False
        try:
            for key, record in self._transaction.cursor(db=self._tables.log):
                codec.decode_log(codec.decode_number(key), record)
        except StoreCorruptError:
            return False
        return True

    def _is_manifest_sound(self, generation: int) -> bool:
        entries = list(self._transaction.cursor(db=self._tables.snapshot))
        shown = self._number(codec.SNAPSHOT_GENERATION)
        if not entries:
            return shown is None
        numbers = [codec.decode_number(key) for key, _ in entries]
        if numbers != [self._number(codec.SNAPSHOT)] or shown is None or shown > generation:
            return False
        return not self._wrong_in("snapshot")

    def _drop_snapshot(self) -> None:
        self._transaction.drop(self._tables.snapshot, delete=False)
        self._transaction.delete(codec.SNAPSHOT_GENERATION, db=self._tables.sys)
        number = read_number(self._transaction, self._tables, codec.SNAPSHOT)
        write_number(self._transaction, self._tables, codec.SNAPSHOT, number + 1)

    def _wrong_in(self, table: str) -> dict[bytes, str]:
        """Return the keys of the records that are not sound, and why."""
        entries = self._transaction.cursor(db=getattr(self._tables, table))
        return dict(unsound_records(table, entries, self._width))

    def _ids_in(self, table: str, wrong: dict[bytes, str]) -> Ids:
        keys = self._transaction.cursor(db=getattr(self._tables, table)).iternext(values=False)
        return codec.decode_ids(key for key in keys if key not in wrong)

    def _missing_of(self, concept_id: int, sound: dict[str, Ids]) -> str:
        missing = [
            table
            for table in _CONCEPT_TABLES
            if not np.isin(np.uint64(concept_id), sound[table], assume_unique=True)
        ]
        lost = ", ".join(missing) if missing else "an id above 0"
        return f"expected a whole concept, found it without a sound record in: {lost}"

    def _take_out(self, table: str, wrong: dict[bytes, str]) -> None:
        database = getattr(self._tables, table)
        for key, reason in wrong.items():
            record = self._transaction.pop(key, db=database)
            if record is not None:
                self.done.moved.append(Moved(table, key, record, reason))

    def _number(self, name: bytes) -> int | None:
        return number_or_none(self._transaction, self._tables, name)

    def _numbers_of(self, table: str) -> list[int]:
        keys: Iterable[bytes] = self._transaction.cursor(db=getattr(self._tables, table)).iternext(
            values=False
        )
        return [codec.decode_number(key) for key in keys if len(key) == 8]

    def _write(self, name: bytes, number: int, what: str) -> None:
        write_number(self._transaction, self._tables, name, number)
        self._rebuilt(what)

    def _rebuilt(self, what: str) -> None:
        self.done.rebuilt.append(what)
