"""Repairs a damaged memory: what can be derived is made anew, what cannot is put aside.

Records that are not sound are moved to a file of the directory. Where the pages of the data file
are damaged, what can still be read goes into the next folder, and the damaged one is kept until
somebody removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path

import lmdb

from storage_backends import (
    aside,
    codec,
    folders,
    kept_packs,
    layout,
    opening,
    rescue,
    snapshot,
    trust,
)
from storage_backends.engine import Engine
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreLockedError,
)
from storage_backends.examination import examine, page_problems, snapshot_trouble
from storage_backends.lmdb_errors import translate
from storage_backends.lmdb_store import LMDBStore
from storage_backends.locks import WriterLock
from storage_backends.opening import MAP_SIZE, OpenMode, Tables, Transaction
from storage_backends.progress import Progress, silent
from storage_backends.reckoning import Counts, count, estimate, losses
from storage_backends.restoring import Traces, manifests_in, names_in, put
from storage_backends.salvage import DataFile
from storage_backends.sifting import Moved, number_or_none, sift
from storage_backends.types import Problem

#: Records written in one transaction.
_PORTION = 50_000

#: Settings without which a memory is another one.
_SETTINGS = ("config", "next_id", "epoch", "tick")
_LIST_OF_PACKS = ("sys", kept_packs.SETTING.encode())
_UNKNOWN = Counts(None, None, None, None, None)


@dataclass(frozen=True)
class MovedRecord:
    """A record, or an edge, that was taken out.

    Parameters
    ----------
    table, key, reason : str
        Where it was and what is wrong with it. Its bytes are in the quarantine file.
    """

    table: str
    key: str
    reason: str


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did.

    Parameters
    ----------
    directory, folder : str
        The memory, and the name of the folder in use at the end.
    damage : tuple of str
        What was wrong with the pages of the data file; empty where only records were.
    rebuilt : tuple of str
        What was made anew.
    moved : tuple of MovedRecord
        What was taken out.
    before, after : Counts
        What it held, as far as that is known, and what it holds.
    lost : tuple of str
        What it held and does not hold any more, or may have held; empty where all was saved.
    quarantine : str or None
        Name of the file that holds what was taken out.
    kept : str or None
        Name of the folder that holds all files of the damaged folder.
    problems : tuple of Problem
        What is still wrong; empty where the memory is sound now.
    """

    directory: str
    folder: str
    damage: tuple[str, ...]
    rebuilt: tuple[str, ...]
    moved: tuple[MovedRecord, ...]
    before: Counts
    after: Counts
    lost: tuple[str, ...]
    quarantine: str | None
    kept: str | None
    problems: tuple[Problem, ...]


@dataclass
class _Work:
    """What has been done so far."""

    directory: Path
    progress: Progress
    name: str  # of what is put aside, by the time
    damage: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    before: Counts | None = None
    after: Counts | None = None
    lost: list[str] = field(default_factory=list)
    quarantine: str | None = None
    kept: str | None = None


def repair(
    directory: str | os.PathLike[str], *, wait: float = 0.0, progress: Progress = silent
) -> RepairReport:
    """Repair a memory that nobody has open for writing; readers may be at work.

    A sound memory is left as it is. The file must not be open in this process.

    Parameters
    ----------
    directory : path
        The memory.
    wait : float
        Seconds to wait for a writer to close it, 0 or more.
    progress : callable
        Told of each step.

    Raises
    ------
    StoreLockedError
        If a writer has it open; it is named.
    NotAStoreError
        If it holds no data file.
    StoreCorruptError
        If nothing of the data file can be read, and no snapshot lies beside it.
    StoreFullError, StoreError
        If the directory cannot be written.
    """
    path = Path(os.path.realpath(directory))
    layout.refuse_network_file_system(path)
    _newest_folder(path)
    lock = WriterLock.acquire(path / layout.WRITER_LOCK, wait)
    work = _Work(path, progress, _unused_name(path))
    try:
        _repair_records(work)
    finally:
        lock.release()
    _repair_snapshot(work)
    found = examine(path, progress=progress)
    return RepairReport(
        directory=str(path),
        folder=layout.require_memory(path).name,
        damage=tuple(dict.fromkeys(work.damage)),  # a salvage may tell the same again
        rebuilt=tuple(work.rebuilt),
        moved=tuple(MovedRecord(each.table, each.where, each.reason) for each in work.moved),
        before=work.before or _UNKNOWN,
        after=work.after or _UNKNOWN,
        lost=tuple(work.lost),
        quarantine=work.quarantine,
        kept=work.kept,
        problems=found.problems,
    )


def _unused_name(directory: Path) -> str:
    name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    while any(directory.glob(f"*-{name}*")):
        name += "+"  # in the same second as another
    return name


def _newest_folder(directory: Path) -> Path:
    """Return the folder in use, or, where ``CURRENT`` does not say it, the last one made."""
    with suppress(StoreCorruptError):
        folder = layout.current_folder(directory)
        if folder is not None:
            return folder
    made = sorted(path.parent for path in directory.glob(f"gen-[0-9]*/{layout.DATA}"))
    if not made:
        folder = next(iter(sorted(directory.glob("gen-[0-9]*/"), reverse=True)), directory)
        advice = ": restore a copy" if folder != directory else ""
        raise NotAStoreError(
            f"{folder}: expected a memory directory, found no {layout.DATA} in it{advice}"
        )
    return made[-1]


def _repair_records(work: _Work) -> None:
    folder = _newest_folder(work.directory)
    work.progress("examining the pages", 0, 0)
    work.damage += [problem.message for problem in page_problems(folder)]
    work.progress("examining the pages", 1, 1)
    if work.damage or not _has_tables(work, folder):
        _salvage(work, folder)
        return
    if not _is_current(folder):
        layout.publish(folder)
        work.rebuilt.append(f"{layout.CURRENT}, which names {folder.name} again")
    folders.remove_leftovers(work.directory)
    _sift(work, folder, folder)


def _has_tables(work: _Work, folder: Path) -> bool:
    try:
        with _writing(folder):
            return True
    except StoreCorruptError as error:
        work.damage.append(str(error))
        return False


@contextmanager
def _writing(folder: Path) -> Iterator[tuple[Transaction, Tables]]:
    """Give a write transaction on a data file whose pages are sound.

    An `Environment` would refuse a file with a record that is not.
    """
    env, tables = opening.open_tables_in(folder, OpenMode(True, True, MAP_SIZE))
    try:
        with env.begin(write=True) as transaction:
            yield transaction, tables
    except lmdb.Error as error:
        raise translate(error, folder / layout.DATA, "write") from error
    finally:
        env.close()


def _is_current(folder: Path) -> bool:
    with suppress(StoreCorruptError):
        return layout.current_folder(folder.parent) == folder
    return False


def _sift(
    work: _Work,
    folder: Path,
    damaged: Path,
    saved: rescue.Saved | None = None,
    entries: Mapping[str, int] | None = None,
) -> None:
    """Part the sound records in a folder from the others; its file then is as it is stamped."""
    stamp = trust.read_stamp(damaged)
    latest = stamp.generation if stamp is not None and stamp.durable else 0
    if saved is not None:
        latest = max(latest, saved.generation)
    with _writing(folder) as (transaction, tables):
        work.before = work.before or count(transaction, tables)
        fill = None
        if saved is not None:
            fill = partial(_fill, work, (transaction, tables), saved, entries or {}, latest)
        sifted = sift(transaction, tables, latest, salvaged=folder != damaged, fill=fill)
        work.after = count(transaction, tables)
        # On the disk before the records are gone.
        _put_aside(work, damaged, [*work.moved, *sifted.moved])
    trust.write_stamp(folder, sifted.generation, durable=True)
    work.moved += sifted.moved
    work.rebuilt += sifted.rebuilt
    work.lost += [*losses(work.before, work.after), *sifted.lost]
    if work.moved:
        work.lost.append(f"{len(work.moved):,} records or edges that were taken out")
    if any((each.table, each.key) == _LIST_OF_PACKS for each in work.moved):
        work.lost.append("the list of the packs that the memory keeps; their files stay in packs/")


def _put_aside(work: _Work, damaged: Path, moved: Sequence[Moved]) -> None:
    if moved:
        path = work.directory / f"quarantine-{work.name}.jsonl"
        aside.write_quarantine(path, moved, damaged / layout.DATA)
        work.quarantine = path.name


def _salvage(work: _Work, folder: Path) -> None:
    """Write what can be read of a damaged data file into the next folder."""
    with suppress(NotAStoreError, StoreCorruptError):
        folders.remove_leftovers(work.directory)
    size = sum(path.stat().st_size for path in folder.glob("*.*"))
    with folders.next_folder(work.directory, folder) as made:
        folders.require_room(made, size)
        opening.initialise(made, {codec.SCHEMA: str(codec.SCHEMA_VERSION).encode()})
        _restore(work, folder, made)
        work.kept = f"damaged-{work.name}"
        aside.keep(folder, work.directory / work.kept)
        folders.adopt(work.directory, made, folder)
    folders.remove_leftovers(work.directory)
    work.rebuilt.append("the data file, from what could be read")


def _restore(work: _Work, folder: Path, made: Path) -> None:
    """Fill a new file with what the damaged one and the snapshot beside it still hold."""
    entries, unreadable = _copy_readable(work, folder, made)
    traces = Traces(folder / layout.DATA)
    with _writing(made) as (transaction, tables):
        found = names_in(transaction, tables)
        work.rebuilt += [
            f"the setting {name}, found on a page of no known state"
            for name in traces.put_settings(transaction, tables)
        ]
        manifests = [*manifests_in(transaction, tables), *traces.manifests]
        kept, held = names_in(transaction, tables), transaction.stat(tables.key)["entries"]
        edges = number_or_none(transaction, tables, codec.EDGE_COUNT)
        work.lost += _shortterm_lost(transaction, tables, entries.get("shortterm"))
    saved = rescue.find(folder, manifests)
    if saved is None and (unreadable is not None or (held == 0 and "key" not in entries)):
        raise unreadable or _nothing_found(folder)
    concepts, shown = (None, None) if saved is None else (len(saved.concepts), len(saved.edges))
    work.before = estimate(entries, edges, concepts, shown)
    if entries.get("sys") != len(found):
        lost = [name for name in _names_of_settings(work.directory) if name not in kept]
        work.lost += [f"the settings {', '.join(lost)}, as far as there were any"] if lost else []
    _sift(work, made, folder, saved, entries)


def _names_of_settings(directory: Path) -> list[str]:
    """Return the settings without which a memory is another one."""
    packs = [kept_packs.SETTING] if any(directory.glob(f"{layout.PACKS}/*")) else []
    return [*_SETTINGS, *packs]


def _shortterm_lost(transaction: Transaction, tables: Tables, entries: int | None) -> Iterator[str]:
    """Say what is lost of the short-term table, of which a part is of no use."""
    found = transaction.stat(tables.shortterm)["entries"]
    if entries is None and not found:
        yield "the short-term memory, if there was one"
    elif entries is not None and found < entries:
        transaction.drop(tables.shortterm, delete=False)
        yield f"the short-term memory: {entries - found} of its {entries} columns"


def _nothing_found(folder: Path) -> StoreCorruptError:
    return StoreCorruptError(
        f"{folder / layout.DATA}: expected concepts, found none that can be told from old ones, "
        "and no snapshot beside it; nothing was changed: restore a copy"
    )


def _copy_readable(
    work: _Work, folder: Path, made: Path
) -> tuple[Mapping[str, int], StoreCorruptError | None]:
    """Copy the records that can be told; return how many there were, or why none can be told."""
    try:
        with DataFile(folder / layout.DATA) as source:
            _copy_found(work, source, made)
            work.damage += source.damage
            if not source.is_last and trust.read_stamp(folder) is None:
                work.lost.append("the last commit, if the damaged meta page was the newer one")
            return source.entries, None
    except StoreCorruptError as error:
        work.damage.append(str(error))
        return {}, error


def _copy_found(work: _Work, source: DataFile, folder: Path) -> None:
    found, count = source.records(), 0
    while portion := list(islice(found, _PORTION)):
        with _writing(folder) as (transaction, tables):
            for each in portion:
                work.moved += put(transaction, tables, each)
        count += len(portion)
        work.progress("reading what is left", count, 0)


def _fill(
    work: _Work,
    records: tuple[Transaction, Tables],
    saved: rescue.Saved,
    entries: Mapping[str, int],
    latest: int,
) -> None:
    concepts, edges = rescue.fill(*records, saved, entries)
    if concepts or edges:
        checked = "" if saved.checked else "; its manifest is lost, so it could not be compared"
        work.rebuilt.append(
            f"{concepts:,} concepts and {edges:,} edges, from the snapshot {saved.name} of "
            f"generation {saved.generation}, which holds no payloads{checked}"
        )
        if latest != saved.generation:
            work.lost.append(f"what was changed in them after generation {saved.generation}")


def _repair_snapshot(work: _Work) -> None:
    """Write a new snapshot where the old one is damaged, or was of other records."""
    try:
        store = LMDBStore.open(work.directory, create=False)
    except (StoreCorruptError, StoreLockedError):
        return  # which the examination tells, or a new writer does by itself
    with closing(store):
        stale = bool(work.rebuilt or work.moved)
        if snapshot_trouble(store):
            store.publish(b"", store.generation())
            snapshot.remove_strays(store.folder, None)
            work.rebuilt.append("the snapshot")
            stale = True
        if stale:
            work.progress("building the snapshot", 0, 0)
            Engine(store).rebuild()
            work.progress("building the snapshot", 1, 1)
