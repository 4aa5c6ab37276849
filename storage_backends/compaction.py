"""Compaction: the next folder of a memory, without free pages, tombstones and old events.

The present folder is not touched until ``CURRENT`` names the next one, so that a crash at any
instant leaves one or the other. Readers go on reading the old files until they follow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from storage_backends import folders, layout, locks
from storage_backends.copying import blaming, copy_records
from storage_backends.engine import Engine
from storage_backends.errors import StoreCorruptError, StoreLockedError, StoreUsageError
from storage_backends.faiss_index import EXACT_BELOW
from storage_backends.lmdb_read import read_settings
from storage_backends.lmdb_store import LMDBStore
from storage_backends.locks import WriterLock
from storage_backends.opening import Tables, Transaction
from storage_backends.progress import Progress, silent
from storage_backends.recovery import from_snapshot
from storage_backends.staleness import EDGES_FOR_ONE
from storage_backends.thinning import Surplus, surplus_of, thin
from storage_backends.types import Problem, StoreStats

#: Bytes of a seed graph for each concept: its neighbours on the lowest layer, and a few above.
_GRAPH_BYTES = 300
#: The setting that says how many events a memory keeps, a number in ASCII.
_MOST_EVENTS = "max_events"
#: Beside the next folder, while the records are copied that are to be thinned.
_WHOLE = "whole"


@dataclass(frozen=True)
class Figures:
    """How large a memory is.

    Parameters
    ----------
    data_bytes, snapshot_bytes, total_bytes : int
        Bytes on disk of ``data.mdb``, of the snapshot, and of all files of the directory.
    concepts, edges, aliases, events, log_entries : int
    tombstones : int
        Concepts that were removed and still have a slot in the snapshot.
    """

    data_bytes: int
    snapshot_bytes: int
    total_bytes: int
    concepts: int
    tombstones: int
    edges: int
    aliases: int
    events: int
    log_entries: int


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did, or would do.

    Parameters
    ----------
    directory : str
    dry_run : bool
        Whether nothing was done, and ``after`` is what is expected.
    done : bool
        Whether the memory was compacted; in a dry run, whether it would be.
    reason : str
        Why not; empty otherwise.
    folder : str
        Name of the folder in use at the end.
    before, after : Figures
    needed_bytes, available_bytes : int
        Room that it takes while it runs, and that there was.
    removed : tuple of str
        What was left of an interrupted compaction, and was removed.
    verified : bool
        Whether every record of the result was examined.
    problems : tuple of Problem
        What that found. Where there is any, the memory was left as it was.
    seconds : float
    """

    directory: str
    dry_run: bool
    done: bool
    reason: str
    folder: str
    before: Figures
    after: Figures
    needed_bytes: int
    available_bytes: int
    removed: tuple[str, ...]
    verified: bool
    problems: tuple[Problem, ...]
    seconds: float


class _Plan(NamedTuple):
    """What a compaction will do."""

    before: Figures
    after: Figures
    most_events: int | None
    surplus: Surplus
    room: int  # bytes that it takes while it runs


def expect(directory: str | os.PathLike[str], *, most_events: int | None = None) -> CompactReport:
    """Say what `compact` would do now, without doing it; a writer may be at work.

    Parameters
    ----------
    directory : path
    most_events : int, optional
        As for `compact`.

    Raises
    ------
    StoreError
        If the path is not a memory, or cannot be read.
    """
    _require_events(most_events)
    path = Path(os.path.realpath(directory))
    return folders.in_place(path, lambda: _expect(path, most_events))


def _expect(directory: Path, most_events: int | None) -> CompactReport:
    begin = time.monotonic()
    with closing(LMDBStore.open(directory, read_only=True, create=False)) as store:
        report = _foretell(store, _plan(store, most_events))
        writer = locks.writer_of(store.directory / layout.WRITER_LOCK)
    reason = ""
    if writer is not None:
        reason = f"the memory is open for writing by {writer}"
    elif report.available_bytes < report.needed_bytes:
        reason = f"there is no room for {report.needed_bytes:,} bytes"
    return replace(report, done=not reason, reason=reason, seconds=time.monotonic() - begin)


def _require_events(most: int | None) -> None:
    if most is not None and most < 1:
        raise StoreUsageError(f"most_events: expected 1 or more, got {most}")


def _foretell(store: LMDBStore, plan: _Plan) -> CompactReport:
    return CompactReport(
        directory=str(store.directory),
        dry_run=True,
        done=True,
        reason="",
        folder=store.folder.name,
        before=plan.before,
        after=plan.after,
        needed_bytes=folders.with_margin(plan.room),
        available_bytes=folders.room_in(store.directory),
        removed=(),
        verified=False,
        problems=(),
        seconds=0.0,
    )


def compact(
    directory: str | os.PathLike[str],
    *,
    wait: float = 0.0,
    verify: bool = False,
    most_events: int | None = None,
    progress: Progress = silent,
) -> CompactReport:
    """Compact a memory that nobody has open for writing; readers may be at work.

    Parameters
    ----------
    directory : path
        The memory.
    wait : float
        Seconds to wait for a writer to close it, 0 or more.
    verify : bool
        Examine every record of the result before it is used.
    most_events : int, optional
        Events to keep, the last ones, 1 or more; where None, as many as the setting
        ``max_events`` of the memory says, or all.
    progress : callable
        Told of each step.

    Raises
    ------
    StoreLockedError
        If a writer has it open; it is named.
    StoreFullError
        If there is no room. The memory is as it was.
    StoreError
        If the path is not a memory, or is damaged, or cannot be written. The memory is as it was.
    """
    _require_events(most_events)
    begin = time.monotonic()
    removed = tuple(path.name for path in folders.leftovers(Path(os.path.realpath(directory))))
    with closing(LMDBStore.open(directory, create=False, lock_timeout=wait)) as store:
        plan = _plan(store, most_events)
        report = _foretell(store, plan)
        problems = _compact(store, plan, verify, progress)
        report = replace(
            report,
            dry_run=False,
            done=not problems,
            reason="the result would be damaged, as the memory is" if problems else "",
            removed=removed,
            verified=verify,
            problems=problems,
        )
    if not problems:
        _remove_old(store.directory)
    with closing(LMDBStore.open(directory, read_only=True, create=False)) as made:
        return replace(
            report,
            folder=made.folder.name,
            after=figures_of(made),
            seconds=time.monotonic() - begin,
        )


def figures_of(store: LMDBStore) -> Figures:
    """Return how large a memory is."""
    sizes, newest = store.stats(), store.manifest()
    shown = from_snapshot(store) if newest is not None else None
    files = dict(folders.files_of(store.directory))
    named = (
        set()
        if shown is None or shown.footing is None
        else {f"{store.folder.name}/{file.name}" for file in shown.footing.manifest.files}
    )
    return Figures(
        data_bytes=files.get(f"{store.folder.name}/{layout.DATA}", 0),
        snapshot_bytes=sum(files.get(name, 0) for name in named),
        total_bytes=sum(files.values()),
        concepts=sizes.concepts,
        tombstones=shown.view.dead if shown is not None else 0,
        edges=sizes.edges,
        aliases=sizes.aliases,
        events=sizes.events,
        log_entries=sizes.log_entries,
    )


def _plan(store: LMDBStore, most_events: int | None) -> _Plan:
    before = figures_of(store)
    with folders.environment_of(store.folder) as env:
        if most_events is None:
            most_events = _stored_limit(env.read(read_settings))
        used = env.read(folders.used_bytes)
        surplus = env.read(lambda txn, tables: surplus_of(txn, tables, most_events))
        data = used - env.read(lambda txn, tables: _surplus_bytes(txn, tables, surplus))
        snapshot = env.read(lambda txn, tables: _snapshot_bytes(txn, tables, before))
    others = before.total_bytes - before.data_bytes - before.snapshot_bytes
    after = replace(
        before,
        data_bytes=data,
        snapshot_bytes=snapshot,
        total_bytes=others + data + snapshot,
        tombstones=0,
        aliases=before.aliases - surplus.aliases,
        events=before.events - surplus.events,
    )
    # What is to be thinned is copied twice, before there is a snapshot.
    room = data + max(snapshot, used if any(surplus) else 0)
    return _Plan(before, after, most_events, surplus, room)


def _stored_limit(settings: Mapping[str, bytes]) -> int | None:
    """Return how many events the memory keeps; None where it does not say it."""
    text = settings.get(_MOST_EVENTS, b"")
    return int(text) if text.isdigit() and int(text) else None


def _surplus_bytes(transaction: Transaction, tables: Tables, surplus: Surplus) -> int:
    """Return about how many bytes the records take that are left out."""
    size = 0
    for table, count in ((tables.evolution, surplus.events), (tables.alias, surplus.aliases)):
        if table is not None and count:
            entries = transaction.stat(table)["entries"]
            size += folders.table_bytes(transaction, table) * count // entries
    return size


def _snapshot_bytes(transaction: Transaction, tables: Tables, before: Figures) -> int:
    """Return about how large a snapshot will be."""
    slots = before.concepts + before.tombstones
    if before.concepts <= EXACT_BELOW and before.edges <= EDGES_FOR_ONE * EXACT_BELOW:
        return 0
    if before.snapshot_bytes:
        return before.snapshot_bytes * before.concepts // slots
    # The columns hold what four of the tables hold.
    columns = (tables.key, tables.value, tables.meta, tables.adjacency)
    graph = before.concepts * _GRAPH_BYTES if before.concepts > EXACT_BELOW else 0
    return sum(folders.table_bytes(transaction, table) for table in columns) + graph


def _compact(
    store: LMDBStore, plan: _Plan, verify: bool, progress: Progress
) -> tuple[Problem, ...]:
    """Make the next folder and adopt it, unless it has problems; return those."""
    with folders.next_folder(store.directory, store.folder) as folder:
        folders.require_room(folder, plan.room)
        if any(plan.surplus):
            _copy_thinned(store, folder, plan.most_events, progress)
        else:
            copy_records(store, folder, with_snapshot=False, progress=progress)
        layout.publish(folder)  # within the directory of its own, so that it can be opened
        try:
            sizes = _sizes_without(store.stats(), plan.surplus)
            problems = _finish(folder.parent, sizes, verify, progress)
        except StoreCorruptError as error:
            raise blaming(store, error) from error
        if not problems:
            folders.adopt(store.directory, folder, store.folder)
        return problems


def _copy_thinned(
    store: LMDBStore, folder: Path, most_events: int | None, progress: Progress
) -> None:
    """Copy the records without those that are left out."""
    # In two steps: what is removed from a file leaves free pages in it.
    whole = folder.with_name(_WHOLE)
    whole.mkdir()
    copy_records(store, whole, with_snapshot=False, progress=progress)
    with folders.environment_of(whole, writable=True) as env:
        env.write(lambda txn, tables: thin(txn, tables, most_events))
        env.copy_to(folder, compact=True)
    folders.remove(whole)


def _sizes_without(sizes: StoreStats, surplus: Surplus) -> StoreStats:
    return replace(
        sizes,
        aliases=sizes.aliases - surplus.aliases,
        events=sizes.events - surplus.events,
        first_event=sizes.first_event + surplus.events,
    )


def _finish(work: Path, sizes: StoreStats, verify: bool, progress: Progress) -> tuple[Problem, ...]:
    """Give the copied records a snapshot, and compare them with what they are copied from."""
    with closing(Engine(LMDBStore.open(work, create=False))) as engine:
        progress("building the snapshot", 0, 0)
        engine.rebuild()
        progress("building the snapshot", 1, 1)
        problems: list[Problem] = []
        if verify:
            progress("verifying", 0, 0)
            problems += engine.verify()
            progress("verifying", 1, 1)
        found = engine.store.stats()
        if replace(found, file_bytes=sizes.file_bytes) != sizes:
            problems.append(Problem("sys", "", f"expected {sizes}, got {found}"))
        return tuple(problems)


def _remove_old(directory: Path) -> None:
    """Remove the folder that was in use, unless a new writer is doing so."""
    try:
        lock = WriterLock.acquire(directory / layout.WRITER_LOCK)
    except StoreLockedError:
        return
    try:
        folders.remove_leftovers(directory)
    finally:
        lock.release()
