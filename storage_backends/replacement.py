"""Puts the records of a copy in the place of those of a memory, in one step.

The next folder is made from the copy and ``CURRENT`` names it at the end, as in a compaction: after
a crash at any instant the memory is the one or the other, and readers go on reading the old files
until they follow. What says which memory it is, and which state of it, does not go back: its uuid
stays, and the generation and the settings that count on are beyond those of both. So whoever saw
the memory before notices that it is another one, and no id is given twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from storage_backends import checksum, codec, folders, kept_packs, layout, lmdb_read, lmdb_write
from storage_backends.copying import copy_records, packs_carried
from storage_backends.errors import (
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUsageError,
)
from storage_backends.examination import examine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.opening import Tables, Transaction
from storage_backends.progress import Progress, silent
from storage_backends.recovery import Shown, publish, recover
from storage_backends.types import StoreStats

#: The setting that says which id is given next, a number in ASCII.
_NEXT_ID = "next_id"
#: The setting, and the entry of the short-term table, that says how often that was stored.
_SAVES = "saves"


@dataclass(frozen=True)
class RestoreReport:
    """What `restore` did, or would do.

    Parameters
    ----------
    source, directory : str
        The copy, and the memory.
    dry_run : bool
        Whether nothing was done, and ``after`` is what is expected.
    is_same_memory : bool
        Whether the copy is of this memory, at some time, and not of another one.
    before, after : StoreStats
        Sizes of the memory; after a restore its generation is beyond those of both.
    seconds : float
    """

    source: str
    directory: str
    dry_run: bool
    is_same_memory: bool
    before: StoreStats
    after: StoreStats
    seconds: float


@dataclass(frozen=True)
class _Place:
    """What a memory keeps when other records take the place of its own."""

    uuid: str
    generation: int
    manifest_seq: int
    next_id: int
    saves: int
    keeps_packs: bool


def restore(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    wait: float = 0.0,
    dry_run: bool = False,
    progress: Progress = silent,
) -> RestoreReport:
    """Give a memory that nobody has open for writing the content of a copy; readers may be at work.

    Parameters
    ----------
    source : path
        The copy.
    directory : path
        The memory.
    wait : float
        Seconds to wait for a writer to close it, 0 or more.
    dry_run : bool
        Examine both and change nothing; a writer may be at work then.
    progress : callable
        Told of each step.

    Raises
    ------
    StoreLockedError
        If a writer has the memory open; it is named.
    StoreUsageError
        If the copy is the memory itself, or lies in it, or has keys of another width.
    StoreCorruptError
        If the copy or the memory is damaged.
    StoreFullError
        If there is no room.
    StoreError
        If one of them is no memory of this release, or cannot be read or written.
    """
    begin = time.monotonic()
    origin, path = Path(os.path.realpath(source)), Path(os.path.realpath(directory))
    layout.require_memory(path)
    require_source(origin, path, progress=progress)
    with (
        closing(LMDBStore.open(origin, read_only=True, create=False)) as copied,
        closing(LMDBStore.open(path, read_only=dry_run, create=False, lock_timeout=wait)) as store,
    ):
        before = store.stats()
        _require_width(store, copied)
        after = copied.stats() if dry_run else replace_records(store, copied, progress=progress)
        return RestoreReport(
            source=str(origin),
            directory=str(path),
            dry_run=dry_run,
            is_same_memory=store.uuid == copied.uuid,
            before=before,
            after=after,
            seconds=time.monotonic() - begin,
        )


def require_source(source: Path, directory: Path, *, progress: Progress = silent) -> None:
    """Check that a directory is a sound memory, and that another one can be restored from it.

    Every record is examined.

    Parameters
    ----------
    source : Path
        The copy, resolved.
    directory : Path
        The memory, resolved.
    progress : callable
        Told of each step.

    Raises
    ------
    StoreUsageError
        If it is the same memory, or lies in it.
    StoreCorruptError
        If it is damaged.
    StoreError
        If it is no memory of this release, or cannot be read.
    """
    folder = layout.require_memory(source)
    current = layout.current_folder(directory)
    same = current is not None and os.path.samefile(current / layout.DATA, folder / layout.DATA)
    if same or source.is_relative_to(directory):
        what = "the memory itself" if same else "a directory in it"
        raise StoreUsageError(f"{source}: expected a copy outside of the memory, got {what}")
    found = examine(source, progress=progress).problems
    problems = [problem for problem in found if problem.table != kept_packs.TABLE]
    if problems:
        more = f" and {len(problems) - 1} more problem(s)" if problems[1:] else ""
        raise StoreCorruptError(
            f"{source}: expected a sound memory, found {problems[0]}{more}; "
            f"`python -m tools.verify {source}` lists all"
        )


def replace_records(
    store: LMDBStore, source: LMDBStore, *, next_id: int = 0, progress: Progress = silent
) -> StoreStats:
    """Put the records of another memory in the place of those of an open one, durably.

    The handle shows them when this returns. Other handles, and readers in other processes, follow.
    Where an error is raised the memory is as it was, but for one after the last step: then it has
    the other records, and so has the handle.

    Parameters
    ----------
    store : LMDBStore
        One that may write. Nothing else of its process writes meanwhile.
    source : LMDBStore
        The last commit of it is copied.
    next_id : int
        The first id that may be given, if the memory has not stored that yet.
    progress : callable
        Told of each step.

    Returns
    -------
    StoreStats
        Sizes of the memory now.

    Raises
    ------
    StoreReadOnlyError
        If the store may not write.
    StoreUsageError
        If the source has keys of another width.
    StoreFullError
        If there is no room.
    StoreError
        If something cannot be read or written.
    """
    if store.read_only:
        raise StoreReadOnlyError(f"{store.directory}: expected a handle that may write")
    if not store.is_current():
        raise StoreError(
            f"{store.directory}: expected the memory that was opened there, but it was moved, "
            "deleted or replaced"
        )
    _require_width(store, source)
    place = _place_of(store, next_id)
    with (
        _packs_of_either(store),
        folders.next_folder(store.directory, store.folder) as folder,
    ):
        with packs_carried(source, folder, store.directory):
            copy_records(source, folder, with_snapshot=True, progress=progress)
        layout.publish(folder)  # within the directory of its own, so that it can be opened
        progress("numbering the records", 0, 0)
        with closing(LMDBStore.open(folder.parent, create=False)) as made:
            _number_anew(made, place)
        progress("numbering the records", 1, 1)
        try:
            _adopt(store, folder)
        finally:
            with suppress(StoreError):  # the next writer does it then
                folders.remove_leftovers(store.directory)
    return store.stats()


@contextmanager
def _packs_of_either(store: LMDBStore) -> Iterator[None]:
    """Keep the files of the packs that a memory has after the block, and no others."""
    try:
        yield
    finally:
        with folders.environment_of(store.folder) as env:
            kept_packs.sweep(store.directory, lambda: env.read(lmdb_read.read_settings))


def _adopt(store: LMDBStore, folder: Path) -> None:
    """Let ``CURRENT`` name a finished folder, and the handle go there, whatever comes between."""
    try:
        try:
            folders.adopt(store.directory, folder, store.folder)
        finally:
            _follow(store, folder.name)
    except BaseException:  # an interrupt, perhaps
        _follow(store, folder.name)
        raise


def _follow(store: LMDBStore, name: str) -> None:
    """Move a handle to the folder of a name, if it is in use."""
    if layout.current_folder(store.directory) == store.directory / name:
        store.enter(store.directory / name)


def _require_width(store: LMDBStore, source: LMDBStore) -> None:
    """Check that the keys of two memories are of one width, where both have any."""
    held, got = _width_of(store), _width_of(source)
    if held and got and held != got:
        raise StoreUsageError(
            f"{source.directory}: expected keys of width {held}, as in {store.directory}, got {got}"
        )


def _width_of(store: LMDBStore) -> int:
    """Return the width of the keys in a store, 0 where there are none."""
    with folders.environment_of(store.folder) as env:
        return env.read(_read_width)


def _read_width(transaction: Transaction, tables: Tables) -> int:
    cursor = transaction.cursor(db=tables.key)
    return codec.width_of(cursor.value()) if cursor.first() else 0


def _place_of(store: LMDBStore, next_id: int) -> _Place:
    with folders.environment_of(store.folder) as env:
        settings = env.read(lmdb_read.read_settings)
    return _Place(
        uuid=store.uuid,
        generation=store.generation(),
        manifest_seq=store.manifest_seq(),
        next_id=max(next_id, _count_of(settings, _NEXT_ID)),
        saves=_count_of(settings, _SAVES),
        keeps_packs=kept_packs.SETTING in settings,
    )


def _count_of(settings: Mapping[str, bytes], name: str) -> int:
    stored = settings.get(name, b"0")
    if not stored.isdigit():
        raise StoreCorruptError(f"sys[{name}]: expected a number, got {stored[:40]!r}")
    return int(stored)


def _number_anew(made: LMDBStore, place: _Place) -> None:
    """Give copied records the numbers, and the identity, of the memory that they are for."""
    shown = recover(made)
    with folders.environment_of(made.folder, writable=True) as env:
        generation = env.write(lambda txn, tables: _write_numbers(txn, tables, place))
    if shown.footing is not None:
        _publish(made, shown, generation)


def _write_numbers(transaction: Transaction, tables: Tables, place: _Place) -> int:
    """Write the numbers, and a log that leads to no earlier commit; return the generation."""
    # One more than needed: the log of a store has its last generation, and that one changes
    # nothing since the one before, which nobody has seen.
    generation = 2 + max(place.generation, lmdb_read.read_generation(transaction, tables))
    seq = max(place.manifest_seq, lmdb_read.read_number(transaction, tables, codec.SNAPSHOT))
    lmdb_write.write_number(transaction, tables, codec.GENERATION, generation)
    lmdb_write.write_number(transaction, tables, codec.SNAPSHOT, seq)
    lmdb_write.publish(transaction, tables, b"", generation)
    transaction.drop(tables.log, delete=False)
    nothing = np.empty(0, np.uint64)
    entry = codec.encode_log(generation, codec.LogEntry(*[nothing] * len(fields(codec.LogEntry))))
    transaction.put(codec.encode_number(generation), entry, db=tables.log)
    _put(transaction, tables, "sys", codec.UUID, place.uuid)
    settings = lmdb_read.read_settings(transaction, tables)
    if next_id := max(place.next_id, _count_of(settings, _NEXT_ID)):
        _put(transaction, tables, "sys", _NEXT_ID.encode(), str(next_id))
    if saves := max(place.saves + bool(place.saves), _count_of(settings, _SAVES)):
        for table in ("sys", "shortterm"):
            _put(transaction, tables, table, _SAVES.encode(), str(saves))
    if place.keeps_packs and kept_packs.SETTING not in settings:
        # None, and not one that was lost: the files of those before are leftovers.
        _put(
            transaction, tables, "sys", kept_packs.SETTING.encode(), kept_packs.encode([]).decode()
        )
    return generation


def _put(transaction: Transaction, tables: Tables, table: str, name: bytes, text: str) -> None:
    sealed = checksum.seal(table, name, text.encode())
    transaction.put(name, sealed, db=getattr(tables, table))


def _publish(made: LMDBStore, shown: Shown, generation: int) -> None:
    """Write the snapshot that the copy came with as one of the new generation."""
    publish(made, replace(shown.view, generation=generation), shown.footing)
