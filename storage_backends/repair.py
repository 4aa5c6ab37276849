"""Repairs a damaged memory: what can be derived is made anew, what cannot is put aside.

Records that are not sound are moved to a file of the directory. Where the pages of the data file
are damaged, what can still be read goes into the next folder, and the damaged one is kept until
somebody removes it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np

from storage_backends import checksum, codec, folders, layout, opening, snapshot, trust
from storage_backends.engine import Engine
from storage_backends.errors import (
    NotAStoreError,
    StoreCorruptError,
    StoreLockedError,
    StoreSchemaError,
)
from storage_backends.examination import examine, page_problems, snapshot_trouble
from storage_backends.lmdb_errors import translate
from storage_backends.lmdb_store import LMDBStore
from storage_backends.locks import WriterLock
from storage_backends.opening import MAP_SIZE, OpenMode, Tables, Transaction
from storage_backends.progress import Progress, silent
from storage_backends.salvage import DataFile, Found
from storage_backends.sifting import Moved, sift
from storage_backends.types import EDGE, Problem

#: Records written in one transaction.
_PORTION = 50_000


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
    quarantine : str or None
        Name of the file that holds what was taken out.
    kept : str or None
        Name of the folder that holds the damaged data file.
    problems : tuple of Problem
        What is still wrong; empty where the memory is sound now.
    """

    directory: str
    folder: str
    damage: tuple[str, ...]
    rebuilt: tuple[str, ...]
    moved: tuple[MovedRecord, ...]
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
        If nothing of the data file can be read.
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
        damage=tuple(work.damage),
        rebuilt=tuple(work.rebuilt),
        moved=tuple(MovedRecord(each.table, each.where, each.reason) for each in work.moved),
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
        raise NotAStoreError(f"{directory}: expected a memory directory, found no {layout.DATA}")
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


def _sift(work: _Work, folder: Path, damaged: Path) -> None:
    """Part the sound records in a folder from the others; its file then is as it is stamped."""
    stamp = trust.read_stamp(damaged)
    latest = stamp.generation if stamp is not None and stamp.durable else 0
    with _writing(folder) as (transaction, tables):
        sifted = sift(transaction, tables, latest, salvaged=folder != damaged)
        # On the disk before the records are gone.
        _write_quarantine(work, [*work.moved, *sifted.moved])
    trust.write_stamp(folder, sifted.generation, durable=True)
    work.moved += sifted.moved
    work.rebuilt += sifted.rebuilt


def _write_quarantine(work: _Work, moved: Sequence[Moved]) -> None:
    if not moved:
        return
    path = work.directory / f"quarantine-{work.name}.jsonl"
    lines = [
        json.dumps(
            {
                "table": each.table,
                "key": each.where,
                "reason": each.reason,
                "key_base64": base64.b64encode(each.key).decode(),
                "base64": base64.b64encode(each.record).decode(),
            }
        )
        for each in moved
    ]
    try:
        layout.replace_file(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise layout.translate(error, path, "to put aside what is damaged") from error
    work.quarantine = path.name


def _salvage(work: _Work, folder: Path) -> None:
    """Write what can be read of a damaged data file into the next folder."""
    with suppress(NotAStoreError, StoreCorruptError):
        folders.remove_leftovers(work.directory)
    size = (folder / layout.DATA).stat().st_size
    with folders.next_folder(work.directory, folder) as made:
        folders.require_room(made, size)
        _make_tables(made)
        with DataFile(folder / layout.DATA) as source:
            _copy_found(work, source, made)
            work.damage += source.damage
        _sift(work, made, folder)
        _keep(work, folder)
        folders.adopt(work.directory, made)
    folders.remove_leftovers(work.directory)
    work.rebuilt.append("the data file, from what could be read")


def _make_tables(folder: Path) -> None:
    opening.initialise(folder, {codec.SCHEMA: str(codec.SCHEMA_VERSION).encode()})


def _copy_found(work: _Work, source: DataFile, folder: Path) -> None:
    found, count = source.records(), 0
    while portion := list(islice(found, _PORTION)):
        with _writing(folder) as (transaction, tables):
            for each in portion:
                work.moved += _put(transaction, tables, each)
        count += len(portion)
        work.progress("reading what is left", count, 0)


def _put(transaction: Transaction, tables: Tables, found: Found) -> Iterator[Moved]:
    table = found.table if found.table in codec.TABLES else _table_of(found)
    if (table, found.key) == ("sys", codec.SCHEMA):
        _require_this_schema(found.record)
    elif table not in codec.TABLES or not 0 < len(found.key) <= codec.MAX_NAME_BYTES:
        yield Moved(table, found.key, found.record, "expected a record of a table, got another")
    elif not transaction.put(found.key, found.record, db=getattr(tables, table), overwrite=False):
        yield Moved(table, found.key, found.record, "expected one record of this key, got two")


def _require_this_schema(record: bytes) -> None:
    if record.isdigit() and int(record) != codec.SCHEMA_VERSION:
        raise StoreSchemaError(
            f"sys[schema]: expected {codec.SCHEMA_VERSION}, got {int(record)}: written by another "
            "release, which must repair it"
        )


def _table_of(found: Found) -> str:
    """Return the table that a record's checksum tells, empty where it tells none."""
    if found.key == codec.SCHEMA:
        return "sys"
    return next((table for table in codec.TABLES if _is_of(table, found.key, found.record)), "")


def _is_of(table: str, key: bytes, record: bytes) -> bool:
    body, found = record[: -checksum.SIZE], record[-checksum.SIZE :]
    if table not in ("key", "value", "meta", "adjacency", "evolution"):
        with suppress(StoreCorruptError):
            checksum.unseal(table, key, record)
            return True
        return False
    if len(key) != 8:
        return False
    ids, row = codec.decode_ids([key]), np.frombuffer(body, np.uint8)
    if table == "adjacency":
        if len(body) % EDGE.itemsize:
            return False
        items = row.reshape(-1, EDGE.itemsize)
        return checksum.of_lists(table, ids, np.array([len(items)]), items).tobytes() == found
    return checksum.of_rows(table, ids, row[None]).tobytes() == found


def _keep(work: _Work, folder: Path) -> None:
    """Give the damaged data file a second name, under which nothing removes it."""
    kept = work.directory / f"damaged-{work.name}"
    try:
        kept.mkdir()
        try:
            os.link(folder / layout.DATA, kept / layout.DATA)
        except OSError:  # a file system without second names
            shutil.copyfile(folder / layout.DATA, kept / layout.DATA)
        layout.sync_folder(kept)
        layout.sync_folder(work.directory)
    except OSError as error:
        raise layout.translate(error, kept, "to keep the damaged data file") from error
    work.kept = kept.name


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
